/*
 * Segmentation: limits, types and privileges of segments, LAR/LSL/VERR/VERW/ARPL, gates and far
 * transfers, conforming code, the LDT.
 *
 * Intel SDM vol. 3, 3.4, 5; AMD APM vol. 2, 4.
 */
#include "world.h"

enum slot {
    DATA_SMALL = SEL_FREE, /* base &area, limit 0xf, read/write */
    DATA_READ = DATA_SMALL + 8,
    DATA_DOWN = DATA_READ + 8,   /* expand-down, valid above 0xf */
    DATA_DOWN16 = DATA_DOWN + 8, /* the same with B = 0 */
    DATA_USER = DATA_DOWN16 + 8,
    DATA_ABSENT = DATA_USER + 8,
    CODE_EXEC = DATA_ABSENT + 8, /* execute only */
    CODE_CONFORMING = CODE_EXEC + 8,
    CODE_SMALL = CODE_CONFORMING + 8,
    CODE_ABSENT = CODE_SMALL + 8,
    GATE_CALL = CODE_ABSENT + 8, /* 32-bit call gate to ring 0, DPL 3, 2 parameters */
    GATE_CALL0 = GATE_CALL + 8,  /* DPL 0 */
    GATE_ABSENT = GATE_CALL0 + 8,
    GATE_BAD = GATE_ABSENT + 8, /* to a data segment */
    GATE_CONFORMING = GATE_BAD + 8,
    LDT_SLOT = GATE_CONFORMING + 8,
    TSS_BUSY = LDT_SLOT + 8,
    CODE_RING1 = TSS_BUSY + 8,
    DATA_RING1 = CODE_RING1 + 8,
};

static u8 area[64] __attribute__((aligned(64)));
static u64 ldt[4];

CODE32(s_gate_target, "mov %esp, %ebx\n mov (%esp), %edi\n mov 8(%esp), %ecx\n mov 12(%esp), "
                      "%edx\n mov %ss, %esi\n mov %cs, %eax" STOP);
CODE32(s_gate_return, "mov 8(%esp), %ecx\n lretl $8");
CODE32(s_conforming_target, "mov %cs, %ecx\n mov %ss, %edx" STOP);

static void tables_reset(void)
{
    u32 base = (u32)ADDRESS(area);
    u32 target = (u32)ADDRESS(s_gate_target);
    gdt[DATA_SMALL / 8] = segment(base, 0xf, 0x4093);
    gdt[DATA_READ / 8] = segment(base, 0xf, 0x4091);
    gdt[DATA_DOWN / 8] = segment(base, 0xf, 0x4097);
    gdt[DATA_DOWN16 / 8] = segment(base, 0xf, 0x0097);
    gdt[DATA_USER / 8] = segment(base, 0xf, 0x40f3);
    gdt[DATA_ABSENT / 8] = segment(base, 0xf, 0x4013);
    gdt[CODE_EXEC / 8] = segment(0, 0xfffff, 0xc099);
    gdt[CODE_CONFORMING / 8] = segment(0, 0xfffff, 0xc09f);
    gdt[CODE_SMALL / 8] = segment((u32)ADDRESS(scratch_code), 0xf, 0x409b);
    gdt[CODE_ABSENT / 8] = segment(0, 0xfffff, 0xc01b);
    gdt[GATE_CALL / 8] = legacy_gate(SEL_KCODE32, target, 0xec) | 2ul << 32;
    gdt[GATE_CALL0 / 8] = legacy_gate(SEL_KCODE32, target, 0x8c);
    gdt[GATE_ABSENT / 8] = legacy_gate(SEL_KCODE32, target, 0x6c);
    gdt[GATE_BAD / 8] = legacy_gate(SEL_KDATA, target, 0xec);
    gdt[GATE_CONFORMING / 8] =
        legacy_gate(CODE_CONFORMING, (u32)ADDRESS(s_conforming_target), 0xec);
    gdt[LDT_SLOT / 8] = segment((u32)ADDRESS(ldt), sizeof(ldt) - 1, 0x0082);
    gdt[TSS_BUSY / 8] = segment((u32)ADDRESS(&tss32), 0x67, 0x008b);
    gdt[CODE_RING1 / 8] = segment(0, 0xfffff, 0xc0bb);
    gdt[DATA_RING1 / 8] = segment(0, 0xfffff, 0xc0b3);
    ldt[1] = segment(base, 0xf, 0x4093);
    for (int i = 0; i < 64; i++)
        area[i] = (u8)i;
}

