/*
 * Checks the table of flags on the host's own unit: random integer instructions between registers
 * run with random operands and all 64 flag patterns. A flag outside `read` must not influence
 * anything but itself, one in `written` must not keep anything of its old value, one outside
 * `written` and `maybe` must keep it. Where Zydis is there, flags_zydis_test.c checks the rest.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/test.h"
#include "cpu/x86/flags.h"

#define CANDIDATES 2000000
#define OPERANDS   3
#define PATTERNS   64
#define ENOUGH     1500 /* runs of an operation, after which most candidates are left out */
#define ARITH      X86_RFLAGS_ARITH

/* As POPFQ, POP RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8 to R15 take it. */
struct machine {
    uint64_t rflags;
    uint64_t gpr[15];
};

/* The page before the code, which addresses it relative to RIP. */
struct data {
    struct machine in;
    struct machine out;
    uint64_t host_rsp;
};

struct runner {
    struct data *data;
    uint8_t *code;
    size_t page;
    uint64_t random;
    unsigned executed[X86_OP_COUNT];
};

static sigjmp_buf trap;

/* #DE, and #UD of what the host does not have. */
static void trap_take(int signal)
{
    siglongjmp(trap, signal);
}

static uint64_t random64(struct runner *r)
{
    r->random ^= r->random << 13;
    r->random ^= r->random >> 7;
    r->random ^= r->random << 17;
    return r->random;
}

static bool runner_init(struct runner *r)
{
    static uint8_t stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_handler = trap_take, .sa_flags = SA_ONSTACK};
    void *memory;

    r->random = 88172645463325252u;
    r->page = (size_t)sysconf(_SC_PAGESIZE);
    memory = mmap(NULL, 2 * r->page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return false;
    r->data = memory;
    r->code = (uint8_t *)memory + r->page;
    return sigaltstack(&alternate, NULL) == 0 && sigaction(SIGFPE, &action, NULL) == 0 &&
           sigaction(SIGILL, &action, NULL) == 0;
}

static void runner_fini(struct runner *r)
{
    struct sigaction action = {.sa_handler = SIG_DFL};

    sigaction(SIGFPE, &action, NULL);
    sigaction(SIGILL, &action, NULL);
    munmap(r->data, 2 * r->page);
}

static uint8_t *bytes_put(uint8_t *at, const void *bytes, size_t count)
{
    memcpy(at, bytes, count);
    return at + count;
}

/* 48 `opcode` with RSP and [RIP + to `target`]. */
static uint8_t *rsp_put(uint8_t *at, uint8_t opcode, const void *target)
{
    const uint8_t bytes[3] = {0x48, opcode, 0x25 /* RSP, [RIP + disp32] */};
    int32_t displacement = (int32_t)((const uint8_t *)target - (at + 7));

    at = bytes_put(at, bytes, 3);
    return bytes_put(at, &displacement, 4);
}

static uint8_t *code_put(struct runner *r, const struct x86_insn *insn)
{
    static const uint8_t save[] = {0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57};
    static const uint8_t load[] = {0x9d, 0x58, 0x59, 0x5a, 0x5b, 0x5d, 0x5e, 0x5f,
                                   0x41, 0x58, 0x41, 0x59, 0x41, 0x5a, 0x41, 0x5b,
                                   0x41, 0x5c, 0x41, 0x5d, 0x41, 0x5e, 0x41, 0x5f};
    static const uint8_t vectors[] = {0x66, 0x48, 0x0f, 0x6e, 0xc0,  /* MOVQ XMM0, RAX */
                                      0x66, 0x48, 0x0f, 0x6e, 0xc9}; /* MOVQ XMM1, RCX */
    static const uint8_t store[] = {0x41, 0x57, 0x41, 0x56, 0x41, 0x55, 0x41, 0x54,
                                    0x41, 0x53, 0x41, 0x52, 0x41, 0x51, 0x41, 0x50,
                                    0x57, 0x56, 0x55, 0x53, 0x52, 0x51, 0x50, 0x9c};
    static const uint8_t restore[] = {0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d,
                                      0x41, 0x5c, 0x5d, 0x5b, 0xc3};
    uint8_t *at = r->code;

    at = bytes_put(at, save, sizeof save);
    at = rsp_put(at, 0x89, &r->data->host_rsp);
    at = rsp_put(at, 0x8d, &r->data->in);
    at = bytes_put(at, load, sizeof load);
    at = rsp_put(at, 0x8d, &r->data->out + 1);
    at = bytes_put(at, vectors, sizeof vectors);
    at = bytes_put(at, insn->bytes, insn->length);
    at = bytes_put(at, store, sizeof store);
    at = rsp_put(at, 0x8b, &r->data->host_rsp);
    return bytes_put(at, restore, sizeof restore);
}

