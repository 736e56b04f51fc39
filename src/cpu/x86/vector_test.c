/*
 * Checks the instruction tables against Zydis, an independent decoder: for every prefix, map,
 * opcode, ModRM digit and form, W and vector length, both must agree whether the instruction
 * exists, and on its length, memory operand (bytes, read or written) and register operands.
 */
#include <stdio.h>
#include <string.h>
#include <Zydis/Zydis.h>

#include "cpu/x86/vector.h"

struct tally {
    unsigned passed, failed, skipped;
};

static void complain(struct tally *t, const struct x86_insn *insn, const uint8_t *bytes,
                     const char *name, const char *what)
{
    if (t->failed++ >= 40000)
        return;
    printf("failed: %s:", name);
    for (unsigned i = 0; i < (insn->length ? insn->length : 10u); i++)
        printf(" %02x", bytes[i]);
    printf(": %s\n", what);
}

/* Extensions that no CPU model of ours offers. */
static bool offered(const ZydisDecodedInstruction *z)
{
    static const ZydisISAExt unknown[] = {ZYDIS_ISA_EXT_XOP,       ZYDIS_ISA_EXT_FMA4,
                                          ZYDIS_ISA_EXT_SSE4A,     ZYDIS_ISA_EXT_AMD3DNOW,
                                          ZYDIS_ISA_EXT_KNC,       ZYDIS_ISA_EXT_KNCE,
                                          ZYDIS_ISA_EXT_KNCV,      ZYDIS_ISA_EXT_AMX_TILE,
                                          ZYDIS_ISA_EXT_AMX_INT8,  ZYDIS_ISA_EXT_AMX_BF16,
                                          ZYDIS_ISA_EXT_KEYLOCKER, ZYDIS_ISA_EXT_KEYLOCKER_WIDE,
                                          ZYDIS_ISA_EXT_PADLOCK,   ZYDIS_ISA_EXT_TBM,
                                          ZYDIS_ISA_EXT_VMFUNC,    ZYDIS_ISA_EXT_AMD3DNOW_PREFETCH,
                                          ZYDIS_ISA_EXT_MOVDIR,    ZYDIS_ISA_EXT_VTX,
                                          ZYDIS_ISA_EXT_ENQCMD,    ZYDIS_ISA_EXT_CET};

    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        if (z->meta.isa_ext == unknown[i])
            return false;
    }
    switch (z->meta.isa_set) { /* Xeon Phi's own, and others not offered */
    case ZYDIS_ISA_SET_AVX512_4FMAPS_512:
    case ZYDIS_ISA_SET_AVX512_4FMAPS_SCALAR:
    case ZYDIS_ISA_SET_AVX512_4VNNIW_512:
    case ZYDIS_ISA_SET_AVX512ER_512:
    case ZYDIS_ISA_SET_AVX512ER_SCALAR:
    case ZYDIS_ISA_SET_AVX512PF_512:
    case ZYDIS_ISA_SET_AVX512_VP2INTERSECT_128:
    case ZYDIS_ISA_SET_AVX512_VP2INTERSECT_256:
    case ZYDIS_ISA_SET_AVX512_VP2INTERSECT_512:
        return false;
    default:
        return true;
    }
}

