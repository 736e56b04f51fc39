/*
 * The disk, and by way of it what all devices have of PCI and of queues, driven as a guest's driver
 * does, with split and with packed rings.
 */
#include "dev/virtio/devices.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/test.h"
#include "dev/virtio/testguest.h"

#define DISK_BYTES  (1u << 20)
#define HEADER      GUEST_BUFFERS
#define STATUS      (GUEST_BUFFERS + 0x1000)
#define DATA        (GUEST_BUFFERS + 0x10000)
#define BLK_FLUSH   VIRTIO_BIT(9)
#define SPLIT       (BLK_FLUSH | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_RING_RESET)
#define PACKED      (SPLIT | VIRTIO_F_RING_PACKED)
#define WITH_EVENTS VIRTIO_F_EVENT_IDX

struct disk_guest {
    struct guest guest;
    struct block *disk;
    struct guest_device device;
    struct guest_ring ring;
    char path[32];
};

static bool disk_guest_new(struct test *t, struct disk_guest *d, bool readonly, unsigned queues)
{
    struct block_config block = {.readonly = readonly};
    struct virtio_blk_config config = {.serial = "serial-1", .queues = queues};
    struct virtio_device *device;
    int fd;

    strcpy(d->path, "virtio-test-XXXXXX");
    fd = mkstemp(d->path);
    if (!CHECK(t, fd >= 0) || !CHECK_EQ(t, ftruncate(fd, DISK_BYTES), 0))
        return false;
    close(fd);
    block.path = d->path;
    if (!CHECK_EQ(t, block_open(&block, &d->disk, NULL), 0) ||
        !CHECK_EQ(t, guest_new(&d->guest), 0))
        return false;
    config.mem = d->guest.mem;
    config.loop = d->guest.loop;
    config.disk = d->disk;
    if (!CHECK_EQ(t, virtio_blk_new(&config, &device, NULL), 0) ||
        !CHECK_EQ(t, virtio_pci_new(device, d->guest.root, 0, NULL), 0))
        return false;
    guest_assign(&d->guest);
    return CHECK_EQ(t, guest_probe(&d->guest, 1, &d->device), 0);
}

static void disk_guest_free(struct disk_guest *d)
{
    guest_free(&d->guest);
    block_close(d->disk);
    unlink(d->path);
}

static void disk_start(struct test *t, struct disk_guest *d, uint64_t features, uint16_t size)
{
    CHECK(t, guest_begin(&d->device, features));
    guest_msix(&d->device);
    guest_ring_init(&d->device, 0, size, &d->ring);
    guest_driver_ok(&d->device);
}

/* Runs one request; the status byte, or -1. `data` NULL: no data. */
static int disk_request(struct disk_guest *d, uint32_t type, uint64_t sector,
                        const struct guest_buffer *data)
{
    struct guest_buffer chain[3] = {{HEADER, 16, false}};
    unsigned count = 1;
    uint8_t header[16] = {0}, status = 0xee;

    store_le32(header, type);
    store_le64(header + 8, sector);
    if (mem_write(d->guest.mem, HEADER, header, 16) < 0 ||
        mem_write(d->guest.mem, STATUS, &status, 1) < 0)
        return -1;
    if (data)
        chain[count++] = *data;
    chain[count++] = (struct guest_buffer){STATUS, 1, true};
    guest_post(&d->ring, chain, count);
    guest_kick(&d->ring);
    if (guest_wait(&d->ring) < 0 || mem_read(d->guest.mem, STATUS, &status, 1) < 0)
        return -1;
    return status;
}

static void disk_round(struct test *t, struct disk_guest *d, unsigned round)
{
    const struct guest_buffer out = {DATA, 4096, false}, in = {DATA + 0x8000, 4096, true};
    uint8_t want[4096], got[4096];

    guest_pattern_fill(&d->guest, DATA, (uint8_t)round, sizeof want);
    CHECK_EQ(t, mem_fill(d->guest.mem, DATA + 0x8000, 0, sizeof got), 0);
    CHECK_EQ(t, disk_request(d, 1, round * 8, &out), 0);
    CHECK_EQ(t, disk_request(d, 4, 0, NULL), 0);
    CHECK_EQ(t, disk_request(d, 0, round * 8, &in), 0);
    CHECK_EQ(t, mem_read(d->guest.mem, DATA, want, sizeof want), 0);
    CHECK_EQ(t, mem_read(d->guest.mem, DATA + 0x8000, got, sizeof got), 0);
    CHECK_MEM(t, got, want, sizeof want);
}

