/*
 * String instructions: every one, in all sizes, directions, repeats and address sizes, against a
 * model in C; faults in the middle and restarts; overlaps.
 *
 * Intel SDM vol. 2, MOVS, CMPS, SCAS, LODS, STOS, INS, OUTS, REP; AMD APM vol. 3, 1.2.6.
 */
#include "world.h"

enum op { MOVS, CMPS, STOS, LODS, SCAS, OPS };
enum repeat { NONE, REP, REPNE };
static const u8 opcodes[OPS] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
static const char *const op_names[OPS] = {"MOVS", "CMPS", "STOS", "LODS", "SCAS"};

struct string_case {
    enum op op;
    unsigned size; /* 1, 2, 4, 8 */
    unsigned bits; /* of the address: 16, 32, 64 */
    enum repeat repeat;
    bool down;
    bool legacy; /* 32-bit code of the legacy world, else 64-bit */
    u64 count;
};

/* What an instruction works on; the model has its own copy of the memory. */
static u8 *const arena =
    (u8 *)LOW_DATA; /* 16-bit addresses reach it by a segment base or as 0x8000 and up */
#define ARENA 0x10000u
static u8 model[ARENA];
static const u64 source_at = 0x8000, target_at = 0x9000;

/* What the cases against the model can reach. */
#define WINDOW       0x7f00u
#define WINDOW_BYTES 0x1300u

static void fill_range(u8 *to, u32 from, u32 len)
{
    for (u32 i = from; i < from + len; i++)
        to[i] = (u8)(i * 7 + (i >> 8));
    /* Equal beginnings, for CMPS and SCAS to run over. */
    for (u32 i = 0; i < 40; i++)
        to[target_at + i] = to[source_at + i] = 0x41;
    to[target_at + 24] = 0x42;
}

static void fill(u8 *to)
{
    fill_range(to, 0, ARENA);
}

static u64 load(const u8 *memory, u64 at, unsigned size)
{
    u64 value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (u64)memory[(at + i) & 0xffff] << 8 * i;
    return value;
}

static void store(u8 *memory, u64 at, unsigned size, u64 value)
{
    for (unsigned i = 0; i < size; i++)
        memory[(at + i) & 0xffff] = (u8)(value >> 8 * i);
}

static u64 mask_of(unsigned bytes)
{
    return bytes == 8 ? ~0ul : (1ul << 8 * bytes) - 1;
}

#define ARITHMETIC (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

static u64 compare_flags(u64 a, u64 b, unsigned size)
{
    u64 mask = mask_of(size), sign = 1ul << (8 * size - 1), r = (a - b) & mask;
    u64 flags = (a < b ? FLAG_CF : 0) | (r ? 0 : FLAG_ZF) | (r & sign ? FLAG_SF : 0);
    flags |= ((a ^ b) & (a ^ r) & sign ? FLAG_OF : 0) | ((a ^ b ^ r) & 16 ? FLAG_AF : 0);
    return flags | (__builtin_parity((unsigned)(r & 0xff)) ? 0 : FLAG_PF);
}

/* Changes the low `bits` of a register as an address-size write does: 32 bits clear the upper half,
 * 16 keep it. */
static void advance(u64 *reg, u64 by, unsigned bits)
{
    u64 sum = *reg + by;
    *reg = bits == 64 ? sum : bits == 32 ? (u32)sum : (*reg & ~0xfffful) | (sum & 0xffff);
}

/* One element. Returns true when the repeat ends by its condition. */
static bool model_step(const struct string_case *t, struct context *c)
{
    u64 step = t->down ? -(u64)t->size : t->size, mask = mask_of(t->size), old = c->rax;
    u64 source = load(model, c->rsi & 0xffff, t->size),
        target = load(model, c->rdi & 0xffff, t->size);
    if (t->op == MOVS)
        store(model, c->rdi & 0xffff, t->size, source);
    if (t->op == STOS)
        store(model, c->rdi & 0xffff, t->size, c->rax);
    if (t->op == LODS)
        c->rax = t->size == 4 ? source : (old & ~mask) | source;
    if (t->op == CMPS)
        c->rflags = (c->rflags & ~ARITHMETIC) | compare_flags(source, target, t->size);
    if (t->op == SCAS)
        c->rflags = (c->rflags & ~ARITHMETIC) | compare_flags(c->rax & mask, target, t->size);
    if (t->op == MOVS || t->op == CMPS || t->op == LODS)
        advance(&c->rsi, step, t->bits);
    if (t->op != LODS)
        advance(&c->rdi, step, t->bits);
    return (t->op == CMPS || t->op == SCAS) && !(c->rflags & FLAG_ZF) == (t->repeat == REP);
}

