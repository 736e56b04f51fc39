/*
 * SYSCALL/SYSRET, SYSENTER/SYSEXIT, SWAPGS, FSGSBASE, and the MSRs behind them.
 *
 * Intel SDM vol. 2, SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS; AMD APM vol. 2, 6.1.
 */
#include "world.h"

#define NONCANONICAL 0x8000000000000000ul

CODE64(y_syscall, "syscall\n mov $0x77, %ebx" STOP);
CODE32(y_syscall32, "syscall" STOP);
CODE64(y_entry, "mov %cs, %r8d\n mov %ss, %r9d\n pushfq\n pop %r10\n mov %rsp, %r12" STOP);
CODE64(y_sysretq, "sysretq");
CODE64(y_sysretl, "sysretl");
CODE64(y_user, "mov %cs, %eax\n mov %ss, %edx\n pushfq\n pop %rbx" STOP);
CODE32(y_user32, "mov %cs, %eax\n mov %ss, %edx\n .byte 0x40" STOP);
CODE64(y_sysenter, "sysenter" STOP);
CODE32(y_sysenter32, "sysenter" STOP);
CODE64(y_sysexit, "sysexitl");
CODE64(y_sysexitq, "sysexitq");
CODE64(y_swapgs, "swapgs\n mov %gs:0, %rax\n swapgs\n mov %gs:0, %rcx" STOP);
CODE64(y_wrfs, "wrfsbase %rax\n rdfsbase %rbx\n mov %fs:0, %rcx\n wrgsbase %rdx\n rdgsbase %rsi\n "
               "wrfsbase %edi\n rdfsbase %rdi" STOP);
CODE64(y_wrfs_bad, "wrfsbase %rax" STOP);
CODE64(y_loadfs, "mov $0x23, %ecx\n mov %ecx, %fs\n rdfsbase %rax\n xor %ecx, %ecx\n mov %ecx, "
                 "%fs\n rdfsbase %rbx" STOP);
static u64 words[4] = {0x1111, 0x2222, 0x3333, 0x4444};

static void syscall_init(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, 0x0018000800000000);
    wrmsr(MSR_LSTAR, ADDRESS(y_entry));
    wrmsr(MSR_CSTAR, ADDRESS(y_entry));
    wrmsr(MSR_FMASK, FLAG_IF | FLAG_DF | FLAG_CF);
}

static struct context user_run(const u8 *code, u64 flags)
{
    struct context c = context_user(code);
    c.rflags |= flags;
    world_long(&c);
    return c;
}

static void test_syscall(void)
{
    part("SYSCALL");
    syscall_init();
    u64 flags = FLAG_IF | FLAG_CF | FLAG_ZF | FLAG_ID;
    struct context c = user_run(y_syscall, flags);
    CHECK_STOP("enters", &c);
    CHECK("RCX is the return address", c.rcx, USER(y_syscall) + 2);
    CHECK("R11 is RFLAGS", c.r11 & ~FLAG_RF, flags | FLAG_ONE);
    CHECK("CS", c.r8, SEL_KCODE64);
    CHECK("SS", c.r9, SEL_KDATA);
    tcg_wrong("TCG loses the arithmetic flags");
    CHECK("flags masked", c.r10, FLAG_ZF | FLAG_ID | FLAG_ONE);
    CHECK("RSP stays", c.r12, USER(test_stack_top));
    CHECK("CPL", c.cs, SEL_KCODE64);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SCE);
    c = user_run(y_syscall, 0);
    CHECK_TRAP("without EFER.SCE", &c, UD, NO_ERROR, USER(y_syscall));
    c = run_kernel(y_sysretq);
    CHECK_TRAP("SYSRET without EFER.SCE", &c, UD, NO_ERROR, ADDRESS(y_sysretq));
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    c = context_compat(y_syscall32);
    world_long(&c);
    if (cpu_is_intel()) {
        tcg_wrong("TCG takes it, as AMD does");
        CHECK_TRAP("in compatibility mode, Intel", &c, UD, NO_ERROR, USER(y_syscall32));
    } else {
        CHECK_STOP("in compatibility mode, AMD", &c);
        CHECK("RCX", c.rcx, USER(y_syscall32) + 2);
    }
}

static struct context sysret_run(const u8 *code, u64 to, u64 flags)
{
    struct context c = context_kernel(code);
    c.rcx = to;
    c.r11 = flags;
    c.rsp = USER(test_stack_top);
    world_long(&c);
    return c;
}

