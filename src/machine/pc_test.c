/*
 * The whole board, without a CPU: what a guest's first accesses find, how lines reach the interrupt
 * controllers, that a reset puts all back, and which configurations are refused.
 */
#include "machine/pc.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/test.h"
#include "char/char.h"
#include "machine/ioapic.h"
#include "machine/memmap.h"

/* ---- helpers ---- */

struct events {
    unsigned poweroffs, sleeps, wakes, resets, panics, exits, interrupts;
    uint32_t exit_value;
};

static void count_poweroff(void *opaque)
{
    ((struct events *)opaque)->poweroffs++;
}

static void count_sleep(void *opaque)
{
    ((struct events *)opaque)->sleeps++;
}

static void count_wake(void *opaque)
{
    ((struct events *)opaque)->wakes++;
}

static void count_reset(void *opaque)
{
    ((struct events *)opaque)->resets++;
}

static void count_panic(void *opaque)
{
    ((struct events *)opaque)->panics++;
}

static void count_exit(void *opaque, uint32_t value)
{
    ((struct events *)opaque)->exits++;
    ((struct events *)opaque)->exit_value = value;
}

static void count_interrupt(void *opaque, unsigned vcpu, bool pending)
{
    if (vcpu == 0 && pending)
        ((struct events *)opaque)->interrupts++;
}

static void ignore(void *opaque, unsigned vcpu)
{
    (void)opaque;
    (void)vcpu;
}

static void ignore_startup(void *opaque, unsigned vcpu, uint8_t vector)
{
    (void)vector;
    ignore(opaque, vcpu);
}

struct board {
    struct pc *pc;
    struct loop *loop;
    struct events events;
    struct x86_cpuid cpuid;
    struct x86_state state;
    int image;
    char image_name[40];
    struct char_backend *serial;
};

static struct pc_config config_make(struct board *board)
{
    return (struct pc_config){
        .name = "test",
        .memory_bytes = 64 * MIB,
        .vcpu_count = 2,
        .cpuid = &board->cpuid,
        .loop = board->loop,
        .boot = {.firmware = board->image_name},
        .debug_exit = true,
        .serial = {board->serial},
        .events =
            {
                .opaque = &board->events,
                .poweroff = count_poweroff,
                .sleep = count_sleep,
                .wake = count_wake,
                .reset = count_reset,
                .panic = count_panic,
                .debug_exit = count_exit,
                .lapic = {count_interrupt, ignore, ignore, ignore_startup},
            },
    };
}

/* A firmware image of 128 KiB that is all HLT. */
static void board_init(struct board *board)
{
    static uint8_t rom[128 * 1024];

    *board = (struct board){
        .cpuid = {
            .model = "test", .physical_bits = 46, .tsc_hz = 1000000000, .signature = 0x806f8}};
    memset(rom, 0xf4, sizeof rom);
    board->image = memfd_create("firmware", MFD_CLOEXEC);
    if (board->image < 0 || write(board->image, rom, sizeof rom) != sizeof rom ||
        loop_new(&board->loop))
        abort();
    const struct char_config serial = {.spec = "none", .loop = board->loop};
    if (char_backend_new(&serial, &board->serial, NULL))
        abort();
    snprintf(board->image_name, sizeof board->image_name, "/proc/self/fd/%d", board->image);
}

static void board_fini(struct board *board)
{
    pc_free(board->pc);
    char_backend_free(board->serial);
    loop_free(board->loop);
    close(board->image);
}

/* A multiboot image of one page, for direct boots. */
static void board_use_kernel(struct board *board)
{
    uint8_t image[4096] = {0};

    store_le32(image, 0x1badb002);
    store_le32(image + 4, 1u << 16);
    store_le32(image + 8, -(0x1badb002 + (1u << 16)));
    store_le32(image + 12, 0x100000);
    store_le32(image + 16, 0x100000);
    store_le32(image + 28, 0x100020);
    if (ftruncate(board->image, 0) || pwrite(board->image, image, sizeof image, 0) != sizeof image)
        abort();
}

