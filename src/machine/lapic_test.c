/* Tests of the LAPICs: acceptance order, EOI, modes, destinations, timer, and posting in parallel.
 */
#include "machine/lapic.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/fake_time.h"
#include "base/test.h"

#define CPUS 4

struct board {
    struct lapic_set *set;
    struct lapic *cpu[CPUS];
    atomic_bool pending[CPUS];
    unsigned nmi[CPUS], init[CPUS], startup[CPUS], startup_vector[CPUS];
    unsigned eois, eoi_vector, pic_acknowledges;
};

static uint64_t tsc_fake(void)
{
    return clock_monotonic_ns() * 3;
}

static const struct tsc_clock tsc = {.hz = UINT64_C(3000000000), .read = tsc_fake};

static void on_interrupt(void *opaque, unsigned vcpu, bool pending)
{
    struct board *board = opaque;

    atomic_store(&board->pending[vcpu], pending);
}

static void on_nmi(void *opaque, unsigned vcpu)
{
    ((struct board *)opaque)->nmi[vcpu]++;
}

static void on_init(void *opaque, unsigned vcpu)
{
    ((struct board *)opaque)->init[vcpu]++;
}

static void on_startup(void *opaque, unsigned vcpu, uint8_t vector)
{
    struct board *board = opaque;

    board->startup[vcpu]++;
    board->startup_vector[vcpu] = vector;
}

static const struct lapic_ops ops = {on_interrupt, on_nmi, on_init, on_startup};

static void on_eoi(void *opaque, uint8_t vector)
{
    struct board *board = opaque;

    board->eois++;
    board->eoi_vector = vector;
}

static uint8_t on_pic_acknowledge(void *opaque)
{
    struct board *board = opaque;

    board->pic_acknowledges++;
    lapic_set_lint0(board->set, 0, false);
    return 0x33;
}

static void mmio(struct board *board, unsigned cpu, uint32_t offset, uint32_t value)
{
    lapic_mmio_write(board->cpu[cpu], offset, 4, value);
}

static uint32_t mmio_in(struct board *board, unsigned cpu, uint32_t offset)
{
    return (uint32_t)lapic_mmio_read(board->cpu[cpu], offset, 4);
}

/* All software-enabled, flat logical IDs 1 << index; of old CPUs, or of new ones. */
static bool board_up_as(struct test *t, struct board *board, bool new)
{
    struct lapic_set_config config = {.count = CPUS,
                                      .physical_bits = 46,
                                      .x2apic = new,
                                      .tsc_deadline = new,
                                      .tsc = &tsc,
                                      .ops = &ops,
                                      .opaque = board};
    struct lapic_chips chips = {on_eoi, board, on_pic_acknowledge, board};

    *board = (struct board){0};
    fake_time_reset(NS_PER_SECOND, 0);
    if (!CHECK_EQ(t, lapic_set_new(&config, &board->set), 0))
        return false;
    lapic_set_wire(board->set, &chips);
    for (unsigned i = 0; i < CPUS; i++) {
        board->cpu[i] = lapic_set_get(board->set, i);
        mmio(board, i, 0xf0, 0x1ff);
        mmio(board, i, 0xd0, 1u << (24 + i));
    }
    return true;
}

static bool board_up(struct test *t, struct board *board)
{
    return board_up_as(t, board, true);
}

static void board_down(struct board *board)
{
    lapic_set_free(board->set);
}

static void msi(struct board *board, uint32_t destination, uint32_t data)
{
    lapic_set_deliver_msi(board->set, 0xfee00000 | destination << 12, data);
}

