/*
 * Slots: the last page that each base register led to. Only inside src/cpu/soft/.
 *
 * A translated access looks into the slot of its base register before it asks the TLB: the address
 * of a slot is known when code is made, so that nothing but the host page's address is added to
 * what the access waits for. A slot repeats a TLB entry; when any of those goes, all slots go.
 *
 * Kernel and user code have slots of their own. The kernel's may be filled while SMAP is suspended
 * (SOFT_KERNEL): those are emptied at the end of that. On SOFT_CHECKED all stay empty.
 *
 * Any address, canonical or not, can be a guest's; so an empty slot's tag is a secret address that
 * is not canonical, and its page is never used by a guest that does not know it.
 *
 * Threads: a vCPU's own. Needs no libc and no vectors.
 */
#ifndef FREEHOLD_CPU_SOFT_SLOTS_H
#define FREEHOLD_CPU_SOFT_SLOTS_H

#include <stddef.h>

#include "cpu/soft/soft.h"

/* By base register; then RIP-relative, FS and absolute, GS operands, each by page, modulo a power
 * of two. The stack pointer has two of its own. */
#define SOFT_SLOT_RIP      16
#define SOFT_SLOT_ABSOLUTE 48
#define SOFT_SLOT_GS       56
#define SOFT_SLOT_STACK    64

/* From a tag to its page, in bytes. */
#define SOFT_SLOT_PAGE ((int32_t)offsetof(struct soft_tlb_entry, page))

static inline void soft_slots_clear_of(struct soft_vcpu *c, unsigned user)
{
    void *to = &c->slots[user];
    uint64_t words = sizeof c->slots[user] / 8;

    __asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(c->slot_empty) : "memory");
    for (unsigned i = 0; i < 4; i++)
        c->stack[i / 2].entry[user][i % 2].tag = c->slot_empty;
}

/* No store fits: it lies before it, or is the last byte of all, which is too far behind. */
static inline void soft_apart_clear(struct soft_vcpu *c)
{
    c->apart.from = UINT64_MAX;
    c->apart.base = 0;
}

static inline void soft_slots_clear(struct soft_vcpu *c)
{
    soft_apart_clear(c);
    soft_slots_clear_of(c, 0);
    soft_slots_clear_of(c, 1);
    for (unsigned i = 0; i < SOFT_CODE_WRITES; i++)
        c->code_writes.tag[i] = c->slot_empty;
}

/* SMAP holds again: the slots that were filled meanwhile, most often one. */
static inline void soft_slots_end_ac(struct soft_vcpu *c)
{
    if (c->slot_fills == 1)
        *(uint64_t *)(void *)((uint8_t *)c + c->slot_filled) = c->slot_empty;
    else if (c->slot_fills != 0)
        soft_slots_clear_of(c, 0);
}

/* After c->privilege changed: which TLB translated code asks. */
static inline void soft_privilege_apply(struct soft_vcpu *c)
{
    struct soft_tlb *now = c->tlb[c->privilege];

    if (now == c->tlb_now)
        return;
    soft_apart_clear(c);
    if (c->privilege == SOFT_CHECKED)
        soft_slots_clear(c);
    else if (c->tlb_now == c->tlb[SOFT_KERNEL])
        soft_slots_end_ac(c);
    if (c->privilege == SOFT_KERNEL)
        c->slot_fills = 0;
    c->tlb_now = now;
}

#endif
