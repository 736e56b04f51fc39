/*
 * Attacks on the rings themselves: indices, loops, lengths, addresses, tables inside tables. Each
 * ends with the device in NEEDS_RESET (or an error for the request alone), and every device working
 * after a reset.
 */
#include "hostile.h"

#include "base/endian.h"

#define SPLIT  ALL_RING_FEATURES
#define PACKED (ALL_RING_FEATURES | VIRTIO_F_RING_PACKED)

typedef void attack_fn(struct test *t, struct hostile *h);

static void attack(struct test *t, uint64_t features, unsigned slot, attack_fn *run)
{
    struct hostile h;

    if (!hostile_new(t, &h))
        return;
    if (hostile_start(t, &h, slot, features)) {
        run(t, &h);
        hostile_check_alive(t, &h);
    }
    hostile_free(&h);
}

/* Makes descriptor 0 available, as it stands. */
static void offer_head(struct hostile *h, uint16_t head)
{
    uint64_t driver = h->ring.driver;

    guest_store16(&h->guest, driver + 4, head);
    guest_store16(&h->guest, driver + 2, 1);
    guest_kick(&h->ring);
}

static void descriptor(struct hostile *h, unsigned slot, struct guest_buffer buffer, uint16_t flags,
                       uint16_t next)
{
    guest_descriptor(&h->ring, h->ring.desc + slot * 16, &buffer, flags, next);
}

/* ---- split rings ---- */