CODE32(s_read8, "mov %fs:(%eax), %cl" STOP);
CODE32(s_read16, "mov %fs:(%eax), %cx" STOP);
CODE32(s_read32, "mov %fs:(%eax), %ecx" STOP);
CODE32(s_write8, "mov %cl, %fs:(%eax)" STOP);
CODE32(s_write32, "mov %ecx, %fs:(%eax)" STOP);
CODE32(s_rmw32, "addl $1, %fs:(%eax)" STOP);
CODE32(s_read64, "movq %fs:(%eax), %mm0" STOP);

struct limit_case {
    const char *what;
    const u8 *code;
    u16 selector;
    u32 offset;
    bool good;
};

/* Good and bad offsets of each kind of segment, SDM vol. 3, 5.3. */
static const struct limit_case limit_cases[] = {
    {"byte at the limit", s_read8, DATA_SMALL, 15, true},
    {"byte above", s_read8, DATA_SMALL, 16, false},
    {"word at the limit", s_read16, DATA_SMALL, 14, true},
    {"word across the limit", s_read16, DATA_SMALL, 15, false},
    {"dword at the limit", s_read32, DATA_SMALL, 12, true},
    {"dword across the limit", s_read32, DATA_SMALL, 13, false},
    {"dword across 4 GiB", s_read32, DATA_SMALL, 0xfffffffe, false},
    {"write at the limit", s_write32, DATA_SMALL, 12, true},
    {"write across the limit", s_write32, DATA_SMALL, 13, false},
    {"read of a read-only segment", s_read32, DATA_READ, 0, true},
    {"write of a read-only segment", s_write8, DATA_READ, 0, false},
    {"add to a read-only segment", s_rmw32, DATA_READ, 0, false},
    {"read of a code segment", s_read32, SEL_KCODE32, 0x100000, true},
    {"write of a code segment", s_write8, SEL_KCODE32, 0x7c00, false},
    {"expand-down below", s_read8, DATA_DOWN, 15, false},
    {"expand-down at the limit + 1", s_read8, DATA_DOWN, 16, true},
    {"expand-down high", s_read32, DATA_DOWN, 0x100000, true},
    {"expand-down 16, at 0xffff", s_read8, DATA_DOWN16, 0xffff, true},
    {"expand-down 16, across 0xffff", s_read16, DATA_DOWN16, 0xffff, false},
    {"expand-down 16, above", s_read8, DATA_DOWN16, 0x10000, false},
    {"null selector", s_read8, 0, 0x100000, false},
    {"null selector, RPL 3", s_read8, 3, 0x100000, false},
};

static void test_limits(void)
{
    part("limits and types");
    tables_reset();
    tcg_wrong_begin("TCG checks neither limits nor types");
    for (size_t i = 0; i < sizeof(limit_cases) / sizeof(limit_cases[0]); i++) {
        const struct limit_case *t = &limit_cases[i];
        struct context c = context_legacy(t->code);
        c.fs = t->selector;
        c.rax = t->offset;
        world_legacy(&c);
        if (t->good)
            CHECK_STOP(t->what, &c);
        else
            CHECK_TRAP(t->what, &c, GP, 0, ADDRESS(t->code));
    }
    tcg_wrong_end();
}

CODE32(s_stack, "mov %eax, %esp\n push %ecx" STOP);
CODE32(s_stack_ebp, "mov %eax, %ebp\n mov (%ebp), %ecx" STOP);
CODE32(s_run_off, "jmp *%eax");
CODE32(s_far_small, "ljmp *(%eax)");

