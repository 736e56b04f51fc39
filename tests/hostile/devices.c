/*
 * Attacks on what is around the rings: BARs moved over RAM and devices, queues changed while live,
 * resets with requests in flight, accesses of odd size, vectors out of range, requests that lie.
 */
#include "hostile.h"

#include <pthread.h>

#include "base/endian.h"

#define SPLIT  ALL_RING_FEATURES
#define PACKED (ALL_RING_FEATURES | VIRTIO_F_RING_PACKED)

static unsigned bdf(unsigned slot)
{
    return slot << 3;
}

static void bar_put(struct hostile *h, unsigned slot, unsigned bar, uint64_t address)
{
    pci_config_write(h->guest.root, bdf(slot), PCI_BAR0 + bar * 4, 4, (uint32_t)address);
    if (bar == 2)
        pci_config_write(h->guest.root, bdf(slot), PCI_BAR0 + 12, 4, (uint32_t)(address >> 32));
}

/* RAM wins: it is neither changed nor hidden, and all that lay there comes back. */
static void test_bars_moved(struct test *t)
{
    static const uint64_t places[] = {
        0x1000,     0x9f000,    0xa0000,        0xc0000,    GUEST_RINGS,       GUEST_BUFFERS,
        GUEST_HIGH, 0xe0000000, 0xfec00000,     0xfee00000, 0xfffff000,        0xffffffff,
        UINT64_MAX, 0,          0xfffffffff000, 0xc0000000, UINT64_C(1) << 63,
    };
    struct hostile h;
    uint32_t mark = 0x11223344, got;

    if (!hostile_new(t, &h))
        return;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        got = 0;
        CHECK_EQ(t, mem_write(h.guest.mem, GUEST_BUFFERS, &mark, 4), 0);
        for (unsigned slot = 1; slot <= HOSTILE_SLOTS; slot++) {
            bar_put(&h, slot, 0, places[i]);
            bar_put(&h, slot, 2, places[i]);
        }
        for (unsigned at = 0; at < 0x4000; at += 64)
            bus_write(h.guest.mmio, (places[i] & ~UINT64_C(0x3fff)) + at, 4, at * 77);
        CHECK_EQ(t, mem_read(h.guest.mem, GUEST_BUFFERS, &got, 4), 0);
        CHECK_EQ(t, got, mark);
        hostile_check_alive(t, &h);
    }
    hostile_free(&h);
}

struct mover {
    struct hostile *h;
    bool stop; /* atomic */
};

static void *mover_main(void *opaque)
{
    struct mover *mover = opaque;

    for (unsigned i = 0; !__atomic_load_n(&mover->stop, __ATOMIC_SEQ_CST); i++) {
        bar_put(mover->h, SLOT_BLK, 2, 0xd0000000 + (i % 8) * 0x4000);
        pci_config_write(mover->h->guest.root, bdf(SLOT_BLK), PCI_COMMAND, 2, i % 3 ? 6 : 0);
    }
    return NULL;
}

