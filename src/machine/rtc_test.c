/* Tests of the MC146818: time in its formats, setting, the three interrupts, UIP, CMOS cells. */
#include "machine/rtc.h"

#include "base/clock.h"
#include "base/fake_time.h"
#include "base/test.h"

#define START      (UINT64_C(1700000000) * NS_PER_SECOND) /* Tuesday 2023-11-14 22:13:20 */

#define SECONDS(n) ((n)*NS_PER_SECOND)

struct board {
    struct bus *ports;
    struct rtc *rtc;
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

static uint8_t in(struct board *board, uint8_t reg)
{
    bus_write(board->ports, 0x70, 1, reg | 0x80u);
    return (uint8_t)bus_read(board->ports, 0x71, 1);
}

static void out(struct board *board, uint8_t reg, uint8_t value)
{
    bus_write(board->ports, 0x70, 1, reg);
    bus_write(board->ports, 0x71, 1, value);
}

static bool board_up(struct test *t, struct board *board)
{
    struct rtc_config config = {
        .irq = {on_irq, board, 8},
        .ram_below_4g_bytes = UINT64_C(3) << 30,
        .ram_above_4g_bytes = UINT64_C(5) << 30,
        .vcpu_count = 4,
    };

    *board = (struct board){0};
    fake_time_reset(NS_PER_SECOND, START);
    if (!CHECK_EQ(t, bus_new(&board->ports), 0))
        return false;
    config.ports = board->ports;
    return CHECK_EQ(t, rtc_new(&config, &board->rtc), 0);
}

static void board_down(struct board *board)
{
    rtc_free(board->rtc);
    bus_free(board->ports);
}

static void test_time(struct test *t)
{
    static const uint8_t bcd[] = {0x20, 0, 0x13, 0, 0x22, 0, 0x03, 0x14, 0x11, 0x23};
    struct board b;

    if (!board_up(t, &b))
        return;
    for (uint8_t reg = 0; reg < sizeof bcd; reg++)
        CHECK_EQ(t, in(&b, reg), bcd[reg]);
    CHECK_EQ(t, in(&b, 0x32), 0x20);
    CHECK_EQ(t, in(&b, 0x0d), 0x80);
    out(&b, 0x0b, 0x06); /* binary */
    CHECK_EQ(t, in(&b, 0x04), 22);
    CHECK_EQ(t, in(&b, 0x09), 23);
    out(&b, 0x0b, 0x00); /* BCD, 12 hours */
    CHECK_EQ(t, in(&b, 0x04), 0x90);
    fake_time_advance(2 * 3600 * NS_PER_SECOND);
    CHECK_EQ(t, in(&b, 0x04), 0x12); /* past midnight */
    CHECK_EQ(t, in(&b, 0x07), 0x15);
    board_down(&b);
}

static void test_setting(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 0x0b, 0x82); /* SET: the clock stands */
    out(&b, 0x00, 0x59);
    out(&b, 0x02, 0x59);
    out(&b, 0x04, 0x23);
    out(&b, 0x07, 0x28);
    out(&b, 0x08, 0x02);
    out(&b, 0x09, 0x24);
    fake_time_advance(10 * NS_PER_SECOND);
    CHECK_EQ(t, in(&b, 0x00), 0x59);
    out(&b, 0x0b, 0x02);
    CHECK_EQ(t, in(&b, 0x00), 0x59);
    fake_time_advance(NS_PER_SECOND); /* 2024 is a leap year */
    CHECK_EQ(t, in(&b, 0x00), 0x00);
    CHECK_EQ(t, in(&b, 0x04), 0x00);
    CHECK_EQ(t, in(&b, 0x07), 0x29);
    CHECK_EQ(t, in(&b, 0x08), 0x02);
    CHECK_EQ(t, in(&b, 0x06), 0x05);
    out(&b, 0x09, 0x30); /* also without SET */
    CHECK_EQ(t, in(&b, 0x09), 0x30);
    for (uint8_t reg = 0; reg < 128; reg++) /* nonsense makes some time, and no harm */
        out(&b, reg, 0xff);
    for (uint8_t reg = 0; reg < 128; reg++)
        in(&b, reg);
    fake_time_advance(3 * NS_PER_SECOND);
    rtc_reset(b.rtc);
    CHECK_EQ(t, in(&b, 0x0b) & 0xf0, 0);
    board_down(&b);
}

