/*
 * Segmentation, event delivery, far returns and tasks: the rules with their error codes, checked on
 * a vCPU whose tables the test writes. (tests/guest runs the same as guest code.)
 */
#include <stdlib.h>

#include "base/test.h"
#include "cpu/soft/code.h"
#include "cpu/soft/descriptor.h"
#include "mem/mem.h"

#define GDT                 0x1000u
#define IDT                 0x2000u
#define TSS                 0x3000u
#define TSS_NEW             0x3800u
#define STACK0              0x5000u
#define STACK3              0x6000u
#define HANDLER             0x8000u
#define RAM                 0x100000u
#define NO_FAULT            UINT32_MAX

#define FAULT(vector, code) ((uint32_t)(vector) << 16 | (code))

enum selector {
    CODE0 = 0x08,
    DATA0 = 0x10,
    CODE3 = 0x18,
    DATA3 = 0x20,
    DOWN = 0x28,    /* expand-down above 0xfff */
    ABSENT = 0x30,  /* data */
    EXECUTE = 0x38, /* code that can't be read */
    CONFORMING = 0x40,
    SMALL = 0x48, /* data, limit 0xf */
    TASK = 0x50,
    TASK_NEW = 0x58,
    GATE_TASK = 0x68
};

struct machine {
    struct mem *mem;
    struct x86_cpuid cpuid;
    struct cpu_vm *vm;
    struct vcpu *vcpu;
    struct cpu_exit exit;
    struct soft_vcpu *c;
};

static void put(struct machine *m, uint64_t gpa, uint64_t value, size_t size)
{
    if (mem_write(m->mem, gpa, &value, size) != 0)
        abort();
}

static uint64_t get(struct machine *m, uint64_t gpa, size_t size)
{
    uint64_t value = 0;

    if (mem_read(m->mem, gpa, &value, size) != 0)
        abort();
    return value;
}

static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned attributes)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)attributes << 40 |
           (uint64_t)(limit & 0xf0000) << 32 | (uint64_t)(base & 0xff000000) << 32;
}

static uint64_t gate(uint16_t selector, uint32_t offset, unsigned access)
{
    return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)access << 40 |
           (uint64_t)(offset & 0xffff0000) << 32;
}

static void tables_write(struct machine *m)
{
    put(m, GDT + CODE0, descriptor(0, 0xfffff, 0xc09b), 8);
    put(m, GDT + DATA0, descriptor(0, 0xfffff, 0xc093), 8);
    put(m, GDT + CODE3, descriptor(0, 0xfffff, 0xc0fb), 8);
    put(m, GDT + DATA3, descriptor(0, 0xfffff, 0xc0f3), 8);
    put(m, GDT + DOWN, descriptor(0, 0xfff, 0x4097), 8);
    put(m, GDT + ABSENT, descriptor(0, 0xfff, 0x4013), 8);
    put(m, GDT + EXECUTE, descriptor(0, 0xfff, 0x4099), 8);
    put(m, GDT + CONFORMING, descriptor(0, 0xfffff, 0xc09f), 8);
    put(m, GDT + SMALL, descriptor(0x9000, 0xf, 0x4092), 8);
    put(m, GDT + TASK, descriptor(TSS, 0x67, 0x008b), 8);
    put(m, GDT + TASK_NEW, descriptor(TSS_NEW, 0x67, 0x0089), 8);
    put(m, GDT + GATE_TASK, gate(TASK_NEW, 0, 0x85), 8);
    put(m, TSS + 4, STACK0, 4);
    put(m, TSS + 8, DATA0, 2);
}

static struct x86_segment segment(uint16_t selector, unsigned attributes)
{
    return (struct x86_segment){
        .limit = UINT32_MAX, .selector = selector, .attributes = (uint16_t)attributes};
}

