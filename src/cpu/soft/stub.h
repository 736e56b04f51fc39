/*
 * Host code that executes one x87, MMX, SSE or AVX instruction of the guest on the host's own unit.
 *
 * A stub is the guest's instruction with its operands renamed: registers are loaded through the
 * pointers of a frame, memory is frame->memory, so one stub serves every register and address.
 * Stubs are found again by their renamed bytes and live as long as their VM. Guests can make more
 * of them than there is room for; those run from a scratch stub of their vCPU, rebuilt each time.
 *
 * Threads: stub_get() from any vCPU's thread (it locks); a scratch stub belongs to its vCPU.
 * Trusts: nothing of the guest's bytes is copied, the instruction is encoded anew from what
 * x86_vector_describe() accepted. Write and execute rights are on two views of one memfd.
 */
#ifndef FREEHOLD_CPU_SOFT_STUB_H
#define FREEHOLD_CPU_SOFT_STUB_H

#include <stdint.h>

#include "base/error.h"
#include "cpu/x86/vector.h"

/* What a stub works on (its only argument). */
struct stub_frame {
    _Alignas(64) uint8_t memory[128];     /* the memory operand */
    const void *reg, *vvvv, *rm, *fourth; /* registers to read */
    void *out;                            /* the register written */
    const void *opmask;
    void *image;       /* FXSAVE64 image, x87 only */
    uint64_t rax, rdx; /* general operand, in and out (RAX also for RCX's result); RDX in */
    uint32_t mxcsr, host_mxcsr;
    uint16_t flags; /* as soft_vcpu.arith */
};

struct stub {
    struct x86_vector_insn vector; /* but for the register numbers */
    void (*run)(struct stub_frame *frame);
    uint8_t key[16];
};

struct stub_cache;

MUST_CHECK int stub_cache_new(unsigned vcpu_count, struct stub_cache **out, struct error *err);
void stub_cache_free(struct stub_cache *cache);

/* NULL: no room. */
const struct stub *stub_get(struct stub_cache *cache, const struct x86_insn *insn,
                            const struct x86_vector_insn *vector);

/* Builds *out in the vCPU's scratch place. */
void stub_scratch(struct stub_cache *cache, unsigned vcpu, const struct x86_insn *insn,
                  const struct x86_vector_insn *vector, struct stub *out);

#endif
