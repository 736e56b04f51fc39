/*
 * Self-modifying code: the next instruction, the own loop, another mapping of the same page, two
 * pages, by string instructions, by the page tables, by DMA-like copies of whole functions.
 *
 * Intel SDM vol. 3, 8.1.3 and 11.6: a store to code of the same processor by the same linear
 * address takes effect at the next branch at the latest, on current processors at once; by another
 * linear address after a serializing instruction.
 */
#include "world.h"

/* Code that tests overwrite: two pages, so that instructions may lie across. */
static u8 code[3 * 4096] __attribute__((aligned(4096)));
static u64 test_pd[512] __attribute__((aligned(4096)));
static u64 test_pt[512] __attribute__((aligned(4096)));

static void code_put(u64 at, const u8 *begin, const u8 *end)
{
    memory_copy(code + at, begin, (size_t)(end - begin));
}
#define PUT(at, name) code_put(at, name, name##_end)

static struct context run_at(u64 at)
{
    struct context c = context_kernel(code + at);
    c.rdi = ADDRESS(code) + at;
    world_long(&c);
    return c;
}

/* RDI is where the piece lies. */
CODE64(f_next, "movb $9, 5+1(%rdi)\n nop\n mov $1, %eax" STOP); /* the store is 4 bytes long, the
                                                                   immediate at 6 */
CODE64(
    f_loop_near,
    "mov $5, %ecx\n xor %eax, %eax\n 1: add $1, %eax\n addb $1, 9(%rdi)\n dec %ecx\n jnz 1b" STOP);
CODE64(f_patch_jump,
       "movb $2, 8+1(%rdi)\n nop\n nop\n nop\n nop\n .byte 0xeb, 0\n inc %eax\n inc %edx" STOP);
CODE64(f_rep, "mov $0x90, %al\n lea 1f-f_rep(%rdi), %rdi\n mov $4, %ecx\n mov $7, %ebx\n rep "
              "stosb\n 1: inc %ebx\n inc %ebx" STOP);
CODE64(f_push, "lea 8+1f-f_push(%rdi), %rsp\n mov $0x9090909090909090, %rax\n mov $1, %ebx\n push "
               "%rax\n 1: inc %ebx\n inc %ebx\n inc %ebx\n inc %ebx" STOP);
CODE64(f_call_twice, "mov %rdi, %rbx\n add $0x100, %rbx\n call *%rbx\n mov %eax, %ecx\n movb "
                     "$0x22, 1(%rbx)\n call *%rbx" STOP);
CODE64(f_value, "mov $0x11, %eax\n ret");
CODE64(f_call_alias, "mov %rdi, %rbx\n add $0x100, %rbx\n call *%rbx\n mov %eax, %ecx\n movb "
                     "$0x33, 1(%rsi)\n mov $0, %eax\n push %rbx\n push %rcx\n"
                     "cpuid\n pop %rcx\n pop %rbx\n call *%rbx" STOP);
CODE64(f_xchg, "mov $0x44, %eax\n xchg %al, 1+1f-f_xchg(%rdi)\n 1: mov $1, %ebx" STOP);
CODE64(f_sse_free, "lock orb $0x70, 1+1f-f_sse_free(%rdi)\n 1: mov $1, %ebx" STOP);

static void test_same_address(void)
{
    part("own code");
    PUT(0, f_next);
    struct context c = run_at(0);
    CHECK_STOP("next instruction", &c);
    CHECK("new immediate", c.rax, 9);
    PUT(64, f_patch_jump);
    c = run_at(64);
    CHECK_STOP("jump distance", &c);
    CHECK("jumped over", c.rax, 0);
    CHECK("went on", c.rdx, 1);
    PUT(0, f_rep);
    c = run_at(0);
    CHECK_STOP("REP STOSB over the next instructions", &c);
    CHECK("they are NOPs", c.rbx, 7);
    PUT(0, f_push);
    c = run_at(0);
    CHECK_STOP("PUSH over the next instructions", &c);
    CHECK("they are NOPs", c.rbx, 1);
    PUT(0, f_xchg);
    c = run_at(0);
    CHECK("XCHG to the next instruction", c.rbx, 0x44);
    PUT(0, f_sse_free);
    c = run_at(0);
    CHECK("LOCK OR to the next instruction", c.rbx, 0x71);
    PUT(0, f_loop_near);
    c = run_at(0);
    CHECK_STOP("loop changes its own immediate", &c);
    CHECK("sum 1 + 2 + 3 + 4 + 5", c.rax, 15);
    PUT(0, f_call_twice);
    PUT(0x100, f_value);
    c = run_at(0);
    CHECK_STOP("function changed between calls", &c);
    CHECK("before", c.rcx, 0x11);
    CHECK("after", c.rax, 0x22);
}

