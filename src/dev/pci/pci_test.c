/* Configuration space, BARs and interrupts, as a guest sees them. */
#include "dev/pci/pci.h"

#include <stdlib.h>

#include "base/test.h"
#include "mem/bus.h"

#define BDF (3u << 3)

struct card {
    struct pci_device pci;
    uint64_t reads; /* how often its BAR was read */
    bool freed;
};

struct board {
    struct bus *mmio, *ports;
    struct pci_root *root;
    struct card card;
    bool line[4];
    uint64_t msi_address;
    uint32_t msi_data;
    unsigned msi_count;
};

static void card_free(struct pci_device *pci)
{
    ((struct card *)pci)->freed = true;
    pci_device_fini(pci);
}

static const struct pci_device_ops card_ops = {.free = card_free};

static uint64_t card_read(void *opaque, uint64_t offset, unsigned size)
{
    struct card *card = opaque;

    (void)size;
    card->reads++;
    return 0x1000 + offset;
}

static const struct bus_ops card_bar_ops = {.read = card_read};

static void line_set(void *opaque, unsigned pin, bool level)
{
    ((struct board *)opaque)->line[pin] = level;
}

static void msi_send(void *opaque, uint64_t address, uint32_t data)
{
    struct board *board = opaque;

    board->msi_address = address;
    board->msi_data = data;
    board->msi_count++;
}

static void card_build(struct card *card)
{
    const struct pci_identity identity = {.vendor = 0x1234, .device = 0x5678, .intx = true};
    struct pci_bar bar = {.ops = &card_bar_ops, .device = card};

    pci_device_init(&card->pci, "card", &card_ops, &identity);
    bar.kind = PCI_BAR_MEM64;
    bar.size = 0x4000;
    pci_bar_init(&card->pci, 0, &bar);
    bar.kind = PCI_BAR_IO;
    bar.size = 0x20;
    pci_bar_init(&card->pci, 2, &bar);
    pci_msi_init(&card->pci);
    pci_msix_init(&card->pci, 3, 4);
}

static void board_new(struct test *t, struct board *board)
{
    struct pci_root_config config = {.msi = {msi_send, board}};

    memset(board, 0, sizeof *board);
    CHECK_EQ(t, bus_new(&board->mmio), 0);
    CHECK_EQ(t, bus_new(&board->ports), 0);
    config.mmio = board->mmio;
    config.ports = board->ports;
    for (unsigned i = 0; i < 4; i++)
        config.intx[i] = (struct irq_line){line_set, board, i};
    CHECK_EQ(t, pci_root_new(&config, &board->root), 0);
    card_build(&board->card);
    CHECK_EQ(t, pci_root_add(board->root, &board->card.pci, 3), 0);
}

static void board_free(struct test *t, struct board *board)
{
    pci_root_free(board->root);
    CHECK(t, board->card.freed);
    CHECK_EQ(t, bus_read(board->mmio, PCI_ECAM_BASE, 4), 0xffffffff);
    bus_free(board->ports);
    bus_free(board->mmio);
}

static void test_ports(struct test *t)
{
    struct board b;

    board_new(t, &b);
    bus_write(b.ports, 0xcf8, 4, 0x80000000 | BDF << 8);
    CHECK_EQ(t, bus_read(b.ports, 0xcf8, 4), 0x80000000 | BDF << 8);
    CHECK_EQ(t, bus_read(b.ports, 0xcfc, 4), 0x56781234);
    CHECK_EQ(t, bus_read(b.ports, 0xcfe, 2), 0x5678);
    CHECK_EQ(t, bus_read(b.ports, 0xcfd, 1), 0x12);
    bus_write(b.ports, 0xcf8, 4, BDF << 8); /* not enabled */
    CHECK_EQ(t, bus_read(b.ports, 0xcfc, 4), 0xffffffff);
    bus_write(b.ports, 0xcf8, 4, 0x80000000 | 9 << 11); /* nobody there */
    CHECK_EQ(t, bus_read(b.ports, 0xcfc, 4), 0xffffffff);
    bus_write(b.ports, 0xcf8, 4, 0x80000000);
    CHECK_EQ(t, bus_read(b.ports, 0xcfc, 4), 0x00081b36);
    board_free(t, &b);
}

static void test_ecam(struct test *t)
{
    struct board b;
    uint64_t at = PCI_ECAM_BASE + (BDF << 12);

    board_new(t, &b);
    CHECK_EQ(t, bus_read(b.mmio, at, 4), 0x56781234);
    CHECK_EQ(t, bus_read(b.mmio, at + 2, 1), 0x78);
    CHECK_EQ(t, bus_read(b.mmio, at + 0x100, 4), 0); /* no extended capability */
    CHECK_EQ(t, bus_read(b.mmio, at + 0x1000, 4), 0xffffffff);
    CHECK_EQ(t, bus_read(b.mmio, at + (1 << 20), 2), 0xffff);
    bus_write(b.mmio, at + PCI_INTERRUPT_LINE, 1, 11);
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_INTERRUPT_LINE, 1), 11);
    bus_write(b.mmio, at, 4, 0); /* read-only */
    CHECK_EQ(t, bus_read(b.mmio, at, 4), 0x56781234);
    board_free(t, &b);
}

