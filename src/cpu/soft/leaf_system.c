/*
 * Leaves (leaf.h) for system instructions: what their twins in syscall.c, segment_ops.c and
 * system.c do in the usual case. They decline what faults, what an exit must answer, what sets TF,
 * and what needs a descriptor.
 *
 * Threads: a vCPU's own. Every operand is the guest's.
 */
#include "cpu/soft/descriptor.h"
#include "cpu/soft/leaf.h"
#include "cpu/soft/paging.h"

/* Behind an operation that ends its block; false: no address is there. */
static bool next_set(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t next = c->block_rip + op->next;

    if (!soft_is_canonical(next))
        return false;
    c->rip = next;
    return true;
}

bool soft_leaf_load(struct soft_vcpu *c, uint64_t linear, uint64_t *value)
{
    const struct soft_tlb_entry *entry =
        &c->tlb_now->entry[SOFT_READ][(linear >> 12) % SOFT_TLB_ENTRIES];
    uint64_t offset = linear & (GUEST_PAGE_SIZE - 1);

    if (offset + sizeof *value > GUEST_PAGE_SIZE ||
        (entry->tag != linear - offset &&
         soft_leaf_fill(c, linear, SOFT_READ | 8u << 8) != SOFT_FILL_AGAIN))
        return false;
    *value = *(const volatile uint64_t *)(uintptr_t)(entry->page + offset);
    return true;
}

/* -- RFLAGS -- */

bool soft_leaf_flags_set(struct soft_vcpu *c, uint64_t value, uint64_t mask)
{
    uint64_t flags = (soft_rflags_get(c) & ~mask) | (value & mask);

    if (flags & (X86_RFLAGS_TF | X86_RFLAGS_RF))
        return false;
    soft_rflags_set(c, flags);
    return true;
}

bool soft_leaf_popf(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t mask = X86_RFLAGS_ARITH | X86_RFLAGS_TF | X86_RFLAGS_DF | X86_RFLAGS_NT |
                    X86_RFLAGS_AC | X86_RFLAGS_ID | X86_RFLAGS_VIF | X86_RFLAGS_VIP;
    uint64_t value;

    if (op->insn.operand_size != 8 || !soft_leaf_load(c, c->gpr[X86_RSP], &value))
        return false;
    /* Who waits for IF is let in here; the twin does that. */
    if ((value & X86_RFLAGS_IF) && atomic_load_explicit(&c->request, memory_order_relaxed) != 0)
        return false;
    value &= ~(uint64_t)(X86_RFLAGS_VIF | X86_RFLAGS_VIP);
    if (c->cpl <= (c->rflags & X86_RFLAGS_IOPL) >> 12)
        mask |= X86_RFLAGS_IF;
    if (c->cpl == 0)
        mask |= X86_RFLAGS_IOPL;
    if (!soft_leaf_flags_set(c, value, mask))
        return false;
    c->gpr[X86_RSP] += 8;
    return true;
}

bool soft_leaf_smap(struct soft_vcpu *c, const struct soft_op *op)
{
    if (c->cpl != 0 || !c->vm->cpuid->feature[X86_FEATURE_SMAP])
        return false;
    if (op->insn.op == X86_OP_STAC)
        c->rflags |= X86_RFLAGS_AC;
    else
        c->rflags &= ~X86_RFLAGS_AC;
    soft_mode_update(c);
    return true;
}

/* -- segments -- */

/* Null selectors in DS, ES, FS and GS. */
bool soft_leaf_mov_to_seg(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    uint16_t selector = (uint16_t)c->gpr[insn->rm];
    unsigned segment = insn->reg & 7;

    if (insn->memory || segment == X86_SS || !soft_selector_is_null(selector) || !next_set(c, op))
        return false;
    c->seg[segment] = (struct x86_segment){.selector = selector};
    return true;
}

bool soft_leaf_base(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    uint64_t *base = &c->seg[insn->modrm & 8 ? X86_GS : X86_FS].base;
    uint64_t mask = insn->operand_size == 8 ? UINT64_MAX : UINT32_MAX;

    if (!(c->cr4 & X86_CR4_FSGSBASE) || insn->operand_size < 4)
        return false;
    if (insn->op == X86_OP_RDFSBASE || insn->op == X86_OP_RDGSBASE) {
        c->gpr[insn->rm] = *base & mask;
        return true;
    }
    if (!soft_is_canonical(c->gpr[insn->rm] & mask))
        return false;
    *base = c->gpr[insn->rm] & mask;
    return true;
}

/* -- MSRs -- */

/* The MSRs that a context switch touches. */
static uint64_t *msr_find(struct soft_vcpu *c)
{
    switch ((uint32_t)c->gpr[X86_RCX]) {
    case X86_MSR_FS_BASE:
        return &c->seg[X86_FS].base;
    case X86_MSR_GS_BASE:
        return &c->seg[X86_GS].base;
    case X86_MSR_KERNEL_GS_BASE:
        return &c->kernel_gs_base;
    default:
        return NULL;
    }
}

bool soft_leaf_rdmsr(struct soft_vcpu *c, const struct soft_op *op)
{
    const uint64_t *msr = msr_find(c);

    (void)op;
    if (!msr || c->cpl != 0)
        return false;
    c->gpr[X86_RAX] = (uint32_t)*msr;
    c->gpr[X86_RDX] = *msr >> 32;
    return true;
}

bool soft_leaf_wrmsr(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t value = (uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;
    uint64_t *msr = msr_find(c);

    if (!msr || c->cpl != 0 || !soft_is_canonical(value) || !next_set(c, op))
        return false;
    *msr = value;
    soft_serialize();
    return true;
}
