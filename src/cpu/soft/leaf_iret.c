/*
 * IRET of 64-bit code to 64-bit code as a leaf (leaf.h): to the same ring or an outer one.
 *
 * Source: Intel SDM vol. 2, IRET. Declines whatever far.c has to raise or to mark: descriptors that
 * are not plain, present and accessed, NT, TF.
 * Threads: the vCPU's own. Stack and descriptors are the guest's: each word is loaded once.
 */
#include "cpu/soft/control.h"
#include "cpu/soft/leaf.h"
#include "cpu/soft/paging.h"

enum { RIP, CS, RFLAGS, RSP, SS, WORDS };

/* A descriptor of the GDT, which the processor reads for itself. */
static bool descriptor_load(struct soft_vcpu *c, uint16_t selector, struct soft_descriptor *d)
{
    enum soft_privilege privilege = c->cr4 & X86_CR4_SMAP ? SOFT_KERNEL_SMAP : SOFT_KERNEL;
    uint32_t offset = selector & 0xfff8u;
    uint64_t linear = c->gdtr.base + offset;
    const struct soft_tlb_entry *entry =
        &c->tlb[privilege]->entry[SOFT_READ][(linear >> 12) % SOFT_TLB_ENTRIES];

    if ((selector & 4) || offset == 0 || offset + 7 > c->gdtr.limit ||
        entry->tag != ((linear + 7) & ~UINT64_C(0xfff)))
        return false;
    d->selector = selector;
    d->raw = *(const volatile uint64_t *)(uintptr_t)(entry->page + (linear & 0xfff));
    d->attributes = soft_raw_attributes(d->raw);
    return true;
}

static bool segments_load(struct soft_vcpu *c, const uint64_t frame[WORDS], struct x86_segment *cs,
                          struct x86_segment *ss)
{
    const unsigned compared =
        X86_SEG_S | X86_SEG_P | X86_SEG_TYPE | X86_SEG_DPL | X86_SEG_L | X86_SEG_DB;
    const unsigned code = SOFT_SEG_CODE | SOFT_SEG_READABLE | SOFT_SEG_ACCESSED;
    const unsigned data = SOFT_SEG_WRITABLE | SOFT_SEG_ACCESSED;
    unsigned cpl = frame[CS] & 3;
    unsigned wanted = X86_SEG_S | X86_SEG_P | cpl << 5;
    struct soft_descriptor d;

    if (!descriptor_load(c, (uint16_t)frame[CS], &d) ||
        (d.attributes & compared) != (wanted | code | X86_SEG_L))
        return false;
    *cs = soft_descriptor_segment(&d);
    if (soft_selector_is_null((uint16_t)frame[SS])) {
        *ss = soft_stack_null((uint16_t)frame[SS], (uint8_t)cpl);
        return cpl != 3 && (frame[SS] & 3) == cpl;
    }
    if ((frame[SS] & 3) != cpl || !descriptor_load(c, (uint16_t)frame[SS], &d) ||
        ((d.attributes & compared & ~X86_SEG_DB) != (wanted | data)))
        return false;
    *ss = soft_descriptor_segment(&d);
    return true;
}

bool soft_leaf_iret(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t mask = soft_iret_flags(c, 8);
    struct x86_segment cs, ss;
    uint64_t frame[WORDS];
    bool outer;

    if (op->insn.operand_size != 8 || (c->rflags & X86_RFLAGS_NT))
        return false;
    for (unsigned i = 0; i < WORDS; i++) {
        if (!soft_leaf_load(c, c->gpr[X86_RSP] + 8 * i, &frame[i]))
            return false;
    }
    outer = (frame[CS] & 3) > c->cpl;
    if ((frame[CS] & 3) < c->cpl || !soft_is_canonical(frame[RIP]) ||
        !segments_load(c, frame, &cs, &ss))
        return false;
    if (!(c->dr7 & SOFT_DR7_ENABLED)) /* as flags_return() in far.c */
        frame[RFLAGS] &= ~(uint64_t)X86_RFLAGS_RF;
    if (c->cpl == 0)
        mask |= X86_RFLAGS_VIF | X86_RFLAGS_VIP;
    if (!soft_leaf_flags_set(c, frame[RFLAGS], mask))
        return false;
    c->nmi_blocked = false;
    c->seg[X86_CS] = cs;
    c->seg[X86_SS] = ss;
    c->gpr[X86_RSP] = frame[RSP];
    c->rip = frame[RIP];
    soft_mode_update(c);
    if (outer)
        soft_segments_drop(c);
    soft_serialize();
    return true;
}
