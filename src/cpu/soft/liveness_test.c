/*
 * Checks liveness on hand-made blocks, and its rules on random code: precise answers hold all of
 * the relaxed ones, what is claimed dead is overwritten by a later instruction before any reader,
 * and a longer look never finds more live flags than a shorter one.
 */
#include "cpu/soft/liveness.h"

#include "base/test.h"
#include "cpu/soft/code.h"

#define CF      X86_RFLAGS_CF
#define ZF      X86_RFLAGS_ZF
#define ARITH   X86_RFLAGS_ARITH

#define OPS_MAX 32

static unsigned block_make(struct soft_op ops[OPS_MAX], const uint8_t *bytes, size_t size)
{
    unsigned count = 0;

    for (size_t at = 0; at < size && count < OPS_MAX; at += ops[count++].insn.length) {
        if (x86_decode(&ops[count].insn, X86_CODE_64, bytes + at, size - at) != X86_DECODE_OK)
            break;
    }
    return count;
}

static void test_block(struct test *t)
{
    static const uint8_t code[] = {
        0x01, 0xd8,       /* add %ebx, %eax: dead, sub overwrites all */
        0x29, 0xd8,       /* sub %ebx, %eax: CF is live, inc keeps it */
        0xff, 0xc0,       /* inc %eax */
        0x89, 0x07,       /* mov %eax, (%rdi) */
        0x83, 0xd0, 0x01, /* adc $1, %eax */
    };
    static struct soft_op ops[OPS_MAX];
    uint16_t live[OPS_MAX];
    unsigned count = block_make(ops, code, sizeof code);

    CHECK_EQ(t, count, 5);
    CHECK_EQ(t, soft_liveness(ops, count, ZF, live), 0);
    CHECK_EQ(t, live[0], 0);
    CHECK_EQ(t, live[1], CF);
    CHECK_EQ(t, live[2], CF);
    CHECK_EQ(t, live[3], CF);
    CHECK_EQ(t, live[4], ZF);
    CHECK_EQ(t, soft_liveness_precise(ops, count, ZF, live), 0);
    CHECK_EQ(t, live[1], CF);
    CHECK_EQ(t, live[2], ARITH); /* the store may fault */
    CHECK_EQ(t, live[3], CF);
    CHECK_EQ(t, soft_liveness(ops, 0, ZF, live), ZF);
}

static void test_vectors(struct test *t)
{
    static const uint8_t code[] = {
        0x01, 0xd8,       /* add */
        0x0f, 0x58, 0xc1, /* addps */
        0x0f, 0x2f, 0xc1, /* comiss: writes all */
        0xda, 0xd9,       /* fcmovu: PF */
    };
    static struct soft_op ops[OPS_MAX];
    uint16_t live[OPS_MAX];
    unsigned count = block_make(ops, code, sizeof code);

    CHECK_EQ(t, count, 4);
    CHECK_EQ(t, soft_liveness(ops, count, 0, live), 0);
    CHECK_EQ(t, live[0], 0);
    CHECK_EQ(t, live[2], X86_RFLAGS_PF);
    CHECK_EQ(t, soft_liveness_precise(ops, count, 0, live), 0);
    CHECK_EQ(t, live[0], ARITH);
    CHECK_EQ(t, live[1], ARITH);
}

static uint16_t live_in(const char *bytes, size_t length, unsigned depth)
{
    return soft_live_in((const uint8_t *)bytes, length, X86_CODE_64, depth);
}