static void head_out_of_range(struct test *t, struct hostile *h)
{
    offer_head(h, 16);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void index_far_ahead(struct test *t, struct hostile *h)
{
    guest_store16(&h->guest, h->ring.driver + 2, 0x8000);
    guest_kick(&h->ring);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void next_out_of_range(struct test *t, struct hostile *h)
{
    descriptor(h, 0, (struct guest_buffer){HEADER, 16, false}, 1, 0xffff);
    offer_head(h, 0);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void loop_of_one(struct test *t, struct hostile *h)
{
    descriptor(h, 0, (struct guest_buffer){HEADER, 16, false}, 1, 0);
    offer_head(h, 0);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void loop_of_three(struct test *t, struct hostile *h)
{
    for (uint16_t i = 0; i < 3; i++)
        descriptor(h, i, (struct guest_buffer){HEADER, 16, false}, 1, (uint16_t)((i + 1) % 3));
    offer_head(h, 0);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void readable_after_writable(struct test *t, struct hostile *h)
{
    descriptor(h, 0, (struct guest_buffer){DATA, 16, true}, 3, 1);
    descriptor(h, 1, (struct guest_buffer){HEADER, 16, false}, 0, 0);
    offer_head(h, 0);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void same_head_again_and_again(struct test *t, struct hostile *h)
{
    descriptor(h, 0, (struct guest_buffer){DATA, 64, true}, 2, 0);
    for (unsigned i = 0; i < 16; i++)
        guest_store16(&h->guest, h->ring.driver + 4 + i * 2, 0);
    for (unsigned round = 1; round < 200; round++) {
        guest_store16(&h->guest, h->ring.driver + 2, (uint16_t)(round * 16));
        guest_kick(&h->ring);
    }
    CHECK(t, true); /* either is fine: served, or refused; it must only go on */
}

static void test_split_indices(struct test *t)
{
    attack(t, SPLIT, SLOT_BLK, head_out_of_range);
    attack(t, SPLIT, SLOT_BLK, index_far_ahead);
    attack(t, SPLIT, SLOT_BLK, next_out_of_range);
}

static void test_split_loops(struct test *t)
{
    attack(t, SPLIT, SLOT_BLK, loop_of_one);
    attack(t, SPLIT, SLOT_BLK, loop_of_three);
    attack(t, SPLIT, SLOT_BLK, readable_after_writable);
    attack(t, SPLIT, SLOT_RNG, same_head_again_and_again);
}

/* ---- addresses and lengths ---- */

static const struct guest_buffer bad_buffers[] = {
    {DATA, UINT32_MAX, true},              /* nearly 4 GiB */
    {0, UINT32_MAX, true},                 /* over every hole */
    {GUEST_LOW_END - 8, 16, true},         /* into the VGA hole */
    {GUEST_LOW_END, 16, true},             /* in it */
    {0xffff0, 0x5000000, true},            /* from the first megabyte past the end */
    {GUEST_RAM_END - 1, 2, true},          /* one byte too far */
    {GUEST_HIGH - 1, 2, true},             /* a hole, then RAM */
    {GUEST_HIGH_END, 1, true},             /* past the last byte */
    {0xfee00000, 4096, true},              /* the LAPIC */
    {PCI_ECAM_BASE, 4096, true},           /* configuration space */
    {0xc0000000, 16, true},                /* a BAR */
    {UINT64_MAX, 1, true},                 /* the last byte of all */
    {UINT64_MAX - 15, 32, true},           /* wraps */
    {UINT64_MAX - 15, UINT32_MAX, true},   /* wraps far */
    {UINT64_C(1) << 63, 4096, true},       /* a sign bit */
    {UINT64_C(0x100000000000), 512, true}, /* the 64-bit window */
};

static void bad_addresses(struct test *t, uint64_t features, unsigned slot)
{
    struct hostile h;

    if (!hostile_new(t, &h))
        return;
    for (size_t i = 0; i < sizeof bad_buffers / sizeof bad_buffers[0]; i++) {
        struct guest_buffer chain[3] = {{HEADER, 16, false}, bad_buffers[i], {STATUS, 1, true}};

        if (!hostile_start(t, &h, slot, features))
            break;
        guest_post(&h.ring, slot == SLOT_RNG ? chain + 1 : chain, slot == SLOT_RNG ? 2 : 3);
        guest_kick(&h.ring);
        hostile_check_refused(t, &h, slot);
    }
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

static void test_addresses(struct test *t)
{
    bad_addresses(t, SPLIT, SLOT_BLK);
    bad_addresses(t, PACKED, SLOT_BLK);
    bad_addresses(t, SPLIT, SLOT_RNG);
    bad_addresses(t, PACKED, SLOT_RNG);
}

/* Empty buffers do no harm; a request that has only those has no header. */
static void zero_lengths(struct test *t, struct hostile *h)
{
    const struct guest_buffer chain[] = {{UINT64_MAX, 0, false},
                                         {HEADER, 16, false},
                                         {0, 0, true},
                                         {DATA, 512, true},
                                         {STATUS, 1, true}};
    const struct guest_buffer nothing[] = {{0, 0, false}, {UINT64_MAX, 0, true}};
    uint8_t status = 9;

    CHECK_EQ(t, mem_fill(h->guest.mem, HEADER, 0, 16), 0);
    guest_post(&h->ring, chain, 5);
    guest_kick(&h->ring);
    CHECK_EQ(t, guest_wait(&h->ring), 513);
    CHECK_EQ(t, mem_read(h->guest.mem, STATUS, &status, 1), 0);
    CHECK_EQ(t, status, 0);
    guest_post(&h->ring, nothing, 2);
    guest_kick(&h->ring);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void test_zero_lengths(struct test *t)
{
    attack(t, SPLIT, SLOT_BLK, zero_lengths);
    attack(t, PACKED, SLOT_BLK, zero_lengths);
}

/* A buffer over the border of two RAM slots that touch is no attack: it must work. */
static void over_a_border(struct test *t, struct hostile *h)
{
    struct guest_buffer out = {0x100000 - 512, 1024, false};
    struct guest_buffer in = {DATA, 1024, true};
    uint32_t want = 0xb0ade125, got = 0;

    /* the rings begin at 1 MiB: move queue 0 out of the way first */
    CHECK(t, guest_begin(&h->device[SLOT_BLK], SPLIT));
    guest_ring_init(&h->device[SLOT_BLK], 1, 16, &h->ring);
    guest_driver_ok(&h->device[SLOT_BLK]);
    CHECK_EQ(t, mem_write(h->guest.mem, 0x100000, &want, 4), 0);
    CHECK_EQ(t, hostile_disk(h, 1, 0, &out), 0);
    CHECK_EQ(t, hostile_disk(h, 0, 0, &in), 0);
    CHECK_EQ(t, mem_read(h->guest.mem, DATA + 512, &got, 4), 0);
    CHECK_EQ(t, got, want);
}

static void test_over_a_border(struct test *t)
{
    attack(t, SPLIT, SLOT_BLK, over_a_border);
}

/* Lengths that add up to far more than any memory: the same 32 MiB again and again. */
static void endless_total(struct test *t, struct hostile *h)
{
    struct guest_buffer chain[16] = {{HEADER, 16, false}};
    uint8_t status = 9;

    for (unsigned i = 1; i < 15; i++)
        chain[i] = (struct guest_buffer){GUEST_BUFFERS + 0x100000, 32 << 20, true};
    chain[15] = (struct guest_buffer){STATUS, 1, true};
    CHECK_EQ(t, mem_fill(h->guest.mem, HEADER, 0, 16), 0);
    guest_post(&h->ring, chain, 16);
    guest_kick(&h->ring);
    CHECK(t, guest_wait(&h->ring) >= 0);
    CHECK_EQ(t, mem_read(h->guest.mem, STATUS, &status, 1), 0);
    CHECK_EQ(t, status, 1);
}

static void test_endless_total(struct test *t)
{
    attack(t, SPLIT, SLOT_BLK, endless_total);
}

/* ---- indirect tables ---- */

#define TABLE (GUEST_BUFFERS + 0x8000)

static void offer_table(struct hostile *h, uint64_t gpa, uint32_t length, uint16_t more)
{
    struct guest_buffer table = {gpa, length, false};

    if (h->ring.packed) {
        guest_descriptor(&h->ring, h->ring.desc, &table, (uint16_t)(0x84 | more), 0);
        guest_kick(&h->ring);
    } else {
        descriptor(h, 0, table, (uint16_t)(4 | more), 1);
        offer_head(h, 0);
    }
}

static void table_inside_table(struct test *t, struct hostile *h)
{
    struct guest_buffer inner = {TABLE, 16, false};

    guest_descriptor(&h->ring, TABLE, &inner, 4, 0);
    offer_table(h, TABLE, 16, 0);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void table_with_next(struct test *t, struct hostile *h)
{
    offer_table(h, TABLE, 16, 1);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void table_empty(struct test *t, struct hostile *h)
{
    offer_table(h, TABLE, 0, 0);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void table_odd(struct test *t, struct hostile *h)
{
    offer_table(h, TABLE, 17, 0);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void table_huge(struct test *t, struct hostile *h)
{
    offer_table(h, TABLE, 0xfffffff0, 0);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void table_in_hole(struct test *t, struct hostile *h)
{
    offer_table(h, GUEST_LOW_END, 64, 0);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void table_wrapping(struct test *t, struct hostile *h)
{
    offer_table(h, UINT64_MAX - 15, 64, 0);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void table_loop(struct test *t, struct hostile *h)
{
    struct guest_buffer header = {HEADER, 16, false};

    guest_descriptor(&h->ring, TABLE, &header, 1, 1);
    guest_descriptor(&h->ring, TABLE + 16, &header, 1, 0);
    offer_table(h, TABLE, 32, 0);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void table_index(struct test *t, struct hostile *h)
{
    struct guest_buffer header = {HEADER, 16, false};

    guest_descriptor(&h->ring, TABLE, &header, 1, 7);
    offer_table(h, TABLE, 32, 0);
    hostile_check_refused(t, h, SLOT_BLK);
}

static void test_indirect(struct test *t)
{
    attack_fn *const both[] = {table_inside_table, table_with_next, table_empty,   table_odd,
                               table_huge,         table_in_hole,   table_wrapping};

    for (unsigned i = 0; i < sizeof both / sizeof both[0]; i++) {
        attack(t, SPLIT, SLOT_BLK, both[i]);
        attack(t, PACKED, SLOT_BLK, both[i]);
    }
    attack(t, SPLIT, SLOT_BLK, table_loop);
    attack(t, SPLIT, SLOT_BLK, table_index);
    attack(t, SPLIT & ~VIRTIO_F_INDIRECT_DESC, SLOT_BLK, table_odd); /* not negotiated */
}

/* ---- packed rings ---- */

/* Every slot says NEXT: a chain without an end. */
static void packed_endless(struct test *t, struct hostile *h)
{
    for (unsigned i = 0; i < 16; i++)
        descriptor(h, i, (struct guest_buffer){HEADER, 16, false}, 0x81, 0);
    guest_kick(&h->ring);
    hostile_check_refused(t, h, SLOT_BLK);
}

/* All slots available in both rounds at once: flags that turn as soon as the device has looked. */
static void packed_turning(struct test *t, struct hostile *h)
{
    for (unsigned round = 0; round < 50; round++) {
        uint16_t flags = round & 1 ? 0x8002 : 0x0082;

        for (unsigned i = 0; i < 16; i++)
            descriptor(h, i, (struct guest_buffer){DATA, 64, true}, flags, (uint16_t)i);
        guest_kick(&h->ring);
    }
    CHECK(t, true); /* served or refused; it must only go on */
}

static void packed_same_id(struct test *t, struct hostile *h)
{
    for (unsigned i = 0; i < 16; i++)
        descriptor(h, i, (struct guest_buffer){DATA, 64, true}, 0x82, 0xffff);
    guest_kick(&h->ring);
    guest_sleep_ms(20);
    CHECK_EQ(t, guest_status(&h->device[SLOT_RNG]) & VIRTIO_STATUS_NEEDS_RESET, 0);
    CHECK_EQ(t, guest_load16(&h->guest, h->ring.desc + 12), 0xffff);
}

static void packed_event_lies(struct test *t, struct hostile *h)
{
    for (unsigned i = 0; i < 64; i++) {
        struct guest_buffer in = {DATA, 16, true};

        guest_store16(&h->guest, h->ring.driver, (uint16_t)(i * 0x1111));
        guest_store16(&h->guest, h->ring.driver + 2, (uint16_t)i);
        guest_post(&h->ring, &in, 1);
        guest_kick(&h->ring);
        CHECK_EQ(t, guest_wait(&h->ring), 16);
    }
}

static void test_packed_lies(struct test *t)
{
    attack(t, PACKED, SLOT_BLK, packed_endless);
    attack(t, PACKED, SLOT_RNG, packed_turning);
    attack(t, PACKED, SLOT_RNG, packed_same_id);
    attack(t, PACKED, SLOT_RNG, packed_event_lies);
}

/* ---- rings in bad places ---- */

static void ring_placed(struct test *t, struct hostile *h, const uint64_t areas[3], uint16_t size)
{
    struct guest_device *device = &h->device[SLOT_RNG];

    CHECK(t, guest_begin(device, SPLIT));
    h->ring = (struct guest_ring){
        .device = device, .size = size, .desc = areas[0], .driver = areas[1], .used = areas[2]};
    guest_ring_enable(&h->ring);
    guest_driver_ok(device);
    guest_kick(&h->ring);
    CHECK_EQ(t, guest_read(device, device->common + 0x1c, 2), 0);
    hostile_check_refused(t, h, SLOT_RNG);
}

static void test_ring_places(struct test *t)
{
    static const uint64_t places[][3] = {
        {GUEST_LOW_END, 0x1000, 0x2000},
        {0x1000, GUEST_LOW_END - 2, 0x2000},
        {0x1000, 0x2000, GUEST_RAM_END - 4},
        {UINT64_MAX - 15, 0x1000, 0x2000},
        {0x1000, UINT64_MAX - 1, 0x2000},
        {0x1001, 0x2000, 0x3000},
        {0x1000, 0x2001, 0x3000},
        {0x1000, 0x2000, 0x3002},
        {PCI_ECAM_BASE, 0x2000, 0x3000},
        {0x1000, 0x2000, GUEST_HIGH_END - 8},
    };
    static const uint64_t good[3] = {0x1000, 0x2000, 0x3000};
    static const uint16_t sizes[] = {0, 3, 65, 128, 0x8000, 0xffff};
    struct hostile h;

    if (!hostile_new(t, &h))
        return;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        ring_placed(t, &h, places[i], 16);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        ring_placed(t, &h, good, sizes[i]);
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

/* The disk reads over the rings that it is being served by. */
static void test_rings_overwritten(struct test *t)
{
    const struct guest_buffer chain[] = {
        {HEADER, 16, false}, {GUEST_RINGS, 0x10000, true}, {STATUS, 1, true}};
    struct hostile h;

    if (!hostile_new(t, &h))
        return;
    for (unsigned way = 0; way < 2; way++) {
        if (!hostile_start(t, &h, SLOT_BLK, way ? PACKED : SPLIT))
            break;
        CHECK_EQ(t, mem_fill(h.guest.mem, HEADER, 0, 16), 0);
        for (unsigned i = 0; i < 5; i++)
            guest_post(&h.ring, chain, 3);
        guest_kick(&h.ring);
        guest_sleep_ms(20);
    }
    hostile_check_alive(t, &h);
    hostile_free(&h);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_split_indices);
    TEST_RUN(&t, test_split_loops);
    TEST_RUN(&t, test_addresses);
    TEST_RUN(&t, test_zero_lengths);
    TEST_RUN(&t, test_over_a_border);
    TEST_RUN(&t, test_endless_total);
    TEST_RUN(&t, test_indirect);
    TEST_RUN(&t, test_packed_lies);
    TEST_RUN(&t, test_ring_places);
    TEST_RUN(&t, test_rings_overwritten);
    return test_end(&t);
}
