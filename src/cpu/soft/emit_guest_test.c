/*
 * Checks the encoder of guest instructions against Zydis, an independent decoder. Random
 * instructions in 16-, 32- and 64-bit code are encoded anew with random registers: Zydis must find
 * the same instruction with the registers renamed and its memory at the new base. The registers
 * that emit_registers_of() reports must be those that Zydis sees read and written.
 */
#include "cpu/soft/emit.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/test.h"
#include "cpu/soft/emit_zydis.h"
#include "cpu/x86/state.h"

#define ROUNDS     6000000
#define COMPLAINTS 40

struct check {
    uint64_t random;
    ZydisDecoder decoder[3]; /* by enum x86_code_size */
    unsigned encoded[X86_OP_COUNT];
    unsigned agreed, high_bytes, failed;
};

static uint64_t random64(struct check *c)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return c->random;
}

static bool is_vector(const struct x86_insn *insn)
{
    return insn->op == X86_OP_VECTOR || insn->op == X86_OP_X87;
}

/* -- general registers as Zydis names them -- */

static bool is_high(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}

/* Explicit as emit.h has it: Zydis calls a short form's accumulator implicit. */
static bool is_named(const struct x86_insn *insn, const ZydisDecodedOperand *operand)
{
    unsigned op = insn->opcode;

    if (operand->encoding != ZYDIS_OPERAND_ENCODING_NONE)
        return true;
    return insn->map == 0 && insn->vex == X86_VEX_NONE && !is_vector(insn) &&
           operand->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
           ((op < 0x40 && (op & 6) == 4) || (op >= 0x90 && op <= 0x97) ||
            (op >= 0xa0 && op <= 0xa3) || op == 0xa8 || op == 0xa9);
}

/* -- emit_registers_of() -- */

struct actions {
    uint16_t read, written, implicit_read, implicit_written;
    uint16_t kept; /* a part, or under a condition */
    bool high;
};

static void count_register(const struct x86_insn *insn, const ZydisDecodedOperand *operand,
                           struct actions *a)
{
    uint16_t mask;
    bool named = is_named(insn, operand);

    if (!is_general(operand->reg.value))
        return;
    mask = (uint16_t)(1u << number_of(operand->reg.value));
    if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        *(named ? &a->read : &a->implicit_read) |= mask;
    if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        *(named ? &a->written : &a->implicit_written) |= mask;
    if ((operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
        (operand->size < 32 || (operand->actions & ZYDIS_OPERAND_ACTION_CONDWRITE)))
        a->kept |= mask;
    a->high |= named && is_high(operand->reg.value);
}

/* String instructions step their addresses, which Zydis does not say of all of them. */
static void count_memory(const struct x86_insn *insn, const ZydisDecodedOperand *operand,
                         struct actions *a)
{
    uint16_t base = 0;

    if (operand->encoding != ZYDIS_OPERAND_ENCODING_NONE)
        return;
    if (is_general(operand->mem.base))
        base = (uint16_t)(1u << number_of(operand->mem.base));
    a->implicit_read |= base;
    if (insn->op >= X86_OP_MOVS && insn->op <= X86_OP_OUTS)
        a->implicit_written |= base;
    if (is_general(operand->mem.index))
        a->implicit_read |= (uint16_t)(1u << number_of(operand->mem.index));
}

static struct actions actions_of(const struct x86_insn *insn, const struct zydis *z)
{
    struct actions a = {0};

