/*
 * The translator's control flow: jumps, calls and returns. See translate.c and doc/soft.md.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"

#define INT3 0xcc

void tr_rip(struct translation *tr, int32_t target)
{
    emit_mov_reg_state(&tr->e, HOST_R10, STATE(code_page));
    emit_lea(&tr->e, HOST_R10, HOST_R10, HOST_NONE, 0, target);
}

/* Looks at requests without touching flags that live. */
static void poll_emit(struct translation *tr, int32_t target, unsigned op, bool flags_matter)
{
    struct emit *e = &tr->e;
    uint8_t *skip, *place;

    if (!flags_matter) {
        emit_cmp_state32_imm8(e, STATE(request), 0);
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
    cold->op = op;
    cold->flags_in_memory = !flags_matter;
}

/* -- links -- */

/* A link at the displacement `place`, not yet patched. */
static struct soft_link *link_new(struct translation *tr, uint8_t *place, int32_t target)
{
    struct soft_link *link = &tr->t->links[tr->t->link_count++];

    *link =
        (struct soft_link){.from = tr->block, .place = place, .target = target, .units = tr->units};
    return link;
}

static bool on_page(int32_t target)
{
    return target >= 0 && target < (int32_t)GUEST_PAGE_SIZE;
}

bool tr_link_is_plain(const struct translation *tr, int32_t target)
{
    const uint8_t *page = (const uint8_t *)((uintptr_t)tr->block->host & ~(uintptr_t)0xfff);
    struct x86_insn insn;
    size_t room;

    if (!on_page(target))
        return false;
    room = GUEST_PAGE_SIZE - (size_t)target;
    return room >= X86_INSN_BYTES_MAX ||
           x86_decode(&insn, X86_CODE_64, page + target, room) != X86_DECODE_MORE;
}

/* Where the instruction just emitted names its field of soft_vcpu. */
static uint8_t *state_place(const struct translation *tr)
{
    return tr->e.full ? NULL : tr->e.at - 4;
}

/* The places of a guarded link, which is told of once its jump is emitted. */
struct guard {
    uint8_t *key, *salt, *failed;
    int32_t less;
    uint8_t page_at;
    bool direct; /* R10 is not the target */
};

/* R11 = the key - the salt; to `failed` if it is not R10. What follows goes on with R11, which
 * comes from no memory that code before has just stored to. The key of a link without target is 0:
 * no guest can make a rip whose sum with the salt is 0. Destroys the flags. */
static struct guard guard_emit(struct translation *tr)
{
    struct emit *e = &tr->e;
    struct guard guard = {0};

    guard.key = emit_mov_reg_patched64(e, HOST_R11);
    emit_alu_reg_state(e, EMIT_SUB, HOST_R11, STATE(salt));
    guard.salt = state_place(tr);
    emit_alu_reg_reg(e, EMIT_CMP, HOST_R11, HOST_R10);
    guard.failed = emit_jcc_rel32(e, EMIT_IF_NE);
    return guard;
}

/* Behind the guard: the jump or call at `place` is its link. */
static struct cold *guard_link(struct translation *tr, const struct guard *guard, uint8_t *place,
                               int32_t target)
{
    struct soft_link *link = link_new(tr, place, target);
    struct cold *cold = tr_cold_add(tr, guard->failed, COLD_GUARD);

    link->key = guard->key;
    link->salt = guard->salt;
    link->less = guard->less;
    link->page_at = guard->page_at;
    cold->direct = guard->direct;
    cold->link = link;
    return cold;
}

/* The guard of a direct branch, which compares its own page, so that its target need not be
 * computed. The new page comes from the key, too. */
static struct guard page_guard_emit(struct translation *tr, int32_t target)
{
    const int32_t pages = target & ~(int32_t)(GUEST_PAGE_SIZE - 1);
    struct emit *e = &tr->e;
    struct guard guard = {.key = emit_mov_reg_patched64(e, HOST_R11)};

    emit_alu_reg_state(e, EMIT_SUB, HOST_R11, STATE(salt));
    guard.salt = state_place(tr);
    emit_alu_reg_state(e, EMIT_CMP, HOST_R11, STATE(code_page));
    guard.failed = emit_jcc_rel32(e, EMIT_IF_NE);
    if (pages != 0) {
        emit_lea(e, HOST_R11, HOST_R11, HOST_NONE, 0, pages);
        emit_mov_state_reg(e, STATE(code_page), HOST_R11);
    }
    return guard;
}

/* The same where the flags live in the host's. */
static struct guard page_guard_emit_quiet(struct translation *tr)
{
    struct emit *e = &tr->e;
    struct guard guard = {0};
    uint8_t *hit, *page;

    emit_mov_reg_reg(e, HOST_R11, HOST_RCX);
    guard.key = emit_mov_reg_patched64(e, HOST_RCX);
    emit_mov_reg_state(e, HOST_R10, STATE(salt));
    guard.salt = state_place(tr);
    emit_lea(e, HOST_RCX, HOST_RCX, HOST_R10, 0, 0);
    emit_mov_reg_state(e, HOST_R10, STATE(code_page));
    emit_lea(e, HOST_RCX, HOST_RCX, HOST_R10, 0, 0);
    hit = emit_jrcxz_rel8(e);
    emit_mov_reg_reg(e, HOST_RCX, HOST_R11);
    guard.failed = emit_jmp_rel32(e);
    emit_patch_rel8(hit, e->at);
    emit_mov_reg_reg(e, HOST_RCX, HOST_R11);
    page = emit_mov_reg_patched64(e, HOST_R10);
    emit_mov_state_reg(e, STATE(code_page), HOST_R10);
    guard.page_at = (uint8_t)(page - guard.key);
    return guard;
}

static struct guard cross_emit(struct translation *tr, int32_t target, bool flags_matter)
{
    struct guard guard = flags_matter ? page_guard_emit_quiet(tr) : page_guard_emit(tr, target);

    guard.less = target;
    guard.direct = true;
    return guard;
}

/* Where the flags are best for a target that needs them so. Where it needs none, C may all the same
 * take an event while the link is not made: if they are known they pass. */
static bool flags_pass_in_memory(const struct translation *tr, unsigned need)
{
    bool elsewhere = tr->flags_memory || tr->flags_recipe != 0;

    if (need == TR_FLAGS_DEAD)
        return !tr->flags_host && tr->flags_memory;
    return !tr->flags_host || (!(need & TR_FLAGS_HOST) && elsewhere);
}

/* A comparison that ends its block because a page ends: the jump on its flags comes next. */
static bool ends_in_comparison(const struct translation *tr)
{
    const struct soft_op *last = &tr->block->ops[tr->block->count - 1];
    struct x86_flags f;

    if (last->sets_rip || last->insn.op > X86_OP_SHRD)
        return false;
    tr_flags_of(&last->insn, NULL, &f);
    return f.written == FLAGS_ALL;
}

void tr_exit_direct(struct translation *tr, int32_t target, unsigned op)
{
    bool plain = tr_link_is_plain(tr, target);
    unsigned need = tr_flags_at(tr, target);
    bool in_memory = flags_pass_in_memory(tr, need);
    bool flags_matter = need && !in_memory, anywhere = false;

    if (!plain && tr->flags_memory) {
        anywhere = tr->flags_host && ends_in_comparison(tr);
        flags_matter = false;
    }
    if (target <= tr_page_offset(tr, tr->block->ops[op].offset))
        poll_emit(tr, target, op, flags_matter);
    if (plain && tr_strip_is_due(tr, target, op)) {
        tr_cold_add(tr, emit_jmp_rel32(&tr->e), COLD_STRIP)->op = op;
    } else if (plain) {
        struct cold *cold = tr_cold_add(tr, emit_jmp_rel32(&tr->e), COLD_LINK);

        cold->link = link_new(tr, cold->place, target);
        cold->link->flags_in_memory = in_memory;
        cold->link->flags_dead = need == TR_FLAGS_DEAD && !tr->flags_host && !in_memory;
    } else {
        struct guard guard = cross_emit(tr, target, flags_matter || anywhere);
        struct cold *cold = guard_link(tr, &guard, emit_jmp_rel32(&tr->e), target);

        cold->op = op;
        cold->link->flags_anywhere = anywhere;
        cold->link->flags_in_memory = cold->flags_in_memory = !flags_matter;
    }
}

bool tr_branch_offset(const struct translation *tr, const struct soft_op *op, int32_t *target)
{
    int64_t to = tr_page_offset(tr, op->next) + (int64_t)op->insn.immediate;

    *target = (int32_t)to;
    return tr_fits32(to);
}

/* A conditional jump that is itself the link to a target further on in the page. */
static void jcc_link(struct translation *tr, enum emit_condition condition, int32_t target)
{
    struct cold *cold = tr_cold_add(tr, emit_jcc_rel32(&tr->e, condition), COLD_LINK);

    cold->link = link_new(tr, cold->place, target);
    cold->link->flags_in_memory = flags_pass_in_memory(tr, tr_flags_at(tr, target));
}

/* One side is a link at the Jcc itself, if it needs neither guard nor poll; the other follows. */
static bool jcc_emit(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    enum emit_condition condition = (enum emit_condition)(op->insn.opcode & 15);
    int32_t taken, next = tr_page_offset(tr, op->next);
    uint8_t *place;

    if (!tr_branch_offset(tr, op, &taken))
        return false;
    tr_flags_load(tr);
    if (tr_link_is_plain(tr, taken) && taken > next) {
        jcc_link(tr, condition, taken);
        tr_exit_direct(tr, next, i);
    } else if (tr_link_is_plain(tr, next)) {
        jcc_link(tr, (enum emit_condition)(condition ^ 1), next);
        tr_exit_direct(tr, taken, i);
    } else {
        place = emit_jcc_rel32(&tr->e, condition);
        tr_exit_direct(tr, next, i);
        emit_patch_rel32(place, tr->e.at);
        tr_exit_direct(tr, taken, i);
    }
    return true;
}

static bool jmp_emit(struct translation *tr, unsigned i)
{
    int32_t target;

    if (!tr_branch_offset(tr, &tr->block->ops[i], &target))
        return false;
    tr_exit_direct(tr, target, i);
    return true;
}

/* LOOP and JRCXZ by RCX; others, by flags or by ECX, are interpreted. */
static bool count_emit(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    bool host = tr->flags_host, memory = tr->flags_memory;
    int32_t taken, next = tr_page_offset(tr, op->next);
    uint8_t *zero, *other;

    if (op->insn.address_size != 8 || !tr_branch_offset(tr, op, &taken))
        return false;
    if (op->insn.op == X86_OP_LOOP)
        emit_lea(&tr->e, HOST_RCX, HOST_RCX, HOST_NONE, 0, -1);
    zero = emit_jrcxz_rel8(&tr->e);
    other = emit_jmp_rel32(&tr->e);
    emit_patch_rel8(zero, tr->e.at);
    tr_exit_direct(tr, op->insn.op == X86_OP_LOOP ? next : taken, i);
    emit_patch_rel32(other, tr->e.at);
    tr->flags_host = host;
    tr->flags_memory = memory;
    tr_exit_direct(tr, op->insn.op == X86_OP_LOOP ? taken : next, i);
    return true;
}

/* -- calls and returns --
 *
 * A guest's call is a host's call, and its return a host's return, so that the host predicts the
 * return. Translated code runs on a stack of its own, the return stack. A call puts there first the
 * guest's return address + salt, then, by the host's call, where it will go on: the landing. A
 * return compares the guest's address, + salt, with the frame.
 *
 * A frame leads to no code that the lookup table could not lead to: it was made under that salt by
 * code on the page of the return address, so that the address still means that page (whatever
 * changes that changes the salt), and the landing goes on through an ordinary link within the page.
 * The landing's own block may have been dropped since: nothing of it is left but the way to that
 * link's target, and R10 holds the rip that code dropped since wants. When the code cache is
 * cleared, the return stack is emptied.
 *
 * Frames survive exits to C and changes of address space and mode. What returns elsewhere (longjmp,
 * a switch of stacks, a retpoline) misses: see unwind_emit().
 */

/* A call that does not return to its place: retpolines, which store over their return address, and
 * calls that fill or unbalance the processor's own return stack, which drop it; an INT3 behind the
 * call says so, too. This decides about speed alone, and so may look at bytes that change. */
static bool call_is_thunk(const struct translation *tr, unsigned i, int32_t target)
{
    const uint8_t *page = (const uint8_t *)((uintptr_t)tr->block->host & ~(uintptr_t)0xfff);
    struct x86_insn first, second;
    size_t room;

    if (page[tr_page_offset(tr, tr->block->ops[i].next)] == INT3)
        return true;
    if (!on_page(target))
        return false;
    room = GUEST_PAGE_SIZE - (size_t)target;
    if (x86_decode(&first, X86_CODE_64, page + target, room) != X86_DECODE_OK ||
        x86_decode(&second, X86_CODE_64, page + target + first.length, room - first.length) !=
            X86_DECODE_OK ||
        (second.op != X86_OP_RET && second.op != X86_OP_JMP))
        return false;
    if (first.op == X86_OP_LEA || first.op == X86_OP_MOV)
        return first.memory && first.base == X86_RSP;
    return first.op == X86_OP_ADD && !first.memory && first.rm == X86_RSP;
}

/* Pushes the address behind the operation, which stays in R11; R9 moves last. */
static void return_push(struct translation *tr, unsigned i)
{
    const struct check check = {.op = i, .size = 8, .access = SOFT_WRITE, .stack = true};
    int32_t at = 0;

    tr_flags_clobber(tr);
    if (!tr_share_use(tr, &check, &at)) {
        emit_lea(&tr->e, HOST_R10, HOST_R9, HOST_NONE, 0, -8);
        tr_check(tr, &check);
    }
    emit_mov_reg_state(&tr->e, HOST_R11, STATE(code_page));
    emit_lea(&tr->e, HOST_R11, HOST_R11, HOST_NONE, 0, tr_page_offset(tr, tr->block->ops[i].next));
    emit_store(&tr->e, HOST_R11, HOST_R10, at, 8);
    emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, -8);
}

