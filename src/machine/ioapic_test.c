/* Tests of the I/O APIC: registers, edge and level pins, remote IRR, EOI, message form. */
#include "machine/ioapic.h"

#include "base/test.h"

struct board {
    struct bus *mmio;
    struct ioapic *ioapic;
    unsigned sent;
    uint64_t address;
    uint32_t data;
};

static void message(void *opaque, uint64_t address, uint32_t data)
{
    struct board *board = opaque;

    board->sent++;
    board->address = address;
    board->data = data;
}

static uint32_t reg_read(struct board *board, uint8_t index)
{
    bus_write(board->mmio, IOAPIC_BASE, 4, index);
    return (uint32_t)bus_read(board->mmio, IOAPIC_BASE + 0x10, 4);
}

static void reg_write(struct board *board, uint8_t index, uint32_t value)
{
    bus_write(board->mmio, IOAPIC_BASE, 4, index);
    bus_write(board->mmio, IOAPIC_BASE + 0x10, 4, value);
}

static void route(struct board *board, unsigned pin, uint64_t entry)
{
    reg_write(board, (uint8_t)(0x11 + 2 * pin), (uint32_t)(entry >> 32));
    reg_write(board, (uint8_t)(0x10 + 2 * pin), (uint32_t)entry);
}

static bool board_up(struct test *t, struct board *board)
{
    struct ioapic_config config = {.base = IOAPIC_BASE, .target = {message, board}};

    *board = (struct board){0};
    if (!CHECK_EQ(t, bus_new(&board->mmio), 0))
        return false;
    config.mmio = board->mmio;
    return CHECK_EQ(t, ioapic_new(&config, &board->ioapic), 0);
}

static void board_down(struct board *board)
{
    ioapic_free(board->ioapic);
    bus_free(board->mmio);
}

static void test_registers(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    CHECK_EQ(t, reg_read(&b, 1), 0x00170020);
    reg_write(&b, 0, 0xff000000);
    CHECK_EQ(t, reg_read(&b, 0), 0x0f000000);
    CHECK_EQ(t, reg_read(&b, 0x10), 0x10000); /* masked after reset */
    route(&b, 23, UINT64_C(0xffffffffffffffff));
    CHECK_EQ(t, reg_read(&b, 0x3e), 0x1afff); /* status and remote IRR are read-only */
    CHECK_EQ(t, reg_read(&b, 0x3f), 0xff000000);
    CHECK_EQ(t, reg_read(&b, 0x40), 0);
    reg_write(&b, 0x40, 0xffffffff); /* beyond the table: nothing happens */
    reg_write(&b, 0xff, 0xffffffff);
    board_down(&b);
}

static void test_edge(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    ioapic_set_irq(b.ioapic, 4, true);
    ioapic_set_irq(b.ioapic, 4, false);
    CHECK_EQ(t, b.sent, 0);
    route(&b, 4, UINT64_C(0x0300000000000034));
    CHECK_EQ(t, b.sent, 0); /* the edge came while masked */
    ioapic_set_irq(b.ioapic, 4, true);
    CHECK_EQ(t, b.sent, 1);
    CHECK_EQ(t, b.address, 0xfee03000);
    CHECK_EQ(t, b.data, 0x34);
    ioapic_set_irq(b.ioapic, 4, true);
    CHECK_EQ(t, b.sent, 1);
    ioapic_eoi(b.ioapic, 0x34);
    CHECK_EQ(t, b.sent, 1);
    ioapic_set_irq(b.ioapic, 4, false);
    ioapic_set_irq(b.ioapic, 4, true);
    CHECK_EQ(t, b.sent, 2);
    ioapic_set_irq(b.ioapic, 24, true); /* no such pin */
    CHECK_EQ(t, b.sent, 2);
    board_down(&b);
}

static void test_level(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    ioapic_set_irq(b.ioapic, 16, true);
    route(&b, 16, UINT64_C(0x010000000000a951)); /* level, low, logical, lowest priority */
    CHECK_EQ(t, b.sent, 1); /* asserted already: comes as soon as it is unmasked */
    CHECK_EQ(t, b.address, 0xfee0100c);
    CHECK_EQ(t, b.data, 0xc151);
    CHECK_EQ(t, reg_read(&b, 0x30), 0xe951);
    ioapic_set_irq(b.ioapic, 16, true);
    CHECK_EQ(t, b.sent, 1);
    ioapic_eoi(b.ioapic, 0x52); /* another vector */
    CHECK_EQ(t, b.sent, 1);
    ioapic_eoi(b.ioapic, 0x51);
    CHECK_EQ(t, b.sent, 2); /* still asserted */
    ioapic_set_irq(b.ioapic, 16, false);
    bus_write(b.mmio, IOAPIC_BASE + 0x40, 4, 0x51); /* the EOI register */
    CHECK_EQ(t, b.sent, 2);
    CHECK_EQ(t, reg_read(&b, 0x30), 0xa951);
    board_down(&b);
}

static void test_mask_keeps_remote_irr(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    route(&b, 10, 0x8041);
    ioapic_set_irq(b.ioapic, 10, true);
    route(&b, 10, 0x18041);
    CHECK_EQ(t, reg_read(&b, 0x24), 0x1c041);
    ioapic_eoi(b.ioapic, 0x41);
    CHECK_EQ(t, b.sent, 1); /* masked */
    route(&b, 10, 0x8041);
    CHECK_EQ(t, b.sent, 2);
    route(&b, 10, 0x10041); /* to edge and back clears a stuck remote IRR */
    CHECK_EQ(t, reg_read(&b, 0x24), 0x10041);
    board_down(&b);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_registers);
    TEST_RUN(&t, test_edge);
    TEST_RUN(&t, test_level);
    TEST_RUN(&t, test_mask_keeps_remote_irr);
    return test_end(&t);
}
