/*
 * The translator's control flow: jumps, calls and returns. See translate.c and doc/soft.md.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/liveness.h"
#include "cpu/soft/translate_internal.h"

#define LOOK_AHEAD 8
#define LOOK_BYTES 32

void tr_rip(struct translation *tr, int32_t target)
{
    emit_mov_reg_state(&tr->e, HOST_R10, STATE(code_page));
    emit_lea(&tr->e, HOST_R10, HOST_R10, HOST_NONE, 0, target);
}

/* Looks at requests without touching flags that live. */
static void poll_emit(struct translation *tr, int32_t target, bool flags_matter)
{
    struct emit *e = &tr->e;
    uint8_t *skip, *place;

    if (!flags_matter) {
        emit_mov_reg_state32(e, HOST_R11, STATE(request));
        emit_alu_reg_imm32(e, EMIT_CMP, HOST_R11, 0);
        place = emit_jcc_rel32(e, EMIT_IF_NE);
    } else {
        emit_mov_reg_reg(e, HOST_R11, HOST_RCX);
        emit_mov_reg_state32(e, HOST_RCX, STATE(request));
        skip = emit_jrcxz_rel8(e);
        emit_mov_reg_reg(e, HOST_RCX, HOST_R11);
        place = emit_jmp_rel32(e);
        emit_patch_rel8(skip, e->at);
        emit_mov_reg_reg(e, HOST_RCX, HOST_R11);
    }
    struct cold *cold = tr_cold_add(tr, place, COLD_POLL);
    cold->target = target;
    cold->flags_in_memory = !flags_matter;
}

void tr_exit_direct(struct translation *tr, int32_t target, unsigned op, uint16_t live)
{
    bool in_memory = live && !tr->flags_host;
    bool flags_matter = live && tr->flags_host;

    if (target < 0 || target >= (int32_t)GUEST_PAGE_SIZE) {
        /* At an end of the address space it may be none: see branch_undo(). */
        emit_mov_state_imm32(&tr->e, STATE(exit_site), tr_site_new(tr, op));
        tr_rip(tr, target);
        tr_jump_to(tr, tr->t->fixed.lookup[in_memory]);
        return;
    }
    if (target <= (int32_t)((uintptr_t)tr->block->host & 0xfff) + tr->block->ops[op].offset)
        poll_emit(tr, target, flags_matter);
    struct soft_link *link = &tr->t->links[tr->t->link_count++];
    uint8_t *place = emit_jmp_rel32(&tr->e);

    *link = (struct soft_link){.from = tr->block,
                               .place = place,
                               .target = (uint32_t)target,
                               .flags_in_memory = in_memory};
    tr_cold_add(tr, place, COLD_LINK)->link = link;
}

bool tr_branch_offset(const struct translation *tr, const struct soft_op *op, int32_t *target)
{
    int64_t to = tr_page_offset(tr, op->next) + (int64_t)op->insn.immediate;

    *target = (int32_t)to;
    return tr_fits32(to);
}

/* A jump backwards polls, and an event shows all flags. */
uint16_t tr_live_at(const struct translation *tr, int32_t target)
{
    const uint8_t *page = (const uint8_t *)((uintptr_t)tr->block->host & ~(uintptr_t)0xfff);
    const struct soft_op *last = &tr->block->ops[tr->block->count - 1];
    struct soft_range range = {(uint16_t)target, (uint16_t)(target + LOOK_BYTES)};

    if (target <= tr_page_offset(tr, last->offset) || target >= (int32_t)GUEST_PAGE_SIZE)
        return FLAGS_ALL;
    if (range.to > GUEST_PAGE_SIZE)
        range.to = GUEST_PAGE_SIZE;
    soft_code_rely(tr->c, tr->block, range); /* first: the bytes must not change unseen */
    return soft_live_in_precise(page + target, (size_t)(range.to - range.from), X86_CODE_64,
                                LOOK_AHEAD);
}