/* The upper half of a frame, from R11; the host's call makes the lower. One comparison finds that
 * there is no room, or a request. The call's target is at an offset, or in R10 (`indirect`). */
static void frame_push(struct translation *tr, unsigned i, int32_t target, bool indirect)
{
    struct cold *cold;

    emit_alu_reg_state(&tr->e, EMIT_CMP, HOST_RSP, STATE(return_limit));
    cold = tr_cold_add(tr, emit_jcc_rel32(&tr->e, EMIT_IF_B), COLD_FRAMES);
    cold->op = i;
    cold->target = target;
    cold->call = indirect;
    cold->flags_in_memory = true;
    cold->back = tr->e.at;
    emit_alu_reg_state(&tr->e, EMIT_ADD, HOST_R11, STATE(salt));
    emit_push(&tr->e, HOST_R11);
}

/* Behind the host's call: R10 is the guest's rip again. What was called on the same page has most
 * often left code_page as it is; else calls in a row would wait for each other through it. */
static void landing_emit(struct translation *tr, unsigned i, bool same_page)
{
    int32_t next = tr_page_offset(tr, tr->block->ops[i].next);
    struct cold *cold;

    emit_pop(&tr->e, HOST_R11);
    emit_lea(&tr->e, HOST_R11, HOST_R10, HOST_NONE, 0, -next);
    if (same_page) {
        emit_alu_reg_state(&tr->e, EMIT_CMP, HOST_R11, STATE(code_page));
        cold = tr_cold_add(tr, emit_jcc_rel32(&tr->e, EMIT_IF_NE), COLD_LANDING);
        cold->op = i;
        cold->back = tr->e.at;
    } else {
        emit_mov_state_reg(&tr->e, STATE(code_page), HOST_R11);
    }
    tr->flags_memory = true; /* as every return leaves them */
    tr->flags_recipe = 0;
    if (tr_link_is_plain(tr, next)) {
        cold = tr_cold_add(tr, emit_jmp_rel32(&tr->e), COLD_LINK);
        cold->link = link_new(tr, cold->place, next);
        cold->link->landing = true;
    } else {
        struct guard guard = guard_emit(tr);

        cold = guard_link(tr, &guard, emit_jmp_rel32(&tr->e), next);
        cold->op = i;
        cold->flags_in_memory = true;
    }
    cold->link->flags_in_memory = true;
    cold->link->units = 0; /* as the callee left them */
}

