/*
 * Calls, returns and indirect branches: returns that do not match their calls, code and page tables
 * that change between a call and its return, deep recursion, stack switches, single steps.
 *
 * Intel SDM vol. 1, 6.4 (near calls): a return goes where the stack says, whoever called.
 * Each piece runs many times, since engines translate only what runs often.
 */
#include "world.h"

#define ROUNDS 30

static u8 code[4 * 4096] __attribute__((aligned(4096)));
static u64 test_pd[512] __attribute__((aligned(4096)));
static u64 test_pt[512] __attribute__((aligned(4096)));
static u64 stack[400 * 1024] __attribute__((aligned(16)));
#define STACK_TOP (ADDRESS(stack) + sizeof stack - 64)

static void code_put(u64 at, const u8 *begin, const u8 *end)
{
    memory_copy(code + at, begin, (size_t)(end - begin));
}
#define PUT(at, name) code_put(at, name, name##_end)

/* Runs `piece` often, RDI and RSI as given; the last state. */
static struct context run_often(const void *piece, u64 rdi, u64 rsi)
{
    struct context c;

    for (u64 i = 0; i < ROUNDS; i++) {
        c = context_kernel(piece);
        c.rsp = STACK_TOP;
        c.rdi = rdi;
        c.rsi = rsi;
        world_long(&c);
        if (c.vector != STOP_VECTOR)
            break;
    }
    return c;
}

/* -- returns that go elsewhere -- */

CODE64(r_changed, "xor %eax, %eax\n call 1f\n add $1, %eax" STOP "2: add $16, %eax" STOP
                  "1: lea 2b(%rip), %rdx\n mov %rdx, (%rsp)\n add $256, %eax\n ret");
CODE64(r_retpoline, "xor %eax, %eax\n mov $50, %ecx\n lea 3f(%rip), %rdx\n"
                    "4: call 1f\n dec %ecx\n jnz 4b" STOP
                    "1: call 2f\n 5: pause\n jmp 5b\n 2: mov %rdx, (%rsp)\n ret\n"
                    "3: add $3, %eax\n ret");
CODE64(r_pushed, "lea 1f(%rip), %rdx\n xor %eax, %eax\n push %rdx\n ret\n 1: add $1, %eax" STOP);
CODE64(r_popped, "xor %eax, %eax\n call 1f\n 2: hlt\n 1: pop %rdx\n lea 2b(%rip), %rcx\n sub %rcx, "
                 "%rdx\n jnz 3f\n call 4f\n add $1, %eax" STOP "3: mov $99, %eax" STOP
                 "4: add $16, %eax\n ret");
/* Drops eight calls' return addresses at once, then returns to the first one's. */
CODE64(
    r_long_jump,
    "mov $20, %ecx\n xor %eax, %eax\n 1: call 2f\n add $1, %eax\n dec %ecx\n jnz 1b" STOP
    "2: mov %rsp, %rbx\n call 3f\n hlt\n 3: call 4f\n hlt\n 4: call 5f\n hlt\n 5: call 6f\n hlt\n"
    "6: call 7f\n hlt\n 7: call 8f\n hlt\n 8: call 9f\n hlt\n 9: mov %rbx, %rsp\n ret");
CODE64(r_other_stack,
       "mov $40, %ecx\n xor %eax, %eax\n mov %rsi, %rbx\n"
       "lea 3f(%rip), %rdx\n mov %rdx, -8(%rbx)\n sub $8, %rbx\n"
       "1: call 2f\n add $1, %eax\n dec %ecx\n jnz 1b" STOP "2: xchg %rsp, %rbx\n ret\n"
       "3: call 4f\n add $0x100, %eax\n jmp 3b\n"
       "4: xchg %rsp, %rbx\n ret");
CODE64(r_drop, "xor %eax, %eax\n push %rdx\n call 1f\n add $1, %eax" STOP "1: ret $8");