static void test_sizing(struct test *t)
{
    struct board b;

    board_new(t, &b);
    pci_config_write(b.root, BDF, PCI_BAR0, 4, 0xffffffff);
    pci_config_write(b.root, BDF, PCI_BAR0 + 4, 4, 0xffffffff);
    pci_config_write(b.root, BDF, PCI_BAR0 + 8, 4, 0xffffffff);
    pci_config_write(b.root, BDF, PCI_BAR0 + 12, 4, 0xffffffff);
    pci_config_write(b.root, BDF, PCI_BAR0 + 16, 4, 0xffffffff);
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_BAR0, 4), 0xffffc004);
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_BAR0 + 4, 4), 0xffffffff);
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_BAR0 + 8, 4), 0xffffffe1);
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_BAR0 + 12, 4), 0xfffff000);
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_BAR0 + 16, 4), 0); /* no such BAR */
    board_free(t, &b);
}

/* With decoding on a BAR answers where it was put last, and nowhere else. */
static void test_moves(struct test *t)
{
    struct board b;

    board_new(t, &b);
    pci_config_write(b.root, BDF, PCI_BAR0, 4, 0xc0000000);
    CHECK_EQ(t, bus_read(b.mmio, 0xc0000010, 4), 0xffffffff);
    pci_config_write(b.root, BDF, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
    CHECK_EQ(t, bus_read(b.mmio, 0xc0000010, 4), 0x1010);
    pci_config_write(b.root, BDF, PCI_BAR0, 4, 0xd0000000);
    CHECK_EQ(t, bus_read(b.mmio, 0xc0000010, 4), 0xffffffff);
    CHECK_EQ(t, bus_read(b.mmio, 0xd0000010, 4), 0x1010);
    pci_config_write(b.root, BDF, PCI_BAR0 + 4, 4, 0x10);
    CHECK_EQ(t, bus_read(b.mmio, 0x10d0003ffc, 4), 0x4ffc);
    pci_config_write(b.root, BDF, PCI_BAR0 + 8, 4, 0xc000);
    CHECK_EQ(t, bus_read(b.ports, 0xc004, 2), 0x1004);
    pci_config_write(b.root, BDF, PCI_BAR0 + 8, 4, 0xffffffe0); /* beyond the ports */
    CHECK_EQ(t, bus_read(b.ports, 0xffe0, 2), 0xffff);
    pci_config_write(b.root, BDF, PCI_COMMAND, 2, 0);
    CHECK_EQ(t, bus_read(b.mmio, 0x10d0003ffc, 4), 0xffffffff);
    board_free(t, &b);
}

/* A BAR over the ECAM window answers there; moved away, configuration is back. */
static void test_over_ecam(struct test *t)
{
    struct board b;

    board_new(t, &b);
    pci_config_write(b.root, BDF, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    bus_write(b.mmio, PCI_ECAM_BASE + (BDF << 12) + PCI_BAR0, 4, PCI_ECAM_BASE);
    CHECK_EQ(t, bus_read(b.mmio, PCI_ECAM_BASE, 4), 0x1000);
    bus_write(b.ports, 0xcf8, 4, 0x80000000 | BDF << 8 | PCI_BAR0);
    bus_write(b.ports, 0xcfc, 4, 0);
    CHECK_EQ(t, bus_read(b.mmio, PCI_ECAM_BASE, 4), 0x00081b36);
    board_free(t, &b);
}

static void test_reset(struct test *t)
{
    struct board b;

    board_new(t, &b);
    pci_config_write(b.root, BDF, PCI_BAR0, 4, 0xc0000000);
    pci_config_write(b.root, BDF, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    pci_irq_intx(&b.card.pci, true);
    CHECK(t, b.line[3]);
    pci_reset(b.root);
    CHECK(t, !b.line[3]);
    CHECK_EQ(t, bus_read(b.mmio, 0xc0000000, 4), 0xffffffff);
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_BAR0, 4), 4);
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_COMMAND, 2), 0);
    board_free(t, &b);
}

static void test_intx(struct test *t)
{
    struct board b;

    board_new(t, &b);
    pci_irq_intx(&b.card.pci, true);
    CHECK(t, b.line[3]); /* INTA of slot 3 */
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_STATUS, 2), 0x18);
    pci_config_write(b.root, BDF, PCI_COMMAND, 2, PCI_COMMAND_INTX_OFF);
    CHECK(t, !b.line[3]);
    pci_config_write(b.root, BDF, PCI_COMMAND, 2, 0);
    CHECK(t, b.line[3]);
    pci_irq_intx(&b.card.pci, false);
    CHECK(t, !b.line[3]);
    board_free(t, &b);
}

