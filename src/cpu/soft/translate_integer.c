/*
 * The translator's general-purpose operations: those that the host runs as they stand, the stack,
 * LEA. See translate.c and doc/soft.md.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"

#include "cpu/x86/flags.h"
#include "cpu/x86/vector.h"

/* What an operation does with its memory operand. */
static unsigned memory_size(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_MOVZX8:
    case X86_OP_MOVSX8:
    case X86_OP_SETCC:
        return 1;
    case X86_OP_MOVZX16:
    case X86_OP_MOVSX16:
        return 2;
    case X86_OP_MOVSXD:
        return 4;
    case X86_OP_CMPXCHG8B:
        return insn->operand_size == 8 ? 16 : 8;
    default:
        return insn->operand_size;
    }
}

static bool memory_written(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_CMP:
    case X86_OP_TEST:
    case X86_OP_BT:
    case X86_OP_MUL:
    case X86_OP_IMUL1:
    case X86_OP_IMUL3:
    case X86_OP_BLSR:
    case X86_OP_BLSMSK:
    case X86_OP_BLSI:
    case X86_OP_RORX:
        return false;
    default:
        return insn->form != X86_FORM_REG_RM;
    }
}

/* -- native operations -- */

static enum x86_feature feature_of(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_CMPXCHG8B:
        return insn->operand_size == 8 ? X86_FEATURE_CX16 : X86_FEATURE_NONE;
    case X86_OP_POPCNT:
        return X86_FEATURE_POPCNT;
    case X86_OP_TZCNT:
    case X86_OP_ANDN:
    case X86_OP_BEXTR:
    case X86_OP_BLSR:
    case X86_OP_BLSMSK:
    case X86_OP_BLSI:
        return X86_FEATURE_BMI1;
    case X86_OP_BZHI:
    case X86_OP_MULX:
    case X86_OP_PDEP:
    case X86_OP_PEXT:
    case X86_OP_RORX:
    case X86_OP_SARX:
    case X86_OP_SHLX:
    case X86_OP_SHRX:
        return X86_FEATURE_BMI2;
    case X86_OP_LZCNT:
        return X86_FEATURE_LZCNT;
    case X86_OP_ADCX:
    case X86_OP_ADOX:
        return X86_FEATURE_ADX;
    case X86_OP_MOVBE:
        return X86_FEATURE_MOVBE;
    case X86_OP_CRC32:
        return X86_FEATURE_SSE42;
    case X86_OP_LAHF:
    case X86_OP_SAHF:
        return X86_FEATURE_LAHF;
    default:
        return X86_FEATURE_NONE;
    }
}

/* Ranges are in X86_OPS' order. */
bool tr_runs_as_it_stands(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_ADD ... X86_OP_IMUL3:
    case X86_OP_ROL ... X86_OP_SHRD:
    case X86_OP_BSF ... X86_OP_CRC32:
    case X86_OP_XADD:
    case X86_OP_CMPXCHG:
    case X86_OP_CMPXCHG8B:
    case X86_OP_XCHG ... X86_OP_MOVSXD:
    case X86_OP_CMOV:
    case X86_OP_SETCC:
    case X86_OP_CBW:
    case X86_OP_CWD:
    case X86_OP_CLC:
    case X86_OP_STC:
    case X86_OP_CMC:
    case X86_OP_LAHF:
    case X86_OP_SAHF:
    case X86_OP_MOVNTI:
    case X86_OP_ADCX ... X86_OP_SHRX:
        return true;
    case X86_OP_BT:
    case X86_OP_BTS:
    case X86_OP_BTR:
    case X86_OP_BTC:
        return !(insn->memory && insn->form == X86_FORM_RM_REG); /* a bit string */
    default:
        return false;
    }
}

bool tr_rename(const struct x86_insn *insn, const struct emit_registers *regs,
               struct tr_renaming *r)
{
    uint16_t used = regs->read | regs->written;
    uint16_t implicit = regs->implicit_read | regs->implicit_written;
    const uint8_t pool[2] = {HOST_R11, HOST_R10};
    unsigned limit = insn->memory ? 1 : 2;

    if (implicit & (1u << X86_RSP | 7u << 9))
        return false;
    for (unsigned n = 0; n < 16; n++)
        r->rename.gpr[n] = (uint8_t)tr_host_of(n);
    r->rename.memory_base = HOST_R10;
    r->rename.memory_index = HOST_NONE;
    r->rename.memory_scale = 0;
    r->rename.memory_disp = 0;
    r->count = 0;
    r->written = regs->written;
    for (uint8_t n = 9; n <= 11; n++) {
        if (!(used >> n & 1))
            continue;
        if (r->count == limit)
            return false;
        r->guest[r->count] = n;
        r->host[r->count] = pool[r->count];
        r->rename.gpr[n] = pool[r->count++];
    }
    return true;
}