/* Flat 32-bit protected mode at `cpl`. */
static void mode_protected(struct machine *m, unsigned cpl)
{
    struct soft_vcpu *c = m->c;

    c->cr0 = X86_CR0_PE | X86_CR0_ET;
    c->efer = 0;
    c->rflags = X86_RFLAGS_ONE | X86_RFLAGS_IF;
    c->gdtr = (struct x86_table){.base = GDT, .limit = 0x7f};
    c->idtr = (struct x86_table){.base = IDT, .limit = 0x3ff};
    c->tr = (struct x86_segment){.base = TSS, .limit = 0x67, .selector = TASK, .attributes = 0x8b};
    c->seg[X86_CS] = segment(cpl ? CODE3 | 3 : CODE0, cpl ? 0xc0fb : 0xc09b);
    for (unsigned i = 0; i < X86_SEG_COUNT; i++) {
        if (i != X86_CS)
            c->seg[i] = segment(cpl ? DATA3 | 3 : DATA0, cpl ? 0xc0f3 : 0xc093);
    }
    c->gpr[X86_RSP] = cpl ? STACK3 : STACK0;
    c->rip = 0x1234;
    c->block_rip = c->rip;
    soft_mode_update(c);
}

static void machine_free(struct machine *m)
{
    if (m->vcpu)
        cpu_engines[0]->vcpu_free(m->vcpu);
    if (m->vm)
        cpu_engines[0]->vm_free(m->vm);
    mem_free(m->mem);
}

static bool machine_new(struct test *t, struct machine *m)
{
    const struct cpu_engine *engine = cpu_engines[0];
    struct x86_cpuid_config model = {.vcpu_count = 1, .tsc_hz = 1000000000};
    struct cpu_config config = {.cpuid = &m->cpuid, .vcpu_count = 1};
    struct x86_state state;
    struct error err = {0};

    *m = (struct machine){0};
    if (!CHECK_EQ(t, mem_new(&m->mem), 0))
        return false;
    config.mem = m->mem;
    if (!CHECK_EQ(t, mem_add_ram(m->mem, 0, RAM, &err), 0) ||
        !CHECK_EQ(t, x86_cpuid_build(&model, &m->cpuid, &err), 0) ||
        !CHECK_EQ(t, engine->vm_new(&config, &m->vm, &err), 0) ||
        !CHECK_EQ(t, engine->vcpu_new(m->vm, 0, &m->vcpu, &err), 0)) {
        machine_free(m);
        return false;
    }
    x86_state_reset(&state, true, m->cpuid.signature);
    CHECK_EQ(t, engine->state_set(m->vcpu, &state, &err), 0);
    m->c = (struct soft_vcpu *)m->vcpu;
    m->c->exit = &m->exit;
    m->c->op = &m->c->idle_op;
    tables_write(m);
    mode_protected(m, 0);
    return true;
}

/* Runs and gives the fault, if there is one. */
typedef void action(struct soft_vcpu *c, const void *argument);

static __attribute__((noinline)) uint32_t attempt(struct machine *m, action *act,
                                                  const void *argument)
{
    struct soft_vcpu *c = m->c;

    if (__builtin_setjmp(c->jump))
        return FAULT(c->fault_vector, c->fault_code);
    act(c, argument);
    return NO_FAULT;
}

/* -- addresses -- */

struct access_case {
    unsigned segment;
    uint64_t offset;
    unsigned size;
    enum soft_access access;
    uint32_t fault;
};

static void act_linear(struct soft_vcpu *c, const void *argument)
{
    const struct access_case *a = argument;

    (void)soft_linear(c, a->segment, a->offset, a->size, a->access);
}

static void act_load(struct soft_vcpu *c, const void *argument)
{
    const uint16_t *load = argument; /* segment, selector */

    soft_segment_load(c, load[0], load[1]);
}

static void load_good(struct test *t, struct machine *m, uint16_t segment_index, uint16_t selector)
{
    uint16_t load[2] = {segment_index, selector};

    CHECK_EQ(t, attempt(m, act_load, load), NO_FAULT);
}