static void test_reset_values(struct test *t)
{
    struct board b;
    uint64_t value;

    if (!board_up(t, &b))
        return;
    lapic_set_reset(b.set);
    CHECK_EQ(t, mmio_in(&b, 2, 0x20), 2u << 24);
    CHECK_EQ(t, mmio_in(&b, 0, 0x30), 0x50014);
    CHECK_EQ(t, mmio_in(&b, 0, 0xf0), 0xff);
    CHECK_EQ(t, mmio_in(&b, 0, 0xe0), UINT32_MAX);
    CHECK_EQ(t, mmio_in(&b, 0, 0x350), 0x700); /* virtual wire on the first */
    CHECK_EQ(t, mmio_in(&b, 1, 0x350), 0x10000);
    CHECK_EQ(t, mmio_in(&b, 0, 0x320), 0x10000);
    CHECK_EQ(t, lapic_msr_read(b.cpu[0], 0x1b, &value), 0);
    CHECK_EQ(t, value, 0xfee00900);
    CHECK_EQ(t, lapic_msr_read(b.cpu[1], 0x1b, &value), 0);
    CHECK_EQ(t, value, 0xfee00800);
    CHECK_EQ(t, lapic_msr_read(b.cpu[1], 0x700, &value), (uint64_t)-ENOENT);
    CHECK(t, lapic_set_get(b.set, CPUS) == NULL);
    board_down(&b);
}

static void test_acceptance_order(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    msi(&b, 0, 0x41);
    msi(&b, 0, 0x95);
    msi(&b, 0, 0x93);
    CHECK(t, b.pending[0]);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[0]), 0x95);
    CHECK(t, !b.pending[0]); /* 0x93 is of the same class */
    CHECK_EQ(t, mmio_in(&b, 0, 0xa0), 0x90);
    msi(&b, 0, 0xa0);
    CHECK(t, b.pending[0]);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[0]), 0xa0); /* nests */
    mmio(&b, 0, 0xb0, 0);
    CHECK(t, !b.pending[0]);
    mmio(&b, 0, 0xb0, 0);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[0]), 0x93);
    mmio(&b, 0, 0xb0, 0);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[0]), 0x41);
    mmio(&b, 0, 0xb0, 0);
    CHECK(t, !b.pending[0]);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[0]), (uint64_t)-1);
    mmio(&b, 0, 0xb0, 0); /* nothing in service: no harm */
    CHECK_EQ(t, b.eois, 0);
    board_down(&b);
}

static void test_task_priority(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    lapic_cr8_set(b.cpu[0], 5);
    CHECK_EQ(t, mmio_in(&b, 0, 0x80), 0x50);
    msi(&b, 0, 0x5f);
    CHECK(t, !b.pending[0]);
    CHECK(t, !lapic_has_interrupt(b.cpu[0]));
    msi(&b, 0, 0x60);
    CHECK(t, b.pending[0]);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[0]), 0x60);
    mmio(&b, 0, 0xb0, 0);
    CHECK(t, !b.pending[0]);
    mmio(&b, 0, 0x80, 0x4f);
    CHECK_EQ(t, lapic_cr8_get(b.cpu[0]), 4);
    CHECK(t, b.pending[0]);
    mmio(&b, 0, 0x80, 0xff); /* raised again before it was taken */
    CHECK(t, !b.pending[0]);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[0]), (uint64_t)-1);
    board_down(&b);
}

static void test_level_eoi(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    msi(&b, 1, 0xc051); /* level, asserted */
    CHECK_EQ(t, mmio_in(&b, 1, 0x1a0), 1u << 17);
    CHECK_EQ(t, mmio_in(&b, 1, 0x220), 1u << 17);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[1]), 0x51);
    CHECK_EQ(t, mmio_in(&b, 1, 0x120), 1u << 17);
    CHECK_EQ(t, mmio_in(&b, 1, 0x220), 0);
    mmio(&b, 1, 0xb0, 0);
    CHECK_EQ(t, b.eois, 1);
    CHECK_EQ(t, b.eoi_vector, 0x51);
    msi(&b, 1, 0x51); /* the same vector as an edge: no broadcast */
    CHECK_EQ(t, mmio_in(&b, 1, 0x1a0), 0);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[1]), 0x51);
    mmio(&b, 1, 0xb0, 0);
    CHECK_EQ(t, b.eois, 1);
    board_down(&b);
}

static void icr(struct board *board, unsigned cpu, uint32_t destination, uint32_t low)
{
    mmio(board, cpu, 0x310, destination << 24);
    mmio(board, cpu, 0x300, low);
}