static void test_stack_and_code_limits(void)
{
    part("stack and code limits");
    tables_reset();
    /* #SS is delivered on a good stack: the run is at ring 3, so that its frames go to ring 0's. */
    struct context c = context_legacy_user(s_stack);
    c.ss = DATA_USER | 3;
    c.rax = 20;
    world_legacy(&c);
    tcg_wrong("TCG checks no limits");
    CHECK_TRAP("PUSH at the limit", &c, SS, 0, ADDRESS(s_stack) + 2);
    c.rip = ADDRESS(s_stack_ebp);
    c.rax = 13;
    world_legacy(&c);
    tcg_wrong("TCG checks no limits");
    CHECK_TRAP("EBP at the limit", &c, SS, 0, ADDRESS(s_stack_ebp) + 2);
    c = context_legacy_user(s_stack);
    c.ss = DATA_USER | 3;
    c.rax = 16;
    world_legacy(&c);
    CHECK_STOP("PUSH just below the limit", &c);
    static struct __attribute__((packed)) {
        u32 offset;
        u16 selector;
    } far;
    far.selector = CODE_SMALL;
    far.offset = 14;
    SCRATCH(0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90);
    c = context_legacy(s_far_small);
    c.rax = ADDRESS(&far);
    world_legacy(&c);
    CHECK_TRAP("code at its limit", &c, STOP_VECTOR, NO_ERROR, 16);
    far.offset = 13;
    SCRATCH(0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xb8, 1,
            2, 3, 4);
    c = context_legacy(s_far_small);
    c.rax = ADDRESS(&far);
    world_legacy(&c);
    tcg_wrong("TCG checks no limits");
    CHECK_TRAP("instruction across the code limit", &c, GP, 0, 13);
    far.offset = 16;
    c = context_legacy(s_far_small);
    c.rax = ADDRESS(&far);
    world_legacy(&c);
    CHECK_TRAP("far jump above the limit", &c, GP, 0, ADDRESS(s_far_small));
}

CODE32(s_load_ds, "mov %eax, %ds" STOP);
CODE32(s_load_ss, "mov %eax, %ss" STOP);
CODE32(s_load_es_pop, "push %eax\n pop %es" STOP);
CODE32(s_load_cs, ".byte 0x8e, 0xc8" STOP);
CODE32(s_lldt, "lldt %ax" STOP);
CODE32(s_ltr, "ltr %ax" STOP);
CODE32(s_ldt_read, "lldt %ax\n mov $0xc, %ecx\n mov %ecx, %fs\n mov %fs:4, %edx\n sldt %ebx" STOP);

struct load_case {
    const char *what;
    const u8 *code;
    bool user;
    u16 selector;
    u64 vector, error;
};

static const struct load_case load_cases[] = {
    {"DS: data", s_load_ds, false, DATA_SMALL, STOP_VECTOR, NO_ERROR},
    {"DS: readable code", s_load_ds, false, SEL_KCODE32, STOP_VECTOR, NO_ERROR},
    {"DS: execute-only code", s_load_ds, false, CODE_EXEC, GP, CODE_EXEC},
    {"DS: not present", s_load_ds, false, DATA_ABSENT, NP, DATA_ABSENT},
    {"DS: RPL above DPL", s_load_ds, false, DATA_SMALL | 3, GP, DATA_SMALL},
    {"DS: DPL below CPL", s_load_ds, true, DATA_SMALL, GP, DATA_SMALL},
    {"DS: user data at ring 3", s_load_ds, true, DATA_USER | 3, STOP_VECTOR, NO_ERROR},
    {"DS: conforming code at ring 3", s_load_ds, true, CODE_CONFORMING | 3, STOP_VECTOR, NO_ERROR},
    {"DS: system segment", s_load_ds, false, LDT_SLOT, GP, LDT_SLOT},
    {"DS: null", s_load_ds, false, 0, STOP_VECTOR, NO_ERROR},
    {"DS: above the limit", s_load_ds, false, 0xfff8, GP, 0xfff8},
    {"DS: no LDT", s_load_ds, false, 0xc, GP, 0xc},
    {"ES by POP: execute only", s_load_es_pop, false, CODE_EXEC, GP, CODE_EXEC},
    {"SS: null", s_load_ss, false, 0, GP, 0},
    {"SS: read only", s_load_ss, false, DATA_READ, GP, DATA_READ},
    {"SS: code", s_load_ss, false, SEL_KCODE32, GP, SEL_KCODE32},
    {"SS: not present", s_load_ss, false, DATA_ABSENT, SS, DATA_ABSENT},
    {"SS: RPL differs", s_load_ss, false, DATA_USER | 3, GP, DATA_USER},
    {"SS: ring 0's at ring 3", s_load_ss, true, SEL_KDATA, GP, SEL_KDATA},
    {"CS by MOV", s_load_cs, false, SEL_KCODE32, UD, NO_ERROR},
    {"LLDT: data", s_lldt, false, DATA_SMALL, GP, DATA_SMALL},
    {"LLDT: TI set", s_lldt, false, 0xc, GP, 0xc},
    {"LLDT: null", s_lldt, false, 0, STOP_VECTOR, NO_ERROR},
    {"LLDT at ring 3", s_lldt, true, LDT_SLOT, GP, 0},
    {"LTR: busy", s_ltr, false, TSS_BUSY, GP, TSS_BUSY},
    {"LTR: null", s_ltr, false, 0, GP, 0},
    {"LTR: data", s_ltr, false, DATA_SMALL, GP, DATA_SMALL},
};