static void test_limits(struct test *t)
{
    static const struct access_case cases[] = {
        {X86_FS, 15, 1, SOFT_READ, NO_FAULT},
        {X86_FS, 16, 1, SOFT_READ, FAULT(X86_GP, 0)},
        {X86_FS, 12, 4, SOFT_WRITE, NO_FAULT},
        {X86_FS, 13, 4, SOFT_WRITE, FAULT(X86_GP, 0)},
        {X86_FS, 0xfffffffe, 4, SOFT_READ, FAULT(X86_GP, 0)},
        {X86_GS, 0xfff, 1, SOFT_READ, FAULT(X86_GP, 0)},
        {X86_GS, 0x1000, 4, SOFT_READ, NO_FAULT},
        {X86_GS, 0xfffffffd, 4, SOFT_READ, FAULT(X86_GP, 0)},
        {X86_ES, 0, 1, SOFT_READ, FAULT(X86_GP, 0)},
        {X86_CS, 0, 4, SOFT_READ, NO_FAULT},
        {X86_CS, 0, 4, SOFT_WRITE, FAULT(X86_GP, 0)},
        {X86_SS, 0xfffffffe, 4, SOFT_WRITE, FAULT(X86_SSV, 0)},
    };
    struct machine m;

    if (!machine_new(t, &m))
        return;
    load_good(t, &m, X86_FS, SMALL);
    load_good(t, &m, X86_GS, DOWN);
    load_good(t, &m, X86_ES, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK_EQ(t, attempt(&m, act_linear, &cases[i]), cases[i].fault);
    CHECK_EQ(t, get(&m, GDT + SMALL + 5, 1), 0x93); /* accessed */
    machine_free(&m);
}

/* -- segment loads -- */

static void test_loads(struct test *t)
{
    static const struct {
        unsigned cpl;
        uint16_t load[2];
        uint32_t fault;
    } cases[] = {
        {0, {X86_DS, DATA0}, NO_FAULT},
        {0, {X86_DS, DATA0 | 3}, FAULT(X86_GP, DATA0)},
        {3, {X86_DS, DATA0}, FAULT(X86_GP, DATA0)},
        {3, {X86_DS, CONFORMING | 3}, NO_FAULT},
        {0, {X86_DS, EXECUTE}, FAULT(X86_GP, EXECUTE)},
        {0, {X86_DS, ABSENT}, FAULT(X86_NP, ABSENT)},
        {0, {X86_DS, TASK}, FAULT(X86_GP, TASK)},
        {0, {X86_DS, 0x80}, FAULT(X86_GP, 0x80)},
        {0, {X86_DS, 0x0c}, FAULT(X86_GP, 0x0c)}, /* no LDT */
        {0, {X86_SS, 0}, FAULT(X86_GP, 0)},
        {0, {X86_SS, DATA3}, FAULT(X86_GP, DATA3)},
        {0, {X86_SS, CODE0}, FAULT(X86_GP, CODE0)},
        {0, {X86_SS, ABSENT}, FAULT(X86_SSV, ABSENT)},
        {0, {X86_SS, DATA0}, NO_FAULT},
        {3, {X86_SS, DATA3}, FAULT(X86_GP, DATA3)}, /* RPL 0 */
    };
    struct machine m;

    if (!machine_new(t, &m))
        return;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mode_protected(&m, cases[i].cpl);
        CHECK_EQ(t, attempt(&m, act_load, cases[i].load), cases[i].fault);
    }
    machine_free(&m);
}

/* -- events -- */

static void act_event(struct soft_vcpu *c, const void *argument)
{
    soft_event_deliver(c, argument);
}

static void test_event_inner(struct test *t)
{
    struct soft_event event = {.kind = SOFT_EVENT_EXCEPTION,
                               .vector = X86_GP,
                               .has_code = true,
                               .code = 0x77,
                               .return_rip = 0x1234};
    struct machine m;

    if (!machine_new(t, &m))
        return;
    mode_protected(&m, 3);
    put(&m, IDT + 8 * X86_GP, gate(CODE0, HANDLER, 0x8e), 8);
    CHECK_EQ(t, attempt(&m, act_event, &event), NO_FAULT);
    CHECK_EQ(t, m.c->cpl, 0);
    CHECK_EQ(t, m.c->rip, HANDLER);
    CHECK_EQ(t, m.c->gpr[X86_RSP], STACK0 - 24);
    CHECK_EQ(t, get(&m, STACK0 - 24, 4), 0x77);
    CHECK_EQ(t, get(&m, STACK0 - 20, 4), 0x1234);
    CHECK_EQ(t, get(&m, STACK0 - 16, 4), CODE3 | 3);
    CHECK_EQ(t, get(&m, STACK0 - 12, 4), X86_RFLAGS_ONE | X86_RFLAGS_IF | X86_RFLAGS_RF);
    CHECK_EQ(t, get(&m, STACK0 - 8, 4), STACK3);
    CHECK_EQ(t, get(&m, STACK0 - 4, 4), DATA3 | 3);
    CHECK_EQ(t, m.c->rflags, X86_RFLAGS_ONE);
    machine_free(&m);
}

