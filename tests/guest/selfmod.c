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
    test_neighbour();
    test_legacy();
}
