/* The TLBs of a vCPU: see tlb.c. Only inside src/cpu/soft/. */
#ifndef FREEHOLD_CPU_SOFT_TLB_H
#define FREEHOLD_CPU_SOFT_TLB_H

#include "cpu/soft/soft.h"

MUST_CHECK bool soft_tlbs_new(struct soft_vcpu *c);
void soft_tlbs_free(struct soft_vcpu *c);

struct soft_tlb_fill {
    uint64_t linear;
    uint8_t *host; /* of the byte at `linear` */
    bool global;
};

void soft_tlb_set(struct soft_vcpu *c, enum soft_privilege privilege, enum soft_access access,
                  const struct soft_tlb_fill *fill);
/* A page of 2^shift bytes was used. */
void soft_tlb_large_note(struct soft_vcpu *c, uint64_t linear, unsigned shift);
void soft_tlb_flush_writes(struct soft_vcpu *c);
/* Forgets the write entries of the page at `page` on the host, wherever it is mapped. */
void soft_tlb_forget_writes(struct soft_vcpu *c, const uint8_t *page);

#endif
