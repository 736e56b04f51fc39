/* Tests of the 8254: counting in each mode, latches, IRQ 0 without drift or storm, port 0x61. */
#include "machine/pit.h"

#include "base/clock.h"
#include "base/fake_time.h"
#include "base/test.h"

struct board {
    struct bus *ports;
    struct pit *pit;
    bool level;
    unsigned edges;
};

static void on_irq(void *opaque, unsigned pin, bool level)
{
    struct board *board = opaque;

    (void)pin;
    board->edges += level && !board->level;
    board->level = level;
}

static void out(struct board *board, uint16_t port, uint8_t value)
{
    bus_write(board->ports, port, 1, value);
}

static uint8_t in(struct board *board, uint16_t port)
{
    return (uint8_t)bus_read(board->ports, port, 1);
}

static bool board_up(struct test *t, struct board *board)
{
    struct pit_config config = {.irq = {on_irq, board, 0}};

    *board = (struct board){0};
    fake_time_reset(NS_PER_SECOND, 0);
    if (!CHECK_EQ(t, bus_new(&board->ports), 0))
        return false;
    config.ports = board->ports;
    return CHECK_EQ(t, pit_new(&config, &board->pit), 0);
}

static void board_down(struct board *board)
{
    pit_free(board->pit);
    bus_free(board->ports);
}

static void program(struct board *board, unsigned channel, unsigned mode, uint16_t count)
{
    out(board, 0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
    out(board, (uint16_t)(0x40 + channel), (uint8_t)count);
    out(board, (uint16_t)(0x40 + channel), (uint8_t)(count >> 8));
}

static unsigned latched(struct board *board, unsigned channel)
{
    unsigned low;

    out(board, 0x43, (uint8_t)(channel << 6));
    low = in(board, (uint16_t)(0x40 + channel));
    return low | (unsigned)in(board, (uint16_t)(0x40 + channel)) << 8;
}

/* ns after which `ticks` ticks have passed */
static uint64_t ticks(uint64_t count)
{
    return muldiv64(count, NS_PER_SECOND, PIT_HZ) + 1;
}

static void test_rate(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    program(&b, 0, 2, 1193); /* about 1 ms */
    fake_time_advance(ticks(1193) - 10);
    CHECK_EQ(t, b.edges, 0);
    fake_time_advance(20);
    CHECK_EQ(t, b.edges, 1);
    CHECK(t, !b.level);
    fake_time_advance(3600 * NS_PER_SECOND); /* an hour: not one tick is lost or gained */
    CHECK_EQ(t, b.edges, (3600 * PIT_HZ + 1193) / 1193);
    board_down(&b);
}

static void test_late(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    program(&b, 0, 2, 11932); /* 10 ms */
    fake_time_advance(25 * NS_PER_MS);
    CHECK_EQ(t, b.edges, 2);
    fake_time_jump(50 * NS_PER_MS); /* overslept: five are due */
    CHECK_EQ(t, b.edges, 3);
    fake_time_advance(60 * NS_PER_MS); /* caught up, at half a period each */
    CHECK_EQ(t, b.edges, 13);
    fake_time_jump(10 * NS_PER_SECOND);
    CHECK_EQ(t, b.edges, 14);
    fake_time_advance(NS_PER_SECOND);
    CHECK(t, b.edges >= 14 + 100 && b.edges <= 14 + 108); /* no storm of a thousand */
    program(&b, 0, 2, 1);                                 /* 838 ns */
    b.edges = 0;
    fake_time_advance(100 * NS_PER_MS);
    CHECK(t, b.edges > 100 && b.edges <= 1001);
    board_down(&b);
}

static void test_terminal_count(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    program(&b, 0, 0, 1000);
    CHECK_EQ(t, latched(&b, 0), 1000);
    fake_time_advance(ticks(400));
    CHECK_EQ(t, latched(&b, 0), 600);
    CHECK_EQ(t, b.edges, 0);
    fake_time_advance(ticks(601));
    CHECK_EQ(t, b.edges, 1);
    CHECK(t, b.level); /* stays high */
    fake_time_advance(NS_PER_SECOND);
    CHECK_EQ(t, b.edges, 1);
    program(&b, 0, 0, 10);
    CHECK(t, !b.level);
    fake_time_advance(NS_PER_MS);
    CHECK_EQ(t, b.edges, 2);
    board_down(&b);
}

static void test_strobe_and_square(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    program(&b, 0, 4, 1000);
    fake_time_advance(NS_PER_SECOND);
    CHECK_EQ(t, b.edges, 1);
    program(&b, 0, 3, 1000);
    fake_time_advance(ticks(250));
    CHECK_EQ(t, latched(&b, 0), 500);
    fake_time_advance(ticks(9800));
    CHECK_EQ(t, b.edges, 11);
    board_down(&b);
}

static void test_read_back(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 0x43, 0x34);
    out(&b, 0x43, 0xe2);             /* status of channel 0 */
    CHECK_EQ(t, in(&b, 0x40), 0xf4); /* output high, null count, both bytes, mode 2 */
    out(&b, 0x40, 0x00);
    out(&b, 0x40, 0x10);
    out(&b, 0x43, 0xc2); /* count and status */
    fake_time_advance(ticks(100));
    CHECK_EQ(t, in(&b, 0x40), 0xb4);
    CHECK_EQ(t, in(&b, 0x40), 0x00);
    CHECK_EQ(t, in(&b, 0x40), 0x10); /* as it was when it was latched */
    CHECK_EQ(t, latched(&b, 0), 0x1000 - 100);
    out(&b, 0x43, 0x14); /* low byte only */
    out(&b, 0x40, 200);
    CHECK_EQ(t, in(&b, 0x40), 200);
    CHECK_EQ(t, in(&b, 0x40), 200);
    out(&b, 0x43, 0x31); /* BCD, mode 0 */
    out(&b, 0x40, 0x34);
    out(&b, 0x40, 0x12);
    fake_time_advance(ticks(35));
    CHECK_EQ(t, latched(&b, 0), 0x1199);
    CHECK_EQ(t, in(&b, 0x43), 0xff);
    board_down(&b);
}

