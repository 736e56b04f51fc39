/*
 * Checks the table of flags against Zydis, an independent one: on millions of random instructions
 * in 16-, 32- and 64-bit code, and on every legacy, VEX and EVEX opcode. What Zydis has tested must
 * be in `read`; what we have `written` it must have changed; what it has changed or undefined must
 * be in `written` or `maybe`.
 */
#include <Zydis/Zydis.h>

#include "base/test.h"
#include "cpu/x86/flags.h"

#define ROUNDS     3000000
#define COMPLAINTS 2 /* printed for each operation */
#define ARITH      X86_RFLAGS_ARITH

struct checker {
    ZydisDecoder decoder[3]; /* by enum x86_code_size */
    bool feature[X86_FEATURE_COUNT];
    uint64_t random;
    unsigned agreed, differed, vectors;
    unsigned complaints[X86_OP_COUNT];
};

static void checker_init(struct checker *c)
{
    *c = (struct checker){.random = 88172645463325252u};
    memset(c->feature, true, sizeof c->feature);
    ZydisDecoderInit(&c->decoder[X86_CODE_16], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    ZydisDecoderInit(&c->decoder[X86_CODE_32], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&c->decoder[X86_CODE_64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

static uint64_t random64(struct checker *c)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return c->random;
}

/* Flags that are written although Zydis does not say so; flags_test.c checks each on the host. */
static unsigned written_besides(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_AND:
    case X86_OP_OR:
    case X86_OP_XOR:
    case X86_OP_TEST: /* undefined in the manual, cleared by every processor */
    case X86_OP_SBB:  /* as the result has it (SDM vol. 2, SBB); Zydis has it undefined */
        return X86_RFLAGS_AF;
    case X86_OP_ROL:
    case X86_OP_ROR:
    case X86_OP_RCL:
    case X86_OP_RCR:
    case X86_OP_SHL:
    case X86_OP_SHR:
    case X86_OP_SAR:
    case X86_OP_SHLD:
    case X86_OP_SHRD: /* defined for a count of 1; Zydis does not look at counts */
        return X86_RFLAGS_OF;
    case X86_OP_BEXTR: /* "all other flags are cleared" */
        return X86_RFLAGS_CF | X86_RFLAGS_OF;
    case X86_OP_VECTOR: /* VTESTPS, VTESTPD, VPTEST: cleared */
        return insn->map == 2 &&
                       (insn->opcode == 0x0e || insn->opcode == 0x0f || insn->opcode == 0x17)
                   ? X86_RFLAGS_AF | X86_RFLAGS_OF | X86_RFLAGS_PF | X86_RFLAGS_SF
                   : 0;
    default:
        return 0;
    }
}

/* Zydis has repeated comparisons read ZF: their own, which they have written by then. */
static unsigned read_moot(const struct x86_insn *insn)
{
    return insn->op == X86_OP_CMPS || insn->op == X86_OP_SCAS ? X86_RFLAGS_ZF : 0;
}

static const char *compare(const struct x86_insn *insn, const struct x86_flags *ours,
                           const ZydisAccessedFlags *theirs)
{
    unsigned read = 0, changed = 0, undefined = 0;

    if (theirs) {
        read = theirs->tested & ARITH & ~read_moot(insn);
        changed = (theirs->modified | theirs->set_0 | theirs->set_1) & ARITH;
        undefined = theirs->undefined & ARITH;
    }
    if (read & ~(unsigned)ours->read)
        return "reads more";
    if ((changed | undefined) & ~(unsigned)(ours->written | ours->maybe))
        return "changes more";
    if (ours->written & ~(changed | written_besides(insn)))
        return "does not change all of `written`";
    return ours->written & ours->maybe ? "both written and maybe" : NULL;
}

static void complain(struct checker *c, const struct x86_insn *insn, const char *name,
                     const char *what)
{
    c->differed++;
    if (c->complaints[insn->op]++ >= COMPLAINTS)
        return;
    for (unsigned i = 0; i < insn->length; i++)
        printf("%02x ", insn->bytes[i]);
    printf(": %s (%s): %s\n", name, x86_op_name((enum x86_op)insn->op), what);
}

static void check_one(struct checker *c, enum x86_code_size size, const uint8_t bytes[16])
{
    ZydisDecodedInstruction z;
    struct x86_vector_insn vector;
    struct x86_flags flags;
    struct x86_insn insn;
    bool is_vector;

    if (x86_decode(&insn, size, bytes, 15) != X86_DECODE_OK)
        return;
    is_vector = insn.op == X86_OP_VECTOR || insn.op == X86_OP_X87;
    if (is_vector && !x86_vector_describe(&insn, c->feature, &vector))
        return;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&c->decoder[size], NULL, bytes, 15, &z)) ||
        z.length != insn.length)
        return;
    x86_flags_of(&insn, is_vector ? &vector : NULL, &flags);
    const char *what = compare(&insn, &flags, z.cpu_flags);
    if (what)
        complain(c, &insn, ZydisMnemonicGetString(z.mnemonic), what);
    c->agreed += !what;
    c->vectors += is_vector;
}