CODE64(f_jump, ".byte 0xe9, 0xfb, 0, 0, 0"); /* to 0x100 behind its beginning */
CODE64(f_compare, "cmp %rsi, %rdi\n mov (%rsp), %rdx\n .byte 0xeb, 0x3e");
CODE64(f_flags_dead, "xor %eax, %eax\n test %edi, %edi" STOP);
CODE64(f_flags_live, "setc %al\n movzx %al, %eax" STOP);
CODE64(f_jump_often,
       "lea 0x100(%rdi), %rbx\n mov $40, %ebp\n 1: cmp $10, %ebp\n jne 2f\n movb $0xb8, (%rbx)\n"
       "movl $0x22, 1(%rbx)\n movb $0xc3, 5(%rbx)\n movb $0x33, 0x101(%rbx)\n jmp 2f\n"
       "2: lea 4f(%rip), %rdx\n push %rdx\n cmp $10, %ebp\n jmp *%rbx\n 4: cmp $10, %ebp\n je 3f\n "
       "dec %ebp\n jmp 1b\n 3:" STOP);

/* A jump alone, its target, and then both changed, the jump first. */
static void test_jump_changed(void)
{
    part("jump and target changed");
    for (u64 i = 0; i < 20; i++) {
        PUT(0, f_jump_often);
        PUT(0x100, f_jump);
        PUT(0x200, f_value);
        struct context c = run_at(0);
        CHECK_STOP("changed jump", &c);
        CHECK("what is there now", c.rax, 0x22);
    }
}

/* Code that overwrites all flags becomes code that reads them; what jumps there stays. */
static void test_flags_needed(void)
{
    part("flags needed by changed code");
    for (u64 round = 0; round < 4; round++) {
        PUT(0x400, f_compare);
        PUT(0x400 + (u64)(f_compare_end - f_compare) - 2 + 0x40, f_flags_dead);
        for (u64 i = 0; i < 40; i++) {
            struct context c = context_kernel(code + 0x400);
            c.rdi = 1;
            c.rsi = 2;
            world_long(&c);
            CHECK("flags not read", c.rax, 0);
        }
        PUT(0x400 + (u64)(f_compare_end - f_compare) - 2 + 0x40, f_flags_live);
        for (u64 i = 0; i < 40; i++) {
            struct context c = context_kernel(code + 0x400);
            c.rdi = 1 + (i & 1);
            c.rsi = 2 - (i & 1);
            world_long(&c);
            CHECK("carry", c.rax, (i & 1) == 0);
        }
    }
}

/* The same, with the code at every place across a page boundary. */
static void test_across(void)
{
    part("across two pages");
    for (u64 at = 4096 - 12; at < 4096; at++) {
        PUT(at, f_next);
        struct context c = run_at(at);
        CHECK("new immediate", c.rax, 9);
        PUT(at, f_loop_near);
        c = run_at(at);
        CHECK("loop", c.rax, 15);
    }
    for (u64 at = 4096 - 5; at < 4096; at++) {
        static const u8 mov[] = {0xb8, 1, 2, 3, 4, 0xcd, 0x81};
        memory_copy(code + at, mov, sizeof(mov));
        CHECK("before", run_at(at).rax, 0x04030201);
        for (u64 i = 1; i < 5; i++) {
            code[at + i] = (u8)(0xa0 + i);
            u64 expected = 0x04030201;
            for (u64 j = 1; j <= i; j++)
                expected = (expected & ~(0xfful << 8 * (j - 1))) | (0xa0 + j) << 8 * (j - 1);
            CHECK("byte by byte, on both sides", run_at(at).rax, expected);
        }
    }
}

