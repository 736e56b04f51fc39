/*
 * Checks the emitter against Zydis, an independent decoder. Random instructions in 16-, 32- and
 * 64-bit code are encoded anew with random registers: Zydis must find the same instruction with
 * the registers renamed and its memory at the new base. The registers that emit_registers_of()
 * reports must be those that Zydis sees read and written. The small assembler is checked by what
 * Zydis prints.
 */
#include "cpu/soft/emit.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <Zydis/Zydis.h>

#include "base/test.h"
#include "cpu/x86/state.h"

#define ROUNDS     6000000
#define COMPLAINTS 40

struct zydis {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
};

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

static bool is_general(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return true;
    default:
        return false;
    }
}

static unsigned number_of(ZydisRegister reg)
{
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

    return (unsigned)(whole - ZYDIS_REGISTER_RAX);
}

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

/* Operations that must always be encoded (but for the exceptions in may_refuse()). */
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

static bool decode_zydis(const ZydisDecoder *decoder, const uint8_t *bytes, size_t length,
                         struct zydis *z)
{
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, bytes, length, &z->insn, z->operand));
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

/* -- the small assembler, by what Zydis prints -- */

#define ROOM 64

/* Checks the instructions at the start of the buffer against lines of text. */
static bool reads_as(const uint8_t *from, const uint8_t *to, const char *want)
{
    ZydisFormatter formatter;
    ZydisDecoder decoder;
    struct zydis z;
    char got[256] = "";

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_FORCE_SIZE, ZYAN_TRUE);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE,
                              ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_DISP_PADDING,
                              ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_IMM_PADDING, ZYDIS_PADDING_DISABLED);
    for (; from < to; from += z.insn.length) {
        size_t used = strlen(got);

        if (!decode_zydis(&decoder, from, (size_t)(to - from), &z) || used + 80 > sizeof got)
            return false;
        if (used)
            strcpy(got + used, "; ");
        used = strlen(got);
        ZydisFormatterFormatInstruction(&formatter, &z.insn, z.operand,
                                        z.insn.operand_count_visible, got + used, sizeof got - used,
                                        0x1000, NULL);
    }
    if (strcmp(got, want) != 0)
        printf("got  %s\nwant %s\n", got, want);
    return strcmp(got, want) == 0;
}

#define READS_AS(t, call, want)                                                                    \
    do {                                                                                           \
        uint8_t buffer[ROOM];                                                                      \
        struct emit *e = &(struct emit){.at = buffer, .end = buffer + ROOM};                       \
        call;                                                                                      \
        CHECK(t, !e->full);                                                                        \
        CHECK(t, reads_as(buffer, e->at, want));                                                   \
    } while (0)

