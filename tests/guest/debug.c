/*
 * Debug registers and single step: breakpoints of all kinds and lengths, DR6, TF, RF, GD, ICEBP.
 *
 * Intel SDM vol. 3, 17.2 and 17.3; AMD APM vol. 2, 13.1.
 */
#include "world.h"

#define DR6_IDLE 0xffff0ff0ul
#define DR7_IDLE 0x400ul
#define DR6_BS   (1ul << 14)
#define DR6_BD   (1ul << 13)
enum kind { EXECUTE, WRITE, IO, ACCESS };

/* DR7 bits of breakpoint `n`: enabled globally, kind, length (1, 2, 4, 8). */
static u64 dr7_of(unsigned n, enum kind kind, unsigned len)
{
    u64 code = len == 1 ? 0 : len == 2 ? 1 : len == 4 ? 3 : 2;
    return 2ul << 2 * n | (u64)kind << (16 + 4 * n) | code << (18 + 4 * n);
}

static void address_set(unsigned n, u64 address)
{
    if (n == 0)
        dr0_set(address);
    else if (n == 1)
        dr1_set(address);
    else if (n == 2)
        dr2_set(address);
    else
        dr3_set(address);
}

static void debug_reset(void)
{
    dr7_set(DR7_IDLE);
    for (unsigned n = 0; n < 4; n++)
        address_set(n, 0);
    dr6_set(DR6_IDLE);
}

/* Runs with one breakpoint; DR7 is off again afterwards. */
static struct context run_with(const u8 *code, u64 dr7, u64 data, u64 flags)
{
    struct context c = context_kernel(code);
    c.rdi = data;
    c.rsi = data;
    c.rcx = 4;
    c.rflags |= flags;
    dr6_set(DR6_IDLE);
    dr7_set(DR7_IDLE | dr7);
    world_long(&c);
    dr7_set(DR7_IDLE);
    return c;
}

static u8 data[64] __attribute__((aligned(64)));

CODE64(d_read1, "mov (%rdi), %al\n" LABEL(d_read1_at) "nop" STOP);
CODE64(d_read8, "mov (%rdi), %rax\n" LABEL(d_read8_at) "nop" STOP);
CODE64(d_write1, "mov %al, (%rdi)\n" LABEL(d_write1_at) "nop" STOP);
CODE64(d_write8, "mov %rax, (%rdi)\n" LABEL(d_write8_at) "nop" STOP);
CODE64(d_rmw, "incl (%rdi)\n" LABEL(d_rmw_at) "nop" STOP);
CODE64(d_push, "mov %rdi, %rsp\n push %rax\n" LABEL(d_push_at) "nop" STOP);
CODE64(d_nops, "nop\n" LABEL(d_nop_at) "nop\n" LABEL(d_nop_after) "nop" STOP);
CODE64(d_out, "mov $0x80, %dx\n out %al, %dx\n" LABEL(d_out_at) "nop" STOP);
CODE64(d_in, "in $0xa1, %al\n" LABEL(d_in_at) "nop" STOP);
CODE64(d_in32, "in $0x70, %eax\n" LABEL(d_in32_at) "nop" STOP);
CODE64(d_movs, "rep movsb\n" LABEL(d_movs_at) "nop" STOP);
LABEL_OF(d_read1_at);
LABEL_OF(d_read8_at);
LABEL_OF(d_write1_at);
LABEL_OF(d_write8_at);
LABEL_OF(d_rmw_at);
LABEL_OF(d_push_at);
LABEL_OF(d_nop_at);
LABEL_OF(d_nop_after);
LABEL_OF(d_out_at);
LABEL_OF(d_in_at);
LABEL_OF(d_in32_at);
LABEL_OF(d_movs_at);

static void check_hit(const char *what, const struct context *c, bool hit, u64 rip, u64 dr6)
{
    if (!hit) {
        CHECK_STOP(what, c);
        return;
    }
    CHECK_TRAP(what, c, DB, NO_ERROR, rip);
    CHECK("DR6", dr6_get(), DR6_IDLE | dr6);
}