static void test_elsewhere(void)
{
    part("returns that go elsewhere");
    struct context c = run_often(r_changed, 0, 0);
    CHECK_STOP("return address changed", &c);
    CHECK("went there", c.rax, 0x110);
    c = run_often(r_retpoline, 0, 0);
    CHECK_STOP("return as a jump", &c);
    CHECK("50 times", c.rax, 150);
    c = run_often(r_pushed, 0, 0);
    CHECK_STOP("return without a call", &c);
    CHECK("went there", c.rax, 1);
    c = run_often(r_popped, 0, 0);
    CHECK_STOP("call without a return", &c);
    CHECK("went on", c.rax, 17);
    c = run_often(r_long_jump, 0, 0);
    CHECK_STOP("eight calls left at once", &c);
    CHECK("20 times", c.rax, 20);
    CHECK("stack", c.rsp, STACK_TOP);
    c = run_often(r_other_stack, 0, ADDRESS(stack) + 4096);
    CHECK_STOP("two stacks in turn", &c);
    CHECK("both went on", c.rax, 40 + 39 * 0x100);
    CHECK("stack", c.rsp, STACK_TOP);
    c = run_often(r_drop, 0, 0);
    CHECK_STOP("RET 8", &c);
    CHECK("returned", c.rax, 1);
    CHECK("stack", c.rsp, STACK_TOP);
}

/* -- depth -- */

CODE64(d_recursion, "mov %edi, %ecx\n xor %eax, %eax\n call 1f" STOP
                    "1: dec %ecx\n jz 2f\n call 1b\n add $1, %rax\n 2: ret");
CODE64(d_tree, "mov %edi, %ecx\n xor %eax, %eax\n call 1f" STOP
               "1: add $1, %rax\n dec %ecx\n jz 2f\n call 1b\n call 1b\n 2: inc %ecx\n ret");

static void test_depth(void)
{
    part("depth");
    for (u64 depth = 1; depth <= 100000; depth = depth * 3 + 1) {
        struct context c = context_kernel(d_recursion);
        c.rdi = depth;
        c.rsp = STACK_TOP;
        world_long(&c);
        CHECK_STOP("recursion", &c);
        CHECK("all returns", c.rax, depth - 1);
        CHECK("stack", c.rsp, STACK_TOP);
    }
    struct context c = context_kernel(d_recursion);
    c.rdi = 100000;
    c.rsp = STACK_TOP;
    world_long(&c);
    CHECK("100,000 returns", c.rax, 99999);
    c = context_kernel(d_tree);
    c.rdi = 12;
    c.rsp = STACK_TOP;
    world_long(&c);
    CHECK_STOP("tree", &c);
    CHECK("calls", c.rax, 4095);
}

/* -- indirect targets -- */

static u64 pointers[4] __attribute__((used));

CODE64(i_memory, "xor %eax, %eax\n lea 2f(%rip), %rdx\n mov %rdx, (%rdi)\n lea 3f(%rip), %rdx\n"
                 "mov %rdx, 8(%rdi)\n mov $30, %ecx\n"
                 "1: mov %ecx, %ebx\n and $1, %ebx\n call *(%rdi,%rbx,8)\n call *8(%rdi)\n"
                 "dec %ecx\n jnz 1b" STOP "2: add $1, %eax\n ret\n 3: add $0x100, %eax\n ret");
CODE64(i_registers, "xor %eax, %eax\n lea 2f(%rip), %r9\n lea 3f(%rip), %r10\n mov %r10, %r11\n"
                    "call *%r9\n call *%r10\n call *%r11\n mov %r9, 0x40(%rdi)\n call *0x40(%rdi)\n"
                    "lea 4f(%rip), %r11\n jmp *%r11\n hlt\n"
                    "2: add $1, %eax\n ret\n 3: add $0x100, %eax\n ret\n 4:" STOP);
/* The target is read before the push: at RSP, and where the push will lie. */
CODE64(i_stack, "xor %eax, %eax\n lea 2f(%rip), %rdx\n push %rdx\n call *(%rsp)\n pop %rdx\n"
                "mov %rdx, -8(%rsp)\n call *-8(%rsp)" STOP "2: add $1, %eax\n ret");