static void map(u64 page, u64 frame)
{
    boot_pdpt[2] = ADDRESS(test_pd) | 7;
    test_pd[0] = ADDRESS(test_pt) | 7;
    test_pt[page] = frame | 7;
    invlpg(TEST_REGION + page * 4096);
}

static void test_alias(void)
{
    part("another mapping");
    cr3_set(cr3_get());
    map(0, ADDRESS(code));
    PUT(0, f_call_alias);
    PUT(0x100, f_value);
    struct context c = context_kernel(code);
    c.rdi = ADDRESS(code);
    c.rsi = TEST_REGION + 0x100;
    world_long(&c);
    CHECK_STOP("changed by an alias", &c);
    CHECK("before", c.rcx, 0x11);
    CHECK("after", c.rax, 0x33);
    PUT(0x200, f_value);
    code[0x205] = 0xcd; /* RET becomes STOP */
    code[0x206] = 0x81;
    for (u64 i = 0; i < 20; i++) {
        *(volatile u8 *)(TEST_REGION + 0x201) = (u8)i;
        CHECK("run at its own address", run_at(0x200).rax, i);
        code[0x201] = (u8)(i + 100);
        c = run_kernel((u8 *)TEST_REGION + 0x200);
        CHECK("run at the alias", c.rax, i + 100);
        *(volatile u8 *)(USER(code) + 0x201) = (u8)(i + 50);
        c = run_user(code + 0x200);
        CHECK("run at the user's", c.rax, i + 50);
    }
    part("another frame at the same address");
    static const u8 first[] = {0xb8, 1, 0, 0, 0, 0xcd, 0x81},
                    second[] = {0xb8, 2, 0, 0, 0, 0xcd, 0x81};
    memory_copy(code + 4096, first, sizeof(first));
    memory_copy(code + 8192, second, sizeof(second));
    for (int i = 0; i < 10; i++) {
        map(1, ADDRESS(code) + (i & 1 ? 8192 : 4096));
        c = run_kernel((u8 *)TEST_REGION + 4096);
        CHECK("the code of the new frame", c.rax, i & 1 ? 2 : 1);
    }
    /* An instruction of two pages, the second of which is exchanged. */
    static const u8 head[] = {0xb8, 7}, tail1[] = {1, 0, 0, 0xcd, 0x81},
                    tail2[] = {2, 0, 0, 0xcd, 0x81};
    map(2, ADDRESS(code));
    memory_copy(code + 4094, head, 2);
    memory_copy(code + 4096, tail1, 5);
    memory_copy(code + 8192, tail2, 5);
    for (int i = 0; i < 10; i++) {
        map(3, ADDRESS(code) + (i & 1 ? 8192 : 4096));
        c = run_kernel((u8 *)TEST_REGION + 2 * 4096 + 4094);
        CHECK("second half of the new frame", c.rax, i & 1 ? 0x207 : 0x107);
    }
}

CODE64(f_store_jump, "mov %rsi, (%rdx)\n .byte 0xeb, 0x3b"); /* to 0x40 behind its beginning */

/* A page table changes between a jump and its target, unannounced: either frame may be seen then,
 * but each one's own code later. */
static void test_jump_remapped(void)
{
    static u64 other_pt[512] __attribute__((aligned(4096)));
    static const u8 first[] = {0xb8, 1, 0, 0, 0, 0xcd, 0x81},
                    second[] = {0xb8, 2, 0, 0, 0, 0xcd, 0x81};
    u8 *page = (u8 *)(TEST_REGION + 5 * 4096);
    u64 frame[2] = {ADDRESS(code) + 4096, ADDRESS(code) + 8192}, nothing;
    part("another frame between a jump and its target");
    PUT(4096, f_store_jump);
    PUT(8192, f_store_jump);
    memory_copy(code + 4096 + 0x40, first, sizeof(first));
    memory_copy(code + 8192 + 0x40, second, sizeof(second));
    memory_copy(code + 0x80, first, sizeof(first));
    map(5, frame[1]);
    for (int i = 0; i < 20; i++)
        CHECK("the second frame's", run_kernel(page + 0x40).rax, 2);
    map(5, frame[0]);
    for (int i = 0; i < 20; i++)
        CHECK("the first frame's", run_kernel(page + 0x40).rax, 1);
    cr3_set(cr3_get());
    struct context c = context_kernel(page);
    for (int i = 0; i < 20; i++) {
        c = context_kernel(page);
        c.rdx = 1ul << 63;
        world_long(&c);
        CHECK("the jump is not reached", c.vector, GP);
    }
    /* A page 4 MiB on takes the place of the first one's entry in many TLBs. */
    test_pd[2] = ADDRESS(other_pt) | 7;
    other_pt[5] = ADDRESS(code) | 7;
    CHECK("far page", run_kernel(page + 0x400000 + 0x80).rax, 1);
    c = context_kernel(page);
    c.rdx = ADDRESS(&test_pt[5]);
    c.rsi = frame[1] | 7;
    world_long(&c);
    CHECK("one of the frames'", c.rax == 1 || c.rax == 2, 1);
    for (int i = 0; i < 20; i++) {
        map(5, frame[i & 1]);
        c = context_kernel(page);
        c.rdx = ADDRESS(&nothing);
        world_long(&c);
        CHECK("the own frame's", c.rax, i & 1 ? 2 : 1);
    }
    test_pd[2] = 0;
}

