/*
 * The translator's DIV and IDIV of 32 and 64 bits: the host's, after a look at what would fault.
 * See translate.c.
 *
 * DIV's quotient fits exactly when the high half of the dividend is below the divisor. IDIV's fits
 * when the high half is the sign of the low one (CDQ, CQO) and the divisor neither 0 nor -1; all
 * other dividends are the twin's. Flags stay what they were, as there.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"

static void unsigned_check(struct translation *tr, unsigned i, bool wide)
{
    if (wide)
        emit_alu_reg_reg(&tr->e, EMIT_CMP, HOST_RDX, HOST_R10);
    else
        emit_alu_reg_reg32(&tr->e, EMIT_CMP, HOST_RDX, HOST_R10);
    tr_twin_if(tr, i, EMIT_IF_AE);
}

static void signed_check(struct translation *tr, unsigned i, bool wide)
{
    struct emit *e = &tr->e;

    if (wide)
        emit_lea(e, HOST_R11, HOST_R10, HOST_NONE, 0, 1);
    else
        emit_lea32(e, HOST_R11, HOST_R10, HOST_NONE, 0, 1);
    emit_alu_reg_imm(e, EMIT_CMP, HOST_R11, 1);
    tr_twin_if(tr, i, EMIT_IF_BE);
    if (wide) {
        emit_mov_reg_reg(e, HOST_R11, HOST_RAX);
        emit_shift_imm(e, EMIT_SAR, HOST_R11, 63);
        emit_alu_reg_reg(e, EMIT_CMP, HOST_R11, HOST_RDX);
    } else {
        emit_mov_reg_reg32(e, HOST_R11, HOST_RAX);
        emit_shift_imm32(e, EMIT_SAR, HOST_R11, 31);
        emit_alu_reg_reg32(e, EMIT_CMP, HOST_R11, HOST_RDX);
    }
    tr_twin_if(tr, i, EMIT_IF_NE);
}

bool tr_divide(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    bool is_signed = insn->op == X86_OP_IDIV, wide = insn->operand_size == 8;

    if (insn->operand_size < 4)
        return false;
    tr_flags_clobber(tr);
    if (!tr_operand_load(tr, i, insn->operand_size))
        return false;
    if (is_signed)
        signed_check(tr, i, wide);
    else
        unsigned_check(tr, i, wide);
    emit_divide(&tr->e, is_signed, wide, HOST_R10);
    return true;
}