static bool board_power_on(struct test *t, struct board *board, bool kernel)
{
    struct error err = {0};

    board_init(board);
    struct pc_config config = config_make(board);
    if (kernel) {
        board_use_kernel(board);
        config.boot = (struct boot_config){.kernel = board->image_name};
    }
    if (!CHECK_EQ(t, pc_new(&config, &board->pc, &err), 0)) {
        printf("   %s\n", err.text);
        return false;
    }
    return CHECK_EQ(t, pc_reset(board->pc, &board->state, &err), 0);
}

static uint32_t port_read(struct board *board, uint16_t port, unsigned size)
{
    return (uint32_t)bus_read(pc_ports(board->pc), port, size);
}

static void port_write(struct board *board, uint16_t port, unsigned size, uint32_t value)
{
    bus_write(pc_ports(board->pc), port, size, value);
}

/* ---- tests ---- */

static void test_firmware(struct test *t)
{
    struct board board;
    uint8_t byte = 0;

    if (board_power_on(t, &board, false)) {
        CHECK_EQ(t, board.state.rip, 0xfff0);
        CHECK_EQ(t, mem_read(pc_mem(board.pc), 0xfffffff0, &byte, 1), 0);
        CHECK_EQ(t, byte, 0xf4);
        CHECK_EQ(t, mem_read(pc_mem(board.pc), 0xffff0, &byte, 1), 0);
        CHECK_EQ(t, byte, 0xf4);
        CHECK(t, mem_write(pc_mem(board.pc), 0xfffffff0, &byte, 1) < 0); /* ROM */
        port_write(&board, 0x510, 2, 0x05);
        CHECK_EQ(t, port_read(&board, 0x511, 1), 2); /* vCPUs */
        CHECK_EQ(t, bus_read(pc_mmio(board.pc), PC_ECAM_GPA, 4),
                 (port_write(&board, 0xcf8, 4, 0x80000000), port_read(&board, 0xcfc, 4)));
        CHECK_EQ(t, port_read(&board, 0x402, 1), 0xe9);
        CHECK(t, port_read(&board, 0x3f8 + 5, 1) != 0xff);
        CHECK_EQ(t, port_read(&board, 0x2f8 + 5, 1), 0xff); /* not configured */
    }
    board_fini(&board);
}

static void test_direct(struct test *t)
{
    struct board board;
    char text[8] = "";

    if (board_power_on(t, &board, true)) {
        CHECK_EQ(t, board.state.rip, 0x100020);
        CHECK_EQ(t, mem_read(pc_mem(board.pc), 0xe0000, text, 8), 0);
        CHECK_MEM(t, text, "RSD PTR ", 8);
        CHECK_EQ(t, mem_read(pc_mem(board.pc), 0xf0000, text, 5), 0);
        CHECK_MEM(t, text, "_SM3_", 5);
        /* Every BAR has an address in the window: the random source is in slot 1. */
        uint64_t function = PC_ECAM_GPA + (1 << 15);
        CHECK_EQ(t, bus_read(pc_mmio(board.pc), function, 4), 0x10441af4);
        CHECK_EQ(t, bus_read(pc_mmio(board.pc), function + 4, 2) & 3, 3);
        uint64_t bar = bus_read(pc_mmio(board.pc), function + 0x10, 4) & ~UINT64_C(15);
        CHECK(t, bar >= PC_PCI32_GPA && bar < PC_PCI32_GPA + PC_PCI32_SIZE);
    }
    board_fini(&board);
}

static void test_events(struct test *t)
{
    struct board board;

    if (board_power_on(t, &board, false)) {
        port_write(&board, 0xf4, 4, 0x21);
        CHECK_EQ(t, board.events.exits, 1);
        CHECK_EQ(t, board.events.exit_value, 0x21);
        port_write(&board, 0x505, 1, 2); /* a crash kernel takes over */
        CHECK_EQ(t, board.events.panics, 0);
        port_write(&board, 0x505, 1, 1);
        CHECK_EQ(t, board.events.panics, 1);
        port_write(&board, 0xcf9, 1, 0x06);
        CHECK_EQ(t, board.events.resets, 1);
        port_write(&board, 0x64, 1, 0xfe);
        CHECK_EQ(t, board.events.resets, 2);
        port_write(&board, 0x604, 2, 1 << 13 | 3 << 10); /* neither S3 nor S5 */
        CHECK_EQ(t, board.events.poweroffs + board.events.sleeps, 0);
        port_write(&board, 0x604, 2, 1 << 13 | 5 << 10);
        CHECK_EQ(t, board.events.poweroffs, 1);
    }
    board_fini(&board);
}