/* Every length and place: a hit when the access touches any byte of the aligned range. */
static void test_data(void)
{
    static const unsigned lens[] = {1, 2, 4, 8};
    part("data breakpoints");
    for (unsigned n = 0; n < 4; n++)
        for (unsigned i = 0; i < 4; i++)
            for (u64 at = 0; at < 24; at++) {
                unsigned len = lens[i];
                u64 low = 8, high = 8 + len;
                address_set(n, ADDRESS(data) + 8);
                bool hit1 = at >= low && at<high, hit8 = at + 8> low && at < high;
                struct context c = run_with(d_write1, dr7_of(n, WRITE, len), ADDRESS(data) + at, 0);
                check_hit("byte write", &c, hit1, ADDRESS(d_write1_at), 1ul << n);
                c = run_with(d_write8, dr7_of(n, WRITE, len), ADDRESS(data) + at, 0);
                if (!hit8)
                    tcg_wrong("TCG rounds misaligned accesses");
                check_hit("quadword write", &c, hit8, ADDRESS(d_write8_at), 1ul << n);
                c = run_with(d_read1, dr7_of(n, ACCESS, len), ADDRESS(data) + at, 0);
                check_hit("byte read", &c, hit1, ADDRESS(d_read1_at), 1ul << n);
                c = run_with(d_read8, dr7_of(n, ACCESS, len), ADDRESS(data) + at, 0);
                if (!hit8)
                    tcg_wrong("TCG rounds misaligned accesses");
                check_hit("quadword read", &c, hit8, ADDRESS(d_read8_at), 1ul << n);
                address_set(n, 0);
            }
    part("data breakpoints, kinds");
    dr0_set(ADDRESS(data) + 8);
    struct context c = run_with(d_read8, dr7_of(0, WRITE, 8), ADDRESS(data) + 8, 0);
    CHECK_STOP("a read does not hit a write breakpoint", &c);
    c = run_with(d_rmw, dr7_of(0, WRITE, 4), ADDRESS(data) + 8, 0);
    check_hit("read-modify-write", &c, true, ADDRESS(d_rmw_at), 1);
    c = run_with(d_push, dr7_of(0, WRITE, 4), ADDRESS(data) + 16, 0);
    check_hit("PUSH", &c, true, ADDRESS(d_push_at), 1);
    c = run_with(d_write8, 0, ADDRESS(data) + 8, 0);
    CHECK_STOP("disabled", &c);
    dr6_set(DR6_IDLE);
    c = run_with(d_write8, dr7_of(0, WRITE, 8) & ~2ul, ADDRESS(data) + 8, 0);
    CHECK_STOP("neither L0 nor G0", &c);
    c = run_with(d_write8, (dr7_of(0, WRITE, 8) & ~2ul) | 1, ADDRESS(data) + 8, 0);
    check_hit("L0 alone", &c, true, ADDRESS(d_write8_at), 1);
    dr1_set(ADDRESS(data) + 10);
    c = run_with(d_write8, dr7_of(0, WRITE, 1) | dr7_of(1, WRITE, 2), ADDRESS(data) + 8, 0);
    tcg_wrong_begin("TCG reports the first match only");
    check_hit("two at once", &c, true, ADDRESS(d_write8_at), 3);
    tcg_wrong_end();
    debug_reset();
    dr0_set(ADDRESS(data) + 33);
    c = context_kernel(d_movs);
    c.rsi = ADDRESS(data);
    c.rdi = ADDRESS(data) + 32;
    c.rcx = 4;
    dr7_set(DR7_IDLE | dr7_of(0, WRITE, 1));
    world_long(&c);
    dr7_set(DR7_IDLE);
    CHECK_VECTOR("REP MOVSB", &c, DB, NO_ERROR);
    /* Fast strings may report late (SDM vol. 3, 17.2.4), but not before the element. */
    CHECK("RCX after the element at least", c.rcx <= 2, true);
    debug_reset();
}

CODE64(d_mov_ss, "mov (%rdi), %ss\n nop\n" LABEL(d_mov_ss_at) "nop" STOP);
CODE64(d_mov_ss_int, "mov (%rdi), %ss\n int $0x84" STOP);
CODE64(d_mov_ss_handler, LABEL(d_mov_ss_entry) "nop" STOP);
CODE64(d_mov_ss_user, "mov (%rdi), %ss\n int $0x84" STOP);
LABEL_OF(d_mov_ss_at);
LABEL_OF(d_mov_ss_entry);

