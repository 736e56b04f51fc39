/*
 * The engine's side: a 64-bit guest with user pages at the addresses that the host side uses, and
 * an IDT whose every gate leads to an OUT, where the test looks at the state.
 */
#include "engine.h"

#include <stdio.h>
#include <string.h>

#include "base/endian.h"
#include "generate.h"

#define RAM_BYTES  UINT64_C(0x400000)
#define TABLES_GPA UINT64_C(0x10000) /* PML4, PDPT, and page directories and tables behind */
#define IDT_GPA    UINT64_C(0x1000)
#define GDT_GPA    UINT64_C(0x2000)
#define TSS_GPA    UINT64_C(0x3000)
#define STUBS_GPA  UINT64_C(0x4000)
#define STACK_GPA  UINT64_C(0x6000) /* its end */
#define CODE_GPA   UINT64_C(0x100000)
#define DATA_GPA   UINT64_C(0x200000)
#define KERNEL     UINT64_C(0xffff800000000000) /* linear = KERNEL + gpa */
#define STUB_BYTES 16
#define EXIT_PORT  0xf4
#define NO_EXECUTE (UINT64_C(1) << 63)

#define USER_CS    0x33
#define USER_SS    0x2b
#define KERNEL_CS  0x08

struct tables {
    uint8_t *ram;
    uint64_t next; /* free table page */
};

static void store(uint8_t *ram, uint64_t gpa, uint64_t value)
{
    store_le64(ram + gpa, value);
}

static uint64_t next_level(struct tables *t, uint64_t entry_gpa)
{
    uint64_t entry = load_le64(t->ram + entry_gpa);

    if (!(entry & 1)) {
        entry = t->next | 7;
        t->next += 4096;
        store(t->ram, entry_gpa, entry);
    }
    return entry & ~UINT64_C(0xfff);
}

static void map_page(struct tables *t, uint64_t linear, uint64_t gpa, uint64_t flags)
{
    uint64_t table = TABLES_GPA;

    for (unsigned shift = 39; shift > 12; shift -= 9)
        table = next_level(t, table + 8 * ((linear >> shift) & 511));
    store(t->ram, table + 8 * ((linear >> 12) & 511), gpa | flags);
}

static void map_all(uint8_t *ram)
{
    struct tables t = {.ram = ram, .next = TABLES_GPA + 4096};
    const uint64_t code_pages = (EXIT_BASE + 4096 - CODE_BASE) / 4096;

    for (uint64_t i = 0; i < code_pages; i++)
        map_page(&t, CODE_BASE + 4096 * i, CODE_GPA + 4096 * i, 0x65);
    for (uint64_t i = 0; i < DATA_BYTES / 4096; i++) {
        if (i != DATA_UNMAPPED)
            map_page(&t, DATA_BASE + 4096 * i, DATA_GPA + 4096 * i,
                     NO_EXECUTE | (i == DATA_READ_ONLY ? 0x65 : 0x67));
    }
    for (uint64_t i = 0; i < 8; i++)
        map_page(&t, KERNEL + 4096 * i, 4096 * i, 0x63);
}

static void gate_set(uint8_t *ram, unsigned vector)
{
    uint64_t target = KERNEL + STUBS_GPA + vector * STUB_BYTES;
    uint64_t low = (target & 0xffff) | (uint64_t)KERNEL_CS << 16 | UINT64_C(0x8e00) << 32 |
                   ((target >> 16) & 0xffff) << 48;

    store(ram, IDT_GPA + 16 * vector, low);
    store(ram, IDT_GPA + 16 * vector + 8, target >> 32);
}

