/*
 * The VEX-encoded instructions on AVX-512's opmasks. Needs no libc.
 * Source: Intel SDM vol. 2, the pages of KADD to KXOR.
 */
#include "cpu/x86/vector.h"

#define F512 X86_FEATURE_AVX512F
#define DQ   X86_FEATURE_AVX512DQ
#define BW   X86_FEATURE_AVX512BW
#define R    X86_OPERAND_READ
#define W    X86_OPERAND_WRITE
#define XG   X86_CLASS_GPR
#define XK   X86_CLASS_MASK

static bool wide(const struct x86_insn *insn)
{
    return (insn->rex & X86_REX_W) != 0;
}

/* Operand width in bytes: the prefix and W say it. */
static unsigned mask_bytes(const struct x86_insn *insn)
{
    if (insn->pp == 0)
        return wide(insn) ? 8 : 2;
    return wide(insn) ? 4 : 1;
}

static enum x86_feature mask_feature(unsigned bytes)
{
    return bytes == 1 ? DQ : bytes == 2 ? F512 : BW;
}

static bool mask_arithmetic(const struct x86_insn *insn, enum x86_feature *feature,
                            struct x86_vector_insn *out)
{
    unsigned op = insn->opcode, bytes = mask_bytes(insn);

    out->reg = (struct x86_vector_operand){XK, W, 0};
    out->rm = (struct x86_vector_operand){XK, R, 0};
    *feature = mask_feature(bytes);
    if (insn->pp > 1 || insn->memory)
        return false;
    if (op == 0x44 || op == 0x98 || op == 0x99) { /* KNOT, KORTEST, KTEST */
        if (op != 0x44) {
            out->reg.access = R;
            out->flags = X86_VECTOR_FLAGS;
        }
        if (op == 0x99 && bytes == 2)
            *feature = DQ;
        return insn->vector_length == 0 && insn->vvvv == 0;
    }
    out->vvvv = (struct x86_vector_operand){XK, R, 0};
    if (op == 0x4a && bytes == 2) /* KADDW */
        *feature = DQ;
    if (op == 0x4b) { /* KUNPCK: named by its source */
        *feature = bytes == 1 ? F512 : BW;
        if (bytes == 4)
            return false;
    }
    return insn->vector_length == 1;
}

static bool mask_move(const struct x86_insn *insn, enum x86_feature *feature,
                      struct x86_vector_insn *out)
{
    unsigned op = insn->opcode, bytes = mask_bytes(insn);

    if (op >= 0x92) { /* with a general register: F2 for 4 and 8 bytes */
        if (insn->memory || insn->pp == 2 || (insn->pp < 2 && wide(insn)))
            return false;
        if (insn->pp == 3)
            bytes = wide(insn) ? 8 : 4;
    } else if (insn->pp > 1 || (op == 0x91 && !insn->memory)) {
        return false;
    }
    *feature = mask_feature(bytes);
    out->reg = (struct x86_vector_operand){op == 0x93 ? XG : XK, op == 0x91 ? R : W, 0};
    out->rm = (struct x86_vector_operand){op == 0x92 ? XG : XK, op == 0x91 ? W : R, 0};
    out->gpr64 = bytes == 8;
    if (insn->memory) {
        out->memory_bytes = (uint8_t)bytes;
        out->memory_access = out->rm.access;
        out->rm.class = X86_CLASS_NONE;
    }
    return insn->vector_length == 0 && insn->vvvv == 0;
}

static bool mask_shift(const struct x86_insn *insn, enum x86_feature *feature,
                       struct x86_vector_insn *out)
{
    unsigned bytes = (insn->opcode & 1 ? 4u : 1u) << (wide(insn) ? 1 : 0);

    *feature = mask_feature(bytes);
    out->reg = (struct x86_vector_operand){XK, W, 0};
    out->rm = (struct x86_vector_operand){XK, R, 0};
    out->flags = X86_VECTOR_IMMEDIATE;
    return insn->pp == 1 && !insn->memory && insn->vector_length == 0 && insn->vvvv == 0;
}

static bool mask_form(const struct x86_insn *insn, enum x86_feature *feature,
                      struct x86_vector_insn *out)
{
    unsigned op = insn->opcode;

    if (insn->map == 3)
        return op >= 0x30 && op <= 0x33 && mask_shift(insn, feature, out);
    if (insn->map != 1)
        return false;
    if (op >= 0x90 && op <= 0x93)
        return mask_move(insn, feature, out);
    if (op == 0x41 || op == 0x42 || (op >= 0x44 && op <= 0x47) || op == 0x4a || op == 0x4b ||
        op == 0x98 || op == 0x99)
        return mask_arithmetic(insn, feature, out);
    return false;
}

bool x86_opmask_describe(const struct x86_insn *insn, const bool feature[X86_FEATURE_COUNT],
                         struct x86_vector_insn *out)
{
    enum x86_feature needed = F512;

    *out = (struct x86_vector_insn){.unit = X86_UNIT_EVEX, .vector_bytes = 16};
    if (!mask_form(insn, &needed, out) || !feature[F512] || !feature[needed])
        return false;
    if (out->reg.class == XK && insn->reg > 7)
        return false;
    if (out->vvvv.class == XK && insn->vvvv > 7)
        return false;
    out->reg.number = insn->reg;
    out->vvvv.number = insn->vvvv;
    out->rm.number = out->rm.class == XK ? insn->rm & 7u : insn->rm;
    return true;
}
