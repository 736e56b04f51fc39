/*
 * BT, BTS, BTR and BTC of a bit string in memory as a leaf (leaf.h).
 *
 * The bit's number reaches beyond the operand, so that its address is known only when it runs.
 * Where the TLB has it, the twin can neither fault nor take a slow way, and does the work. Threads:
 * a vCPU's own. Register and address are the guest's.
 */
#include "cpu/soft/leaf.h"

/* The operand that holds the bit (SDM vol. 2, BT). */
static uint64_t operand_of(const struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    unsigned bytes = insn->operand_size;
    uint64_t number = c->gpr[insn->reg], linear;
    int64_t index = bytes == 2 ? (int16_t)number : bytes == 4 ? (int32_t)number : (int64_t)number;

    linear = soft_effective(c, op) + (uint64_t)(index >> (bytes == 2   ? 4
                                                          : bytes == 4 ? 5
                                                                       : 6)) *
                                         bytes;
    if (insn->address_size == 4)
        linear = (uint32_t)linear;
    return insn->segment >= X86_FS ? linear + c->seg[insn->segment].base : linear;
}

bool soft_leaf_bits(struct soft_vcpu *c, const struct soft_op *op)
{
    enum soft_access access = op->insn.op == X86_OP_BT ? SOFT_READ : SOFT_WRITE;
    uint64_t linear = operand_of(c, op), offset = linear & (GUEST_PAGE_SIZE - 1);
    const struct soft_tlb_entry *entry =
        &c->tlb_now->entry[access][(linear >> 12) % SOFT_TLB_ENTRIES];

    if (c->io_done != 0 || c->trail || offset + op->insn.operand_size > GUEST_PAGE_SIZE ||
        (entry->tag != linear - offset &&
         soft_leaf_fill(c, linear, access | (uint32_t)op->insn.operand_size << 8) !=
             SOFT_FILL_AGAIN))
        return false;
    op->run(c, op);
    return true;
}
