/*
 * The translator's x87 operations: on the host's own unit with the guest's state in it, in blocks
 * whose mode says that all exceptions are masked. See translate.c and doc/soft.md.
 *
 * The host's unit records addresses of the host. What the guest may see, FIP and FDP, follows from
 * where the code is: it is put down (soft_vcpu.x87_fip and x87_fdp) on the way to C, at the block's
 * end, and before an operation changes the registers of FDP's operand. FOP changes by unmasked
 * exceptions only, and FDP too where CPUID says so (SDM vol. 1, 8.1.8 and 8.1.9.1; leaf 7, EBX bit
 * 6).
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

bool tr_x87_is_native(const struct translation *tr, const struct x86_insn *insn)
{
    struct x86_vector_insn v;

    return (tr->block->mode & SOFT_MODE_X87) &&
           (insn->op == X86_OP_FWAIT || is_native(tr, insn, &v));
}

static void access_set(const struct x86_vector_insn *v, struct check *check)
{
    check->size = v->memory_bytes;
    check->access = v->memory_access & X86_OPERAND_WRITE ? SOFT_WRITE : SOFT_READ;
}

bool tr_x87_access(const struct translation *tr, const struct x86_insn *insn, struct check *check)
{
    struct x86_vector_insn v;

    if (!(tr->block->mode & SOFT_MODE_X87) || !is_native(tr, insn, &v) || is_fldcw(insn) ||
        v.memory_bytes == 0)
        return false;
    access_set(&v, check);
    return true;
}

bool tr_x87_data_pointer(struct translation *tr, const struct soft_op *op)
{
    struct soft_op plain = *op;

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

void tr_x87_settle(struct translation *tr, struct tr_x87_pending *pending)
{
    if (pending->op != 0)
        tr_x87_pointer(tr, pending->op - 1u);
    if (pending->data != 0) /* its address was formed already */
        (void)tr_x87_data_pointer(tr, &tr->block->ops[pending->data - 1]);
    *pending = (struct tr_x87_pending){0};
}

/* Whether an operation goes to C, if at all, by what lies out of line. */
static bool is_inline(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_X87:
    case X86_OP_FWAIT:
    case X86_OP_VECTOR:
    case X86_OP_NOP:
    case X86_OP_LEA:
        return true;
    default:
        return tr_runs_as_it_stands(insn);
    }
}

void tr_x87_before(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn, *data;
    uint16_t written;

    if (tr->x87.op == 0)
        return;
    if (!is_inline(insn)) {
        tr_x87_settle(tr, &tr->x87);
        tr->shared_held = 0;
        return;
    }
    if (tr->x87.data == 0)
        return;
    data = &tr->block->ops[tr->x87.data - 1].insn;
    written = tr_registers_written(insn);
    if ((data->base < 16 && (written >> data->base & 1)) ||
        (data->index < 16 && (written >> data->index & 1))) {
        tr_x87_settle(tr, &tr->x87);
        tr->shared_held = 0;
    }
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
    access_set(v, check);
    return true;
}

unsigned tr_x87_units(const struct translation *tr, unsigned i)
{
    struct x86_vector_insn v;
    struct check check;

    return tr_x87_describe(tr, i, &v, &check) ? UNIT_X87 : 0;
}

bool tr_x87(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    const struct vector_vm *unit = tr->c->vm->stubs;
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
    tr->x87.op = (uint8_t)(i + 1);
    if (op->insn.memory && !unit->fdp_on_exception)
        tr->x87.data = (uint8_t)(i + 1);
    return true;
}
