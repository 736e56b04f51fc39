/* Tests of the ACPI fixed hardware. */
#include "machine/acpi_pm.h"

#include "base/clock.h"
#include "base/fake_time.h"
#include "base/test.h"

struct board {
    struct bus *ports;
    struct acpi_pm *pm;
    bool sci;
    unsigned sleeps, type, wakes, resets;
};

static void on_sci(void *opaque, unsigned pin, bool level)
{
    (void)pin;
    ((struct board *)opaque)->sci = level;
}

static void on_sleep(void *opaque, unsigned type)
{
    ((struct board *)opaque)->sleeps++;
    ((struct board *)opaque)->type = type;
}

static void on_wake(void *opaque)
{
    ((struct board *)opaque)->wakes++;
}

static void on_reset(void *opaque)
{
    ((struct board *)opaque)->resets++;
}

static bool board_up(struct test *t, struct board *board, bool wide)
{
    struct acpi_pm_config config = {
        .sci = {on_sci, board, 9},
        .timer_32bit = wide,
        .sleep = on_sleep,
        .wake = on_wake,
        .reset = on_reset,
        .opaque = board,
    };

    *board = (struct board){0};
    fake_time_reset(NS_PER_SECOND, 0);
    if (!CHECK_EQ(t, bus_new(&board->ports), 0))
        return false;
    config.ports = board->ports;
    return CHECK_EQ(t, acpi_pm_new(&config, &board->pm), 0);
}

static void board_down(struct board *board)
{
    acpi_pm_free(board->pm);
    bus_free(board->ports);
}

static void test_power_button(struct test *t)
{
    struct board b;

    if (!board_up(t, &b, true))
        return;
    acpi_pm_power_button(b.pm);
    CHECK(t, !b.sci); /* not enabled */
    CHECK_EQ(t, bus_read(b.ports, 0x600, 2), 0x100);
    bus_write(b.ports, 0x602, 2, 0x120);
    CHECK(t, b.sci);
    bus_write(b.ports, 0x600, 2, 0x20); /* another bit */
    CHECK(t, b.sci);
    bus_write(b.ports, 0x600, 2, 0x100);
    CHECK(t, !b.sci);
    CHECK_EQ(t, bus_read(b.ports, 0x600, 4), 0x01200000);
    board_down(&b);
}

static void test_sleep(struct test *t)
{
    struct board b;

    if (!board_up(t, &b, true))
        return;
    CHECK_EQ(t, bus_read(b.ports, 0x604, 2), 1); /* SCI_EN */
    bus_write(b.ports, 0x604, 2, 5 << 10);
    CHECK_EQ(t, b.sleeps, 0);
    CHECK_EQ(t, bus_read(b.ports, 0x604, 2), 5 << 10 | 1);
    bus_write(b.ports, 0x604, 2, 5 << 10 | 1 << 13 | 1);
    CHECK_EQ(t, b.sleeps, 1);
    CHECK_EQ(t, b.type, ACPI_PM_SLEEP_S5);
    CHECK_EQ(t, bus_read(b.ports, 0x604, 2), 5 << 10 | 1); /* SLP_EN is write-only */
    board_down(&b);
}

/* The clock wakes if it may, and once; what did it can be read. */
static void test_wake_by_clock(struct test *t)
{
    struct board b;

    if (!board_up(t, &b, true))
        return;
    acpi_pm_rtc_alarm(b.pm);
    bus_write(b.ports, 0x604, 2, 1 << 10 | 1 << 13);
    CHECK_EQ(t, b.type, ACPI_PM_SLEEP_S3);
    acpi_pm_rtc_alarm(b.pm);
    CHECK_EQ(t, b.wakes, 0); /* not enabled */
    acpi_pm_reset(b.pm);
    bus_write(b.ports, 0x602, 2, 1 << 10);
    acpi_pm_rtc_alarm(b.pm);
    bus_write(b.ports, 0x600, 2, 1 << 10);
    CHECK_EQ(t, b.wakes, 0); /* does not sleep */
    bus_write(b.ports, 0x604, 2, 1 << 10 | 1 << 13);
    CHECK_EQ(t, b.wakes, 0);
    acpi_pm_rtc_alarm(b.pm);
    acpi_pm_rtc_alarm(b.pm);
    CHECK_EQ(t, b.wakes, 1);
    acpi_pm_resume(b.pm);
    CHECK_EQ(t, bus_read(b.ports, 0x600, 4), 1 << 15 | 1 << 10);
    bus_write(b.ports, 0x600, 2, 0xffff);
    CHECK_EQ(t, bus_read(b.ports, 0x600, 4), 0);
    board_down(&b);
}

