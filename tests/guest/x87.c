/*
 * The x87 unit and MMX in code that runs often, since engines translate only that: exceptions that
 * become unmasked and CR0.TS that becomes set within it, the pointers that FNSTENV shows.
 *
 * Intel SDM vol. 1, 8.1.8 (instruction and data pointers), 8.7 (exceptions), 9.5 (MMX).
 */
#include "world.h"

#define ROUNDS 200

static u8 stack[4096] __attribute__((aligned(16)));
static u16 words[ROUNDS + 1];
static double number = 2.5;
static u32 environment[7];

static struct context run(const void *piece, u64 rdi, u64 rsi)
{
    struct context c = context_kernel(piece);

    c.rsp = ADDRESS(stack) + sizeof stack - 64;
    c.rcx = ROUNDS;
    c.rdi = rdi;
    c.rsi = rsi;
    world_long(&c);
    __asm__ volatile("fninit");
    return c;
}

CODE64(x_unmask, "fninit\n 1: fldcw (%rdi,%rcx,2)\n fldz\n fld1\n fdiv %st(1), %st\n" LABEL(
                     x_unmask_at) "fstp %st(0)\n fstp %st(0)\n fnclex\n dec %ecx\n jnz 1b" STOP);
LABEL_OF(x_unmask_at);
CODE64(x_restore,
       "fninit\n 1: fnstenv (%rsi)\n mov (%rdi,%rcx,2), %ax\n mov %ax, (%rsi)\n fldenv "
       "(%rsi)\n fldz\n fld1\n fdiv %st(1), %st\n" LABEL(
           x_restore_at) "fwait\n fstp %st(0)\n fstp %st(0)\n fnclex\n dec %ecx\n jnz 1b" STOP);
LABEL_OF(x_restore_at);

static void test_masks(void)
{
    part("exceptions unmasked on the way");
    for (unsigned i = 0; i <= ROUNDS; i++)
        words[i] = i == 1 ? 0x37b : 0x37f;
    struct context c = run(x_unmask, ADDRESS(words), 0);
    CHECK_TRAP("by FLDCW", &c, MF, NO_ERROR, ADDRESS(x_unmask_at));
    CHECK("the last round", c.rcx, 1);
    c = run(x_restore, ADDRESS(words), ADDRESS(environment));
    CHECK_TRAP("by FLDENV", &c, MF, NO_ERROR, ADDRESS(x_restore_at));
    CHECK("the last round", c.rcx, 1);
    words[1] = 0x37f;
    c = run(x_unmask, ADDRESS(words), 0);
    CHECK_STOP("not at all", &c);
}

CODE64(x_switch,
       "fninit\n fld1\n 1: fadd %st(0), %st\n mov %cr0, %rax\n cmp $1, %ecx\n jne 2f\n or "
       "$8, %eax\n 2: mov %rax, %cr0\n" LABEL(x_switch_at) "fchs\n dec %ecx\n jnz 1b" STOP);
LABEL_OF(x_switch_at);

static void test_task_switched(void)
{
    part("CR0.TS set on the way");
    struct context c = context_kernel(x_switch);
    c.rcx = ROUNDS;
    world_long(&c);
    cr0_set(cr0_get() & ~CR0_TS);
    __asm__ volatile("fninit");
    CHECK_TRAP("#NM", &c, NM, NO_ERROR, ADDRESS(x_switch_at));
}

CODE64(x_pointers, "fninit\n 1: fldl (%rdi)\n fld1\n" LABEL(
                       x_pointers_at) "faddp\n fstsw %ax\n fnstcw -8(%rsp)\n dec %ecx\n jnz 2f\n "
                                      "fnstenv (%rsi)" STOP "2: fstp %st(0)\n jmp 1b");
LABEL_OF(x_pointers_at);
CODE64(x_pointers_store, "fninit\n fld1\n 1:" LABEL(
                             x_store_at) "fstl (%rdi)\n dec %ecx\n jnz 1b\n fnstenv (%rsi)" STOP);
LABEL_OF(x_store_at);

static void test_pointers(void)
{
    part("instruction pointer");
    struct context c = run(x_pointers, ADDRESS(&number), ADDRESS(environment));
    CHECK_STOP("FNSTENV", &c);
    CHECK("of the last that counts", environment[3], ADDRESS(x_pointers_at));
    c = run(x_pointers_store, ADDRESS(&number), ADDRESS(environment));
    CHECK_STOP("FNSTENV", &c);
    CHECK("of a store", environment[3], ADDRESS(x_store_at));
}

CODE64(x_mmx, "fninit\n 1: mov $3, %eax\n movd %eax, %mm3\n paddd %mm3, %mm3\n movd %mm3, %edx\n"
              "fnstenv (%rsi)\n emms\n fld1\n fistpl -8(%rsp)\n add -8(%rsp), %edx\n dec %ecx\n"
              "jnz 1b" STOP);

static void test_mmx(void)
{
    part("MMX");
    struct context c = run(x_mmx, 0, ADDRESS(environment));
    CHECK_STOP("and x87 in turn", &c);
    CHECK("sum", c.rdx, 7);
    CHECK("all tags valid", environment[2] & 0x0080, 0x0080);
    CHECK("TOP", environment[1] & 0x3800, 0);
}

void guest_main(void)
{
    u64 cr0 = cr0_get();

    cr0_set((cr0 | CR0_NE | CR0_MP) & ~(CR0_EM | CR0_TS));
    test_masks();
    test_task_switched();
    test_pointers();
    test_mmx();
}