CODE64(i_flags, "mov $7, %ecx\n xor %eax, %eax\n lea 2f(%rip), %rdx\n"
                "1: cmp %rcx, %rcx\n stc\n call *%rdx\n jnc 3f\n dec %ecx\n jnz 1b" STOP
                "2: adc $0, %eax\n stc\n ret\n 3: mov $99, %eax" STOP);

static void test_indirect(void)
{
    part("indirect targets");
    struct context c = run_often(i_memory, ADDRESS(pointers), 0);
    CHECK_STOP("through memory", &c);
    CHECK("both", c.rax, 15 + 45 * 0x100);
    c = run_often(i_registers, ADDRESS(stack), 0);
    CHECK_STOP("through R9 to R11", &c);
    CHECK("all", c.rax, 0x202);
    c = run_often(i_stack, 0, 0);
    CHECK_STOP("through the stack", &c);
    CHECK("both", c.rax, 2);
    c = run_often(i_flags, 0, 0);
    CHECK_STOP("flags across calls and returns", &c);
    CHECK("carried", c.rax, 7);
}

CODE64(n_call, "call *(%rdi)" STOP);
CODE64(n_jump, "jmp *(%rdi)" STOP);
CODE64(n_return, "call 1f\n 1: mov %rdi, (%rsp)\n .globl n_return_ret\n n_return_ret: ret");
LABEL_OF(n_return_ret);

/* Often to a good address, then to none. */
static void test_no_address(void)
{
    part("targets that are no address");
    static const u8 *const pieces[] = {n_call, n_jump};
    for (u64 i = 0; i < 2; i++) {
        pointers[0] = ADDRESS(code);
        code[0] = 0xcd;
        code[1] = 0x81;
        struct context c = run_often(pieces[i], ADDRESS(pointers), 0);
        CHECK_STOP("a good one", &c);
        for (int round = 0; round < 3; round++) {
            pointers[0] = 1ul << 63;
            c = context_kernel(pieces[i]);
            c.rsp = STACK_TOP;
            c.rdi = ADDRESS(pointers);
            world_long(&c);
            CHECK_TRAP("none", &c, GP, 0, ADDRESS(pieces[i]));
            CHECK("stack", c.rsp, STACK_TOP);
        }
    }
    for (int round = 0; round < ROUNDS; round++) {
        struct context c = context_kernel(n_return);
        c.rsp = STACK_TOP;
        c.rdi = round % 3 == 2 ? 1ul << 63 : ADDRESS(code);
        world_long(&c);
        if (round % 3 == 2) {
            CHECK_TRAP("return to none", &c, GP, 0, ADDRESS(n_return_ret));
            CHECK("stack", c.rsp, STACK_TOP - 8);
        } else {
            CHECK_STOP("return to a good one", &c);
        }
    }
}

/* -- code that changes between call and return -- */

CODE64(m_caller,
       "mov $20, %ebp\n xor %eax, %eax\n 1: mov %rdi, %rbx\n call *%rsi\n"
       ".globl m_caller_landing\n m_caller_landing: add $1, %eax\n dec %ebp\n jnz 1b" STOP);
LABEL_OF(m_caller_landing);
/* RDX is the immediate of the landing's ADD, whose value becomes the round's. */
CODE64(m_callee, "mov %bpl, (%rdx)\n ret");
CODE64(m_call_itself, "movb $0x90, (%rdx)\n movb $0x90, 1(%rdx)\n ret");

