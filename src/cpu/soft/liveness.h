/*
 * Where in a block the arithmetic flags are live. Only inside src/cpu/soft/.
 *
 * A flag that is not live may hold anything: the translator need not compute or keep it. Each
 * question can be asked in two ways.
 *
 * Relaxed: flags are live only for instructions that use them. Where an instruction faults, flags
 * that are not live after it and that it does not read may be wrong in the RFLAGS that the fault's
 * handler finds on its stack. The program cannot tell, since it overwrites them before it looks;
 * the handler, a debugger or a saved state can. Fit for code that can repair them before it raises
 * the fault (by running the block's instructions again from where flags were known), and for no
 * other.
 *
 * Precise: an instruction that may fault reads all flags before it, so every fault finds the
 * architectural value and nothing needs repair. An instruction that leaves translated code without
 * faulting (a TLB miss, a store to a code page) is covered, too: its interpreted twin finds the
 * right flags and leaves right ones.
 *
 * In both ways, all flags are live wherever an event may be taken between instructions: where the
 * translator looks at soft_vcpu.request, and at any exit to the dispatcher. Pass X86_RFLAGS_ARITH
 * as `live_out` there, and soft_live_in()'s answer only for a jump into a known successor that
 * looks at no request before the successor's first instruction.
 *
 * Threads: no state. Trusts nothing of the guest's code.
 */
#ifndef FREEHOLD_CPU_SOFT_LIVENESS_H
#define FREEHOLD_CPU_SOFT_LIVENESS_H

#include <stddef.h>
#include <stdint.h>

#include "cpu/soft/soft.h"
#include "cpu/x86/flags.h"

/* live_after[i]: the flags live after ops[i], where `live_out` are live after the last. What is
 * live before the first is returned. */
uint16_t soft_liveness(const struct soft_op *ops, unsigned count, uint16_t live_out,
                       uint16_t live_after[]);
uint16_t soft_liveness_precise(const struct soft_op *ops, unsigned count, uint16_t live_out,
                               uint16_t live_after[]);

/* The flags that code at `bytes` may read before it overwrites them, judged by at most `depth`
 * instructions that lie whole within `available` bytes. Whatever ends a block (a branch above all)
 * ends the search, as do bytes that are no instruction: flags not overwritten by then are live. */
uint16_t soft_live_in(const uint8_t *bytes, size_t available, enum x86_code_size size,
                      unsigned depth);
uint16_t soft_live_in_precise(const uint8_t *bytes, size_t available, enum x86_code_size size,
                              unsigned depth);

#endif
