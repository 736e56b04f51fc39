/*
 * Modes: real (and "unreal"), 16- and 32-bit protected, v8086, compatibility, long; the ways
 * between them.
 *
 * Intel SDM vol. 3, 9.9 (mode switching), 20 (8086 emulation); AMD APM vol. 2, 14 and 15.
 */
#include "world.h"

static struct context run_real(const u8 *code, const u8 *end)
{
    low_code_set(code, end);
    struct context c = context_real();
    world_real(&c);
    return c;
}
#define RUN_REAL(name) run_real(name, name##_end)

static struct context run_v86(const u8 *code, const u8 *end, u64 flags)
{
    low_code_set(code, end);
    struct context c = context_v86(flags);
    world_legacy(&c);
    return c;
}
#define RUN_V86(name, flags) run_v86(name, name##_end, flags)

static volatile u8 *low(u64 address)
{
    return (volatile u8 *)address;
}

CODE16(real_arith, "mov $0x12345678, %eax\n add $0x8000, %ax\n mov %eax, 0x10\n mov $0xffff, %bx\n "
                   "movb $0x5a, 1(%bx)\n"
                   "mov %cs, %cx\n mov %ss, %dx" STOP);
CODE16(real_stack,
       "push $0x1234\n push %sp\n pop %ax\n pop %bx\n pushl $0x89abcdef\n pop %cx\n pop %dx" STOP);
CODE16(real_far,
       "lcall $0x1000, $(1f - real_far)\n mov $7, %dx\n jmp 2f\n 1: mov $3, %cx\n mov %sp, %bp\n"
       "mov 2(%bp), %ax\n lret\n 2:" STOP);
CODE16(real_int, "mov $0x55, %al\n pushf\n orw $0x200, (%esp)\n popf\n int $0x42");
CODE16(real_wrap_word, "mov $0xffff, %bx\n mov (%bx), %ax" STOP);
CODE16(real_limit, "mov $0x10000, %ebx\n mov (%ebx), %al" STOP);
CODE16(real_stack_limit, "mov $0xffff, %ebp\n mov (%ebp), %ax" STOP);
CODE16(real_lldt, "lldt %ax" STOP);
CODE16(real_ltr, "ltr %ax" STOP);
CODE16(real_verr, "verr %ax" STOP);
CODE16(real_lar, "lar %ax, %bx" STOP);
CODE16(real_arpl, ".byte 0x63, 0xc3" STOP);
CODE16(real_str, "str %ax" STOP);
CODE16(real_sldt, "sldt %ax" STOP);
CODE16(real_div, "xor %cx, %cx\n" LABEL(real_div_at) "div %cx" STOP);
LABEL_OF(real_div_at);
CODE16(real_smsw, "smsw %ax\n mov %cr0, %ebx" STOP);
CODE16(real_hlt_cpl0, "rdmsr\n mov %eax, %ebx" STOP);
CODE16(real_enter, "mov $0x1234, %bp\n enter $8, $0\n mov %sp, %ax\n mov %bp, %bx\n leave" STOP);
CODE16(real_lds, "movl $0x23450678, 0x20\n lds 0x20, %si\n mov %ds, %ax" STOP);
CODE16(real_popcs, ".byte 0x66\n lret" STOP);
CODE16(real_ip_wrap,
       "mov $0xfffe, %bx\n movw $0x9090, %cs:0xfffe\n movw $0x81cd, %es:(0)\n jmp *%bx");
CODE16(real_code_end, "movb $0xb8, %cs:0xffff\n mov $0xffff, %bx\n jmp *%bx");

