/*
 * The translator's string instructions: MOVS, STOS and LODS without REP inline, all others as leaf.
 * See translate.c and doc/soft.md.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"

static bool is_repeated(const struct x86_insn *insn)
{
    return insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE);
}

static void source_check(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    const struct check check = {.op = i, .size = insn->operand_size, .access = SOFT_READ};

    emit_mov_reg_reg(&tr->e, HOST_R10, HOST_RSI);
    if (insn->segment >= X86_FS)
        emit_alu_reg_state(&tr->e, EMIT_ADD, HOST_R10,
                           STATE(seg[0]) + (int32_t)(insn->segment * sizeof(struct x86_segment) +
                                                     offsetof(struct x86_segment, base)));
    tr_check(tr, &check);
}

static void destination_check(struct translation *tr, unsigned i)
{
    const struct check check = {
        .op = i, .size = tr->block->ops[i].insn.operand_size, .access = SOFT_WRITE};

    emit_mov_reg_reg(&tr->e, HOST_R10, HOST_RDI);
    tr_check(tr, &check);
}

static void index_advance(struct translation *tr, unsigned i, enum host_register index)
{
    emit_lea(&tr->e, index, index, HOST_NONE, 0, tr->block->ops[i].insn.operand_size);
}

static void movs_emit(struct translation *tr, unsigned i)
{
    unsigned size = tr->block->ops[i].insn.operand_size;

    source_check(tr, i);
    emit_load(&tr->e, HOST_R10, HOST_R10, 0, size);
    emit_mov_state_reg(&tr->e, STATE(saved_rax), HOST_R10);
    destination_check(tr, i);
    emit_mov_reg_state(&tr->e, HOST_R11, STATE(saved_rax));
    emit_store(&tr->e, HOST_R11, HOST_R10, 0, size);
    index_advance(tr, i, HOST_RSI);
    index_advance(tr, i, HOST_RDI);
}

static void stos_emit(struct translation *tr, unsigned i)
{
    destination_check(tr, i);
    emit_store(&tr->e, HOST_RAX, HOST_R10, 0, tr->block->ops[i].insn.operand_size);
    index_advance(tr, i, HOST_RDI);
}

static void lods_emit(struct translation *tr, unsigned i)
{
    unsigned size = tr->block->ops[i].insn.operand_size;

    source_check(tr, i);
    if (size >= 4) {
        emit_load(&tr->e, HOST_RAX, HOST_R10, 0, size);
    } else {
        emit_load(&tr->e, HOST_R10, HOST_R10, 0, size);
        emit_alu_reg_imm(&tr->e, EMIT_AND, HOST_RAX, size == 1 ? ~0xff : ~0xffff);
        emit_alu_reg_reg(&tr->e, EMIT_OR, HOST_RAX, HOST_R10);
    }
    index_advance(tr, i, HOST_RSI);
}

/* Downwards runs the twin. */
static void direction_check(struct translation *tr, unsigned i)
{

    emit_mov_reg_state32(&tr->e, HOST_R11, STATE(rflags));
    emit_alu_reg_imm32(&tr->e, EMIT_AND, HOST_R11, X86_RFLAGS_DF);
    tr_twin_if(tr, i, EMIT_IF_NE);
}

static void single_emit(struct translation *tr, unsigned i)
{
    tr_flags_clobber(tr);
    direction_check(tr, i);
    switch (tr->block->ops[i].insn.op) {
    case X86_OP_MOVS:
        movs_emit(tr, i);
        break;
    case X86_OP_STOS:
        stos_emit(tr, i);
        break;
    default:
        lods_emit(tr, i);
    }
}

bool tr_string(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    const struct x86_insn *insn = &op->insn;

    if (insn->address_size != 8)
        return false;
    if (is_repeated(insn)) {
        tr_leaf(tr, i, soft_leaf_string);
        tr_exit_direct(tr, tr_page_offset(tr, op->next), i);
    } else if (insn->op == X86_OP_CMPS || insn->op == X86_OP_SCAS) {
        tr_leaf(tr, i, soft_leaf_string);
    } else {
        single_emit(tr, i);
    }
    return true;
}