static const char *const names64[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const names32[] = {"eax", "ecx", "edx",  "ebx",  "esp",  "ebp",  "esi",  "edi",
                                      "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d"};
static const char *const names16[] = {"ax",  "cx",  "dx",   "bx",   "sp",   "bp",   "si",   "di",
                                      "r8w", "r9w", "r10w", "r11w", "r12w", "r13w", "r14w", "r15w"};
static const char *const names8[] = {"al",  "cl",  "dl",   "bl",   "spl",  "bpl",  "sil",  "dil",
                                     "r8b", "r9b", "r10b", "r11b", "r12b", "r13b", "r14b", "r15b"};

/* printf into a buffer of the caller's, as an expression */
#define TEXT(...) (snprintf(text, sizeof text, __VA_ARGS__), text)

static void test_state(struct test *t)
{
    char text[128];

    for (unsigned i = 0; i < 16; i++) {
        enum host_register r = (enum host_register)i;

        READS_AS(t, emit_mov_reg_state(e, r, 0x1234),
                 TEXT("mov %s, qword ptr gs:[0x1234]", names64[i]));
        READS_AS(t, emit_mov_reg_state32(e, r, 0x1234),
                 TEXT("mov %s, dword ptr gs:[0x1234]", names32[i]));
        READS_AS(t, emit_mov_reg_state16(e, r, 0x1234),
                 TEXT("movzx %s, word ptr gs:[0x1234]", names32[i]));
        READS_AS(t, emit_mov_state_reg(e, 8, r), TEXT("mov qword ptr gs:[0x8], %s", names64[i]));
        READS_AS(t, emit_mov_state_reg32(e, 8, r), TEXT("mov dword ptr gs:[0x8], %s", names32[i]));
        READS_AS(t, emit_mov_state_reg16(e, 8, r), TEXT("mov word ptr gs:[0x8], %s", names16[i]));
    }
    READS_AS(t, emit_mov_state_imm32(e, 0x10, 0x89abcdef), "mov dword ptr gs:[0x10], 0x89ABCDEF");
    READS_AS(t, emit_inc_state(e, 0x10), "inc qword ptr gs:[0x10]");
    READS_AS(t, emit_dec_state32(e, 0x10), "dec dword ptr gs:[0x10]");
    READS_AS(t, emit_cmp_state32_imm8(e, 0x10, 0), "cmp dword ptr gs:[0x10], 0x0");
    READS_AS(t, emit_bt_state16(e, 0x10, 8), "bt word ptr gs:[0x10], 0x8");
    READS_AS(t, emit_sub_state_imm8(e, 0x10, 48), "sub qword ptr gs:[0x10], 0x30");
    READS_AS(t, emit_mov_reg_entry(e, HOST_RAX, HOST_R11, 0x10),
             "mov rax, qword ptr gs:[r11+0x10]");
    READS_AS(t, emit_alu_reg_entry(e, EMIT_CMP, HOST_R10, HOST_R11, 0x1000),
             "cmp r10, qword ptr gs:[r11+0x1000]");
    READS_AS(t, emit_jmp_entry(e, HOST_R11, 0x10), "jmp qword ptr gs:[r11+0x10]");
    READS_AS(t, emit_call_entry(e, HOST_RCX, 0x10), "call qword ptr gs:[rcx+0x10]");
    READS_AS(t, emit_jmp_state(e, 0x10), "jmp qword ptr gs:[0x10]");
    READS_AS(t, emit_fldcw_state(e, 0x10), "fldcw word ptr gs:[0x10]");
    READS_AS(t, emit_ldmxcsr_state(e, 0x10), "ldmxcsr dword ptr gs:[0x10]");
    READS_AS(t, emit_stmxcsr_state(e, 0x10), "stmxcsr dword ptr gs:[0x10]");
    READS_AS(t, emit_call_state(e, 0x10), "call qword ptr gs:[0x10]");
    READS_AS(t, emit_mov_reg_state(e, HOST_RAX, -16), "mov rax, qword ptr gs:[0xFFFFFFFFFFFFFFF0]");
}

static void test_vectors(struct test *t)
{
    const struct emit_element first = {.base = HOST_R10, .size = 4},
                              second = {.base = HOST_R10, .size = 8, .at = 1},
                              third = {.base = HOST_R10, .size = 4, .at = 2, .evex = true};

    READS_AS(t, emit_movsxd_reg_state(e, HOST_R10, 0x10), "movsxd r10, dword ptr gs:[0x10]");
    READS_AS(t, emit_vector_state(e, 9, 16, 0x40, true), "vmovdqu xmm9, xmmword ptr gs:[0x40]");
    READS_AS(t, emit_vector_state(e, 1, 32, 0x40, false), "vmovdqu ymmword ptr gs:[0x40], ymm1");
    READS_AS(t, emit_vector_state(e, 31, 16, 0x40, true), "vmovdqu64 xmm31, xmmword ptr gs:[0x40]");
    READS_AS(t, emit_vector_state(e, 2, 64, 0x40, false), "vmovdqu64 zmmword ptr gs:[0x40], zmm2");
    READS_AS(t, emit_element_load(e, 15, &first), "vmovd xmm15, dword ptr [r10]");
    READS_AS(t, emit_element_load(e, 3, &second), "vpinsrq xmm3, xmm3, qword ptr [r10], 0x1");
    READS_AS(t, emit_element_load(e, 17, &third), "vpinsrd xmm17, xmm17, dword ptr [r10], 0x2");
    READS_AS(t, emit_lane_insert(e, 3, 12, &(struct emit_lane){.at = 1, .bytes = 32}),
             "vinserti128 ymm3, ymm3, xmm12, 0x1");
    READS_AS(t, emit_lane_insert(e, 3, 29, &(struct emit_lane){.at = 3, .bytes = 64}),
             "vinserti32x4 zmm3, zmm3, xmm29, 0x3");
    READS_AS(t, emit_vector_clear(e, 12), "vpxor xmm12, xmm12, xmm12");
    READS_AS(t, emit_signs(e, HOST_R11, 9, 4, 32), "vmovmskps r11d, ymm9");
    READS_AS(t, emit_signs(e, HOST_R11, 1, 8, 16), "vmovmskpd r11d, xmm1");
    READS_AS(t, emit_opmask_state(e, 3, 0x40, false), "kmovq qword ptr gs:[0x40], k3");
    READS_AS(t, emit_opmask_state(e, 3, 0x40, true), "kmovq k3, qword ptr gs:[0x40]");
    READS_AS(t, emit_mov_reg_opmask(e, HOST_R11, 5), "kmovw r11d, k5");
    READS_AS(t, emit_opmask_clear(e, 6), "kxorw k6, k6, k6");
}

static void test_moves(struct test *t)
{
    char text[128];

    for (unsigned i = 0; i < 256; i++) {
        enum host_register a = (enum host_register)(i & 15), b = (enum host_register)(i >> 4);

        READS_AS(t, emit_mov_reg_reg(e, a, b), TEXT("mov %s, %s", names64[a], names64[b]));
        READS_AS(t, emit_mov_reg_reg32(e, a, b), TEXT("mov %s, %s", names32[a], names32[b]));
        READS_AS(t, emit_movzx16(e, a, b), TEXT("movzx %s, %s", names32[a], names16[b]));
        READS_AS(t, emit_movzx8(e, a, b), TEXT("movzx %s, %s", names32[a], names8[b]));
    }
    for (unsigned i = 0; i < 16; i++) {
        enum host_register r = (enum host_register)i;

        READS_AS(t, emit_not(e, r), TEXT("not %s", names64[i]));
        READS_AS(t, emit_imul_reg_imm(e, r, 3), TEXT("imul %s, %s, 0x3", names64[i], names64[i]));
        READS_AS(t, emit_test_reg_imm8(e, r, 7), TEXT("test %s, 0x7", names8[i]));
        READS_AS(t, emit_not32(e, r), TEXT("not %s", names32[i]));
        READS_AS(t, emit_divide(e, false, true, r), TEXT("div %s", names64[i]));
        READS_AS(t, emit_divide(e, true, false, r), TEXT("idiv %s", names32[i]));
    }
}

static void check_immediate(struct test *t, enum host_register reg, uint64_t value, unsigned length)
{
    uint8_t buffer[ROOM];
    struct emit e = {.at = buffer, .end = buffer + ROOM};
    char text[128];

    emit_mov_reg_imm64(&e, reg, value);
    CHECK_EQ(t, e.at - buffer, length);
    if (length < 7) /* to 32 bits, which clears the rest */
        CHECK(t, reads_as(buffer, e.at, TEXT("mov %s, 0x%" PRIX64, names32[reg], value)));
    else
        CHECK(t, reads_as(buffer, e.at, TEXT("mov %s, 0x%" PRIX64, names64[reg], value)));
}

static void test_immediates(struct test *t)
{
    for (unsigned i = 0; i < 16; i++) {
        enum host_register r = (enum host_register)i;
        unsigned rex = i >= 8;

        check_immediate(t, r, 0, 5 + rex);
        check_immediate(t, r, 0x7fffffff, 5 + rex);
        check_immediate(t, r, 0xffffffff, 5 + rex);
        check_immediate(t, r, 0x100000000, 10);
        check_immediate(t, r, 0x123456789abcdef0, 10);
        check_immediate(t, r, 0xffffffff7fffffff, 10);
        check_immediate(t, r, 0xffffffff80000000, 7);
        check_immediate(t, r, UINT64_MAX, 7);
    }
}

static const struct {
    enum emit_alu op;
    const char *name;
} alus[] = {{EMIT_ADD, "add"}, {EMIT_OR, "or"},   {EMIT_AND, "and"},
            {EMIT_SUB, "sub"}, {EMIT_XOR, "xor"}, {EMIT_CMP, "cmp"}};

static void test_alu(struct test *t)
{
    char text[128];

    for (unsigned i = 0; i < 256 * 6; i++) {
        enum host_register a = (enum host_register)(i & 15), b = (enum host_register)(i >> 4 & 15);
        enum emit_alu op = alus[i / 256].op;
        const char *name = alus[i / 256].name;

        READS_AS(t, emit_alu_reg_reg(e, op, a, b), TEXT("%s %s, %s", name, names64[a], names64[b]));
        READS_AS(t, emit_alu_reg_reg32(e, op, a, b),
                 TEXT("%s %s, %s", name, names32[a], names32[b]));
    }
    for (unsigned i = 0; i < 16 * 6; i++) {
        enum host_register r = (enum host_register)(i & 15);
        enum emit_alu op = alus[i / 16].op;
        const char *name = alus[i / 16].name, *r64 = names64[i & 15], *r32 = names32[i & 15];

        READS_AS(t, emit_alu_reg_imm(e, op, r, 0x7f), TEXT("%s %s, 0x7F", name, r64));
        READS_AS(t, emit_alu_reg_imm(e, op, r, 0x80), TEXT("%s %s, 0x80", name, r64));
        READS_AS(t, emit_alu_reg_imm(e, op, r, 0x12345678), TEXT("%s %s, 0x12345678", name, r64));
        READS_AS(t, emit_alu_reg_imm32(e, op, r, 0x12345), TEXT("%s %s, 0x12345", name, r32));
        READS_AS(t, emit_alu_reg_imm32(e, op, r, 1), TEXT("%s %s, 0x1", name, r32));
        READS_AS(t, emit_alu_reg_state(e, op, r, 0x40),
                 TEXT("%s %s, qword ptr gs:[0x40]", name, r64));
        READS_AS(t, emit_alu_reg_state32(e, op, r, 0x40),
                 TEXT("%s %s, dword ptr gs:[0x40]", name, r32));
    }
    READS_AS(t, emit_alu_reg_imm(e, EMIT_AND, HOST_R11, -0x1000), "and r11, 0xFFFFFFFFFFFFF000");
    READS_AS(t, emit_alu_reg_imm(e, EMIT_ADD, HOST_RCX, -1), "add rcx, 0xFFFFFFFFFFFFFFFF");
    READS_AS(t, emit_alu_reg_imm32(e, EMIT_ADD, HOST_RCX, -128), "add ecx, 0xFFFFFF80");
    READS_AS(t, emit_test_reg_imm(e, HOST_R10, 7), "test r10, 0x7");
    READS_AS(t, emit_test_reg_imm(e, HOST_RBX, -4081), "test rbx, 0xFFFFFFFFFFFFF00F");
    READS_AS(t, emit_alu_reg_imm32(e, EMIT_SUB, HOST_RCX, -129), "sub ecx, 0xFFFFFF7F");
}

static void test_shifts(struct test *t)
{
    static const struct {
        enum emit_shift op;
        const char *name;
    } shifts[] = {{EMIT_SHL, "shl"}, {EMIT_SHR, "shr"}, {EMIT_SAR, "sar"}};
    char text[128];

    for (unsigned i = 0; i < 16 * 3; i++) {
        enum host_register r = (enum host_register)(i & 15);
        enum emit_shift op = shifts[i / 16].op;
        const char *name = shifts[i / 16].name;

        READS_AS(t, emit_shift_imm(e, op, r, 12), TEXT("%s %s, 0xC", name, names64[i & 15]));
        READS_AS(t, emit_shift_imm(e, op, r, 1), TEXT("%s %s, 0x1", name, names64[i & 15]));
        READS_AS(t, emit_shift_imm(e, op, r, 63), TEXT("%s %s, 0x3F", name, names64[i & 15]));
        READS_AS(t, emit_shift_imm32(e, op, r, 31), TEXT("%s %s, 0x1F", name, names32[i & 15]));
    }
}

/* " + 0x12", " - 0x12" or nothing, as Zydis prints a displacement. */
static const char *disp_text(char *to, size_t size, int32_t disp)
{
    uint32_t amount = disp < 0 ? (uint32_t)0 - (uint32_t)disp : (uint32_t)disp;

    to[0] = 0;
    if (disp)
        snprintf(to, size, "%c0x%" PRIX32, disp < 0 ? '-' : '+', amount);
    return to;
}

static const int32_t disps[] = {0, 8, 127, -128, 128, -129, 0x12345678, INT32_MIN};
#define DISPS (sizeof disps / sizeof *disps)

static void test_memory(struct test *t)
{
    char text[128], disp[32];

    for (unsigned i = 0; i < 256 * DISPS; i++) {
        unsigned r = i & 15, b = i >> 4 & 15;
        enum host_register reg = (enum host_register)r, base = (enum host_register)b;
        int32_t d = disps[i / 256];
        const char *r64 = names64[r], *r32 = names32[r];
        const char *at = disp_text(disp, sizeof disp, d), *b64 = names64[b];

        READS_AS(t, emit_load(e, reg, base, d, 8), TEXT("mov %s, qword ptr [%s%s]", r64, b64, at));
        READS_AS(t, emit_load(e, reg, base, d, 4), TEXT("mov %s, dword ptr [%s%s]", r32, b64, at));
        READS_AS(t, emit_load(e, reg, base, d, 2), TEXT("movzx %s, word ptr [%s%s]", r32, b64, at));
        READS_AS(t, emit_load(e, reg, base, d, 1), TEXT("movzx %s, byte ptr [%s%s]", r32, b64, at));
        READS_AS(t, emit_decrement(e, base), TEXT("dec dword ptr [%s]", b64));
        READS_AS(t, emit_add_reg_mem(e, reg, base, d),
                 TEXT("add %s, qword ptr [%s%s]", r64, b64, at));
        READS_AS(t, emit_xor_reg_mem(e, reg, base, d),
                 TEXT("xor %s, qword ptr [%s%s]", r64, b64, at));
        READS_AS(t, emit_cmp_reg_mem(e, reg, base, d),
                 TEXT("cmp %s, qword ptr [%s%s]", r64, b64, at));
    }
}

static void test_stores(struct test *t)
{
    char text[128], disp[32];

    for (unsigned i = 0; i < 256 * DISPS; i++) {
        unsigned r = i & 15, b = i >> 4 & 15;
        enum host_register reg = (enum host_register)r, base = (enum host_register)b;
        int32_t d = disps[i / 256];
        const char *at = disp_text(disp, sizeof disp, d), *b64 = names64[b];

        READS_AS(t, emit_store(e, reg, base, d, 8),
                 TEXT("mov qword ptr [%s%s], %s", b64, at, names64[r]));
        READS_AS(t, emit_store(e, reg, base, d, 4),
                 TEXT("mov dword ptr [%s%s], %s", b64, at, names32[r]));
        READS_AS(t, emit_store(e, reg, base, d, 2),
                 TEXT("mov word ptr [%s%s], %s", b64, at, names16[r]));
        READS_AS(t, emit_store(e, reg, base, d, 1),
                 TEXT("mov byte ptr [%s%s], %s", b64, at, names8[r]));
    }
}

/* LEA by what it names rather than by text: all bases, indexes, scales and displacements. */
static bool lea_is(const uint8_t *from, const uint8_t *to, const unsigned want[5], int32_t disp)
{
    enum { WIDTH, DST, BASE, INDEX, SCALE };
    ZydisDecoder decoder;
    struct zydis z;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!decode_zydis(&decoder, from, (size_t)(to - from), &z) || z.insn.length != to - from)
        return false;
    const ZydisDecodedOperandMem *mem = &z.operand[1].mem;
    if (z.insn.mnemonic != ZYDIS_MNEMONIC_LEA || z.insn.address_width != 64 ||
        z.operand[0].size != want[WIDTH] || number_of(z.operand[0].reg.value) != want[DST])
        return false;
    if (want[BASE] == HOST_NONE ? mem->base != ZYDIS_REGISTER_NONE
                                : !is_general(mem->base) || number_of(mem->base) != want[BASE])
        return false;
    if (want[INDEX] == HOST_NONE
            ? mem->index != ZYDIS_REGISTER_NONE
            : number_of(mem->index) != want[INDEX] || mem->scale != 1u << want[SCALE])
        return false;
    return mem->disp.value == disp;
}