static unsigned pending_mask(struct board *board)
{
    unsigned mask = 0;

    for (unsigned i = 0; i < CPUS; i++) {
        mask |= (unsigned)lapic_has_interrupt(board->cpu[i]) << i;
        if (lapic_acknowledge(board->cpu[i]) >= 0)
            mmio(board, i, 0xb0, 0);
    }
    return mask;
}

static void test_ipi_destinations(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    icr(&b, 0, 2, 0x40);
    CHECK_EQ(t, pending_mask(&b), 4);
    icr(&b, 0, 0xff, 0x40);
    CHECK_EQ(t, pending_mask(&b), 15);
    icr(&b, 1, 0, 0x40040); /* self */
    CHECK_EQ(t, pending_mask(&b), 2);
    icr(&b, 1, 0, 0x80040); /* all */
    CHECK_EQ(t, pending_mask(&b), 15);
    icr(&b, 1, 0, 0xc0040); /* all but self */
    CHECK_EQ(t, pending_mask(&b), 13);
    icr(&b, 0, 0x0a, 0x840); /* flat logical */
    CHECK_EQ(t, pending_mask(&b), 10);
    icr(&b, 0, 77, 0x40);
    CHECK_EQ(t, pending_mask(&b), 0);
    for (unsigned i = 0; i < CPUS; i++) { /* clusters of two */
        mmio(&b, i, 0xe0, 0);
        mmio(&b, i, 0xd0, ((i / 2) << 4 | 1u << (i % 2)) << 24);
    }
    icr(&b, 0, 0x13, 0x840);
    CHECK_EQ(t, pending_mask(&b), 12);
    icr(&b, 0, 0x02, 0x840);
    CHECK_EQ(t, pending_mask(&b), 2);
    board_down(&b);
}

static void test_ipi_modes(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    icr(&b, 0, 3, 0x400);
    CHECK_EQ(t, b.nmi[3], 1);
    icr(&b, 0, 1, 0xc500);
    CHECK_EQ(t, b.init[1], 1);
    icr(&b, 0, 1, 0x8500); /* de-assert */
    CHECK_EQ(t, b.init[1], 1);
    icr(&b, 0, 1, 0x69a);
    CHECK_EQ(t, b.startup[1], 1);
    CHECK_EQ(t, b.startup_vector[1], 0x9a);
    icr(&b, 0, 0, 0xc4500 | 0x80000); /* INIT to all but self */
    CHECK_EQ(t, b.init[0], 0);
    CHECK_EQ(t, b.init[3], 1);
    lapic_init_reset(b.cpu[3]);
    CHECK_EQ(t, mmio_in(&b, 3, 0xf0), 0xff);
    CHECK_EQ(t, mmio_in(&b, 3, 0x20), 3u << 24);
    board_down(&b);
}

static void test_lowest_priority(struct test *t)
{
    struct board b;
    unsigned got[CPUS] = {0};

    if (!board_up(t, &b))
        return;
    mmio(&b, 0, 0x80, 0x30);
    mmio(&b, 1, 0x80, 0x20);
    mmio(&b, 2, 0x80, 0x20);
    for (unsigned i = 0; i < 20; i++) {
        lapic_set_deliver_msi(b.set, 0xfee0700c, 0x141); /* 0, 1 or 2 */
        for (unsigned cpu = 0; cpu < CPUS; cpu++) {
            if (lapic_acknowledge(b.cpu[cpu]) == 0x41) {
                got[cpu]++;
                mmio(&b, cpu, 0xb0, 0);
            }
        }
    }
    CHECK_EQ(t, got[0] + got[3], 0);
    CHECK_EQ(t, got[1] + got[2], 20);
    CHECK(t, got[1] > 0 && got[2] > 0);
    board_down(&b);
}

