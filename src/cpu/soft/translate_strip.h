/* What translate_strip.c and translate_strip_plan.c share. */
#ifndef FREEHOLD_CPU_SOFT_TRANSLATE_STRIP_H
#define FREEHOLD_CPU_SOFT_TRANSLATE_STRIP_H

#include "cpu/soft/translate_internal.h"

static inline bool tr_strip_is_vector(const struct x86_insn *insn)
{
    return insn->op == X86_OP_VECTOR || insn->op == X86_OP_X87;
}

/* The steps that operations up to `end` make, and which registers they change otherwise. */
struct strip_steps {
    int64_t by[16];
    uint16_t lost, used;
};

/* What the last comparison compares: `counter`, which goes by `step`, with `other`, X86_REG_NONE
 * for the immediate. */
struct strip_count {
    unsigned counter, other;
    int32_t step;
};

/* Operation i as a strip may have it; `check` says what it does with its memory operand. */
bool tr_strip_describe(const struct translation *tr, unsigned i, struct x86_vector_insn *v,
                       struct check *check);
bool tr_strip_is_accessing(const struct x86_insn *insn);
int64_t tr_strip_displacement(const struct translation *tr, unsigned i);
void tr_strip_step(struct strip_steps *steps, const struct x86_insn *insn,
                   const struct x86_vector_insn *v);
/* What the registers of an address have become by these steps. */
int64_t tr_strip_moved(const struct strip_steps *steps, const struct x86_insn *insn);

/* False: the last comparison is of something else. */
bool tr_strip_count(const struct translation *tr, struct strip_count *count);
/* Whether the loop goes on at least until the counter has gone that far: its jump was taken just
 * now, and is taken until the two are equal, or while the counter is on its side of the other. */
bool tr_strip_count_is_exact(const struct translation *tr, const struct strip_count *count);

#endif