static void test_sysret(void)
{
    part("SYSRET");
    syscall_init();
    struct context c = sysret_run(y_sysretq, USER(y_user), FLAG_IF | FLAG_CF | FLAG_ONE);
    CHECK_STOP("to 64-bit code", &c);
    CHECK("CS", c.rax, SEL_UCODE64);
    CHECK("SS", c.rdx, SEL_UDATA);
    CHECK("RFLAGS", c.rbx, FLAG_IF | FLAG_CF | FLAG_ONE);
    CHECK("CPL", c.cs & 3, 3);
    c = sysret_run(y_sysretq, USER(y_user), FLAG_CF | FLAG_RF | FLAG_VM | FLAG_ONE);
    tcg_wrong("TCG loads VM");
    CHECK("RFLAGS without RF and VM", c.rbx, FLAG_CF | FLAG_ONE);
    c = sysret_run(y_sysretl, USER(y_user32), FLAG_ONE);
    CHECK_STOP("to compatibility mode", &c);
    CHECK("CS and 32-bit INC", c.rax, SEL_UCODE32 + 1);
    CHECK("SS", c.rdx, SEL_UDATA);
    c = user_run(y_sysretq, 0);
    CHECK_TRAP("at ring 3", &c, GP, 0, USER(y_sysretq));
    c = sysret_run(y_sysretq, NONCANONICAL, FLAG_ONE);
    if (cpu_is_intel()) {
        tcg_wrong_begin("TCG goes there, as AMD does");
        CHECK_TRAP("to a non-canonical address, Intel", &c, GP, 0, ADDRESS(y_sysretq));
        CHECK("at ring 0", c.cs, SEL_KCODE64);
        tcg_wrong_end();
    } else {
        skip("SYSRET to a non-canonical address", "vendors differ; this is not Intel");
    }
}

static void test_sysenter(void)
{
    part("SYSENTER");
    wrmsr(MSR_SYSENTER_CS, SEL_KCODE64);
    wrmsr(MSR_SYSENTER_ESP, ADDRESS(other_stack_top));
    wrmsr(MSR_SYSENTER_EIP, ADDRESS(y_entry));
    struct context c = user_run(y_sysenter, FLAG_IF | FLAG_CF);
    if (!cpu_is_intel()) {
        CHECK_TRAP("in long mode, AMD", &c, UD, NO_ERROR, USER(y_sysenter));
        return;
    }
    CHECK_STOP("from 64-bit code", &c);
    CHECK("CS", c.r8, SEL_KCODE64);
    CHECK("SS", c.r9, SEL_KDATA);
    CHECK("IF clear, CF stays", c.r10, FLAG_CF | FLAG_ONE);
    CHECK("RSP", c.r12, ADDRESS(other_stack_top));
    c = context_compat(y_sysenter32);
    world_long(&c);
    CHECK_STOP("from compatibility mode", &c);
    CHECK("CS", c.r8, SEL_KCODE64);
    wrmsr(MSR_SYSENTER_CS, 0);
    c = user_run(y_sysenter, 0);
    CHECK_TRAP("SYSENTER_CS null", &c, GP, 0, USER(y_sysenter));
    wrmsr(MSR_SYSENTER_CS, SEL_KCODE64);
    part("SYSEXIT");
    c = context_kernel(y_sysexitq);
    c.rdx = USER(y_user);
    c.rcx = USER(test_stack_top);
    world_long(&c);
    CHECK_STOP("to 64-bit code", &c);
    CHECK("CS", c.rax, SEL_UCODE64);
    CHECK("SS", c.rdx, SEL_UDATA2);
    c = context_kernel(y_sysexit);
    c.rdx = USER(y_user32);
    c.rcx = USER(test_stack_top);
    world_long(&c);
    CHECK_STOP("to compatibility mode", &c);
    CHECK("CS and 32-bit INC", c.rax, SEL_UCODE32 + 1);
    CHECK("SS", c.rdx, SEL_UDATA);
    c = user_run(y_sysexit, 0);
    CHECK_TRAP("at ring 3", &c, GP, 0, USER(y_sysexit));
    c = context_kernel(y_sysexitq);
    c.rdx = NONCANONICAL;
    world_long(&c);
    tcg_wrong("TCG does not check the address");
    CHECK_TRAP("to a non-canonical address", &c, GP, 0, ADDRESS(y_sysexitq));
}

CODE32(y_entry32, "mov %cs, %eax\n mov %ss, %ebx\n mov %esp, %esi" STOP);
CODE32(y_sysexit32, "sysexit");

static void test_sysenter_legacy(void)
{
    part("SYSENTER in protected mode");
    wrmsr(MSR_SYSENTER_CS, SEL_KCODE32);
    wrmsr(MSR_SYSENTER_ESP, ADDRESS(other_stack_top) - 64);
    wrmsr(MSR_SYSENTER_EIP, ADDRESS(y_entry32));
    gdt[SEL_KCODE32 / 8 + 1] =
        segment(0, 0xfffff, 0xc093); /* what SYSENTER takes as its stack segment */
    struct context c = context_legacy_user(y_sysenter32);
    world_legacy(&c);
    CHECK_STOP("enters", &c);
    CHECK("CS", c.rax, SEL_KCODE32);
    CHECK("SS", c.rbx, SEL_KCODE32 + 8);
    CHECK("ESP", c.rsi, ADDRESS(other_stack_top) - 64);
    wrmsr(MSR_SYSENTER_CS, SEL_KCODE64);
    c = context_legacy(y_sysexit32);
    c.rdx = ADDRESS(y_user32);
    c.rcx = ADDRESS(test_stack_top);
    world_legacy(&c);
    CHECK_STOP("SYSEXIT", &c);
    CHECK("CS", c.rax, SEL_UCODE32 + 1);
    CHECK("SS", c.rdx, SEL_UDATA);
    gdt[SEL_KCODE16 / 8] = segment(0, 0xffff, 0x009b);
}