/* One vCPU moves a BAR about while another uses it. */
static void test_bar_race(struct test *t)
{
    struct hostile h;
    struct mover mover = {.h = &h};
    pthread_t thread;

    if (!hostile_new(t, &h))
        return;
    if (CHECK_EQ(t, pthread_create(&thread, NULL, mover_main, &mover), 0)) {
        for (unsigned i = 0; i < 20000; i++) {
            bus_write(h.guest.mmio, 0xd0000000 + i * 4 % 0x20000, 4, i);
            bus_read(h.guest.mmio, 0xd0000014 + i % 8 * 0x4000, 1);
        }
        __atomic_store_n(&mover.stop, true, __ATOMIC_SEQ_CST);
        pthread_join(thread, NULL);
    }
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

/* The registers of a live queue do not take; the queue serves on where it was. */
static void test_queue_changed_live(struct test *t)
{
    struct guest_buffer out = {DATA, 512, false};
    struct hostile h;
    uint64_t common;

    if (!hostile_new(t, &h) || !hostile_start(t, &h, SLOT_BLK, SPLIT))
        return;
    common = h.device[SLOT_BLK].common;
    guest_write(&h.device[SLOT_BLK], common + 0x16, 2, 0);
    for (unsigned i = 0; i < 3; i++) {
        guest_write(&h.device[SLOT_BLK], common + 0x18, 2, 256);
        guest_write(&h.device[SLOT_BLK], common + 0x20, 8, UINT64_MAX);
        guest_write(&h.device[SLOT_BLK], common + 0x28, 4, 0xa0000);
        guest_write(&h.device[SLOT_BLK], common + 0x34, 4, 0xffff);
        guest_write(&h.device[SLOT_BLK], common + 0x1c, 2, 0);
        guest_write(&h.device[SLOT_BLK], common + 0x1c, 2, 1);
        CHECK_EQ(t, hostile_disk(&h, 1, 0, &out), 0);
    }
    CHECK_EQ(t, guest_read(&h.device[SLOT_BLK], common + 0x18, 2), 16);
    CHECK_EQ(t, guest_read(&h.device[SLOT_BLK], common + 0x20, 8), h.ring.desc);
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

/* Status bits taken away and features changed while it runs; queues that do not exist. */
static void test_status_games(struct test *t)
{
    struct hostile h;
    struct guest_device *device;

    if (!hostile_new(t, &h) || !hostile_start(t, &h, SLOT_BLK, SPLIT))
        return;
    device = &h.device[SLOT_BLK];
    for (unsigned i = 0; i < 256; i++) {
        guest_write(device, device->common + 0x16, 2, i * 257);
        guest_write(device, device->common + 0x1c, 2, 1);
        guest_write(device, device->common + 0x3a, 2, 1);
        guest_write(device, device->notify + i * 16, 4, i);
        guest_write(device, device->common + 8, 4, i);
        guest_write(device, device->common + 12, 4, 0xffffffff);
        guest_write(device, device->common + 0x14, 1, i);
    }
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

/* ---- resets ---- */

static void post_reads(struct hostile *h)
{
    const struct guest_buffer chain[] = {
        {HEADER, 16, false}, {DATA, 0x40000, true}, {STATUS, 1, true}};

    for (unsigned i = 0; i < 5; i++)
        guest_post(&h->ring, chain, 3);
    guest_kick(&h->ring);
}

static bool all_marked(struct hostile *h)
{
    uint8_t bytes[4096];

    for (unsigned at = 0; at < 0x40000; at += sizeof bytes) {
        if (mem_read(h->guest.mem, DATA + at, bytes, sizeof bytes) < 0)
            return false;
        for (unsigned i = 0; i < sizeof bytes; i++) {
            if (bytes[i] != 0xa5)
                return false;
        }
    }
    return true;
}

/* Once status reads 0 the device writes nothing more into the guest's memory. */
static void reset_rounds(struct test *t, struct hostile *h, uint64_t features)
{
    for (unsigned round = 0; round < 50 && !t->bad_checks; round++) {
        if (!hostile_start(t, h, SLOT_BLK, features))
            return;
        CHECK_EQ(t, mem_fill(h->guest.mem, HEADER, 0, 16), 0);
        post_reads(h);
        if (round % 2)
            guest_sleep_ms(0);
        CHECK(t, guest_reset(&h->device[SLOT_BLK]));
        CHECK_EQ(t, mem_fill(h->guest.mem, DATA, 0xa5, 0x40000), 0);
        guest_sleep_ms(1);
        CHECK(t, all_marked(h));
    }
}

static void test_reset_in_flight(struct test *t)
{
    struct hostile h;

    if (!hostile_new(t, &h))
        return;
    reset_rounds(t, &h, SPLIT);
    reset_rounds(t, &h, PACKED);
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

/* The same by the queue's own reset, and by the platform's. */
static void test_queue_reset_in_flight(struct test *t)
{
    struct hostile h;
    struct guest_device *device;

    if (!hostile_new(t, &h))
        return;
    device = &h.device[SLOT_BLK];
    for (unsigned round = 0; round < 50; round++) {
        if (!hostile_start(t, &h, SLOT_BLK, SPLIT))
            break;
        post_reads(&h);
        guest_write(device, device->common + 0x16, 2, 0);
        guest_write(device, device->common + 0x3a, 2, 1);
        for (unsigned i = 0; i < 2000 && guest_read(device, device->common + 0x3a, 2); i++)
            guest_sleep_ms(1);
        CHECK_EQ(t, guest_read(device, device->common + 0x3a, 2), 0);
        guest_ring_init(device, 0, 16, &h.ring);
        CHECK_EQ(t, hostile_disk(&h, 4, 0, NULL), 0);
        post_reads(&h);
        pci_reset(h.guest.root);
        guest_assign(&h.guest);
    }
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

/* ---- odd accesses ---- */

static void registers_sweep(struct hostile *h, unsigned slot, uint64_t value)
{
    static const unsigned sizes[] = {1, 2, 4, 8};
    const struct guest_device *device = &h->device[slot];

    for (unsigned at = 0; at + 8 <= 0x4000; at += at < 0x80 || (at & 0xfff) < 0x80 ? 1 : 61) {
        for (unsigned i = 0; i < 4; i++) {
            guest_write(device, device->common + at, sizes[i], value);
            guest_read(device, device->common + at, sizes[i]);
        }
    }
}

static void test_odd_accesses(struct test *t)
{
    static const uint64_t values[] = {0, 1, 0xff, 0x8000, UINT64_MAX, 0x0102030405060708};
    struct hostile h;

    if (!hostile_new(t, &h))
        return;
    for (unsigned slot = 1; slot <= HOSTILE_SLOTS; slot++) {
        for (unsigned i = 0; i < 6; i++) {
            CHECK(t, guest_begin(&h.device[slot], SPLIT));
            registers_sweep(&h, slot, values[i]);
        }
    }
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

/* Configuration space, every offset and size, through both ways; then the window capability. */
static void config_sweep(struct hostile *h, unsigned slot, uint32_t value)
{
    uint64_t ecam = PCI_ECAM_BASE + (bdf(slot) << 12);

    for (unsigned at = 0; at < 0x1000; at += at < 0x100 ? 1 : 97) {
        for (unsigned size = 1; size <= 4; size *= 2) {
            bus_write(h->guest.ports, 0xcf8, 4, 0x80000000u | bdf(slot) << 8 | (at & 0xfc));
            bus_write(h->guest.ports, 0xcfc + (at & 3), size, value);
            bus_read(h->guest.ports, 0xcfc + (at & 3), size);
            bus_write(h->guest.mmio, ecam + at, size, value ^ at);
            bus_read(h->guest.mmio, ecam + at, size);
        }
    }
}

static void test_config_space(struct test *t)
{
    static const uint32_t values[] = {0, 0xffffffff, 2, 0x80000007, 0x3000};
    struct hostile h;

    if (!hostile_new(t, &h))
        return;
    for (unsigned slot = 0; slot <= HOSTILE_SLOTS + 1; slot++) {
        for (unsigned i = 0; i < 5; i++)
            config_sweep(&h, slot, values[i]);
    }
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

/* ---- interrupts ---- */

static void test_vectors(struct test *t)
{
    static const uint16_t bad[] = {3, 4, 63, 64, 0x7fff, 0xfffe, 0xffff};
    struct hostile h;
    struct guest_device *device;

    if (!hostile_new(t, &h) || !hostile_start(t, &h, SLOT_BLK, SPLIT))
        return;
    device = &h.device[SLOT_BLK]; /* two queues and the configuration: vectors 0 to 2 */
    guest_msix(device);
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        guest_write(device, device->common + 0x16, 2, 0);
        guest_write(device, device->common + 0x1a, 2, bad[i]);
        guest_write(device, device->common + 0x10, 2, bad[i]);
        CHECK_EQ(t, guest_read(device, device->common + 0x1a, 2), VIRTIO_NO_VECTOR);
        CHECK_EQ(t, guest_read(device, device->common + 0x10, 2), VIRTIO_NO_VECTOR);
        CHECK_EQ(t, hostile_disk(&h, 4, 0, NULL), 0);
    }
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

/* ---- requests that lie ---- */

static int raw_request(struct hostile *h, const struct guest_buffer *chain, unsigned count)
{
    guest_post(&h->ring, chain, count);
    guest_kick(&h->ring);
    return (int)guest_wait(&h->ring);
}

static void test_disk_requests(struct test *t)
{
    static const uint64_t sectors[] = {DISK_BYTES / 512, DISK_BYTES / 512 - 1, UINT64_MAX,
                                       UINT64_MAX / 512, UINT64_C(1) << 55,    UINT64_C(1) << 63};
    struct guest_buffer in = {DATA, 1024, true}, range = {DATA, 16, false}, odd = {DATA, 100, true};
    struct hostile h;
    uint8_t raw[16] = {0};

    if (!hostile_new(t, &h) || !hostile_start(t, &h, SLOT_BLK, SPLIT))
        return;
    for (unsigned i = 0; i < 6; i++) {
        CHECK_EQ(t, hostile_disk(&h, 0, sectors[i], &in), 1);
        store_le64(raw, sectors[i]);
        store_le32(raw + 8, i == 1 ? 2 : UINT32_MAX);
        CHECK_EQ(t, mem_write(h.guest.mem, DATA, raw, 16), 0);
        CHECK_EQ(t, hostile_disk(&h, 11, 0, &range), 1);
        CHECK_EQ(t, hostile_disk(&h, 13, 0, &range), 1);
    }
    CHECK_EQ(t, hostile_disk(&h, 0, 0, &odd), 1);
    range.length = 15;
    CHECK_EQ(t, hostile_disk(&h, 11, 0, &range), 1);
    range.length = 0x10000;
    CHECK_EQ(t, hostile_disk(&h, 13, 0, &range), 1);
    CHECK_EQ(t, hostile_disk(&h, 0xffffffff, 0, &in), 2);
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

static void test_disk_shapes(struct test *t)
{
    const struct guest_buffer only_header = {HEADER, 16, false}, short_header = {HEADER, 15, false};
    const struct guest_buffer bytes[] = {
        {HEADER, 1, false}, {HEADER + 1, 14, false}, {HEADER + 15, 1, false}, {STATUS, 1, true}};
    struct hostile h;

    if (!hostile_new(t, &h) || !hostile_start(t, &h, SLOT_BLK, SPLIT))
        return;
    CHECK_EQ(t, mem_fill(h.guest.mem, HEADER, 0, 16), 0);
    CHECK_EQ(t, raw_request(&h, bytes, 4), 1); /* any layout is fine */
    guest_post(&h.ring, &short_header, 1);
    guest_kick(&h.ring);
    hostile_check_refused(t, &h, SLOT_BLK);
    CHECK(t, hostile_start(t, &h, SLOT_BLK, PACKED));
    guest_post(&h.ring, &only_header, 1);
    guest_kick(&h.ring);
    hostile_check_refused(t, &h, SLOT_BLK);
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

/* Frames of every bad length, and far more of them than the cable holds. */
static void test_net_frames(struct test *t)
{
    static const uint32_t lengths[] = {1, 11, 12, 13, 25, 26, 65562, 65563, 0x100000};
    struct guest_buffer good = {DATA, 1512, false};
    struct hostile h;

    if (!hostile_new(t, &h) || !CHECK(t, guest_begin(&h.device[SLOT_NET], SPLIT)))
        return;
    guest_ring_init(&h.device[SLOT_NET], 1, 256, &h.ring);
    guest_driver_ok(&h.device[SLOT_NET]);
    for (unsigned i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct guest_buffer out = {DATA, lengths[i], false};

        CHECK_EQ(t, raw_request(&h, &out, 1), 0);
    }
    for (unsigned i = 0; i < 240; i++) {
        guest_post(&h.ring, &good, 1);
        guest_kick(&h.ring);
    }
    guest_sleep_ms(20);
    CHECK_EQ(t, guest_status(&h.device[SLOT_NET]) & VIRTIO_STATUS_NEEDS_RESET, 0);
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

/* Checksums to be made at places that lie. */
static void test_net_checksums(struct test *t)
{
    static const uint16_t places[][2] = {{0, 0},      {87, 0},          {86, 0},
                                         {88, 0},     {0, 87},          {0xffff, 0},
                                         {0, 0xffff}, {0xffff, 0xffff}, {40, 50}};
    struct guest_buffer out = {DATA, 100, false}, header = {DATA, 12, false};
    struct hostile h;

    if (!hostile_new(t, &h) || !CHECK(t, guest_begin(&h.device[SLOT_NET], PACKED | 1)))
        return;
    guest_ring_init(&h.device[SLOT_NET], 1, 16, &h.ring);
    guest_driver_ok(&h.device[SLOT_NET]);
    for (unsigned i = 0; i < sizeof places / sizeof places[0]; i++) {
        uint8_t bytes[12] = {1};

        store_le16(bytes + 6, places[i][0]);
        store_le16(bytes + 8, places[i][1]);
        CHECK_EQ(t, mem_write(h.guest.mem, DATA, bytes, 12), 0);
        CHECK_EQ(t, raw_request(&h, &out, 1), 0);
        CHECK_EQ(t, raw_request(&h, &header, 1), 0); /* a header and no frame */
    }
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_bars_moved);
    TEST_RUN(&t, test_bar_race);
    TEST_RUN(&t, test_queue_changed_live);
    TEST_RUN(&t, test_status_games);
    TEST_RUN(&t, test_reset_in_flight);
    TEST_RUN(&t, test_queue_reset_in_flight);
    TEST_RUN(&t, test_odd_accesses);
    TEST_RUN(&t, test_config_space);
    TEST_RUN(&t, test_vectors);
    TEST_RUN(&t, test_disk_requests);
    TEST_RUN(&t, test_disk_shapes);
    TEST_RUN(&t, test_net_frames);
    TEST_RUN(&t, test_net_checksums);
    return test_end(&t);
}
