/*
 * The translator's runs of PUSH or POP, as functions begin and end with: all go through one check
 * if they lie on one page. Moves between registers may stand between them, a RET at the end. Else
 * they go one by one, out of line. See translate.c and doc/soft.md.
 *
 * Nobody can tell the two apart: where the check succeeds none of the operations can fault, and
 * their loads and stores come in the order in which the guest has them.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"

#define WORDS_MAX 16

struct run {
    unsigned first, end; /* operations */
    unsigned words;
    bool push;
};

static bool is_plain(const struct x86_insn *insn, bool push)
{
    return insn->op == (push ? X86_OP_PUSH : X86_OP_POP) && insn->operand_size == 8 &&
           !insn->memory && (insn->form == X86_FORM_IMM || insn->rm != X86_RSP);
}

/* One that needs neither RSP, which is not up to date within the run, nor the scratch registers. */
static bool is_move(const struct x86_insn *insn)
{
    return insn->op == X86_OP_MOV && !insn->memory && insn->operand_size >= 4 &&
           (insn->form == X86_FORM_RM_REG || insn->form == X86_FORM_REG_RM) &&
           insn->reg != X86_RSP && insn->rm != X86_RSP && !tr_is_displaced(insn->reg) &&
           !tr_is_displaced(insn->rm);
}

bool tr_branches_by_stack(const struct x86_insn *insn)
{
    return insn->op == X86_OP_CALL || insn->op == X86_OP_CALL_IND || insn->op == X86_OP_RET;
}

bool tr_stack_access(const struct x86_insn *insn, struct check *check)
{
    bool push = insn->op == X86_OP_PUSH || insn->op == X86_OP_CALL || insn->op == X86_OP_CALL_IND;

    if (!tr_branches_by_stack(insn) && !is_plain(insn, push))
        return false;
    check->size = 8;
    check->access = push ? SOFT_WRITE : SOFT_READ;
    return true;
}

static struct run run_find(const struct translation *tr, unsigned i)
{
    struct run run = {.first = i, .end = i, .push = tr->block->ops[i].insn.op == X86_OP_PUSH};

    for (; i < tr->block->count && run.words < WORDS_MAX; i++) {
        const struct x86_insn *insn = &tr->block->ops[i].insn;
        bool last = !run.push && insn->op == X86_OP_RET;

        if ((is_plain(insn, run.push) || last) && tr->shared_of[i] == tr->shared_of[run.first]) {
            run.words++;
            run.end = i + 1;
        } else if (!is_move(insn)) {
            break;
        }
    }
    return run;
}

static void push_word(struct translation *tr, const struct x86_insn *insn, int32_t at)
{
    enum host_register source = HOST_R11;

    if (insn->form == X86_FORM_IMM)
        emit_mov_reg_imm64(&tr->e, HOST_R11, insn->immediate);
    else if (tr_is_displaced(insn->rm))
        emit_mov_reg_state(&tr->e, HOST_R11, GPR(insn->rm));
    else
        source = tr_host_of(insn->rm);
    emit_store(&tr->e, source, HOST_R10, at, 8);
}

static void pop_word(struct translation *tr, const struct x86_insn *insn, int32_t at)
{
    if (tr_is_displaced(insn->rm)) {
        emit_load(&tr->e, HOST_R11, HOST_R10, at, 8);
        emit_mov_state_reg(&tr->e, GPR(insn->rm), HOST_R11);
    } else {
        emit_load(&tr->e, tr_host_of(insn->rm), HOST_R10, at, 8);
    }
}

/* R10 + at is the host's address of the run's first word. */
static void run_emit(struct translation *tr, const struct run *run, int32_t at)
{
    int32_t bytes = 8 * (int32_t)run->words;

    for (unsigned i = run->first; i < run->end; i++) {
        const struct x86_insn *insn = &tr->block->ops[i].insn;

        tr->op_at[i] = tr->e.at;
        if (insn->op == X86_OP_MOV) {
            (void)tr_integer(tr, i);
            continue;
        }
        if (insn->op == X86_OP_RET) {
            emit_load(&tr->e, HOST_R10, HOST_R10, at, 8);
            emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, bytes + (int32_t)insn->immediate);
            tr_return(tr, i);
            return;
        }
        if (run->push)
            push_word(tr, insn, at);
        else
            pop_word(tr, insn, at);
        at += run->push ? -8 : 8;
    }
    emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, run->push ? -bytes : bytes);
}

unsigned tr_stack_run(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    struct check check = {.op = i};
    struct run run;
    unsigned cold;
    int32_t at;

    if (tr->alone || (!is_plain(insn, true) && !is_plain(insn, false)))
        return 0;
    run = run_find(tr, i);
    if (tr_share_use(tr, &check, &at)) {
        if (tr->block->ops[run.end - 1].insn.op == X86_OP_RET)
            tr_flags_clobber(tr);
        run_emit(tr, &run, at);
        return run.end - run.first;
    }
    tr->shared_held = 0;
    if (run.words < 2)
        return 0;
    check.size = 8 * run.words;
    check.access = run.push ? SOFT_WRITE : SOFT_READ;
    tr_flags_clobber(tr);
    emit_lea(&tr->e, HOST_R10, HOST_R9, HOST_NONE, 0, run.push ? -(int32_t)check.size : 0);
    tr_check(tr, &check);
    cold = tr->cold_count - 1;
    tr->cold[cold].kind = COLD_RUN;
    tr->cold[cold].end = run.end;
    tr->cold[cold].memory = tr->flags_memory;
    tr->cold[cold].recorded = tr->flags_recorded;
    run_emit(tr, &run, run.push ? (int32_t)check.size - 8 : 0);
    tr->cold[cold].back = tr->e.at;
    return run.end - run.first;
}

void tr_stack_cold(struct translation *tr, const struct cold *cold)
{
    tr->flags_host = false;
    tr->flags_memory = cold->memory;
    tr->flags_recorded = cold->recorded;
    tr->flags_recipe = cold->recipe;
    tr->units = cold->units;
    tr->shared_ready = cold->shared_ready;
    tr->shared_held = 0;
    for (unsigned i = cold->op; i < cold->end; i++)
        tr_op(tr, i);
    if (tr->block->ops[cold->end - 1].insn.op != X86_OP_RET)
        emit_patch_rel32(emit_jmp_rel32(&tr->e), cold->back);
}
