/*
 * The translator's vector operations: on the host's own vector unit, with the guest's registers in
 * it. See translate.c and doc/soft.md.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"

#include "cpu/x86/vector.h"

static bool vector_is_native(const struct x86_vector_insn *v)
{
    if (v->unit != X86_UNIT_SSE && v->unit != X86_UNIT_VEX && v->unit != X86_UNIT_EVEX)
        return false;
    if (v->memory != X86_MEMORY_PLAIN && v->memory_access != 0)
        return false;
    if (v->reg.class == X86_CLASS_MMX || v->rm.class == X86_CLASS_MMX)
        return false;
    return !(v->flags & (X86_VECTOR_RAX_RDX | X86_VECTOR_WRITES_RCX));
}

bool tr_vector(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    struct x86_vector_insn v;
    struct check check = {.op = i};

    if (!(tr->block->mode & SOFT_MODE_VECTORS) ||
        !x86_vector_describe(&op->insn, tr->c->vm->cpuid->feature, &v) || !vector_is_native(&v))
        return false;
    check.size = v.memory_bytes;
    check.align = v.aligned ? v.memory_bytes : 0;
    check.access = v.memory_access & X86_OPERAND_WRITE ? SOFT_WRITE : SOFT_READ;
    if (!tr->vectors)
        emit_call_state(&tr->e, STATE(vector_ready));
    tr->vectors = true;
    return tr_native(tr, i, &v, &check);
}