static void test_swapgs(void)
{
    part("SWAPGS");
    wrmsr(MSR_GS_BASE, ADDRESS(&words[0]));
    wrmsr(MSR_KERNEL_GS_BASE, ADDRESS(&words[1]));
    struct context c = run_kernel(y_swapgs);
    CHECK_STOP("at ring 0", &c);
    CHECK("the other base", c.rax, 0x2222);
    CHECK("and back", c.rcx, 0x1111);
    c = run_user(y_swapgs);
    CHECK_TRAP("at ring 3", &c, GP, 0, USER(y_swapgs));
    wrmsr(MSR_GS_BASE, 0);
    wrmsr(MSR_KERNEL_GS_BASE, 0);
}

static void test_fsgsbase(void)
{
    part("FSGSBASE");
    if (!has(FEATURE_FSGSBASE)) {
        skip("FSGSBASE", "CPUID does not show it");
        return;
    }
    u64 cr4 = cr4_get();
    struct context c = run_user(y_wrfs);
    CHECK_TRAP("without CR4.FSGSBASE", &c, UD, NO_ERROR, USER(y_wrfs));
    cr4_set(cr4 | CR4_FSGSBASE);
    c = context_user(y_wrfs);
    c.rax = USER(&words[2]);
    c.rdx = 0xffff800000000000;
    c.rdi = 0x1234567887654321;
    world_long(&c);
    CHECK_STOP("at ring 3", &c);
    CHECK("RDFSBASE", c.rbx, USER(&words[2]));
    CHECK("read by FS", c.rcx, 0x3333);
    CHECK("RDGSBASE", c.rsi, 0xffff800000000000);
    CHECK("32-bit WRFSBASE clears the upper half", c.rdi, 0x87654321);
    c = context_user(y_wrfs_bad);
    c.rax = NONCANONICAL;
    world_long(&c);
    tcg_wrong("TCG does not check the base");
    CHECK_TRAP("non-canonical base", &c, GP, 0, USER(y_wrfs_bad));
    wrmsr(MSR_FS_BASE, 0x1234);
    c = run_kernel(y_loadfs);
    CHECK("a segment load sets the base", c.rax, 0);
    if (cpu_is_intel())
        CHECK("a null load clears it, Intel", c.rbx, 0);
    cr4_set(cr4);
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 0);
}

static void test_msrs(void)
{
    static const struct {
        const char *what;
        u32 msr;
    } canonical[] = {
        {"LSTAR", MSR_LSTAR},
        {"CSTAR", MSR_CSTAR},
        {"FS_BASE", MSR_FS_BASE},
        {"GS_BASE", MSR_GS_BASE},
        {"KERNEL_GS_BASE", MSR_KERNEL_GS_BASE},
        {"SYSENTER_ESP", MSR_SYSENTER_ESP},
        {"SYSENTER_EIP", MSR_SYSENTER_EIP},
    };
    part("MSRs");
    for (size_t i = 0; i < sizeof(canonical) / sizeof(canonical[0]); i++) {
        u64 value, old = rdmsr(canonical[i].msr);
        tcg_wrong("TCG checks no canonical addresses in MSRs");
        CHECK(canonical[i].what, wrmsr_safe(canonical[i].msr, NONCANONICAL), GP);
        wrmsr(canonical[i].msr, old);
        CHECK(canonical[i].what, wrmsr_safe(canonical[i].msr, 0xffff800012345678), STOP_VECTOR);
        CHECK(canonical[i].what, (rdmsr_safe(canonical[i].msr, &value), value), 0xffff800012345678);
        wrmsr(canonical[i].msr, old);
    }
    tcg_wrong("TCG ignores reserved bits of EFER");
    CHECK("EFER, reserved bit", wrmsr_safe(MSR_EFER, rdmsr(MSR_EFER) | 1ul << 9), GP);
    u64 value;
    tcg_wrong("TCG knows no bad MSR");
    CHECK("unknown MSR", rdmsr_safe(0x12345, &value), GP);
    tcg_wrong("TCG knows no bad MSR");
    CHECK("write of an unknown MSR", wrmsr_safe(0x12345, 0), GP);
    CHECK("FMASK keeps its 32 bits", (wrmsr(MSR_FMASK, 0xffffffff), rdmsr(MSR_FMASK)), 0xffffffff);
    wrmsr(MSR_FMASK, 0);
}

void guest_main(void)
{
    test_syscall();
    test_sysret();
    test_sysenter();
    test_sysenter_legacy();
    test_swapgs();
    test_fsgsbase();
    test_msrs();
}