/* Whether a frame can be made for the call: its landing is on its page. */
static bool call_has_frame(const struct translation *tr, unsigned i)
{
    return on_page(tr_page_offset(tr, tr->block->ops[i].next));
}

static bool call_emit(struct translation *tr, unsigned i)
{
    struct guard guard;
    struct cold *cold;
    int32_t target;
    bool plain;

    if (!tr_branch_offset(tr, &tr->block->ops[i], &target))
        return false;
    return_push(tr, i);
    if (!call_has_frame(tr, i) || call_is_thunk(tr, i, target)) {
        tr_exit_direct(tr, target, i);
        return true;
    }
    frame_push(tr, i, target, false);
    plain = tr_link_is_plain(tr, target);
    if (plain) {
        cold = tr_cold_add(tr, emit_call_rel32(&tr->e), COLD_LINK);
        cold->link = link_new(tr, cold->place, target);
    } else {
        guard = cross_emit(tr, target, false);
        cold = guard_link(tr, &guard, emit_call_rel32(&tr->e), target);
        cold->op = i;
        cold->call = true;
        cold->flags_in_memory = true;
        cold->back = tr->e.at;
    }
    cold->link->flags_in_memory = true;
    landing_emit(tr, i, plain);
    return true;
}

void tr_return(struct translation *tr, unsigned i)
{
    emit_mov_reg_state(&tr->e, HOST_R11, STATE(salt));
    emit_alu_reg_reg(&tr->e, EMIT_ADD, HOST_R11, HOST_R10);
    emit_cmp_reg_mem(&tr->e, HOST_R11, HOST_RSP, 8);
    tr_cold_add(tr, emit_jcc_rel32(&tr->e, EMIT_IF_NE), COLD_RETURN)->op = i;
    emit_ret(&tr->e);
}