/* Code is copied, run and replaced many times over, as loaders and JITs do. */
static void test_many(void)
{
    part("many times");
    u32 wrong = 0;
    u64 sum = 0, expected = 0;
    for (u32 i = 0; i < 3000; i++) {
        u8 piece[] = {0xb8, (u8)i, (u8)(i >> 8), 0, 0, 0xc3};
        u64 at = i * 17 % 3000;
        memory_copy(code + at, piece, sizeof(piece));
        u64 got = ((u64(*)(void))(u64)(ADDRESS(code) + at))();
        wrong += got != i;
        sum += got;
        expected += i;
    }
    CHECK("stale results", wrong, 0);
    CHECK("sum", sum, expected);
}

/*
 * A function of which a byte changes between few values, again and again: RBX is the function, RSI
 * the byte, which becomes (round & R13) | R14 in each of 200 rounds. EDX is the sum of what 8 calls
 * in each gave, made with R12 from 8 down to 1; the second one serializes before them.
 */
CODE64(f_toggle,
       "mov $200, %ebp\n xor %edx, %edx\n 1: mov %ebp, %eax\n and %r13d, %eax\n or %r14d, "
       "%eax\n mov %al, (%rsi)\n mov $8, %r12d\n 2: call *%rbx\n add %eax, %edx\n dec "
       "%r12d\n jnz 2b\n dec %ebp\n jnz 1b" STOP);
CODE64(
    f_toggle_serial,
    "mov $200, %ebp\n xor %edi, %edi\n mov %rbx, %r15\n 1: mov %ebp, %eax\n and %r13d, %eax\n or "
    "%r14d, %eax\n mov %al, (%rsi)\n xor %eax, %eax\n cpuid\n mov $8, %r12d\n 2: call *%r15\n add "
    "%eax, %edi\n dec %r12d\n jnz 2b\n dec %ebp\n jnz 1b\n mov %edi, %edx" STOP);
CODE64(f_branch,
       "cmp $5, %r12d\n je 1f\n mov $1, %eax\n ret\n 1: mov $2, %eax\n ret\n nop\n nop\n mov "
       "$3, %eax\n ret");                                                /* 8 bytes on */
CODE64(f_long, "mov $1, %eax\n .fill 30, 1, 0x90\n add $2, %eax\n ret"); /* 2 is at 37 */
/* R8 leads to an object across two pages; the immediate behind lies far away, at 70. */
CODE64(f_object,
       ".fill 8, 1, 0x90\n mov (%r8), %eax\n add 4(%r8), %eax\n .fill 54, 1, 0x90\n add $2, "
       "%eax\n ret");
CODE64(f_jump_only, ".byte 0xe9, 0x3b, 0, 0, 0"); /* to 0x40 behind its beginning */
CODE64(f_jump_ahead,
       "cmp $5, %r12d\n jmp 1f\n nop\n 1: mov $1, %ecx\n setb %al\n test %ecx, %ecx\n "
       "movzx %al, %eax\n ret"); /* SETB is at 12 */