static void model_run(const struct string_case *t, struct context *c)
{
    if (t->repeat == NONE) {
        model_step(t, c);
        return;
    }
    u64 mask = t->bits == 16 ? 0xffff : t->bits == 32 ? 0xffffffff : ~0ul;
    bool done = false;
    while (!done && (c->rcx & mask)) {
        done = model_step(t, c);
        advance(&c->rcx, ~0ul, t->bits);
    }
}

static void code_make(const struct string_case *t)
{
    u8 code[6];
    size_t len = 0;
    if (t->bits == 16 || (t->bits == 32 && !t->legacy))
        code[len++] = 0x67;
    if (t->size == 2)
        code[len++] = 0x66;
    if (t->repeat != NONE)
        code[len++] = t->repeat == REP ? 0xf3 : 0xf2;
    if (t->size == 8)
        code[len++] = 0x48;
    code[len++] = (u8)(opcodes[t->op] | (t->size > 1));
    scratch_set(code, len);
}

static bool same_state(const struct string_case *t, const struct context *a,
                       const struct context *b)
{
    u64 mask = t->legacy ? 0xffffffff : ~0ul;
    return !((a->rax ^ b->rax) & mask) && !((a->rcx ^ b->rcx) & mask) &&
           !((a->rsi ^ b->rsi) & mask) && !((a->rdi ^ b->rdi) & mask) &&
           !((a->rflags ^ b->rflags) & (ARITHMETIC | FLAG_DF));
}

/* A failure's description: which case, and the registers. */
static void describe(const struct string_case *t, const struct context *seen,
                     const struct context *expected)
{
    static const char *const names[] = {" size ",   " bits ",   " repeat ", " down ", " legacy ",
                                        " count ",  "\n  RAX ", " RCX ",    " RSI ",  " RDI ",
                                        " RFLAGS ", "\n  not ", " ",        " ",      " ",
                                        " ",        ", vector "};
    const u64 values[] = {
        t->size,       t->bits,       t->repeat,     t->down,          t->legacy,    t->count,
        seen->rax,     seen->rcx,     seen->rsi,     seen->rdi,        seen->rflags, expected->rax,
        expected->rcx, expected->rsi, expected->rdi, expected->rflags, seen->vector};
    print(op_names[t->op]);
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        print(names[i]);
        print_hex(values[i]);
    }
    print("\n");
}

static void check_case(const struct string_case *t)
{
    struct context c = t->legacy ? context_legacy(scratch_code) : context_kernel(scratch_code);
    fill_range(arena, WINDOW, WINDOW_BYTES);
    fill_range(model, WINDOW, WINDOW_BYTES);
    code_make(t);
    /* The arena lies at 64K-aligned LOW_DATA, so that the low 16 bits are the offset in it. 16-bit
     * addresses need a base. */
    u64 high = t->bits == 16 ? (t->legacy ? 0x12340000ul : 0x1234567812340000ul) : LOW_DATA;
    u64 back = t->down ? 32 : 0;
    c.rsi = high | (source_at + back);
    c.rdi = high | (target_at + back);
    c.rcx = t->count | (t->bits < 64 && !t->legacy ? 0xabcd000000000000ul : 0) |
            (t->bits == 16 ? 0x55550000ul : 0);
    if (t->bits == 32 && !t->legacy)
        c.rsi |= 0x7700000000ul;
    c.rax = t->legacy ? 0x41414141 : 0x4141414141414141;
    c.rflags |= (t->down ? FLAG_DF : 0) | FLAG_CF | FLAG_OF;
    struct context expected = c;
    if (t->bits == 16 && t->legacy) {
        gdt[SEL_FREE / 8] = segment(LOW_DATA, 0xfffff, 0x4093);
        c.ds = c.es = SEL_FREE;
    }
    model_run(t, &expected);
    if (t->legacy)
        world_legacy(&c);
    else
        world_long(&c);
    bool good = c.vector == STOP_VECTOR && same_state(t, &c, &expected) &&
                memory_same(arena + WINDOW, model + WINDOW, WINDOW_BYTES);
    if (!good)
        describe(t, &c, &expected);
    CHECK(op_names[t->op], good, true);
}