/* A data breakpoint on MOV SS waits for the end of the next instruction (SDM vol. 3, 6.8.3). */
static void test_mov_ss(void)
{
    static u16 selector = SEL_KDATA, user_selector = SEL_UDATA;
    part("breakpoint on MOV SS");
    dr0_set(ADDRESS(&selector));
    struct context c = run_with(d_mov_ss, dr7_of(0, ACCESS, 2), ADDRESS(&selector), 0);
    tcg_wrong("TCG does not hold it off");
    check_hit("after the next instruction", &c, true, ADDRESS(d_mov_ss_at), 1);
    long_gate_set(0x84, d_mov_ss_handler, 0xee, 2);
    c = run_with(d_mov_ss_int, dr7_of(0, ACCESS, 2), ADDRESS(&selector), 0);
    tcg_wrong_begin("TCG does not hold it off");
    check_hit("over INT n: at the handler's first instruction", &c, true, ADDRESS(d_mov_ss_entry),
              1);
    dr0_set(USER(&user_selector));
    c = context_user(d_mov_ss_user);
    c.rdi = USER(&user_selector);
    dr6_set(DR6_IDLE);
    dr7_set(DR7_IDLE | dr7_of(0, ACCESS, 2));
    world_long(&c);
    dr7_set(DR7_IDLE);
    check_hit("from ring 3: in the kernel", &c, true, ADDRESS(d_mov_ss_entry), 1);
    CHECK("CPL", c.cs & 3, 0);
    tcg_wrong_end();
    long_gate_reset(0x84);
    debug_reset();
}

static void test_execute(void)
{
    part("instruction breakpoints");
    for (unsigned n = 0; n < 4; n++) {
        address_set(n, ADDRESS(d_nop_at));
        struct context c = run_with(d_nops, dr7_of(n, EXECUTE, 1), 0, 0);
        check_hit("before the instruction", &c, true, ADDRESS(d_nop_at), 1ul << n);
        /* SDM vol. 3, 17.3.1.1: 1 for every fault but this one. */
        CHECK("saved RF", c.rflags & FLAG_RF, 0);
        address_set(n, 0);
    }
    dr0_set(ADDRESS(d_nops));
    struct context c = run_with(d_nops, dr7_of(0, EXECUTE, 1), 0, FLAG_RF);
    CHECK_STOP("RF skips it for one instruction", &c);
    c = run_with(d_nops, dr7_of(0, EXECUTE, 1), 0, 0);
    check_hit("without RF", &c, true, ADDRESS(d_nops), 1);
    dr0_set(ADDRESS(d_nop_at));
    c = run_with(d_nops, dr7_of(0, EXECUTE, 1), 0, FLAG_RF);
    check_hit("RF is gone after one instruction", &c, true, ADDRESS(d_nop_at), 1);
    dr0_set(ADDRESS(d_read8) + 1);
    c = run_with(d_read8, dr7_of(0, EXECUTE, 1), ADDRESS(data), 0);
    CHECK_STOP("inside an instruction", &c);
    dr0_set(USER(d_nop_at));
    c = run_with(d_nops, dr7_of(0, EXECUTE, 1), 0, 0);
    CHECK_STOP("another linear address of the same memory", &c);
    c = context_user(d_nops);
    dr7_set(DR7_IDLE | dr7_of(0, EXECUTE, 1));
    world_long(&c);
    dr7_set(DR7_IDLE);
    check_hit("at ring 3", &c, true, USER(d_nop_at), 1);
    debug_reset();
}

CODE64(d_dr4, ".byte 0x0f, 0x21, 0xe0" STOP);

static void test_io(void)
{
    part("I/O breakpoints");
    u64 cr4 = cr4_get();
    cr4_set(cr4 | CR4_DE);
    dr0_set(0x80);
    struct context c = run_with(d_out, dr7_of(0, IO, 1), 0, 0);
    check_hit("OUT", &c, true, ADDRESS(d_out_at), 1);
    dr0_set(0xa0);
    c = run_with(d_in, dr7_of(0, IO, 2), 0, 0);
    check_hit("IN of a range of 2", &c, true, ADDRESS(d_in_at), 1);
    dr0_set(0xa0);
    c = run_with(d_in, dr7_of(0, IO, 1), 0, 0);
    CHECK_STOP("IN of another port", &c);
    CHECK("DR4 with DE", run_kernel(d_dr4).vector, UD);
    cr4_set(cr4);
    CHECK("DR4 without DE is DR6", run_kernel(d_dr4).rax, dr6_get());
    debug_reset();
}

CODE64(t_nops, "nop\n" LABEL(t_nop_at) "nop\n nop" STOP);
CODE64(t_rep, "rep stosb\n" LABEL(t_rep_at) "nop" STOP);
CODE64(t_popf, "pushq $0x102\n popfq\n" LABEL(t_popf_at) "nop\n" LABEL(t_popf_after) "nop" STOP);
CODE64(t_mov_ss, "mov %ss, %eax\n" LABEL(t_mov_ss_start) "mov %eax, %ss\n nop\n" LABEL(
                     t_mov_ss_at) "nop" STOP);