/* The power button raises IRQ 9 (SCI): at the 8259 as input 1 of the slave, and at pin 9. */
static void test_interrupts(struct test *t)
{
    struct board board;
    struct lapic *lapic;

    if (board_power_on(t, &board, false)) {
        lapic = pc_lapic(board.pc, 0);
        lapic_mmio_write(lapic, 0xf0, 4, 0x1ff); /* on */
        port_write(&board, 0x21, 1, 0xff);       /* the 8259s only note requests */
        port_write(&board, 0xa1, 1, 0xff);
        port_write(&board, 0x4d1, 1, 2); /* input 9 is level-triggered */
        bus_write(pc_mmio(board.pc), IOAPIC_BASE, 4, 0x10 + 2 * 9);
        bus_write(pc_mmio(board.pc), IOAPIC_BASE + 0x10, 4,
                  1 << 15 | 0x41);            /* level, vector 0x41 */
        port_write(&board, 0x602, 2, 1 << 8); /* enable the button */
        CHECK(t, !lapic_has_interrupt(lapic));
        pc_power_button(board.pc);
        CHECK(t, lapic_has_interrupt(lapic));
        CHECK(t, board.events.interrupts > 0);
        CHECK_EQ(t, lapic_acknowledge(lapic), 0x41);
        port_write(&board, 0xa0, 1, 0x0a); /* read the slave's request register */
        CHECK_EQ(t, port_read(&board, 0xa0, 1) & 2, 2);
        port_write(&board, 0x600, 2, 1 << 8); /* clear it */
        CHECK_EQ(t, port_read(&board, 0xa0, 1) & 2, 0);
    }
    board_fini(&board);
}

static void test_reset(struct test *t)
{
    struct board board;
    uint8_t junk = 0x55;

    if (board_power_on(t, &board, true)) {
        uint64_t command = PC_ECAM_GPA + (1 << 15) + 4;
        CHECK_EQ(t, mem_write(pc_mem(board.pc), 0x100020, &junk, 1), 0);
        CHECK_EQ(t, mem_write(pc_mem(board.pc), 0xe0000, &junk, 1), 0);
        bus_write(pc_mmio(board.pc), command, 2, 0);
        CHECK_EQ(t, pc_reset(board.pc, &board.state, NULL), 0);
        CHECK_EQ(t, mem_read(pc_mem(board.pc), 0x100020, &junk, 1), 0);
        CHECK_EQ(t, junk, 0);
        CHECK_EQ(t, mem_read(pc_mem(board.pc), 0xe0000, &junk, 1), 0);
        CHECK_EQ(t, junk, 'R');
        CHECK_EQ(t, bus_read(pc_mmio(board.pc), command, 2) & 3, 3);
    }
    board_fini(&board);
}

/* Guest-physical address of the FACS that the OS would find. */
static uint64_t facs_find(struct board *board)
{
    char text[4];

    for (uint64_t gpa = 0xe0000; gpa < 0xf0000; gpa += 64) {
        if (mem_read(pc_mem(board->pc), gpa, text, 4) == 0 && memcmp(text, "FACS", 4) == 0)
            return gpa;
    }
    return 0;
}

/* S3: RAM stays, devices start anew, the CPU goes on where the FACS says. */
static void test_sleep(struct test *t)
{
    struct board board;
    uint8_t vector[4] = {0x34, 0x12, 9, 0}, junk = 0x55;

    if (board_power_on(t, &board, true)) {
        uint64_t command = PC_ECAM_GPA + (1 << 15) + 4;
        CHECK_EQ(t, mem_write(pc_mem(board.pc), facs_find(&board) + 12, vector, 4), 0);
        CHECK_EQ(t, mem_write(pc_mem(board.pc), 0x100020, &junk, 1), 0);
        bus_write(pc_mmio(board.pc), command, 2, 0);
        port_write(&board, 0x604, 2, 1 << 13 | 1 << 10);
        CHECK_EQ(t, board.events.sleeps, 1);
        pc_power_button(board.pc);
        CHECK_EQ(t, board.events.wakes, 1);
        CHECK_EQ(t, pc_resume(board.pc, &board.state, NULL), 0);
        CHECK_EQ(t, board.state.seg[X86_CS].selector, 0x9123);
        CHECK_EQ(t, board.state.seg[X86_CS].base, 0x91230);
        CHECK_EQ(t, board.state.rip, 4);
        CHECK_EQ(t, board.state.cr0 & 1, 0);
        junk = 0;
        CHECK_EQ(t, mem_read(pc_mem(board.pc), 0x100020, &junk, 1), 0);
        CHECK_EQ(t, junk, 0x55);
        CHECK_EQ(t, bus_read(pc_mmio(board.pc), command, 2) & 3, 3);
        CHECK_EQ(t, port_read(&board, 0x600, 2), 1 << 15 | 1 << 8);
    }
    board_fini(&board);
}