static void test_all(void)
{
    static const u64 counts[] = {0, 1, 2, 3};
    part("against the model");
    for (unsigned legacy = 0; legacy < 2; legacy++)
        for (unsigned bits = legacy ? 16 : 32; bits <= (legacy ? 32 : 64); bits *= 2)
            for (unsigned op = 0; op < OPS; op++)
                for (unsigned size = 1; size <= (legacy ? 4 : 8); size *= 2)
                    for (unsigned repeat = NONE; repeat <= REPNE; repeat++)
                        for (unsigned down = 0; down < 2; down++)
                            for (unsigned i = 0; i < (repeat == NONE ? 1u : 5u); i++) {
                                u64 count = i < 4 ? counts[i] : 40 / size;
                                check_case(&(struct string_case){op, size, bits, repeat, down,
                                                                 legacy, count});
                            }
}

CODE64(rep_movsb, "rep movsb" STOP);
CODE64(rep_movsq, "rep movsq" STOP);
CODE64(rep_stosb, "rep stosb" STOP);
CODE64(rep_stosq, "rep stosq" STOP);
CODE64(repe_cmpsb, "repe cmpsb" STOP);
CODE64(repne_scasb, "repne scasb" STOP);
CODE64(rep_lodsb, "rep lodsb" STOP);
CODE64(movsb_fs, "fs movsb" STOP);
CODE64(rep_outsb, "rep outsb" STOP);
CODE64(rep_insb, "rep insb" STOP);
CODE64(insb_one, "insb" STOP);

static u8 big[4 * 4096] __attribute__((aligned(4096)));
static u64 test_pd[512] __attribute__((aligned(4096)));
static u64 test_pt[512] __attribute__((aligned(4096)));

/* Maps big[] at TEST_REGION, all pages but `absent`; `read_only` has no W. */
static void map_big(unsigned absent, unsigned read_only)
{
    boot_pdpt[2] = ADDRESS(test_pd) | 7;
    test_pd[0] = ADDRESS(test_pt) | 7;
    for (unsigned i = 0; i < 4; i++)
        test_pt[i] = (ADDRESS(big) + i * 4096) | (i == read_only ? 5 : 7);
    if (absent < 4)
        test_pt[absent] = 0;
    cr3_set(cr3_get());
    for (unsigned i = 0; i < sizeof(big); i++)
        big[i] = (u8)(i * 3 + i / 4096);
}

struct fault_case {
    const char *what;
    const u8 *code;
    u64 rsi, rdi, rcx; /* offsets in the mapping */
    bool down;
    u64 done; /* elements before the fault */
    u64 size, cr2, error;
};

static const struct fault_case fault_cases[] = {
    {"MOVSB, target absent", rep_movsb, 0, 4096 - 10, 20, false, 10, 1, 4096, 6},
    {"MOVSB, source absent", rep_movsb, 4096 - 7, 3 * 4096, 20, false, 7, 1, 4096, 4},
    {"MOVSQ, target absent", rep_movsq, 0, 4096 - 24, 20, false, 3, 8, 4096, 6},
    {"MOVSQ, target half in the absent page", rep_movsq, 0, 4096 - 20, 20, false, 2, 8, 4096, 6},
    {"MOVSB down, target absent", rep_movsb, 100, 8192 + 5, 20, true, 6, 1, 8191, 6},
    {"MOVSQ down, target half in the absent page", rep_movsq, 200, 8192 + 12, 20, true, 2, 8, 8188,
     6},
    {"STOSB, absent", rep_stosb, 0, 4096 - 100, 4096, false, 100, 1, 4096, 6},
    {"STOSQ, absent", rep_stosq, 0, 8, 1000, false, 511, 8, 4096, 6},
    {"CMPSB, absent", repe_cmpsb, 4096 - 9, 4096 - 9, 100, false, 9, 1, 4096, 4},
    {"LODSB, absent", rep_lodsb, 4096 - 9, 0, 100, false, 9, 1, 4096, 4},
};

