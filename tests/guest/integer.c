/*
 * Integer corner cases: shifts, rotates, multiplication and division, BCD, bit strings, ENTER,
 * MOVBE, BMI, ADX, CRC32, PUSHA, XLAT, far pointer loads, flags.
 *
 * Intel SDM vol. 2, each instruction's page. Undefined flags are not compared.
 */
#include "world.h"

#define ARITHMETIC (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

/* Shifts and rotates of every size by every count, against a model that goes one bit at a time. */
enum shift { ROL, ROR, RCL, RCR, SHL, SHR, SHIFT_6, SAR };
static const char *const shift_names[] = {"ROL", "ROR", "RCL", "RCR", "SHL", "SHR", "", "SAR"};

static u64 mask_of(unsigned bits)
{
    return bits == 64 ? ~0ul : (1ul << bits) - 1;
}

struct shifted {
    u64 value;
    bool cf, of;
};

static struct shifted shift_model(enum shift op, u64 value, unsigned bits, unsigned count, bool cf)
{
    u64 top = 1ul << (bits - 1), mask = mask_of(bits);
    struct shifted s = {value & mask, cf, false};
    for (unsigned i = 0; i < count; i++) {
        bool high = s.value & top, low = s.value & 1, carry = s.cf;
        bool left = op == ROL || op == RCL || op == SHL;
        u64 in = op == ROL   ? high
                 : op == RCL ? carry
                 : op == ROR ? low
                 : op == RCR ? carry
                 : op == SAR ? high
                             : 0;
        s.cf = left ? high : low;
        s.value = left ? (s.value << 1 | in) & mask : s.value >> 1 | (in ? top : 0);
        bool now = s.value & top;
        s.of = left ? now != s.cf : op == SAR ? false : now != high;
        if (op == ROR || op == RCR)
            s.of = now != (bool)(s.value & top >> 1);
    }
    return s;
}

static void shift_code(enum shift op, unsigned bits)
{
    u8 code[5];
    size_t len = 0;
    if (bits == 16)
        code[len++] = 0x66;
    if (bits == 64)
        code[len++] = 0x48;
    code[len++] = bits == 8 ? 0xd2 : 0xd3;
    code[len++] = (u8)(0xc0 | op << 3);
    scratch_set(code, len);
}

static u64 result_flags(u64 value, unsigned bits)
{
    value &= mask_of(bits);
    return (value ? 0 : FLAG_ZF) | (value >> (bits - 1) ? FLAG_SF : 0) |
           (__builtin_parity((unsigned)(value & 0xff)) ? 0 : FLAG_PF);
}

static void check_shift(enum shift op, unsigned bits, unsigned raw, u64 value, bool cf)
{
    unsigned count = raw & (bits == 64 ? 63 : 31);
    bool rotate = op <= RCR;
    /* The model's count for RCL and RCR wraps at bits + 1; for 8 and 16 bits the processor does it
     * too. */
    struct shifted expected = shift_model(op, value, bits, count, cf);
    struct context c = context_kernel(scratch_code);
    c.rax = value;
    c.rcx = raw;
    u64 before = (cf ? FLAG_CF : 0) | FLAG_OF | FLAG_PF;
    c.rflags |= before;
    world_long(&c);
    u64 keep = bits == 32 ? 0 : value & ~mask_of(bits);
    CHECK(shift_names[op], c.rax, keep | expected.value);
    u64 flags = c.rflags & ARITHMETIC;
    if (count == 0) {
        CHECK("count 0 changes no flag", flags, before);
        return;
    }
    if (rotate || count <= bits)
        CHECK("CF", flags & FLAG_CF, expected.cf);
    if (count == 1)
        CHECK("OF of a count of 1", !!(flags & FLAG_OF), expected.of);
    u64 others = FLAG_SF | FLAG_ZF | FLAG_PF;
    CHECK("SF, ZF, PF", flags & others,
          rotate ? before & others : result_flags(expected.value, bits));
}

static void test_shifts(void)
{
    static const u64 values[] = {0x8000000080008081, 0x7fffffff7fff7f7e, 0x123456789abcdef0};
    part("shifts and rotates");
    for (unsigned op = ROL; op <= SAR; op++)
        for (unsigned bits = 8; bits <= 64 && op != SHIFT_6; bits *= 2) {
            shift_code(op, bits);
            for (unsigned count = 0; count < 70; count += count < 34 ? 1 : 5)
                for (unsigned i = 0; i < 3; i++)
                    check_shift(op, bits, count, values[i], (count ^ i) & 1);
        }
}

/* Single instructions on given registers, with the flags that are defined. */
struct one_case {
    const char *what;
    u8 code[9];
    u8 len;
    u64 rax, rcx, rdx, flags; /* before */
    u64 rax_after, rdx_after, flags_mask, flags_after;
    bool divide_error;
};

#define CO (FLAG_CF | FLAG_OF)