static void test_modified(void)
{
    part("code changed between call and return");
    for (u64 i = 0; i < ROUNDS; i++) {
        PUT(0, m_caller);
        PUT(0x800, m_callee);
        struct context c = context_kernel(code);
        c.rsp = STACK_TOP;
        c.rsi = ADDRESS(code) + 0x800;
        c.rdx = ADDRESS(code) + (u64)(m_caller_landing - m_caller) + 2;
        world_long(&c);
        CHECK_STOP("the landing's immediate", &c);
        CHECK("20 + 19 + ... + 1", c.rax, 210);
        /* The call itself is overwritten by NOPs while it waits for its return. */
        PUT(0x800, m_call_itself);
        PUT(0, m_caller);
        c = context_kernel(code);
        c.rsp = STACK_TOP;
        c.rsi = ADDRESS(code) + 0x800;
        c.rdx = ADDRESS(code) + (u64)(m_caller_landing - m_caller) - 2;
        world_long(&c);
        CHECK_STOP("the call", &c);
        CHECK("returned once, ran 20 times", c.rax, 20);
    }
}

/* -- pages that are remapped -- */

static void map(u64 page, u64 frame)
{
    boot_pdpt[2] = ADDRESS(test_pd) | 7;
    test_pd[0] = ADDRESS(test_pt) | 7;
    test_pt[page] = frame | 7;
}

/* In page 0 at 0: calls, jumps and falls into the next page, whose code says which frame it is. */
CODE64(p_caller,
       "call . + 0x1100\n mov %eax, %ebx\n mov $0xffc, %ecx\n jmp . + 0x1000 - 12 + 0x200");
static const u8 first[] = {0xb8, 1, 0, 0, 0, 0xc3}, second[] = {0xb8, 2, 0, 0, 0, 0xc3};
static const u8 first_end[] = {0xb9, 1, 0, 0, 0, 0xcd, 0x81},
                second_end[] = {0xb9, 2, 0, 0, 0, 0xcd, 0x81};

static void remap(u64 page, u64 frame, bool by_cr3)
{
    map(page, frame);
    if (by_cr3)
        cr3_set(cr3_get());
    else
        invlpg(TEST_REGION + page * 4096);
}

/* Page 0 calls into the next, which is page 1 or 2. */
static void code_pages_fill(void)
{
    for (u64 at = 0; at < 0x400; at++)
        code[at] = code[4096 + at] = code[8192 + at] = 0x90;
    PUT(0, p_caller);
    memory_copy(code + 4096 + 0x100, first, sizeof first);
    memory_copy(code + 8192 + 0x100, second, sizeof second);
    memory_copy(code + 4096 + 0x240, first_end, sizeof first_end);
    memory_copy(code + 8192 + 0x240, second_end, sizeof second_end);
}

static void test_remapped(void)
{
    part("calls to a page that is remapped");
    code_pages_fill();
    remap(0, ADDRESS(code), true);
    for (u64 i = 0; i < 200; i++) {
        u64 which = i < 50 ? 0 : i < 100 ? 1 : i & 1;

        remap(1, ADDRESS(code) + 4096 * (1 + which), i & 2);
        struct context c = context_kernel((u8 *)TEST_REGION);
        world_long(&c);
        CHECK_STOP("end", &c);
        CHECK("called the new frame", c.rbx, which + 1);
        CHECK("jumped to the new frame", c.rcx, which + 1);
    }
}

/* Falls into an instruction of two pages, the second of which is exchanged. */
static void test_across(void)
{
    static const u8 head[] = {0xff, 0xc3, 0xb8, 7}; /* INC EBX, MOV EAX */
    static const u8 ends[2][5] = {{1, 0, 0, 0xcd, 0x81}, {2, 0, 0, 0xcd, 0x81}};

    part("an instruction across two pages");
    memory_copy(code + 4096 - sizeof head, head, sizeof head);
    memory_copy(code + 4096, ends[0], sizeof ends[0]);
    memory_copy(code + 8192, ends[1], sizeof ends[1]);
    remap(6, ADDRESS(code), true);
    for (u64 i = 0; i < 200; i++) {
        u64 which = i < 50 ? 0 : i < 100 ? 1 : i & 1;

        remap(7, ADDRESS(code) + 4096 * (1 + which), i & 2);
        struct context c = context_kernel((u8 *)TEST_REGION + 7 * 4096 - sizeof head);
        world_long(&c);
        CHECK_STOP("end", &c);
        CHECK("of the new frame", c.rax, 0x107 + which * 0x100);
    }
    /* Both pages are one. */
    remap(7, ADDRESS(code), true);
    for (u64 i = 0; i < 200; i++) {
        code[4095] = (u8)(i < 50 ? 7 : i);
        memory_copy(code, ends[0], sizeof ends[0]);
        code[0] = (u8)(i < 100 ? 1 : i);
        struct context c = context_kernel((u8 *)TEST_REGION + 7 * 4096 - sizeof head);
        world_long(&c);
        CHECK_STOP("end", &c);
        CHECK("as last written", c.rax, code[4095] | (u64)code[0] << 8);
    }
}