static void test_periodic(struct test *t)
{
    struct board b;
    unsigned seen = 0;

    if (!board_up(t, &b))
        return;
    fake_time_advance(NS_PER_MS);
    CHECK_EQ(t, in(&b, 0x0c) & 0x40, 0x40); /* flags are set without the enable, too */
    CHECK_EQ(t, b.edges, 0);
    out(&b, 0x0a, 0x26); /* 1024 Hz */
    out(&b, 0x0b, 0x42);
    (void)in(&b, 0x0c);
    for (unsigned i = 0; i < 1000; i++) {
        fake_time_advance(NS_PER_MS);
        if (b.level)
            seen += in(&b, 0x0c) == 0xc0;
        else
            CHECK_EQ(t, in(&b, 0x0c) & 0xc0, 0);
    }
    CHECK(t, seen >= 970 && seen <= 1000); /* an update's flag comes with one of them */
    CHECK(t, !b.level);
    fake_time_advance(NS_PER_SECOND); /* not acknowledged: no further edges */
    CHECK(t, b.level);
    seen = b.edges;
    fake_time_advance(NS_PER_SECOND);
    CHECK_EQ(t, b.edges, seen);
    board_down(&b);
}

static void test_update(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    (void)in(&b, 0x0c);
    out(&b, 0x0a, 0x20);
    out(&b, 0x0b, 0x12);
    fake_time_advance(NS_PER_SECOND - 1000);
    CHECK(t, !b.level);
    CHECK_EQ(t, in(&b, 0x0a), 0xa0); /* update in progress */
    fake_time_advance(1000);
    CHECK(t, b.level);
    CHECK_EQ(t, in(&b, 0x0a), 0x20);
    CHECK_EQ(t, in(&b, 0x0c), 0x90);
    CHECK_EQ(t, in(&b, 0x0c), 0);
    fake_time_advance(5 * NS_PER_SECOND - 1);
    CHECK_EQ(t, b.edges, 2);
    board_down(&b);
}

static void test_alarm(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 0x0a, 0x20);
    out(&b, 0x05, 0x22);
    out(&b, 0x03, 0x15);
    out(&b, 0x01, 0x30);
    out(&b, 0x0b, 0x22);
    fake_time_advance(130 * NS_PER_SECOND - 1);
    CHECK(t, !b.level);
    fake_time_advance(1);
    CHECK(t, b.level);
    CHECK_EQ(t, in(&b, 0x0c), 0xb0);
    fake_time_advance(SECONDS(86400) - 1);
    CHECK_EQ(t, b.edges, 1);
    fake_time_advance(1);
    CHECK_EQ(t, b.edges, 2);
    (void)in(&b, 0x0c);
    out(&b, 0x05, 0xff); /* any hour, any minute: each minute */
    out(&b, 0x03, 0xc0);
    fake_time_advance(SECONDS(60));
    CHECK_EQ(t, b.edges, 3);
    (void)in(&b, 0x0c);
    out(&b, 0x01, 0x75); /* a second that never comes */
    fake_time_advance(SECONDS(86400 * 2));
    CHECK_EQ(t, b.edges, 3);
    board_down(&b);
}

static void test_cells(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    CHECK_EQ(t, in(&b, 0x15) | in(&b, 0x16) << 8, 640);
    CHECK_EQ(t, in(&b, 0x30) | in(&b, 0x31) << 8, 0xffff);
    CHECK_EQ(t, in(&b, 0x34) | in(&b, 0x35) << 8, (3072 - 16) * 16);
    CHECK_EQ(t, in(&b, 0x5b) | in(&b, 0x5c) << 8 | in(&b, 0x5d) << 16, 5120 * 16);
    CHECK_EQ(t, in(&b, 0x5f), 3);
    rtc_cmos_set(b.rtc, 0x3d, 0x21);
    rtc_cmos_set(b.rtc, 0x0b, 0xff); /* not a RAM cell */
    CHECK_EQ(t, in(&b, 0x3d), 0x21);
    CHECK_EQ(t, in(&b, 0x0b), 0x02);
    out(&b, 0x70, 0x5a);
    rtc_reset(b.rtc);
    CHECK_EQ(t, in(&b, 0x70), 0x5a); /* RAM outlives a reset */
    CHECK_EQ(t, bus_read(b.ports, 0x70, 1), 0xff);
    board_down(&b);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_time);
    TEST_RUN(&t, test_setting);
    TEST_RUN(&t, test_periodic);
    TEST_RUN(&t, test_update);
    TEST_RUN(&t, test_alarm);
    TEST_RUN(&t, test_cells);
    return test_end(&t);
}