/* 100 rounds of three requests wrap a ring of 16 many times. */
static void disk_rounds(struct test *t, uint64_t features, uint16_t size)
{
    struct disk_guest d;

    if (!disk_guest_new(t, &d, false, 1))
        return;
    disk_start(t, &d, features, size);
    for (unsigned round = 0; round < 100 && !t->bad_checks; round++)
        disk_round(t, &d, round);
    CHECK(t, guest_messages(&d.guest, 0) > 0);
    disk_guest_free(&d);
}

static void test_blk_split(struct test *t)
{
    disk_rounds(t, SPLIT, 16);
}

static void test_blk_packed(struct test *t)
{
    disk_rounds(t, PACKED, 16);
}

static void test_blk_packed_odd_size(struct test *t)
{
    disk_rounds(t, PACKED, 7); /* a packed ring need not be a power of two (2.8.10.1) */
}

static void test_blk_no_event_idx(struct test *t)
{
    struct disk_guest d;

    if (!disk_guest_new(t, &d, false, 1))
        return;
    disk_start(t, &d, SPLIT, 8);
    guest_store16(&d.guest, d.ring.driver, 1); /* no interrupts, please */
    disk_round(t, &d, 1);
    CHECK_EQ(t, guest_messages(&d.guest, 0), 0);
    guest_store16(&d.guest, d.ring.driver, 0);
    disk_round(t, &d, 2);
    guest_sleep_ms(20);
    CHECK_EQ(t, guest_messages(&d.guest, 0), 3);
    disk_guest_free(&d);
}

/* With event indices an interrupt comes when the index that we name is passed, and only then. */
static void test_blk_event_idx(struct test *t)
{
    struct disk_guest d;
    uint64_t used_event;

    if (!disk_guest_new(t, &d, false, 1))
        return;
    disk_start(t, &d, SPLIT | WITH_EVENTS, 8);
    used_event = d.ring.driver + 4 + 8 * 2;
    guest_store16(&d.guest, used_event, 0);
    CHECK_EQ(t, disk_request(&d, 4, 0, NULL), 0);
    guest_sleep_ms(20);
    CHECK_EQ(t, guest_messages(&d.guest, 0), 1);
    guest_store16(&d.guest, used_event, 3); /* the fourth */
    CHECK_EQ(t, disk_request(&d, 4, 0, NULL), 0);
    CHECK_EQ(t, disk_request(&d, 4, 0, NULL), 0);
    guest_sleep_ms(20);
    CHECK_EQ(t, guest_messages(&d.guest, 0), 1);
    CHECK_EQ(t, disk_request(&d, 4, 0, NULL), 0);
    guest_sleep_ms(20);
    CHECK_EQ(t, guest_messages(&d.guest, 0), 2);
    disk_guest_free(&d);
}

static void disk_bad_requests(struct test *t, struct disk_guest *d)
{
    const struct guest_buffer id = {DATA, 20, true}, odd = {DATA, 513, true};
    const struct guest_buffer in = {DATA, 1024, true};
    char serial[21] = "";

    CHECK_EQ(t, disk_request(d, 8, 0, &id), 0);
    CHECK_EQ(t, mem_read(d->guest.mem, DATA, serial, 20), 0);
    CHECK_STR(t, serial, "serial-1");
    CHECK_EQ(t, disk_request(d, 77, 0, NULL), 2);
    CHECK_EQ(t, disk_request(d, 0, DISK_BYTES / 512, &in), 1);
    CHECK_EQ(t, disk_request(d, 0, DISK_BYTES / 512 - 1, &in), 1);
    CHECK_EQ(t, disk_request(d, 0, UINT64_MAX, &in), 1);
    CHECK_EQ(t, disk_request(d, 0, 0, &odd), 1);
    CHECK_EQ(t, disk_request(d, 0, 0, &in), 0);
}

static void test_blk_answers(struct test *t)
{
    struct disk_guest d;

    if (!disk_guest_new(t, &d, false, 1))
        return;
    disk_start(t, &d, SPLIT, 64);
    disk_bad_requests(t, &d);
    CHECK_EQ(t, guest_read(&d.device, d.device.config, 8), DISK_BYTES / 512);
    disk_guest_free(&d);
}

