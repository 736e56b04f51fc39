/*
 * Exceptions: each vector's cause, error code and saved RIP; delivery faults and the double fault;
 * IST; length limit.
 *
 * Intel SDM vol. 3, 6 (the table of contributory exceptions is 6-5); AMD APM vol. 2, 8.
 */
#include "world.h"

#define NONCANONICAL 0x8000000000000000ul

CODE64(e_div0, "xor %ecx, %ecx\n div %ecx" STOP);
CODE64(e_idiv, "mov $0x80000000, %eax\n cdq\n mov $-1, %ecx\n idiv %ecx" STOP);
CODE64(e_int3, "int3" STOP);
CODE64(e_int4, "int $4" STOP);
CODE64(e_ud2, "ud2" STOP);
CODE64(e_ud1, ".byte 0x0f, 0xb9, 0xc0" STOP);
CODE64(e_hlt, "hlt" STOP);
CODE64(e_gp_read, "mov (%rax), %rcx" STOP);
CODE64(e_ss_read, "mov %rax, %rbp\n mov (%rbp), %rcx" STOP);
CODE64(e_ss_push, "mov %rax, %rsp\n push %rcx" STOP);
CODE64(e_jmp, "jmp *%rax" STOP);
CODE64(e_call, "call *%rax" STOP);
CODE64(e_call_memory, "call *(%rbx)" STOP);
CODE64(e_ret, "push %rax\n" LABEL(e_ret_at) "ret" STOP);
LABEL_OF(e_ret_at);
CODE64(e_fld, "fninit" STOP);
CODE64(e_sse, "xorps %xmm0, %xmm0" STOP);
CODE64(e_wait, "fwait" STOP);
CODE64(e_mf, "fninit\n push $0x033b\n fldcw (%rsp)\n fldz\n fld1\n fdiv %st(1), %st\n nop\n" LABEL(
                 e_mf_at) "fwait\n fninit" STOP);
LABEL_OF(e_mf_at);
CODE64(e_xm, "push $0x1d80\n ldmxcsr (%rsp)\n xorps %xmm0, %xmm0\n mov $1, %eax\n cvtsi2ss %eax, "
             "%xmm1\n" LABEL(e_xm_at) "divss %xmm0, %xmm1" STOP);
LABEL_OF(e_xm_at);
CODE64(e_ac, "mov %rsp, %rbx\n and $-8, %rbx\n mov -15(%rbx), %eax" STOP);
CODE64(e_int20, "int $0x20" STOP);
CODE64(e_int82, "int $0x82" STOP);
CODE64(e_load_ds, "mov %eax, %ds" STOP);
CODE64(e_load_ss, "mov %eax, %ss" STOP);
CODE64(e_rdmsr, "mov $0x7fffffff, %ecx\n rdmsr" STOP);
CODE64(e_bad_page, "mov $0x90000000, %eax\n mov (%rax), %ecx" STOP);
CODE64(e_icebp, ".byte 0xf1" STOP);
CODE32(e_into, "mov $0x7f, %al\n add $1, %al\n into" STOP);
CODE32(e_into_no, "xor %eax, %eax\n into" STOP);
CODE32(e_bound, "bound %eax, (%edx)" STOP);
CODE16(e_bound16, "bound %ax, (%bx)" STOP);
CODE64(e_passed, "push $0\n xor %edx, %edx\n mov $1, %edi\n mov $2, %ecx\n orq $0x67, (%rsp)\n"
                 " jg 1f\n mov $1, %edx\n 1: idiv %edx\n cmp %rcx, %rdi\n mov (%rsp), %rax\n"
                 " jmp 2f\n 2: xor %eax, %eax" STOP);

struct simple_case {
    const char *what;
    const u8 *code;
    u64 rax, vector, error, offset; /* offset of the saved RIP */
    const char *tcg;                /* why TCG fails */
};