static const struct one_case long_cases[] = {
    {"MUL 8", {0xf6, 0xe1}, 2, 0xaaff, 0xff, 7, 0, 0xfe01, 7, CO, CO},
    {"MUL 8, small", {0xf6, 0xe1}, 2, 0xaa05, 3, 7, CO, 15, 7, CO, 0},
    {"MUL 16", {0x66, 0xf7, 0xe1}, 3, 0x1ffff, 0xffff, 0x90000, 0, 0x10001, 0x9fffe, CO, CO},
    {"MUL 32", {0xf7, 0xe1}, 2, 0xffffffffffffffff, 0xffffffff, ~0ul, 0, 1, 0xfffffffe, CO, CO},
    {"MUL 64", {0x48, 0xf7, 0xe1}, 3, ~0ul, ~0ul, 0, 0, 1, ~0ul - 1, CO, CO},
    {"IMUL 8", {0xf6, 0xe9}, 2, 0x80, 0xff, 0, 0, 0x80, 0, CO, CO},
    {"IMUL 8, fits", {0xf6, 0xe9}, 2, 0xff, 0xff, 0, CO, 1, 0, CO, 0},
    {"IMUL 32", {0xf7, 0xe9}, 2, 0x80000000, 0xffffffff, 0, 0, 0x80000000, 0, CO, CO},
    {"IMUL 64", {0x48, 0xf7, 0xe9}, 3, ~0ul, 5, 0, CO, (u64)-5, ~0ul, CO, 0},
    {"IMUL r32, r32", {0x0f, 0xaf, 0xc1}, 3, 0x10000, 0x10000, 0, 0, 0, 0, CO, CO},
    {"IMUL r64, r64, imm8", {0x48, 0x6b, 0xc1, 0xfe}, 4, 0, 7, 0, CO, (u64)-14, 0, CO, 0},
    {"IMUL r16, r16, imm16",
     {0x66, 0x69, 0xc1, 0, 0x40},
     5,
     0x550000,
     2,
     0,
     0,
     0x558000,
     0,
     CO,
     CO},
    {"DIV 8", {0xf6, 0xf1}, 2, 0x00ff, 0x10, 0, 0, 0x0f0f, 0, 0, 0},
    {"DIV 8, quotient 256", {0xf6, 0xf1}, 2, 0x1000, 0x10, 0, 0, 0x1000, 0, 0, 0, true},
    {"DIV 64", {0x48, 0xf7, 0xf1}, 3, 0, 2, 1, 0, 0x8000000000000000, 0, 0, 0},
    {"DIV 64, overflow", {0x48, 0xf7, 0xf1}, 3, 0, 2, 2, 0, 0, 2, 0, 0, true},
    {"IDIV 8, -128 / 1", {0xf6, 0xf9}, 2, 0xff80, 1, 0, 0, 0x0080, 0, 0, 0},
    {"IDIV 8, -128 / -1", {0xf6, 0xf9}, 2, 0xff80, 0xff, 0, 0, 0xff80, 0, 0, 0, true},
    {"IDIV 16, rest has the dividend's sign",
     {0x66, 0xf7, 0xf9},
     3,
     0xfff9,
     2,
     0xffff,
     0,
     0xfffd,
     0xffff,
     0,
     0},
    {"IDIV 64, least / -1",
     {0x48, 0xf7, 0xf9},
     3,
     1ul << 63,
     ~0ul,
     ~0ul,
     0,
     1ul << 63,
     ~0ul,
     0,
     0,
     true},
    {"CBW", {0x66, 0x98}, 2, 0x1234567812340080, 0, 0, 0, 0x123456781234ff80, 0, 0, 0},
    {"CWDE", {0x98}, 1, ~0xfffful | 0x8000, 0, 0, 0, 0xffff8000, 0, 0, 0},
    {"CDQE", {0x48, 0x98}, 2, 0x80000000, 0, 0, 0, 0xffffffff80000000, 0, 0, 0},
    {"CWD", {0x66, 0x99}, 2, 0x8000, 0, 0xaaaa0000, 0, 0x8000, 0xaaaaffff, 0, 0},
    {"CQO", {0x48, 0x99}, 2, 1ul << 63, 0, 0, 0, 1ul << 63, ~0ul, 0, 0},
    {"SHLD 32", {0x0f, 0xa5, 0xd0}, 3, 0x80000001, 4, 0xf0000000, 0, 0x1f, 0xf0000000, FLAG_CF, 0},
    {"SHRD 64",
     {0x48, 0x0f, 0xad, 0xd0},
     4,
     0x18,
     4,
     0xf,
     0,
     0xf000000000000001,
     0xf,
     FLAG_CF,
     FLAG_CF},
    {"BSF", {0x48, 0x0f, 0xbc, 0xc1}, 4, 0, 1ul << 40, 0, FLAG_ZF, 40, 0, FLAG_ZF, 0},
    {"BSF of 0 keeps the target",
     {0x48, 0x0f, 0xbc, 0xc1},
     4,
     0x1234,
     0,
     0,
     0,
     0x1234,
     0,
     FLAG_ZF,
     FLAG_ZF},
    {"BSR", {0x0f, 0xbd, 0xc1}, 3, 0, 0x40000, 0, 0, 18, 0, FLAG_ZF, 0},
    {"BT", {0x48, 0x0f, 0xa3, 0xc8}, 4, 1ul << 33, 33 + 64, 0, 0, 1ul << 33, 0, FLAG_CF, FLAG_CF},
    {"BTS", {0x0f, 0xab, 0xc8}, 3, 0, 31 + 32, 0, FLAG_CF, 0x80000000, 0, FLAG_CF, 0},
    {"BTR imm", {0x48, 0x0f, 0xba, 0xf0, 63}, 5, ~0ul, 0, 0, 0, ~0ul >> 1, 0, FLAG_CF, FLAG_CF},
    {"BTC imm", {0x66, 0x0f, 0xba, 0xf8, 15}, 5, 0x10000, 0, 0, FLAG_CF, 0x18000, 0, FLAG_CF, 0},
    {"XADD 32",
     {0x0f, 0xc1, 0xd0},
     3,
     0xffffffff,
     0,
     2,
     0,
     1,
     0xffffffff,
     FLAG_CF | FLAG_ZF | FLAG_OF,
     FLAG_CF},
    {"XADD of one register", {0x48, 0x0f, 0xc1, 0xc0}, 4, 5, 0, 0, 0, 10, 0, FLAG_CF, 0},
    {"CMPXCHG, equal", {0x0f, 0xb1, 0xd1}, 3, 7, 7, 9, 0, 7, 9, FLAG_ZF, FLAG_ZF},
    {"CMPXCHG, not equal: EAX loaded",
     {0x0f, 0xb1, 0xd1},
     3,
     0xffffffff00000007,
     8,
     9,
     FLAG_ZF,
     8,
     9,
     FLAG_ZF,
     0},
    {"CMPXCHG 32, equal: RAX keeps its upper half",
     {0x0f, 0xb1, 0xd1},
     3,
     0xffffffff00000007,
     7,
     9,
     0,
     0xffffffff00000007,
     9,
     FLAG_ZF,
     FLAG_ZF},
    {"BSWAP 32", {0x0f, 0xc8}, 2, 0xffffffff12345678, 0, 0, 0, 0x78563412, 0, 0, 0},
    {"BSWAP 64", {0x48, 0x0f, 0xc8}, 3, 0x0102030405060708, 0, 0, 0, 0x0807060504030201, 0, 0, 0},
    {"NEG of the least",
     {0xf6, 0xd8},
     2,
     0x80,
     0,
     0,
     0,
     0x80,
     0,
     CO | FLAG_SF | FLAG_ZF,
     CO | FLAG_SF},
    {"NEG of 0", {0x48, 0xf7, 0xd8}, 3, 0, 0, 0, CO, 0, 0, CO | FLAG_ZF, FLAG_ZF},
    {"INC keeps CF",
     {0xfe, 0xc0},
     2,
     0x7f,
     0,
     0,
     FLAG_CF,
     0x80,
     0,
     CO | FLAG_SF | FLAG_AF,
     CO | FLAG_SF | FLAG_AF},
    {"DEC keeps CF",
     {0xff, 0xc8},
     2,
     0,
     0,
     0,
     FLAG_CF,
     0xffffffff,
     0,
     CO | FLAG_SF | FLAG_AF,
     FLAG_CF | FLAG_SF | FLAG_AF},
    {"ADC with carry to 0",
     {0x48, 0x11, 0xc8},
     3,
     ~0ul,
     0,
     0,
     FLAG_CF,
     0,
     0,
     ARITHMETIC,
     FLAG_CF | FLAG_ZF | FLAG_AF | FLAG_PF},
    {"SBB of equals with borrow",
     {0x48, 0x19, 0xc8},
     3,
     5,
     5,
     0,
     FLAG_CF,
     ~0ul,
     0,
     ARITHMETIC,
     FLAG_CF | FLAG_SF | FLAG_AF | FLAG_PF},
    {"SBB: AL + CF over",
     {0x1c, 0xff},
     2,
     0xff,
     0,
     0,
     FLAG_CF,
     0xff,
     0,
     ARITHMETIC,
     FLAG_CF | FLAG_AF | FLAG_PF | FLAG_SF},
    {"LAHF", {0x9f}, 1, 0, 0, 0, FLAG_CF | FLAG_SF | FLAG_OF, 0x8300, 0, 0, 0},
    {"SAHF", {0x9e}, 1, 0xff00, 0, 0, FLAG_OF, 0xff00, 0, ARITHMETIC, ARITHMETIC},
    {"CMC", {0xf5}, 1, 0, 0, 0, FLAG_CF, 0, 0, FLAG_CF, 0},
    {"MOVSXD", {0x48, 0x63, 0xc1}, 3, 0, 0x80000000, 0, 0, 0xffffffff80000000, 0, 0, 0},
    {"MOVZX of AH", {0x0f, 0xb6, 0xc4}, 3, 0xffffffffffff12ff, 0, 0, 0, 0x12, 0, 0, 0},
    {"CMOV not taken clears the upper half",
     {0x0f, 0x44, 0xc1},
     3,
     0xffffffff00000001,
     2,
     0,
     0,
     1,
     0,
     0,
     0},
    {"SETcc", {0x0f, 0x97, 0xc0}, 3, 0xff00, 0, 0, 0, 0xff01, 0, 0, 0},
    {"XCHG EAX, EAX is NOP", {0x90}, 1, ~0ul, 0, 0, 0, ~0ul, 0, 0, 0},
    {"XCHG EAX, EAX, long form", {0x87, 0xc0}, 2, ~0ul, 0, 0, 0, 0xffffffff, 0, 0, 0},
    {"LEA with 32-bit address",
     {0x67, 0x48, 0x8d, 0x44, 0x01, 0x10},
     6,
     0xfffffff8,
     8,
     0,
     0,
     0x10,
     0,
     0,
     0},
    {"LEA 16",
     {0x66, 0x8d, 0x04, 0x48},
     4,
     0xaaaabbbbcccc0001,
     0x8000,
     0,
     0,
     0xaaaabbbbcccc0001,
     0,
     0,
     0},
};

