/*
 * The memory model: litmus tests of two to four processors. What x86-TSO forbids is never seen,
 * whatever kind of instruction stores, loads or orders; what it allows may be.
 *
 * Intel SDM vol. 3, 8.2; Sewell and others, "x86-TSO", CACM 53(7), and the tests' usual names from
 * there. Option rounds=N: rounds of each test (100,000).
 *
 * All sides go through the same rounds, each round on its own cell, and meet before and after each
 * block of cells.
 */
#include "cpus.h"

#define CELLS 8192u
#define STEP  16u /* cells after which the sides look for each other */
struct cell {
    volatile u32 x __attribute__((aligned(64)));
    volatile u32 y __attribute__((aligned(64)));
    volatile u32 r[6] __attribute__((aligned(64))); /* what the sides read */
};
static struct cell cells[CELLS];

typedef void (*side_fn)(struct cell *c);
struct litmus {
    const char *name;
    u32 sides;
    side_fn side[4];
    bool (*seen)(const struct cell *c); /* the outcome that the test is about */
    bool allowed;
};
static const struct litmus *running;
static u64 blocks, seen;

static void cells_collect(void)
{
    for (u32 i = 0; i < CELLS; i++) {
        seen += running->seen(&cells[i]);
        *(volatile u64 *)&cells[i].x = *(volatile u64 *)&cells[i].y = 0;
        for (u32 k = 0; k < 6; k++)
            cells[i].r[k] = 0;
    }
}

static struct {
    volatile u32 at __attribute__((aligned(64)));
} place[4];

/* Waits a little for those who are behind, so that the sides run through the same cells. */
static void keep_together(u32 me, u32 at)
{
    place[me].at = at;
    for (u32 other = 0; other < running->sides; other++)
        for (u32 i = 0; i < 200 && place[other].at + STEP / 2 < at; i++)
            ;
}

static void litmus_job(void)
{
    u32 me = cpu_index();
    side_fn side = running->side[me];
    for (u64 block = 0; block < blocks; block++) {
        place[me].at = 0;
        cpus_meet(running->sides);
        for (u32 i = 0; i < CELLS; i++) {
            if (i % STEP == 0)
                keep_together(me, i);
            side(&cells[i]);
        }
        cpus_meet(running->sides);
        if (me == 0)
            cells_collect();
    }
}

/* A word across two lines and two pages, one for each side: locked operations on it order, too. */
u8 across[2][2 * 4096] __attribute__((aligned(4096)));

#define SIDE(name, text, ...)                                                                      \
    static void name(struct cell *c)                                                               \
    {                                                                                              \
        u32 a = 0, b = 0;                                                                          \
        __asm__ volatile(text                                                                      \
                         : [x] "+m"(c->x), [y] "+m"(c->y), [a] "+r"(a), [b] "+r"(b)                \
                         : [px] "r"(&c->x), [py] "r"(&c->y)                                        \
                         : "memory", "cc", "rax", "rcx", "rdi", "rsi", "rdx", "rbx");              \
        (void)(a + b);                                                                             \
        __VA_ARGS__;                                                                               \
    }