static const struct simple_case kernel_cases[] = {
    {"divide by 0", e_div0, 0, DE, NO_ERROR, 2},
    {"divide overflow", e_idiv, 0, DE, NO_ERROR, 11},
    {"INT3", e_int3, 0, BP, NO_ERROR, 1},
    {"INT 4", e_int4, 0, OF, NO_ERROR, 2},
    {"UD2", e_ud2, 0, UD, NO_ERROR, 0},
    {"UD1", e_ud1, 0, UD, NO_ERROR, 0},
    {"read at a non-canonical address", e_gp_read, NONCANONICAL, GP, 0, 0},
    {"read just above the lower half", e_gp_read, 0x800000000000, GP, 0, 0},
    {"read by RBP at a non-canonical address", e_ss_read, NONCANONICAL, SS, 0, 3,
     "TCG raises #GP for all"},
    {"PUSH at a non-canonical address", e_ss_push, NONCANONICAL, SS, 0, 3,
     "TCG raises #GP for all"},
    {"RDMSR of an MSR that is not", e_rdmsr, 0, GP, 0, 5, "TCG knows no bad MSR"},
    {"unmapped page", e_bad_page, 0, PF, 0, 5},
    {"INT 0x20", e_int20, 0, 0x20, NO_ERROR, 2},
    {"ICEBP", e_icebp, 0, DB, NO_ERROR, 1, "TCG takes it for undefined"},
};
static const struct simple_case user_cases[] = {
    {"divide by 0", e_div0, 0, DE, NO_ERROR, 2},
    {"INT3", e_int3, 0, BP, NO_ERROR, 1},
    {"INT 4", e_int4, 0, OF, NO_ERROR, 2},
    {"UD2", e_ud2, 0, UD, NO_ERROR, 0},
    {"HLT", e_hlt, 0, GP, 0, 0},
    {"INT 0x20, gate DPL 0", e_int20, 0, GP, 0x20 * 8 + 2, 0,
     "TCG doubles the vector in error codes"},
    {"INT 0x82, gate DPL 3", e_int82, 0, 0x82, NO_ERROR, 2},
    {"read at a non-canonical address", e_gp_read, NONCANONICAL, GP, 0, 0},
    {"RDMSR", e_rdmsr, 0, GP, 0, 5},
    {"unmapped page", e_bad_page, 0, PF, 4, 5},
    {"kernel page", e_gp_read, 0x100000, PF, 5, 0},
    {"ICEBP needs no gate DPL", e_icebp, 0, DB, NO_ERROR, 1, "TCG takes it for undefined"},
};

static void test_simple(void)
{
    part("ring 0");
    for (size_t i = 0; i < sizeof(kernel_cases) / sizeof(kernel_cases[0]); i++) {
        struct context c = context_kernel(kernel_cases[i].code);
        c.rax = kernel_cases[i].rax;
        world_long(&c);
        if (kernel_cases[i].tcg)
            tcg_wrong(kernel_cases[i].tcg);
        CHECK_TRAP(kernel_cases[i].what, &c, kernel_cases[i].vector, kernel_cases[i].error,
                   ADDRESS(kernel_cases[i].code) + kernel_cases[i].offset);
    }
    part("ring 3");
    for (size_t i = 0; i < sizeof(user_cases) / sizeof(user_cases[0]); i++) {
        struct context c = context_user(user_cases[i].code);
        c.rax = user_cases[i].rax;
        world_long(&c);
        if (user_cases[i].tcg)
            tcg_wrong(user_cases[i].tcg);
        CHECK_TRAP(user_cases[i].what, &c, user_cases[i].vector, user_cases[i].error,
                   USER(user_cases[i].code) + user_cases[i].offset);
        CHECK("saved CS", c.cs, SEL_UCODE64);
        CHECK("saved SS", c.ss, SEL_UDATA);
        CHECK("saved RSP", c.rsp, USER(test_stack_top));
    }
}

/* CALL to a non-canonical address: the manual has no push before the fault, but processors do it,
 * and leave RSP. So a stack that faults comes first. */
static void check_call(const char *what, const u8 *code)
{
    static const u64 target = NONCANONICAL;
    volatile u64 *pushed = low_pointer(ADDRESS(test_stack_top) - 8);
    struct context c = context_kernel(code);
    c.rax = target;
    c.rbx = ADDRESS(&target);
    struct context stackless = c;
    *pushed = 0x55;
    world_long(&c);
    tcg_wrong_begin("TCG takes the branch, then faults");
    CHECK_TRAP(what, &c, GP, 0, ADDRESS(code));
    CHECK("its RSP", c.rsp, ADDRESS(test_stack_top));
    CHECK("its return address", *pushed, ADDRESS(code) + 2);
    tcg_wrong_end();
    stackless.rsp = NONCANONICAL;
    world_long(&stackless);
    CHECK_TRAP("... with no stack", &stackless, SS, 0, ADDRESS(code));
}

