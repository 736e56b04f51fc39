/*
 * The translator's string instructions: MOVS and STOS inline where they end in the page where they
 * begin, LODS without REP inline, all others as leaf.
 * See translate.c and doc/soft.md.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"

static bool is_repeated(const struct x86_insn *insn)
{
    return insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE);
}

/* To R10. */
static void source_linear(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;

    emit_mov_reg_reg(&tr->e, HOST_R10, HOST_RSI);
    if (insn->segment >= X86_FS)
        emit_alu_reg_state(&tr->e, EMIT_ADD, HOST_R10,
                           STATE(seg[0]) + (int32_t)(insn->segment * sizeof(struct x86_segment) +
                                                     offsetof(struct x86_segment, base)));
}

static void source_check(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    const struct check check = {.op = i, .size = insn->operand_size, .access = SOFT_READ};

    source_linear(tr, i);
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

/* Jumps to one leaf. */
struct exceptions {
    uint8_t *place[5];
    unsigned count;
};

static void except(struct exceptions *x, uint8_t *place)
{
    x->place[x->count++] = place;
}

/* R10 from the operand's linear address to its host address, for RCX elements. */
static void part_check(struct translation *tr, unsigned i, enum soft_access access,
                       struct exceptions *x)
{
    unsigned size = tr->block->ops[i].insn.operand_size;
    struct emit *e = &tr->e;

    emit_mov_reg_reg32(e, HOST_R11, HOST_R10);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, GUEST_PAGE_SIZE - 1);
    emit_lea(e, HOST_R11, HOST_R11, HOST_RCX, (unsigned)__builtin_ctz(size), 0);
    emit_alu_reg_imm32(e, EMIT_CMP, HOST_R11, GUEST_PAGE_SIZE);
    except(x, emit_jcc_rel32(e, EMIT_IF_A));
    except(x, tr_tlb_look(tr, access, 1));
}

/* At least one element, at most a page of them, upwards. */
static void count_check(struct translation *tr, unsigned i, struct exceptions *x)
{
    const int32_t most = (int32_t)GUEST_PAGE_SIZE / tr->block->ops[i].insn.operand_size;
    struct emit *e = &tr->e;

    emit_mov_reg_state32(e, HOST_R11, STATE(rflags));
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, X86_RFLAGS_DF);
    emit_shift_imm32(e, EMIT_SHL, HOST_R11, 20);
    emit_lea(e, HOST_R10, HOST_RCX, HOST_NONE, 0, -1);
    emit_alu_reg_reg(e, EMIT_OR, HOST_R10, HOST_R11);
    emit_alu_reg_imm(e, EMIT_CMP, HOST_R10, most - 1);
    except(x, emit_jcc_rel32(e, EMIT_IF_A));
}

/* The host's own instruction at host addresses: R10, and of the source saved_rcx. */
static void host_string_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    struct emit_rename rename = {0};
    struct emit *e = &tr->e;

    for (unsigned n = 0; n < 16; n++)
        rename.gpr[n] = (uint8_t)n;
    emit_mov_reg_reg(e, HOST_R11, HOST_RDI);
    emit_alu_reg_reg(e, EMIT_SUB, HOST_R11, HOST_R10);
    emit_mov_reg_reg(e, HOST_RDI, HOST_R10);
    if (insn->op == X86_OP_MOVS)
        emit_mov_reg_state(e, HOST_RSI, STATE(saved_rcx));
    if (!emit_insn(e, insn, NULL, &rename))
        e->full = true;
    emit_alu_reg_reg(e, EMIT_ADD, HOST_RDI, HOST_R11);
    if (insn->op == X86_OP_MOVS)
        emit_alu_reg_state(e, EMIT_ADD, HOST_RSI, STATE(saved_rax));
}

static void source_keep(struct translation *tr, unsigned i, struct exceptions *x)
{
    struct emit *e = &tr->e;

    source_linear(tr, i);
    part_check(tr, i, SOFT_READ, x);
    emit_mov_state_reg(e, STATE(saved_rcx), HOST_R10);
    emit_mov_reg_reg(e, HOST_R11, HOST_RSI);
    emit_alu_reg_reg(e, EMIT_SUB, HOST_R11, HOST_R10);
    emit_mov_state_reg(e, STATE(saved_rax), HOST_R11);
}

/* REP MOVS and REP STOS, which do not look at the flags, where both ends lie on one page each that
 * is in the TLB; all else is the leaf's. */
static void repeated_emit(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    struct exceptions x = {0};
    struct emit *e = &tr->e;
    uint8_t *back;

    tr_flags_clobber(tr);
    count_check(tr, i, &x);
    if (op->insn.op == X86_OP_MOVS)
        source_keep(tr, i, &x);
    emit_mov_reg_reg(e, HOST_R10, HOST_RDI);
    part_check(tr, i, SOFT_WRITE, &x);
    host_string_emit(tr, i);
    back = e->at;
    tr_exit_direct(tr, tr_page_offset(tr, op->next), i);
    for (unsigned n = 0; n < x.count; n++)
        emit_patch_rel32(x.place[n], e->at);
    tr_leaf_else(tr, i, emit_jmp_rel32(e), soft_leaf_string)->back = back;
}

bool tr_string(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    const struct x86_insn *insn = &op->insn;

    if (insn->address_size != 8)
        return false;
    if (is_repeated(insn) && (insn->op == X86_OP_MOVS || insn->op == X86_OP_STOS)) {
        repeated_emit(tr, i);
    } else if (is_repeated(insn)) {
        tr_leaf(tr, i, soft_leaf_string);
        tr_exit_direct(tr, tr_page_offset(tr, op->next), i);
    } else if (insn->op == X86_OP_CMPS || insn->op == X86_OP_SCAS) {
        tr_leaf(tr, i, soft_leaf_string);
    } else {
        single_emit(tr, i);
    }
    return true;
}