static void test_real(void)
{
    part("real mode");
    struct context c = RUN_REAL(real_arith);
    CHECK_STOP("arithmetic", &c);
    CHECK("16-bit add leaves the upper half", c.rax, 0x1234d678);
    CHECK("store to DS:0x10", *(volatile u32 *)(LOW_DATA + 0x10), 0x1234d678);
    CHECK("16-bit offset wraps to 0", *low(LOW_DATA), 0x5a);
    CHECK("CS", c.rcx & 0xffff, LOW_TEST >> 4);
    CHECK("SS", c.rdx & 0xffff, LOW_STACK >> 4);
    c = RUN_REAL(real_stack);
    CHECK("PUSH SP stores the old SP", c.rax & 0xffff, 0xffe);
    CHECK("POP", c.rbx & 0xffff, 0x1234);
    CHECK("32-bit push, low word", c.rcx & 0xffff, 0xcdef);
    CHECK("32-bit push, high word", c.rdx & 0xffff, 0x89ab);
    CHECK("SP is back", c.rsp & 0xffff, 0x1000);
    c = RUN_REAL(real_far);
    CHECK_STOP("far call and return", &c);
    CHECK("callee ran", c.rcx & 0xffff, 3);
    CHECK("caller went on", c.rdx & 0xffff, 7);
    CHECK("return segment on the stack", c.rax & 0xffff, LOW_TEST >> 4);
    c = RUN_REAL(real_int);
    CHECK_VECTOR("INT through the vector table", &c, 0x42, NO_ERROR);
    CHECK("IF in the saved flags", c.rflags & FLAG_IF, FLAG_IF);
    CHECK("SP after INT and IRET", c.rsp & 0xffff, 0x1000);
    c = RUN_REAL(real_div);
    CHECK_TRAP("divide by 0", &c, DE, NO_ERROR, ADDRESS(real_div_at) - ADDRESS(real_div));
    c = RUN_REAL(real_smsw);
    CHECK("SMSW agrees with CR0", c.rax & 0xffff, c.rbx & 0xffff);
    CHECK("PE is clear", c.rbx & 1, 0);
    low_code_set(real_hlt_cpl0, real_hlt_cpl0_end);
    c = context_real();
    c.rcx = MSR_EFER;
    world_real(&c);
    CHECK_STOP("RDMSR in real mode", &c);
    CHECK("long mode is off", c.rbx & (EFER_LMA | EFER_LME), 0);
    c = RUN_REAL(real_enter);
    CHECK("ENTER: SP", c.rax & 0xffff, 0x1000 - 2 - 8);
    CHECK("ENTER: BP", c.rbx & 0xffff, 0x1000 - 2);
    CHECK("LEAVE: BP", c.rbp & 0xffff, 0x1234);
    c = RUN_REAL(real_lds);
    CHECK("LDS: offset", c.rsi & 0xffff, 0x678);
    CHECK("LDS: segment", c.rax & 0xffff, 0x2345);
}

static void test_real_faults(void)
{
    static const struct {
        const char *what;
        const u8 *code, *end;
        u64 vector;
    } cases[] = {
#define UNDEFINED(name) {#name " is undefined", name, name##_end, UD}
        UNDEFINED(real_lldt), UNDEFINED(real_ltr), UNDEFINED(real_verr), UNDEFINED(real_lar),
        UNDEFINED(real_arpl), UNDEFINED(real_str), UNDEFINED(real_sldt),
    };
    part("real mode faults");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct context c = run_real(cases[i].code, cases[i].end);
        CHECK_TRAP(cases[i].what, &c, cases[i].vector, NO_ERROR, 0);
    }
    tcg_wrong_begin("TCG checks no segment limits");
    struct context c = RUN_REAL(real_wrap_word);
    CHECK_TRAP("word at 0xffff", &c, GP, NO_ERROR, 3);
    c = RUN_REAL(real_limit);
    CHECK_TRAP("byte at 0x10000", &c, GP, NO_ERROR, 6);
    c = RUN_REAL(real_stack_limit);
    CHECK_TRAP("stack word at 0xffff", &c, SS, NO_ERROR, 6);
    c = RUN_REAL(real_code_end);
    CHECK_TRAP("instruction across 0xffff", &c, GP, NO_ERROR, 0xffff);
    tcg_wrong_end();
}

CODE16(unreal_read, "mov $0x100000, %ebx\n mov (%ebx), %eax\n mov %es:(%ebx), %ecx\n mov $0x2000, "
                    "%dx\n mov %dx, %ds\n"
                    "mov (%ebx), %edx" STOP);