/* Branches to non-canonical addresses fault on the branch (SDM vol. 2, JMP and RET). */
static void test_branches(void)
{
    part("branches");
    struct context c = context_kernel(e_jmp);
    c.rax = NONCANONICAL;
    world_long(&c);
    tcg_wrong("TCG takes the branch, then faults");
    CHECK_TRAP("JMP to a non-canonical address", &c, GP, 0, ADDRESS(e_jmp));
    check_call("CALL to a non-canonical address", e_call);
    check_call("CALL to one in memory", e_call_memory);
    c = context_kernel(e_ret);
    c.rax = NONCANONICAL;
    world_long(&c);
    tcg_wrong("TCG takes the branch, then faults");
    CHECK_TRAP("RET to a non-canonical address", &c, GP, 0, ADDRESS(e_ret_at));
    c = context_user(e_jmp);
    c.rax = TEST_REGION;
    world_long(&c);
    CHECK_TRAP("JMP to an unmapped page", &c, PF, has(FEATURE_NX) ? 0x14 : 0x4, TEST_REGION);
    CHECK("CR2", c.cr2, TEST_REGION);
}

static void test_fpu(void)
{
    part("floating point");
    u64 cr0 = cr0_get(), cr4 = cr4_get();
    cr4_set(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    cr0_set((cr0 | CR0_NE | CR0_MP) & ~(CR0_EM | CR0_TS));
    struct context c = run_kernel(e_mf);
    CHECK_TRAP("#MF at the next waiting instruction", &c, MF, NO_ERROR, ADDRESS(e_mf_at));
    __asm__ volatile("fninit");
    c = run_kernel(e_xm);
    tcg_wrong("TCG has no unmasked SSE exceptions");
    CHECK_TRAP("#XM", &c, XM, NO_ERROR, ADDRESS(e_xm_at));
    cr4_set(cr4 | CR4_OSFXSR);
    c = run_kernel(e_xm);
    tcg_wrong("TCG has no unmasked SSE exceptions");
    CHECK_TRAP("#UD for #XM without OSXMMEXCPT", &c, UD, NO_ERROR, ADDRESS(e_xm_at));
    cr0_set(cr0_get() | CR0_TS);
    c = run_kernel(e_fld);
    CHECK_TRAP("x87 with TS", &c, NM, NO_ERROR, ADDRESS(e_fld));
    c = run_kernel(e_sse);
    CHECK_TRAP("SSE with TS", &c, NM, NO_ERROR, ADDRESS(e_sse));
    c = run_kernel(e_wait);
    CHECK_TRAP("FWAIT with TS and MP", &c, NM, NO_ERROR, ADDRESS(e_wait));
    cr0_set(cr0_get() & ~CR0_MP);
    c = run_kernel(e_wait);
    CHECK_STOP("FWAIT with TS alone", &c);
    cr0_set((cr0_get() & ~CR0_TS) | CR0_EM);
    c = run_kernel(e_fld);
    CHECK_TRAP("x87 with EM", &c, NM, NO_ERROR, ADDRESS(e_fld));
    c = run_kernel(e_sse);
    CHECK_TRAP("SSE with EM", &c, UD, NO_ERROR, ADDRESS(e_sse));
    cr0_set(cr0_get() & ~CR0_EM);
    cr4_set(cr4 & ~CR4_OSFXSR);
    c = run_kernel(e_sse);
    CHECK_TRAP("SSE without OSFXSR", &c, UD, NO_ERROR, ADDRESS(e_sse));
    cr4_set(cr4);
    cr0_set(cr0);
}

static void test_alignment(void)
{
    part("alignment check");
    cr0_set(cr0_get() | CR0_AM);
    struct context c = context_user(e_ac);
    c.rflags |= FLAG_AC;
    world_long(&c);
    tcg_wrong("TCG has no alignment checks");
    CHECK_TRAP("misaligned read at ring 3", &c, AC, 0, USER(e_ac) + 7);
    c = run_user(e_ac);
    CHECK_STOP("without EFLAGS.AC", &c);
    c = context_kernel(e_ac);
    c.rflags |= FLAG_AC;
    world_long(&c);
    CHECK_STOP("at ring 0", &c);
    cr0_set(cr0_get() & ~CR0_AM);
    c = context_user(e_ac);
    c.rflags |= FLAG_AC;
    world_long(&c);
    CHECK_STOP("without CR0.AM", &c);
}

CODE64(a_word, "mov 1(%rdi), %ax" STOP);
CODE64(a_dword, "mov 2(%rdi), %eax" STOP);
CODE64(a_quad, "mov 4(%rdi), %rax" STOP);
CODE64(a_byte, "mov 1(%rdi), %al" STOP);
CODE64(a_store, "mov %eax, 1(%rdi)" STOP);
CODE64(a_push, "lea -4(%rsp), %rsp\n push %rax" STOP);
CODE64(a_movups, "movups 1(%rdi), %xmm0" STOP);
CODE64(a_absent, "mov %rdi, %rax\n mov $0x90000001, %edi\n mov (%rdi), %eax" STOP);
CODE64(a_lods, "lea 1(%rdi), %rsi\n lodsl" STOP);

/* SDM vol. 3, table 6-7: what each size must be aligned to; the page fault of the access comes
 * after. */
static void test_alignment_sizes(void)
{
    static const struct {
        const char *what;
        const u8 *code;
        u64 vector, offset;
    } cases[] = {
        {"word", a_word, AC, 0},
        {"dword", a_dword, AC, 0},
        {"quadword", a_quad, AC, 0},
        {"byte", a_byte, STOP_VECTOR, 0},
        {"store", a_store, AC, 0},
        {"PUSH", a_push, AC, 5},
        {"MOVUPS", a_movups, STOP_VECTOR, 0},
        {"absent page: #AC first", a_absent, AC, 8},
        {"LODSD", a_lods, AC, 4},
    };
    static u64 words[4];
    part("alignment check, sizes");
    u64 cr4 = cr4_get();
    cr0_set(cr0_get() | CR0_AM);
    cr4_set(cr4 | CR4_OSFXSR);
    tcg_wrong_begin("TCG has no alignment checks");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct context c = context_user(cases[i].code);
        c.rdi = USER(words);
        c.rflags |= FLAG_AC;
        world_long(&c);
        if (cases[i].vector == STOP_VECTOR)
            CHECK_STOP(cases[i].what, &c);
        else
            CHECK_TRAP(cases[i].what, &c, AC, 0, USER(cases[i].code) + cases[i].offset);
    }
    tcg_wrong_end();
    cr0_set(cr0_get() & ~CR0_AM);
    cr4_set(cr4);
}