static const struct one_case legacy_cases[] = {
    {"DAA",
     {0x27},
     1,
     0x9a,
     0,
     0,
     0,
     0,
     0,
     FLAG_CF | FLAG_ZF | FLAG_AF,
     FLAG_CF | FLAG_ZF | FLAG_AF},
    {"DAA, low", {0x27}, 1, 0x1234560a, 0, 0, 0, 0x12345610, 0, FLAG_CF | FLAG_AF, FLAG_AF},
    {"DAS",
     {0x2f},
     1,
     0xff,
     0,
     0,
     FLAG_CF | FLAG_AF,
     0x99,
     0,
     FLAG_CF | FLAG_AF | FLAG_SF,
     FLAG_CF | FLAG_AF | FLAG_SF},
    {"DAS, low borrow",
     {0x2f},
     1,
     0x05,
     0,
     0,
     FLAG_AF,
     0xff,
     0,
     FLAG_CF | FLAG_AF,
     FLAG_CF | FLAG_AF},
    {"AAA", {0x37}, 1, 0x000f, 0, 0, 0, 0x0105, 0, FLAG_CF | FLAG_AF, FLAG_CF | FLAG_AF},
    {"AAA, AL carries into AH",
     {0x37},
     1,
     0x00fb,
     0,
     0,
     0,
     0x0201,
     0,
     FLAG_CF | FLAG_AF,
     FLAG_CF | FLAG_AF},
    {"AAS", {0x3f}, 1, 0x020b, 0, 0, 0, 0x0105, 0, FLAG_CF | FLAG_AF, FLAG_CF | FLAG_AF},
    {"AAM", {0xd4, 10}, 2, 0x63, 0, 0, 0, 0x0909, 0, FLAG_ZF | FLAG_SF | FLAG_PF, FLAG_PF},
    {"AAM 0", {0xd4, 0}, 2, 0x63, 0, 0, 0, 0x63, 0, 0, 0, true},
    {"AAD", {0xd5, 10}, 2, 0x0909, 0, 0, 0, 0x63, 0, FLAG_ZF | FLAG_SF | FLAG_PF, FLAG_PF},
    {"AAD 16", {0xd5, 16}, 2, 0x0f0f, 0, 0, 0, 0xff, 0, FLAG_ZF | FLAG_SF, FLAG_SF},
    {"SALC", {0xd6}, 1, 0x1200, 0, 0, FLAG_CF, 0x12ff, 0, 0, 0},
    {"INC r32, short form", {0x40}, 1, 0x7fffffff, 0, 0, FLAG_CF, 0x80000000, 0, CO, CO},
    {"0x82 is 0x80", {0x82, 0xc0, 1}, 3, 0xff, 0, 0, 0, 0, 0, FLAG_CF | FLAG_ZF, FLAG_CF | FLAG_ZF},
};