static void test_unreal(void)
{
    part("unreal mode");
    real_data_selector = SEL_KDATA;
    low_code_set(unreal_read, unreal_read_end);
    struct context c = context_real();
    c.ds = c.es = 0;
    world_real(&c);
    real_data_selector = SEL_KDATA16;
    CHECK_STOP("4 GiB limits stay in real mode", &c);
    CHECK("read at 1 MiB by DS", c.rax, *(volatile u32 *)0x100000);
    CHECK("read at 1 MiB by ES", c.rcx, *(volatile u32 *)0x100000);
    CHECK("a segment load keeps the limit", c.rdx, *(volatile u32 *)0x120000);
}

/* Real mode enters 16-bit and 32-bit protected mode and comes back by itself. */
CODE16(real_round,
       "lgdtl %cs:(5f - real_round)\n cli\n mov %cr0, %eax\n or $1, %al\n mov %eax, %cr0\n"
       "mov %cs, %si\n" /* CS still the real-mode value until the far jump */
       "ljmpl $0x38, $(0x10000 + 1f - real_round)\n"
       ".code32\n 1: mov $0x10, %ecx\n mov %ecx, %ds\n mov 0x100000, %ebx\n mov %cs, %edi\n"
       "mov $0x48, %ecx\n mov %ecx, %ds\n ljmp $0x88, $(2f - real_round)\n"
       ".code16\n 2: mov %cs, %dx\n mov %cr0, %eax\n and $~1, %al\n mov %eax, %cr0\n ljmp $0x1000, "
       "$(3f - real_round)\n"
       "3: mov $0x2000, %cx\n mov %cx, %ds\n mov %cs, %bp" STOP "5: .word 64*8-1\n .long gdt\n");

static void test_round_trip(void)
{
    part("real to protected and back");
    gdt[SEL_FREE / 8] = segment(LOW_TEST, 0xffff, 0x009b);
    struct context c = RUN_REAL(real_round);
    CHECK_STOP("round trip", &c);
    CHECK("CS before the far jump", c.rsi & 0xffff, LOW_TEST >> 4);
    CHECK("32-bit read at 1 MiB", c.rbx, *(volatile u32 *)0x100000);
    CHECK("CS in 32-bit mode", c.rdi & 0xffff, 0x38);
    CHECK("CS in 16-bit mode", c.rdx & 0xffff, SEL_FREE);
    CHECK("CS in real mode", c.rbp & 0xffff, LOW_TEST >> 4);
}

CODE32(protected32, "mov $0x89abcdef, %eax\n push %eax\n pop %cx\n pop %dx\n mov %cr0, %ebx\n "
                    ".byte 0x40, 0x48" STOP);
CODE32(protected32_64, ".byte 0x48, 0x89, 0xd8" STOP); /* dec eax; mov eax, ebx */
CODE16(protected16, "mov $0x1234, %ax\n movl $0x55667788, %ebx\n push %ax\n mov %sp, %cx\n pop "
                    "%dx\n addr32 mov 0x100000, %edi" STOP);
CODE16(protected16_stack, "push $0x4321\n mov %esp, %eax\n pop %cx" STOP);