static struct context run_selector(const u8 *code, u64 selector)
{
    struct context c = context_kernel(code);
    c.rax = selector;
    world_long(&c);
    return c;
}

static void test_selectors(void)
{
    part("segment loads in long mode");
    gdt[SEL_FREE / 8] = segment(0, 0xfffff, 0xc013);     /* data, not present */
    gdt[SEL_FREE / 8 + 1] = segment(0, 0xfffff, 0xc091); /* data, read only */
    struct context c = run_selector(e_load_ds, SEL_FREE);
    CHECK_TRAP("DS not present", &c, NP, SEL_FREE, ADDRESS(e_load_ds));
    c = run_selector(e_load_ss, SEL_FREE);
    CHECK_TRAP("SS not present", &c, SS, SEL_FREE, ADDRESS(e_load_ss));
    c = run_selector(e_load_ss, SEL_FREE + 8);
    CHECK_TRAP("SS read only", &c, GP, SEL_FREE + 8, ADDRESS(e_load_ss));
    c = run_selector(e_load_ss, SEL_UDATA);
    CHECK_TRAP("SS with another RPL", &c, GP, SEL_UDATA & ~3, ADDRESS(e_load_ss));
    c = run_selector(e_load_ds, GDT_SLOTS * 8);
    CHECK_TRAP("DS above the limit", &c, GP, GDT_SLOTS * 8, ADDRESS(e_load_ds));
    c = run_selector(e_load_ds, 0x8c);
    CHECK_TRAP("DS in the null LDT", &c, GP, 0x8c, ADDRESS(e_load_ds));
    c = run_selector(e_load_ds, SEL_TSS64);
    CHECK_TRAP("DS from a system segment", &c, GP, SEL_TSS64, ADDRESS(e_load_ds));
    c = run_selector(e_load_ds, 3);
    CHECK_STOP("null DS", &c);
    c = run_selector(e_load_ss, 0);
    CHECK_STOP("null SS at ring 0 in 64-bit mode", &c);
    c = context_user(e_load_ss);
    c.rax = 3;
    world_long(&c);
    CHECK_TRAP("null SS at ring 3", &c, GP, 0, USER(e_load_ss));
    c = context_user(e_load_ds);
    c.rax = SEL_KDATA;
    world_long(&c);
    CHECK_TRAP("kernel DS at ring 3", &c, GP, SEL_KDATA, USER(e_load_ds));
}

