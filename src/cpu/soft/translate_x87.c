/*
 * The translator's x87 operations: on the host's own unit with the guest's state in it, in blocks
 * whose mode says that all exceptions are masked. See translate.c and doc/soft.md.
 *
 * The host's unit records addresses of the host. What the guest may see, FIP and FDP, is put down
 * as code runs (soft_vcpu.x87_fip and x87_fdp); FOP changes by unmasked exceptions only, and FDP
 * too where CPUID says so (SDM vol. 1, 8.1.8 and 8.1.9.1; leaf 7, EBX bit 6).
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"
#include "cpu/soft/vector.h"

#define FCW_MASKS 0x3f

static bool is_fninit(const struct x86_insn *insn)
{
    return insn->opcode == 0xdb && insn->modrm == 0xe3;
}

static bool is_fldcw(const struct x86_insn *insn)
{
    return insn->opcode == 0xd9 && insn->memory && (insn->modrm >> 3 & 7) == 5;
}

/* Gives what it describes for an operation that the host may run. */
static bool is_native(const struct translation *tr, const struct x86_insn *insn,
                      struct x86_vector_insn *v)
{
    if (insn->op != X86_OP_X87 || !x86_vector_describe(insn, tr->c->vm->cpuid->feature, v))
        return false;
    return v->memory == X86_MEMORY_PLAIN && !is_fninit(insn);
}

/* Whether the operation behind this one puts its own address down before anything can leave. */
static bool is_followed(const struct translation *tr, unsigned i)
{
    const struct soft_op *next = &tr->block->ops[i + 1];
    struct x86_vector_insn v;

    return i + 1 < tr->block->count && is_native(tr, &next->insn, &v) && !next->insn.memory &&
           !(v.flags & X86_VECTOR_CONTROL);
}

/* Behind the operation, which changes no general register: false, and it can't be translated. */
bool tr_x87_data_pointer(struct translation *tr, const struct soft_op *op)
{
    const struct vector_vm *unit = tr->c->vm->stubs;
    struct soft_op plain = *op;

    if (!plain.insn.memory || unit->fdp_on_exception)
        return true;
    plain.insn.segment = X86_DS; /* an offset, without the segment's base */
    if (!tr_address(tr, &plain))
        return false;
    emit_mov_state_reg(&tr->e, STATE(x87_fdp), HOST_R10);
    return true;
}

void tr_x87_pointer(struct translation *tr, unsigned i)
{
    tr_rip(tr, tr_page_offset(tr, tr->block->ops[i].offset));
    emit_mov_state_reg(&tr->e, STATE(x87_fip), HOST_R10);
}

/* By a copy that no other vCPU can change. One that unmasks exceptions is the twin's. */
static bool fldcw_emit(struct translation *tr, unsigned i)
{
    const struct check check = {.op = i, .size = 2, .access = SOFT_READ};
    struct emit *e = &tr->e;

    tr_flags_clobber(tr);
    if (!tr_address(tr, &tr->block->ops[i]))
        return false;
    tr_check(tr, &check);
    emit_load(e, HOST_R11, HOST_R10, 0, 2);
    emit_mov_state_reg(e, STATE(saved_rax), HOST_R11);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, FCW_MASKS);
    emit_alu_reg_imm32(e, EMIT_CMP, HOST_R11, FCW_MASKS);
    tr_twin_if(tr, i, EMIT_IF_NE);
    emit_fldcw_state(e, STATE(saved_rax));
    return true;
}

bool tr_x87_describe(const struct translation *tr, unsigned i, struct x86_vector_insn *v,
                     struct check *check)
{
    if (!(tr->block->mode & SOFT_MODE_X87) || !is_native(tr, &tr->block->ops[i].insn, v))
        return false;
    check->op = i;
    check->size = v->memory_bytes;
    check->access = v->memory_access & X86_OPERAND_WRITE ? SOFT_WRITE : SOFT_READ;
    return true;
}

bool tr_x87(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    struct x86_vector_insn v;
    struct check check = {.op = i};

    if (!(tr->block->mode & SOFT_MODE_X87))
        return false;
    if (op->insn.op == X86_OP_FWAIT)
        return true;
    if (!tr_x87_describe(tr, i, &v, &check))
        return false;
    tr_units_load(tr, i, UNIT_X87);
    if (is_fldcw(&op->insn))
        return fldcw_emit(tr, i);
    if (!tr_native(tr, i, &v, &check))
        return false;
    if (v.flags & X86_VECTOR_CONTROL)
        return true;
    if (!is_followed(tr, i))
        tr_x87_pointer(tr, i);
    return tr_x87_data_pointer(tr, &tr->block->ops[i]);
}
