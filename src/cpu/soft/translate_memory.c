/*
 * The translator's memory operands: from an operand to its linear address, and from there through
 * the TLB to a host address. See translate.c and doc/soft.md.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/slots.h"
#include "cpu/soft/translate_internal.h"

bool tr_address(struct translation *tr, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    int64_t displacement = insn->displacement;
    enum host_register base = HOST_NONE, index = HOST_NONE;

    if (insn->base == X86_REG_RIP) {
        displacement += (int64_t)((uintptr_t)tr->block->host & 0xfff) + op->next;
        emit_mov_reg_state(&tr->e, HOST_R10, STATE(code_page));
        base = HOST_R10;
    } else if (insn->base != X86_REG_NONE) {
        base = tr_host_of(insn->base);
        if (tr_is_displaced(insn->base)) {
            emit_mov_reg_state(&tr->e, HOST_R10, GPR(insn->base));
            base = HOST_R10;
        }
    }
    if (insn->index != X86_REG_NONE) {
        index = tr_host_of(insn->index);
        if (tr_is_displaced(insn->index)) {
            emit_mov_reg_state(&tr->e, HOST_R11, GPR(insn->index));
            index = HOST_R11;
        }
    }
    if (!tr_fits32(displacement)) {
        if (base != HOST_NONE || index != HOST_NONE)
            return false;
        emit_mov_reg_imm64(&tr->e, HOST_R10, (uint64_t)displacement);
    } else if (insn->address_size == 4) {
        emit_lea32(&tr->e, HOST_R10, base, index, insn->scale, (int32_t)displacement);
    } else {
        emit_lea(&tr->e, HOST_R10, base, index, insn->scale, (int32_t)displacement);
    }
    if (insn->segment >= X86_FS)
        emit_alu_reg_state(&tr->e, EMIT_ADD, HOST_R10,
                           STATE(seg[0]) + (int32_t)(insn->segment * sizeof(struct x86_segment) +
                                                     offsetof(struct x86_segment, base)));
    return true;
}

/* Out of line: the twin of the operation, or first a look into the TLB. */
static struct cold *miss_add(struct translation *tr, uint8_t *place, const struct check *check)
{
    struct cold *cold = tr_cold_add(tr, place, COLD_OP);

    cold->op = check->op;
    cold->vectors = tr->vectors;
    return cold;
}

/* Which slot an operation's memory operand, or its push or pop, goes through. */
static unsigned slot_of(const struct translation *tr, const struct check *check)
{
    const struct soft_op *op = &tr->block->ops[check->op];
    const struct x86_insn *insn = &op->insn;
    uint64_t page = (uint64_t)insn->displacement >> 12;

    if (!insn->memory || check->stack)
        return X86_RSP;
    if (insn->base < 16)
        return insn->base;
    if (insn->base == X86_REG_RIP)
        return SOFT_SLOT_RIP +
               (unsigned)((tr_page_offset(tr, op->next) + insn->displacement) >> 12 & 3);
    if (insn->index != X86_REG_NONE)
        return insn->index;
    return (insn->segment == X86_GS ? SOFT_SLOT_GS : SOFT_SLOT_ABSOLUTE) + (unsigned)(page & 3);
}

void tr_check(struct translation *tr, const struct check *check)
{
    struct emit *e = &tr->e;
    unsigned user = tr->block->mode & SOFT_MODE_USER ? 1 : 0;
    unsigned slot = slot_of(tr, check);
    int32_t tag = STATE(slots[0].tag[0][0]) + (int32_t)(user * sizeof(struct soft_slots) +
                                                        8 * (check->access * SOFT_SLOTS + slot));
    struct cold *cold;

    if (check->align > 1) {
        emit_mov_reg_reg32(e, HOST_R11, HOST_R10);
        emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, (int32_t)check->align - 1);
        (void)miss_add(tr, emit_jcc_rel32(e, EMIT_IF_NE), check);
    }
    emit_alu_reg_state(e, EMIT_XOR, HOST_R10, tag);
    emit_alu_reg_imm(e, EMIT_CMP, HOST_R10, (int32_t)(GUEST_PAGE_SIZE - check->size));
    cold = miss_add(tr, emit_jcc_rel32(e, EMIT_IF_A), check);
    emit_alu_reg_state(e, EMIT_ADD, HOST_R10, tag + SOFT_SLOT_PAGE);
    cold->kind = COLD_SLOT;
    cold->slot = tag;
    cold->access = (uint8_t)check->access;
    cold->size = (uint8_t)check->size;
    cold->hit = e->at;
}