/* The processor's own addresses have 64 bits whatever the program's have. */
static void test_compat_high_tables(void)
{
    const u64 high = 0xffff800000000000;
    struct table_register low_gdtr, high_gdtr, low_idtr, high_idtr;

    boot_pml4[256] = boot_pml4[0];
    __asm__ volatile("sgdt %0; sidt %1" : "=m"(low_gdtr), "=m"(low_idtr));
    high_gdtr = low_gdtr;
    high_idtr = low_idtr;
    high_gdtr.base |= high;
    high_idtr.base |= high;
    __asm__ volatile("lgdt %0; lidt %1" : : "m"(high_gdtr), "m"(high_idtr));
    struct context c = context_compat(e_into_no);
    world_long(&c);
    __asm__ volatile("lgdt %0; lidt %1" : : "m"(low_gdtr), "m"(low_idtr));
    boot_pml4[256] = 0;
    cr3_set(cr3_get());
    CHECK_STOP("GDT and IDT above 4 GiB", &c);
}

static void test_compat(void)
{
    part("compatibility mode");
    test_compat_high_tables();
    struct context c = context_compat(e_into);
    world_long(&c);
    CHECK_TRAP("INTO", &c, OF, NO_ERROR, USER(e_into_end) - STOP_LEN);
    c = context_compat(e_into_no);
    world_long(&c);
    CHECK_STOP("INTO without OF", &c);
    static const struct {
        const char *what;
        int index;
        u64 vector;
    } bounds[] = {{"in", 0, STOP_VECTOR},
                  {"low end", -5, STOP_VECTOR},
                  {"high end", 7, STOP_VECTOR},
                  {"below", -6, BR},
                  {"above", 8, BR}};
    static int limits[2] = {-5, 7};
    for (size_t i = 0; i < 5; i++) {
        c = context_compat(e_bound);
        c.rax = (u32)bounds[i].index;
        c.rdx = USER(limits);
        world_long(&c);
        CHECK_TRAP(bounds[i].what, &c, bounds[i].vector, NO_ERROR,
                   USER(bounds[i].vector == BR ? e_bound : e_bound_end));
    }
}

/* Faults while an event is delivered, table 6-5. EXT (bit 0 of the code) is set when the first
 * event was no INT n. */