static bool jcc_emit(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    int32_t taken;
    uint8_t *place;
    bool flags_memory;

    if (!tr_branch_offset(tr, op, &taken))
        return false;
    tr_flags_load(tr);
    flags_memory = tr->flags_memory;
    place = emit_jcc_rel32(&tr->e, (enum emit_condition)(op->insn.opcode & 15));
    tr_exit_direct(tr, tr_page_offset(tr, op->next), i,
                   tr_live_at(tr, tr_page_offset(tr, op->next)));
    tr->flags_host = true;
    tr->flags_memory = flags_memory;
    emit_patch_rel32(place, tr->e.at);
    tr_exit_direct(tr, taken, i, tr_live_at(tr, taken));
    return true;
}

static bool jmp_emit(struct translation *tr, unsigned i)
{
    int32_t target;

    if (!tr_branch_offset(tr, &tr->block->ops[i], &target))
        return false;
    tr_exit_direct(tr, target, i, tr->live_after[i]);
    return true;
}

/* Pushes the address behind the operation; R9 moves last. */
static void return_push(struct translation *tr, unsigned i)
{
    const struct check check = {.op = i, .size = 8, .access = SOFT_WRITE};

    tr_flags_clobber(tr);
    emit_lea(&tr->e, HOST_R10, HOST_R9, HOST_NONE, 0, -8);
    tr_check(tr, &check);
    emit_mov_reg_state(&tr->e, HOST_R11, STATE(code_page));
    emit_lea(&tr->e, HOST_R11, HOST_R11, HOST_NONE, 0, tr_page_offset(tr, tr->block->ops[i].next));
    emit_store(&tr->e, HOST_R11, HOST_R10, 0, 8);
    emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, -8);
}

static bool call_emit(struct translation *tr, unsigned i)
{
    int32_t target;

    if (!tr_branch_offset(tr, &tr->block->ops[i], &target))
        return false;
    return_push(tr, i);
    tr_exit_direct(tr, target, i, tr->live_after[i]);
    return true;
}

void tr_exit_lookup(struct translation *tr, unsigned i)
{
    emit_mov_state_imm32(&tr->e, STATE(exit_site), tr_site_new(tr, i));
    tr_jump_to(tr, tr->t->fixed.lookup[!tr->flags_host]);
}

static bool ret_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    const struct check check = {.op = i, .size = 8, .access = SOFT_READ};

    tr_flags_clobber(tr);
    emit_mov_reg_reg(&tr->e, HOST_R10, HOST_R9);
    tr_check(tr, &check);
    emit_load(&tr->e, HOST_R10, HOST_R10, 0, 8);
    emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, 8 + (int32_t)insn->immediate);
    tr_exit_lookup(tr, i);
    return true;
}

/* JMP by register or memory. CALL so is interpreted where its target is in memory or displaced. */
static bool jmp_ind_emit(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    const struct check check = {.op = i, .size = 8, .access = SOFT_READ};

    if (!op->insn.memory) {
        tr_guest_to(tr, HOST_R10, op->insn.rm);
    } else {
        tr_flags_clobber(tr);
        if (!tr_address(tr, op))
            return false;
        tr_check(tr, &check);
        emit_load(&tr->e, HOST_R10, HOST_R10, 0, 8);
    }
    tr_exit_lookup(tr, i);
    return true;
}

static bool call_ind_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;

    if (insn->memory || insn->rm == X86_RSP)
        return false;
    return_push(tr, i);
    tr_guest_to(tr, HOST_R10, insn->rm);
    tr_exit_lookup(tr, i);
    return true;
}

bool tr_branch(struct translation *tr, unsigned i)
{
    switch (tr->block->ops[i].insn.op) {
    case X86_OP_JCC:
        return jcc_emit(tr, i);
    case X86_OP_JMP:
        return jmp_emit(tr, i);
    case X86_OP_CALL:
        return call_emit(tr, i);
    case X86_OP_RET:
        return ret_emit(tr, i);
    case X86_OP_JMP_IND:
        return jmp_ind_emit(tr, i);
    default:
        return call_ind_emit(tr, i);
    }
}