static void test_live_in(struct test *t)
{
    const char *store_add = "\x89\x07\x01\xd8"; /* mov %eax, (%rdi); add %ebx, %eax */

    CHECK_EQ(t, live_in("\x01\xd8", 2, 4), 0);             /* add */
    CHECK_EQ(t, live_in("\x01\xd8", 2, 0), ARITH);         /* not looked at */
    CHECK_EQ(t, live_in("\x01", 1, 4), ARITH);             /* cut off */
    CHECK_EQ(t, live_in("\x11\xd8", 2, 4), CF);            /* adc */
    CHECK_EQ(t, live_in("\x89\xd8\x01\xd8", 4, 1), ARITH); /* mov; not looked at */
    CHECK_EQ(t, live_in("\x89\xd8\x01\xd8", 4, 2), 0);     /* mov; add */
    CHECK_EQ(t, live_in("\xff\xc0\x74\x00", 4, 4), CF);    /* inc; je: CF not overwritten */
    CHECK_EQ(t, live_in("\x01\xd8\x74\x00", 4, 4), 0);     /* add; je */
    CHECK_EQ(t, live_in("\x74\x00\x01\xd8", 4, 4), ARITH); /* je first */
    CHECK_EQ(t, live_in("\x06", 1, 4), ARITH);             /* #UD in 64-bit mode */
    CHECK_EQ(t, live_in("\x0f\x05", 2, 4), ARITH);         /* syscall */
    CHECK_EQ(t, live_in("\xf3\xa6\x01\xd8", 4, 4), ARITH); /* repe cmpsb may do nothing */
    CHECK_EQ(t, live_in("\x73\xfe", 2, 4), ARITH);
    CHECK_EQ(t, live_in(store_add, 4, 4), 0);
    CHECK_EQ(t, soft_live_in_precise((const uint8_t *)store_add, 4, X86_CODE_64, 4), ARITH);
    CHECK_EQ(t, soft_live_in_precise((const uint8_t *)"\x01\xd8\x89\x07", 4, X86_CODE_64, 4), 0);
}

static uint64_t random64(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Whether `flag` reaches a reader, or the end, from the first of `ops`: forward, one flag alone. */
static bool flag_reaches(const struct soft_op *ops, unsigned count, uint16_t flag,
                         uint16_t live_out)
{
    bool feature[X86_FEATURE_COUNT];

    memset(feature, true, sizeof feature);
    for (unsigned i = 0; i < count; i++) {
        struct x86_vector_insn vector;
        struct x86_flags flags;
        bool known =
            ops[i].insn.op == X86_OP_VECTOR && x86_vector_describe(&ops[i].insn, feature, &vector);

        x86_flags_of(&ops[i].insn, known ? &vector : NULL, &flags);
        if (flags.read & flag)
            return true;
        if (flags.written & flag)
            return false;
    }
    return (live_out & flag) != 0;
}

static void random_block_check(struct test *t, const struct soft_op *ops, unsigned count,
                               uint16_t live_out)
{
    uint16_t live[OPS_MAX], precise[OPS_MAX];

    soft_liveness(ops, count, live_out, live);
    soft_liveness_precise(ops, count, live_out, precise);
    for (unsigned i = 0; i < count; i++) {
        CHECK_EQ(t, live[i] & ~precise[i], 0);
        CHECK(t, i + 1 == count || !x86_insn_may_fault(&ops[i + 1].insn) || precise[i] == ARITH);
        for (unsigned bit = 1; bit <= X86_RFLAGS_OF; bit <<= 1) {
            if (bit & ARITH)
                CHECK_EQ(t, (live[i] & bit) != 0,
                         flag_reaches(ops + i + 1, count - i - 1, (uint16_t)bit, live_out));
        }
    }
}

static void test_random(struct test *t)
{
    static struct soft_op ops[OPS_MAX];
    uint64_t state = 88172645463325252u;
    unsigned whole = 0;
    uint8_t code[64];

    for (unsigned i = 0; i < 50000; i++) {
        uint16_t before = ARITH;

        for (unsigned k = 0; k < sizeof code; k += 8) {
            uint64_t bytes = random64(&state);

            memcpy(code + k, &bytes, 8);
        }
        unsigned count = block_make(ops, code, sizeof code);
        random_block_check(t, ops, count, (uint16_t)(random64(&state) & ARITH));
        whole += count > 8;
        for (unsigned depth = 0; depth < 12; depth++) {
            uint16_t now = soft_live_in(code, sizeof code, X86_CODE_64, depth);

            CHECK_EQ(t, now & ~before, 0);
            CHECK_EQ(t, now & ~soft_live_in_precise(code, sizeof code, X86_CODE_64, depth), 0);
            before = now;
        }
    }
    CHECK(t, whole > 1000);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_block);
    TEST_RUN(&t, test_vectors);
    TEST_RUN(&t, test_live_in);
    TEST_RUN(&t, test_random);
    return test_end(&t);
}