/* -- a library's page in two processes -- */

static u64 other_pml4[512] __attribute__((aligned(4096)));
static u64 other_pdpt[512] __attribute__((aligned(4096)));
static u64 other_pd[512] __attribute__((aligned(4096)));
static u64 other_pt[512] __attribute__((aligned(4096)));

struct spaces {
    u64 *entry[2]; /* of the page behind the library's */
    u64 root[2], which[2];
    u64 keep; /* bit 63 of CR3 where there are PCIDs */
};

#define LIBRARY 12u

static struct spaces spaces_make(u64 global)
{
    memory_copy(other_pml4, boot_pml4, sizeof(other_pml4));
    memory_copy(other_pdpt, boot_pdpt, sizeof(other_pdpt));
    other_pml4[0] = ADDRESS(other_pdpt) | 7;
    other_pdpt[2] = ADDRESS(other_pd) | 7;
    other_pd[0] = ADDRESS(other_pt) | 7;
    other_pt[LIBRARY] = ADDRESS(code) | 7 | global;
    other_pt[LIBRARY + 1] = (ADDRESS(code) + 8192) | 7;
    map(LIBRARY, ADDRESS(code) | global);
    map(LIBRARY + 1, ADDRESS(code) + 4096);
    return (struct spaces){.entry = {&test_pt[LIBRARY + 1], &other_pt[LIBRARY + 1]},
                           .root = {cr3_get() & ~0xffful, ADDRESS(other_pml4)},
                           .which = {0, 1}};
}

/* Calls, jumps and falls from the page that both have into the one that each has for itself. */
static void library_run(u64 which)
{
    struct context c = context_kernel((u8 *)TEST_REGION + LIBRARY * 4096);

    c.rsp = STACK_TOP;
    world_long(&c);
    CHECK_STOP("end", &c);
    CHECK("called its own", c.rbx, which + 1);
    CHECK("jumped to its own", c.rcx, which + 1);
    c = context_kernel((u8 *)TEST_REGION + (LIBRARY + 1) * 4096 - 4);
    world_long(&c);
    CHECK_STOP("end", &c);
    CHECK("fell into its own", c.rax, 0x107 + which * 0x100);
}

/* In either space by turns, whose page behind the library's is exchanged now and then. */
static void spaces_run(struct spaces *s)
{
    u64 random = 1, me = 0;

    for (u64 i = 0; i < 600; i++) {
        random = random * 6364136223846793005ul + 1442695040888963407ul;
        if (i > 100 && random >> 62) {
            me ^= 1;
            cr3_set(s->root[me] | s->keep);
        }
        if (i > 200 && (random >> 40) % 8 == 0) {
            s->which[me] ^= 1;
            *s->entry[me] = (ADDRESS(code) + 4096 * (1 + s->which[me])) | 7;
            invlpg(TEST_REGION + (LIBRARY + 1) * 4096);
        }
        library_run(s->which[me]);
    }
    cr3_set(s->root[0]);
}

