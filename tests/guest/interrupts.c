/*
 * Interrupts: IF and its shadows, priorities, NMI, HLT, IRETQ to every ring and its faults, gates
 * and stacks.
 *
 * Intel SDM vol. 3, 6.7 to 6.14, 10.8; vol. 2, IRET, STI, HLT.
 */
#include "apic.h"
#include "world.h"

#define IPI 0x90

CODE64(i_plain, "nop\n" LABEL(i_plain_at) "nop" STOP);
LABEL_OF(i_plain_at);
CODE64(i_sti, "sti\n nop\n" LABEL(i_sti_at) "nop\n nop" STOP);
LABEL_OF(i_sti_at);
CODE64(i_sti_cli, "sti\n cli\n nop" STOP);
CODE64(i_sti_hlt, "sti\n hlt\n" LABEL(i_hlt_at) "nop" STOP);
LABEL_OF(i_hlt_at);
CODE64(i_mov_ss, "mov %ss, %eax\n mov %eax, %ss\n nop\n" LABEL(i_mov_ss_at) "nop" STOP);
LABEL_OF(i_mov_ss_at);
CODE64(i_sti_sti, "sti\n sti\n" LABEL(i_sti_sti_at) "nop\n nop" STOP);
LABEL_OF(i_sti_sti_at);
CODE64(i_popf, "pushq $0x202\n popfq\n" LABEL(i_popf_at) "nop" STOP);
LABEL_OF(i_popf_at);
CODE64(i_cr8, "sti\n nop\n xor %eax, %eax\n mov %rax, %cr8\n" LABEL(i_cr8_at) "nop" STOP);
LABEL_OF(i_cr8_at);
CODE64(i_spin, "1: pause\n dec %rcx\n jnz 1b" STOP);

static void ipi_self(u32 command)
{
    apic_send(apic_read(APIC_ID) >> 24, ICR_ASSERT | command);
}

static void drain(void)
{
    struct context c;
    for (int i = 0; i < 8; i++) {
        c = context_kernel(i_sti);
        world_long(&c);
        if (c.vector == STOP_VECTOR)
            return;
        if (c.vector >= 32)
            apic_eoi();
    }
}

/* A self-IPI is pending with IF = 0; says where the code is interrupted. */
static struct context pending_run(const u8 *code, u64 flags)
{
    ipi_self(IPI);
    struct context c = context_kernel(code);
    c.rflags |= flags;
    world_long(&c);
    return c;
}

static void check_pending(const char *what, const u8 *code, u64 flags, u64 rip)
{
    struct context c = pending_run(code, flags);
    CHECK_TRAP(what, &c, IPI, NO_ERROR, rip);
    if (c.vector == IPI)
        apic_eoi();
    drain();
}

static void test_shadow(void)
{
    part("IF and shadows");
    check_pending("IF set by IRETQ", i_plain, FLAG_IF, ADDRESS(i_plain));
    struct context c = pending_run(i_plain, 0);
    CHECK_STOP("IF clear", &c);
    drain();
    check_pending("STI: after the next instruction", i_sti, 0, ADDRESS(i_sti) + 2);
    c = pending_run(i_sti_cli, 0);
    CHECK_STOP("STI, CLI: not at all", &c);
    drain();
    check_pending("STI, STI: only the first has a shadow", i_sti_sti, 0, ADDRESS(i_sti_sti_at));
    check_pending("POPF has no shadow", i_popf, 0, ADDRESS(i_popf_at));
    check_pending("STI, HLT", i_sti_hlt, 0, ADDRESS(i_hlt_at));
    c = pending_run(i_mov_ss, 0);
    CHECK_STOP("MOV SS with IF clear", &c);
    drain();
}