static void check_one(const struct one_case *t, bool legacy)
{
    scratch_set(t->code, t->len);
    struct context c = legacy ? context_legacy(scratch_code) : context_kernel(scratch_code);
    c.rax = t->rax;
    c.rcx = t->rcx;
    c.rdx = t->rdx;
    c.rflags |= t->flags;
    if (legacy)
        world_legacy(&c);
    else
        world_long(&c);
    if (t->divide_error) {
        CHECK_TRAP(t->what, &c, DE, NO_ERROR, ADDRESS(scratch_code));
    } else {
        CHECK_STOP(t->what, &c);
        CHECK(t->what, c.rflags & t->flags_mask, t->flags_after);
    }
    CHECK(t->what, c.rax, t->rax_after);
    CHECK(t->what, c.rdx, t->rdx_after);
}

static void test_single(void)
{
    part("single instructions");
    for (size_t i = 0; i < sizeof(long_cases) / sizeof(long_cases[0]); i++)
        check_one(&long_cases[i], false);
    part("single instructions, 32-bit");
    for (size_t i = 0; i < sizeof(legacy_cases) / sizeof(legacy_cases[0]); i++)
        check_one(&legacy_cases[i], true);
}

static const struct extension_case {
    enum feature feature;
    struct one_case one;
    const char *tcg;
} extension_cases[] = {
    {FEATURE_POPCNT,
     {"POPCNT", {0xf3, 0x48, 0x0f, 0xb8, 0xc1}, 5, 0, 0xf0f0, 0, ARITHMETIC, 8, 0, ARITHMETIC, 0}},
    {FEATURE_POPCNT,
     {"POPCNT of 0", {0xf3, 0x0f, 0xb8, 0xc1}, 4, 1, 0, 0, 0, 0, 0, ARITHMETIC, FLAG_ZF}},
    {FEATURE_LZCNT,
     {"LZCNT of 0", {0xf3, 0x0f, 0xbd, 0xc1}, 4, 1, 0, 0, 0, 32, 0, FLAG_CF | FLAG_ZF, FLAG_CF}},
    {FEATURE_LZCNT,
     {"LZCNT",
      {0xf3, 0x48, 0x0f, 0xbd, 0xc1},
      5,
      1,
      1ul << 63,
      0,
      FLAG_CF,
      0,
      0,
      FLAG_CF | FLAG_ZF,
      FLAG_ZF}},
    {FEATURE_LZCNT,
     {"LZCNT 16",
      {0x66, 0xf3, 0x0f, 0xbd, 0xc1},
      5,
      0x10000,
      1,
      0,
      0,
      0x1000f,
      0,
      FLAG_CF | FLAG_ZF,
      0}},
    {FEATURE_BMI1,
     {"TZCNT of 0",
      {0xf3, 0x48, 0x0f, 0xbc, 0xc1},
      5,
      1,
      0,
      0,
      0,
      64,
      0,
      FLAG_CF | FLAG_ZF,
      FLAG_CF}},
    {FEATURE_BMI1,
     {"ANDN eax, ecx, edx",
      {0xc4, 0xe2, 0x70, 0xf2, 0xc2},
      5,
      0,
      0x0f,
      0xff,
      CO,
      0xf0,
      0xff,
      CO | FLAG_ZF | FLAG_SF,
      0}},
    {FEATURE_BMI1,
     {"BEXTR",
      {0xc4, 0xe2, 0x70, 0xf7, 0xc2},
      5,
      0,
      0x0804,
      0x12345,
      CO,
      0x34,
      0x12345,
      CO | FLAG_ZF,
      0}},
    {FEATURE_BMI1,
     {"BEXTR beyond the end",
      {0xc4, 0xe2, 0x70, 0xf7, 0xc2},
      5,
      5,
      0x0820,
      ~0ul,
      CO,
      0,
      ~0ul,
      CO | FLAG_ZF,
      FLAG_ZF}},
    {FEATURE_BMI1,
     {"BLSR eax, ecx",
      {0xc4, 0xe2, 0x78, 0xf3, 0xc9},
      5,
      0,
      0x18,
      0,
      CO,
      0x10,
      0,
      CO | FLAG_ZF,
      0}},
    {FEATURE_BMI1,
     {"BLSI of 0", {0xc4, 0xe2, 0x78, 0xf3, 0xd9}, 5, 1, 0, 0, CO, 0, 0, CO | FLAG_ZF, FLAG_ZF},
     "TCG inverts CF of BLSI"},
    {FEATURE_BMI1,
     {"BLSMSK of 0", {0xc4, 0xe2, 0x78, 0xf3, 0xd1}, 5, 1, 0, 0, 0, 0xffffffff, 0, CO, FLAG_CF}},
    {FEATURE_BMI2,
     {"BZHI", {0xc4, 0xe2, 0x70, 0xf5, 0xc2}, 5, 0, 4, 0xff, CO, 0xf, 0xff, CO | FLAG_ZF, 0}},
    {FEATURE_BMI2,
     {"PDEP eax, edx, ecx",
      {0xc4, 0xe2, 0x6b, 0xf5, 0xc1},
      5,
      0,
      0xf0f0,
      0xa5,
      0,
      0xa050,
      0xa5,
      0,
      0}},
    {FEATURE_BMI2,
     {"PEXT eax, edx, ecx",
      {0xc4, 0xe2, 0x6a, 0xf5, 0xc1},
      5,
      0,
      0xf0f0,
      0xa050,
      0,
      0xa5,
      0xa050,
      0,
      0}},
    {FEATURE_BMI2,
     {"MULX eax, eax, ecx: high half wins",
      {0xc4, 0xe2, 0x7b, 0xf6, 0xc1},
      5,
      0,
      0x80000000,
      6,
      CO,
      3,
      6,
      CO,
      CO}},
    {FEATURE_BMI2,
     {"RORX", {0xc4, 0xe3, 0x7b, 0xf0, 0xc1, 4}, 6, 0, 0x12345678, 0, CO, 0x81234567, 0, CO, CO}},
    {FEATURE_BMI2,
     {"SARX",
      {0xc4, 0xe2, 0x72, 0xf7, 0xc2},
      5,
      0,
      36,
      0x80000000,
      CO,
      0xf8000000,
      0x80000000,
      CO,
      CO}},
    {FEATURE_BMI2, {"SHLX", {0xc4, 0xe2, 0xf1, 0xf7, 0xc2}, 5, 0, 68, 1, 0, 16, 1, 0, 0}},
    {FEATURE_ADX, {"ADCX", {0x66, 0x0f, 0x38, 0xf6, 0xc1}, 5, 0xffffffff, 0, 0, CO, 0, 0, CO, CO}},
    {FEATURE_ADX,
     {"ADOX", {0xf3, 0x0f, 0x38, 0xf6, 0xc1}, 5, 0xffffffff, 1, 0, FLAG_CF, 0, 0, CO, CO}},
    {FEATURE_SSE42,
     {"CRC32 8", {0xf2, 0x0f, 0x38, 0xf0, 0xc1}, 5, 0xffffffff, 0x61, 0, 0, 0x3e2fbccf, 0, 0, 0}},
    {FEATURE_SSE42,
     {"CRC32 64",
      {0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc1},
      6,
      0xffffffffffffffff,
      0,
      0,
      0,
      0x73d74d75,
      0,
      0,
      0}},
};