static void test_faults(void)
{
    part("faults in the middle");
    for (size_t i = 0; i < sizeof(fault_cases) / sizeof(fault_cases[0]); i++) {
        const struct fault_case *t = &fault_cases[i];
        map_big(1, 9);
        struct context c = context_user(t->code);
        c.rsi = TEST_REGION + t->rsi;
        c.rdi = TEST_REGION + t->rdi;
        c.rcx = t->rcx;
        c.rax = 0xeeeeeeeeeeeeeeee;
        c.rflags |= t->down ? FLAG_DF : 0;
        struct context before = c;
        world_long(&c);
        u64 moved = t->down ? -(t->done * t->size) : t->done * t->size;
        bool source = t->code != rep_stosb && t->code != rep_stosq, target = t->code != rep_lodsb;
        CHECK_TRAP(t->what, &c, PF, t->error, USER(t->code));
        CHECK("CR2", c.cr2, TEST_REGION + t->cr2);
        CHECK("RCX", c.rcx, before.rcx - t->done);
        CHECK("RSI", c.rsi, before.rsi + (source ? moved : 0));
        CHECK("RDI", c.rdi, before.rdi + (target ? moved : 0));
        test_pt[1] = (ADDRESS(big) + 4096) | 7; /* and on, from where it stopped */
        invlpg(TEST_REGION + 4096);
        world_long(&c);
        bool compare = t->code == repe_cmpsb;
        CHECK_STOP("restarted", &c);
        CHECK("RCX at the end", c.rcx, 0);
        CHECK("RDI at the end", c.rdi,
              before.rdi + (target ? (t->down ? -(t->rcx * t->size) : t->rcx * t->size) : 0));
        if (compare)
            CHECK("equal", c.rflags & FLAG_ZF, FLAG_ZF);
    }
    map_big(9, 1);
    struct context c = context_user(rep_stosq);
    c.rdi = TEST_REGION + 4096 - 4;
    c.rcx = 3;
    u8 before = big[4095];
    world_long(&c);
    CHECK_TRAP("STOSQ across into a read-only page", &c, PF, 7, USER(rep_stosq));
    CHECK("nothing stored in the first page", big[4095], before);
    c = context_user(repne_scasb);
    map_big(1, 9);
    memory_set(big, 0x77, 4096);
    big[4095] = 0x11;
    c.rdi = TEST_REGION + 4000;
    c.rcx = 1000;
    c.rax = 0x11;
    world_long(&c);
    CHECK_STOP("SCASB finds before the absent page", &c);
    CHECK("RDI after the match", c.rdi, TEST_REGION + 4096);
    CHECK("RCX", c.rcx, 1000 - 96);
}

CODE32(compat_cmpsb, "repe cmpsb" STOP);
CODE32(compat_scasb, "repne scasb" STOP);

/* A fault of a late iteration finds the flags from before the first (SDM vol. 2, REP), whatever an
 * engine looked at in between. */
static void test_faults_late(void)
{
    static const struct {
        const char *what;
        const u8 *code;
        u64 rax;
    } cases[] = {{"CMPSB, 64-bit code", repe_cmpsb, 0},
                 {"SCASB, 64-bit code", repne_scasb, 0x78},
                 {"CMPSB, 32-bit code", compat_cmpsb, 0},
                 {"SCASB, 32-bit code", compat_scasb, 0x78}};

    part("faults after many iterations");
    map_big(3, 9);
    memory_set(big, 0x77, sizeof(big));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct context c = i < 2 ? context_user(cases[i].code) : context_compat(cases[i].code);
        c.rsi = c.rdi = TEST_REGION + 4;
        c.rcx = 100000;
        c.rax = cases[i].rax;
        c.rflags |= FLAG_CF | FLAG_OF | FLAG_SF;
        world_long(&c);
        CHECK_TRAP(cases[i].what, &c, PF, 4, USER(cases[i].code));
        CHECK("RCX", c.rcx, 100000 - 3 * 4096 + 4);
        tcg_wrong("it has the last comparison's flags");
        CHECK("flags", c.rflags & ARITHMETIC, FLAG_CF | FLAG_OF | FLAG_SF);
    }
}