static void test_library(void)
{
    static const u8 head[] = {0xff, 0xc3, 0xb8, 7}; /* INC EBX, MOV EAX */
    static const u8 ends[2][5] = {{1, 0, 0, 0xcd, 0x81}, {2, 0, 0, 0xcd, 0x81}};
    u64 cr4 = cr4_get(), root = cr3_get();

    code_pages_fill();
    memory_copy(code + 4096 - sizeof head, head, sizeof head);
    memory_copy(code + 4096, ends[0], sizeof ends[0]);
    memory_copy(code + 8192, ends[1], sizeof ends[1]);
    for (u64 i = 0; i < 4; i++) {
        part(i & 2 ? "a library in two processes, with PCIDs" : "a library in two processes");
        if (i & 2 && !has(FEATURE_PCID)) {
            skip("PCIDs", "there are none");
            break;
        }
        struct spaces s = spaces_make(i & 1 ? 1ul << 8 : 0);
        cr4_set(cr4 | (i & 1 ? CR4_PGE : 0) | (i & 2 ? CR4_PCIDE : 0));
        if (i & 2) {
            s.keep = 1ul << 63;
            s.root[0] |= 3;
            s.root[1] |= 4;
        }
        cr3_set(s.root[1]);
        cr3_set(s.root[0]);
        spaces_run(&s);
        cr3_set(root);
        cr4_set(cr4 & ~CR4_PGE); /* drops global translations */
        cr4_set(cr4);
    }
}

/* RSI's page table entry becomes RDX while the call waits; RDI is the page called from. */
CODE64(p_exchange, "mov %rdx, (%rsi)\n invlpg (%rdi)\n ret");
CODE64(p_exchange_all, "mov %rdx, (%rsi)\n mov %cr3, %rax\n mov %rax, %cr3\n ret");
CODE64(p_from, "call *%rbx");

static void test_caller_remapped(void)
{
    part("callers whose page is remapped");
    PUT(4096, p_from);
    PUT(8192, p_from);
    memory_copy(code + 4096 + 2, first_end, sizeof first_end);
    memory_copy(code + 8192 + 2, second_end, sizeof second_end);
    for (u64 i = 0; i < 2 * ROUNDS; i++) {
        remap(3, ADDRESS(code) + 4096, true);
        struct context c = context_kernel((u8 *)TEST_REGION + 3 * 4096);
        c.rsp = STACK_TOP;
        c.rbx = i & 1 ? ADDRESS(p_exchange) : ADDRESS(p_exchange_all);
        c.rdi = TEST_REGION + 3 * 4096;
        c.rsi = ADDRESS(&test_pt[3]);
        c.rdx = (ADDRESS(code) + 8192) | 7;
        if (i % 5 == 4)
            c.rdx = (ADDRESS(code) + 4096) | 7;
        world_long(&c);
        CHECK_STOP("end", &c);
        CHECK("returned to the new frame", c.rcx, i % 5 == 4 ? 1 : 2);
    }
}

/* -- runs of pushes and pops -- */

/* Five one-byte pushes but for %r10's, which has two; then all of them back. */
CODE64(k_push, "push %rax\n push %rbx\n push %rcx\n mov %ebx, %edx\n push %rdx\n push %r10\n"
               "pop %rsi\n pop %r11\n mov %rsi, %rbp\n pop %r9\n pop %rdi\n pop %r8" STOP);
static const u8 k_lengths[] = {1, 1, 1, 3, 2}; /* with the move before */
CODE64(k_call,
       "call 1f" STOP "1: push %rbx\n push %r9\n push $5\n pop %rax\n pop %r9\n pop %rbx\n ret");

static struct context run_at(const void *piece, u64 rsp)
{
    struct context c = context_kernel(piece);

    c.rsp = rsp;
    c.rax = 1;
    c.rbx = 2;
    c.rcx = 3;
    c.r9 = 4;
    c.r10 = 5;
    world_long(&c);
    return c;
}

