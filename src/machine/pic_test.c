/* Tests of the 8259A pair: priorities, trigger modes, EOI forms, spurious vectors, polling. */
#include "machine/pic.h"

#include "base/test.h"

struct board {
    struct bus *ports;
    struct pic *pic;
    bool output;
};

static void output_set(void *opaque, unsigned pin, bool level)
{
    struct board *board = opaque;

    (void)pin;
    board->output = level;
}

static void out(struct board *board, uint16_t port, uint8_t value)
{
    bus_write(board->ports, port, 1, value);
}

static uint8_t in(struct board *board, uint16_t port)
{
    return (uint8_t)bus_read(board->ports, port, 1);
}

/* As PC firmware does: vectors 0x20 and 0x28, everything unmasked. */
static void board_program(struct board *board, uint8_t icw4)
{
    static const uint16_t base[2] = {0x20, 0xa0};

    for (unsigned i = 0; i < 2; i++) {
        out(board, base[i], 0x11);
        out(board, base[i] + 1, (uint8_t)(0x20 + 8 * i));
        out(board, base[i] + 1, i == 0 ? 4 : 2);
        out(board, base[i] + 1, icw4);
        out(board, base[i] + 1, 0);
    }
}

static bool board_up(struct test *t, struct board *board)
{
    struct pic_config config = {.output = {.set = output_set, .controller = board}};

    *board = (struct board){0};
    if (!CHECK_EQ(t, bus_new(&board->ports), 0))
        return false;
    config.ports = board->ports;
    if (!CHECK_EQ(t, pic_new(&config, &board->pic), 0))
        return false;
    board_program(board, 1);
    return true;
}

static void board_down(struct board *board)
{
    pic_free(board->pic);
    bus_free(board->ports);
}

static void pulse(struct board *board, unsigned irq)
{
    pic_set_irq(board->pic, irq, true);
    pic_set_irq(board->pic, irq, false);
}

static void test_fully_nested(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    CHECK(t, !b.output);
    pulse(&b, 5);
    pulse(&b, 3);
    CHECK(t, b.output);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x23);
    CHECK(t, !b.output); /* 5 waits for 3 */
    pulse(&b, 1);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x21); /* 1 nests into 3 */
    out(&b, 0x20, 0x20);
    out(&b, 0x20, 0x0b);
    CHECK_EQ(t, in(&b, 0x20), 1u << 3);
    out(&b, 0x20, 0x20);
    CHECK(t, b.output);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x25);
    board_down(&b);
}

static void test_slave(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    pulse(&b, 12);
    pulse(&b, 4);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x2c); /* input 2 is before input 4 */
    CHECK(t, !b.output);
    pulse(&b, 9); /* not in special fully nested mode: the master holds it back */
    CHECK(t, !b.output);
    out(&b, 0xa0, 0x20);
    out(&b, 0x20, 0x20);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x29);
    out(&b, 0xa0, 0x61); /* specific EOI of input 1 */
    out(&b, 0x20, 0x62);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x24);
    board_down(&b);
}

static void test_special_fully_nested(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    board_program(&b, 0x11);
    pulse(&b, 12);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x2c);
    pulse(&b, 9);
    CHECK(t, b.output);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x29);
    board_down(&b);
}

static void test_level(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 0x4d0, 0xff);
    out(&b, 0x4d1, 0xff);
    CHECK_EQ(t, in(&b, 0x4d0), 0xf8);
    CHECK_EQ(t, in(&b, 0x4d1), 0xde);
    pic_set_irq(b.pic, 5, true);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x25);
    out(&b, 0x20, 0x20);
    CHECK(t, b.output); /* still asserted: comes again */
    pic_set_irq(b.pic, 5, false);
    CHECK(t, !b.output);
    board_down(&b);
}

static void test_edge_needs_edge(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    pic_set_irq(b.pic, 5, true);
    pic_set_irq(b.pic, 5, true);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x25);
    out(&b, 0x20, 0x20);
    CHECK(t, !b.output);
    pic_set_irq(b.pic, 5, false);
    pic_set_irq(b.pic, 5, true);
    CHECK(t, b.output);
    board_program(&b, 1); /* ICW1 clears the latch; the high line is no new edge */
    CHECK(t, !b.output);
    board_down(&b);
}

static void test_spurious(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x27);
    out(&b, 0x20, 0x0b);
    CHECK_EQ(t, in(&b, 0x20), 0); /* and sets no in-service bit */
    board_down(&b);
}

static void test_mask_and_special_mask(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 0x21, 0x08);
    pulse(&b, 3);
    CHECK(t, !b.output);
    out(&b, 0x20, 0x0a);
    CHECK_EQ(t, in(&b, 0x20), 0x08); /* latched behind the mask */
    CHECK_EQ(t, in(&b, 0x21), 0x08);
    out(&b, 0x21, 0);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x23);
    pulse(&b, 6);
    CHECK(t, !b.output);
    out(&b, 0x21, 0x08);
    out(&b, 0x20, 0x68); /* special mask: the masked one in service blocks nobody */
    CHECK(t, b.output);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x26);
    out(&b, 0x20, 0x20);
    out(&b, 0x20, 0x0b);
    CHECK_EQ(t, in(&b, 0x20), 0x08); /* the non-specific EOI left it alone */
    board_down(&b);
}

static void test_rotation(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 0x20, 0xc4); /* input 4 lowest: 5 is highest */
    pulse(&b, 0);
    pulse(&b, 5);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x25);
    out(&b, 0x20, 0xa0); /* rotate on EOI: 5 becomes lowest */
    pulse(&b, 5);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x20);
    board_down(&b);
}

static void test_auto_eoi(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    board_program(&b, 3);
    pulse(&b, 4);
    pulse(&b, 6);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x24);
    CHECK_EQ(t, pic_acknowledge(b.pic), 0x26);
    CHECK(t, !b.output);
    board_down(&b);
}

static void test_poll(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 0x20, 0x0c);
    CHECK_EQ(t, in(&b, 0x20), 0);
    pulse(&b, 6);
    out(&b, 0x20, 0x0c);
    CHECK_EQ(t, in(&b, 0x20), 0x86);
    CHECK(t, !b.output);
    out(&b, 0x20, 0x0b);
    CHECK_EQ(t, in(&b, 0x20), 1u << 6);
    board_down(&b);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_fully_nested);
    TEST_RUN(&t, test_slave);
    TEST_RUN(&t, test_special_fully_nested);
    TEST_RUN(&t, test_level);
    TEST_RUN(&t, test_edge_needs_edge);
    TEST_RUN(&t, test_spurious);
    TEST_RUN(&t, test_mask_and_special_mask);
    TEST_RUN(&t, test_rotation);
    TEST_RUN(&t, test_auto_eoi);
    TEST_RUN(&t, test_poll);
    return test_end(&t);
}