static void test_extensions(void)
{
    part("extensions");
    for (size_t i = 0; i < sizeof(extension_cases) / sizeof(extension_cases[0]); i++) {
        const struct extension_case *t = &extension_cases[i];
        if (!has(t->feature)) {
            skip(t->one.what, "CPUID does not show it");
            continue;
        }
        if (t->tcg)
            tcg_wrong_begin(t->tcg);
        check_one(&t->one, false);
        tcg_wrong_end();
    }
}

static u8 memory[128] __attribute__((aligned(64)));

CODE64(n_odd, "shll %cl, (%rdi)\n shrd %cl, %eax, 4(%rdi)\n rorq %cl, 8(%rdi)\n shldw %cl, %ax, "
              "16(%rdi)" STOP);
CODE64(n_bt, "bt %rax, (%rdi)\n setc %cl" STOP);
CODE64(n_bts, "lock bts %rax, (%rdi)\n setc %cl" STOP);
CODE64(n_btr32, "btr %eax, (%rdi)\n setc %cl" STOP);
CODE64(n_btc16, "btc %ax, (%rdi)\n setc %cl" STOP);

static u64 little(const volatile u8 *at, unsigned bytes)
{
    u64 value = 0;
    while (bytes-- > 0)
        value = value << 8 | at[bytes];
    return value;
}