static bool code_set(struct runner *r, const struct x86_insn *insn)
{
    if (mprotect(r->code, r->page, PROT_READ | PROT_WRITE) != 0)
        return false;
    code_put(r, insn);
    return mprotect(r->code, r->page, PROT_READ | PROT_EXEC) == 0;
}

static uint64_t pattern_flags(unsigned pattern)
{
    return (pattern & 1 ? X86_RFLAGS_CF : 0) | (pattern & 2 ? X86_RFLAGS_PF : 0) |
           (pattern & 4 ? X86_RFLAGS_AF : 0) | (pattern & 8 ? X86_RFLAGS_ZF : 0) |
           (pattern & 16 ? X86_RFLAGS_SF : 0) | (pattern & 32 ? X86_RFLAGS_OF : 0);
}

static void machine_run(struct runner *r, unsigned pattern, const uint64_t gpr[15],
                        struct machine *out)
{
    void (*enter)(void);
    uint8_t *code = r->code;

    memcpy(&enter, &code, sizeof enter);
    r->data->in.rflags = pattern_flags(pattern) | X86_RFLAGS_IF | X86_RFLAGS_ONE;
    memcpy(r->data->in.gpr, gpr, sizeof r->data->in.gpr);
    enter();
    *out = r->data->out;
}

/* All patterns with the same operands; false: the instruction raised an exception. */
static bool machine_run_all(struct runner *r, const uint64_t gpr[15], struct machine out[PATTERNS])
{
    if (sigsetjmp(trap, 1) != 0)
        return false;
    for (unsigned i = 0; i < PATTERNS; i++)
        machine_run(r, i, gpr, &out[i]);
    return true;
}

/* What flag `bit` did between two runs that differ in nothing else. */
static const char *pair_compare(const struct x86_flags *flags, uint64_t bit,
                                const struct machine *clear, const struct machine *set)
{
    uint64_t changed = (clear->rflags ^ set->rflags) & ARITH;

    if (!(flags->read & bit)) {
        if (memcmp(clear->gpr, set->gpr, sizeof clear->gpr) != 0)
            return "a flag not read changes a register";
        if (changed & ~bit)
            return "a flag not read changes another flag";
        if ((flags->written & bit) && (changed & bit))
            return "a flag written keeps its old value";
    }
    if (!((flags->written | flags->maybe) & bit) && ((clear->rflags & bit) || !(set->rflags & bit)))
        return "a flag not written changes";
    return NULL;
}

static const char *runs_compare(const struct x86_flags *flags, const struct machine out[PATTERNS])
{
    for (unsigned bit = 1; bit < PATTERNS; bit <<= 1) {
        for (unsigned i = 0; i < PATTERNS; i++) {
            const char *what =
                i & bit ? NULL : pair_compare(flags, pattern_flags(bit), &out[i], &out[i | bit]);
            if (what)
                return what;
        }
    }
    return NULL;
}

static const char *insn_check(struct runner *r, const struct x86_insn *insn,
                              const struct x86_flags *flags)
{
    static struct machine out[PATTERNS];
    uint64_t gpr[15];

    if (!code_set(r, insn))
        return "cannot write the code";
    for (unsigned round = 0; round < OPERANDS; round++) {
        for (unsigned i = 0; i < 15; i++)
            gpr[i] = random64(r) >> (random64(r) >> 20) % 64;
        if (!machine_run_all(r, gpr, out))
            continue;
        const char *what = runs_compare(flags, out);
        if (what)
            return what;
        r->executed[insn->op]++;
    }
    return NULL;
}