/* Stores buffered past loads, and what orders them. */
#define SB(name, order0, order1)                                                                   \
    SIDE(sb0_##name, "movl $1, %[x]\n" order0 "movl %[y], %[a]", c->r[0] = a)                      \
    SIDE(sb1_##name, "movl $1, %[y]\n" order1 "movl %[x], %[a]", c->r[1] = a)
#define SB_BOTH(name, order) SB(name, order, order)
SB_BOTH(plain, "")
SB_BOTH(mfence, "mfence\n")
SB_BOTH(stack, "lock orl $0, -8(%%rsp)\n")
SB_BOTH(cpuid, "xor %%eax, %%eax\n cpuid\n")
SB_BOTH(xadd, "xor %%eax, %%eax\n lock xaddl %%eax, -8(%%rsp)\n")
SB_BOTH(cmpxchg, "xor %%eax, %%eax\n lock cmpxchgl %%eax, -8(%%rsp)\n")
SB_BOTH(cmpxchg8b, "lock cmpxchg8b -8(%%rsp)\n")
SB_BOTH(bts, "lock btsl $0, -8(%%rsp)\n")
/* What serializes orders, too (SDM vol. 3, 8.3). */
SB_BOTH(cr3, "mov %%cr3, %%rax\n mov %%rax, %%cr3\n")
SB_BOTH(invlpg, "invlpg across\n")
SB_BOTH(wrmsr, "mov $0xc0000102, %%ecx\n xor %%eax, %%eax\n xor %%edx, %%edx\n wrmsr\n")
SB_BOTH(lgdt, "lgdt boot_gdtr\n")
SB_BOTH(iret, "mov %%rsp, %%rcx\n mov %%ss, %%eax\n push %%rax\n push %%rcx\n pushfq\n"
              "mov %%cs, %%eax\n push %%rax\n lea 1f(%%rip), %%rax\n push %%rax\n iretq\n 1:\n")
SB(lines, "lock addl $1, across+62\n", "lock addl $1, across+8192+62\n")
SB(pages, "lock addl $1, across+4094\n", "lock addl $1, across+8192+4094\n")
SIDE(sb0_xchg, "movl $1, %%eax\n xchgl %%eax, %[x]\n movl %[y], %[a]", c->r[0] = a)
SIDE(sb1_xchg, "movl $1, %%eax\n xchgl %%eax, %[y]\n movl %[x], %[a]", c->r[1] = a)
SIDE(sb0_own, "movl $1, %[x]\n movl %[x], %[b]\n movl %[y], %[a]", c->r[0] = a, c->r[2] = b)
SIDE(sb1_own, "movl $1, %[y]\n movl %[y], %[b]\n movl %[x], %[a]", c->r[1] = a, c->r[3] = b)

static bool none_read(const struct cell *c)
{
    return c->r[0] == 0 && c->r[1] == 0;
}

/* Own stores are seen early, others' not. */
static bool own_read_early(const struct cell *c)
{
    return none_read(c) && c->r[2] == 1 && c->r[3] == 1;
}

static bool own_not_read(const struct cell *c)
{
    return c->r[2] == 0 || c->r[3] == 0;
}

/* Message passing, by several kinds of stores and loads. */
SIDE(mp_write, "movl $1, %[x]\n movl $1, %[y]")
SIDE(mp_write_string, "movl $1, %%eax\n mov %[px], %%rdi\n stosl\n mov %[py], %%rdi\n stosl")
SIDE(mp_write_rmw, "addl $1, %[x]\n incl %[y]")
SIDE(mp_write_locked, "lock incl %[x]\n lock incl %[y]")
SIDE(mp_write_push, "mov %%rsp, %%rcx\n lea 8(%[px]), %%rsp\n mov $1, %%eax\n push %%rax\n"
                    "lea 8(%[py]), %%rsp\n push %%rax\n mov %%rcx, %%rsp")
SIDE(mp_read, "movl %[y], %[a]\n movl %[x], %[b]", c->r[0] = a, c->r[1] = b)
SIDE(mp_read_string,
     "mov %[py], %%rsi\n lodsl\n mov %%eax, %%ecx\n mov %[px], %%rsi\n lodsl\n mov %%ecx, %[a]\n"
     "mov %%eax, %[b]",
     c->r[0] = a, c->r[1] = b)
SIDE(mp_read_add, "addl %[y], %[a]\n addl %[x], %[b]", c->r[0] = a, c->r[1] = b)
SIDE(mp_read_pop,
     "mov %%rsp, %%rcx\n mov %[py], %%rsp\n pop %%rax\n mov %[px], %%rsp\n"
     "pop %%rdx\n mov %%rcx, %%rsp\n mov %%eax, %[a]\n mov %%edx, %[b]",
     c->r[0] = a, c->r[1] = b)
SIDE(mp_read_locked, "lock xaddl %[a], %[y]\n movl %[x], %[b]", c->r[0] = a, c->r[1] = b)
SIDE(mp_read_compare,
     "cmpl $1, %[y]\n sete %%al\n movzbl %%al, %[a]\n cmpl $1, %[x]\n sete %%al\n"
     "movzbl %%al, %[b]",
     c->r[0] = a, c->r[1] = b)

static bool message_lost(const struct cell *c)
{
    return c->r[0] == 1 && c->r[1] == 0;
}

SIDE(lb0, "movl %[x], %[a]\n movl $1, %[y]", c->r[0] = a)
SIDE(lb1, "movl %[y], %[a]\n movl $1, %[x]", c->r[1] = a)

static bool both_read(const struct cell *c)
{
    return c->r[0] == 1 && c->r[1] == 1;
}

SIDE(s0, "movl $2, %[x]\n movl $1, %[y]")
SIDE(s1, "movl %[y], %[a]\n movl $1, %[x]", c->r[0] = a)

static bool s_seen(const struct cell *c)
{
    return c->r[0] == 1 && c->x == 2;
}

SIDE(r1, "movl $2, %[y]\n movl %[x], %[a]", c->r[0] = a)
SIDE(r1_mfence, "movl $2, %[y]\n mfence\n movl %[x], %[a]", c->r[0] = a)
SIDE(r1_xchg, "movl $2, %%eax\n xchgl %%eax, %[y]\n movl %[x], %[a]", c->r[0] = a)

static bool r_seen(const struct cell *c)
{
    return c->y == 2 && c->r[0] == 0;
}

SIDE(ww0, "movl $1, %[x]\n movl $2, %[y]")
SIDE(ww1, "movl $1, %[y]\n movl $2, %[x]")

static bool ww_seen(const struct cell *c)
{
    return c->x == 1 && c->y == 1;
}

/* One place, read twice: never backwards. */
SIDE(one_write, "movl $1, %[x]")
SIDE(other_write, "movl $1, %[y]")
SIDE(one_read_twice, "movl %[x], %[a]\n movl %[x], %[b]", c->r[0] = a, c->r[1] = b)

SIDE(wrc1, "movl %[x], %[a]\n movl $1, %[y]", c->r[0] = a)
SIDE(wrc2, "movl %[y], %[a]\n movl %[x], %[b]", c->r[1] = a, c->r[2] = b)

static bool wrc_seen(const struct cell *c)
{
    return c->r[0] == 1 && c->r[1] == 1 && c->r[2] == 0;
}

SIDE(iriw2, "movl %[x], %[a]\n movl %[y], %[b]", c->r[0] = a, c->r[1] = b)
SIDE(iriw3, "movl %[y], %[a]\n movl %[x], %[b]", c->r[2] = a, c->r[3] = b)
SIDE(one_exchange, "movl $1, %%eax\n xchgl %%eax, %[x]")
SIDE(other_exchange, "movl $1, %%eax\n xchgl %%eax, %[y]")

static bool iriw_seen(const struct cell *c)
{
    return c->r[0] == 1 && c->r[1] == 0 && c->r[2] == 1 && c->r[3] == 0;
}

/* Eight bytes at once are never seen by halves. `x` has room behind it. */
SIDE(whole_write, "mov $0x100000001, %%rax\n movq %%rax, %[x]")
SIDE(whole_read, "movq %[x], %%rax\n mov %%eax, %[a]\n shr $32, %%rax\n mov %%eax, %[b]",
     c->r[0] = a, c->r[1] = b)

static bool torn(const struct cell *c)
{
    return c->r[0] != c->r[1];
}

#define SB_TEST(text, name)                                                                        \
    {                                                                                              \
        "SB, " text, 2, {sb0_##name, sb1_##name}, none_read, false                                 \
    }
#define MP_TEST(text, write, read)                                                                 \
    {                                                                                              \
        "MP, " text, 2, {write, read}, message_lost, false                                         \
    }
static const struct litmus tests[] = {
    {"SB", 2, {sb0_plain, sb1_plain}, none_read, true},
    {"SB, own stores read", 2, {sb0_own, sb1_own}, own_read_early, true},
    {"SB, own stores not read", 2, {sb0_own, sb1_own}, own_not_read, false},
    SB_TEST("MFENCE", mfence),
    SB_TEST("XCHG", xchg),
    SB_TEST("LOCK OR of the stack", stack),
    SB_TEST("LOCK XADD", xadd),
    SB_TEST("LOCK CMPXCHG", cmpxchg),
    SB_TEST("LOCK CMPXCHG8B", cmpxchg8b),
    SB_TEST("LOCK BTS", bts),
    MP_TEST("MOV", mp_write, mp_read),
    MP_TEST("strings", mp_write_string, mp_read_string),
    MP_TEST("read-modify-write and add", mp_write_rmw, mp_read_add),
    MP_TEST("PUSH and POP", mp_write_push, mp_read_pop),
    MP_TEST("locked and compare", mp_write_locked, mp_read_compare),
    MP_TEST("string and POP", mp_write_string, mp_read_pop),
    {"LB", 2, {lb0, lb1}, both_read, false},
    {"S", 2, {s0, s1}, s_seen, false},
    {"R", 2, {mp_write, r1}, r_seen, true},
    {"R, MFENCE", 2, {mp_write, r1_mfence}, r_seen, false},
    {"R, XCHG", 2, {mp_write, r1_xchg}, r_seen, false},
    {"2+2W", 2, {ww0, ww1}, ww_seen, false},
    {"CoRR", 2, {one_write, one_read_twice}, message_lost, false},
    {"eight bytes", 2, {whole_write, whole_read}, torn, false},
    {"WRC", 3, {one_write, wrc1, wrc2}, wrc_seen, false},
    {"IRIW", 4, {one_write, other_write, iriw2, iriw3}, iriw_seen, false},
    {"IRIW, XCHG", 4, {one_exchange, other_exchange, iriw2, iriw3}, iriw_seen, false},
};
/* Orders that are slow: a tenth of the rounds. */
static const struct litmus slow_tests[] = {
    SB_TEST("CPUID", cpuid),
    SB_TEST("MOV to CR3", cr3),
    SB_TEST("INVLPG", invlpg),
    SB_TEST("WRMSR", wrmsr),
    SB_TEST("LGDT", lgdt),
    SB_TEST("IRET", iret),
    SB_TEST("LOCK ADD across lines", lines),
    SB_TEST("LOCK ADD across pages", pages),
    MP_TEST("read by LOCK XADD", mp_write, mp_read_locked),
};

static void litmus_run(const struct litmus *test, u64 rounds)
{
    running = test;
    blocks = (rounds + CELLS - 1) / CELLS;
    seen = 0;
    part(test->name);
    cells_collect();
    seen = 0;
    for (u32 i = 1; i < test->sides; i++)
        cpu_run(i, litmus_job);
    litmus_job();
    for (u32 i = 1; i < test->sides; i++)
        cpu_wait(i);
    if (!test->allowed)
        CHECK("what TSO forbids", seen, 0);
    print(test->name);
    print(": seen ");
    print_dec(seen);
    print(" times in ");
    print_dec(blocks * CELLS);
    print(test->allowed ? " (allowed)\n" : "\n");
}

void guest_main(void)
{
    u32 count = cpus_start();
    u64 rounds = option("rounds", 100000);
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
        if (tests[i].sides <= count)
            litmus_run(&tests[i], rounds);
    for (size_t i = 0; i < sizeof(slow_tests) / sizeof(slow_tests[0]) && count > 1; i++)
        litmus_run(&slow_tests[i], rounds / 10);
    if (count < 4)
        skip("IRIW", "it takes four processors");
    CHECK("this is the bootstrap processor", rdmsr(MSR_APIC_BASE) >> 8 & 1, 1);
}