static void test_loads(void)
{
    part("segment loads");
    for (size_t i = 0; i < sizeof(load_cases) / sizeof(load_cases[0]); i++) {
        const struct load_case *t = &load_cases[i];
        tables_reset();
        struct context c = t->user ? context_legacy_user(t->code) : context_legacy(t->code);
        c.rax = t->selector;
        world_legacy(&c);
        if (t->code == s_ltr && t->selector == 0)
            tcg_wrong("TCG takes a null TR");
        u64 skipped = t->code == s_load_es_pop ? 1 : 0;
        if (t->vector == STOP_VECTOR)
            CHECK_STOP(t->what, &c);
        else
            CHECK_TRAP(t->what, &c, t->vector, t->error, ADDRESS(t->code) + skipped);
    }
    tables_reset();
    struct context c = context_legacy(s_ldt_read);
    c.rax = LDT_SLOT;
    world_legacy(&c);
    CHECK_STOP("LDT", &c);
    CHECK("read by an LDT segment", c.rdx, 0x07060504);
    CHECK("SLDT", c.rbx & 0xffff, LDT_SLOT);
    gdt[DATA_SMALL / 8] = segment(0, 0xf, 0x4092);
    c = context_legacy(s_load_ds);
    c.rax = DATA_SMALL;
    world_legacy(&c);
    CHECK("a load sets the accessed bit", gdt[DATA_SMALL / 8] >> 40 & 1, 1);
}

CODE32(s_lar, "cmp %eax, %eax\n lar %eax, %ecx\n setz %dl\n lsl %eax, %ebx\n setz %dh\n verr %ax\n "
              "setz %al\n verw %si\n setz %ah" STOP);
CODE32(s_arpl, "arpl %cx, %ax\n setz %dl" STOP);

struct query_case {
    u16 selector;
    bool user, lar, lsl, verr, verw;
};

static const struct query_case query_cases[] = {
    {SEL_KDATA, false, true, true, true, true},
    {DATA_READ, false, true, true, true, false},
    {SEL_KCODE32, false, true, true, true, false},
    {CODE_EXEC, false, true, true, false, false},
    {0, false, false, false, false, false},
    {0xfff8, false, false, false, false, false},
    {SEL_KDATA, true, false, false, false, false},
    {SEL_UDATA, true, true, true, true, true},
    {CODE_CONFORMING, true, true, true, true, false},
    {GATE_CALL, false, true, false, false, false},
    {LDT_SLOT, false, true, true, false, false},
    {TSS_BUSY, false, true, true, false, false},
    {DATA_SMALL | 3, false, false, false, false, false},
};