static void check_sizes(struct checker *c, const uint8_t bytes[16])
{
    for (unsigned size = 0; size < 3; size++)
        check_one(c, (enum x86_code_size)size, bytes);
}

static void checker_report(struct test *t, const struct checker *c, unsigned at_least)
{
    printf("%u instructions agree, %u of all are vector or x87\n", c->agreed, c->vectors);
    CHECK_EQ(t, c->differed, 0);
    CHECK(t, c->agreed >= at_least);
    CHECK(t, c->vectors >= 1000);
}

static void test_random(struct test *t)
{
    static const uint8_t front[] = {0x0f, 0x0f, 0x66, 0xf2, 0xf3, 0xf0, 0x48, 0x41,
                                    0x67, 0x2e, 0xd9, 0xc4, 0xc5, 0x0f, 0x62, 0xda};
    struct checker c;
    uint8_t bytes[16];

    checker_init(&c);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t low = random64(&c), high = random64(&c);
        unsigned prefixes = (unsigned)(random64(&c) >> 40) % 4;

        memcpy(bytes, &low, 8);
        memcpy(bytes + 8, &high, 8);
        for (unsigned k = 0; k < prefixes; k++)
            bytes[k] = front[(random64(&c) >> 30) % sizeof front];
        check_one(&c, (enum x86_code_size)(i % 3), bytes);
    }
    checker_report(t, &c, ROUNDS / 2);
}

/* `length` bytes of prefix and opcode map, then every opcode and some of every ModRM digit. */
static void opcodes_sweep(struct checker *c, const uint8_t *lead, unsigned length)
{
    uint8_t bytes[16] = {0};

    memcpy(bytes, lead, length);
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        bytes[length] = (uint8_t)opcode;
        for (unsigned modrm = 0; modrm < 256; modrm += modrm < 192 ? 3 : 1) {
            bytes[length + 1] = (uint8_t)modrm;
            bytes[length + 2] = (uint8_t)random64(c);
            check_sizes(c, bytes);
        }
    }
}

static void test_legacy(struct test *t)
{
    static const uint8_t maps[4][2] = {{0, 0}, {0x0f, 0}, {0x0f, 0x38}, {0x0f, 0x3a}};
    static const uint8_t prefixes[4] = {0, 0x66, 0xf2, 0xf3};
    struct checker c;

    checker_init(&c);
    for (unsigned i = 0; i < 16; i++) {
        uint8_t lead[3];
        unsigned length = 0;

        if (prefixes[i / 4])
            lead[length++] = prefixes[i / 4];
        for (unsigned k = 0; k < 2; k++) {
            if (maps[i % 4][k])
                lead[length++] = maps[i % 4][k];
        }
        opcodes_sweep(&c, lead, length);
    }
    checker_report(t, &c, 500000);
}

static void test_vex(struct test *t)
{
    struct checker c;

    checker_init(&c);
    for (unsigned i = 0; i < 3 * 4 * 2 * 2 * 2; i++) { /* map, pp, L, W, vvvv */
        unsigned vvvv = i / 48 ? 0x78 : 0x50;
        uint8_t lead[3] = {0xc4, (uint8_t)(0xe1 + i % 3),
                           (uint8_t)(vvvv | (i / 3 % 4) | (i / 12 % 2) << 2 | (i / 24 % 2) << 7)};

        opcodes_sweep(&c, lead, 3);
    }
    checker_report(t, &c, 100000);
}

static void test_evex(struct test *t)
{
    struct checker c;

    checker_init(&c);
    for (unsigned i = 0; i < 5 * 4 * 3 * 2; i++) { /* map, pp, L'L, W */
        static const uint8_t maps[5] = {1, 2, 3, 5, 6};
        uint8_t lead[4] = {0x62, (uint8_t)(0xf0 | maps[i % 5]),
                           (uint8_t)(0x7c | (i / 5 % 4) | (i / 60) << 7),
                           (uint8_t)(0x08 | (i / 20 % 3) << 5)};

        opcodes_sweep(&c, lead, 4);
    }
    checker_report(t, &c, 100000);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_random);
    TEST_RUN(&t, test_legacy);
    TEST_RUN(&t, test_vex);
    TEST_RUN(&t, test_evex);
    return test_end(&t);
}