static void test_delivery(void)
{
    part("faults in delivery");
    long_idt[UD].type = 0x0e;
    struct context c = run_kernel(e_ud2);
    tcg_wrong("TCG doubles the vector in error codes");
    CHECK_TRAP("benign, then #NP", &c, NP, UD * 8 + 3, ADDRESS(e_ud2));
    long_gate_reset(UD);
    long_idt[0x20].type = 0x0e;
    c = run_kernel(e_int20);
    tcg_wrong("TCG doubles the vector in error codes");
    CHECK_TRAP("INT n, gate not present", &c, NP, 0x20 * 8 + 2, ADDRESS(e_int20));
    long_idt[0x20].type = 0x85;
    c = run_kernel(e_int20);
    tcg_wrong("TCG doubles the vector in error codes");
    CHECK_TRAP("task gate in long mode", &c, GP, 0x20 * 8 + 2, ADDRESS(e_int20));
    long_gate_reset(0x20);
    long_idt[0x20].selector = SEL_KDATA;
    c = run_kernel(e_int20);
    CHECK_TRAP("gate to a data segment", &c, GP, SEL_KDATA, ADDRESS(e_int20));
    long_idt[0x20].selector = 0;
    c = run_kernel(e_int20);
    CHECK_TRAP("gate with a null selector", &c, GP, 0, ADDRESS(e_int20));
    long_idt[0x20].selector = SEL_KCODE32;
    c = run_kernel(e_int20);
    CHECK_TRAP("gate to 32-bit code", &c, GP, SEL_KCODE32, ADDRESS(e_int20));
    long_gate_reset(0x20);
    long_idt[BP].type = 0x8e;
    c = run_user(e_int3);
    tcg_wrong("TCG doubles the vector in error codes");
    CHECK_TRAP("INT3 at ring 3, gate DPL 0", &c, GP, BP * 8 + 2, USER(e_int3));
    long_gate_reset(BP);
    long_idt[DE].type = 0x0e;
    c = run_kernel(e_div0);
    CHECK_TRAP("#DE, then #NP: double fault", &c, DF, 0, ADDRESS(e_div0) + 2);
    long_gate_reset(DE);
    long_idt[PF].type = 0x0e;
    c = run_kernel(e_bad_page);
    CHECK_TRAP("#PF, then #NP: double fault", &c, DF, 0, ADDRESS(e_bad_page) + 5);
    long_gate_reset(PF);
    long_idt[GP].type = 0x0e;
    c = run_user(e_hlt);
    CHECK_TRAP("#GP, then #NP: double fault", &c, DF, 0, USER(e_hlt));
    long_gate_reset(GP);
    tss64.ist[2] = TEST_REGION + 0x1000;
    long_idt[GP].ist = 3;
    c = run_user(e_hlt);
    CHECK_TRAP("#GP, then #PF: the page fault", &c, PF, 2, USER(e_hlt));
    CHECK("CR2 of the page fault", c.cr2, TEST_REGION + 0xff8);
    long_gate_reset(GP);
    long_idt[PF].ist = 3;
    c = run_kernel(e_bad_page);
    CHECK_TRAP("#PF, then #PF: double fault", &c, DF, 0, ADDRESS(e_bad_page) + 5);
    CHECK("CR2 of the second", c.cr2, TEST_REGION + 0xff8);
    long_gate_reset(PF);
    tss64.ist[2] = NONCANONICAL;
    long_idt[UD].ist = 3;
    c = run_kernel(e_ud2);
    CHECK_VECTOR("benign, stack not canonical", &c, SS, on_tcg() ? c.error : 1);
    CHECK("saved RIP", c.rip, ADDRESS(e_ud2));
    long_gate_reset(UD);
}

static void test_idt_limit(void)
{
    part("IDT limit");
    struct __attribute__((packed)) {
        u16 limit;
        u64 base;
    } old, cut;
    __asm__ volatile("sidt %0" : "=m"(old));
    cut = old;
    cut.limit = 0x82 * 16 - 1;
    __asm__ volatile("lidt %0" : : "m"(cut));
    struct context c = run_kernel(e_int82);
    tcg_wrong("TCG doubles the vector in error codes");
    CHECK_TRAP("INT above the limit", &c, GP, 0x82 * 8 + 2, ADDRESS(e_int82));
    cut.limit = 0x82 * 16 + 14;
    __asm__ volatile("lidt %0" : : "m"(cut));
    c = run_kernel(e_int82);
    tcg_wrong("TCG doubles the vector in error codes");
    CHECK_TRAP("gate cut by the limit", &c, GP, 0x82 * 8 + 2, ADDRESS(e_int82));
    __asm__ volatile("lidt %0" : : "m"(old));
    c = run_kernel(e_int82);
    CHECK_VECTOR("whole limit", &c, 0x82, NO_ERROR);
}