static void test_priority(void)
{
    part("priorities");
    ipi_self(0x90);
    ipi_self(0xb0);
    ipi_self(0xa0);
    struct context c = context_kernel(i_plain);
    c.rflags |= FLAG_IF;
    world_long(&c);
    CHECK_VECTOR("the highest first", &c, 0xb0, NO_ERROR);
    CHECK("in service", apic_read(APIC_ISR + 0x50) >> 16 & 1, 1);
    CHECK("still requested", apic_read(APIC_IRR + 0x50) & 1, 1);
    c = context_kernel(i_plain);
    c.rflags |= FLAG_IF;
    world_long(&c);
    CHECK_STOP("a lower one waits for the EOI", &c);
    apic_eoi();
    c = context_kernel(i_plain);
    c.rflags |= FLAG_IF;
    world_long(&c);
    CHECK_VECTOR("the next", &c, 0xa0, NO_ERROR);
    apic_eoi();
    cr8_set(9);
    CHECK("TPR", apic_read(APIC_TPR), 0x90);
    c = context_kernel(i_plain);
    c.rflags |= FLAG_IF;
    world_long(&c);
    CHECK_STOP("held by CR8", &c);
    c = context_kernel(i_cr8);
    world_long(&c);
    CHECK_TRAP("let go by CR8", &c, 0x90, NO_ERROR, ADDRESS(i_cr8_at));
    apic_eoi();
    apic_write(APIC_TPR, 0x40);
    CHECK("CR8", cr8_get(), 4);
    apic_write(APIC_TPR, 0);
    drain();
}

/* An NMI cannot be held off by the test's C code, so the code that runs sends it to itself. */
CODE64(i_nmi_self, "movl $0, 0x310(%rdi)\n mov %eax, 0x310(%rdi)\n movl $0x4400, 0x300(%rdi)\n mov "
                   "$1000000, %rcx\n 1: pause\n dec %rcx\n jnz 1b" STOP);

static void nmi_once(const char *what)
{
    struct context c = context_kernel(i_nmi_self);
    c.rdi = APIC_PAGE;
    c.rax = apic_read(APIC_ID);
    world_long(&c);
    CHECK_VECTOR(what, &c, NMI, NO_ERROR);
}

CODE64(i_nmi_handler, "incl nmi_count\n cmpl $1, nmi_count\n jne 2f\n push %rcx\n movl $0x4400, "
                      "0x300(%rdi)\n mov $100000, %ecx\n"
                      "1: pause\n dec %ecx\n jnz 1b\n pop %rcx\n mov nmi_count, %esi\n 2: iretq");
CODE64(i_nmi_nested,
       "movl $0x4400, 0x300(%rdi)\n mov $100000, %rcx\n 1: pause\n dec %rcx\n jnz 1b" STOP);
u32 nmi_count;

static void test_nmi_self(void)
{
    part("NMI");
    nmi_once("NMI with IF clear");
    nmi_once("NMI again, after an IRETQ");
    long_gate_set(NMI, i_nmi_handler, 0x8e, 1);
    struct context c = context_kernel(i_nmi_nested);
    c.rdi = APIC_PAGE;
    apic_write(APIC_ICR_HIGH, apic_read(APIC_ID));
    world_long(&c);
    long_gate_reset(NMI);
    CHECK_STOP("NMI in an NMI's handler", &c);
    CHECK("blocked until its IRETQ", c.rsi, 1);
    CHECK("then delivered", nmi_count, 2);
}

CODE64(i_iret, "iretq");
CODE64(i_iret_target, "mov %cs, %eax\n mov %ss, %ebx\n mov %ds, %ecx\n mov %rsp, %rdx" STOP);
CODE32(i_iret_target32, "mov %cs, %eax\n mov %ss, %ebx\n mov %ds, %ecx\n mov %esp, %edx" STOP);

static u64 frame[8] __attribute__((aligned(16)));