static void test_lea(struct test *t)
{
    uint8_t buffer[ROOM];
    unsigned bad = 0;

    for (unsigned i = 0; i < 17 * 17 * 16 * 4 * DISPS; i++) {
        unsigned want[5] = {i & 1 ? 32 : 64, i / 17 / 17 % 16, i % 17, i / 17 % 17,
                            i / 17 / 17 / 16 % 4};
        int32_t disp = disps[i / 17 / 17 / 16 / 4];
        struct emit e = {.at = buffer, .end = buffer + ROOM};

        if (want[3] == HOST_RSP)
            continue;
        (i & 1 ? emit_lea32 : emit_lea)(&e, (enum host_register)want[1],
                                        (enum host_register)want[2], (enum host_register)want[3],
                                        want[4], disp);
        bad += e.full || !lea_is(buffer, e.at, want, disp);
    }
    CHECK_EQ(t, bad, 0);
}

static void test_jumps(struct test *t)
{
    static const char *const conditions[] = {"o", "no", "b", "nb", "z", "nz", "be", "nbe",
                                             "s", "ns", "p", "np", "l", "nl", "le", "nle"};
    char text[128];

    READS_AS(t, emit_patch_rel32(emit_jmp_rel32(e), buffer + 0x25), "jmp 0x1025");
    READS_AS(t, emit_patch_rel32(emit_call_rel32(e), buffer + 5), "call 0x1005");
    READS_AS(t, emit_patch_rel32(emit_jmp_rel32(e), buffer), "jmp 0x1000");
    for (unsigned i = 0; i < 16; i++)
        READS_AS(t, emit_patch_rel32(emit_jcc_rel32(e, (enum emit_condition)i), buffer + 0x3f),
                 TEXT("j%s 0x103F", conditions[i]));
    READS_AS(t, CHECK(t, emit_patch_rel8(emit_jrcxz_rel8(e), buffer + 0x30)), "jrcxz 0x1030");
    READS_AS(t, CHECK(t, emit_patch_rel8(emit_jrcxz_rel8(e), buffer)), "jrcxz 0x1000");
    READS_AS(t, emit_lahf_seto(e), "lahf; seto al");
    READS_AS(t, emit_restore_flags(e), "add al, 0x7F; sahf");
    READS_AS(t, emit_ret(e), "ret");
    READS_AS(t, emit_push(e, HOST_RBX), "push rbx");
    READS_AS(t, emit_push(e, HOST_R11), "push r11");
    READS_AS(t, emit_pop(e, HOST_R12), "pop r12");
    READS_AS(t, emit_pop(e, HOST_RBP), "pop rbp");
    READS_AS(t, emit_jmp_reg(e, HOST_R10), "jmp r10");
    READS_AS(t, emit_call_reg(e, HOST_RAX), "call rax");
    READS_AS(t, emit_mov_reg_patched64(e, HOST_R11), "mov r11, 0x0");
    READS_AS(t, emit_int3(e), "int3");
}