    for (unsigned i = 0; i < z->insn.operand_count; i++) {
        if (z->operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
            count_register(insn, &z->operand[i], &a);
        else if (z->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            count_memory(insn, &z->operand[i], &a);
    }
    if (insn->op == X86_OP_BSF || insn->op == X86_OP_BSR)
        a.kept |= a.written; /* by a source of 0 */
    return a;
}

/* Where Zydis' lists say less than the manual, or where the emitter's are said to be wider. */
static bool registers_differ_on_purpose(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_NOP:  /* reads none */
    case X86_OP_INTO: /* interrupts use the stack */
    case X86_OP_INT3:
    case X86_OP_INT:
    case X86_OP_INT1:
    case X86_OP_VMCALL:   /* hypercalls have arguments */
    case X86_OP_UD:       /* reads none */
    case X86_OP_PREFETCH: /* of a register: a NOP */
        return true;
    default:
        return false;
    }
}

/* All that Zydis has must be there; a read more only of what a write keeps. */
static const char *registers_compare(const struct x86_insn *insn,
                                     const struct x86_vector_insn *vector, const struct zydis *z,
                                     struct emit_registers *ours)
{
    struct actions theirs = actions_of(insn, z);

    emit_registers_of(insn, vector, ours);
    if (registers_differ_on_purpose(insn))
        return NULL;
    if (ours->written != theirs.written)
        return "registers written";
    if (ours->implicit_written != theirs.implicit_written)
        return "implicit registers written";
    if ((theirs.read & ~ours->read) || (ours->read & ~(theirs.read | theirs.kept)))
        return "registers read";
    if ((theirs.implicit_read & ~ours->implicit_read) ||
        (ours->implicit_read & ~(theirs.implicit_read | theirs.kept)))
        return "implicit registers read";
    return ours->high_byte == theirs.high ? NULL : "high byte register";
}

/* -- emit_insn() -- */

static const char *compare_register(const struct x86_insn *insn, const ZydisDecodedOperand *old,
                                    const ZydisDecodedOperand *new,
                                    const struct emit_rename *rename)
{
    unsigned want;

    if (ZydisRegisterGetClass(old->reg.value) == ZYDIS_REGCLASS_FLAGS) /* FLAGS to RFLAGS */
        return ZydisRegisterGetClass(new->reg.value) == ZYDIS_REGCLASS_FLAGS ? NULL : "flags";
    if (ZydisRegisterGetClass(old->reg.value) == ZYDIS_REGCLASS_IP)
        return ZydisRegisterGetClass(new->reg.value) == ZYDIS_REGCLASS_IP ? NULL : "IP";
    if (!is_general(old->reg.value))
        return old->reg.value == new->reg.value ? NULL : "another register";
    want = number_of(old->reg.value);
    if (is_named(insn, old))
        want = rename->gpr[want];
    if (!is_general(new->reg.value) || number_of(new->reg.value) != want)
        return "general register";
    if (is_high(old->reg.value) != is_high(new->reg.value))
        return "high byte";
    return NULL;
}

/* R8 to R15 want REX. */
static bool is_high_register(unsigned host)
{
    return host >= HOST_R8 && host != HOST_NONE;
}

static ZydisRegister memory_register(unsigned host)
{
    return host == HOST_NONE ? ZYDIS_REGISTER_NONE : (ZydisRegister)(ZYDIS_REGISTER_RAX + host);
}

static const char *compare_memory(const struct x86_insn *insn, const ZydisDecodedOperand *old,
                                  const ZydisDecodedOperand *new, const struct emit_rename *rename)
{
    if (old->encoding == ZYDIS_OPERAND_ENCODING_NONE) {
        if (number_of(old->mem.base) != number_of(new->mem.base))
            return "implied base";
        return ZydisRegisterGetClass(new->mem.base) == ZYDIS_REGCLASS_GPR64 ? NULL : "address size";
    }
    if (new->mem.base != memory_register(rename->memory_base))
        return "memory base";
    if (new->mem.index != memory_register(rename->memory_index))
        return "memory index";
    if (new->mem.index != ZYDIS_REGISTER_NONE &&new->mem.scale != 1 << rename->memory_scale)
        return "memory scale";
    if (new->mem.disp.value != rename->memory_disp)
        return "memory displacement";
    if (new->mem.segment != ZYDIS_REGISTER_DS &&new->mem.segment != ZYDIS_REGISTER_SS)
        return "segment";
    return insn->op == X86_OP_LEA || old->size == new->size ? NULL : "memory size";
}

/* Registers that are 64 bits wide in the new code whatever they were: pointers and REP's count. */
static bool is_address_or_count(const ZydisDecodedOperand *operand)
{
    const unsigned mask = 1u << X86_RCX | 1u << X86_RSP | 1u << X86_RSI | 1u << X86_RDI;

    return !is_general(operand->reg.value) ||
           (operand->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
            (mask >> number_of(operand->reg.value) & 1));
}

static const char *compare_operand(const struct x86_insn *insn, const ZydisDecodedOperand *old,
                                   const ZydisDecodedOperand *new, const struct emit_rename *rename)
{
    if (old->type != new->type)
        return "operand type";
    if (old->actions != new->actions)
        return "operand action";
    switch (old->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        if (old->size != new->size && !is_address_or_count(old))
            return "operand size";
        return compare_register(insn, old, new, rename);
    case ZYDIS_OPERAND_TYPE_MEMORY:
        return compare_memory(insn, old, new, rename);
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        if (old->size != new->size)
            return "operand size";
        return old->imm.value.u == new->imm.value.u ? NULL : "immediate";
    default:
        return NULL;
    }
}

static const char *compare_prefixes(const struct x86_insn *insn, const struct zydis *old,
                                    const struct zydis *new)
{
    const ZydisInstructionAttributes meaning = ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP |
                                               ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE |
                                               ZYDIS_ATTRIB_HAS_EVEX | ZYDIS_ATTRIB_HAS_VEX;

    if ((old->insn.attributes ^ new->insn.attributes) & meaning)
        return "prefixes";
    if (new->insn.attributes & ZYDIS_ATTRIB_HAS_ADDRESSSIZE)
        return "67 kept";
    if (insn->vex == X86_VEX_NONE)
        return NULL;
    if (old->insn.avx.vector_length != new->insn.avx.vector_length ||
        old->insn.avx.mask.mode != new->insn.avx.mask.mode ||
        old->insn.avx.mask.reg != new->insn.avx.mask.reg ||
        old->insn.avx.broadcast.mode != new->insn.avx.broadcast.mode ||
        old->insn.avx.rounding.mode != new->insn.avx.rounding.mode ||
        old->insn.avx.has_sae != new->insn.avx.has_sae)
        return "vector length, mask, broadcast or rounding";
    return NULL;
}

static const char *compare_insn(const struct x86_insn *insn, const struct zydis *old,
                                const struct zydis *new, const struct emit_rename *rename)
{
    const char *what;

    if (insn->op == X86_OP_NOP || old->insn.mnemonic == ZYDIS_MNEMONIC_NOP)
        return new->insn.mnemonic == ZYDIS_MNEMONIC_NOP ? NULL : "not a NOP";
    if (old->insn.mnemonic != new->insn.mnemonic)
        return "mnemonic";
    if (old->insn.operand_count != new->insn.operand_count)
        return "operand count";
    what = compare_prefixes(insn, old, new);
    for (unsigned i = 0; !what && i < old->insn.operand_count; i++) {
        what = compare_operand(insn, &old->operand[i], &new->operand[i], rename);
    }
    return what;
}

/* -- one instruction -- */

static void rename_random(struct check *c, struct emit_rename *rename)
{
    uint64_t bits = random64(c);

    for (unsigned i = 0; i < 16; i++)
        rename->gpr[i] = (uint8_t)(bits >> 4 * i & 15);
    if (random64(c) >> 20 & 1) { /* as the translator does: most are themselves */
        for (unsigned i = 0; i < 8; i++)
            rename->gpr[i] = (uint8_t)i;
    }
    bits = random64(c);
    rename->memory_base = (uint8_t)(bits >> 30 & 15);
    rename->memory_index = HOST_NONE;
    rename->memory_scale = 0;
    rename->memory_disp = 0;
    if (bits >> 34 & 1)
        rename->memory_disp = bits >> 35 & 1 ? (int8_t)bits : (int32_t)bits;
    if (bits >> 36 & 1) {
        rename->memory_index = (uint8_t)(bits >> 37 & 15);
        rename->memory_scale = (uint8_t)(bits >> 41 & 3);
    }
    if (rename->memory_index == HOST_RSP)
        rename->memory_index = HOST_NONE;
    if (rename->memory_index != HOST_NONE && (bits >> 43 & 3) == 0)
        rename->memory_base = HOST_NONE;
}

/* Operations that must always be encoded (but for the exceptions in must_refuse()). */
static bool is_plain(unsigned op)
{
    static const uint16_t others[] = {
        X86_OP_LAHF,     X86_OP_SAHF,   X86_OP_CBW,    X86_OP_CWD,    X86_OP_MOVS,
        X86_OP_CMPS,     X86_OP_STOS,   X86_OP_LODS,   X86_OP_SCAS,   X86_OP_CLC,
        X86_OP_STC,      X86_OP_CMC,    X86_OP_NOP,    X86_OP_PAUSE,  X86_OP_LDMXCSR,
        X86_OP_STMXCSR,  X86_OP_LFENCE, X86_OP_MFENCE, X86_OP_SFENCE, X86_OP_CLFLUSH,
        X86_OP_PREFETCH, X86_OP_RDRAND, X86_OP_RDSEED, X86_OP_X87,    X86_OP_VECTOR};

    for (unsigned i = 0; i < sizeof others / sizeof *others; i++) {
        if (op == others[i])
            return true;
    }
    return (op > X86_OP_INVALID && op <= X86_OP_POP) || (op >= X86_OP_MOVNTI && op <= X86_OP_SHRX);
}

/* What emit_insn() refuses whatever the registers: emit.h lists it. */
static bool must_refuse(const struct x86_insn *insn, const struct x86_vector_insn *vector)
{
    switch (insn->op) {
    case X86_OP_VECTOR:
    case X86_OP_X87:
        return vector->memory == X86_MEMORY_GATHER || vector->memory == X86_MEMORY_SCATTER ||
               vector->memory == X86_MEMORY_STRING || vector->memory == X86_MEMORY_ENVIRONMENT ||
               vector->memory == X86_MEMORY_X87_STATE;
    case X86_OP_PUSH:
    case X86_OP_POP:
        return insn->operand_size == 4;
    case X86_OP_BT:
    case X86_OP_BTS:
    case X86_OP_BTR:
    case X86_OP_BTC:
        return insn->memory && insn->form == X86_FORM_RM_REG;
    default:
        return !is_plain(insn->op);
    }
}

/* AH to BH, and a register (not RAX to RBX itself) or base that needs REX. */
static bool high_byte_refuses(const struct emit_registers *registers, const struct x86_insn *insn,
                              const struct emit_rename *rename)
{
    if (!registers->high_byte)
        return false;
    if (insn->memory &&
        (is_high_register(rename->memory_base) || is_high_register(rename->memory_index)))
        return true;
    for (unsigned i = 0; i < 16; i++) {
        if (((registers->read | registers->written) >> i & 1) && rename->gpr[i] >= 4)
            return true;
    }
    return false;
}

static const char *check_emit(struct check *c, const struct x86_insn *insn,
                              const struct x86_vector_insn *vector, const struct zydis *old,
                              uint8_t out[16])
{
    struct emit e = {.at = out, .end = out + 16};
    struct emit_registers registers;
    struct emit_rename rename;
    struct zydis new;

    rename_random(c, &rename);
    emit_registers_of(insn, vector, &registers);
    if (!emit_insn(&e, insn, vector, &rename)) {
        if (e.at != out)
            return "refused but written";
        return must_refuse(insn, vector) || high_byte_refuses(&registers, insn, &rename)
                   ? NULL
                   : "refused";
    }
    if (must_refuse(insn, vector))
        return "encoded";
    c->encoded[insn->op]++;
    c->high_bytes += registers.high_byte;
    if (e.full)
        return "over 16 bytes";
    if (!decode_zydis(&c->decoder[X86_CODE_64], out, (size_t)(e.at - out), &new))
        return "does not decode";
    if (new.insn.length != e.at - out)
        return "length";
    return compare_insn(insn, old, &new, &rename);
}

static void complain(struct check *c, const struct x86_insn *insn, const uint8_t *out,
                     const char *name, const char *what)
{
    if (c->failed++ >= COMPLAINTS)
        return;
    printf("failed: %s (%s):", name, x86_op_name(insn->op));
    for (unsigned i = 0; i < insn->length; i++)
        printf(" %02x", insn->bytes[i]);
    printf(": %s; encoded as", what);
    for (unsigned i = 0; i < 16; i++)
        printf(" %02x", out[i]);
    printf("\n");
}

/* Zydis takes F3 41 90 for PAUSE; REX.B makes it XCHG. Outside 64-bit code the vector table takes
 * W for the width of a general register, and bit 7 of an immediate for a register's. */
static bool is_skipped(const struct x86_insn *insn, enum x86_code_size size, const struct zydis *z)
{
    if (insn->op == X86_OP_XCHG)
        return z->insn.mnemonic == ZYDIS_MNEMONIC_PAUSE;
    return size != X86_CODE_64 && insn->op == X86_OP_VECTOR && insn->vex != X86_VEX_NONE;
}

static void check_one(struct check *c, enum x86_code_size size, const uint8_t bytes[16])
{
    bool features[X86_FEATURE_COUNT];
    struct emit_registers registers;
    struct x86_vector_insn vector;
    struct x86_insn insn;
    struct zydis z;
    uint8_t out[16] = {0};
    const char *what;

    memset(features, 1, sizeof features);
    if (x86_decode(&insn, size, bytes, 15) != X86_DECODE_OK)
        return;
    if (is_vector(&insn) && !x86_vector_describe(&insn, features, &vector))
        return;
    if (!decode_zydis(&c->decoder[size], bytes, 15, &z) || z.insn.length != insn.length ||
        is_skipped(&insn, size, &z))
        return;
    what = registers_compare(&insn, is_vector(&insn) ? &vector : NULL, &z, &registers);
    if (!what) {
        what = check_emit(c, &insn, is_vector(&insn) ? &vector : NULL, &z, out);
    }
    if (what)
        complain(c, &insn, out, ZydisMnemonicGetString(z.insn.mnemonic), what);
    else
        c->agreed++;
}

/* Random bytes, with the interesting ones (prefixes, 0F, VEX, EVEX) at the front more often. */
static void bytes_fill(struct check *c, uint8_t bytes[16])
{
    static const uint8_t front[] = {0x0f, 0x0f, 0x66, 0xf2, 0xf3, 0xf0, 0x48, 0x41, 0x67,
                                    0x2e, 0x64, 0xc4, 0xc5, 0x0f, 0x4f, 0x36, 0x62};
    uint64_t low = random64(c), high = random64(c), bits = random64(c);
    unsigned prefixes = (unsigned)(bits >> 40) % 4;

    memcpy(bytes, &low, 8);
    memcpy(bytes + 8, &high, 8);
    for (unsigned i = 0; i < prefixes; i++)
        bytes[i] = front[(random64(c) >> 30) % sizeof front];
    if (prefixes == 1 && bytes[0] == 0xc4) /* a map and a pp that exist */
        bytes[1] = (uint8_t)((bytes[1] & 0xe0) | (1 + bits % 3));
    if (prefixes == 1 && bytes[0] == 0x62) {
        bytes[1] = (uint8_t)((bytes[1] & 0xf0) | (1 + bits % 3));
        bytes[2] |= (uint8_t)(bits >> 8 & 1 ? 0x7c : 4);
        bytes[3] = bits >> 9 & 1 ? (bytes[3] & 0x60) | 8 : bytes[3];
    }
}

static void check_random(struct check *c, unsigned rounds)
{
    uint8_t bytes[16];

    for (unsigned i = 0; i < rounds; i++) {
        bytes_fill(c, bytes);
        check_one(c, i & 1 ? X86_CODE_64 : (enum x86_code_size)(i / 2 % 3), bytes);
    }
}

/* Each operation in its turn, so that rare ones are met often: the bytes before ModRM of one
 * encoding of it, with random prefixes before and random bytes behind. */
static void check_rare(struct check *c, unsigned rounds)
{
    static const struct {
        uint8_t length, byte[6];
    } heads[] = {
        {3, {0xf3, 0x0f, 0xb8}},
        {3, {0xf3, 0x0f, 0xbc}},
        {3, {0xf3, 0x0f, 0xbd}},
        {5, {0xf2, 0x48, 0x0f, 0x38, 0xf0}},
        {4, {0xf2, 0x0f, 0x38, 0xf1}},
        {5, {0x66, 0xf2, 0x0f, 0x38, 0xf1}},
        {3, {0x0f, 0x38, 0xf0}},
        {3, {0x0f, 0x38, 0xf1}},
        {4, {0x66, 0x0f, 0x38, 0xf6}},
        {4, {0xf3, 0x0f, 0x38, 0xf6}},
        {4, {0xf0, 0x48, 0x0f, 0xc7}},
        {2, {0x0f, 0xc7}},
        {3, {0x66, 0x0f, 0xc7}},
        {2, {0x0f, 0xae}},
        {3, {0x66, 0x0f, 0xae}},
        {2, {0x0f, 0xc3}},
        {3, {0xf3, 0x48, 0xa5}},
        {2, {0xf2, 0xa6}},
        {2, {0xf3, 0x90}},
        {2, {0x41, 0x90}},
        {1, {0xa1}},
        {2, {0x48, 0xa3}},
        {2, {0x0f, 0xc8}},
        {4, {0xc4, 0xe2, 0x78, 0xf2}},
        {4, {0xc4, 0xc2, 0x30, 0xf3}},
        {4, {0xc4, 0xe2, 0xf8, 0xf5}},
        {4, {0xc4, 0x62, 0xa2, 0xf5}},
        {4, {0xc4, 0xe2, 0x7b, 0xf5}},
        {4, {0xc4, 0x42, 0xa3, 0xf6}},
        {4, {0xc4, 0xe2, 0xf8, 0xf7}},
        {4, {0xc4, 0xe2, 0x79, 0xf7}},
        {4, {0xc4, 0x62, 0xba, 0xf7}},
        {4, {0xc4, 0xe2, 0x7b, 0xf7}},
        {4, {0xc4, 0xe3, 0xfb, 0xf0}},
        {3, {0xc5, 0xf8, 0xae}},
        {4, {0xf3, 0x66, 0x0f, 0xae}},
    };
    uint8_t bytes[16];

    for (unsigned i = 0; i < rounds; i++) {
        unsigned n = i % (sizeof heads / sizeof *heads);
        unsigned skip = (unsigned)(random64(c) >> 33) % 4 == 0;

        bytes_fill(c, bytes);
        memcpy(bytes + skip, heads[n].byte, heads[n].length);
        if (skip) /* a segment or address size */
            bytes[0] = random64(c) >> 21 & 1 ? 0x67 : 0x65;
        check_one(c, X86_CODE_64, bytes);
    }
}

static void test_encodings(struct test *t)
{
    struct check c = {.random = 88172645463325252u};

    ZydisDecoderInit(&c.decoder[X86_CODE_16], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    ZydisDecoderInit(&c.decoder[X86_CODE_32], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&c.decoder[X86_CODE_64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    check_random(&c, ROUNDS);
    check_rare(&c, ROUNDS / 8);
    for (unsigned op = 0; op < X86_OP_COUNT; op++) {
        if (is_plain(op) && c.encoded[op] < 20)
            printf("%s was encoded only %u times\n", x86_op_name(op), c.encoded[op]);
        CHECK(t, !is_plain(op) || c.encoded[op] >= 20);
    }
    CHECK(t, c.high_bytes >= 100);
    CHECK_EQ(t, c.failed, 0);
    printf("%u instructions agree, %u differ\n", c.agreed, c.failed);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_encodings);
    return test_end(&t);
}