/* Shifts in memory at an odd address (which builds with UBSan look at), and over a page's end. */
static void test_shifts_odd(void)
{
    static u8 buffer[2 * 4096 + 32] __attribute__((aligned(4096)));
    static const u64 places[] = {1, 4096 - 3, 4096 - 11, 4096 - 17};
    part("shifts at odd addresses");
    for (u64 i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        u8 *at = buffer + places[i];
        for (u64 j = 0; j < 18; j++)
            at[j] = (u8)(0x11 * (j % 15 + 1));
        struct context c = context_kernel(n_odd);
        c.rdi = ADDRESS(at);
        c.rcx = 4;
        c.rax = 0xabcdef98;
        world_long(&c);
        CHECK_STOP("runs", &c);
        CHECK("SHL 32", little(at, 4), 0x43322110);
        CHECK("SHRD 32", little(at + 4, 4), 0x88877665);
        CHECK("ROR 64", little(at + 8, 8), 0x911ffeeddccbbaa9);
        CHECK("SHLD 16", little(at + 16, 2), 0x322e);
    }
}

static void test_bit_strings(void)
{
    part("bit strings in memory");
    for (int bit = -400; bit < 400; bit += 37) {
        struct context c;
        memory_set(memory, 0, sizeof(memory));
        u8 *byte = &memory[64 + (bit >> 3)];
        u8 mask = (u8)(1 << (bit & 7));
        const u8 *const codes[] = {n_bts, n_bt, n_btr32, n_btc16};
        const bool carry[] = {false, true, true, false}, after[] = {true, true, false, true};
        for (int i = 0; i < 4; i++) {
            c = context_kernel(codes[i]);
            c.rax = (u64)(long)bit;
            c.rdi = ADDRESS(memory) + 64;
            world_long(&c);
            CHECK_STOP("bit string", &c);
            CHECK("CF", c.rcx & 1, carry[i]);
            CHECK("bit", !!(*byte & mask), after[i]);
        }
        *byte = 0;
        u8 sum = 0;
        for (size_t i = 0; i < sizeof(memory); i++)
            sum |= memory[i];
        CHECK("no other byte", sum, 0);
    }
}