static void test_rel8_reach(struct test *t)
{
    uint8_t buffer[512] = {0};
    struct emit e = {.at = buffer + 200, .end = buffer + sizeof buffer};
    uint8_t *place = emit_jrcxz_rel8(&e);

    CHECK(t, emit_patch_rel8(place, e.at + 127));
    CHECK_EQ(t, *place, 127);
    CHECK(t, emit_patch_rel8(place, e.at - 128));
    CHECK_EQ(t, *place, 0x80);
    CHECK(t, !emit_patch_rel8(place, e.at + 128));
    CHECK(t, !emit_patch_rel8(place, e.at - 129));
}

static void test_nops(struct test *t)
{
    uint8_t buffer[ROOM];
    ZydisDecoder decoder;
    struct zydis z;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (unsigned n = 0; n < 40; n++) {
        struct emit e = {.at = buffer, .end = buffer + ROOM};
        unsigned at = 0;

        emit_nops(&e, n);
        CHECK_EQ(t, e.at - buffer, n);
        for (; at < n; at += z.insn.length) {
            if (!CHECK(t, decode_zydis(&decoder, buffer + at, n - at, &z)) ||
                !CHECK(t, z.insn.mnemonic == ZYDIS_MNEMONIC_NOP))
                break;
        }
        CHECK_EQ(t, at, n);
    }
}