static void test_errors(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    mmio(&b, 0, 0x370, 0xfe);
    icr(&b, 0, 1, 0x0f);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[0]), 0xfe);
    CHECK_EQ(t, mmio_in(&b, 0, 0x280), 0); /* latched by a write only */
    mmio(&b, 0, 0x280, 0);
    CHECK_EQ(t, mmio_in(&b, 0, 0x280), 1u << 5);
    mmio(&b, 0, 0x280, 0);
    CHECK_EQ(t, mmio_in(&b, 0, 0x280), 0);
    msi(&b, 1, 0x0e);
    mmio(&b, 1, 0x280, 0);
    CHECK_EQ(t, mmio_in(&b, 1, 0x280), 1u << 6);
    mmio(&b, 2, 0x370, 0x03); /* an error vector that is itself an error */
    mmio(&b, 2, 0x3f0, 1);
    mmio(&b, 2, 0x280, 0);
    CHECK_EQ(t, mmio_in(&b, 2, 0x280), 3u << 6);
    CHECK_EQ(t, lapic_mmio_read(b.cpu[0], 0x21, 4), 0);
    CHECK_EQ(t, lapic_mmio_read(b.cpu[0], 0x20, 1), 0);
    lapic_mmio_write(b.cpu[0], 0xfffffff0, 4, 1);
    board_down(&b);
}

static void test_software_disable(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    mmio(&b, 0, 0x320, 0x40);
    msi(&b, 0, 0x50);
    mmio(&b, 0, 0xf0, 0xff);
    CHECK_EQ(t, mmio_in(&b, 0, 0x320), 0x10040);
    CHECK(t, b.pending[0]); /* what is requested stays (11.4.7.2) */
    CHECK_EQ(t, lapic_acknowledge(b.cpu[0]), 0x50);
    mmio(&b, 0, 0xb0, 0);
    msi(&b, 0, 0x51);
    CHECK(t, !lapic_has_interrupt(b.cpu[0]));
    mmio(&b, 0, 0x320, 0x40);
    CHECK_EQ(t, mmio_in(&b, 0, 0x320), 0x10040); /* mask bits are stuck */
    msi(&b, 0, 0x400);
    CHECK_EQ(t, b.nmi[0], 1);
    board_down(&b);
}

static void test_extint(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    mmio(&b, 0, 0x350, 0x700);
    lapic_set_lint0(b.set, 0, true);
    CHECK(t, b.pending[0]);
    CHECK(t, !b.pending[1]); /* masked there */
    CHECK_EQ(t, lapic_acknowledge(b.cpu[0]), 0x33);
    CHECK_EQ(t, b.pic_acknowledges, 1);
    CHECK(t, !b.pending[0]);
    CHECK_EQ(t, mmio_in(&b, 0, 0xa0), 0); /* nothing in service here */
    lapic_set_lint0(b.set, 0, true);
    lapic_set_lint0(b.set, 0, false);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[0]), (uint64_t)-1); /* withdrawn */
    mmio(&b, 0, 0x350, 0x10700);
    lapic_set_lint0(b.set, 0, true);
    CHECK(t, !lapic_has_interrupt(b.cpu[0]));
    mmio(&b, 0, 0x350, 0x700);
    CHECK(t, b.pending[0]);
    CHECK_EQ(t, lapic_msr_write(b.cpu[2], 0x1b, 0xfee00000), 0);
    CHECK(t, b.pending[2]); /* disabled: LINT0 is the CPU's INTR pin */
    msi(&b, 1, 0x700);      /* ExtINT as a message, once */
    CHECK_EQ(t, lapic_acknowledge(b.cpu[1]), 0x33);
    CHECK(t, !lapic_has_interrupt(b.cpu[1]));
    mmio(&b, 0, 0x360, 0x400);
    lapic_set_lint1(b.set, 0, true);
    CHECK_EQ(t, b.nmi[0], 1);
    CHECK_EQ(t, b.nmi[1], 0);
    board_down(&b);
}