CODE64(t_clear, "pushfq\n pop %rax\n" STOP);
CODE64(t_int, "int $0x84" STOP);
CODE64(t_ud, "ud2" STOP);
CODE64(t_jump, "jmp 1f\n nop\n" LABEL(t_jump_at) "1: nop" STOP);
CODE64(t_mov_ss2, "mov %eax, %ss\n mov %eax, %ss\n" LABEL(t_mov_ss2_at) "nop\n nop" STOP);
CODE64(t_sti, "sti\n" LABEL(t_sti_at) "nop\n cli" STOP);
CODE64(t_syscall, "syscall" STOP);
CODE64(t_syscall_target, "pushfq\n pop %rbx" STOP);
CODE64(t_sysret, "sysretq");
CODE64(t_sysret_target, "mov $5, %eax" STOP);
CODE64(t_handler, "pushfq\n pop %rbx" STOP);
LABEL_OF(t_nop_at);
LABEL_OF(t_rep_at);
LABEL_OF(t_popf_at);
LABEL_OF(t_popf_after);
LABEL_OF(t_mov_ss_start);
LABEL_OF(t_mov_ss_at);
LABEL_OF(t_jump_at);
LABEL_OF(t_sti_at);
LABEL_OF(t_mov_ss2_at);

static struct context step(const u8 *code, const u8 *start)
{
    struct context c = context_kernel(code);
    c.rip = ADDRESS(start);
    c.rax = SEL_KDATA;
    c.rdi = ADDRESS(data);
    c.rcx = 3;
    c.rflags |= FLAG_TF;
    dr6_set(DR6_IDLE);
    world_long(&c);
    return c;
}

static void test_step(void)
{
    part("single step");
    struct context c = step(t_nops, t_nops);
    check_hit("after one instruction", &c, true, ADDRESS(t_nop_at), DR6_BS);
    CHECK("saved TF", c.rflags & FLAG_TF, FLAG_TF);
    tcg_wrong("TCG keeps RF as it was");
    CHECK("saved RF", c.rflags & FLAG_RF, 0);
    c = step(t_jump, t_jump);
    check_hit("after a jump, at its target", &c, true, ADDRESS(t_jump_at), DR6_BS);
    c = step(t_rep, t_rep);
    check_hit("after each element of REP", &c, true, ADDRESS(t_rep), DR6_BS);
    CHECK("RCX", c.rcx, 2);
    CHECK("RDI", c.rdi, ADDRESS(data) + 1);
    c.rcx = 1;
    c.rflags |= FLAG_TF;
    world_long(&c);
    check_hit("the last element ends it", &c, true, ADDRESS(t_rep_at), DR6_BS);
}

static void test_step_shadows(void)
{
    part("single step where TF or a shadow begins");
    struct context c = run_kernel(t_popf);
    check_hit("POPF sets TF: after the next one", &c, true, ADDRESS(t_popf_after), DR6_BS);
    c = step(t_mov_ss, t_mov_ss_start);
    check_hit("not after MOV SS, but after the next", &c, true, ADDRESS(t_mov_ss_at), DR6_BS);
    c = step(t_mov_ss2, t_mov_ss2);
    tcg_wrong("TCG lets each of them count");
    check_hit("the second MOV SS in a row does not add to it", &c, true, ADDRESS(t_mov_ss2_at),
              DR6_BS);
    c = step(t_sti, t_sti);
    tcg_wrong("TCG holds it off");
    check_hit("STI holds off no #DB", &c, true, ADDRESS(t_sti_at), DR6_BS);
}

static void test_step_events(void)
{
    part("single step, TF saved and cleared");
    struct context c = step(t_clear, t_clear);
    CHECK("PUSHF under TF", *(u64 *)(ADDRESS(test_stack_top) - 8) & FLAG_TF, FLAG_TF);
    long_gate_set(0x84, t_handler, 0xee, 1);
    c = step(t_int, t_int);
    CHECK_STOP("INT n clears TF and does not trap", &c);
    CHECK("TF in the handler", c.rbx & FLAG_TF, 0);
    long_gate_reset(0x84);
    c = step(t_ud, t_ud);
    CHECK_TRAP("a fault comes instead of the step", &c, UD, NO_ERROR, ADDRESS(t_ud));
    CHECK("DR6 unchanged", dr6_get(), DR6_IDLE);
    c = context_user(t_nops);
    c.rflags |= FLAG_TF;
    world_long(&c);
    check_hit("at ring 3", &c, true, USER(t_nop_at), DR6_BS);
}

