/* The devices, driven through PCI as a guest's driver does, with split and with packed rings. */
#include "dev/virtio/devices.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/test.h"
#include "dev/virtio/testguest.h"

#define DISK_BYTES  (1u << 20)
#define HEADER      GUEST_BUFFERS
#define STATUS      (GUEST_BUFFERS + 0x1000)
#define DATA        (GUEST_BUFFERS + 0x10000)

#define BLK_FLUSH   VIRTIO_BIT(9)
#define NET_MRG     VIRTIO_BIT(15)
#define SPLIT       (BLK_FLUSH | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_RING_RESET)
#define PACKED      (SPLIT | VIRTIO_F_RING_PACKED)
#define WITH_EVENTS VIRTIO_F_EVENT_IDX

/* ---- a machine with one disk ---- */

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

static void pattern_fill(struct guest *guest, uint64_t gpa, uint8_t seed, unsigned length)
{
    for (unsigned i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)(seed + i * 7 + (i >> 8));

        if (mem_write(guest->mem, gpa + i, &byte, 1) < 0)
            return;
    }
}

static void disk_round(struct test *t, struct disk_guest *d, unsigned round)
{
    const struct guest_buffer out = {DATA, 4096, false}, in = {DATA + 0x8000, 4096, true};
    uint8_t want[4096], got[4096];

    pattern_fill(&d->guest, DATA, (uint8_t)round, sizeof want);
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
    pattern_fill(&d.guest, DATA, 3, 4096);
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

/* ---- entropy and console ---- */

static void test_rng(struct test *t)
{
    const struct guest_buffer in = {DATA, 64, true};
    struct virtio_rng_config config;
    struct virtio_device *rng;
    struct guest guest;
    struct guest_device device;
    struct guest_ring ring;
    uint8_t got[64], zeroes[64] = {0};

    if (!CHECK_EQ(t, guest_new(&guest), 0))
        return;
    config = (struct virtio_rng_config){guest.mem, guest.loop};
    CHECK_EQ(t, virtio_rng_new(&config, &rng, NULL), 0);
    CHECK_EQ(t, virtio_pci_new(rng, guest.root, 5, NULL), 0);
    guest_assign(&guest);
    CHECK_EQ(t, guest_probe(&guest, 5, &device), 0);
    CHECK(t, guest_begin(&device, VIRTIO_F_RING_PACKED));
    guest_ring_init(&device, 0, 8, &ring);
    guest_driver_ok(&device);
    guest_post(&ring, &in, 1);
    guest_kick(&ring);
    CHECK_EQ(t, guest_wait(&ring), 64);
    CHECK_EQ(t, mem_read(guest.mem, DATA, got, 64), 0);
    CHECK(t, memcmp(got, zeroes, 64) != 0);
    guest_free(&guest);
}

/* A back end that takes as many bytes as the test says. All counters are atomic. */
struct console_end {
    uint8_t text[16384];
    unsigned length, room, calls, wanted;
};

static size_t console_take(void *opaque, const void *bytes, size_t length)
{
    struct console_end *end = opaque;
    unsigned room = __atomic_load_n(&end->room, __ATOMIC_SEQ_CST);
    unsigned taken = length < room ? (unsigned)length : room;

    if (end->length + taken > sizeof end->text)
        abort();
    memcpy(end->text + end->length, bytes, taken);
    __atomic_fetch_sub(&end->room, taken, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&end->length, taken, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&end->calls, 1, __ATOMIC_SEQ_CST);
    return taken;
}

static void console_wanted(void *opaque)
{
    __atomic_fetch_add(&((struct console_end *)opaque)->wanted, 1, __ATOMIC_SEQ_CST);
}

static unsigned counter_load(const unsigned *counter)
{
    return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}

/* Waits up to two seconds until a counter has this value. */
static bool reaches(const unsigned *counter, unsigned value)
{
    for (unsigned i = 0; i < 2000; i++) {
        if (counter_load(counter) == value)
            return true;
        guest_sleep_ms(1);
    }
    return false;
}

struct console_guest {
    struct guest guest;
    struct virtio_device *console;
    struct guest_device device;
    struct guest_ring rx, tx;
    struct console_end end;
};

static bool console_guest_new(struct test *t, struct console_guest *c)
{
    struct virtio_console_config config = {
        .output = console_take, .input_wanted = console_wanted, .opaque = &c->end};

    memset(c, 0, sizeof *c);
    if (!CHECK_EQ(t, guest_new(&c->guest), 0))
        return false;
    config.mem = c->guest.mem;
    config.loop = c->guest.loop;
    if (!CHECK_EQ(t, virtio_console_new(&config, &c->console, NULL), 0) ||
        !CHECK_EQ(t, virtio_pci_new(c->console, c->guest.root, 0, NULL), 0))
        return false;
    guest_assign(&c->guest);
    return CHECK_EQ(t, guest_probe(&c->guest, 1, &c->device), 0);
}

static void console_start(struct test *t, struct console_guest *c, uint64_t features)
{
    CHECK(t, guest_begin(&c->device, features));
    guest_ring_init(&c->device, 0, 8, &c->rx);
    guest_ring_init(&c->device, 1, 8, &c->tx);
    guest_driver_ok(&c->device);
}

static void console_room(struct console_guest *c, unsigned room)
{
    __atomic_store_n(&c->end.room, room, __ATOMIC_SEQ_CST);
    virtio_console_output_resume(c->console);
}

static void console_post(struct console_guest *c, uint64_t gpa, uint32_t length)
{
    const struct guest_buffer out = {gpa, length, false};

    guest_post(&c->tx, &out, 1);
    guest_kick(&c->tx);
}

/* What the back end does not take stays with the guest's buffers, and none comes back early. */
static void console_output(struct test *t, uint64_t features)
{
    static struct console_guest c;
    uint8_t want[10000];

    if (!console_guest_new(t, &c))
        return;
    console_start(t, &c, features);
    pattern_fill(&c.guest, DATA, 3, sizeof want);
    CHECK_EQ(t, mem_read(c.guest.mem, DATA, want, sizeof want), 0);
    __atomic_store_n(&c.end.room, 3, __ATOMIC_SEQ_CST);
    console_post(&c, DATA, sizeof want);
    console_post(&c, DATA, 5);
    CHECK(t, reaches(&c.end.length, 3));
    guest_kick(&c.tx); /* asks in vain */
    guest_sleep_ms(20);
    CHECK_EQ(t, counter_load(&c.end.calls), 1);
    console_room(&c, 5000);
    CHECK(t, reaches(&c.end.length, 5003));
    if (!c.tx.packed)
        CHECK_EQ(t, guest_load16(&c.guest, c.tx.used + 2), 0);
    console_room(&c, 100000);
    CHECK_EQ(t, guest_wait(&c.tx), 0);
    CHECK_EQ(t, guest_wait(&c.tx), 0);
    CHECK_EQ(t, counter_load(&c.end.length), sizeof want + 5);
    CHECK_MEM(t, c.end.text, want, sizeof want);
    CHECK_MEM(t, c.end.text + sizeof want, want, 5);
    guest_free(&c.guest);
}

static void test_console_output(struct test *t)
{
    console_output(t, VIRTIO_F_EVENT_IDX);
    console_output(t, VIRTIO_F_RING_PACKED);
}

/* A back end that is full for ever holds up no reset, and what was on its way is forgotten. */
static void test_console_reset_while_full(struct test *t)
{
    static struct console_guest c;

    if (!console_guest_new(t, &c))
        return;
    console_start(t, &c, VIRTIO_F_RING_RESET);
    CHECK_EQ(t, mem_write(c.guest.mem, DATA, "old new", 7), 0);
    console_post(&c, DATA, 4);
    CHECK(t, reaches(&c.end.calls, 1));
    guest_write(&c.device, c.device.common + 0x16, 2, 1); /* queue_select, queue_reset */
    guest_write(&c.device, c.device.common + 0x3a, 2, 1);
    CHECK_EQ(t, guest_read(&c.device, c.device.common + 0x3a, 2), 0);
    guest_ring_init(&c.device, 1, 8, &c.tx);
    console_post(&c, DATA, 4);
    guest_sleep_ms(10);
    CHECK(t, guest_reset(&c.device));
    console_start(t, &c, 0);
    console_post(&c, DATA + 4, 3);
    console_room(&c, 100);
    CHECK_EQ(t, guest_wait(&c.tx), 0);
    CHECK_STR(t, (char *)c.end.text, "new");
    guest_free(&c.guest);
}

/* What the guest wrote last is not lost when the VM ends before the I/O thread could send it. */
static void test_console_last_words(struct test *t)
{
    static struct console_guest c;

    if (!console_guest_new(t, &c))
        return;
    console_start(t, &c, 0);
    CHECK_EQ(t, mem_write(c.guest.mem, DATA, "bye", 3), 0);
    console_post(&c, DATA, 3);
    CHECK(t, reaches(&c.end.calls, 1)); /* nothing was taken */
    __atomic_store_n(&c.end.room, 100, __ATOMIC_SEQ_CST);
    guest_free(&c.guest);
    CHECK_STR(t, (char *)c.end.text, "bye");
}

/* Input waits for buffers: each byte is taken once, and asked for again when there is room. */
static void test_console_input(struct test *t)
{
    const struct guest_buffer in = {DATA, 16, true};
    static struct console_guest c;
    char got[17] = "";

    if (!console_guest_new(t, &c))
        return;
    CHECK_EQ(t, virtio_console_input(c.console, "early", 5), 0);
    console_start(t, &c, VIRTIO_F_EVENT_IDX);
    CHECK(t, reaches(&c.end.wanted, 1));
    CHECK_EQ(t, virtio_console_input(c.console, "early", 5), 0);
    guest_post(&c.rx, &in, 1);
    guest_kick(&c.rx);
    CHECK(t, reaches(&c.end.wanted, 2));
    CHECK_EQ(t, virtio_console_input(c.console, "good morning, all of you", 24), 16);
    CHECK_EQ(t, guest_wait(&c.rx), 16);
    CHECK_EQ(t, mem_read(c.guest.mem, DATA, got, 16), 0);
    CHECK_STR(t, got, "good morning, al");
    guest_post(&c.rx, &in, 1);
    guest_kick(&c.rx);
    CHECK(t, reaches(&c.end.wanted, 3));
    CHECK_EQ(t, virtio_console_input(c.console, "l of you", 8), 8);
    CHECK_EQ(t, guest_wait(&c.rx), 8);
    guest_kick(&c.rx); /* nothing was refused: nothing is wanted */
    guest_sleep_ms(10);
    CHECK_EQ(t, counter_load(&c.end.wanted), 3);
    guest_free(&c.guest);
}

/* ---- the network card ---- */

/* A port that keeps what it is sent and can be told to be full. */
struct fake_port {
    struct net_port port;
    unsigned sent, resumed; /* atomic */
    size_t last_length;
    uint8_t last[64]; /* its first bytes, when in one piece */
    bool full;
};

static int fake_send(struct net_port *port, const struct iovec *iov, unsigned count)
{
    struct fake_port *fake = (struct fake_port *)port;

    if (__atomic_load_n(&fake->full, __ATOMIC_SEQ_CST))
        return -EAGAIN;
    fake->last_length = 0;
    memcpy(fake->last, iov[0].iov_base, iov[0].iov_len < 64 ? iov[0].iov_len : 64);
    for (unsigned i = 0; i < count; i++)
        fake->last_length += iov[i].iov_len;
    __atomic_fetch_add(&fake->sent, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static void fake_flush(struct net_port *port)
{
    (void)port;
}

static void fake_resume(struct net_port *port)
{
    __atomic_fetch_add(&((struct fake_port *)port)->resumed, 1, __ATOMIC_SEQ_CST);
}

static const struct net_port_ops fake_ops = {fake_send, fake_flush, fake_resume, fake_flush};

struct net_guest {
    struct guest guest;
    struct fake_port fake;
    struct guest_device device;
    struct guest_ring rx, tx;
};

static bool net_guest_new(struct test *t, struct net_guest *n, uint64_t features)
{
    struct virtio_net_config config = {0};
    struct virtio_device *device;

    n->fake = (struct fake_port){.port = {.ops = &fake_ops, .link_up = true, .mtu = 1500}};
    if (!CHECK_EQ(t, guest_new(&n->guest), 0))
        return false;
    config.mem = n->guest.mem;
    config.loop = n->guest.loop;
    config.port = &n->fake.port;
    CHECK_EQ(t, virtio_net_new(&config, &device, NULL), 0);
    CHECK_EQ(t, virtio_pci_new(device, n->guest.root, 0, NULL), 0);
    guest_assign(&n->guest);
    CHECK_EQ(t, guest_probe(&n->guest, 1, &n->device), 0);
    CHECK(t, guest_begin(&n->device, features));
    guest_msix(&n->device);
    guest_ring_init(&n->device, 0, 16, &n->rx);
    guest_ring_init(&n->device, 1, 16, &n->tx);
    guest_driver_ok(&n->device);
    return true;
}

static bool net_give(struct net_guest *n, const void *frame, size_t length)
{
    bool taken = n->fake.port.user->receive(n->fake.port.user_opaque, frame, length);

    n->fake.port.user->received(n->fake.port.user_opaque);
    return taken;
}

static void net_receives(struct test *t, uint64_t features)
{
    const struct guest_buffer small = {DATA, 512, true}, next = {DATA + 512, 2048, true};
    struct net_guest n;
    uint8_t frame[1400], got[1400];

    if (!net_guest_new(t, &n, features))
        return;
    for (unsigned i = 0; i < sizeof frame; i++)
        frame[i] = (uint8_t)(i * 3);
    CHECK(t, !net_give(&n, frame, sizeof frame)); /* no buffer at all */
    guest_post(&n.rx, &small, 1);
    CHECK(t, !net_give(&n, frame, sizeof frame)); /* not enough: none is used */
    guest_post(&n.rx, &next, 1);
    guest_kick(&n.rx);
    for (unsigned i = 0; i < 100 && !n.fake.resumed; i++)
        guest_sleep_ms(10);
    CHECK(t, n.fake.resumed > 0);
    CHECK(t, net_give(&n, frame, sizeof frame));
    CHECK_EQ(t, guest_wait(&n.rx), 512);
    CHECK_EQ(t, guest_wait(&n.rx), 12 + sizeof frame - 512);
    CHECK_EQ(t, guest_load16(&n.guest, DATA + 10), 2);
    CHECK_EQ(t, mem_read(n.guest.mem, DATA + 12, got, sizeof got), 0);
    CHECK_MEM(t, got, frame, sizeof frame);
    CHECK(t, guest_messages(&n.guest, 0) > 0);
    guest_free(&n.guest);
}

static void test_net_receive_split(struct test *t)
{
    net_receives(t, NET_MRG | VIRTIO_F_EVENT_IDX);
}

static void test_net_receive_packed(struct test *t)
{
    net_receives(t, NET_MRG | VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX);
}

static void test_net_receive_single(struct test *t)
{
    const struct guest_buffer big = {DATA, 1600, true}, small = {DATA, 100, true};
    struct net_guest n;
    uint8_t frame[1400] = {1};

    if (!net_guest_new(t, &n, 0))
        return;
    guest_post(&n.rx, &big, 1);
    CHECK(t, net_give(&n, frame, sizeof frame));
    CHECK_EQ(t, guest_wait(&n.rx), 1412);
    CHECK_EQ(t, guest_load16(&n.guest, DATA + 10), 1);
    guest_post(&n.rx, &small, 1);
    CHECK(t, !net_give(&n, frame, sizeof frame));
    CHECK(t, guest_wait_status(&n.device, VIRTIO_STATUS_NEEDS_RESET));
    guest_free(&n.guest);
}

/* A full port holds frames back; none is lost, and they go when it says so. */
static void test_net_transmit(struct test *t)
{
    const struct guest_buffer out[2] = {{DATA, 12, false}, {DATA + 64, 900, false}};
    struct net_guest n;

    if (!net_guest_new(t, &n, VIRTIO_F_EVENT_IDX))
        return;
    guest_post(&n.tx, out, 2);
    guest_kick(&n.tx);
    CHECK_EQ(t, guest_wait(&n.tx), 0);
    CHECK_EQ(t, n.fake.sent, 1);
    CHECK_EQ(t, n.fake.last_length, 900);
    __atomic_store_n(&n.fake.full, true, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < 3; i++)
        guest_post(&n.tx, out, 2);
    guest_kick(&n.tx);
    guest_sleep_ms(50);
    CHECK_EQ(t, n.fake.sent, 1);
    CHECK_EQ(t, guest_load16(&n.guest, n.tx.used + 2), 1);
    __atomic_store_n(&n.fake.full, false, __ATOMIC_SEQ_CST);
    n.fake.port.user->writable(n.fake.port.user_opaque);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(t, guest_wait(&n.tx), 0);
    CHECK_EQ(t, n.fake.sent, 4);
    guest_free(&n.guest);
}

/* The guest leaves a checksum to the card: RFC 1071's own example, begun with a pseudo header. */
static void test_net_checksum(struct test *t)
{
    const struct guest_buffer out = {DATA, 12 + 28, false};
    uint8_t bytes[12 + 28] = {1, 0, 0, 0, 0, 0, 16, 0, 8, 0};
    struct net_guest n;

    if (!net_guest_new(t, &n, VIRTIO_BIT(0)))
        return;
    memcpy(bytes + 12 + 16, "\x00\x01\xf2\x03\xf4\xf5\xf6\xf7", 8); /* sums up to ddf2 */
    CHECK_EQ(t, mem_write(n.guest.mem, DATA, bytes, sizeof bytes), 0);
    guest_post(&n.tx, &out, 1);
    guest_kick(&n.tx);
    CHECK_EQ(t, guest_wait(&n.tx), 0);
    CHECK_EQ(t, n.fake.last_length, 28);
    CHECK_EQ(t, n.fake.last[24] << 8 | n.fake.last[25], 0x220d);
    bytes[6] = 27; /* outside the frame: dropped, and nothing else happens */
    CHECK_EQ(t, mem_write(n.guest.mem, DATA, bytes, sizeof bytes), 0);
    guest_post(&n.tx, &out, 1);
    guest_kick(&n.tx);
    CHECK_EQ(t, guest_wait(&n.tx), 0);
    CHECK_EQ(t, n.fake.sent, 1);
    guest_free(&n.guest);
}

/* A driver without merging gives 1526 bytes; a longer frame is dropped, the next one comes. */
static void test_net_too_long(struct test *t)
{
    const struct guest_buffer buffer = {DATA, 1526, true};
    static const uint8_t frame[3000];
    struct net_guest n;

    if (!net_guest_new(t, &n, 0))
        return;
    guest_post(&n.rx, &buffer, 1);
    CHECK(t, net_give(&n, frame, sizeof frame));
    CHECK(t, net_give(&n, frame, 1514));
    CHECK_EQ(t, guest_wait(&n.rx), 1526);
    guest_free(&n.guest);
}

static void test_net_link(struct test *t)
{
    struct net_guest n;

    if (!net_guest_new(t, &n, VIRTIO_BIT(16)))
        return;
    CHECK_EQ(t, guest_read(&n.device, n.device.config + 6, 2), 1);
    CHECK_EQ(t, guest_read(&n.device, n.device.config + 10, 2), 1500);
    guest_write(&n.device, n.device.common + 0x10, 2, 3);
    n.fake.port.user->link(n.fake.port.user_opaque, false);
    CHECK_EQ(t, guest_read(&n.device, n.device.config + 6, 2), 0);
    CHECK_EQ(t, guest_read(&n.device, n.device.common + 0x15, 1), 1);
    CHECK_EQ(t, guest_messages(&n.guest, 3), 1);
    guest_free(&n.guest);
}

static int net_control(struct net_guest *n, struct guest_ring *ring, uint8_t class, uint8_t command)
{
    const struct guest_buffer chain[2] = {{DATA, 2, false}, {STATUS, 1, true}};
    const uint8_t bytes[2] = {class, command};
    uint8_t answer = 0xee;

    if (mem_write(n->guest.mem, DATA, bytes, 2) < 0)
        return -1;
    guest_post(ring, chain, 2);
    guest_kick(ring);
    if (guest_wait(ring) != 1 || mem_read(n->guest.mem, STATUS, &answer, 1) < 0)
        return -1;
    return answer;
}

static void test_net_control(struct test *t)
{
    struct net_guest n;
    struct guest_ring ring;

    if (!net_guest_new(t, &n, VIRTIO_BIT(17) | VIRTIO_BIT(18)))
        return;
    guest_ring_init(&n.device, 2, 16, &ring);
    CHECK_EQ(t, net_control(&n, &ring, 0, 0), 0); /* promiscuous */
    CHECK_EQ(t, net_control(&n, &ring, 1, 0), 0); /* an address table */
    CHECK_EQ(t, net_control(&n, &ring, 0, 6), 1);
    CHECK_EQ(t, net_control(&n, &ring, 4, 0), 1); /* queue pairs: not offered */
    guest_free(&n.guest);
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
    TEST_RUN(&t, test_rng);
    TEST_RUN(&t, test_console_output);
    TEST_RUN(&t, test_console_reset_while_full);
    TEST_RUN(&t, test_console_last_words);
    TEST_RUN(&t, test_console_input);
    TEST_RUN(&t, test_net_receive_split);
    TEST_RUN(&t, test_net_receive_packed);
    TEST_RUN(&t, test_net_receive_single);
    TEST_RUN(&t, test_net_transmit);
    TEST_RUN(&t, test_net_checksum);
    TEST_RUN(&t, test_net_too_long);
    TEST_RUN(&t, test_net_link);
    TEST_RUN(&t, test_net_control);
    return test_end(&t);
}