static void test_x2apic(struct test *t)
{
    struct board b;
    uint64_t value;

    if (!board_up(t, &b))
        return;
    CHECK_EQ(t, lapic_msr_read(b.cpu[0], 0x802, &value), (uint64_t)-EINVAL);
    for (unsigned i = 0; i < CPUS; i++)
        CHECK_EQ(t, lapic_msr_write(b.cpu[i], 0x1b, 0xfee00c00 | (i ? 0 : 0x100)), 0);
    CHECK(t, !lapic_mmio_enabled(b.cpu[1]));
    CHECK_EQ(t, lapic_msr_read(b.cpu[3], 0x802, &value), 0);
    CHECK_EQ(t, value, 3);
    CHECK_EQ(t, lapic_msr_read(b.cpu[3], 0x80d, &value), 0);
    CHECK_EQ(t, value, 8);
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x830, UINT64_C(0x0000000a00000840)), 0);
    for (unsigned i = 0; i < CPUS; i++) {
        CHECK_EQ(t, lapic_acknowledge(b.cpu[i]), i & 1 ? 0x40 : (uint64_t)-1);
        CHECK_EQ(t, lapic_msr_write(b.cpu[i], 0x80b, 0), 0);
    }
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x830, UINT64_C(0x0001000f00000840)), 0);
    CHECK(t, !lapic_has_interrupt(b.cpu[0])); /* another cluster */
    CHECK_EQ(t, lapic_msr_write(b.cpu[2], 0x83f, 0x77), 0);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[2]), 0x77);
    msi(&b, 1, 0x61);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[1]), 0x61);
    /* what faults */
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x80b, 1), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x808, 0x100), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x802, 0), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x831, 0), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x80e, 0), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x83f, 0x100), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_read(b.cpu[0], 0x80b, &value), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_read(b.cpu[0], 0x83f, &value), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_read(b.cpu[0], 0x8ff, &value), (uint64_t)-EINVAL);
    board_down(&b);
}

/* SDM vol. 3, 11.4.6: an ID can be changed, even to one that another has, where the model allows;
 * INIT leaves it, a LAPIC that is disabled and enabled has its first one again (11.4.7). */
static void test_id_change(struct test *t)
{
    struct board b;

    if (!board_up_as(t, &b, false))
        return;
    mmio(&b, 1, 0x20, 0x07000000);
    mmio(&b, 3, 0x20, 0x07000000);
    CHECK_EQ(t, mmio_in(&b, 1, 0x20), 0x07000000);
    msi(&b, 7, 0x61);
    msi(&b, 1, 0x62);
    msi(&b, 2, 0x63);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[1]), 0x61);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[2]), 0x63);
    CHECK_EQ(t, lapic_acknowledge(b.cpu[3]), 0x61);
    CHECK(t, !lapic_has_interrupt(b.cpu[1]));
    lapic_init_reset(b.cpu[3]);
    CHECK_EQ(t, mmio_in(&b, 3, 0x20), 0x07000000);
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, 0xfee00000), 0);
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, 0xfee00800), 0);
    CHECK_EQ(t, mmio_in(&b, 1, 0x20), 0x01000000);
    board_down(&b);
    if (!board_up(t, &b))
        return;
    mmio(&b, 1, 0x20, 0x07000000);
    CHECK_EQ(t, mmio_in(&b, 1, 0x20), 0x01000000);
    board_down(&b);
}

/* What CPUID does not offer is reserved. */
static void test_without_features(struct test *t)
{
    struct board b;
    uint64_t value;

    if (!board_up_as(t, &b, false))
        return;
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, 0xfee00c00), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_read(b.cpu[1], 0x1b, &value), 0);
    CHECK_EQ(t, value, 0xfee00800);
    CHECK_EQ(t, lapic_msr_read(b.cpu[1], 0x6e0, &value), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x6e0, 1), (uint64_t)-EINVAL);
    mmio(&b, 1, 0x320, 0x40040); /* TSC-deadline mode */
    CHECK_EQ(t, mmio_in(&b, 1, 0x320), 0x40);
    board_down(&b);
}