/* What LAHF and SETO keep is what SAHF and the addition give back, on the host itself. */
static void test_flags(struct test *t)
{
    uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static const uint8_t load[] = {0x57, 0x9d}, store[] = {0x9c, 0x58}; /* push, pop: the flags */

    if (!CHECK(t, code != MAP_FAILED))
        return;
    struct emit e = {.at = code, .end = code + 4096};
    memcpy(e.at, load, sizeof load);
    e.at += sizeof load;
    emit_lahf_seto(&e);
    emit_mov_reg_reg(&e, HOST_RCX, HOST_RAX);
    emit_alu_reg_imm(&e, EMIT_ADD, HOST_RDI, -1); /* other flags */
    emit_mov_reg_reg(&e, HOST_RAX, HOST_RCX);
    emit_restore_flags(&e);
    memcpy(e.at, store, sizeof store);
    e.at += sizeof store;
    emit_ret(&e);
    if (CHECK(t, mprotect(code, 4096, PROT_READ | PROT_EXEC) == 0)) {
        uint64_t (*run)(uint64_t flags) = (uint64_t(*)(uint64_t))(uintptr_t)code;

        for (unsigned i = 0; i < 512; i++) {
            uint64_t want = (i & 0x100 ? 0x800u : 0) | (i & 0xd5);

            CHECK_EQ(t, run(want | 2) & 0x8d5, want);
        }
    }
    munmap(code, 4096);
}