/* Without IST the same stack goes on, aligned to 16 (SDM vol. 3, 6.14.2). */
static void test_stacks(void)
{
    part("stacks in delivery");
    for (u64 shift = 0; shift < 16; shift += 3) {
        struct context c = context_kernel(e_ud2);
        long_idt[UD].ist = 0;
        c.rsp -= 0x100 + shift;
        trap_top = c.rsp & ~15ul;
        u64 rsp = c.rsp;
        world_long(&c);
        trap_top = ADDRESS(trap_stack_top);
        CHECK_TRAP("no IST", &c, UD, NO_ERROR, ADDRESS(e_ud2));
        CHECK("saved RSP is not aligned", c.rsp, rsp);
        CHECK("saved SS", c.ss, SEL_KDATA);
    }
    struct context c = context_user(e_ud2);
    tss64.rsp[0] = ADDRESS(other_stack_top) - 0x40;
    trap_top = ADDRESS(other_stack_top) - 0x40;
    world_long(&c);
    CHECK_TRAP("RSP0", &c, UD, NO_ERROR, USER(e_ud2));
    long_idt[UD].ist = 2;
    tss64.ist[1] = ADDRESS(other_stack_top) - 0x87;
    trap_top = ADDRESS(other_stack_top) - 0x90;
    c = run_kernel(e_ud2);
    CHECK_TRAP("IST 2 is aligned too", &c, UD, NO_ERROR, ADDRESS(e_ud2));
    trap_top = ADDRESS(trap_stack_top);
    long_gate_reset(UD);
}

static void test_length(void)
{
    part("instruction length");
    u8 code[16];
    memory_set(code, 0x66, 16);
    code[14] = 0x90;
    scratch_set(code, 15);
    struct context c = run_kernel(scratch_code);
    CHECK_TRAP("15 bytes", &c, STOP_VECTOR, NO_ERROR, ADDRESS(scratch_code) + 17);
    code[14] = 0x66;
    code[15] = 0x90;
    scratch_set(code, 16);
    c = run_kernel(scratch_code);
    CHECK_TRAP("16 bytes", &c, GP, 0, ADDRESS(scratch_code));
    static const u8 long_mov[] = {0x2e, 0x2e, 0x67, 0x48, 0xc7, 0x84, 0x24, 0,
                                  0,    0,    0,    1,    0,    0,    0,    0x90};
    scratch_set(long_mov, 15);
    c = run_kernel(scratch_code);
    CHECK_TRAP("15 bytes with displacement and immediate", &c, STOP_VECTOR, NO_ERROR,
               ADDRESS(scratch_code) + 17);
    static const u8 too_long[] = {0x2e, 0x2e, 0x2e, 0x67, 0x48, 0xc7, 0x84, 0x24,
                                  0,    0,    0,    0,    1,    0,    0,    0};
    scratch_set(too_long, 16);
    c = run_kernel(scratch_code);
    CHECK_TRAP("16 bytes with displacement and immediate", &c, GP, 0, ADDRESS(scratch_code));
}

/* Faults save RF = 1, traps and INT n RF = 0 (SDM vol. 3, 17.3.1.1). */
static void test_resume_flag(void)
{
    part("saved RF");
    struct context c = run_kernel(e_ud2);
    tcg_wrong("TCG saves RF = 0 for faults");
    CHECK("#UD", c.rflags & FLAG_RF, FLAG_RF);
    c = run_kernel(e_bad_page);
    tcg_wrong("TCG saves RF = 0 for faults");
    CHECK("#PF", c.rflags & FLAG_RF, FLAG_RF);
    c = run_kernel(e_int3);
    CHECK("#BP", c.rflags & FLAG_RF, 0);
    c = run_kernel(e_int20);
    CHECK("INT n", c.rflags & FLAG_RF, 0);
}

/* A jump passes the flags of an operation on to one that faults, and others made flags since. */
static void test_passed_flags(void)
{
    part("flags of another block");
    const u64 arith = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF;
    u64 seen = 0;
    struct context c;
    for (u32 i = 0; i < 20; i++) {
        c = run_kernel(e_passed);
        seen |= c.rflags & arith;
    }
    CHECK("#DE", c.vector, DE);
    CHECK("flags of OR", seen, 0);
}

void guest_main(void)
{
    test_passed_flags();
    test_simple();
    test_branches();
    test_fpu();
    test_alignment();
    test_alignment_sizes();
    test_selectors();
    test_compat();
    test_delivery();
    test_idt_limit();
    test_stacks();
    test_length();
    test_resume_flag();
}