/* Harmless between registers in user mode. */
static bool op_is_native(unsigned op)
{
    switch (op) {
    case X86_OP_XCHG:
    case X86_OP_MOV:
    case X86_OP_MOVZX8:
    case X86_OP_MOVZX16:
    case X86_OP_MOVSX8:
    case X86_OP_MOVSX16:
    case X86_OP_MOVSXD:
    case X86_OP_LEA:
    case X86_OP_CMOV:
    case X86_OP_SETCC:
    case X86_OP_LAHF:
    case X86_OP_SAHF:
    case X86_OP_CBW:
    case X86_OP_CWD:
    case X86_OP_CLC:
    case X86_OP_STC:
    case X86_OP_CMC:
    case X86_OP_NOP:
        return true;
    default:
        return (op >= X86_OP_ADD && op <= X86_OP_CMPXCHG) ||
               (op >= X86_OP_ADCX && op <= X86_OP_SHRX);
    }
}

static bool insn_is_native(const struct x86_insn *insn)
{
    bool accesses = insn->memory && insn->op != X86_OP_LEA && insn->op != X86_OP_NOP;

    if (!op_is_native(insn->op) || accesses ||
        (insn->op == X86_OP_LEA && insn->base == X86_REG_RIP))
        return false;
    return (insn->reg & 15) != X86_RSP && insn->rm != X86_RSP && insn->vvvv != X86_RSP &&
           insn->base != X86_RSP;
}

/* Random bytes, with the prefixes and VEX forms of integer instructions at the front more often. */
static void bytes_fill(struct runner *r, uint8_t bytes[16])
{
    uint64_t low = random64(r), high = random64(r), how = random64(r) >> 33;
    unsigned at = 0;

    memcpy(bytes, &low, 8);
    memcpy(bytes + 8, &high, 8);
    if (how & 1)
        bytes[at++] = (const uint8_t[]){0x66, 0xf3, 0xf2, 0x66}[how >> 1 & 3];
    if (how & 8)
        bytes[at++] = (uint8_t)(0x40 | (how >> 4 & 15));
    if (how & 0x300)
        bytes[at++] = 0x0f;
    if ((how & 0x1c00) == 0) {
        bytes[0] = 0xc4;
        bytes[1] = (uint8_t)((bytes[1] & 0xe0) | (how & 0x2000 ? 2 : 3));
        bytes[2] &= 0xfb;
        bytes[3] = (uint8_t)(0xf0 | (bytes[3] & 7));
    } else if ((how & 0x1c00) == 0x400) {
        bytes[at++] = 0x0f;
        bytes[at++] = 0x38;
        bytes[at++] = (uint8_t)(0xf0 | (how >> 16 & 7));
    }
}

static bool insn_good(struct test *t, struct runner *r, const struct x86_insn *insn,
                      const struct x86_flags *flags)
{
    const char *what = insn_check(r, insn, flags);

    if (CHECK_STR(t, what ? what : "good", "good"))
        return true;
    printf("%s:", x86_op_name((enum x86_op)insn->op));
    for (unsigned i = 0; i < insn->length; i++)
        printf(" %02x", insn->bytes[i]);
    printf("\n");
    return false;
}

/* Almost every operation must have run: MOVBE has no form between registers, and a host may lack
 * ADX, BMI and CRC32. */
static void coverage_check(struct test *t, const struct runner *r)
{
    unsigned covered = 0;

    for (unsigned op = 0; op < X86_OP_COUNT; op++) {
        covered += op_is_native(op) && r->executed[op] > 0;
        if (op_is_native(op) && r->executed[op] == 0)
            printf("not run on this host: %s\n", x86_op_name((enum x86_op)op));
    }
    CHECK(t, covered >= 50);
}

static void test_host_integer(struct test *t)
{
    static struct runner r;
    unsigned bad = 0;
    uint8_t bytes[16];

    if (!CHECK(t, runner_init(&r)))
        return;
    for (unsigned i = 0; i < CANDIDATES && bad < 20; i++) {
        struct x86_flags flags;
        struct x86_insn insn;

        bytes_fill(&r, bytes);
        if (x86_decode(&insn, X86_CODE_64, bytes, 15) != X86_DECODE_OK || !insn_is_native(&insn) ||
            (r.executed[insn.op] > ENOUGH && random64(&r) % 64 != 0))
            continue;
        x86_flags_of(&insn, NULL, &flags);
        bad += !insn_good(t, &r, &insn, &flags);
    }
    coverage_check(t, &r);
    runner_fini(&r);
}