static void test_full(struct test *t)
{
    uint8_t buffer[16];
    struct emit e = {.at = buffer, .end = buffer + 9};

    memset(buffer, 0x55, sizeof buffer);
    emit_jmp_rel32(&e);
    CHECK(t, !e.full);
    CHECK(t, emit_jmp_rel32(&e) == NULL);
    CHECK(t, e.full);
    emit_ret(&e); /* would fit, but nothing follows a gap */
    CHECK(t, e.at == buffer + 5);
    for (unsigned i = 5; i < sizeof buffer; i++)
        CHECK_EQ(t, buffer[i], 0x55);
    emit_patch_rel32(NULL, buffer);
    CHECK(t, emit_patch_rel8(NULL, buffer));
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_encodings);
    TEST_RUN(&t, test_state);
    TEST_RUN(&t, test_vectors);
    TEST_RUN(&t, test_moves);
    TEST_RUN(&t, test_immediates);
    TEST_RUN(&t, test_alu);
    TEST_RUN(&t, test_shifts);
    TEST_RUN(&t, test_memory);
    TEST_RUN(&t, test_stores);
    TEST_RUN(&t, test_lea);
    TEST_RUN(&t, test_jumps);
    TEST_RUN(&t, test_rel8_reach);
    TEST_RUN(&t, test_nops);
    TEST_RUN(&t, test_flags);
    TEST_RUN(&t, test_full);
    return test_end(&t);
}