static void test_queries(void)
{
    part("LAR, LSL, VERR, VERW");
    tables_reset();
    for (size_t i = 0; i < sizeof(query_cases) / sizeof(query_cases[0]); i++) {
        const struct query_case *t = &query_cases[i];
        struct context c = t->user ? context_legacy_user(s_lar) : context_legacy(s_lar);
        c.rax = c.rsi = t->selector;
        c.rcx = c.rbx = 0x5a5a5a5a;
        world_legacy(&c);
        u64 descriptor = t->selector < GDT_SLOTS * 8 ? gdt[t->selector / 8] : 0;
        u64 limit = (descriptor & 0xffff) | (descriptor >> 32 & 0xf0000);
        limit = descriptor >> 55 & 1 ? limit << 12 | 0xfff : limit;
        CHECK("LAR, ZF", c.rdx & 1, t->lar);
        u64 mask =
            t->selector == GATE_CALL ? 0xff00 : 0xf0ff00; /* above are bits of a gate's offset */
        CHECK("LAR", t->lar ? c.rcx & mask : c.rcx, t->lar ? descriptor >> 32 & mask : 0x5a5a5a5a);
        CHECK("LSL, ZF", c.rdx >> 8 & 1, t->lsl);
        CHECK("LSL", c.rbx, t->lsl ? limit : 0x5a5a5a5a);
        CHECK("VERR", c.rax & 1, t->verr);
        CHECK("VERW", c.rax >> 8 & 1, t->verw);
    }
    for (u64 to = 0; to < 4; to++) {
        for (u64 from = 0; from < 4; from++) {
            struct context c = context_legacy(s_arpl);
            c.rax = 0x10 | to;
            c.rcx = from;
            world_legacy(&c);
            CHECK("ARPL", c.rax & 0xffff, 0x10 | (to < from ? from : to));
            CHECK("ARPL, ZF", c.rdx & 1, to < from);
        }
    }
}

CODE32(s_call_gate, "push $0x1111\n push $0x2222\n lcall $"
                    "0xd8"
                    ", $0\n mov $0x99, %esi" STOP);
CODE32(s_far, "lcall *(%eax)" STOP);
CODE32(s_far_jmp, "ljmp *(%eax)" STOP);
CODE32(s_lret_outer, "push $0x23\n push %eax\n push $0x1b\n push %ebx\n lretl");
CODE32(s_lret_outer_target, "mov %cs, %ecx\n mov %ss, %edx\n mov %ds, %esi\n mov %fs, %edi" STOP);
CODE32(s_lret_bad, "push %eax\n push $0"
                   "\n" LABEL(s_lret_bad_at) "lretl");
LABEL_OF(s_lret_bad_at);
CODE32(s_iret_ring1, "push %edx\n push %esp\n push $2\n push %ecx\n push %ebx\n iretl");

static struct __attribute__((packed)) {
    u32 offset;
    u16 selector;
} far_pointer;

static struct context far_run(const u8 *code, bool user, u16 selector, const void *to)
{
    struct context c = user ? context_legacy_user(code) : context_legacy(code);
    far_pointer.selector = selector;
    far_pointer.offset = (u32)ADDRESS(to);
    c.rax = ADDRESS(&far_pointer);
    world_legacy(&c);
    return c;
}

