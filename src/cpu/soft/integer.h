/* What integer.c and string.c share. Only inside src/cpu/soft/. */
#ifndef FREEHOLD_CPU_SOFT_INTEGER_H
#define FREEHOLD_CPU_SOFT_INTEGER_H

#include "cpu/soft/soft.h"

soft_handler *soft_string_handler(const struct x86_insn *insn); /* string.c */

/* RCX in the instruction's address size, and a register written in it. */
uint64_t soft_count_get(const struct soft_vcpu *c, const struct x86_insn *insn);
void soft_index_set(struct soft_vcpu *c, const struct x86_insn *insn, unsigned number,
                    uint64_t value);

/* soft_operand() for an offset that the instruction computes by itself. */
static inline uint64_t soft_linear_of(struct soft_vcpu *c, unsigned segment, uint64_t offset,
                                      unsigned size, enum soft_access access)
{
    if (c->code_size == X86_CODE_64)
        return segment >= X86_FS ? offset + c->seg[segment].base : offset;
    return soft_linear(c, segment, offset, size, access);
}

#endif