CODE64(n_enter0, "enter $16, $0\n mov %rbp, %rax\n mov %rsp, %rcx\n leave" STOP);
CODE64(n_enter3, "mov %rsp, %rbp\n push $11\n push $22\n push $33\n lea 24(%rsp), %rbp\n enter "
                 "$16, $3\n mov %rbp, %rax\n mov %rsp, %rcx\n"
                 "mov -8(%rbp), %rbx\n mov -16(%rbp), %rsi\n mov -24(%rbp), %rdi\n leave" STOP);
CODE32(n_pusha, "mov $1, %eax\n mov $2, %ecx\n mov $3, %edx\n mov $4, %ebx\n mov $6, %ebp\n mov "
                "$7, %esi\n mov $8, %edi\n"
                "mov %esp, 0x7c00\n pusha\n mov 12(%esp), %eax\n mov %eax, 0x7c04\n mov (%esp), "
                "%eax\n mov %eax, 0x7c08\n mov 28(%esp), %eax\n"
                "mov %eax, 0x7c0c\n movl $99, 12(%esp)\n movl $55, 24(%esp)\n popa" STOP);
CODE64(n_xlat, "xlat" STOP);
CODE64(n_lfs, "lfs (%rdi), %eax\n mov %fs, %ecx" STOP);
CODE32(n_les, "les (%edi), %eax\n mov %es, %ecx" STOP);
CODE64(n_movbe, "movbe (%rdi), %rax\n movbe %eax, 16(%rdi)\n movbe 8(%rdi), %cx" STOP);
CODE64(n_pop_mem, "push $0x55\n mov %rsp, %rbx\n popq 8(%rsp)" STOP);
CODE64(n_push_rsp, "push %rsp\n pop %rax\n mov %rsp, %rbx" STOP);
CODE64(n_pop_rsp, "push %rdi\n pop %rsp\n mov %rsp, %rax" STOP);
CODE64(n_push16, "pushw $0x1234\n mov %rsp, %rax\n popw %cx\n push $-1\n pop %rdx" STOP);
CODE64(n_loop, "xor %eax, %eax\n 1: inc %eax\n loop 1b" STOP);
CODE64(n_loop32, "xor %eax, %eax\n 1: inc %eax\n addr32 loop 1b" STOP);
CODE64(n_jrcxz, "xor %eax, %eax\n jrcxz 1f\n inc %eax\n 1: jecxz 2f\n add $2, %eax\n 2:" STOP);
CODE64(n_moffs, "movabs 0x7c00, %al\n movabs %rax, 0x7c08" STOP);
CODE64(n_cmpxchg8b, "cmpxchg8b (%rdi)" STOP);
CODE64(n_cmpxchg16b, "cmpxchg16b (%rdi)" STOP);

static void test_stack(void)
{
    part("stack instructions");
    u64 top = ADDRESS(test_stack_top);
    struct context c = context_kernel(n_enter0);
    c.rbp = 0x1234;
    world_long(&c);
    CHECK("ENTER: RBP", c.rax, top - 8);
    CHECK("ENTER: RSP", c.rcx, top - 24);
    CHECK("LEAVE: RBP", c.rbp, 0x1234);
    CHECK("LEAVE: RSP", c.rsp, top);
    c = run_kernel(n_enter3);
    CHECK("nested ENTER: RBP", c.rax, top - 32);
    CHECK("nested ENTER: RSP", c.rcx, top - 32 - 24 - 16);
    CHECK("nested ENTER: first link", c.rbx, 11);
    CHECK("nested ENTER: second link", c.rsi, 22);
    CHECK("nested ENTER: own frame", c.rdi, top - 32);
    c = context_legacy(n_pusha);
    world_legacy(&c);
    CHECK("PUSHA stores the old ESP", *(volatile u32 *)0x7c04, top);
    CHECK("PUSHA: EDI is last", *(volatile u32 *)0x7c08, 8);
    CHECK("PUSHA: EAX is first", *(volatile u32 *)0x7c0c, 1);
    CHECK("POPA ignores ESP", c.rsp, top);
    CHECK("POPA: ECX", c.rcx, 55);
    c = run_kernel(n_pop_mem);
    CHECK("POP to memory by RSP uses the new RSP", *(volatile u64 *)(c.rbx + 16), 0x55);
    c = run_kernel(n_push_rsp);
    CHECK("PUSH RSP stores the old one", c.rax, top);
    c = context_kernel(n_pop_rsp);
    c.rdi = top - 0x100;
    world_long(&c);
    CHECK("POP RSP", c.rax, top - 0x100);
    c = run_kernel(n_push16);
    CHECK("16-bit push", c.rax, top - 2);
    CHECK("16-bit pop", c.rcx, 0x1234);
    CHECK("immediate is sign-extended", c.rdx, ~0ul);
}