static void test_gates(void)
{
    part("call gates");
    tables_reset();
    _Static_assert(GATE_CALL == 0xd8, "the selector in s_call_gate");
    struct context c = context_legacy_user(s_call_gate);
    world_legacy(&c);
    CHECK_STOP("call gate to ring 0", &c);
    CHECK("CS", c.rax, SEL_KCODE32);
    CHECK("SS0", c.rsi & 0xffff, SEL_KDATA);
    CHECK("ESP0", c.rbx, tss32.esp0 - 24);
    CHECK("return address", c.rdi, ADDRESS(s_call_gate_end) - 7);
    CHECK("parameter 2 is nearer", c.rcx, 0x2222);
    CHECK("parameter 1", c.rdx, 0x1111);
    u32 *stack = (u32 *)(u64)tss32.esp0;
    CHECK("outer SS", stack[-1] & 0xffff, SEL_UDATA);
    CHECK("outer ESP", stack[-2], ADDRESS(test_stack_top) - 8);
    CHECK("outer CS", stack[-5] & 0xffff, SEL_UCODE32);
    gdt[GATE_CALL / 8] = legacy_gate(SEL_KCODE32, (u32)ADDRESS(s_gate_return), 0xec) | 2ul << 32;
    c = context_legacy_user(s_call_gate);
    world_legacy(&c);
    CHECK_STOP("far return to ring 3 with RET n", &c);
    CHECK("went on", c.rsi, 0x99);
    CHECK("parameter", c.rcx, 0x2222);
    CHECK("parameters are gone from both stacks", c.rsp, ADDRESS(test_stack_top));
    CHECK("CS", c.cs & 0xffff, SEL_UCODE32);
    tables_reset();
    c = far_run(s_far, true, GATE_CALL0, 0);
    CHECK_TRAP("gate DPL below CPL", &c, GP, GATE_CALL0, ADDRESS(s_far));
    c = far_run(s_far, true, GATE_ABSENT, 0);
    CHECK_TRAP("gate not present", &c, NP, GATE_ABSENT, ADDRESS(s_far));
    c = far_run(s_far, true, GATE_BAD, 0);
    CHECK_TRAP("gate to data", &c, GP, SEL_KDATA, ADDRESS(s_far));
    c = far_run(s_far_jmp, true, GATE_CALL, 0);
    CHECK_TRAP("JMP by a gate to ring 0", &c, GP, SEL_KCODE32, ADDRESS(s_far_jmp));
    c = far_run(s_far_jmp, true, GATE_CONFORMING, 0);
    CHECK_STOP("JMP by a gate to conforming code", &c);
    CHECK("CPL stays 3", c.rcx & 3, 3);
    CHECK("SS stays", c.rdx & 0xffff, SEL_UDATA);
    c = far_run(s_far, true, GATE_CONFORMING, 0);
    CHECK_STOP("CALL by a gate to conforming code", &c);
    tcg_wrong("TCG takes the CPL from conforming code's DPL");
    CHECK("CPL stays 3", c.rcx & 3, 3);
}