static void test_protected(void)
{
    part("protected mode");
    struct context c = context_legacy(protected32);
    world_legacy(&c);
    CHECK_STOP("32-bit", &c);
    CHECK("low word", c.rcx & 0xffff, 0xcdef);
    CHECK("high word", c.rdx & 0xffff, 0x89ab);
    CHECK("PE without PG", c.rbx & (CR0_PE | CR0_PG), CR0_PE);
    CHECK("0x40 and 0x48 are INC and DEC", c.rax, 0x89abcdef);
    c = context_legacy(protected32_64);
    c.rax = 5;
    c.rbx = 9;
    world_legacy(&c);
    CHECK("0x48 before MOV is DEC", c.rax, 9);
    low_code_set(protected16, protected16_end);
    c = context_legacy((void *)LOW_TEST);
    gdt[SEL_FREE / 8] = segment(LOW_TEST, 0xffff, 0x009b);
    c.cs = SEL_FREE;
    c.rip = 0;
    world_legacy(&c);
    CHECK_STOP("16-bit code, 32-bit stack", &c);
    CHECK("AX", c.rax & 0xffff, 0x1234);
    CHECK("operand prefix", c.rbx, 0x55667788);
    CHECK("push of a word", c.rcx & 0xffff, (ADDRESS(test_stack_top) - 2) & 0xffff);
    CHECK("address prefix", c.rdi, *(volatile u32 *)0x100000);
    low_code_set(protected16_stack, protected16_stack_end);
    c = context_legacy((void *)LOW_TEST);
    c.cs = SEL_FREE;
    c.rip = 0;
    c.ss = SEL_KDATA16;
    c.rsp = 0xabcd3000;
    world_legacy(&c);
    CHECK_STOP("16-bit stack", &c);
    CHECK("only SP moves", c.rax, 0xabcd2ffe);
    CHECK("POP", c.rcx & 0xffff, 0x4321);
}

CODE16(v86_plain, "mov %cs, %ax\n mov %ds, %bx\n mov %ss, %cx\n movw $0xbeef, 0x40\n push %es\n "
                  "pop %dx\n smsw %si" STOP);
CODE16(v86_int, "int $0x42");
CODE16(v86_int3, "int3");
CODE16(v86_into, "mov $0x7f, %al\n inc %al\n into");
CODE16(v86_cli, "cli" STOP);
CODE16(v86_sti, "sti" STOP);
CODE16(v86_pushf, "pushf" STOP);
CODE16(v86_popf, "popf" STOP);
CODE16(v86_iret, "iret" STOP);
CODE16(v86_hlt, "hlt" STOP);
CODE16(v86_in, "in $0x80, %al" STOP);
CODE16(v86_lldt, "lldt %ax" STOP);
CODE16(v86_movcr, "mov %cr0, %eax" STOP);
CODE16(v86_lgdt, "lgdt 0" STOP);
CODE16(v86_iopl3, "pushf\n pop %ax\n sti\n pushf\n pop %bx\n cli\n pushf\n pop %cx\n pushl "
                  "$0x4a87\n popfl\n pushfl\n pop %edx" STOP);
CODE16(v86_iret3,
       "pushf\n push %cs\n push $(1f - v86_iret3)\n iret\n ud2\n 1: mov $0x77, %ax" STOP);