static bool ret_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    const struct check check = {.op = i, .size = 8, .access = SOFT_READ};

    int32_t at = 0;

    tr_flags_clobber(tr);
    if (!tr_share_use(tr, &check, &at)) {
        emit_mov_reg_reg(&tr->e, HOST_R10, HOST_R9);
        tr_check(tr, &check);
    }
    emit_load(&tr->e, HOST_R10, HOST_R10, at, 8);
    emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, 8 + (int32_t)insn->immediate);
    tr_return(tr, i);
    return true;
}

/* -- indirect branches -- */

/* To R10 through the lookup table; gives the place of the jump taken on a miss, where R10 has
 * become the key. The host predicts each of these for itself. */
static uint8_t *lookup_emit(struct translation *tr, bool call)
{
    int32_t salt = soft_code_is_global(tr->c, tr->block) ? STATE(salt_global) : STATE(salt);
    struct emit *e = &tr->e;
    uint8_t *missed;

    emit_alu_reg_state(e, EMIT_ADD, HOST_R10, salt);
    emit_movzx16(e, HOST_R11, HOST_R10);
    emit_shift_imm32(e, EMIT_SHL, HOST_R11, 5);
    emit_alu_reg_entry(e, EMIT_CMP, HOST_R10, HOST_R11, LOOKUP(key));
    missed = emit_jcc_rel32(e, EMIT_IF_NE);
    emit_mov_reg_entry(e, HOST_R10, HOST_R11, LOOKUP(page));
    emit_mov_state_reg(e, STATE(code_page), HOST_R10);
    /* Code that was dropped since wants its rip in R10. */
    emit_mov_reg_entry(e, HOST_R10, HOST_R11, LOOKUP(key));
    emit_alu_reg_state(e, EMIT_SUB, HOST_R10, salt);
    if (call)
        emit_call_entry(e, HOST_R11, LOOKUP(code_flags));
    else
        emit_jmp_entry(e, HOST_R11, LOOKUP(code_flags));
    return missed;
}