void tr_renamed_load(struct translation *tr, const struct tr_renaming *r)
{
    for (unsigned n = 0; n < r->count; n++)
        emit_mov_reg_state(&tr->e, r->host[n], GPR(r->guest[n]));
}

void tr_renamed_store(struct translation *tr, const struct tr_renaming *r)
{
    for (unsigned n = 0; n < r->count; n++) {
        if (r->written >> r->guest[n] & 1)
            emit_mov_state_reg(&tr->e, GPR(r->guest[n]), r->host[n]);
    }
}

bool tr_native(struct translation *tr, unsigned i, const struct x86_vector_insn *vector,
               const struct check *check)
{
    const struct soft_op *op = &tr->block->ops[i];
    struct emit_registers regs;
    struct tr_renaming r;
    struct x86_flags f;
    uint16_t changes;

    emit_registers_of(&op->insn, vector, &regs);
    tr_flags_of(&op->insn, vector, &f);
    changes = f.written | f.maybe;
    if (!tr_rename(&op->insn, &regs, &r))
        return false;
    if (op->insn.memory && !tr_share_use(tr, check, &r.rename.memory_disp)) {
        tr_flags_clobber(tr);
        if (!tr_address(tr, op))
            return false;
        tr_check(tr, check);
    }
    tr_renamed_load(tr, &r);
    if (changes && tr_flags_part(tr, i, &r.rename)) {
        if (!emit_insn(&tr->e, &op->insn, vector, &r.rename))
            return false;
        tr_renamed_store(tr, &r);
        return true;
    }
    if (f.read ||
        (changes && f.written != FLAGS_ALL && tr_flags_from(tr, i + 1) != TR_FLAGS_DEAD)) {
        if ((f.read | (FLAGS_ALL & ~f.written)) == X86_RFLAGS_CF)
            tr_carry_load(tr);
        else
            tr_flags_load(tr);
    }
    if (changes)
        tr_flags_made(tr, i, &r.rename);
    if (!emit_insn(&tr->e, &op->insn, vector, &r.rename))
        return false;
    tr_renamed_store(tr, &r);
    if (changes)
        tr->flags_host = true;
    return true;
}

bool tr_integer_access(const struct x86_insn *insn, struct check *check)
{
    check->size = memory_size(insn);
    check->access = memory_written(insn) ? SOFT_WRITE : SOFT_READ;
    check->align = check->size == 16 ? 16 : 0; /* CMPXCHG16B */
    return true;
}

bool tr_integer_describe(const struct translation *tr, unsigned i, struct check *check)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;

    check->op = i;
    (void)tr_integer_access(insn, check);
    return tr_runs_as_it_stands(insn) && tr->c->vm->cpuid->feature[feature_of(insn)];
}

/* -- the stack, LEA -- */

/* PUSH of what lies in memory, by way of the vCPU: the check of the stack needs both scratch
 * registers. */
static bool push_memory_emit(struct translation *tr, unsigned i)
{
    const struct check to = {.op = i, .size = 8, .access = SOFT_WRITE, .stack = true};

    tr_flags_clobber(tr);
    if (!tr_operand_load(tr, i, 8))
        return false;
    emit_mov_state_reg(&tr->e, STATE(push_value), HOST_R10);
    emit_lea(&tr->e, HOST_R10, HOST_R9, HOST_NONE, 0, -8);
    tr_check(tr, &to);
    emit_mov_reg_state(&tr->e, HOST_R11, STATE(push_value));
    emit_store(&tr->e, HOST_R11, HOST_R10, 0, 8);
    emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, -8);
    return true;
}

static bool push_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    const struct check check = {.op = i, .size = 8, .access = SOFT_WRITE};
    enum host_register source = HOST_R11;

    if (insn->operand_size != 8)
        return false;
    if (insn->memory)
        return push_memory_emit(tr, i);
    tr_flags_clobber(tr);
    emit_lea(&tr->e, HOST_R10, HOST_R9, HOST_NONE, 0, -8);
    tr_check(tr, &check);
    if (insn->form == X86_FORM_IMM)
        emit_mov_reg_imm64(&tr->e, HOST_R11, insn->immediate);
    else if (tr_is_displaced(insn->rm))
        emit_mov_reg_state(&tr->e, HOST_R11, GPR(insn->rm));
    else
        source = tr_host_of(insn->rm);
    emit_store(&tr->e, source, HOST_R10, 0, 8);
    emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, -8);
    return true;
}