static void test_v86(void)
{
    part("v8086 mode");
    struct context c = RUN_V86(v86_plain, FLAG_IOPL(3));
    CHECK_STOP("enter and leave", &c);
    CHECK("CS", c.rax & 0xffff, LOW_TEST >> 4);
    CHECK("DS", c.rbx & 0xffff, LOW_DATA >> 4);
    CHECK("SS", c.rcx & 0xffff, LOW_STACK >> 4);
    CHECK("ES", c.rdx & 0xffff, LOW_DATA >> 4);
    CHECK("store by DS", *(volatile u16 *)(LOW_DATA + 0x40), 0xbeef);
    CHECK("PE by SMSW", c.rsi & 1, 1);
    CHECK("VM in the saved flags", c.rflags & FLAG_VM, FLAG_VM);
    CHECK("saved DS", c.ds, LOW_DATA >> 4);
    CHECK("saved SS", c.ss, LOW_STACK >> 4);
    CHECK("saved SP", c.rsp, 0x1000);
    static const struct {
        const char *what;
        const u8 *code, *end;
        u64 vector, error, rip;
    } cases[] = {
        {"INT n, IOPL 0", v86_int, v86_int_end, GP, 0, 0},
        {"CLI, IOPL 0", v86_cli, v86_cli_end, GP, 0, 0},
        {"STI, IOPL 0", v86_sti, v86_sti_end, GP, 0, 0},
        {"PUSHF, IOPL 0", v86_pushf, v86_pushf_end, GP, 0, 0},
        {"POPF, IOPL 0", v86_popf, v86_popf_end, GP, 0, 0},
        {"IRET, IOPL 0", v86_iret, v86_iret_end, GP, 0, 0},
        {"HLT", v86_hlt, v86_hlt_end, GP, 0, 0},
        {"IN without a bit in the I/O map", v86_in, v86_in_end, GP, 0, 0},
        {"LLDT", v86_lldt, v86_lldt_end, UD, NO_ERROR, 0},
        {"MOV from CR0", v86_movcr, v86_movcr_end, GP, 0, 0},
        {"LGDT", v86_lgdt, v86_lgdt_end, GP, 0, 0},
        {"INT3 needs no IOPL", v86_int3, v86_int3_end, BP, NO_ERROR, 1},
        {"INTO needs no IOPL", v86_into, v86_into_end, OF, NO_ERROR, 5},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        c = run_v86(cases[i].code, cases[i].end, 0);
        CHECK_TRAP(cases[i].what, &c, cases[i].vector, cases[i].error, cases[i].rip);
        CHECK("VM saved", c.rflags & FLAG_VM, FLAG_VM);
    }
    c = RUN_V86(v86_int, FLAG_IOPL(3));
    CHECK_TRAP("INT n, IOPL 3, gate DPL 0", &c, GP, 0x42 * 8 + 2, 0);
    legacy_idt[0x42] = legacy_gate(SEL_KCODE32, (u32)ADDRESS(legacy_stubs) + 0x42 * 16, 0xee);
    c = RUN_V86(v86_int, FLAG_IOPL(3));
    CHECK_TRAP("INT n, IOPL 3, gate DPL 3", &c, 0x42, NO_ERROR, 2);
    legacy_reset();
    c = RUN_V86(v86_iopl3, FLAG_IOPL(3));
    CHECK_STOP("flags at IOPL 3", &c);
    CHECK("PUSHF", c.rax & 0xffff, 0x3002);
    CHECK("STI", c.rbx & 0xffff, 0x3202);
    CHECK("CLI", c.rcx & 0xffff, 0x3002);
    CHECK("POPFD changes all but IOPL, VM, RF", c.rdx, 0x7a87);
    c = RUN_V86(v86_iret3, FLAG_IOPL(3));
    CHECK_STOP("IRET at IOPL 3", &c);
    CHECK("IRET went on", c.rax & 0xffff, 0x77);
    c = context_v86(0);
    tss32.io_map = offsetof(struct tss32, map);
    low_code_set(v86_in, v86_in_end);
    c.rax = 0;
    world_legacy(&c);
    CHECK_TRAP("IN with a clear bit in the map, then INT at IOPL 0", &c, GP, 0, 2);
    legacy_reset();
}

CODE32(compat_code, "mov $0x11223344, %eax\n .byte 0x40\n mov %cs, %ecx\n push %eax\n mov %esp, "
                    "%ebx\n pop %edx" STOP);
CODE64(long_to_compat, "lea 1f(%rip), %rax\n push $0x38\n push %rax\n lretq\n .code32\n 1: mov "
                       "%cs, %ebx\n .byte 0x41\n"
                       "ljmp $8, $2f\n .code64\n 2: mov %cs, %edx\n mov $-1, %r8" STOP);
CODE64(long_to_compat16, "push $0x40\n push $0x7c00\n lretq");
CODE16(compat16,
       "mov $0x1234, %ax\n inc %ax\n mov %cs, %bx\n pushw $0x18\n mov %sp, %cx\n pop %dx" STOP);
CODE64(long_plain, "mov $0x123456789abcdef0, %rax\n mov %eax, %ecx\n mov $-1, %rdx\n mov $1, %dl\n "
                   "mov $-1, %rsi\n movl $2, %esi\n"
                   "mov %rax, %r15\n xchg %ah, %al" STOP);