void tr_exit_lookup(struct translation *tr, unsigned i)
{
    struct cold *cold;

    tr_flags_clobber(tr);
    emit_cmp_state32_imm8(&tr->e, STATE(request), 0);
    cold = tr_cold_add(tr, emit_jcc_rel32(&tr->e, EMIT_IF_NE), COLD_INDIRECT);
    cold->op = i;
    cold->missed = lookup_emit(tr, false);
}

/* To R10, with the last target remembered here. Out of line the lookup table follows. */
static struct cold *indirect_emit(struct translation *tr, unsigned i, bool call)
{
    struct guard guard = guard_emit(tr);
    struct emit *e = &tr->e;
    struct cold *cold;

    emit_alu_reg_imm(e, EMIT_AND, HOST_R11, -(int32_t)GUEST_PAGE_SIZE);
    emit_mov_state_reg(e, STATE(code_page), HOST_R11);
    cold = guard_link(tr, &guard, call ? emit_call_rel32(e) : emit_jmp_rel32(e), 0);
    cold->kind = COLD_INDIRECT;
    cold->op = i;
    cold->call = call;
    cold->back = e->at;
    cold->link->indirect = true;
    cold->link->flags_in_memory = true;
    return cold;
}

/* R10 = the target of a branch by register or memory; flags go to memory. */
static bool target_load(struct translation *tr, unsigned i)
{
    tr_flags_clobber(tr);
    return tr_operand_load(tr, i, 8);
}