static void test_base_transitions(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, 0xfee00400), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, 0xfee00801), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, UINT64_C(1) << 52 | 0x800), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, UINT64_C(1) << 46 | 0x800), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, UINT64_C(1) << 45 | 0x800), 0);
    CHECK_EQ(t, lapic_mmio_base(b.cpu[1]), UINT64_C(1) << 45);
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, 0xfee00000), 0);
    CHECK(t, !lapic_enabled(b.cpu[1]));
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, 0xfee00c00), (uint64_t)-EINVAL);
    msi(&b, 1, 0x50);
    CHECK(t, !lapic_has_interrupt(b.cpu[1]));
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, 0xfec80800), 0);
    CHECK_EQ(t, mmio_in(&b, 1, 0xf0), 0xff); /* as after a reset */
    CHECK_EQ(t, lapic_mmio_base(b.cpu[1]), 0xfec80000);
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, 0xfee00c00), 0);
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, 0xfee00800), (uint64_t)-EINVAL);
    CHECK_EQ(t, lapic_msr_write(b.cpu[1], 0x1b, 0xfee00000), 0);
    board_down(&b);
}

static bool timer_fired(struct board *board)
{
    if (lapic_acknowledge(board->cpu[0]) != 0xec)
        return false;
    mmio(board, 0, 0xb0, 0);
    return true;
}

static void test_timer_one_shot(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    mmio(&b, 0, 0x320, 0xec);
    mmio(&b, 0, 0x3e0, 0x3); /* divide by 16 */
    mmio(&b, 0, 0x380, 1000);
    CHECK_EQ(t, lapic_timer_deadline_ns(b.cpu[0]), NS_PER_SECOND + 16000);
    fake_time_advance(8000);
    CHECK_EQ(t, mmio_in(&b, 0, 0x390), 500);
    mmio(&b, 0, 0x3e0, 0xb); /* divide by 1: the other half goes 16 times as fast */
    CHECK_EQ(t, mmio_in(&b, 0, 0x390), 500);
    fake_time_advance(499);
    CHECK(t, !timer_fired(&b));
    fake_time_advance(1);
    CHECK(t, timer_fired(&b));
    CHECK_EQ(t, mmio_in(&b, 0, 0x390), 0);
    fake_time_advance(NS_PER_SECOND);
    CHECK(t, !timer_fired(&b));
    CHECK_EQ(t, lapic_timer_deadline_ns(b.cpu[0]), LAPIC_NO_DEADLINE);
    mmio(&b, 0, 0x380, 1000);
    mmio(&b, 0, 0x380, 0); /* stops it */
    fake_time_advance(NS_PER_SECOND);
    CHECK(t, !timer_fired(&b));
    board_down(&b);
}

static void test_timer_periodic(struct test *t)
{
    struct board b;
    unsigned fired = 0;

    if (!board_up(t, &b))
        return;
    mmio(&b, 0, 0x320, 0x200ec);
    mmio(&b, 0, 0x3e0, 0xb);
    mmio(&b, 0, 0x380, 1000003);
    for (unsigned i = 0; i < 1000; i++) {
        fake_time_advance(1000003);
        fired += timer_fired(&b);
    }
    CHECK_EQ(t, fired, 1000);
    fake_time_jump(10 * NS_PER_MS); /* the I/O thread overslept: one, then on the old grid */
    CHECK(t, timer_fired(&b));
    CHECK(t, !timer_fired(&b));
    CHECK_EQ(t, lapic_timer_deadline_ns(b.cpu[0]), NS_PER_SECOND + UINT64_C(1010) * 1000003);
    mmio(&b, 0, 0x320, 0x300ec);
    fake_time_advance(10 * NS_PER_MS);
    mmio(&b, 0, 0x380, 1); /* a period of 1 ns does not storm */
    mmio(&b, 0, 0x320, 0x200ec);
    for (fired = 0; fired < 100 && timer_fired(&b); fired++)
        fake_time_advance(1);
    CHECK(t, fired <= 1);
    board_down(&b);
}