/* Comparisons of XMM0 and XMM1, and of opmasks. */
static void test_host_vector(struct test *t)
{
    static const uint8_t compares[][16] = {
        {0x0f, 0x2e, 0xc1},                   /* UCOMISS */
        {0x0f, 0x2f, 0xc1},                   /* COMISS */
        {0x66, 0x0f, 0x2e, 0xc1},             /* UCOMISD */
        {0x66, 0x0f, 0x2f, 0xc1},             /* COMISD */
        {0x66, 0x0f, 0x38, 0x17, 0xc1},       /* PTEST */
        {0x66, 0x0f, 0x3a, 0x61, 0xc1, 0x00}, /* PCMPESTRI */
        {0x66, 0x0f, 0x3a, 0x63, 0xc1, 0x0c}, /* PCMPISTRI */
        {0xc4, 0xe2, 0x79, 0x0e, 0xc1},       /* VTESTPS */
        {0xc4, 0xe2, 0x79, 0x0f, 0xc1},       /* VTESTPD */
        {0xc4, 0xe2, 0x79, 0x17, 0xc1},       /* VPTEST */
        {0xc5, 0xf8, 0x98, 0xc1},             /* KORTESTW */
        {0xc5, 0xf9, 0x99, 0xc1},             /* KTESTB */
        {0x62, 0xf1, 0x7c, 0x08, 0x2e, 0xc1}, /* VUCOMISS */
    };
    static struct runner r;
    bool feature[X86_FEATURE_COUNT];

    memset(feature, true, sizeof feature);
    if (!CHECK(t, runner_init(&r)))
        return;
    for (unsigned i = 0; i < 100 * sizeof compares / sizeof *compares; i++) {
        struct x86_vector_insn vector;
        struct x86_flags flags;
        struct x86_insn insn;

        if (!CHECK(t, x86_decode(&insn, X86_CODE_64, compares[i / 100], 15) == X86_DECODE_OK) ||
            !CHECK(t, x86_vector_describe(&insn, feature, &vector)))
            break;
        x86_flags_of(&insn, &vector, &flags);
        CHECK_EQ(t, flags.written, ARITH);
        if (!insn_good(t, &r, &insn, &flags))
            break;
    }
    CHECK(t, r.executed[X86_OP_VECTOR] >= 4 * 100 * OPERANDS);
    runner_fini(&r);
}

static struct x86_flags flags_at(const char *bytes, enum x86_code_size size)
{
    struct x86_flags flags = {0};
    struct x86_insn insn;
    uint8_t padded[16] = {0};

    memcpy(padded, bytes, strnlen(bytes, 15));
    if (x86_decode(&insn, size, padded, 15) == X86_DECODE_OK)
        x86_flags_of(&insn, NULL, &flags);
    return flags;
}

#define CHECK_FLAGS(t, bytes, size, r, w, m)                                                       \
    do {                                                                                           \
        struct x86_flags got_ = flags_at(bytes, size);                                             \
        CHECK_EQ(t, got_.read, r);                                                                 \
        CHECK_EQ(t, got_.written, w);                                                              \
        CHECK_EQ(t, got_.maybe, m);                                                                \
    } while (0)