static struct context iret_run(u64 cs, u64 ss, const u8 *to, u64 flags)
{
    bool user = cs & 3;
    frame[0] = user ? USER(to) : ADDRESS(to);
    frame[1] = cs;
    frame[2] = flags | FLAG_ONE;
    frame[3] = (user ? USER(test_stack_top) : ADDRESS(test_stack_top)) - 0x100;
    frame[4] = ss;
    struct context c = context_kernel(i_iret);
    c.rsp = ADDRESS(frame);
    world_long(&c);
    return c;
}

static void test_iret(void)
{
    part("IRETQ");
    struct context c = iret_run(SEL_UCODE64, SEL_UDATA, i_iret_target, 0);
    CHECK_STOP("to ring 3, 64-bit", &c);
    CHECK("CS", c.rax, SEL_UCODE64);
    CHECK("SS", c.rbx, SEL_UDATA);
    CHECK("ring 0's DS becomes null", c.rcx, 0);
    CHECK("RSP", c.rdx, USER(test_stack_top) - 0x100);
    c = iret_run(SEL_UCODE32, SEL_UDATA, i_iret_target32, 0);
    CHECK_STOP("to ring 3, compatibility", &c);
    CHECK("CS", c.rax, SEL_UCODE32);
    CHECK("ESP", c.rdx, USER(test_stack_top) - 0x100);
    c = iret_run(SEL_KCODE64, SEL_KDATA, i_iret_target, 0);
    CHECK_STOP("to ring 0", &c);
    CHECK("RSP is popped too", c.rdx, ADDRESS(test_stack_top) - 0x100);
    c = iret_run(SEL_KCODE64, 0, i_iret_target, 0);
    CHECK_STOP("to ring 0 with a null SS", &c);
    CHECK("SS", c.rbx, 0);
    c = iret_run(SEL_KCODE32, SEL_KDATA, i_iret_target32, 0);
    CHECK_STOP("to ring 0, compatibility", &c);
    c = iret_run(SEL_UCODE64, SEL_UDATA, i_iret_target, FLAG_IOPL(3) | FLAG_AC | FLAG_ID | FLAG_CF);
    CHECK("flags", c.rflags & ~FLAG_RF, FLAG_ONE | FLAG_IOPL(3) | FLAG_AC | FLAG_ID | FLAG_CF);
    part("IRETQ faults");
    gdt[SEL_FREE / 8] = segment(0, 0xfffff, 0xc07b);     /* user code 32, not present */
    gdt[SEL_FREE / 8 + 1] = segment(0, 0xfffff, 0xc073); /* user data, not present */
    static const struct {
        const char *what;
        u64 cs, ss, vector, error;
        const char *tcg;
    } cases[] = {
        {"CS null", 0, SEL_UDATA, GP, 0},
        {"CS data", SEL_UDATA, SEL_UDATA, GP, SEL_UDATA & ~3},
        {"CS not present", SEL_FREE | 3, SEL_UDATA, NP, SEL_FREE},
        {"CS RPL 3 of ring 0 code", SEL_KCODE64 | 3, SEL_UDATA, GP, SEL_KCODE64},
        {"CS above the limit", GDT_SLOTS * 8, SEL_UDATA, GP, GDT_SLOTS * 8},
        {"SS null for ring 3", SEL_UCODE64, 3, GP, 0},
        {"SS null for compatibility", SEL_KCODE32, 0, GP, 0, "TCG takes it"},
        {"SS of ring 0 for ring 3", SEL_UCODE64, SEL_KDATA, GP, SEL_KDATA},
        {"SS not present", SEL_UCODE64, (SEL_FREE + 8) | 3, SS, SEL_FREE + 8, "TCG raises #NP"},
        {"SS code", SEL_UCODE64, SEL_UCODE32, GP, SEL_UCODE32 & ~3},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        gdt[SEL_FREE / 8] = segment(0, 0xfffff, 0xc07b);
        c = iret_run(cases[i].cs, cases[i].ss, i_iret_target, 0);
        if (cases[i].tcg)
            tcg_wrong_begin(cases[i].tcg);
        CHECK_TRAP(cases[i].what, &c, cases[i].vector, cases[i].error, ADDRESS(i_iret));
        CHECK("RSP stays", c.rsp, ADDRESS(frame));
        tcg_wrong_end();
    }
    c = iret_run(SEL_UCODE64, SEL_UDATA, (const u8 *)0x4000000000000000, 0);
    tcg_wrong("TCG goes to the non-canonical address, then faults");
    CHECK_TRAP("RIP not canonical", &c, GP, 0, ADDRESS(i_iret));
    c = context_kernel(i_iret);
    c.rsp = ADDRESS(frame);
    c.rflags |= FLAG_NT;
    world_long(&c);
    /* The entry itself loads NT by IRETQ, which then runs with NT set. */
    CHECK_TRAP("NT in long mode", &c, GP, 0, ADDRESS(i_iret));
}