static void test_memory_forms(void)
{
    part("memory forms");
    for (size_t i = 0; i < sizeof(memory); i++)
        memory[i] = (u8)(i + 1);
    struct context c = context_kernel(n_xlat);
    c.rbx = ADDRESS(memory);
    c.rax = 0xff00 | 5;
    world_long(&c);
    CHECK("XLAT", c.rax, 0xff06);
    memory_copy(memory, (const u8[]){0x78, 0x56, 0x34, 0x12, SEL_UDATA, 0}, 6);
    c = context_kernel(n_lfs);
    c.rdi = ADDRESS(memory);
    world_long(&c);
    CHECK_STOP("LFS", &c);
    CHECK("offset", c.rax, 0x12345678);
    CHECK("selector", c.rcx, SEL_UDATA);
    c = context_legacy(n_les);
    c.rdi = ADDRESS(memory);
    world_legacy(&c);
    CHECK_STOP("LES", &c);
    CHECK("offset", c.rax, 0x12345678);
    CHECK("selector", c.rcx & 0xffff, SEL_UDATA);
    if (has(FEATURE_MOVBE)) {
        memory_copy(memory, (const u8[]){1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 10);
        c = context_kernel(n_movbe);
        c.rdi = ADDRESS(memory);
        world_long(&c);
        CHECK("MOVBE load", c.rax, 0x0102030405060708);
        CHECK("MOVBE store", *(volatile u32 *)&memory[16], 0x08070605);
        CHECK("MOVBE 16", c.rcx, 0x090a);
    }
    c = context_kernel(n_loop);
    c.rcx = 5;
    world_long(&c);
    CHECK("LOOP", c.rax, 5);
    c = context_kernel(n_loop32);
    c.rcx = 0xffffffff00000003;
    world_long(&c);
    CHECK("LOOP by ECX", c.rax, 3);
    CHECK("RCX then", c.rcx, 0);
    c = context_kernel(n_jrcxz);
    c.rcx = 1ul << 32;
    world_long(&c);
    CHECK("JRCXZ not taken, JECXZ taken", c.rax, 1);
    *(volatile u8 *)0x7c00 = 0x3c;
    c = run_kernel(n_moffs);
    CHECK("MOV by a 64-bit offset", *(volatile u64 *)0x7c08, 0x3c);
}

static void test_wide_exchange(void)
{
    part("CMPXCHG8B and CMPXCHG16B");
    u64 *words = (u64 *)memory;
    words[0] = 0x1111111122222222;
    struct context c = context_kernel(n_cmpxchg8b);
    c.rdi = ADDRESS(memory);
    c.rax = 0x22222222;
    c.rdx = 0x11111111;
    c.rbx = 0x44444444;
    c.rcx = 0x33333333;
    world_long(&c);
    CHECK("equal", words[0], 0x3333333344444444);
    CHECK("ZF", c.rflags & FLAG_ZF, FLAG_ZF);
    c.rip = ADDRESS(n_cmpxchg8b);
    world_long(&c);
    CHECK("not equal: EAX", c.rax, 0x44444444);
    CHECK("not equal: EDX", c.rdx, 0x33333333);
    CHECK("ZF", c.rflags & FLAG_ZF, 0);
    if (!has(FEATURE_CX16))
        return;
    words[0] = 1;
    words[1] = 2;
    c = context_kernel(n_cmpxchg16b);
    c.rdi = ADDRESS(memory);
    c.rax = 1;
    c.rdx = 2;
    c.rbx = 3;
    c.rcx = 4;
    world_long(&c);
    CHECK("16 bytes, low", words[0], 3);
    CHECK("16 bytes, high", words[1], 4);
    c.rip = ADDRESS(n_cmpxchg16b);
    c.rdi = ADDRESS(memory) + 8;
    world_long(&c);
    CHECK_TRAP("CMPXCHG16B misaligned", &c, GP, 0, ADDRESS(n_cmpxchg16b));
}

void guest_main(void)
{
    test_shifts();
    test_single();
    test_extensions();
    test_shifts_odd();
    test_bit_strings();
    test_stack();
    test_memory_forms();
    test_wide_exchange();
}