/* The strength of the table, which the checks for safety cannot see. */
static void test_known(struct test *t)
{
    const unsigned cf = X86_RFLAGS_CF, of = X86_RFLAGS_OF, af = X86_RFLAGS_AF, zf = X86_RFLAGS_ZF;
    const unsigned pf = X86_RFLAGS_PF, sf = X86_RFLAGS_SF;

    CHECK_FLAGS(t, "\x01\xd8", X86_CODE_64, 0, ARITH, 0);        /* add */
    CHECK_FLAGS(t, "\x11\xd8", X86_CODE_64, cf, ARITH, 0);       /* adc */
    CHECK_FLAGS(t, "\x31\xc0", X86_CODE_64, 0, ARITH, 0);        /* xor */
    CHECK_FLAGS(t, "\xff\xc0", X86_CODE_64, 0, ARITH & ~cf, 0);  /* inc */
    CHECK_FLAGS(t, "\xd1\xe0", X86_CODE_64, 0, ARITH & ~af, af); /* shl 1 */
    CHECK_FLAGS(t, "\xc1\xe0\x05", X86_CODE_64, 0, ARITH & ~(af | of), af | of);
    CHECK_FLAGS(t, "\xc1\xe0\x20", X86_CODE_64, 0, 0, ARITH);      /* shl by 32 */
    CHECK_FLAGS(t, "\xd3\xe0", X86_CODE_64, 0, 0, ARITH);          /* shl cl */
    CHECK_FLAGS(t, "\xd0\xd0", X86_CODE_64, cf, cf | of, 0);       /* rcl 1 */
    CHECK_FLAGS(t, "\x7c\x10", X86_CODE_64, sf | of, 0, 0);        /* jl */
    CHECK_FLAGS(t, "\x0f\x47\xc1", X86_CODE_64, cf | zf, 0, 0);    /* cmova */
    CHECK_FLAGS(t, "\x0f\x9a\xc1", X86_CODE_64, pf, 0, 0);         /* setp */
    CHECK_FLAGS(t, "\x9c", X86_CODE_64, ARITH, 0, 0);              /* pushf */
    CHECK_FLAGS(t, "\x9d", X86_CODE_64, 0, ARITH, 0);              /* popf */
    CHECK_FLAGS(t, "\x0f\x05", X86_CODE_64, ARITH, 0, ARITH);      /* syscall */
    CHECK_FLAGS(t, "\xa6", X86_CODE_64, 0, ARITH, 0);              /* cmpsb */
    CHECK_FLAGS(t, "\xf3\xa6", X86_CODE_64, 0, 0, ARITH);          /* repe cmpsb */
    CHECK_FLAGS(t, "\x27", X86_CODE_32, cf | af, ARITH & ~of, of); /* daa */
    CHECK_FLAGS(t, "\xda\xd1", X86_CODE_64, cf | zf, 0, 0);        /* fcmovbe */
    CHECK_FLAGS(t, "\xdb\xf1", X86_CODE_64, 0, 0, ARITH);          /* fcomi */
    CHECK_FLAGS(t, "\x0f\x2f\xc1", X86_CODE_64, ARITH, 0, ARITH);  /* not described */
    CHECK_FLAGS(t, "\x89\xd8", X86_CODE_64, 0, 0, 0);              /* mov */
}

static void test_described(struct test *t)
{
    const struct x86_vector_insn compares = {.flags = X86_VECTOR_FLAGS}, moves = {0};
    const struct x86_insn insn = {.op = X86_OP_VECTOR}, beyond = {.op = X86_OP_COUNT};
    struct x86_flags flags;

    x86_flags_of(&insn, &compares, &flags);
    CHECK_EQ(t, flags.written, ARITH);
    CHECK_EQ(t, flags.read | flags.maybe, 0);
    x86_flags_of(&insn, &moves, &flags);
    CHECK_EQ(t, flags.written | flags.read | flags.maybe, 0);
    x86_flags_of(&beyond, NULL, &flags);
    CHECK_EQ(t, flags.read, ARITH);
    CHECK_EQ(t, flags.written, 0);
}

static bool may_fault(const char *bytes)
{
    uint8_t padded[16] = {0};
    struct x86_insn insn;

    memcpy(padded, bytes, strnlen(bytes, 15));
    return x86_decode(&insn, X86_CODE_64, padded, 15) == X86_DECODE_OK && x86_insn_may_fault(&insn);
}

static void test_faults(struct test *t)
{
    CHECK(t, !may_fault("\x01\xd8"));     /* add %ebx, %eax */
    CHECK(t, may_fault("\x01\x18"));      /* add %ebx, (%rax) */
    CHECK(t, !may_fault("\x8d\x18"));     /* lea */
    CHECK(t, !may_fault("\x0f\x1f\x18")); /* nop (%rax) */
    CHECK(t, may_fault("\x50"));          /* push %rax */
    CHECK(t, may_fault("\xf7\xf3"));      /* div %ebx */
    CHECK(t, may_fault("\xa4"));          /* movsb */
    CHECK(t, may_fault("\x0f\x58\xc1"));  /* addps */
    CHECK(t, may_fault("\xd9\xc0"));      /* fld %st */
    CHECK(t, !may_fault("\xc1\xe0\x05")); /* shl */
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_known);
    TEST_RUN(&t, test_described);
    TEST_RUN(&t, test_faults);
    TEST_RUN(&t, test_host_integer);
    TEST_RUN(&t, test_host_vector);
    return test_end(&t);
}