CODE64(i_gate_user, "int $0x84" STOP);
CODE64(
    i_gate_seen,
    "mov %cs, %eax\n mov %ss, %ebx\n mov %rsp, %rdx\n pushfq\n pop %rcx\n mov 24(%rsp), %rsi" STOP);

static void test_gates(void)
{
    part("gates");
    long_gate_set(0x84, i_gate_seen, 0xee, 0);
    struct context c = context_user(i_gate_user);
    c.rflags |= FLAG_IF | FLAG_AC;
    world_long(&c);
    CHECK_STOP("interrupt gate without IST", &c);
    CHECK("CS", c.rax, SEL_KCODE64);
    CHECK("SS is null with RPL 0", c.rbx, 0);
    CHECK("RSP0 less 5 words", c.rdx, tss64.rsp[0] - 40);
    CHECK("IF, TF, NT clear; AC stays", c.rcx, FLAG_ONE | FLAG_AC);
    CHECK("saved RSP", c.rsi, USER(test_stack_top));
    long_gate_set(0x84, i_gate_seen, 0xef, 0);
    c = context_user(i_gate_user);
    c.rflags |= FLAG_IF;
    world_long(&c);
    CHECK("a trap gate leaves IF", c.rcx, FLAG_ONE | FLAG_IF);
    c = context_kernel(i_gate_user);
    c.rsp -= 5;
    u64 rsp = c.rsp;
    world_long(&c);
    CHECK("same ring: aligned, SS stays", c.rdx, (rsp & ~15ul) - 40);
    CHECK("SS", c.rbx, SEL_KDATA);
    CHECK("saved RSP", c.rsi, rsp);
    long_gate_reset(0x84);
}

/* The timer wakes HLT. */
static void test_halt(void)
{
    part("HLT");
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, IPI);
    apic_write(APIC_TIMER_INITIAL, 100000);
    struct context c = context_kernel(i_sti_hlt);
    world_long(&c);
    CHECK_TRAP("woken by the timer", &c, IPI, NO_ERROR, ADDRESS(i_hlt_at));
    apic_eoi();
    apic_write(APIC_LVT_TIMER, 1u << 16);
    c = context_user(i_sti_hlt);
    world_long(&c);
    CHECK_TRAP("STI at ring 3", &c, GP, 0, USER(i_sti_hlt));
}

CODE64(i_object, "mov %rax, 0x50(%rdi)\n mov (%rdi), %rsi\n mov %rbx, (%rdi)" STOP);
static u8 object_pages[2 * 4096] __attribute__((aligned(4096)));

/* While an interrupt waits, masked: code whose first accesses are to one object, across two pages.
 */
static void test_masked(void)
{
    part("masked interrupt");
    u8 *object = object_pages + 4096 - 0x28;
    ipi_self(IPI);
    for (u64 i = 0; i < 50; i++) {
        struct context c = context_kernel(i_object);
        c.rdi = ADDRESS(object);
        c.rax = i;
        c.rbx = i + 1;
        world_long(&c);
        CHECK_STOP("goes on", &c);
        CHECK("read", c.rsi, i);
        CHECK("one end", *(volatile u64 *)object, i + 1);
        CHECK("the other", *(volatile u64 *)(object + 0x50), i);
    }
    drain();
}