static void test_event_faults(struct test *t)
{
    static const struct {
        enum soft_event_kind kind;
        uint64_t gate;
        uint32_t fault;
    } cases[] = {
        {SOFT_EVENT_EXCEPTION, 0, FAULT(X86_GP, 0x21 * 8 + 3)},
        {SOFT_EVENT_SOFTWARE, 0, FAULT(X86_GP, 0x21 * 8 + 2)},
        {SOFT_EVENT_SOFTWARE, UINT64_C(0x8e) << 40 | CODE0 << 16, FAULT(X86_GP, 0x21 * 8 + 2)},
        {SOFT_EVENT_EXTERNAL, UINT64_C(0x0e) << 40 | CODE0 << 16, FAULT(X86_NP, 0x21 * 8 + 3)},
        {SOFT_EVENT_EXTERNAL, UINT64_C(0x8e) << 40, FAULT(X86_GP, 1)},
        {SOFT_EVENT_EXTERNAL, UINT64_C(0x8e) << 40 | DATA0 << 16, FAULT(X86_GP, DATA0 + 1)},
        {SOFT_EVENT_SOFTWARE, UINT64_C(0xee) << 40 | DATA0 << 16, FAULT(X86_GP, DATA0)},
        {SOFT_EVENT_EXTERNAL, UINT64_C(0x8e) << 40 | 0x80 << 16, FAULT(X86_GP, 0x81)},
    };
    struct machine m;

    if (!machine_new(t, &m))
        return;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct soft_event event = {.kind = cases[i].kind, .vector = 0x21};

        mode_protected(&m, 3);
        put(&m, IDT + 8 * 0x21, cases[i].gate, 8);
        CHECK_EQ(t, attempt(&m, act_event, &event), cases[i].fault);
        CHECK_EQ(t, m.c->gpr[X86_RSP], STACK3); /* nothing has changed */
        CHECK_EQ(t, m.c->cpl, 3);
    }
    machine_free(&m);
}

static void test_event_stack_faults(struct test *t)
{
    struct soft_event event = {.kind = SOFT_EVENT_EXTERNAL, .vector = 0x21};
    struct machine m;

    if (!machine_new(t, &m))
        return;
    put(&m, IDT + 8 * 0x21, gate(CODE0, HANDLER, 0x8e), 8);
    mode_protected(&m, 3);
    put(&m, TSS + 8, DATA3 | 3, 2);
    CHECK_EQ(t, attempt(&m, act_event, &event), FAULT(X86_TS, DATA3 + 1));
    put(&m, TSS + 8, ABSENT, 2);
    CHECK_EQ(t, attempt(&m, act_event, &event), FAULT(X86_SSV, ABSENT + 1));
    put(&m, TSS + 8, SMALL, 2);
    CHECK_EQ(t, attempt(&m, act_event, &event), FAULT(X86_SSV, SMALL + 1));
    m.c->tr.limit = 8;
    CHECK_EQ(t, attempt(&m, act_event, &event), FAULT(X86_TS, TASK + 1));
    machine_free(&m);
}