static void test_timer_tsc_deadline(struct test *t)
{
    struct board b;
    uint64_t now = NS_PER_SECOND * 3, value;

    if (!board_up(t, &b))
        return;
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x6e0, now + 3000), 0); /* not in this mode: ignored */
    CHECK_EQ(t, lapic_timer_deadline_ns(b.cpu[0]), LAPIC_NO_DEADLINE);
    mmio(&b, 0, 0x320, 0x400ec);
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x6e0, now + 3001), 0);
    CHECK_EQ(t, lapic_msr_read(b.cpu[0], 0x6e0, &value), 0);
    CHECK_EQ(t, value, now + 3001);
    fake_time_advance(1000);
    CHECK(t, !timer_fired(&b)); /* a third of a ns too early */
    fake_time_advance(2);
    CHECK(t, timer_fired(&b));
    CHECK_EQ(t, lapic_msr_read(b.cpu[0], 0x6e0, &value), 0);
    CHECK_EQ(t, value, 0);
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x6e0, 1), 0); /* in the past: at once */
    CHECK(t, timer_fired(&b));
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x6e0, UINT64_MAX), 0);
    CHECK(t, lapic_timer_deadline_ns(b.cpu[0]) > UINT64_C(1) << 60);
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x6e0, 0), 0); /* disarms */
    CHECK_EQ(t, lapic_timer_deadline_ns(b.cpu[0]), LAPIC_NO_DEADLINE);
    lapic_tsc_offset_set(b.cpu[0], 0 - tsc_fake()); /* the guest's TSC starts at 0 */
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x6e0, 3 * NS_PER_MS), 0);
    fake_time_advance(NS_PER_MS - 1);
    CHECK(t, !timer_fired(&b));
    fake_time_advance(2);
    CHECK(t, timer_fired(&b));
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x6e0, 6 * NS_PER_MS), 0);
    mmio(&b, 0, 0x320, 0xec); /* leaving the mode disarms */
    fake_time_advance(NS_PER_SECOND);
    CHECK(t, !timer_fired(&b));
    board_down(&b);
}

static void test_timer_poll(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    mmio(&b, 0, 0x320, 0xec);
    mmio(&b, 0, 0x3e0, 0xb);
    mmio(&b, 0, 0x380, 1000);
    lapic_timer_poll(b.cpu[0]);
    CHECK(t, !timer_fired(&b));
    fake_time_advance(1000);
    lapic_timer_poll(b.cpu[0]); /* the loop was first: not twice */
    CHECK(t, timer_fired(&b));
    lapic_timer_poll(b.cpu[0]);
    CHECK(t, !timer_fired(&b));
    board_down(&b);
}

/* The I/O thread is late: what has expired by the clock is fired by the register access that would
 * change it or show it. */
static void test_timer_settles(struct test *t)
{
    struct board b;
    uint64_t value;

    if (!board_up(t, &b))
        return;
    mmio(&b, 0, 0x320, 0xec); /* one-shot, divided by 1: 1 ns a count */
    mmio(&b, 0, 0x3e0, 0xb);
    mmio(&b, 0, 0x380, 1000);
    fake_time_stall(1500);
    CHECK_EQ(t, mmio_in(&b, 0, 0x390), 0);
    mmio(&b, 0, 0x320, 0x200ec); /* periodic: a count that has ended does not come to life */
    CHECK_EQ(t, mmio_in(&b, 0, 0x390), 0);
    CHECK(t, timer_fired(&b));
    fake_time_advance(10000);
    CHECK(t, !timer_fired(&b));
    mmio(&b, 0, 0x320, 0xec);
    mmio(&b, 0, 0x380, 1000);
    fake_time_stall(1500);
    mmio(&b, 0, 0x380, 5000); /* a new count: the old one's interrupt is not lost */
    CHECK(t, timer_fired(&b));
    fake_time_stall(6000);
    mmio(&b, 0, 0x320, 0x400ec); /* nor by the way to TSC-deadline mode */
    CHECK(t, timer_fired(&b));
    CHECK_EQ(t, lapic_msr_write(b.cpu[0], 0x6e0, tsc_fake() + 3000), 0);
    fake_time_stall(1001);
    CHECK_EQ(t, lapic_msr_read(b.cpu[0], 0x6e0, &value), 0);
    CHECK_EQ(t, value, 0);
    CHECK(t, timer_fired(&b));
    board_down(&b);
}

