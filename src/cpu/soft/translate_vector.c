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
    /* An access under a mask may be done on the host if all that it could touch may be. */
    return v->memory <= X86_MEMORY_COMPRESSED || v->memory_access == 0;
}

static unsigned units_of(const struct x86_vector_insn *v)
{
    bool mmx = v->reg.class == X86_CLASS_MMX || v->rm.class == X86_CLASS_MMX ||
               (v->flags & (X86_VECTOR_ENTERS_MMX | X86_VECTOR_EMMS));

    return (mmx ? UNIT_X87 : 0) | (v->unit == X86_UNIT_MMX ? 0 : UNIT_VECTOR);
}

#define MXCSR_MASKS UINT32_C(0x1f80)
#define MXCSR_VALID UINT32_C(0xffff)

/* A value that unmasks exceptions, or is none, is for the twin. */
bool tr_mxcsr(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    bool load = op->insn.op == X86_OP_LDMXCSR;
    const struct check check = {.op = i, .size = 4, .access = load ? SOFT_READ : SOFT_WRITE};
    struct emit *e = &tr->e;

    if (!(tr->block->mode & SOFT_MODE_VECTORS) ||
        (op->insn.vex != X86_VEX_NONE && op->insn.vvvv != 0))
        return false;
    tr_units_load(tr, i, UNIT_VECTOR);
    tr_flags_clobber(tr);
    if (!tr_address(tr, op))
        return false;
    tr_check(tr, &check);
    if (!load) {
        emit_stmxcsr_state(e, STATE(saved_rax));
        emit_mov_reg_state32(e, HOST_R11, STATE(saved_rax));
        emit_store(e, HOST_R11, HOST_R10, 0, 4);
        return true;
    }
    emit_load(e, HOST_R10, HOST_R10, 0, 4);
    emit_mov_state_reg(e, STATE(saved_rax), HOST_R10);
    emit_mov_reg_reg32(e, HOST_R11, HOST_R10);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, (int32_t)(MXCSR_MASKS | ~MXCSR_VALID));
    emit_alu_reg_imm32(e, EMIT_CMP, HOST_R11, (int32_t)MXCSR_MASKS);
    tr_twin_if(tr, i, EMIT_IF_NE);
    emit_ldmxcsr_state(e, STATE(saved_rax));
    return true;
}

static void access_set(const struct x86_vector_insn *v, struct check *check)
{
    check->size = v->memory_bytes;
    check->align = v->aligned ? v->memory_bytes : 0;
    check->access = v->memory_access & X86_OPERAND_WRITE ? SOFT_WRITE : SOFT_READ;
    check->maybe = v->memory != X86_MEMORY_PLAIN && check->access == SOFT_WRITE;
}

bool tr_vector_access(const struct translation *tr, const struct x86_insn *insn,
                      struct check *check)
{
    struct x86_vector_insn v;

    if (!(tr->block->mode & SOFT_MODE_VECTORS) ||
        !x86_vector_describe(insn, tr->c->vm->cpuid->feature, &v) || v.memory != X86_MEMORY_PLAIN ||
        v.memory_bytes == 0)
        return false;
    access_set(&v, check);
    return true;
}

bool tr_vector_describe(const struct translation *tr, unsigned i, struct x86_vector_insn *v,
                        struct check *check)
{
    if (!(tr->block->mode & SOFT_MODE_VECTORS) ||
        !x86_vector_describe(&tr->block->ops[i].insn, tr->c->vm->cpuid->feature, v) ||
        !vector_is_native(v))
        return false;
    check->op = i;
    access_set(v, check);
    return !(units_of(v) & UNIT_X87) || (tr->block->mode & SOFT_MODE_X87);
}

unsigned tr_vector_units(const struct translation *tr, unsigned i)
{
    struct x86_vector_insn v;
    struct check check;

    return tr_vector_describe(tr, i, &v, &check) ? units_of(&v) : 0;
}

bool tr_vector(struct translation *tr, unsigned i)
{
    struct x86_vector_insn v;
    struct check check = {.op = i};

    if ((tr->block->mode & SOFT_MODE_VECTORS) &&
        x86_vector_describe(&tr->block->ops[i].insn, tr->c->vm->cpuid->feature, &v) &&
        (v.memory == X86_MEMORY_GATHER || v.memory == X86_MEMORY_SCATTER))
        return tr_gather(tr, i, &v);
    if (!tr_vector_describe(tr, i, &v, &check))
        return false;
    tr_units_load(tr, i, units_of(&v));
    return tr_native(tr, i, &v, &check);
}