/* As kernels calibrate: channel 2 in mode 0, gated by port 0x61. */
static void test_gate(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 0x61, 0x00);
    program(&b, 2, 0, 10000);
    fake_time_advance(NS_PER_SECOND);
    CHECK_EQ(t, in(&b, 0x61) & 0x2f, 0x00);
    CHECK_EQ(t, latched(&b, 2), 10000);
    out(&b, 0x61, 0x01);
    fake_time_advance(ticks(4000));
    out(&b, 0x61, 0x00);
    fake_time_advance(NS_PER_SECOND);
    CHECK_EQ(t, latched(&b, 2), 6000);
    out(&b, 0x61, 0x01);
    fake_time_advance(ticks(5990));
    CHECK_EQ(t, in(&b, 0x61) & 0x20, 0);
    fake_time_advance(ticks(20));
    CHECK_EQ(t, in(&b, 0x61) & 0x2f, 0x21);
    program(&b, 2, 1, 1000); /* one-shot: waits for the gate to rise */
    CHECK_EQ(t, in(&b, 0x61) & 0x20, 0x20);
    out(&b, 0x61, 0);
    out(&b, 0x61, 1);
    fake_time_advance(ticks(500));
    CHECK_EQ(t, in(&b, 0x61) & 0x20, 0);
    fake_time_advance(ticks(510));
    CHECK_EQ(t, in(&b, 0x61) & 0x20, 0x20);
    CHECK_EQ(t, b.edges, 0); /* only channel 0 interrupts */
    board_down(&b);
}

static void test_refresh(struct test *t)
{
    struct board b;
    unsigned toggles = 0;
    uint8_t last;

    if (!board_up(t, &b))
        return;
    last = in(&b, 0x61) & 0x10;
    for (unsigned i = 0; i < 10000; i++) {
        fake_time_advance(1000);
        toggles += (in(&b, 0x61) & 0x10) != last;
        last = in(&b, 0x61) & 0x10;
    }
    CHECK(t, toggles >= 662 && toggles <= 664); /* 10 ms / 15.085 us */
    board_down(&b);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_rate);
    TEST_RUN(&t, test_late);
    TEST_RUN(&t, test_terminal_count);
    TEST_RUN(&t, test_strobe_and_square);
    TEST_RUN(&t, test_read_back);
    TEST_RUN(&t, test_gate);
    TEST_RUN(&t, test_refresh);
    return test_end(&t);
}
