/*
 * Decoding a block: guest bytes to operations with their handlers, and where a block must end.
 *
 * Threads: a vCPU's own. The bytes are the guest's.
 */
#include "cpu/soft/code_internal.h"

/* Whether the operation's handler sets c->rip itself. */
static bool sets_rip(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_MOVS:
    case X86_OP_CMPS:
    case X86_OP_STOS:
    case X86_OP_LODS:
    case X86_OP_SCAS: /* repeated, they may come back to the run loop unfinished */
        return insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE);
    case X86_OP_CALL:
    case X86_OP_CALL_IND:
    case X86_OP_CALL_FAR:
    case X86_OP_CALL_FAR_IND:
    case X86_OP_JMP:
    case X86_OP_JMP_IND:
    case X86_OP_JMP_FAR:
    case X86_OP_JMP_FAR_IND:
    case X86_OP_RET:
    case X86_OP_RETF:
    case X86_OP_IRET:
    case X86_OP_JCC:
    case X86_OP_LOOP:
    case X86_OP_LOOPE:
    case X86_OP_LOOPNE:
    case X86_OP_JCXZ:
    case X86_OP_INT:
    case X86_OP_INT1:
    case X86_OP_INT3:
    case X86_OP_INTO:
    case X86_OP_SYSCALL:
    case X86_OP_SYSRET:
    case X86_OP_SYSENTER:
    case X86_OP_SYSEXIT:
    case X86_OP_HLT:
    case X86_OP_PAUSE:
    case X86_OP_INS:
    case X86_OP_OUTS:
        return true;
    default:
        return false;
    }
}

bool soft_op_ends_block(const struct x86_insn *insn)
{
    if (sets_rip(insn))
        return true;
    switch (insn->op) {
    case X86_OP_MOV_TO_CR:
    case X86_OP_MOV_TO_DR:
    case X86_OP_LMSW:
    case X86_OP_CLTS:
    case X86_OP_WRMSR:
    case X86_OP_XSETBV:
    case X86_OP_WRPKRU:
    case X86_OP_MOV_TO_SEG:
    case X86_OP_POP_SEG:
    case X86_OP_LOAD_FAR:
    case X86_OP_INVLPG:
    case X86_OP_INVPCID:
    case X86_OP_CPUID:
    case X86_OP_SERIALIZE:
    case X86_OP_FXRSTOR:
    case X86_OP_XRSTOR:
    case X86_OP_UD:
    case X86_OP_INVALID:
        return true;
    default:
        return false;
    }
}

bool soft_op_twin_ends_block(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_STI:
    case X86_OP_POPF:
        return true;
    default:
        return soft_op_ends_block(insn);
    }
}

static void op_undefined(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    soft_raise(c, X86_UD);
}

static void op_too_long(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    soft_raise_code(c, X86_GP, 0);
}

static void op_bind(struct soft_vcpu *c, struct soft_op *op, enum x86_decode_result result)
{
    op->run = NULL;
    op->stub = NULL;
    op->extra = 0;
    if (result == X86_DECODE_OK) {
        switch (op->insn.op) {
        case X86_OP_X87:
        case X86_OP_VECTOR:
        case X86_OP_FWAIT:
        case X86_OP_FXSAVE:
        case X86_OP_FXRSTOR:
        case X86_OP_XSAVE:
        case X86_OP_XRSTOR:
        case X86_OP_XSAVEOPT:
        case X86_OP_XSAVEC:
        case X86_OP_LDMXCSR:
        case X86_OP_STMXCSR:
            op->run = soft_vector_handler(c->vm, op);
            break;
        default:
            op->run = soft_handler_for(&op->insn);
        }
    }
    if (!op->run) {
        op->run = result == X86_DECODE_TOO_LONG ? op_too_long : op_undefined;
        op->insn.op = X86_OP_INVALID;
    }
    op->sets_rip = sets_rip(&op->insn);
}

enum x86_decode_result soft_op_decode(struct soft_vcpu *c, const struct soft_window *window,
                                      unsigned code_size, unsigned offset, struct soft_op *op)
{
    enum x86_decode_result result = x86_decode(&op->insn, (enum x86_code_size)code_size,
                                               window->bytes + offset, window->available - offset);

    if (result == X86_DECODE_MORE)
        return result;
    op->offset = (uint16_t)offset;
    op_bind(c, op, result);
    op->next = (uint16_t)(offset + op->insn.length);
    return result;
}

enum x86_decode_result soft_block_decode(struct soft_vcpu *c, const struct soft_window *window,
                                         struct soft_block *block)
{
    unsigned offset = 0;

    block->count = 0;
    block->odd = false;
    block->ahead_count = 0;
    block->heat = 0;
    block->code = NULL;
    block->code_alone = NULL;
    block->unshared = false;
    block->incoming = NULL;
    block->away[0] = NULL;
    block->came_back = false;
    block->second = NULL;
    block->head = NULL;
    while (block->count < window->most && offset < window->available) {
        struct soft_op *op = &block->ops[block->count];
        enum x86_decode_result result = soft_op_decode(c, window, c->code_size, offset, op);

        if (result == X86_DECODE_MORE) {
            if (block->count == 0)
                return result;
            break;
        }
        block->odd |= result != X86_DECODE_OK;
        offset = op->next;
        block->count++;
        if (soft_op_ends_block(&op->insn))
            break;
    }
    block->bytes = (uint16_t)offset;
    return block->count > 0 ? X86_DECODE_OK : X86_DECODE_MORE;
}