/* The power button wakes in any case; an alarm that came just before wakes at once. */
static void test_wake_by_button(struct test *t)
{
    struct board b;

    if (!board_up(t, &b, true))
        return;
    bus_write(b.ports, 0x604, 2, 1 << 10 | 1 << 13);
    acpi_pm_power_button(b.pm);
    CHECK_EQ(t, b.wakes, 1);
    acpi_pm_resume(b.pm);
    CHECK_EQ(t, bus_read(b.ports, 0x600, 2), 1 << 15 | 1 << 8);
    bus_write(b.ports, 0x600, 2, 0xffff);
    bus_write(b.ports, 0x602, 2, 1 << 10);
    acpi_pm_rtc_alarm(b.pm);
    bus_write(b.ports, 0x604, 2, 1 << 10 | 1 << 13);
    CHECK_EQ(t, b.wakes, 2);
    board_down(&b);
}

static void test_timer(struct test *t)
{
    struct board b;

    if (!board_up(t, &b, false))
        return;
    CHECK_EQ(t, bus_read(b.ports, 0x608, 4), 3579545);
    fake_time_advance(NS_PER_SECOND);
    CHECK_EQ(t, bus_read(b.ports, 0x608, 4), 7159090);
    fake_time_advance(3 * NS_PER_SECOND);
    CHECK_EQ(t, bus_read(b.ports, 0x608, 4), 5 * 3579545 - (1 << 24));
    CHECK_EQ(t, bus_read(b.ports, 0x600, 2), 1); /* the top bit changed */
    bus_write(b.ports, 0x600, 2, 1);
    CHECK_EQ(t, bus_read(b.ports, 0x600, 2), 0);
    bus_write(b.ports, 0x602, 2, 1);
    CHECK(t, !b.sci);
    fake_time_advance(3 * NS_PER_SECOND); /* 2^23 ticks are 2.34 s */
    CHECK(t, b.sci);
    board_down(&b);
    if (!board_up(t, &b, true))
        return;
    fake_time_advance(4 * NS_PER_SECOND);
    CHECK_EQ(t, bus_read(b.ports, 0x608, 4), 5 * 3579545);
    board_down(&b);
}

static void test_gpe(struct test *t)
{
    struct board b;

    if (!board_up(t, &b, true))
        return;
    bus_write(b.ports, 0x622, 2, 1u << 9);
    acpi_pm_gpe(b.pm, 3);
    CHECK(t, !b.sci);
    acpi_pm_gpe(b.pm, 9);
    acpi_pm_gpe(b.pm, 16);
    CHECK(t, b.sci);
    CHECK_EQ(t, bus_read(b.ports, 0x620, 2), 0x208);
    bus_write(b.ports, 0x621, 1, 2);
    CHECK(t, !b.sci);
    board_down(&b);
}

static void test_reset_register(struct test *t)
{
    struct board b;

    if (!board_up(t, &b, true))
        return;
    bus_write(b.ports, 0xcf9, 1, 2);
    CHECK_EQ(t, b.resets, 0);
    bus_write(b.ports, 0xcf9, 1, 6);
    CHECK_EQ(t, b.resets, 1);
    bus_write(b.ports, 0xcf9, 1, 6); /* no new edge */
    CHECK_EQ(t, b.resets, 1);
    acpi_pm_reset(b.pm);
    bus_write(b.ports, 0xcf9, 1, 0xe);
    CHECK_EQ(t, b.resets, 2);
    board_down(&b);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_power_button);
    TEST_RUN(&t, test_sleep);
    TEST_RUN(&t, test_wake_by_clock);
    TEST_RUN(&t, test_wake_by_button);
    TEST_RUN(&t, test_timer);
    TEST_RUN(&t, test_gpe);
    TEST_RUN(&t, test_reset_register);
    return test_end(&t);
}