static void test_crossing(void)
{
    part("across pages");
    map_big(9, 9);
    struct context c = context_user(rep_movsb);
    c.rsi = TEST_REGION + 10;
    c.rdi = TEST_REGION + 8192 - 100;
    c.rcx = 5000;
    world_long(&c);
    CHECK_STOP("5000 bytes", &c);
    bool same = true;
    for (u64 i = 0; i < 5000; i++)
        same &= big[8192 - 100 + i] == (u8)((i + 10) * 3 + (i + 10) / 4096);
    CHECK("copied", same, true);
    CHECK("byte before", big[8192 - 101], (u8)((8192 - 101) * 3 + 1));
    part("overlaps");
    for (u64 distance = 1; distance < 20; distance += 3) {
        map_big(9, 9);
        c = context_user(rep_movsb);
        c.rsi = TEST_REGION + 4096 - 50;
        c.rdi = c.rsi + distance;
        c.rcx = 200;
        world_long(&c);
        same = true;
        for (u64 i = 0; i < 200; i++)
            same &= big[4096 - 50 + distance + i] ==
                    (u8)((4096 - 50 + i % distance) * 3 + (4096 - 50 + i % distance) / 4096);
        CHECK("MOVSB forward repeats the pattern", same, true);
        map_big(9, 9);
        c = context_user(rep_movsq);
        c.rsi = TEST_REGION + 600;
        c.rdi = c.rsi + distance;
        c.rcx = 10;
        u8 expected[128];
        memory_copy(expected, big + 600, sizeof(expected));
        for (u64 i = 0; i < 10; i++) {
            u8 word[8];
            memory_copy(word, expected + 8 * i, 8);
            memory_copy(expected + 8 * i + distance, word, 8);
        }
        world_long(&c);
        CHECK("MOVSQ forward", memory_same(expected, big + 600, 100), true);
    }
    part("aliases");
    map_big(9, 9);
    test_pt[2] = ADDRESS(big) | 7; /* the third page is the first */
    cr3_set(cr3_get());
    c = context_user(rep_movsb);
    c.rsi = TEST_REGION;
    c.rdi = TEST_REGION + 8192 + 1;
    c.rcx = 500;
    u8 first = big[0];
    world_long(&c);
    same = true;
    for (u64 i = 0; i <= 500; i++)
        same &= big[i] == first;
    CHECK("MOVSB to an alias of its source", same, true);
}

static void test_segments(void)
{
    part("segment override");
    wrmsr(MSR_FS_BASE, ADDRESS(big) + 64);
    map_big(9, 9);
    struct context c = context_kernel(movsb_fs);
    c.rsi = 5;
    c.rdi = ADDRESS(big);
    world_long(&c);
    wrmsr(MSR_FS_BASE, 0);
    CHECK_STOP("FS: source", &c);
    CHECK("byte", big[0], (u8)(69 * 3));
}

/* The RTC's index port keeps no value that can be read; the 8259's mask (0xa1) does. */
static void test_ports(void)
{
    part("INS and OUTS");
    static u8 masks[4] = {0x12, 0x34, 0x56, 0xef};
    struct context c = context_kernel(rep_outsb);
    c.rsi = ADDRESS(masks);
    c.rcx = 4;
    c.rdx = 0xa1;
    world_long(&c);
    CHECK_STOP("REP OUTSB", &c);
    CHECK("RSI", c.rsi, ADDRESS(masks) + 4);
    CHECK("RCX", c.rcx, 0);
    CHECK("the last byte is the mask", inb(0xa1), 0xef);
    map_big(1, 9);
    c = context_kernel(rep_insb);
    c.rdi = TEST_REGION + 4096 - 5;
    c.rcx = 9;
    c.rdx = 0xa1;
    world_long(&c);
    CHECK_TRAP("REP INSB into an absent page", &c, PF, 2, ADDRESS(rep_insb));
    CHECK("RCX", c.rcx, 4);
    CHECK("RDI", c.rdi, TEST_REGION + 4096);
    CHECK("bytes before", load(big, 4091, 4) << 8 | big[4095], 0xefefefefef);
    c.rflags |= FLAG_DF;
    c.rcx = 3;
    c.rdi = TEST_REGION + 100;
    world_long(&c);
    CHECK_STOP("REP INSB down", &c);
    CHECK("RDI", c.rdi, TEST_REGION + 97);
    CHECK("bytes", load(big, 98, 2) << 8 | big[100], 0xefefef);
    c = context_user(insb_one);
    c.rdx = 0xa1;
    c.rdi = TEST_REGION;
    world_long(&c);
    CHECK_TRAP("INSB at ring 3 without permission", &c, GP, 0, USER(insb_one));
    outb(0xa1, 0xff);
}