static void test_msi(struct test *t)
{
    struct board b;
    unsigned at;

    board_new(t, &b);
    at = b.card.pci.msi_offset;
    pci_config_write(b.root, BDF, at + 4, 4, 0xfee01003);
    pci_config_write(b.root, BDF, at + 12, 2, 0x41);
    pci_irq_msi(&b.card.pci);
    CHECK_EQ(t, b.msi_count, 0);
    pci_config_write(b.root, BDF, at + 2, 2, 1);
    pci_config_write(b.root, BDF, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    pci_irq_msi(&b.card.pci);
    CHECK_EQ(t, b.msi_count, 1);
    CHECK_EQ(t, b.msi_address, 0xfee01000);
    CHECK_EQ(t, b.msi_data, 0x41);
    board_free(t, &b);
}

static void msix_table(struct board *b, uint64_t table)
{
    pci_config_write(b->root, BDF, PCI_BAR0 + 12, 4, (uint32_t)table);
    pci_config_write(b->root, BDF, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    bus_write(b->mmio, table + 16, 4, 0xfee02000);
    bus_write(b->mmio, table + 24, 8, 0x55); /* data, and unmasked */
}

static void test_msix(struct test *t)
{
    const uint64_t table = 0xc0100000;
    struct board b;
    unsigned control;

    board_new(t, &b);
    control = b.card.pci.msix_offset + 2;
    CHECK_EQ(t, pci_config_read(b.root, BDF, control, 2), 3);
    msix_table(&b, table);
    pci_irq_msix(&b.card.pci, 1);
    CHECK_EQ(t, b.msi_count, 0); /* not enabled */
    pci_config_write(b.root, BDF, control, 2, 0xc000);
    pci_irq_msix(&b.card.pci, 1);
    CHECK_EQ(t, b.msi_count, 0); /* all masked: pending */
    CHECK_EQ(t, bus_read(b.mmio, table + 0x800, 4), 2);
    pci_config_write(b.root, BDF, control, 2, 0x8000);
    CHECK_EQ(t, b.msi_count, 1);
    CHECK_EQ(t, b.msi_address, 0xfee02000);
    CHECK_EQ(t, b.msi_data, 0x55);
    CHECK_EQ(t, bus_read(b.mmio, table + 0x800, 8), 0);
    pci_irq_msix(&b.card.pci, 2); /* masked by itself since reset */
    CHECK_EQ(t, b.msi_count, 1);
    bus_write(b.mmio, table + 44, 4, 0);
    CHECK_EQ(t, b.msi_count, 2);
    pci_irq_msix(&b.card.pci, 4);
    pci_irq_msix(&b.card.pci, 0xffff);
    CHECK_EQ(t, b.msi_count, 2);
    board_free(t, &b);
}

static void test_assign(struct test *t)
{
    const struct pci_windows small = {0xc0000000, 0x4000, 0xc000, 0x1000, 16};
    const struct pci_windows good = {0xc0000800, 0x100000, 0xc010, 0x1000, 16};
    struct board b;

    board_new(t, &b);
    CHECK_EQ(t, -pci_assign_resources(b.root, &small), 28); /* ENOSPC */
    CHECK_EQ(t, pci_assign_resources(b.root, &good), 0);
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_BAR0, 4), 0xc0004004);
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_BAR0 + 8, 4), 0xc021);
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_INTERRUPT_LINE, 1), 19);
    CHECK_EQ(t, bus_read(b.mmio, 0xc0004000, 4), 0x1000);
    CHECK_EQ(t, bus_read(b.ports, 0xc020, 2), 0x1000);
    board_free(t, &b);
}

/* Accesses that no driver makes, all of them, change nothing but what they may. */
static void test_odd_accesses(struct test *t)
{
    struct board b;

    board_new(t, &b);
    for (unsigned offset = 0; offset < 4100; offset++) {
        for (unsigned size = 0; size <= 8; size++)
            pci_config_write(b.root, BDF, offset, size, 0xa5a5a5a5);
    }
    CHECK_EQ(t, pci_config_read(b.root, BDF, 0, 4), 0x56781234);
    CHECK_EQ(t, pci_config_read(b.root, BDF, 1, 2), 0x7812);
    CHECK_EQ(t, pci_config_read(b.root, BDF, 254, 4) & 0xffff0000, 0);
    CHECK_EQ(t, pci_config_read(b.root, 0xffffffff, 0, 4), 0xffffffff);
    pci_config_write(b.root, 0xffffffff, 0, 4, 0);
    pci_reset(b.root);
    CHECK_EQ(t, pci_config_read(b.root, BDF, PCI_BAR0, 4), 4);
    board_free(t, &b);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_ports);
    TEST_RUN(&t, test_ecam);
    TEST_RUN(&t, test_sizing);
    TEST_RUN(&t, test_moves);
    TEST_RUN(&t, test_over_ecam);
    TEST_RUN(&t, test_reset);
    TEST_RUN(&t, test_intx);
    TEST_RUN(&t, test_msi);
    TEST_RUN(&t, test_msix);
    TEST_RUN(&t, test_assign);
    TEST_RUN(&t, test_odd_accesses);
    return test_end(&t);
}