static const ZydisDecodedOperand *operand_by_encoding(const ZydisDecodedInstruction *z,
                                                      const ZydisDecodedOperand *operands,
                                                      ZydisOperandEncoding encoding)
{
    for (unsigned i = 0; i < z->operand_count; i++) {
        if (operands[i].encoding == encoding &&
            operands[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            return &operands[i];
    }
    return NULL;
}

static unsigned class_of(const ZydisDecodedOperand *operand)
{
    switch (ZydisRegisterGetClass(operand->reg.value)) {
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM:
        return X86_CLASS_VECTOR;
    case ZYDIS_REGCLASS_MMX:
        return X86_CLASS_MMX;
    case ZYDIS_REGCLASS_MASK:
        return X86_CLASS_MASK;
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR8:
        return X86_CLASS_GPR;
    default:
        return X86_CLASS_NONE;
    }
}

static unsigned access_of(const ZydisDecodedOperand *operand)
{
    unsigned access = 0;

    if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        access |= X86_OPERAND_READ;
    if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        access |= X86_OPERAND_WRITE;
    return access;
}

/* Where Zydis says "written" and we "read and written", the instruction keeps a part of it. */
static const char *register_compare(const struct x86_vector_operand *ours,
                                    const ZydisDecodedOperand *theirs, const char *what)
{
    if (!theirs || theirs->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return ours->class == X86_CLASS_NONE ? NULL : what;
    if (ours->class != class_of(theirs))
        return what;
    if (ours->number != (unsigned)(ZydisRegisterGetId(theirs->reg.value)) &&
        ours->class != X86_CLASS_NONE)
        return "register number";
    if (ours->class == X86_CLASS_MASK && ours->access == X86_OPERAND_WRITE)
        return NULL; /* compares zero the masked bits; Zydis has VCMPPH read them */
    if ((ours->access | access_of(theirs)) != ours->access ||
        (ours->access ^ access_of(theirs)) & X86_OPERAND_WRITE)
        return "register access";
    return NULL;
}

static const char *memory_compare(const struct x86_vector_insn *v,
                                  const ZydisDecodedOperand *memory)
{
    if (!memory || memory->type != ZYDIS_OPERAND_TYPE_MEMORY)
        return v->memory_access && v->memory != X86_MEMORY_STRING ? "no memory operand" : NULL;
    if (memory->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
        return v->memory == X86_MEMORY_GATHER || v->memory == X86_MEMORY_SCATTER
                   ? (memory->element_size / 8 == v->element ? NULL : "element size")
                   : "not a gather";
    if (memory->size / 8 != v->memory_bytes) {
        static char text[64];
        snprintf(text, sizeof text, "memory size: %u, want %u", v->memory_bytes, memory->size / 8);
        return text;
    }
    return access_of(memory) == v->memory_access ? NULL : "memory access";
}

static bool writes_flags(const ZydisDecodedInstruction *z)
{
    const ZydisAccessedFlags *f = z->cpu_flags;
    return f && ((f->modified | f->set_0 | f->set_1 | f->undefined) &
                 (ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_PF)) != 0;
}

static const char *compare(const struct x86_vector_insn *v, const ZydisDecodedInstruction *z,
                           const ZydisDecodedOperand *operands)
{
    const char *what =
        memory_compare(v, operand_by_encoding(z, operands, ZYDIS_OPERAND_ENCODING_MODRM_RM));

    if (!what && (v->flags & X86_VECTOR_FLAGS ? 1 : 0) != writes_flags(z))
        what = "arithmetic flags";
    if (v->unit == X86_UNIT_X87 || what)
        return what;
    what = register_compare(
        &v->reg, operand_by_encoding(z, operands, ZYDIS_OPERAND_ENCODING_MODRM_REG), "reg class");
    if (!what)
        what = register_compare(
            &v->rm, operand_by_encoding(z, operands, ZYDIS_OPERAND_ENCODING_MODRM_RM), "rm class");
    if (!what)
        what = register_compare(&v->vvvv,
                                operand_by_encoding(z, operands, ZYDIS_OPERAND_ENCODING_NDSNDD),
                                "vvvv class");
    if (!what && v->flags & X86_VECTOR_FOURTH)
        what = register_compare(&v->fourth,
                                operand_by_encoding(z, operands, ZYDIS_OPERAND_ENCODING_IS4),
                                "fourth class");
    return what;
}

static bool is_ours(const struct x86_insn *insn)
{
    return insn->op == X86_OP_VECTOR || insn->op == X86_OP_X87;
}

/* Legacy prefixes that select nothing: processors ignore or refuse them, decoders differ. */
static void check_one(struct tally *t, const ZydisDecoder *decoder, const uint8_t bytes[15])
{
    bool features[X86_FEATURE_COUNT];
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    struct x86_insn insn;
    struct x86_vector_insn v;
    const char *what, *name = "?";
    bool exists, known;

    memset(features, 1, sizeof features);
    if (x86_decode(&insn, X86_CODE_64, bytes, 15) != X86_DECODE_OK || !is_ours(&insn))
        return;
    exists = x86_vector_describe(&insn, features, &v);
    known = ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, bytes, 15, &z, operands));
    if (known)
        name = ZydisMnemonicGetString(z.mnemonic);
    if (known && !offered(&z)) {
        t->skipped++;
        if (exists)
            complain(t, &insn, bytes, name, "should not exist here");
        return;
    }
    if (exists != known) {
        complain(t, &insn, bytes, name, exists ? "does not exist" : "is missing");
        return;
    }
    if (!exists)
        return;
    what = z.length == insn.length ? compare(&v, &z, operands) : "length";
    if (what)
        complain(t, &insn, bytes, name, what);
    else
        t->passed++;
}

struct form {
    unsigned map, opcode, pp, w, length, modrm;
    bool vvvv;
};

static unsigned put_tail(uint8_t *to, const struct form *f)
{
    to[0] = (uint8_t)f->opcode;
    to[1] = (uint8_t)f->modrm;
    return 2;
}

static void check_legacy(struct tally *t, const ZydisDecoder *decoder, const struct form *f)
{
    static const uint8_t prefix[] = {0, 0x66, 0xf3, 0xf2};
    uint8_t bytes[32] = {0};
    unsigned n = 0;

    if (f->pp)
        bytes[n++] = prefix[f->pp];
    if (f->w)
        bytes[n++] = 0x48;
    bytes[n++] = 0x0f;
    if (f->map > 1)
        bytes[n++] = f->map == 2 ? 0x38 : 0x3a;
    put_tail(bytes + n, f);
    check_one(t, decoder, bytes);
}

static void check_vex(struct tally *t, const ZydisDecoder *decoder, const struct form *f)
{
    uint8_t bytes[32] = {0xc4, (uint8_t)(0xe0 | f->map),
                         (uint8_t)(f->w << 7 | (f->vvvv ? 0x68 : 0x78) | f->length << 2 | f->pp)};

    put_tail(bytes + 3, f);
    check_one(t, decoder, bytes);
}

/* Every combination of L'L and b, with and without mask and zeroing. */
static void check_evex(struct tally *t, const ZydisDecoder *decoder, const struct form *f)
{
    static const uint8_t payloads[] = {0x08, 0x09, 0x89, 0x88};

    for (unsigned i = 0; i < 16 * sizeof payloads; i++) {
        uint8_t p3 = (uint8_t)(payloads[i / 16] | (i & 7) << 4);
        uint8_t bytes[32] = {0x62, (uint8_t)(0xf0 | f->map),
                             (uint8_t)(f->w << 7 | (f->vvvv ? 0x6c : 0x7c) | f->pp), p3};

        if (i & 8) /* high registers */
            bytes[1] &= 0x2f;
        put_tail(bytes + 4, f);
        check_one(t, decoder, bytes);
    }
}

static const uint8_t modrms[] = {0x03, 0x04, 0xc1};

static void check_forms(struct tally *t, const ZydisDecoder *decoder, struct form f,
                        void (*check)(struct tally *, const ZydisDecoder *, const struct form *))
{
    for (f.opcode = 0; f.opcode < 256; f.opcode++) {
        for (unsigned i = 0; i < 8 * sizeof modrms; i++) {
            f.modrm = modrms[i / 8] | (i & 7) << 3;
            check(t, decoder, &f);
        }
    }
}

static void check_all(struct tally *t, const ZydisDecoder *decoder)
{
    for (unsigned i = 0; i < 5 * 4 * 2 * 2 * 2; i++) {
        static const unsigned maps[] = {1, 2, 3, 5, 6};
        struct form f = {.map = maps[i % 5],
                         .pp = i / 5 % 4,
                         .w = i / 20 % 2,
                         .length = i / 40 % 2,
                         .vvvv = i / 80 % 2};
        if (f.length == 0 && !f.vvvv && f.map <= 3)
            check_forms(t, decoder, f, check_legacy);
        if (f.map <= 3)
            check_forms(t, decoder, f, check_vex);
        if (f.length == 0)
            check_forms(t, decoder, f, check_evex);
    }
}

static void check_x87(struct tally *t, const ZydisDecoder *decoder)
{
    for (unsigned i = 0; i < 8 * 256; i++) {
        uint8_t bytes[32] = {(uint8_t)(0xd8 + i / 256), (uint8_t)i};
        check_one(t, decoder, bytes);
    }
}

int main(void)
{
    struct tally t = {0};
    ZydisDecoder decoder;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    check_all(&t, &decoder);
    check_x87(&t, &decoder);
    printf("%u encodings of extensions that are not offered\n", t.skipped);
    printf("%u encodings agree, %u differ\n", t.passed, t.failed);
    printf("%d passed, %d failed\n", t.failed == 0, t.failed != 0);
    return t.failed ? 1 : 0;
}
