/*
 * Which arithmetic flags (CF, PF, AF, ZF, SF, OF) an instruction needs and which it replaces, for
 * the translator. Needs no libc.
 *
 * Masks are of RFLAGS bits within X86_RFLAGS_ARITH. Where the manual leaves a flag undefined, it is
 * `maybe`: what the host's unit does with it differs between processors. The one exception is AF
 * after AND, OR, XOR and TEST, which every processor clears; flags_test.c checks that on the host.
 * Source: Intel SDM vol. 2 (instruction pages), vol. 1 appendix A (EFLAGS cross-reference).
 * Threads: const data only. Trusts nothing: any decoded instruction gives an answer.
 */
#ifndef FREEHOLD_CPU_X86_FLAGS_H
#define FREEHOLD_CPU_X86_FLAGS_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/x86/decode.h"
#include "cpu/x86/state.h"
#include "cpu/x86/vector.h"

struct x86_flags {
    uint16_t read;    /* what the instruction does depends on them */
    uint16_t written; /* replaced whatever the operands are; nothing of the old value survives that
                         `read` does not name */
    uint16_t maybe;   /* replaced or kept, as the operands or the processor have it */
};

/*
 * A fault is not counted as a reader of the flags: see x86_insn_may_fault(). Instructions that hand
 * the whole state to somebody by design read all: system instructions, port I/O, far transfers,
 * software interrupts, HLT, PAUSE, undefined instructions.
 *
 * `vector` describes a VECTOR instruction and is ignored for all others; NULL: not known or #UD,
 * and then all flags are read and may change. TZCNT and LZCNT are taken for what they have in
 * common with BSF and BSR, which they are on CPU models without them.
 */
void x86_flags_of(const struct x86_insn *insn, const struct x86_vector_insn *vector,
                  struct x86_flags *out);

/* Whether the instruction can raise an exception: any access to memory (LEA, NOP and prefetches
 * make none), #DE, #NM, #MF, #XM, privilege, a CS limit at a branch, and #UD that the CPU model or
 * mode decides when the instruction runs (BMI, ADX, POPCNT, CRC32...). */
bool x86_insn_may_fault(const struct x86_insn *insn);

#endif