static u64 toggle(const u8 *function, u8 *byte, u64 mask, u64 value)
{
    struct context c = context_kernel(code + (byte < code || byte >= code + 4096 ? 0x80 : 0));
    c.rbx = ADDRESS(function);
    c.rsi = ADDRESS(byte);
    c.r8 = ADDRESS(code) + 8192 - 4;
    c.r13 = mask;
    c.r14 = value;
    world_long(&c);
    CHECK_STOP("rounds", &c);
    return c.rdx;
}

static void test_back(void)
{
    u8 *at = code + 0x200, *alias = (u8 *)TEST_REGION + 0x200;
    part("changed and changed back");
    map(0, ADDRESS(code));
    PUT(0, f_toggle);
    PUT(0x80, f_toggle_serial);
    PUT(0x200, f_value);
    CHECK("an immediate", toggle(at, at + 1, 3, 0), 8 * 50 * (0 + 1 + 2 + 3));
    CHECK("by an alias", toggle(at, alias + 1, 3, 0), 8 * 50 * (0 + 1 + 2 + 3));
    CHECK("run at the alias", toggle(alias, at + 1, 7, 0),
          8 * 25 * (0 + 1 + 2 + 3 + 4 + 5 + 6 + 7));
    CHECK("32 values", toggle(at, at + 1, 31, 64), 8 * 200 * 64 + 8 * (6 * 496 + 36));
    CHECK("always the same", toggle(at, at + 1, 0, 17), 8 * 200 * 17);
    PUT(0x200, f_branch);
    CHECK("a condition", toggle(at, at + 4, 1, 0x74), 100 * (7 + 2) + 100 * (7 * 2 + 1));
    PUT(0x200, f_branch);
    CHECK("a distance", toggle(at, at + 5, 8, 6), 200 * 7 + 97 * 3 + 103 * 2);
    PUT(0x200, f_long);
    CHECK("the second half", toggle(at, at + 37, 3, 0), 8 * 50 * (1 + 2 + 3 + 4));
    CHECK("the first half", toggle(at, at + 1, 3, 0), 8 * 50 * (1 + 2 + 3 + 4));
    PUT(0x200, f_object);
    *(volatile u64 *)(code + 8192 - 4) = 5 | 6ul << 32;
    for (u64 i = 0; i < 3; i++) {
        CHECK("behind an object on two pages", toggle(at, at + 71, 3, 0),
              200 * 8 * 11 + 8 * 50 * (0 + 1 + 2 + 3));
        CHECK("before it", toggle(at, at, 0, 0x90), 200 * 8 * 11 + 8 * 200 * 1);
    }
    PUT(0x200, f_jump_only);
    PUT(0x240, f_value);
    PUT(0x280, f_value);
    code[0x281] = 0x44;
    CHECK("a jump alone", toggle(at, at + 1, 64, 0x3b), 8 * (127 * 0x11 + 73 * 0x44));
    CHECK("and its target", toggle(at, code + 0x241, 3, 0), 8 * 50 * (0 + 1 + 2 + 3));
    PUT(0x200, f_jump_ahead); /* SETB and SETAE */
    CHECK("what reads the flags", toggle(at, at + 13, 1, 0x92), 100 * 4 + 100 * 4);
    CHECK("what reads others", toggle(at, at + 13, 6, 0x90), 50 * (0 + 4 + 1 + 5));
}

/* RCX bytes of AL from RDI on, upwards; then downwards. */
CODE64(f_fill, "1: mov %al, (%rdi)\n inc %rdi\n dec %ecx\n jnz 1b" STOP);
CODE64(f_fill_down, "1: mov %rax, -8(%rdi,%rcx)\n sub $3, %ecx\n ja 1b" STOP);

static void fill(const u8 *by, u8 *from, u64 bytes, u8 value)
{
    struct context c = context_kernel(by);
    c.rax = 0x0101010101010101 * value;
    c.rcx = bytes;
    c.rdi = ADDRESS(from);
    world_long(&c);
    CHECK_STOP("filled", &c);
}