/* At each place around a page's beginning: with a page below, and without. */
static void test_runs(void)
{
    u64 page = TEST_REGION + 9 * 4096;

    part("runs of pushes and pops");
    for (u64 i = 0; i < 4 * ROUNDS; i++) {
        u64 words = i % 7, at = ADDRESS(k_push);
        bool below = i < ROUNDS || i % 3;

        remap(9, ADDRESS(stack) + 4096, i & 1);
        remap(8, below ? ADDRESS(stack) : 0, i & 2);
        if (!below) {
            test_pt[8] = 0;
            invlpg(page - 4096);
        }
        struct context c = run_at(k_push, page + 8 * words);
        if (below || words >= 5) {
            CHECK_STOP("run", &c);
            CHECK("first in, last out", c.r8, 1);
            CHECK("second", c.rdi, 2);
            CHECK("third", c.r9, 3);
            CHECK("moved between", c.r11, 2);
            CHECK("last in, first out", c.rsi, 5);
            CHECK("moved", c.rbp, 5);
            CHECK("stack", c.rsp, page + 8 * words);
        } else {
            for (u64 n = 0; n < words; n++)
                at += k_lengths[n];
            at += words == 3 ? 2 : 0; /* over the move */
            CHECK_TRAP("page below", &c, PF, 2, at);
            CHECK("address", c.cr2, page - 8);
            CHECK("stack", c.rsp, page);
        }
        remap(8, ADDRESS(stack), true);
        c = run_at(k_call, page + 8 * words);
        CHECK_STOP("with a return", &c);
        CHECK("value", c.rax, 5);
        CHECK("kept", c.r9, 4);
        CHECK("kept", c.rbx, 2);
        CHECK("stack", c.rsp, page + 8 * words);
    }
}

/* -- traps between -- */

CODE64(t_between,
       "mov $40, %ecx\n xor %eax, %eax\n 1: call 2f\n add $1, %eax\n dec %ecx\n jnz 1b" STOP
       "2: call 3f\n add $0x100, %eax\n ret\n 3: .byte 0xcd, 0x81\n ret");

static void test_traps(void)
{
    u64 top = ADDRESS(stack) + sizeof stack / 2;
    struct context c = context_kernel(t_between);

    part("traps between call and return");
    c.rsp = top;
    for (int i = 0; i < 40; i++) {
        world_long(&c);
        CHECK("in the callee", c.rsp, top - 16);
        (void)run_often(i & 1 ? r_changed : d_tree, 3, 0); /* other calls and returns */
    }
    world_long(&c);
    CHECK_STOP("end", &c);
    CHECK("all returned", c.rax, 40 * 0x101);
    CHECK("stack", c.rsp, top);
}

CODE64(s_stepped,
       "mov $12, %ecx\n xor %eax, %eax\n 1: call 2f\n add $1, %eax\n dec %ecx\n jnz 1b" STOP
       "2: call 3f\n ret\n 3: add $0x100, %eax\n ret");

/* One instruction at a time, at first in every round, then in the third of three. */
static void test_steps(void)
{
    part("single steps over calls");
    struct context c = context_kernel(s_stepped);
    u64 steps = 0;
    c.rsp = STACK_TOP;
    c.rflags |= 0x100;
    do {
        world_long(&c);
        steps++;
    } while (c.vector == DB && steps < 1000);
    CHECK("instructions", steps, 2 + 12 * 8 + 1);
    CHECK("result", c.rax, 12 * 0x101);
    for (int i = 0; i < ROUNDS; i++) {
        c = context_kernel(s_stepped);
        c.rsp = STACK_TOP;
        c.rflags |= i % 3 == 2 ? 0x100 : 0;
        for (steps = 0; steps < 1000; steps++) {
            world_long(&c);
            if (c.vector != DB)
                break;
            c.rflags ^= steps == 20 ? 0x100 : 0; /* the rest at full speed */
        }
        CHECK("result", c.rax, 12 * 0x101);
        CHECK("stack", c.rsp, STACK_TOP);
    }
}

/* -- counting branches -- */

CODE64(l_loop, "xor %eax, %eax\n mov $100, %ecx\n stc\n 1: adc $0, %eax\n stc\n loop 1b\n adc $0, "
               "%eax" STOP);
CODE64(l_loop_32,
       "mov $0x300000002, %rcx\n xor %eax, %eax\n 1: add $1, %eax\n addr32 loop 1b" STOP);