/* A count that runs goes on when the mode changes, and one that has ended stays at zero. */
static void test_timer_modes(struct test *t)
{
    struct board b;

    if (!board_up(t, &b))
        return;
    mmio(&b, 0, 0x320, 0x200ec);
    mmio(&b, 0, 0x3e0, 0xb);
    mmio(&b, 0, 0x380, 100000);
    fake_time_advance(230000); /* in the third period */
    CHECK(t, timer_fired(&b));
    mmio(&b, 0, 0x320, 0xec);
    CHECK_EQ(t, mmio_in(&b, 0, 0x390), 70000);
    fake_time_advance(69999);
    CHECK_EQ(t, mmio_in(&b, 0, 0x390), 1);
    CHECK(t, !timer_fired(&b));
    fake_time_advance(1);
    CHECK(t, timer_fired(&b));
    mmio(&b, 0, 0x320, 0x200ec);
    CHECK_EQ(t, mmio_in(&b, 0, 0x390), 0);
    fake_time_advance(NS_PER_SECOND);
    CHECK(t, !timer_fired(&b));
    mmio(&b, 0, 0x320, 0xec);
    mmio(&b, 0, 0x380, 100000);
    fake_time_advance(40000);
    mmio(&b, 0, 0x320, 0x200ec);
    CHECK_EQ(t, mmio_in(&b, 0, 0x390), 60000);
    fake_time_advance(70000);
    CHECK(t, timer_fired(&b));
    CHECK_EQ(t, mmio_in(&b, 0, 0x390), 90000);
    board_down(&b);
}

#define POSTS 20000

static void *poster(void *opaque)
{
    struct board *board = opaque;

    for (unsigned i = 0; i < POSTS; i++)
        lapic_set_deliver_msi(board->set, 0xfee00000, 0x40 + i % 0x80);
    return NULL;
}

/* A vCPU that takes interrupts while others post: at the end nothing may be left behind a pending
 * line that is down. */
static void test_posting_in_parallel(struct test *t)
{
    struct board b;
    pthread_t thread[2];
    unsigned taken = 0;

    if (!board_up(t, &b))
        return;
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(t, pthread_create(&thread[i], NULL, poster, &b), 0);
    for (unsigned looked = 0; taken < 5000 && looked < 100000; looked++) {
        if (!atomic_load(&b.pending[0]) || lapic_acknowledge(b.cpu[0]) < 0) {
            sched_yield();
            continue;
        }
        taken++;
        mmio(&b, 0, 0xb0, 0);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    while (atomic_load(&b.pending[0])) {
        if (lapic_acknowledge(b.cpu[0]) >= 0) {
            mmio(&b, 0, 0xb0, 0);
            taken++;
        }
    }
    CHECK(t, taken >= 0x80);
    for (unsigned i = 0; i < 8; i++)
        CHECK_EQ(t, mmio_in(&b, 0, 0x200 + 16 * i), 0);
    board_down(&b);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_reset_values);
    TEST_RUN(&t, test_acceptance_order);
    TEST_RUN(&t, test_task_priority);
    TEST_RUN(&t, test_level_eoi);
    TEST_RUN(&t, test_ipi_destinations);
    TEST_RUN(&t, test_ipi_modes);
    TEST_RUN(&t, test_lowest_priority);
    TEST_RUN(&t, test_errors);
    TEST_RUN(&t, test_software_disable);
    TEST_RUN(&t, test_extint);
    TEST_RUN(&t, test_x2apic);
    TEST_RUN(&t, test_id_change);
    TEST_RUN(&t, test_without_features);
    TEST_RUN(&t, test_base_transitions);
    TEST_RUN(&t, test_timer_one_shot);
    TEST_RUN(&t, test_timer_periodic);
    TEST_RUN(&t, test_timer_tsc_deadline);
    TEST_RUN(&t, test_timer_poll);
    TEST_RUN(&t, test_timer_settles);
    TEST_RUN(&t, test_timer_modes);
    TEST_RUN(&t, test_posting_in_parallel);
    return test_end(&t);
}