static bool has_code(unsigned vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

/* push 0 (where the CPU pushes no code); push vector; out %al, $EXIT_PORT */
static void stub_set(uint8_t *ram, unsigned vector)
{
    uint8_t *to = ram + STUBS_GPA + vector * STUB_BYTES;
    const uint8_t tail[] = {0x6a, (uint8_t)vector, 0xe6, EXIT_PORT, 0xf4};

    if (!has_code(vector)) {
        *to++ = 0x6a;
        *to++ = 0;
    }
    memcpy(to, tail, sizeof tail);
}

static void kernel_set(uint8_t *ram)
{
    const uint64_t tss = KERNEL + TSS_GPA;

    for (unsigned v = 0; v < 32; v++) {
        gate_set(ram, v);
        stub_set(ram, v);
    }
    store(ram, GDT_GPA + 8, UINT64_C(0x00209b0000000000));
    store(ram, GDT_GPA + 0x28, UINT64_C(0x00cff3000000ffff));
    store(ram, GDT_GPA + 0x30, UINT64_C(0x0020fb0000000000));
    store(ram, GDT_GPA + 0x40,
          0x67 | (tss & 0xffffff) << 16 | UINT64_C(0x8b) << 40 | (tss >> 24 & 0xff) << 56);
    store(ram, GDT_GPA + 0x48, tss >> 32);
    store(ram, TSS_GPA + 4, KERNEL + STACK_GPA);
    /* The end of every sequence. */
    memcpy(ram + CODE_GPA + (EXIT_BASE - CODE_BASE), "\x0f\x0b", 2);
}

static void start_set(struct x86_state *s)
{
    const struct x86_segment data = {
        .limit = UINT32_MAX, .selector = USER_SS, .attributes = 0xc0f3};

    x86_state_reset(s, true, 0);
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        s->seg[i] = data;
    s->seg[X86_CS].selector = USER_CS;
    s->seg[X86_CS].attributes = 0x20fb;
    s->seg[X86_CS].limit = 0;
    s->tr = (struct x86_segment){
        .base = KERNEL + TSS_GPA, .limit = 0x67, .selector = 0x40, .attributes = 0x8b};
    s->gdtr = (struct x86_table){.base = KERNEL + GDT_GPA, .limit = 0x4f};
    s->idtr = (struct x86_table){.base = KERNEL + IDT_GPA, .limit = 16 * 32 - 1};
    s->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG;
    s->cr3 = TABLES_GPA;
    s->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    s->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
}

static bool engine_build(struct engine *engine, bool interpret_only, struct error *err)
{
    struct x86_cpuid_config cpu = {.model = "host", .vcpu_count = 1, .tsc_hz = 1000000000};
    struct cpu_config config = {
        .vcpu_count = 1,
        .interpret_only = interpret_only,
        .translate_at_once = true,
        .code_bytes = 1u << 17, /* to be emptied often */
    };
    int result = x86_cpuid_build(&cpu, &engine->cpuid, err);

    if (result == 0)
        result = mem_new(&engine->mem);
    if (result == 0)
        result = mem_add_ram(engine->mem, 0, RAM_BYTES, err);
    if (result == 0)
        result = cpu_engine_find("soft", &engine->ops, err);
    if (result != 0)
        return false;
    config.mem = engine->mem;
    config.cpuid = &engine->cpuid;
    return engine->ops->vm_new(&config, &engine->vm, err) == 0 &&
           engine->ops->vcpu_new(engine->vm, 0, &engine->vcpu, err) == 0;
}

bool engine_init(struct engine *engine, bool interpret_only)
{
    struct error err = {0};
    uint8_t *ram;

    if (!engine_build(engine, interpret_only, &err)) {
        fprintf(stderr, "setting up the engine's side: %s\n", err.text);
        return false;
    }
    ram = mem_span(engine->mem, 0, RAM_BYTES);
    map_all(ram);
    kernel_set(ram);
    start_set(&engine->start);
    engine->start.xcr0 = engine->cpuid.xcr0_allowed;
    engine->code = ram + CODE_GPA;
    engine->data = ram + DATA_GPA;
    return true;
}

/* The frame that the exception left on the guest's kernel stack. */
static void frame_read(struct engine *engine, const struct x86_state *s, struct machine *machine)
{
    uint64_t frame[7] = {0};

    if (mem_read(engine->mem, s->gpr[X86_RSP] - KERNEL, frame, sizeof frame) != 0)
        return;
    machine->vector = (int)frame[0];
    machine->rip = frame[2];
    machine->rflags = frame[4];
    machine->gpr[X86_RSP] = frame[5];
    machine->fault_address = machine->vector == X86_PF ? s->cr2 : 0;
    machine->fault_code = machine->vector == X86_PF ? (uint32_t)frame[1] : 0;
    if (machine->vector == X86_UD && machine->rip == EXIT_BASE)
        machine->vector = -1;
}

void engine_load(struct engine *engine, size_t offset, const uint8_t *code, size_t length)
{
    memcpy(engine->code + offset, code, length);
    mem_written(engine->mem, CODE_GPA + offset, length);
}

void engine_run(struct engine *engine, struct machine *machine)
{
    static struct x86_state s; /* large, and written whole each time */
    struct cpu_exit exit = {0};
    struct error err = {0};

    s = engine->start;
    memcpy(s.gpr, machine->gpr, sizeof s.gpr);
    s.rip = machine->rip;
    s.rflags = machine->rflags;
    memcpy(s.xsave, machine->xsave, XSAVE_BYTES);
    machine->vector = -2;
    if (engine->ops->state_set(engine->vcpu, &s, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        return;
    }
    do
        engine->ops->run(engine->vcpu, &exit);
    while (exit.kind == CPU_EXIT_PAUSE || exit.kind == CPU_EXIT_KICKED);
    engine->ops->state_get(engine->vcpu, &s);
    memcpy(machine->gpr, s.gpr, sizeof s.gpr);
    memcpy(machine->xsave, s.xsave, XSAVE_BYTES);
    if (exit.kind == CPU_EXIT_IO && exit.io.port == EXIT_PORT)
        frame_read(engine, &s, machine);
    else
        fprintf(stderr, "the guest stopped with exit %d at %#llx\n", exit.kind,
                (unsigned long long)s.rip);
}