static bool pop_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    const struct check check = {.op = i, .size = 8, .access = SOFT_READ};

    if (insn->operand_size != 8 || insn->memory)
        return false;
    tr_flags_clobber(tr);
    emit_mov_reg_reg(&tr->e, HOST_R10, HOST_R9);
    tr_check(tr, &check);
    emit_load(&tr->e, tr_is_displaced(insn->rm) ? HOST_R11 : tr_host_of(insn->rm), HOST_R10, 0, 8);
    if (tr_is_displaced(insn->rm))
        emit_mov_state_reg(&tr->e, GPR(insn->rm), HOST_R11);
    if (insn->rm != X86_RSP)
        emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, 8);
    return true;
}

static bool leave_emit(struct translation *tr, unsigned i)
{
    const struct check check = {.op = i, .size = 8, .access = SOFT_READ};

    if (tr->block->ops[i].insn.operand_size != 8)
        return false;
    tr_flags_clobber(tr);
    emit_mov_reg_reg(&tr->e, HOST_R10, HOST_RBP);
    tr_check(tr, &check);
    emit_lea(&tr->e, HOST_R9, HOST_RBP, HOST_NONE, 0, 8);
    emit_load(&tr->e, HOST_RBP, HOST_R10, 0, 8);
    return true;
}

/* Of registers that lie in the host's, to another such. */
static bool lea_is_plain(const struct x86_insn *insn)
{
    return insn->base < 16 && !tr_is_displaced(insn->base) &&
           (insn->index == X86_REG_NONE || !tr_is_displaced(insn->index)) &&
           !tr_is_displaced(insn->reg) && tr_fits32(insn->displacement);
}

static void lea_plain_emit(struct translation *tr, const struct x86_insn *insn)
{
    enum host_register index = insn->index == X86_REG_NONE ? HOST_NONE : tr_host_of(insn->index);

    if (insn->operand_size == 4 || insn->address_size == 4)
        emit_lea32(&tr->e, tr_host_of(insn->reg), tr_host_of(insn->base), index, insn->scale,
                   (int32_t)insn->displacement);
    else
        emit_lea(&tr->e, tr_host_of(insn->reg), tr_host_of(insn->base), index, insn->scale,
                 (int32_t)insn->displacement);
}

bool tr_lea_is_near(const struct x86_insn *insn)
{
    return insn->base == X86_REG_RIP && insn->operand_size == 8 && insn->address_size == 8 &&
           !tr_is_displaced(insn->reg) &&
           tr_fits32(insn->displacement + 2 * (int64_t)GUEST_PAGE_SIZE);
}

static bool lea_emit(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    const struct x86_insn *insn = &op->insn;
    struct soft_op plain = *op;

    if (insn->operand_size < 4)
        return false;
    if (lea_is_plain(insn)) {
        lea_plain_emit(tr, insn);
        return true;
    }
    if (tr_lea_is_near(insn)) {
        emit_mov_reg_state(&tr->e, tr_host_of(insn->reg), STATE(code_page));
        emit_lea(&tr->e, tr_host_of(insn->reg), tr_host_of(insn->reg), HOST_NONE, 0,
                 (int32_t)insn->displacement + tr_page_offset(tr, op->next));
        return true;
    }
    plain.insn.segment = X86_DS; /* means nothing here, and would need the flags */
    if (!tr_address(tr, &plain))
        return false;
    if (insn->operand_size == 4)
        emit_mov_reg_reg32(&tr->e, HOST_R10, HOST_R10);
    if (tr_is_displaced(insn->reg))
        emit_mov_state_reg(&tr->e, GPR(insn->reg), HOST_R10);
    else
        emit_mov_reg_reg(&tr->e, tr_host_of(insn->reg), HOST_R10);
    return true;
}

bool tr_integer(struct translation *tr, unsigned i)
{
    struct check check = {.op = i};

    switch (tr->block->ops[i].insn.op) {
    case X86_OP_PUSH:
        return push_emit(tr, i);
    case X86_OP_POP:
        return pop_emit(tr, i);
    case X86_OP_LEAVE:
        return leave_emit(tr, i);
    case X86_OP_LEA:
        return lea_emit(tr, i);
    case X86_OP_NOP:
    case X86_OP_PREFETCH:
        return true;
    default:
        return tr_integer_describe(tr, i, &check) && tr_native(tr, i, NULL, &check);
    }
}