/* Jumps through a table have many targets, those through a pointer at a fixed place (as between
 * libraries) have one. */
static bool jmp_ind_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;

    if (!target_load(tr, i))
        return false;
    if (insn->memory && insn->index == X86_REG_NONE) {
        emit_cmp_state32_imm8(&tr->e, STATE(request), 0);
        tr_cold_add(tr, emit_jcc_rel32(&tr->e, EMIT_IF_NE), COLD_INDIRECT)->op = i;
        (void)indirect_emit(tr, i, false);
    } else {
        tr_exit_lookup(tr, i);
    }
    return true;
}

/* The target is read before the push, and waits in memory: the push may fault, and needs R10. */
static bool call_ind_emit(struct translation *tr, unsigned i)
{
    struct emit *e = &tr->e;

    if (!target_load(tr, i))
        return false;
    emit_mov_state_reg(e, STATE(branch_target), HOST_R10);
    tr->shared_held = 0;
    return_push(tr, i);
    emit_mov_reg_state(e, HOST_R10, STATE(branch_target));
    if (call_has_frame(tr, i)) {
        frame_push(tr, i, 0, true);
        (void)indirect_emit(tr, i, true);
        landing_emit(tr, i, false);
    } else {
        emit_cmp_state32_imm8(e, STATE(request), 0);
        tr_cold_add(tr, emit_jcc_rel32(e, EMIT_IF_NE), COLD_INDIRECT)->op = i;
        (void)indirect_emit(tr, i, false);
    }
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
    case X86_OP_CALL_IND:
        return call_ind_emit(tr, i);
    default:
        return count_emit(tr, i);
    }
}

/* -- out of line -- */

/* To the lookup of R10, which tells C where it came from. */
static uint32_t cold_lookup(struct translation *tr, const struct cold *cold, bool in_memory)
{
    uint32_t site = tr_site_new(tr, cold->op);

    emit_mov_state_imm32(&tr->e, STATE(exit_site), site);
    if (cold->link) {
        tr->t->sites[site].link = cold->link;
        cold->link->failed = emit_jmp_rel32(&tr->e); /* at first to what links it */
        emit_patch_rel32(cold->link->failed, to_write(tr->t, tr->t->fixed.find[in_memory]));
    } else {
        tr_jump_to(tr, tr->t->fixed.lookup[in_memory]);
    }
    return site;
}

/* From `place`: to `lookup`, by the branch's own kind. */
static void cold_go(struct translation *tr, const struct cold *cold, uint8_t *place,
                    const uint8_t *lookup)
{
    emit_patch_rel32(place, tr->e.at);
    if (cold->call) {
        emit_patch_rel32(emit_call_rel32(&tr->e), lookup);
        emit_patch_rel32(emit_jmp_rel32(&tr->e), cold->back);
    } else {
        emit_patch_rel32(emit_jmp_rel32(&tr->e), lookup);
    }
}

/* Both the link while it has no target and the failed guard: but the one has called already, where
 * the branch is a call. */
