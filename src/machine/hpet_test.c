/* Tests of the HPET: counter, one-shot, periodic, level, legacy replacement, odd accesses. */
#include "machine/hpet.h"

#include "base/clock.h"
#include "base/fake_time.h"
#include "base/test.h"

struct board {
    struct bus *mmio;
    struct hpet *hpet;
    unsigned edges[64];
    bool level[64];
};

/* Pins 0 to 31: GSIs; 32: IRQ 0; 33: IRQ 8 */
static void on_irq(void *opaque, unsigned pin, bool level)
{
    struct board *board = opaque;

    board->edges[pin] += level && !board->level[pin];
    board->level[pin] = level;
}

static void out(struct board *board, uint64_t reg, uint64_t value)
{
    bus_write(board->mmio, HPET_BASE + reg, 8, value);
}

static uint64_t in(struct board *board, uint64_t reg)
{
    return bus_read(board->mmio, HPET_BASE + reg, 8);
}

static bool board_up(struct test *t, struct board *board)
{
    struct hpet_config config = {
        .pit_irq = {on_irq, board, 32}, .rtc_irq = {on_irq, board, 33}, .gsi = {on_irq, board, 0}};

    *board = (struct board){0};
    fake_time_reset(NS_PER_SECOND, 0);
    if (!CHECK_EQ(t, bus_new(&board->mmio), 0))
        return false;
    config.mmio = board->mmio;
    return CHECK_EQ(t, hpet_new(&config, &board->hpet), 0);
}

static void board_down(struct board *board)
{
    hpet_free(board->hpet);
    bus_free(board->mmio);
}

static void test_counter(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    CHECK_EQ(t, in(&b, 0), UINT64_C(0x009896808086a201)); /* 10^7 fs, three timers, 64 bits */
    fake_time_advance(1000);
    CHECK_EQ(t, in(&b, 0xf0), 0);
    out(&b, 0xf0, 500);
    out(&b, 0x10, 1);
    fake_time_advance(1000);
    CHECK_EQ(t, in(&b, 0xf0), 600);
    CHECK_EQ(t, bus_read(b.mmio, HPET_BASE + 0xf4, 4), 0);
    out(&b, 0x10, 0);
    fake_time_advance(1000);
    CHECK_EQ(t, in(&b, 0xf0), 600);
    bus_write(b.mmio, HPET_BASE + 0xf4, 4, 7);
    CHECK_EQ(t, in(&b, 0xf0), UINT64_C(7) << 32 | 600);
    CHECK_EQ(t, bus_read(b.mmio, HPET_BASE + 0xf1, 1), 0);
    bus_write(b.mmio, HPET_BASE + 0xf2, 2, 0xffff);
    CHECK_EQ(t, in(&b, 0xf0), UINT64_C(7) << 32 | 600);
    CHECK_EQ(t, in(&b, 0x160), 0); /* no fourth timer */
    out(&b, 0x160, UINT64_MAX);
    board_down(&b);
}

static void test_one_shot(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 0x10, 1);
    out(&b, 0x120, 20u << 9 | 4); /* timer 1 to GSI 20, edge */
    out(&b, 0x128, 100000);
    fake_time_advance(999990);
    CHECK_EQ(t, b.edges[20], 0);
    fake_time_advance(10);
    CHECK_EQ(t, b.edges[20], 1);
    fake_time_advance(100 * NS_PER_SECOND);
    CHECK_EQ(t, b.edges[20], 1);
    CHECK_EQ(t, in(&b, 0x20), 0);                    /* edges leave no status */
    out(&b, 0x140, 21u << 9 | 4 | 0x100);            /* timer 2, 32 bits: wraps after 42.9 s */
    out(&b, 0x148, (in(&b, 0xf0) - 5) & UINT32_MAX); /* just missed */
    fake_time_advance(42 * NS_PER_SECOND);
    CHECK_EQ(t, b.edges[21], 0);
    fake_time_advance(NS_PER_SECOND);
    CHECK_EQ(t, b.edges[21], 1);
    fake_time_advance(43 * NS_PER_SECOND);
    CHECK_EQ(t, b.edges[21], 2);
    out(&b, 0x140, 5u << 9 | 4); /* a route that is not offered */
    out(&b, 0x148, in(&b, 0xf0) + 10);
    fake_time_advance(NS_PER_MS);
    CHECK_EQ(t, b.edges[5], 0);
    board_down(&b);
}

static void test_periodic(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 0x10, 1);
    CHECK_EQ(t, in(&b, 0x100) & 0x30, 0x30);
    CHECK_EQ(t, in(&b, 0x120) & 0x30, 0x20);
    out(&b, 0x100, 20u << 9 | 0x4c); /* periodic, VAL_SET */
    out(&b, 0x108, 150000);
    out(&b, 0x108, 100000);
    CHECK_EQ(t, in(&b, 0x108), 150000);
    fake_time_advance(NS_PER_SECOND);
    CHECK_EQ(t, b.edges[20], 999); /* at 1.5 ms, 2.5 ms, ... */
    CHECK_EQ(t, in(&b, 0x108), 100050000);
    fake_time_jump(10 * NS_PER_MS);
    CHECK_EQ(t, b.edges[20], 1000); /* merged, and on the old grid */
    fake_time_advance(NS_PER_MS / 2);
    CHECK_EQ(t, b.edges[20], 1001);
    out(&b, 0x108, 1); /* 10 ns: no storm */
    b.edges[20] = 0;
    fake_time_advance(10 * NS_PER_MS);
    CHECK(t, b.edges[20] > 10 && b.edges[20] <= 201);
    board_down(&b);
}

static void test_level(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 0x10, 1);
    out(&b, 0x120, 22u << 9 | 6);
    out(&b, 0x128, 100);
    fake_time_advance(1000);
    CHECK(t, b.level[22]);
    CHECK_EQ(t, in(&b, 0x20), 2);
    out(&b, 0x20, 1);
    CHECK(t, b.level[22]);
    out(&b, 0x20, 2);
    CHECK(t, !b.level[22]);
    CHECK_EQ(t, in(&b, 0x20), 0);
    board_down(&b);
}

static void test_legacy(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    hpet_legacy_input(b.hpet, HPET_INPUT_PIT, true);
    hpet_legacy_input(b.hpet, HPET_INPUT_RTC, true);
    CHECK(t, b.level[32] && b.level[33]);
    out(&b, 0x10, 3);
    CHECK(t, !b.level[32] && !b.level[33]);
    hpet_legacy_input(b.hpet, HPET_INPUT_PIT, true);
    CHECK(t, !b.level[32]);
    out(&b, 0x100, 4);
    out(&b, 0x108, 100);
    out(&b, 0x120, 4);
    out(&b, 0x128, 200);
    fake_time_advance(1000);
    CHECK_EQ(t, b.edges[32], 2);
    CHECK_EQ(t, b.edges[33], 1);
    fake_time_advance(1000);
    CHECK_EQ(t, b.edges[33], 2);
    hpet_reset(b.hpet);
    hpet_legacy_input(b.hpet, HPET_INPUT_PIT, true);
    CHECK(t, b.level[32]);
    board_down(&b);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_counter);
    TEST_RUN(&t, test_one_shot);
    TEST_RUN(&t, test_periodic);
    TEST_RUN(&t, test_level);
    TEST_RUN(&t, test_legacy);
    return test_end(&t);
}