static void test_event_real(struct test *t)
{
    struct soft_event event = {.kind = SOFT_EVENT_SOFTWARE, .vector = 0x10, .return_rip = 0x1234};
    struct machine m;

    if (!machine_new(t, &m))
        return;
    m.c->cr0 = X86_CR0_ET;
    m.c->idtr = (struct x86_table){.limit = 0x3ff};
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        m.c->seg[i] = (struct x86_segment){.limit = 0xffff, .attributes = 0x93};
    soft_mode_update(m.c);
    put(&m, 0x40, 0xf0000555, 4);
    m.c->gpr[X86_RSP] = 0xaaaa0100;
    CHECK_EQ(t, attempt(&m, act_event, &event), NO_FAULT);
    CHECK_EQ(t, m.c->rip, 0x555);
    CHECK_EQ(t, m.c->seg[X86_CS].base, 0xf0000);
    CHECK_EQ(t, m.c->gpr[X86_RSP], 0xaaaa00fa);
    CHECK_EQ(t, get(&m, 0xfa, 2), 0x1234);
    CHECK_EQ(t, m.c->rflags & X86_RFLAGS_IF, 0);
    m.c->gpr[X86_RSP] = 1; /* a word there would wrap */
    CHECK_EQ(t, attempt(&m, act_event, &event), FAULT(X86_SSV, 0));
    machine_free(&m);
}

/* -- tasks -- */

static void task_write(struct machine *m, uint16_t ss)
{
    put(m, TSS_NEW + 0x20, HANDLER, 4);
    put(m, TSS_NEW + 0x24, X86_RFLAGS_ONE, 4);
    put(m, TSS_NEW + 0x28, 0xabcd, 4);
    put(m, TSS_NEW + 0x38, 0x4000, 4);
    put(m, TSS_NEW + 0x48, DATA0, 2);
    put(m, TSS_NEW + 0x4c, CODE0, 2);
    put(m, TSS_NEW + 0x50, ss, 2);
    put(m, TSS_NEW + 0x54, DATA0, 2);
}

static void test_task_gate(struct test *t)
{
    struct soft_event event = {.kind = SOFT_EVENT_EXCEPTION,
                               .vector = X86_GP,
                               .has_code = true,
                               .code = 0x77,
                               .return_rip = 0x1234};
    struct machine m;

    if (!machine_new(t, &m))
        return;
    put(&m, IDT + 8 * X86_GP, gate(TASK_NEW, 0, 0x85), 8);
    task_write(&m, DATA0);
    m.c->gpr[X86_RAX] = 0x1111;
    CHECK_EQ(t, attempt(&m, act_event, &event), NO_FAULT);
    CHECK_EQ(t, m.c->rip, HANDLER);
    CHECK_EQ(t, m.c->gpr[X86_RAX], 0xabcd);
    CHECK_EQ(t, m.c->gpr[X86_RSP], 0x4000 - 4);
    CHECK_EQ(t, get(&m, 0x4000 - 4, 4), 0x77);
    CHECK_EQ(t, m.c->rflags & X86_RFLAGS_NT, X86_RFLAGS_NT);
    CHECK_EQ(t, m.c->cr0 & X86_CR0_TS, X86_CR0_TS);
    CHECK_EQ(t, get(&m, TSS_NEW, 2), TASK);
    CHECK_EQ(t, get(&m, TSS + 0x20, 4), 0x1234);
    CHECK_EQ(t, get(&m, TSS + 0x28, 4), 0x1111);
    CHECK_EQ(t, get(&m, GDT + TASK + 5, 1), 0x8b);     /* still busy */
    CHECK_EQ(t, get(&m, GDT + TASK_NEW + 5, 1), 0x8b); /* now busy */
    /* Busy now: the gate leads to a #GP that names it. */
    CHECK_EQ(t, attempt(&m, act_event, &event), FAULT(X86_GP, TASK_NEW + 1));
    machine_free(&m);
}

static void test_task_bad_stack(struct test *t)
{
    struct soft_event event = {.kind = SOFT_EVENT_EXTERNAL, .vector = 0x21};
    struct machine m;

    if (!machine_new(t, &m))
        return;
    put(&m, IDT + 8 * 0x21, gate(TASK_NEW, 0, 0x85), 8);
    task_write(&m, DATA3 | 3);
    CHECK_EQ(t, attempt(&m, act_event, &event), FAULT(X86_TS, DATA3 + 1));
    CHECK_EQ(t, m.c->tr.selector, TASK_NEW); /* in the new task's context */
    CHECK_EQ(t, soft_rip_current(m.c), HANDLER);
    machine_free(&m);
}

