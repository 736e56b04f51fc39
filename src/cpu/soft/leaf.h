/*
 * Leaves: C functions that translated code calls with the guest's vector registers still in the
 * host's. Only inside src/cpu/soft/.
 *
 * A leaf does the usual case of an operation and returns true, or changes nothing that the guest
 * could see and returns false: then the interpreted twin runs. It and all that it calls is built
 * without vector instructions, calls no libc (tests/leaves looks), raises nothing, takes no lock
 * and drops no block.
 * Registers and flags are in the vCPU, c->op and c->block_rip are set.
 */
#ifndef FREEHOLD_CPU_SOFT_LEAF_H
#define FREEHOLD_CPU_SOFT_LEAF_H

#include "cpu/soft/soft.h"

typedef bool soft_leaf(struct soft_vcpu *c, const struct soft_op *op);

/* What to do about an access that missed the TLB. */
enum soft_fill {
    SOFT_FILL_TWIN,  /* leave it to the twin */
    SOFT_FILL_AGAIN, /* there is an entry now */
    SOFT_FILL_DIRECT /* this once at the host address in c->exit_value: see soft_code_is_apart() */
};

/* For an access of `size` bytes. Called by the fixed code, `what` is access | size << 8, and
 * SOFT_FILL_EARLY where the access itself comes later, so that the page tables must not be walked
 * for it. (paging.c) */
#define SOFT_FILL_EARLY 0x80u
/* One that reads may be answered with a copy, where it lies across two pages. (leaf_split.c) */
#define SOFT_FILL_COPY 0x40u
enum soft_fill soft_leaf_split_read(struct soft_vcpu *c, uint64_t linear, unsigned size);
/* One that writes, after soft_leaf_fill() has declined: copies, and copies back. */
soft_leaf soft_leaf_split_begin, soft_leaf_split_end;
enum soft_fill soft_leaf_fill(struct soft_vcpu *c, uint64_t linear, uint32_t what);
/* After SOFT_FILL_DIRECT: how many of the `most` bytes from there on may be stored to so. */
unsigned soft_leaf_apart(const struct soft_vcpu *c, uint64_t linear, unsigned most);

/* Where a branch to c->exit_value leads, whose target neither its link nor the lookup table knows:
 * code for c->found, with the flags in memory, and code_page. False: C must look. (translate_run.c)
 */
bool soft_leaf_target(struct soft_vcpu *c);

/* How often an access that goes through a slot misses it (translate_memory.c). */
struct soft_pace {
    uint8_t *place;      /* the access's look into the slot, and code that asks the TLB instead: */
    const uint8_t *hash; /* both in the writable view */
    uint64_t tsc;        /* of the last SOFT_PACE_MISSES-th miss; 0: none yet */
    uint32_t left;       /* misses up to the next */
};
#define SOFT_PACE_MISSES 32
bool soft_leaf_pace(struct soft_vcpu *c, struct soft_pace *pace);

/* MOVS, CMPS, STOS, LODS and SCAS of 64-bit code with 64-bit addresses, with and without REP
 * (leaf_string.c). Where it declines a part may be done and committed: the twin does the rest. */
soft_leaf soft_leaf_string;

/* -- system instructions of 64-bit code; those that set c->rip end their block -- */

/* syscall.c, leaf_iret.c: all three set c->rip */
soft_leaf soft_leaf_syscall, soft_leaf_sysret, soft_leaf_iret;
/* leaf_system.c; those of the second line set c->rip */
soft_leaf soft_leaf_popf, soft_leaf_smap, soft_leaf_base, soft_leaf_rdmsr;
soft_leaf soft_leaf_mov_to_seg, soft_leaf_wrmsr;
/* system.c: both set c->rip */
soft_leaf soft_leaf_mov_to_cr, soft_leaf_invlpg;

/* leaf_gather.c: gathers and scatters, on operands in soft_vcpu.vector */
soft_leaf soft_leaf_gather;

/* Eight bytes at `linear`, as the running code may read them; false: the twin must. */
bool soft_leaf_load(struct soft_vcpu *c, uint64_t linear, uint64_t *value);
/* Changes the flags in `mask`; false, and nothing changed, where TF or RF would be set. */
bool soft_leaf_flags_set(struct soft_vcpu *c, uint64_t value, uint64_t mask);

#endif
