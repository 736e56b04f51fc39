/*
 * The translator's bit strings: BT, BTS, BTR and BTC of memory with the bit's number in a register,
 * which reaches beyond the operand. See translate.c and doc/soft.md.
 *
 * Source: Intel SDM vol. 2, BT. Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"

static void put(struct emit *e, uint8_t byte)
{
    if (e->full || e->at == e->end)
        e->full = true;
    else
        *e->at++ = byte;
}

/* R11 = the bit's number. */
static void number_get(struct translation *tr, const struct x86_insn *insn)
{
    tr_guest_to(tr, HOST_R11, insn->reg);
}

/* R10 to the operand that holds the bit. */
static void operand_find(struct translation *tr, const struct x86_insn *insn)
{
    unsigned shift = (unsigned)__builtin_ctz(insn->operand_size);
    struct emit *e = &tr->e;

    number_get(tr, insn);
    if (insn->operand_size == 4) { /* MOVSXD R11, R11D */
        put(e, 0x4d);
        put(e, 0x63);
        put(e, 0xdb);
    }
    emit_shift_imm(e, EMIT_SAR, HOST_R11, shift + 3);
    emit_lea(e, HOST_R10, HOST_R10, HOST_R11, shift, 0);
}

/* The operation on [R10] with the number in R11, which is within the operand. */
static void operation_put(struct translation *tr, const struct x86_insn *insn)
{
    struct emit *e = &tr->e;

    if (insn->prefixes & X86_PREFIX_LOCK)
        put(e, 0xf0);
    put(e, insn->operand_size == 8 ? 0x4d : 0x45); /* REX with R and B */
    put(e, 0x0f);
    put(e, insn->opcode);
    put(e, 0x1a); /* ModRM: R11, [R10] */
}

bool tr_bit_string(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    const struct x86_insn *insn = &op->insn;
    const struct check check = {.op = i,
                                .size = insn->operand_size,
                                .access = insn->op == X86_OP_BT ? SOFT_READ : SOFT_WRITE};
    struct emit_rename rename = {0};
    struct emit *e = &tr->e;

    if (insn->operand_size < 4 || insn->address_size != 8)
        return false;
    tr_flags_clobber(tr);
    if (!tr_address(tr, op))
        return false;
    operand_find(tr, insn);
    tr_check(tr, &check);
    number_get(tr, insn);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, 8 * insn->operand_size - 1);
    if (tr_flags_from(tr, i + 1) != TR_FLAGS_DEAD)
        tr_flags_load(tr);
    tr_flags_made(tr, i, &rename);
    operation_put(tr, insn);
    tr->flags_host = true;
    return true;
}
