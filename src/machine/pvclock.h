/*
 * The paravirtual clock that KVM guests know: the guest computes time from its TSC with a factor
 * that the VMM wrote into its memory.
 *
 * Source: Linux Documentation/virt/kvm/x86/msr.rst (MSR_KVM_WALL_CLOCK(_NEW),
 * MSR_KVM_SYSTEM_TIME(_NEW)) and cpuid.rst. Nothing here is read back from the guest.
 * Threads: MSRs come from the vCPU's own thread; the mutex is a leaf.
 */
#ifndef FREEHOLD_MACHINE_PVCLOCK_H
#define FREEHOLD_MACHINE_PVCLOCK_H

#include <stdint.h>

#include "base/error.h"
#include "machine/tsc.h"
#include "mem/mem.h"

struct pvclock;

struct pvclock_config {
    struct mem *mem;
    const struct tsc_clock *tsc; /* outlives the clock */
    unsigned vcpu_count;
};

MUST_CHECK int pvclock_new(const struct pvclock_config *config, struct pvclock **out);
void pvclock_free(struct pvclock *clock);
void pvclock_reset(struct pvclock *clock); /* every vCPU's clock off; no vCPU runs */

/* MSRs 0x11, 0x12, 0x4b564d00, 0x4b564d01. -ENOENT: not one of them; -EINVAL: #GP(0). */
MUST_CHECK int pvclock_msr_read(struct pvclock *clock, unsigned vcpu, uint32_t index,
                                uint64_t *value);
MUST_CHECK int pvclock_msr_write(struct pvclock *clock, unsigned vcpu, uint32_t index,
                                 uint64_t value);

/* Guest TSC of that vCPU = host TSC + offset (0 until set); rewrites its time info. */
void pvclock_tsc_offset_set(struct pvclock *clock, unsigned vcpu, uint64_t offset);

#endif