static void test_far(void)
{
    part("far transfers");
    tables_reset();
    static const struct {
        const char *what;
        bool user;
        u16 selector;
        u64 vector, error;
    } cases[] = {
        {"null", false, 0, GP, 0},
        {"data segment", false, SEL_KDATA, GP, SEL_KDATA},
        {"above the limit", false, 0xfff8, GP, 0xfff8},
        {"not present", false, CODE_ABSENT, NP, CODE_ABSENT},
        {"outward: DPL above CPL", false, SEL_UCODE32, GP, SEL_UCODE32 & ~3},
        {"inward without gate", true, SEL_KCODE32, GP, SEL_KCODE32},
        {"conforming from ring 3", true, CODE_CONFORMING, STOP_VECTOR, NO_ERROR},
        {"same ring", true, SEL_UCODE32, STOP_VECTOR, NO_ERROR},
        {"RPL above CPL", false, SEL_KCODE32 | 3, GP, SEL_KCODE32},
        {"LDT descriptor", false, LDT_SLOT, GP, LDT_SLOT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct context c =
            far_run(s_far_jmp, cases[i].user, cases[i].selector, s_conforming_target);
        CHECK_VECTOR(cases[i].what, &c, cases[i].vector, cases[i].error);
        c = far_run(s_far, cases[i].user, cases[i].selector, s_conforming_target);
        CHECK_VECTOR(cases[i].what, &c, cases[i].vector, cases[i].error);
        if (cases[i].vector == STOP_VECTOR)
            CHECK("CPL", c.rcx & 3, cases[i].user ? 3 : 0);
        else
            CHECK("nothing pushed", c.rsp, ADDRESS(test_stack_top));
    }
    part("returns to outer rings");
    struct context c = context_legacy(s_lret_outer);
    c.rax = ADDRESS(other_stack_top) - 0x200;
    c.rbx = ADDRESS(s_lret_outer_target);
    c.fs = SEL_UDATA;
    world_legacy(&c);
    CHECK_STOP("far return to ring 3", &c);
    CHECK("CS", c.rcx & 0xffff, SEL_UCODE32);
    CHECK("SS", c.rdx & 0xffff, SEL_UDATA);
    CHECK("DS of ring 0 becomes null", c.rsi & 0xffff, 0);
    CHECK("FS of ring 3 stays", c.rdi & 0xffff, SEL_UDATA);
    c = context_legacy(s_iret_ring1);
    c.rcx = CODE_RING1 | 1;
    c.rdx = DATA_RING1 | 1;
    c.rbx = ADDRESS(s_conforming_target);
    world_legacy(&c);
    CHECK_VECTOR("IRET to ring 1, where INT needs DPL 3 of no one", &c, STOP_VECTOR, NO_ERROR);
    CHECK("CPL", c.rcx & 3, 1);
    CHECK("saved CS", c.cs & 0xffff, CODE_RING1 | 1);
    c = context_legacy(s_lret_bad);
    c.rax = SEL_KDATA;
    world_legacy(&c);
    CHECK_TRAP("far return to data", &c, GP, SEL_KDATA, ADDRESS(s_lret_bad_at));
    c = context_legacy(s_lret_bad);
    c.rax = 0;
    world_legacy(&c);
    CHECK_TRAP("far return to null", &c, GP, 0, ADDRESS(s_lret_bad_at));
}

CODE64(s_bases, "mov %gs:(%rax), %rcx\n mov %fs:(%rax), %rdx\n mov %ds:(%rbx), %rsi\n mov "
                "%cs:(%rbx), %rdi" STOP);
CODE64(s_gate64, "lcall *(%rax)" STOP);
CODE64(
    s_gate64_target,
    "mov %cs, %ecx\n mov %ss, %edx\n mov (%rsp), %rbx\n mov 8(%rsp), %rsi\n mov %rsp, %rdi" STOP);
CODE64(s_lar64, "lar %eax, %ecx\n setz %dl\n lsl %eax, %ebx\n setz %dh" STOP);

/* What is left of segmentation in 64-bit mode. */
static void test_long(void)
{
    part("64-bit mode");
    tables_reset();
    struct context c = context_kernel(s_bases);
    wrmsr(MSR_FS_BASE, ADDRESS(area) + 8);
    wrmsr(MSR_GS_BASE, ADDRESS(area) + 16);
    c.ds = DATA_SMALL;
    c.rax = 1;
    c.rbx = ADDRESS(area) + 32; /* beyond the limit and without the base of DATA_SMALL */
    world_long(&c);
    CHECK_STOP("bases", &c);
    CHECK("GS base", c.rcx, 0x1817161514131211);
    CHECK("FS base", c.rdx, 0x100f0e0d0c0b0a09);
    CHECK("DS has neither base nor limit", c.rsi, 0x2726252423222120);
    CHECK("CS neither", c.rdi, 0x2726252423222120);
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 0);
    u64 target = ADDRESS(s_gate64_target);
    gdt[GATE_CALL / 8] = legacy_gate(SEL_KCODE64, (u32)target, 0xec);
    gdt[GATE_CALL / 8 + 1] = target >> 32;
    c = context_user(s_gate64);
    static struct __attribute__((packed)) {
        u32 offset;
        u16 selector;
    } far = {0, GATE_CALL};
    c.rax = USER(&far);
    world_long(&c);
    CHECK_STOP("64-bit call gate", &c);
    CHECK("CS", c.rcx, SEL_KCODE64);
    CHECK("SS is null", c.rdx, 0);
    CHECK("return address", c.rbx, USER(s_gate64_end) - STOP_LEN);
    CHECK("return CS", c.rsi, SEL_UCODE64);
    CHECK("RSP0 less 4 words", c.rdi, tss64.rsp[0] - 32);
    gdt[GATE_CALL / 8 + 1] = 0x0000120000000000; /* the upper half's type must be 0 */
    c = context_user(s_gate64);
    c.rax = USER(&far);
    world_long(&c);
    CHECK_VECTOR("64-bit call gate, type in the upper half", &c, GP, GATE_CALL);
    gdt[GATE_CALL / 8] = legacy_gate(SEL_KCODE32, (u32)target, 0xec);
    gdt[GATE_CALL / 8 + 1] = 0;
    c = context_user(s_gate64);
    c.rax = USER(&far);
    world_long(&c);
    CHECK_VECTOR("64-bit call gate to 32-bit code", &c, GP, SEL_KCODE32);
    c = context_kernel(s_lar64);
    c.rax = SEL_TSS64;
    world_long(&c);
    CHECK("LAR of a 64-bit TSS", c.rdx & 1, 1);
    CHECK("its type", c.rcx >> 8 & 0xff, 0x8b);
    CHECK("LSL of it", c.rbx, sizeof(struct tss64) - 1);
}