/* With firmware that is what finds out where to go on, by a cell of the CMOS RAM. */
static void test_sleep_firmware(struct test *t)
{
    struct board board;

    if (board_power_on(t, &board, false)) {
        port_write(&board, 0x604, 2, 1 << 13 | 1 << 10);
        CHECK_EQ(t, pc_resume(board.pc, &board.state, NULL), 0);
        CHECK_EQ(t, board.state.seg[X86_CS].base + board.state.rip, 0xfffffff0);
        port_write(&board, 0x70, 1, 0x0f);
        CHECK_EQ(t, port_read(&board, 0x71, 1), 0xfe);
    }
    board_fini(&board);
}

static void check_refused(struct test *t, const struct pc_config *config)
{
    struct error err = {0};
    struct pc *pc = NULL;

    CHECK(t, pc_new(config, &pc, &err) < 0);
    CHECK(t, err.code < 0 && err.text[0]);
}

static void test_refused(struct test *t)
{
    struct board board;

    board_init(&board);
    struct pc_config config = config_make(&board);
    config.vcpu_count = 0;
    check_refused(t, &config);
    config.vcpu_count = PC_VCPUS_MAX + 1;
    check_refused(t, &config);
    config = config_make(&board);
    config.memory_bytes = 1;
    check_refused(t, &config);
    config.memory_bytes = UINT64_C(1) << 60;
    check_refused(t, &config);
    config = config_make(&board);
    config.boot.firmware = "/nonexistent";
    check_refused(t, &config);
    config.boot = (struct boot_config){0};
    check_refused(t, &config);
    config = config_make(&board);
    config.disk_count = PC_DISKS_MAX + 1;
    check_refused(t, &config);
    board_fini(&board);
}

/* Every port and the first bytes of every device's page, in all sizes, with all-ones and zero: a
 * board that a guest prods blindly goes on. */
static void test_prodded(struct test *t)
{
    static const uint64_t pages[] = {PC_IOAPIC_GPA, PC_HPET_GPA, PC_ECAM_GPA, PC_PCI32_GPA};
    struct board board;

    if (board_power_on(t, &board, true)) {
        for (unsigned size = 1; size <= 4; size *= 2) {
            for (uint32_t port = 0; port + size <= 0x10000; port++) {
                (void)port_read(&board, (uint16_t)port, size);
                port_write(&board, (uint16_t)port, size, port & 1 ? UINT32_MAX : 0);
            }
        }
        for (unsigned i = 0; i < sizeof pages / sizeof *pages; i++) {
            for (uint64_t at = 0; at < 8 * GUEST_PAGE_SIZE; at += 4) {
                (void)bus_read(pc_mmio(board.pc), pages[i] + at, at & 4 ? 4 : 8);
                bus_write(pc_mmio(board.pc), pages[i] + at, at & 4 ? 4 : 8, UINT64_MAX);
            }
        }
        CHECK_EQ(t, pc_reset(board.pc, &board.state, NULL), 0);
        CHECK_EQ(t, board.state.rip, 0x100020);
    }
    board_fini(&board);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_firmware);
    TEST_RUN(&t, test_direct);
    TEST_RUN(&t, test_events);
    TEST_RUN(&t, test_interrupts);
    TEST_RUN(&t, test_reset);
    TEST_RUN(&t, test_sleep);
    TEST_RUN(&t, test_sleep_firmware);
    TEST_RUN(&t, test_refused);
    TEST_RUN(&t, test_prodded);
    return test_end(&t);
}
