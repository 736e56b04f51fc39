/* Tests of the keyboard controller, as firmware and a driver talk to it. */
#include "dev/legacy/i8042.h"

#include "base/test.h"

struct board {
    struct bus *ports;
    struct i8042 *i8042;
    bool level;
    unsigned edges, resets;
};

static void on_irq(void *opaque, unsigned pin, bool level)
{
    struct board *board = opaque;

    (void)pin;
    board->edges += level && !board->level;
    board->level = level;
}

static void on_reset(void *opaque)
{
    ((struct board *)opaque)->resets++;
}

static bool board_up(struct test *t, struct board *board)
{
    struct i8042_config config = {
        .keyboard_irq = {on_irq, board, 1}, .reset = on_reset, .opaque = board};

    *board = (struct board){0};
    if (!CHECK_EQ(t, bus_new(&board->ports), 0))
        return false;
    config.ports = board->ports;
    return CHECK_EQ(t, i8042_new(&config, &board->i8042), 0);
}

static void board_down(struct board *board)
{
    i8042_free(board->i8042);
    bus_free(board->ports);
}

static void command(struct board *board, uint8_t value)
{
    bus_write(board->ports, 0x64, 1, value);
}

static void data(struct board *board, uint8_t value)
{
    bus_write(board->ports, 0x60, 1, value);
}

static uint8_t status(struct board *board)
{
    return (uint8_t)bus_read(board->ports, 0x64, 1);
}

/* The next byte, or 0x100 when the output buffer is empty. */
static unsigned next(struct board *board)
{
    return status(board) & 1 ? (unsigned)bus_read(board->ports, 0x60, 1) : 0x100;
}

static void test_controller(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    CHECK_EQ(t, next(&b), 0x100);
    CHECK_EQ(t, status(&b) & 0xc2, 0);
    command(&b, 0xaa);
    CHECK_EQ(t, status(&b) & 0x0d, 0x0d);
    CHECK_EQ(t, next(&b), 0x55);
    command(&b, 0xab);
    CHECK_EQ(t, next(&b), 0);
    command(&b, 0x60);
    data(&b, 0x47);
    command(&b, 0x20);
    CHECK_EQ(t, next(&b), 0x47);
    command(&b, 0xad);
    command(&b, 0x20);
    CHECK_EQ(t, next(&b), 0x57);
    command(&b, 0xae);
    command(&b, 0x75); /* its RAM */
    data(&b, 0xa5);
    command(&b, 0x35);
    CHECK_EQ(t, next(&b), 0xa5);
    CHECK_EQ(t, next(&b), 0x100);
    board_down(&b);
}

static void test_no_aux(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    command(&b, 0xd3); /* Linux's loop test: an answer from the wrong channel */
    data(&b, 0x5a);
    CHECK_EQ(t, status(&b) & 0x21, 0x01);
    CHECK_EQ(t, next(&b), 0x5a);
    command(&b, 0xa9);
    CHECK_EQ(t, next(&b), 0x02);
    command(&b, 0xd4);
    data(&b, 0xf2);
    CHECK_EQ(t, status(&b) & 0x61, 0x61);
    CHECK_EQ(t, next(&b), 0xfe);
    CHECK_EQ(t, status(&b) & 0x60, 0);
    board_down(&b);
}

static void test_keyboard(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    command(&b, 0x60);
    data(&b, 0x05); /* interrupt, no translation */
    data(&b, 0xff);
    CHECK(t, b.level);
    CHECK_EQ(t, next(&b), 0xfa);
    CHECK(t, b.level);
    CHECK_EQ(t, b.edges, 2); /* one for each byte */
    CHECK_EQ(t, next(&b), 0xaa);
    CHECK(t, !b.level);
    data(&b, 0xf2);
    CHECK_EQ(t, next(&b), 0xfa);
    CHECK_EQ(t, next(&b), 0xab);
    CHECK_EQ(t, next(&b), 0x83);
    data(&b, 0xfe);
    CHECK_EQ(t, next(&b), 0x83);
    data(&b, 0xed);
    CHECK_EQ(t, next(&b), 0xfa);
    data(&b, 0x07);
    CHECK_EQ(t, next(&b), 0xfa);
    data(&b, 0xf0);
    CHECK_EQ(t, next(&b), 0xfa);
    data(&b, 0x00);
    CHECK_EQ(t, next(&b), 0xfa);
    CHECK_EQ(t, next(&b), 0x02);
    data(&b, 0xed); /* a command instead of the parameter */
    CHECK_EQ(t, next(&b), 0xfa);
    data(&b, 0xf4);
    CHECK_EQ(t, next(&b), 0xfa);
    data(&b, 0xee);
    CHECK_EQ(t, next(&b), 0xee);
    data(&b, 0x01);
    CHECK_EQ(t, next(&b), 0xfe);
    CHECK_EQ(t, next(&b), 0x100);
    command(&b, 0x60);
    data(&b, 0x45); /* translating */
    data(&b, 0xf2);
    CHECK_EQ(t, next(&b), 0xfa);
    CHECK_EQ(t, next(&b), 0xab);
    CHECK_EQ(t, next(&b), 0x41);
    board_down(&b);
}

static void test_queue_bounds(struct test *t)
{
    struct board b;
    unsigned bytes = 0;

    if (!board_up(t, &b))
        return;
    for (unsigned i = 0; i < 1000; i++)
        data(&b, 0xf2);
    while (next(&b) != 0x100 && bytes < 1000)
        bytes++;
    CHECK(t, bytes >= 16 && bytes <= 17);
    for (unsigned i = 0; i < 65536; i++) { /* nothing that is written does harm */
        command(&b, (uint8_t)(i & 0xef));
        data(&b, (uint8_t)(i >> 8));
    }
    board_down(&b);
}

static void test_reset_and_a20(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    command(&b, 0xfe);
    CHECK_EQ(t, b.resets, 1);
    command(&b, 0xff);
    CHECK_EQ(t, b.resets, 1);
    command(&b, 0xd1);
    data(&b, 0xdd);
    CHECK_EQ(t, b.resets, 1);
    command(&b, 0xd0);
    CHECK_EQ(t, next(&b) & 3, 1); /* A20 off */
    CHECK_EQ(t, bus_read(b.ports, 0x92, 1), 0);
    bus_write(b.ports, 0x92, 1, 2);
    command(&b, 0xd0);
    CHECK_EQ(t, next(&b) & 3, 3);
    bus_write(b.ports, 0x92, 1, 3);
    CHECK_EQ(t, b.resets, 2);
    bus_write(b.ports, 0x92, 1, 3);
    CHECK_EQ(t, b.resets, 2);
    command(&b, 0xd1);
    data(&b, 0xfe);
    CHECK_EQ(t, b.resets, 3);
    board_down(&b);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_controller);
    TEST_RUN(&t, test_no_aux);
    TEST_RUN(&t, test_keyboard);
    TEST_RUN(&t, test_queue_bounds);
    TEST_RUN(&t, test_reset_and_a20);
    return test_end(&t);
}