/* -- loops that go on by calls and returns alone, where no jump goes backward -- */

CODE64(e_calls, "call 1f\n 1: pop %rax\n inc %rcx\n call 1b");
CODE64(e_deep, "mov %rsp, %rbx\n 1: mov %rbx, %rsp\n call 2f\n hlt\n 2: inc %rcx\n call 1b\n hlt");
CODE64(e_indirect, "lea 1f(%rip), %rdx\n call *%rdx\n 1: pop %rax\n inc %rcx\n call *%rdx\n hlt");
CODE64(e_pages, "call 1f\n 1: pop %rax\n call 2f\n .fill 4096, 1, 0xf4\n"
                "2: pop %rax\n inc %rcx\n call 1b\n hlt");
CODE64(e_pushed, "lea 1f(%rip), %rdx\n 1: inc %rcx\n push %rdx\n ret");
CODE64(e_changed, "lea 1f(%rip), %rdx\n 1: call 2f\n hlt\n 2: inc %rcx\n mov %rdx, (%rsp)\n ret");
/* Each call has its return; 2^60 of them. */
CODE64(e_tree, "mov $60, %edx\n call 1f\n hlt\n"
               "1: inc %rcx\n dec %edx\n jz 2f\n call 1b\n call 1b\n 2: inc %edx\n ret");

/* The timer ends each of them, again and again. */
static void test_endless(void)
{
    static const struct {
        const char *what;
        const u8 *code;
    } pieces[] = {{"calls", e_calls},       {"calls without returns", e_deep},
                  {"indirect", e_indirect}, {"of two pages", e_pages},
                  {"returns", e_pushed},    {"returns that are jumps", e_changed},
                  {"tree", e_tree}};

    part("loops of calls");
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, IPI);
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        struct context c = context_kernel(pieces[i].code);
        u64 top = c.rsp;
        c.rflags |= FLAG_IF;
        for (u32 round = 1; round <= 50; round++) {
            apic_write(APIC_TIMER_INITIAL, 2000 * round);
            world_long(&c);
            CHECK_VECTOR(pieces[i].what, &c, IPI, NO_ERROR);
            CHECK("the stack does not grow", top - c.rsp <= 1024, true);
            apic_eoi();
        }
        CHECK("went on in between", c.rcx > 1, true);
    }
    apic_write(APIC_LVT_TIMER, 1u << 16);
}

CODE64(e_masked, "mov $300, %ecx\n call 1f\n 1: pop %rax\n dec %ecx\n jz 2f\n call 1b\n 2:" STOP);
CODE64(e_unmasked, "mov $300, %ecx\n call e_unmasked_at" LABEL(
                       e_unmasked_at) "pop %rax\n dec %ecx\n cmp $100, %ecx\n jne 3f\n sti\n 3: "
                                      "call e_unmasked_at");
LABEL_OF(e_unmasked_at);

/* An interrupt waits, masked, while calls go on: they do, until it is let in. */
static void test_calls_masked(void)
{
    part("calls under a masked interrupt");
    for (u64 i = 0; i < 50; i++) {
        struct context c = pending_run(e_masked, 0);
        CHECK_STOP("to the end", &c);
        CHECK("all calls", c.rcx, 0);
        c = pending_run(e_unmasked, 0);
        CHECK_TRAP("STI, then a call", &c, IPI, NO_ERROR, ADDRESS(e_unmasked_at));
        CHECK("where it is let in", c.rcx, 100);
        apic_eoi();
        drain();
    }
}

void guest_main(void)
{
    apic_enable();
    test_shadow();
    test_priority();
    test_nmi_self();
    test_iret();
    test_gates();
    test_halt();
    test_masked();
    test_endless();
    test_calls_masked();
}