CODE64(l_zero,
       "xor %eax, %eax\n mov $5, %ecx\n 1: jrcxz 2f\n add $1, %eax\n dec %rcx\n jmp 1b\n 2: "
       "mov $0x100000000, %rcx\n jrcxz 3f\n add $0x10, %eax\n addr32 jrcxz 3f\n hlt\n 3:" STOP);

static void test_counting(void)
{
    part("LOOP and JRCXZ");
    struct context c = run_often(l_loop, 0, 0);
    CHECK_STOP("LOOP", &c);
    CHECK("flags stay", c.rax, 101);
    CHECK("RCX", c.rcx, 0);
    c = run_often(l_loop_32, 0, 0);
    CHECK_STOP("LOOP by ECX", &c);
    CHECK("twice", c.rax, 2);
    CHECK("RCX", c.rcx, 0);
    c = run_often(l_zero, 0, 0);
    CHECK_STOP("JRCXZ, JECXZ", &c);
    CHECK("branches", c.rax, 0x15);
}

/* A loop whose counter goes by the one step that has no negative, and back again. */
CODE64(l_add, "mov $300, %edx\n shl $31, %rdx\n xor %eax, %eax\n"
              "1: add (%rsi), %rax\n add $4, %rsi\n add $-0x80000000, %rdx\n jnz 1b" STOP);
CODE64(l_sub, "mov $-300, %rdx\n shl $31, %rdx\n xor %eax, %eax\n"
              "1: add (%rsi), %rax\n add $4, %rsi\n sub $-0x80000000, %rdx\n jnz 1b" STOP);

static void test_large_steps(void)
{
    part("loops that count by 2^31");
    memory_set(code, 0, 4096);
    struct context c = run_often(l_add, 0, ADDRESS(code));
    CHECK_STOP("ADD", &c);
    CHECK("ADD, the counter", c.rdx, 0);
    CHECK("ADD, times", (c.rsi - ADDRESS(code)) / 4, 300);
    c = run_often(l_sub, 0, ADDRESS(code));
    CHECK_STOP("SUB", &c);
    CHECK("SUB, the counter", c.rdx, 0);
    CHECK("SUB, times", (c.rsi - ADDRESS(code)) / 4, 300);
}

/* As many instructions as a block may have, of those with the most ways out of it. */
CODE64(o_call, ".rept 47\n clac\n .endr\n call *(%rdi)\n mov $7, %eax" STOP);
CODE64(o_jump, ".rept 47\n clac\n .endr\n jmp *(%rdi)" STOP);
CODE64(o_none, ".rept 48\n clac\n .endr\n mov $7, %eax" STOP);
CODE64(o_return, "ret");
CODE64(o_stop, "mov $7, %eax" STOP);

static void test_ways_out(void)
{
    const u64 target = ADDRESS(code) + 4096, stop = target + 64;

    part("many ways out of a block");
    if (!has(FEATURE_SMAP)) {
        skip("CLAC", "there is no SMAP");
        return;
    }
    PUT(0, o_call);
    PUT(1024, o_jump);
    PUT(2048, o_none);
    PUT(4096, o_return);
    PUT(4096 + 64, o_stop);
    struct context c = run_often(code, ADDRESS(&target), 0);
    CHECK_STOP("a call behind them", &c);
    CHECK("came back", c.rax, 7);
    c = run_often(code + 1024, ADDRESS(&stop), 0);
    CHECK_STOP("a jump", &c);
    CHECK("arrived", c.rax, 7);
    c = run_often(code + 2048, 0, 0);
    CHECK_STOP("the next block", &c);
    CHECK("arrived", c.rax, 7);
}

void guest_main(void)
{
    test_elsewhere();
    test_depth();
    test_indirect();
    tcg_wrong_begin("it faults at the target, after the branch");
    test_no_address();
    tcg_wrong_end();
    test_modified();
    test_remapped();
    test_across();
    test_library();
    test_caller_remapped();
    test_runs();
    test_traps();
    test_steps();
    test_counting();
    test_large_steps();
    test_ways_out();
}
