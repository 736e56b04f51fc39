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
    if (v->memory != X86_MEMORY_PLAIN && v->memory_access != 0)
        return false;
    return !(v->flags & (X86_VECTOR_RAX_RDX | X86_VECTOR_WRITES_RCX));
}

static unsigned units_of(const struct x86_vector_insn *v)
{
    bool mmx = v->reg.class == X86_CLASS_MMX || v->rm.class == X86_CLASS_MMX ||
               (v->flags & (X86_VECTOR_ENTERS_MMX | X86_VECTOR_EMMS));

    return (mmx ? UNIT_X87 : 0) | (v->unit == X86_UNIT_MMX ? 0 : UNIT_VECTOR);
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
    if ((units_of(&v) & UNIT_X87) && !(tr->block->mode & SOFT_MODE_X87))
        return false;
    tr_units_load(tr, units_of(&v));
    return tr_native(tr, i, &v, &check);
}