static void cold_guard(struct translation *tr, const struct cold *cold)
{
    int32_t target = cold->link->target;
    uint8_t *unlinked = tr->e.at, *lookup;

    if (cold->direct) /* its page is the running one already */
        tr_rip(tr, target & (int32_t)(GUEST_PAGE_SIZE - 1));
    lookup = tr->e.at;
    (void)cold_lookup(tr, cold, cold->flags_in_memory);
    cold->link->unlinked = unlinked;
    emit_patch_rel32(cold->link->place, unlinked);
    emit_patch_rel32(cold->place, cold->direct ? tr->e.at : lookup);
    if (cold->direct)
        tr_rip(tr, target);
    if (cold->direct || cold->call)
        cold_go(tr, cold, cold->call && !cold->direct ? cold->place : NULL, lookup);
}

/* R10 of an inline lookup that missed: the rip again, and to the other lookup. */
static void cold_missed(struct translation *tr, const struct cold *cold, uint8_t *missed,
                        const uint8_t *lookup)
{
    int32_t salt = soft_code_is_global(tr->c, tr->block) ? STATE(salt_global) : STATE(salt);

    emit_patch_rel32(missed, tr->e.at);
    emit_alu_reg_state(&tr->e, EMIT_SUB, HOST_R10, salt);
    cold_go(tr, cold, NULL, lookup);
}

static void cold_indirect(struct translation *tr, const struct cold *cold)
{
    const uint8_t *lookup = tr->e.at, *relink;
    uint8_t *missed = cold->missed, *impatient = NULL;
    uint32_t site;

    emit_patch_rel32(cold->place, lookup);
    site = cold_lookup(tr, cold, true);
    relink = tr->e.at;
    if (cold->link) {
        emit_mov_state_imm32(&tr->e, STATE(exit_site), site);
        tr_jump_to(tr, tr->t->fixed.find[1]);
        cold->link->unlinked = lookup;
        emit_patch_rel32(cold->link->place, lookup);
        emit_patch_rel32(cold->place, tr->e.at);
        emit_dec_state32(&tr->e, STATE(link_patience));
        impatient = emit_jcc_rel32(&tr->e, EMIT_IF_E);
        missed = lookup_emit(tr, cold->call);
        if (cold->call)
            emit_patch_rel32(emit_jmp_rel32(&tr->e), cold->back);
    }
    if (missed)
        cold_missed(tr, cold, missed, lookup);
    if (impatient)
        cold_go(tr, cold, impatient, relink);
}

/* A request was seen. */
static void cold_poll(struct translation *tr, const struct cold *cold)
{
    bool indirect = cold->kind == COLD_FRAMES && cold->call;

    tr_flags_cook(tr, cold->recipe);
    /* At an end of the address space it may be none: see branch_undo(). */
    if (indirect || !on_page(cold->target))
        emit_mov_state_imm32(&tr->e, STATE(exit_site), tr_site_new(tr, cold->op));
    if (!indirect)
        tr_rip(tr, cold->target);
    tr_jump_to(tr, tr->t->fixed.exit[EXIT_RIP][cold->flags_in_memory]);
}

void tr_branch_cold(struct translation *tr, const struct cold *cold)
{
    switch (cold->kind) {
    case COLD_FRAMES:
        emit_patch_rel32(emit_call_rel32(&tr->e), to_write(tr->t, tr->t->fixed.frames));
        emit_patch_rel32(emit_jcc_rel32(&tr->e, EMIT_IF_E), cold->back);
        cold_poll(tr, cold);
        break;
    case COLD_LANDING:
        emit_mov_state_reg(&tr->e, STATE(code_page), HOST_R11);
        emit_patch_rel32(emit_jmp_rel32(&tr->e), cold->back);
        break;
    case COLD_RETURN:
        emit_mov_state_imm32(&tr->e, STATE(exit_site), tr_site_new(tr, cold->op));
        tr_jump_to(tr, tr->t->fixed.unwind);
        break;
    case COLD_LINK:
        cold->link->unlinked = tr->e.at;
        tr_flags_cook(tr, cold->recipe);
        emit_mov_reg_imm64(&tr->e, HOST_R10, (uint64_t)(cold->link - tr->t->links));
        tr_jump_to(tr, tr->t->fixed.exit[EXIT_LINK][cold->link->flags_in_memory]);
        break;
    case COLD_GUARD:
        cold_guard(tr, cold);
        break;
    case COLD_INDIRECT:
        cold_indirect(tr, cold);
        break;
    default:
        cold_poll(tr, cold);
    }
}