/* Stores walk over data and functions between it, from the same page and from another. */
static void test_walk(void)
{
    static const u8 nops[] = {0xb8, 5, 0, 0, 0, 0xcd, 0x81};
    part("stores that walk over code");
    for (u64 round = 0; round < 12; round++) {
        u64 loop = round & 1 ? 0 : 4096, down = round & 2;
        PUT(loop, f_fill);
        PUT(loop + 32, f_fill_down);
        for (u64 at = 512; at < 3000; at += 320)
            memory_copy(code + at, nops, sizeof(nops));
        for (u64 i = 0; i < 20; i++)
            for (u64 at = 512; at < 3000; at += 320)
                CHECK("a function", run_at(at).rax, 5);
        memory_copy(code + 3100, nops, sizeof(nops));
        CHECK("behind them", run_at(3100).rax, 5);
        fill(code + loop + (down ? 32 : 0), code + 400, 2700, 0x90);
        for (u64 at = 400; at < 3100; at += 100)
            CHECK("nothing but NOPs", run_at(at).rax, 5);
        CHECK("the last one", code[3099], 0x90);
    }
}

/* A page that holds code, then data, then code, as often as it takes to call it both. */
static void test_both(void)
{
    u64 wrong = 0;
    part("a page of code and of data in turn");
    PUT(4096, f_fill);
    for (u64 round = 0; round < 40; round++) {
        u64 at = round * 80;
        fill(code + 4096, code, 4096, (u8)round);
        for (u64 i = 0; i < 4096; i++)
            wrong += code[i] != (u8)round;
        for (u64 i = 0; i < 300; i++)
            ((volatile u64 *)code)[i * 37 % 512] = i;
        PUT(at, f_value);
        code[at + 1] = (u8)(round + 1);
        code[at + 5] = 0xcd;
        code[at + 6] = 0x81;
        for (u64 i = 0; i < 10; i++)
            CHECK("code", run_at(at).rax, round + 1);
    }
    CHECK("data", wrong, 0);
}

/* Data beside running code must not confuse it, whatever the distance. */
CODE64(f_counter, "mov $1000, %ecx\n 1: incl (%rsi)\n dec %ecx\n jnz 1b" STOP);

static void test_neighbour(void)
{
    part("data in the same page");
    for (u64 distance = 16; distance < 2048; distance *= 2) {
        PUT(0, f_counter);
        *(volatile u32 *)(code + distance) = 0;
        struct context c = context_kernel(code);
        c.rsi = ADDRESS(code) + distance;
        world_long(&c);
        CHECK_STOP("loop", &c);
        CHECK("counter", *(volatile u32 *)(code + distance), 1000);
    }
}

/* Stores around a store to the code behind them: by the same register, by another. */
CODE64(f_among, "movl $1, 0x40(%rdi)\n movb $9, 1+1f-f_among(%rdi)\n movl $2, 0x48(%rdi)\n"
                "1: mov $1, %eax\n mov 0x40(%rdi), %ebx\n add 0x48(%rdi), %ebx" STOP);
CODE64(f_aside, "movl $1, 0x240(%rdi)\n mov 0x248(%rdi), %ecx\n movb $9, 1+1f-f_aside(%rsi)\n"
                "movl $2, 0x248(%rdi)\n 1: mov $1, %eax\n mov 0x240(%rdi), %ebx\n"
                "add 0x248(%rdi), %ebx" STOP);

static void among_run(const u8 *begin, const u8 *end)
{
    code_put(0, begin, end);
    struct context c = context_kernel(code);
    c.rdi = c.rsi = ADDRESS(code);
    world_long(&c);
    CHECK_STOP("block", &c);
    CHECK("new immediate", c.rax, 9);
    CHECK("stores around it", c.rbx, 3);
}

static void test_among(void)
{
    part("one store of several");
    for (unsigned i = 0; i < 20; i++) { /* interpreted at first, perhaps */
        among_run(f_among, f_among_end);
        among_run(f_aside, f_aside_end);
    }
}

CODE32(f_legacy, "movb $9, 2f-f_legacy+1(%edi)\n 2: mov $1, %eax\n nop" STOP);

static void test_legacy(void)
{
    part("without paging");
    PUT(0, f_legacy);
    struct context c = context_legacy(code);
    c.rdi = ADDRESS(code);
    world_legacy(&c);
    CHECK("next instruction", c.rax, 9);
}

void guest_main(void)
{
    test_same_address();
    test_jump_changed();
    test_flags_needed();
    test_across();
    test_alias();
    test_jump_remapped();
    test_many();
    test_back();
    test_walk();
    test_both();
    test_neighbour();
    test_among();
    test_legacy();
}