static void test_step_syscall(void)
{
    part("single step over SYSCALL");
    u64 efer = rdmsr(MSR_EFER);
    wrmsr(MSR_EFER, efer | EFER_SCE);
    wrmsr(MSR_STAR, 0x0018000800000000);
    wrmsr(MSR_LSTAR, ADDRESS(t_syscall_target));
    wrmsr(MSR_FMASK, FLAG_TF);
    struct context c = context_user(t_syscall);
    c.rflags |= FLAG_TF;
    c.rsp = ADDRESS(test_stack_top);
    dr6_set(DR6_IDLE);
    world_long(&c);
    CHECK_STOP("TF masked by FMASK: no step at the target", &c);
    CHECK("TF is saved in R11", c.r11 & FLAG_TF, FLAG_TF);
    wrmsr(MSR_FMASK, 0);
    c = context_user(t_syscall);
    c.rflags |= FLAG_TF;
    world_long(&c);
    check_hit("TF not masked: a step at the target", &c, true, ADDRESS(t_syscall_target), DR6_BS);
    wrmsr(MSR_EFER, efer);
}

static void test_step_sysret(void)
{
    part("single step over SYSRET");
    u64 efer = rdmsr(MSR_EFER);
    wrmsr(MSR_EFER, efer | EFER_SCE);
    wrmsr(MSR_STAR, 0x0018000800000000);
    struct context c = context_kernel(t_sysret);
    c.rcx = USER(t_sysret_target);
    c.r11 = FLAG_TF | FLAG_ONE;
    dr6_set(DR6_IDLE);
    world_long(&c);
    check_hit("SYSRET sets TF: at its target", &c, true, USER(t_sysret_target), DR6_BS);
    CHECK("CPL", c.cs & 3, 3);
    CHECK("saved TF", c.rflags & FLAG_TF, FLAG_TF);
    c = context_kernel(t_sysret);
    c.rcx = USER(t_sysret_target);
    c.r11 = FLAG_ONE;
    c.rflags |= FLAG_TF;
    dr6_set(DR6_IDLE);
    world_long(&c);
    CHECK_STOP("SYSRET clears TF: no step at its target", &c);
    CHECK("CPL", c.cs & 3, 3);
    wrmsr(MSR_EFER, efer);
}

CODE64(g_read, "mov %dr3, %rax" STOP);
CODE64(g_write7, "mov %rax, %dr7" STOP);
CODE64(g_write6, "mov %rax, %dr6" STOP);
CODE64(g_write0, "mov %rax, %dr0" STOP);
CODE64(g_icebp, ".byte 0xf1\n" LABEL(g_icebp_at) "nop" STOP);
LABEL_OF(g_icebp_at);

static void test_registers(void)
{
    part("general detect");
    dr6_set(DR6_IDLE);
    dr7_set(DR7_IDLE | 1ul << 13);
    struct context c = run_kernel(g_read);
    u64 dr7 = dr7_get(); /* GD is clear again in the handler */
    tcg_wrong_begin("TCG has no GD");
    check_hit("MOV from DR3 with GD", &c, true, ADDRESS(g_read), DR6_BD);
    CHECK("GD is cleared on entry", dr7 & 1ul << 13, 0);
    CHECK("saved RF, as of any fault but a breakpoint's", c.rflags & FLAG_RF, FLAG_RF);
    tcg_wrong_end();
    part("debug registers");
    dr7_set(DR7_IDLE);
    dr6_set(0);
    CHECK("fixed ones of DR6", dr6_get(), DR6_IDLE);
    dr6_set(0xffffffff & ~(1ul << 16));
    tcg_wrong("TCG keeps reserved bits of DR6");
    CHECK("fixed zeros of DR6", dr6_get() & 0x1000, 0);
    dr6_set(DR6_IDLE);
    dr7_set(0);
    CHECK("fixed one of DR7", dr7_get(), DR7_IDLE);
    c = context_kernel(g_write7);
    c.rax = 1ul << 32;
    world_long(&c);
    CHECK_VECTOR("upper half of DR7", &c, GP, 0);
    c = context_kernel(g_write6);
    c.rax = 1ul << 32;
    world_long(&c);
    CHECK_VECTOR("upper half of DR6", &c, GP, 0);
    debug_reset();
    c = run_user(g_read);
    CHECK_TRAP("at ring 3", &c, GP, 0, USER(g_read));
    c = run_kernel(g_icebp);
    tcg_wrong("TCG takes INT1 for undefined");
    CHECK_TRAP("INT1", &c, DB, NO_ERROR, ADDRESS(g_icebp_at));
    CHECK("INT1 sets nothing in DR6", dr6_get(), DR6_IDLE);
}

void guest_main(void)
{
    debug_reset();
    test_data();
    test_mov_ss();
    test_execute();
    test_io();
    test_step();
    test_step_shadows();
    test_step_events();
    test_step_syscall();
    test_step_sysret();
    test_registers();
}