CODE64(s_lretq, "push $0x23\n push %rcx\n push $0x2b\n push %rax\n lretq");
CODE64(s_lret32, "sub $16, %rsp\n mov %eax, (%rsp)\n movl $0x1b, 4(%rsp)\n mov %ecx, 8(%rsp)\n "
                 "movl $0x23, 12(%rsp)\n"
                 "lretl");
CODE64(s_iretd, "sub $20, %rsp\n mov %eax, (%rsp)\n movl $0x1b, 4(%rsp)\n movl $0x202, 8(%rsp)\n "
                "mov %ecx, 12(%rsp)\n"
                "movl $0x23, 16(%rsp)\n iretl");
CODE64(s_far64, "rex.w lcall *(%rdi)" STOP);
CODE64(s_far32, "lcall *(%rdi)" STOP);
CODE64(s_far_target, "mov (%rsp), %rax\n mov 8(%rsp), %rcx\n mov %rsp, %rbx" STOP);
CODE64(s_seen, "mov %cs, %eax\n mov %ss, %ebx\n mov %rsp, %rdx" STOP);
CODE32(s_seen32, "mov %cs, %eax\n mov %ss, %ebx\n mov %esp, %edx" STOP);

static void check_outward(const char *what, const u8 *code, const u8 *to, u64 cs)
{
    struct context c = context_kernel(code);
    c.rax = USER(to);
    c.rcx = USER(test_stack_top) - 0x80;
    world_long(&c);
    CHECK_STOP(what, &c);
    CHECK("CS", c.rax, cs);
    CHECK("SS", c.rbx, SEL_UDATA);
    CHECK("RSP", c.rdx, USER(test_stack_top) - 0x80);
}

static void test_far_long(void)
{
    part("far transfers in 64-bit mode");
    check_outward("RETFQ to ring 3", s_lretq, s_seen, SEL_UCODE64);
    check_outward("RETF of 32 bits to compatibility mode", s_lret32, s_seen32, SEL_UCODE32);
    check_outward("IRETD to compatibility mode", s_iretd, s_seen32, SEL_UCODE32);
    static struct __attribute__((packed)) {
        u64 offset;
        u16 selector;
    } far64;
    far64.offset = ADDRESS(s_far_target);
    far64.selector = SEL_KCODE64;
    struct context c = context_kernel(s_far64);
    c.rdi = ADDRESS(&far64);
    world_long(&c);
    if (cpu_is_intel()) {
        CHECK_STOP("CALL m16:64", &c);
        CHECK("pushed RIP", c.rax, ADDRESS(s_far64_end) - STOP_LEN);
        CHECK("pushed CS", c.rcx, SEL_KCODE64);
        CHECK("RSP", c.rbx, ADDRESS(test_stack_top) - 16);
    }
    static struct __attribute__((packed)) {
        u32 offset;
        u16 selector;
    } far32;
    far32.offset = (u32)ADDRESS(s_far_target);
    far32.selector = SEL_KCODE64;
    c = context_kernel(s_far32);
    c.rdi = ADDRESS(&far32);
    world_long(&c);
    CHECK_STOP("CALL m16:32", &c);
    CHECK("pushed as two dwords", c.rax,
          (u64)SEL_KCODE64 << 32 | (ADDRESS(s_far32_end) - STOP_LEN));
    CHECK("RSP", c.rbx, ADDRESS(test_stack_top) - 8);
}

void guest_main(void)
{
    u64 cr4 = cr4_get();
    test_limits();
    test_stack_and_code_limits();
    test_loads();
    test_queries();
    test_gates();
    test_far();
    test_long();
    test_far_long();
    cr4_set(cr4);
}