static void test_blk_write_zeroes(struct test *t)
{
    const struct guest_buffer out = {DATA, 4096, false}, range = {DATA + 0x8000, 16, false};
    const struct guest_buffer in = {DATA, 4096, true};
    uint8_t raw[16] = {0}, got[4096], zeroes[1024] = {0};
    struct disk_guest d;

    if (!disk_guest_new(t, &d, false, 1))
        return;
    disk_start(t, &d, SPLIT, 64);
    guest_pattern_fill(&d.guest, DATA, 3, 4096);
    CHECK_EQ(t, disk_request(&d, 1, 0, &out), 0);
    store_le64(raw, 2);
    store_le32(raw + 8, 2);
    CHECK_EQ(t, mem_write(d.guest.mem, DATA + 0x8000, raw, 16), 0);
    CHECK_EQ(t, disk_request(&d, 13, 0, &range), 0);
    CHECK_EQ(t, disk_request(&d, 0, 0, &in), 0);
    CHECK_EQ(t, mem_read(d.guest.mem, DATA, got, 4096), 0);
    CHECK_MEM(t, got + 1024, zeroes, 1024);
    CHECK(t, got[1023] == (uint8_t)(3 + 1023 * 7 + 3) && got[2048] != 0);
    store_le64(raw, DISK_BYTES / 512 - 1); /* one sector past the end */
    CHECK_EQ(t, mem_write(d.guest.mem, DATA + 0x8000, raw, 16), 0);
    CHECK_EQ(t, disk_request(&d, 13, 0, &range), 1);
    CHECK_EQ(t, disk_request(&d, 11, 0, &range), 1);
    disk_guest_free(&d);
}

static void test_blk_readonly(struct test *t)
{
    const struct guest_buffer out = {DATA, 512, false}, in = {DATA, 512, true};
    struct disk_guest d;

    if (!disk_guest_new(t, &d, true, 1))
        return;
    disk_start(t, &d, SPLIT | VIRTIO_BIT(5), 64);
    CHECK(t, d.device.features & VIRTIO_BIT(5));
    CHECK_EQ(t, disk_request(&d, 1, 0, &out), 1);
    CHECK_EQ(t, disk_request(&d, 0, 0, &in), 0);
    disk_guest_free(&d);
}

/* One indirect table with header, two pieces of data and status in a single ring slot. */
static void indirect_read(struct test *t, uint64_t features)
{
    const struct guest_buffer parts[] = {
        {HEADER, 16, false}, {DATA, 512, true}, {DATA + 0x2000, 512, true}, {STATUS, 1, true}};
    uint64_t table = GUEST_BUFFERS + 0x4000;
    struct guest_buffer indirect = {table, 64, false};
    struct disk_guest d;
    uint8_t status = 9;

    if (!disk_guest_new(t, &d, false, 1))
        return;
    disk_start(t, &d, features, 4);
    for (unsigned i = 0; i < 4; i++)
        guest_descriptor(&d.ring, table + i * 16, &parts[i],
                         (uint16_t)((parts[i].write ? 2 : 0) | (i < 3 ? 1 : 0)), (uint16_t)(i + 1));
    CHECK_EQ(t, mem_fill(d.guest.mem, HEADER, 0, 16), 0);
    if (d.ring.packed) {
        d.ring.slots[0] = 1;
        guest_descriptor(&d.ring, d.ring.desc, &indirect, 0x84, 0);
    } else {
        guest_descriptor(&d.ring, d.ring.desc, &indirect, 4, 0);
        guest_store16(&d.guest, d.ring.driver + 2, 1);
    }
    guest_kick(&d.ring);
    CHECK_EQ(t, guest_wait(&d.ring), 1025);
    CHECK_EQ(t, mem_read(d.guest.mem, STATUS, &status, 1), 0);
    CHECK_EQ(t, status, 0);
    disk_guest_free(&d);
}

static void test_blk_indirect(struct test *t)
{
    indirect_read(t, SPLIT);
    indirect_read(t, PACKED);
}

static void test_blk_many_queues(struct test *t)
{
    struct disk_guest d;
    struct guest_ring second;

    if (!disk_guest_new(t, &d, false, 4))
        return;
    CHECK_EQ(t, guest_read(&d.device, d.device.config + 34, 2), 4);
    CHECK(t, guest_begin(&d.device, SPLIT | VIRTIO_BIT(12)));
    guest_msix(&d.device);
    guest_ring_init(&d.device, 0, 16, &d.ring);
    guest_ring_init(&d.device, 3, 16, &second);
    guest_driver_ok(&d.device);
    disk_round(t, &d, 1);
    d.ring = second;
    disk_round(t, &d, 2);
    guest_sleep_ms(10);
    CHECK_EQ(t, guest_messages(&d.guest, 3), 3);
    disk_guest_free(&d);
}

static void test_queue_reset(struct test *t)
{
    struct disk_guest d;
    uint64_t common;

    if (!disk_guest_new(t, &d, false, 1))
        return;
    common = d.device.common;
    disk_start(t, &d, SPLIT, 16);
    disk_round(t, &d, 1);
    guest_write(&d.device, common + 0x16, 2, 0);
    guest_write(&d.device, common + 0x3a, 2, 1);
    CHECK_EQ(t, guest_read(&d.device, common + 0x3a, 2), 0);
    CHECK_EQ(t, guest_read(&d.device, common + 0x1c, 2), 0);
    guest_ring_init(&d.device, 0, 32, &d.ring);
    disk_round(t, &d, 2);
    disk_guest_free(&d);
}

