/*
 * Liveness of the arithmetic flags: a backward pass over a block, and a look forward into the code
 * that follows it. See liveness.h.
 */
#include "cpu/soft/liveness.h"

#include "cpu/soft/code.h"

/* Every feature: whether the CPU model has an instruction was settled when it was decoded, and what
 * it does to the flags is the same on all that have it. */
static void flags_find(const struct x86_insn *insn, bool precise, struct x86_flags *out)
{
    bool feature[X86_FEATURE_COUNT];
    struct x86_vector_insn vector;
    bool known = false;

    if (insn->op == X86_OP_VECTOR) {
        memset(feature, true, sizeof feature);
        known = x86_vector_describe(insn, feature, &vector);
    }
    x86_flags_of(insn, known ? &vector : NULL, out);
    if (precise)
        x86_flags_make_precise(insn, out);
}

static uint16_t block_walk(const struct soft_op *ops, unsigned count, bool precise,
                           uint16_t live_after[])
{
    struct x86_flags flags;

    for (unsigned i = count - 1; i > 0; i--) {
        flags_find(&ops[i].insn, precise, &flags);
        live_after[i - 1] = x86_flags_live_before(live_after[i], &flags);
    }
    flags_find(&ops[0].insn, precise, &flags);
    return x86_flags_live_before(live_after[0], &flags);
}

uint16_t soft_liveness(const struct soft_op *ops, unsigned count, uint16_t live_out,
                       uint16_t live_after[])
{
    if (count == 0)
        return live_out;
    live_after[count - 1] = live_out;
    return block_walk(ops, count, false, live_after);
}

uint16_t soft_liveness_precise(const struct soft_op *ops, unsigned count, uint16_t live_out,
                               uint16_t live_after[])
{
    if (count == 0)
        return live_out;
    live_after[count - 1] = live_out;
    return block_walk(ops, count, true, live_after);
}

/* What is left of the code to look at. */
struct window {
    const uint8_t *bytes;
    size_t available;
    enum x86_code_size size;
    unsigned depth;
};

static uint16_t window_walk(struct window *w, bool precise)
{
    unsigned live = 0, open = X86_RFLAGS_ARITH; /* open: not overwritten so far */
    struct x86_flags flags;
    struct x86_insn insn;

    for (; w->depth > 0 && (open & ~live) != 0; w->depth--) {
        if (x86_decode(&insn, w->size, w->bytes, w->available) != X86_DECODE_OK)
            break;
        flags_find(&insn, precise, &flags);
        live |= flags.read & open;
        open &= ~(unsigned)flags.written;
        if (soft_op_ends_block(&insn))
            break;
        w->bytes += insn.length;
        w->available -= insn.length;
    }
    return (uint16_t)(live | open);
}

uint16_t soft_live_in(const uint8_t *bytes, size_t available, enum x86_code_size size,
                      unsigned depth)
{
    struct window w = {bytes, available, size, depth};

    return window_walk(&w, false);
}

uint16_t soft_live_in_precise(const uint8_t *bytes, size_t available, enum x86_code_size size,
                              unsigned depth)
{
    struct window w = {bytes, available, size, depth};

    return window_walk(&w, true);
}