CODE64(outsl_up, "outsl" STOP);
CODE64(insl_up, "insl" STOP);
CODE64(rep_insw, "rep insw" STOP);
CODE64(outsl_addr32, "addr32 outsl" STOP);
CODE64(outsl_gs, "outsl %gs:(%rsi), %dx" STOP);

/* The PCI address register (0xcf8) keeps a dword; 0xcfc then shows the host bridge's IDs. */
static void test_wide_ports(void)
{
    part("INS and OUTS of words and dwords");
    static u32 value = 0x80000000;
    struct context c = context_kernel(outsl_up);
    c.rsi = ADDRESS(&value);
    c.rdx = 0xcf8;
    outl(0xcf8, 0);
    world_long(&c);
    CHECK_STOP("OUTSD", &c);
    CHECK("RSI", c.rsi, ADDRESS(&value) + 4);
    CHECK("the port's value", inl(0xcf8), 0x80000000);
    c = context_kernel(insl_up);
    c.rdi = ADDRESS(big) + 3;
    c.rdx = 0xcf8;
    memory_set(big, 0, 16);
    world_long(&c);
    CHECK_STOP("INSD", &c);
    CHECK("RDI", c.rdi, ADDRESS(big) + 7);
    CHECK("dword", load(big, 3, 8), 0x80000000);
    c = context_kernel(rep_insw);
    c.rdi = ADDRESS(big);
    c.rcx = 2;
    c.rdx = 0xcfc;
    world_long(&c);
    CHECK_STOP("REP INSW", &c);
    u64 id = inl(0xcfc) & 0xffff;
    CHECK("words", load(big, 0, 4), id << 16 | id);
    c = context_kernel(outsl_addr32);
    c.rsi = 0xabcd00000000 | ADDRESS(&value);
    c.rdx = 0xcf8;
    outl(0xcf8, 0);
    world_long(&c);
    CHECK_STOP("OUTSD by ESI", &c);
    CHECK("ESI, upper half cleared", c.rsi, ADDRESS(&value) + 4);
    CHECK("the port's value", inl(0xcf8), 0x80000000);
    wrmsr(MSR_GS_BASE, ADDRESS(&value) - 0x1000);
    c = context_kernel(outsl_gs);
    c.rsi = 0x1000;
    c.rdx = 0xcf8;
    outl(0xcf8, 0);
    world_long(&c);
    wrmsr(MSR_GS_BASE, 0);
    CHECK_STOP("OUTSD by GS", &c);
    CHECK("the port's value", inl(0xcf8), 0x80000000);
}

CODE16(real_wrap, "cld\n rep movsb" STOP);
CODE16(real_wrap_down, "std\n rep stosw" STOP);

static void test_wrap(void)
{
    part("16-bit wrap");
    fill(arena);
    low_code_set(real_wrap, real_wrap_end);
    struct context c = context_real();
    c.rsi = 0xaaaa0000 | (0x10000 - 5);
    c.rdi = 0xbbbb4000;
    c.rcx = 0xcccc000a;
    u8 expected[10];
    for (u32 i = 0; i < 10; i++)
        expected[i] = arena[(0x10000 - 5 + i) & 0xffff];
    world_real(&c);
    CHECK_STOP("MOVSB over the segment's end", &c);
    CHECK("bytes", memory_same(arena + 0x4000, expected, 10), true);
    CHECK("SI wraps, its upper half stays", c.rsi, 0xaaaa0005);
    CHECK("DI", c.rdi, 0xbbbb400a);
    CHECK("CX", c.rcx, 0xcccc0000);
    low_code_set(real_wrap_down, real_wrap_down_end);
    c = context_real();
    c.rdi = 2;
    c.rcx = 3;
    c.rax = 0xbeef;
    world_real(&c);
    CHECK_STOP("STOSW down over 0", &c);
    CHECK("DI", c.rdi & 0xffff, 0xfffc);
    CHECK("word at 0xfffe", load(arena, 0xfffe, 2), 0xbeef);
}

void guest_main(void)
{
    test_all();
    test_faults();
    test_faults_late();
    test_crossing();
    test_segments();
    test_ports();
    test_wide_ports();
    test_wrap();
}