static void test_io_permission(struct test *t)
{
    struct machine m;

    if (!machine_new(t, &m))
        return;
    put(&m, TSS + 0x66, 0x68, 2);
    put(&m, TSS + 0x68, 0xff04, 2); /* port 2 is not allowed */
    m.c->tr.limit = 0x69;
    CHECK(t, soft_io_permitted(m.c, 2, 1)); /* CPL 0 */
    mode_protected(&m, 3);
    m.c->tr.limit = 0x69;
    CHECK(t, soft_io_permitted(m.c, 0, 2));
    CHECK(t, !soft_io_permitted(m.c, 0, 4));
    CHECK(t, !soft_io_permitted(m.c, 2, 1));
    CHECK(t, soft_io_permitted(m.c, 3, 4));
    CHECK(t, !soft_io_permitted(m.c, 7, 2)); /* into the byte of ones */
    CHECK(t, !soft_io_permitted(m.c, 8, 1)); /* beyond the map */
    m.c->rflags |= X86_RFLAGS_IOPL;
    CHECK(t, soft_io_permitted(m.c, 2, 1));
    machine_free(&m);
}

/* -- NMIs -- */

/* How many are handled until the main program comes to its HLT, when `before` come at first and
 * `during` while the first one is handled. */
static unsigned nmis_taken(struct machine *m, unsigned before, unsigned during)
{
    const struct cpu_engine *engine = cpu_engines[0];

    /* Handler: out 0x80, al; iret. Main program: hlt. */
    put(m, HANDLER, 0xcf80e6, 3);
    put(m, 0x1234, 0xf4, 1);
    put(m, IDT + 8 * X86_NMI, gate(CODE0, HANDLER, 0x8e), 8);
    for (unsigned i = 0; i < before; i++)
        engine->inject(m->vcpu, X86_NMI, true);
    for (unsigned taken = 0;; taken++) {
        engine->run(m->vcpu, &m->exit);
        if (m->exit.kind != CPU_EXIT_IO)
            return taken;
        for (unsigned i = 0; taken == 0 && i < during; i++)
            engine->inject(m->vcpu, X86_NMI, true);
    }
}

/* One waits while one is handled, no more; two that come to a CPU that handles none are both taken.
 */
static void test_nmis(struct test *t)
{
    static const struct {
        unsigned before, during, taken;
    } cases[] = {{0, 0, 0}, {1, 0, 1}, {2, 0, 2}, {3, 0, 2}, {1, 1, 2}, {1, 3, 2}, {2, 2, 2}};
    struct machine m;

    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!machine_new(t, &m))
            return;
        CHECK_EQ(t, nmis_taken(&m, cases[i].before, cases[i].during), cases[i].taken);
        CHECK_EQ(t, m.exit.kind, CPU_EXIT_HALT);
        machine_free(&m);
    }
}

/* -- flags -- */

static void test_flags(struct test *t)
{
    struct machine m;

    if (!machine_new(t, &m))
        return;
    for (uint64_t bit = 1; bit < (UINT64_C(1) << 22); bit <<= 1) {
        uint64_t defined = 0x3f7fd5;

        soft_rflags_set(m.c, bit & ~(uint64_t)X86_RFLAGS_VM);
        CHECK_EQ(t, soft_rflags_get(m.c),
                 (bit & defined & ~(uint64_t)X86_RFLAGS_VM) | X86_RFLAGS_ONE);
    }
    machine_free(&m);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_limits);
    TEST_RUN(&t, test_loads);
    TEST_RUN(&t, test_event_inner);
    TEST_RUN(&t, test_event_faults);
    TEST_RUN(&t, test_event_stack_faults);
    TEST_RUN(&t, test_event_real);
    TEST_RUN(&t, test_task_gate);
    TEST_RUN(&t, test_task_bad_stack);
    TEST_RUN(&t, test_io_permission);
    TEST_RUN(&t, test_nmis);
    TEST_RUN(&t, test_flags);
    return test_end(&t);
}