/* INTx, and its status register that lets the line go. */
static void test_intx(struct test *t)
{
    struct disk_guest d;

    if (!disk_guest_new(t, &d, false, 1))
        return;
    CHECK(t, guest_begin(&d.device, SPLIT));
    guest_ring_init(&d.device, 0, 16, &d.ring);
    guest_driver_ok(&d.device);
    CHECK_EQ(t, disk_request(&d, 4, 0, NULL), 0);
    guest_sleep_ms(20);
    CHECK(t, guest_line(&d.guest, 1)); /* INTA of slot 1 is line 1 */
    CHECK_EQ(t, pci_config_read(d.guest.root, 1 << 3, PCI_STATUS, 2) & PCI_STATUS_INTX,
             PCI_STATUS_INTX);
    CHECK_EQ(t, guest_read(&d.device, d.device.isr, 1), 1);
    CHECK(t, !guest_line(&d.guest, 1));
    CHECK_EQ(t, guest_read(&d.device, d.device.isr, 1), 0);
    disk_guest_free(&d);
}

static void test_features(struct test *t)
{
    struct disk_guest d;
    uint64_t common;

    if (!disk_guest_new(t, &d, false, 1))
        return;
    common = d.device.common;
    CHECK(t, guest_reset(&d.device));
    guest_write(&d.device, common + 8, 4, 1);
    guest_write(&d.device, common + 12, 4, 0xffffffff); /* more than is offered */
    guest_write(&d.device, common + 0x14, 1, 0x0b);
    CHECK_EQ(t, guest_status(&d.device), 3);
    CHECK(t, guest_reset(&d.device));
    guest_write(&d.device, common + 0x14, 1, 0x0b); /* without VERSION_1 */
    CHECK_EQ(t, guest_status(&d.device), 3);
    CHECK(t, guest_begin(&d.device, SPLIT));
    guest_write(&d.device, common + 12, 4, 0); /* too late */
    CHECK_EQ(t, guest_read(&d.device, common + 12, 4), d.device.features >> 32);
    disk_guest_free(&d);
}

/* The window that firmware uses. */
static void test_access_capability(struct test *t)
{
    struct disk_guest d;
    struct pci_root *root;
    unsigned at;

    if (!disk_guest_new(t, &d, false, 1))
        return;
    root = d.guest.root;
    at = pci_config_read(root, 8, PCI_CAPABILITIES, 1);
    while (at && (pci_config_read(root, 8, at, 1) != 9 || pci_config_read(root, 8, at + 3, 1) != 5))
        at = pci_config_read(root, 8, at + 1, 1);
    if (CHECK(t, at != 0)) {
        pci_config_write(root, 8, at + 4, 1, 2);
        pci_config_write(root, 8, at + 8, 4, 0x2000); /* device configuration: the capacity */
        pci_config_write(root, 8, at + 12, 4, 4);
        CHECK_EQ(t, pci_config_read(root, 8, at + 16, 4), DISK_BYTES / 512);
        pci_config_write(root, 8, at + 8, 4, 0x14);
        pci_config_write(root, 8, at + 12, 4, 1);
        pci_config_write(root, 8, at + 16, 4, 1);
        CHECK_EQ(t, guest_status(&d.device), 1);
    }
    disk_guest_free(&d);
}

static void test_platform_reset(struct test *t)
{
    struct disk_guest d;

    if (!disk_guest_new(t, &d, false, 1))
        return;
    disk_start(t, &d, SPLIT, 16);
    disk_round(t, &d, 1);
    pci_reset(d.guest.root);
    CHECK_EQ(t, guest_read(&d.device, d.device.common, 4), 0xffffffff);
    guest_assign(&d.guest);
    CHECK_EQ(t, guest_probe(&d.guest, 1, &d.device), 0);
    CHECK_EQ(t, guest_status(&d.device), 0);
    disk_start(t, &d, PACKED, 16);
    disk_round(t, &d, 2);
    disk_guest_free(&d);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_blk_split);
    TEST_RUN(&t, test_blk_packed);
    TEST_RUN(&t, test_blk_packed_odd_size);
    TEST_RUN(&t, test_blk_no_event_idx);
    TEST_RUN(&t, test_blk_event_idx);
    TEST_RUN(&t, test_blk_answers);
    TEST_RUN(&t, test_blk_write_zeroes);
    TEST_RUN(&t, test_blk_readonly);
    TEST_RUN(&t, test_blk_indirect);
    TEST_RUN(&t, test_blk_many_queues);
    TEST_RUN(&t, test_queue_reset);
    TEST_RUN(&t, test_intx);
    TEST_RUN(&t, test_features);
    TEST_RUN(&t, test_access_capability);
    TEST_RUN(&t, test_platform_reset);
    return test_end(&t);
}