static void test_long(void)
{
    part("compatibility and long mode");
    struct context c = context_compat(compat_code);
    c.rax = c.rbx = c.rcx = c.rdx = ~0ul;
    world_long(&c);
    CHECK_STOP("compatibility mode", &c);
    CHECK("INC is back, upper half 0", c.rax, 0x11223345);
    CHECK("CS", c.rcx, SEL_UCODE32);
    CHECK("PUSH is 32-bit", c.rbx, USER(test_stack_top) - 4);
    CHECK("POP", c.rdx, 0x11223345);
    c = run_kernel(long_to_compat);
    CHECK_STOP("long to compatibility and back", &c);
    CHECK("CS in between", c.rbx, SEL_KCODE32);
    CHECK("CS at the end", c.rdx, SEL_KCODE64);
    CHECK("R8 works again", c.r8, ~0ul);
    memory_copy((void *)0x7c00, compat16, (size_t)(compat16_end - compat16));
    c = run_kernel(long_to_compat16);
    CHECK_STOP("long to 16-bit compatibility", &c);
    CHECK("16-bit INC", c.rax & 0xffff, 0x1235);
    CHECK("CS is 16-bit", c.rbx & 0xffff, SEL_KCODE16);
    CHECK("POP", c.rdx & 0xffff, 0x18);
    c = run_kernel(long_plain);
    CHECK("32-bit write clears the upper half", c.rcx, 0x9abcdef0);
    CHECK("8-bit write keeps the rest", c.rdx, 0xffffffffffffff01);
    CHECK("MOV to ESI", c.rsi, 2);
    CHECK("XCHG AH, AL", c.rax, 0x123456789abcf0de);
    CHECK("R15", c.r15, 0x123456789abcdef0);
}

static const struct {
    const char *what;
    u8 bytes[8];
    u8 len;
} invalid_in_long[] = {
    {"PUSH ES", {0x06}, 1},
    {"POP ES", {0x07}, 1},
    {"PUSH CS", {0x0e}, 1},
    {"PUSH SS", {0x16}, 1},
    {"PUSH DS", {0x1e}, 1},
    {"DAA", {0x27}, 1},
    {"DAS", {0x2f}, 1},
    {"AAA", {0x37}, 1},
    {"AAS", {0x3f}, 1},
    {"PUSHA", {0x60}, 1},
    {"POPA", {0x61}, 1},
    {"0x82", {0x82, 0xc0, 1}, 3},
    {"CALL far imm", {0x9a, 0, 0, 0, 0, 0, 0}, 7},
    {"JMP far imm", {0xea, 0, 0, 0, 0, 0, 0}, 7},
    {"INTO", {0xce}, 1},
    {"AAM", {0xd4, 10}, 2},
    {"AAD", {0xd5, 10}, 2},
    {"SALC", {0xd6}, 1},
};

static void test_invalid_in_long(void)
{
    part("undefined in 64-bit mode");
    for (size_t i = 0; i < sizeof(invalid_in_long) / sizeof(invalid_in_long[0]); i++) {
        scratch_set(invalid_in_long[i].bytes, invalid_in_long[i].len);
        struct context c = run_kernel(scratch_code);
        CHECK_TRAP(invalid_in_long[i].what, &c, UD, NO_ERROR, ADDRESS(scratch_code));
    }
}

/* Mode switches that must fault, SDM vol. 3, 4.1.2 and 9.8.5. */
static void test_bad_switches(void)
{
    part("forbidden switches");
    if (on_tcg()) {
        skip("CR0.PG, CR0.PE, CR4.PAE, EFER.LME off in 64-bit mode",
             "TCG obeys instead of faulting, and is lost");
        return;
    }
    CHECK("CR0.PG off in 64-bit mode", cr_write_safe(0, cr0_get() & ~CR0_PG), GP);
    CHECK("CR0.PE off with PG", cr_write_safe(0, cr0_get() & ~CR0_PE), GP);
    CHECK("CR4.PAE off in long mode", cr_write_safe(4, cr4_get() & ~CR4_PAE), GP);
    CHECK("EFER.LME off with paging", wrmsr_safe(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_LME), GP);
    CHECK("CR0.NW without CD", cr_write_safe(0, cr0_get() | 1ul << 29), GP);
}

void guest_main(void)
{
    test_real();
    test_real_faults();
    test_unreal();
    test_round_trip();
    test_protected();
    test_v86();
    test_long();
    test_invalid_in_long();
    test_bad_switches();
}
