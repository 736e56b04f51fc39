/*
 * The translator: see doc/soft.md for the method and its reasons.
 *
 * Guest registers live in the host registers of the same number, but for RSP (in R9) and R9, R10,
 * R11 (in soft_vcpu.gpr); R10 and R11 are scratch. GS points to the vCPU. An operation that is not
 * translated, misses the TLB or may fault leaves to C, where its interpreted twin runs; then
 * translated code goes on behind it.
 *
 * Flags: the guest's arithmetic flags are in the host's, or in soft_vcpu.arith, or both, or dead;
 * `struct translation` says which at each place. A TLB check destroys the host's. They are kept
 * right wherever an operation may fault or an event be taken.
 *
 * Threads: a vCPU's own. Input: guest code, decoded. See translate_run.c for what runs the result.
 */
#include "cpu/soft/translate.h"

#include "cpu/soft/observe.h"
#include "cpu/soft/translate_internal.h"

#define BLOCK_CODE_MAX    TR_CODE_ROOM
#define CONTINUATIONS_MAX 8

/* The two views lie apart by a constant, so a rel32 between two places is the same in both. */
void tr_jump_to(struct translation *tr, const uint8_t *execute)
{
    emit_patch_rel32(emit_jmp_rel32(&tr->e), to_write(tr->t, execute));
}

void tr_guest_to(struct translation *tr, uint8_t host, unsigned guest)
{
    if (tr_is_displaced(guest))
        emit_mov_reg_state(&tr->e, host, GPR(guest));
    else
        emit_mov_reg_reg(&tr->e, host, tr_host_of(guest));
}

void tr_measure(const struct soft_vcpu *c, struct emit *e, int32_t counter)
{
    if (!c->vm->tools.measure)
        return;
    emit_mov_reg_state(e, HOST_R11, counter);
    emit_lea(e, HOST_R11, HOST_R11, HOST_NONE, 0, 1); /* no flag is touched */
    emit_mov_state_reg(e, counter, HOST_R11);
}

/* -- leaving -- */

struct cold *tr_cold_add(struct translation *tr, uint8_t *place, enum cold_kind kind)
{
    struct cold *cold = &tr->cold[TR_COLD_MAX - 1];

    if (tr->cold_count < TR_COLD_MAX)
        cold = &tr->cold[tr->cold_count++];
    else
        tr->e.full = true; /* as if there were no room for the code */
    *cold = (struct cold){.place = place,
                          .kind = kind,
                          .recipe = tr->flags_memory ? 0 : tr->flags_recipe,
                          .x87 = tr->x87,
                          .shared_ready = tr->shared_ready};
    return cold;
}

void tr_twin_if(struct translation *tr, unsigned op, enum emit_condition condition)
{
    struct cold *cold = tr_cold_add(tr, emit_jcc_rel32(&tr->e, condition), COLD_OP);

    cold->op = op;
    cold->units = tr->units;
}

uint32_t tr_site_new(struct translation *tr, unsigned op)
{
    tr->t->sites[tr->t->site_count] =
        (struct site){.block = tr->block, .op = (uint16_t)op, .offset = tr->block->ops[op].offset};
    return tr->t->site_count++;
}

static void units_call(struct translation *tr, unsigned units)
{
    if (units & UNIT_VECTOR)
        emit_call_state(&tr->e, STATE(vector_ready));
    if (units & UNIT_X87)
        emit_call_state(&tr->e, STATE(x87_ready));
}

/* A comparison, where the flags may go; out of line the call. */
static void unit_check(struct translation *tr, unsigned unit, int32_t loaded)
{
    struct cold *cold;

    emit_cmp_state32_imm8(&tr->e, loaded, 0);
    cold = tr_cold_add(tr, emit_jcc_rel32(&tr->e, EMIT_IF_E), COLD_UNIT);
    cold->units = (uint8_t)unit;
    cold->back = tr->e.at;
}

void tr_units_load(struct translation *tr, unsigned i, unsigned units)
{
    unsigned absent = units & ~(unsigned)tr->units;
    unsigned need = tr->flags_host && absent ? tr_flags_from(tr, i) : TR_FLAGS_DEAD;

    if (absent)
        tr->shared_held = 0; /* R10 is lost */
    tr->units |= (uint8_t)units;
    if (need & (TR_FLAGS_HOST | TR_FLAGS_SAVED)) { /* saved later, perhaps once they are others */
        units_call(tr, absent);
        return;
    }
    if (need != TR_FLAGS_DEAD)
        tr_flags_clobber(tr);
    if (absent & UNIT_VECTOR)
        unit_check(tr, UNIT_VECTOR, STATE(vector_loaded));
    if (absent & UNIT_X87)
        unit_check(tr, UNIT_X87, STATE(x87_loaded));
}

/* `leave`: the block does not go on behind it. */
static void exit_op(struct translation *tr, unsigned op, bool flags_in_memory, bool leave)
{
    emit_mov_reg_imm64(&tr->e, HOST_R10, tr_site_new(tr, op));
    if (leave)
        tr_jump_to(tr, tr->t->fixed.exit[EXIT_OP][flags_in_memory]);
    else
        emit_patch_rel32(emit_call_rel32(&tr->e),
                         to_write(tr->t, tr->t->fixed.twin[flags_in_memory]));
}

/* An operation that always runs interpreted. */
static void interpret(struct translation *tr, unsigned op)
{
    tr_x87_settle(tr, &tr->x87);
    if (!tr->flags_memory)
        tr_flags_cook(tr, tr->flags_recipe);
    exit_op(tr, op, tr->flags_memory || tr->flags_recipe != 0,
            soft_op_twin_ends_block(&tr->block->ops[op].insn));
    tr_share_end(tr);
    tr->flags_host = true;
    tr->flags_memory = true;
    tr->flags_recorded = false;
    tr->flags_recipe = 0;
    tr->units = 0;
}

/* After the hot part of an operation: its twin, when it ran instead, goes on here. */
static void cold_back(struct translation *tr, unsigned op)
{
    for (unsigned i = 0; i < tr->cold_count; i++) {
        if (tr->cold[i].kind <= COLD_GATHER && tr->cold[i].op == op)
            tr->cold[i].back = tr->e.at;
    }
}

/* -- leaves -- */

void tr_leaf_call(struct translation *tr, unsigned i, soft_leaf *leaf)
{
    struct emit *e = &tr->e;
    const struct soft_op *op = &tr->block->ops[i];

    emit_inc_state(e, STATE(counters.leaf[0]) + 8 * op->insn.op);
    emit_mov_reg_state(e, HOST_R10, STATE(code_page));
    emit_lea(e, HOST_R10, HOST_R10, HOST_NONE, 0, tr_page_offset(tr, 0));
    emit_mov_state_reg(e, STATE(block_rip), HOST_R10);
    emit_mov_reg_imm64(e, HOST_R10, (uint64_t)(uintptr_t)soft_op_keep(tr->c, op));
    emit_mov_reg_imm64(e, HOST_R11, (uint64_t)(uintptr_t)leaf);
    emit_patch_rel32(emit_call_rel32(e), to_write(tr->t, tr->t->fixed.leaf));
}

static void leaf_emit(struct translation *tr, unsigned i, soft_leaf *leaf)
{
    struct cold *cold;

    tr_flags_save(tr);
    tr->flags_host = false;
    tr_leaf_call(tr, i, leaf);
    cold = tr_cold_add(tr, emit_jcc_rel32(&tr->e, EMIT_IF_E), COLD_OP);
    cold->op = i;
    cold->units = tr->units;
    tr_share_end(tr);
}

void tr_leaf(struct translation *tr, unsigned i, soft_leaf *leaf)
{
    leaf_emit(tr, i, leaf);
    tr->flags_memory = true;
    tr->flags_recorded = false;
    tr->flags_recipe = 0;
}

void tr_leaf_jump(struct translation *tr, unsigned i, soft_leaf *leaf)
{
    leaf_emit(tr, i, leaf);
    emit_mov_reg_state(&tr->e, HOST_R10, STATE(rip));
    tr_jump_to(tr, tr->t->fixed.lookup[1]);
}

struct cold *tr_leaf_else(struct translation *tr, unsigned i, uint8_t *place, soft_leaf *leaf)
{
    struct cold *cold = tr_cold_add(tr, place, COLD_LEAF);

    cold->op = i;
    cold->units = tr->units;
    cold->leaf = leaf;
    return cold;
}

/* If the leaf declines, what that adds follows later. */
static void cold_leaf(struct translation *tr, const struct cold *cold)
{
    uint8_t *back = cold->back;

    tr_flags_cook(tr, cold->recipe);
    tr->flags_memory = true;
    tr->units = cold->units;
    leaf_emit(tr, cold->op, cold->leaf);
    tr->cold[tr->cold_count - 1].back = back;
    emit_patch_rel32(emit_jmp_rel32(&tr->e), back);
}

/* -- a block -- */

static bool is_bit_string(const struct x86_insn *insn)
{
    return insn->memory && insn->form == X86_FORM_RM_REG;
}

static bool op_emit(struct translation *tr, unsigned i)
{
    switch (tr->block->ops[i].insn.op) {
    case X86_OP_JCC:
    case X86_OP_JMP:
    case X86_OP_CALL:
    case X86_OP_RET:
    case X86_OP_JMP_IND:
    case X86_OP_CALL_IND:
    case X86_OP_LOOP:
    case X86_OP_JCXZ:
        return tr_branch(tr, i);
    case X86_OP_VECTOR:
        return tr_vector(tr, i);
    case X86_OP_LDMXCSR:
    case X86_OP_STMXCSR:
        return tr_mxcsr(tr, i);
    case X86_OP_X87:
    case X86_OP_FWAIT:
        return tr_x87(tr, i);
    case X86_OP_MOVS:
    case X86_OP_CMPS:
    case X86_OP_STOS:
    case X86_OP_LODS:
    case X86_OP_SCAS:
        return tr_string(tr, i);
    case X86_OP_DIV:
    case X86_OP_IDIV:
        return tr_divide(tr, i);
    case X86_OP_BT:
    case X86_OP_BTS:
    case X86_OP_BTR:
    case X86_OP_BTC:
        if (!is_bit_string(&tr->block->ops[i].insn))
            return tr_integer(tr, i);
        return tr_bit_string(tr, i);
    default:
        if (!tr_system(tr, i))
            return tr_integer(tr, i);
        tr_share_end(tr);
        return true;
    }
}

/* Natively if possible; whatever a failed attempt emitted is taken back. */
void tr_op(struct translation *tr, unsigned i)
{
    struct emit e = tr->e;
    bool host = tr->flags_host, memory = tr->flags_memory;
    bool recorded = tr->flags_recorded, whole = tr->flags_whole;
    unsigned recipe = tr->flags_recipe;
    uint8_t units = tr->units;
    unsigned cold = tr->cold_count;

    if (op_emit(tr, i)) {
        cold_back(tr, i);
        tr_share_after(tr, i);
        return;
    }
    tr->e = e;
    tr->flags_host = host;
    tr->flags_memory = memory;
    tr->flags_recorded = recorded;
    tr->flags_whole = whole;
    tr->flags_recipe = recipe;
    tr->units = units;
    tr->cold_count = cold;
    interpret(tr, i);
}

/* The twin of an operation, and back. Flags are in memory. */
static void cold_twin(struct translation *tr, struct cold *cold)
{
    bool leave =
        soft_op_twin_ends_block(&tr->block->ops[cold->op].insn) || tr_share_is_live(tr, cold);

    tr_x87_settle(tr, &cold->x87);
    tr_flags_cook(tr, cold->recipe);
    exit_op(tr, cold->op, true, leave);
    tr->t->sites[tr->t->site_count - 1].reason = cold->kind == COLD_OP ? SITE_DECLINED : SITE_TLB;
    if (leave)
        return;
    units_call(tr, cold->units);
    emit_patch_rel32(emit_jmp_rel32(&tr->e), cold->back);
}

/* Takes the block off the fuel, or leaves before it if there is not enough: R11 alone is free here,
 * and the flags stay as they are. */
static void fuel_emit(struct translation *tr)
{
    struct emit *e = &tr->e;
    const int32_t count = tr->block->count;
    struct cold *cold;
    uint8_t *enough;

    emit_mov_reg_state(e, HOST_R11, STATE(fuel));
    emit_lea(e, HOST_R11, HOST_R11, HOST_NONE, 0, -count);
    emit_mov_state_reg(e, STATE(fuel), HOST_R11);
    emit_mov_reg_reg(e, HOST_R11, HOST_RCX);
    emit_mov_reg_state32(e, HOST_RCX, STATE(fuel) + 4);
    enough = emit_jrcxz_rel8(e);
    emit_mov_reg_reg(e, HOST_RCX, HOST_R11);
    cold = tr_cold_add(tr, emit_jmp_rel32(e), COLD_FUEL);
    cold->flags_in_memory = tr->flags_memory;
    emit_patch_rel8(enough, e->at);
    emit_mov_reg_reg(e, HOST_RCX, HOST_R11);
}

/* Not enough fuel for the block: as if it had not been entered. */
static void cold_fuel(struct translation *tr, const struct cold *cold)
{
    struct emit *e = &tr->e;

    emit_mov_reg_state(e, HOST_R11, STATE(fuel));
    emit_lea(e, HOST_R11, HOST_R11, HOST_NONE, 0, tr->block->count);
    emit_mov_state_reg(e, STATE(fuel), HOST_R11);
    tr_rip(tr, tr_page_offset(tr, 0));
    tr_jump_to(tr, tr->t->fixed.exit[EXIT_RIP][cold->flags_in_memory]);
}

static void cold_emit(struct translation *tr, struct cold *cold)
{
    emit_patch_rel32(cold->place, tr->e.at);
    switch (cold->kind) {
    case COLD_OP:
        cold_twin(tr, cold);
        break;
    case COLD_LEAF:
        cold_leaf(tr, cold);
        break;
    case COLD_SLOT:
    case COLD_HASH:
        tr_check_cold(tr, cold);
        cold_twin(tr, cold);
        break;
    case COLD_GATHER:
        tr_gather_cold(tr, cold);
        cold_twin(tr, cold);
        break;
    case COLD_RUN:
        tr_check_cold(tr, cold);
        tr_stack_cold(tr, cold);
        break;
    case COLD_SHARED:
        tr_check_cold(tr, cold);
        tr_share_cold(tr, cold);
        break;
    case COLD_FUEL:
        cold_fuel(tr, cold);
        break;
    case COLD_STRIP:
        tr_strip_emit(tr);
        break;
    case COLD_PART:
        tr_flags_part_cold(tr, cold);
        break;
    case COLD_UNIT:
        units_call(tr, cold->units);
        emit_patch_rel32(emit_jmp_rel32(&tr->e), cold->back);
        break;
    default:
        tr_branch_cold(tr, cold);
    }
}

/* The two ways in, around code that begins at `body` with the flags where it wants them. */
static void entries_emit(struct translation *tr, unsigned need)
{
    struct soft_block *block = tr->block;

    const uint8_t *at = need == TR_FLAGS_DEAD ? tr->body : tr->e.at;

    if (tr->alone) { /* is only entered with the flags in memory */
        block->code_alone = to_execute(tr->t, need == TR_FLAGS_HOST ? at : tr->body);
        if (need != TR_FLAGS_HOST)
            return;
    } else {
        block->code = to_execute(tr->t, need == TR_FLAGS_MEMORY ? at : tr->body);
        block->code_flags = to_execute(tr->t, need == TR_FLAGS_MEMORY ? tr->body : at);
        if (need == TR_FLAGS_DEAD)
            return;
    }
    tr->flags_host = need == TR_FLAGS_MEMORY;
    tr->flags_memory = tr->flags_recorded = need != TR_FLAGS_MEMORY;
    tr->flags_recipe = 0; /* the block's last one, perhaps */
    if (need == TR_FLAGS_MEMORY)
        tr_flags_save(tr);
    else
        tr_flags_load(tr);
    emit_patch_rel32(emit_jmp_rel32(&tr->e), tr->body);
}

/* A new place for what follows; what was full stays so. */
static void place_set(struct translation *tr, size_t offset)
{
    uint8_t *at = tr->t->write + offset;

    tr->e = (struct emit){.at = at, .end = at + BLOCK_CODE_MAX, .full = tr->e.full};
}

/* Whether the code made last ends in a jump to this block: then it needs none. */
static bool is_behind_tail(const struct translation *tr)
{
    const struct soft_link *tail = tr->t->tail;
    const struct soft_block *block = tr->block;

    return tail && !tr->alone && !block->second && tail->from->valid &&
           tail->from->mode == block->mode && tail->target == tr_page_offset(tr, 0) &&
           (((uintptr_t)tail->from->host ^ (uintptr_t)block->host) & ~(uintptr_t)0xfff) == 0;
}

/* The jump that ends the block, if it is a link within the page. */
static struct soft_link *tail_of(const struct translation *tr)
{
    struct soft_link *links = tr->t->links;

    for (uint32_t i = tr->block->link_first; i < tr->t->link_count; i++) {
        if (links[i].place + 4 == tr->body_end && !links[i].key)
            return &links[i];
    }
    return NULL;
}

/* Fills the way from the tail's jump to this block's place. */
static void tail_extend(struct translation *tr, size_t place)
{
    place_set(tr, tr->t->used);
    emit_nops(&tr->e, (unsigned)(place - tr->t->used));
}

/* Where code is free, on a boundary that the host fetches from. Guests align functions and loops,
 * which run often: these get a larger one, which makes fibonacci() a tenth faster. */
static size_t body_place(const struct translation *tr)
{
    const size_t line = ((uintptr_t)tr->block->host & 15) == 0 ? 32 : 16;

    return (tr->t->used + line - 1) & ~(line - 1);
}

/* The units of the first operation that needs one, if nothing before it calls C anyway. */
static unsigned units_first(const struct translation *tr)
{
    for (unsigned i = 0; i < tr->block->count; i++) {
        const struct x86_insn *insn = &tr->block->ops[i].insn;

        switch (insn->op) {
        case X86_OP_VECTOR:
            return tr_vector_units(tr, i);
        case X86_OP_X87:
            return tr_x87_units(tr, i);
        case X86_OP_LEA:
        case X86_OP_NOP:
        case X86_OP_PREFETCH:
        case X86_OP_PUSH:
        case X86_OP_POP:
            break;
        default:
            if (!tr_runs_as_it_stands(insn))
                return 0;
        }
    }
    return 0;
}

/* Units are loaded at once where no flag is alive, so that links from where they are loaded can
 * lead behind that. */
static void units_begin(struct translation *tr, unsigned need)
{
    unsigned units = need == TR_FLAGS_HOST ? 0 : units_first(tr);

    if (units)
        tr_units_load(tr, 0, units);
    if (tr->alone)
        return;
    tr->block->units = (uint8_t)units;
    tr->block->units_bytes = (uint8_t)(tr->e.at - tr->body);
}

static void body_emit(struct translation *tr, unsigned need)
{
    struct soft_block *block = tr->block;
    const struct soft_op *last = &block->ops[block->count - 1];
    size_t place = body_place(tr);

    if (is_behind_tail(tr))
        tail_extend(tr, place);
    place_set(tr, place);
    tr->body = tr->e.at;
    tr->flags_host = need != TR_FLAGS_MEMORY;
    tr->flags_memory = tr->flags_recorded = need == TR_FLAGS_MEMORY;
    units_begin(tr, need);
    if (tr->c->counted)
        fuel_emit(tr);
    tr_measure(tr->c, &tr->e, STATE(counters.blocks_run));
    tr->loop = tr_is_loop(tr);
    tr_share_plan(tr);
    for (unsigned i = 0, run; i < block->count; i += run) {
        tr_x87_before(tr, i);
        tr->op_at[i] = tr->e.at;
        run = tr_stack_run(tr, i);
        for (unsigned k = 1; k < run; k++)
            tr->op_at[i + k] = tr->e.at;
        if (run > 0)
            continue;
        tr_op(tr, i);
        run = 1;
    }
    tr_x87_settle(tr, &tr->x87); /* before a jump it was done already */
    if (!soft_op_ends_block(&last->insn))
        tr_exit_direct(tr, tr_page_offset(tr, last->next), block->count - 1);
    tr->body_end = tr->e.at;
}

static void block_emit(struct translation *tr)
{
    unsigned need = tr_flags_entry(tr);

    body_emit(tr, need);
    place_set(tr, tr->t->cold_used);
    tr->cold_begin = tr->e.at;
    for (unsigned i = 0; i < tr->cold_count; i++) {
        tr->cold[i].at = tr->e.at;
        cold_emit(tr, &tr->cold[i]);
    }
    entries_emit(tr, need);
}

/* What one block may take of all that is bounded together, but for its code: room for that counts
 * as used (soft_translator_parts()). */
#define BLOCK_ROOM                                                                                 \
    ((4 + SOFT_SHARED) * sizeof(struct soft_link) +                                                \
     SOFT_BLOCK_OPS_MAX *                                                                          \
         (4 * sizeof(struct site) + 2 * sizeof(struct soft_pace) + sizeof(struct soft_op)) +       \
     sizeof(struct soft_pace))

static void translation_note(const struct translation *tr)
{
    struct soft_counters *counters = &tr->c->counters;

    if (__builtin_expect(tr->c->observer != NULL, 0))
        soft_observe_block(tr);
    soft_trace(tr->c, TRACE_TRANSLATE, tr->block->bytes, (uintptr_t)tr->block->code);
    soft_count(&counters->translated);
    soft_count_add(&counters->translated_guest, tr->block->bytes);
    soft_count_add(&counters->translated_host, (uint64_t)(tr->body_end - tr->body));
    soft_count_add(&counters->translated_cold, (uint64_t)(tr->e.at - tr->cold_begin));
}

/* `alone`: no access shares its check with another. */
static bool block_translate(struct soft_vcpu *c, struct soft_block *block, bool alone)
{
    struct soft_translator *t = c->translator;
    struct translation tr;

    soft_activity_set(&c->counters, SOFT_IN_TRANSLATION);
    memset(&tr, 0, offsetof(struct translation, cold));
    tr.c = c;
    tr.t = t;
    tr.block = block;
    (void)soft_block_ops(c, block);
    tr.alone = alone;
    if (!alone)
        block->link_first = t->link_count;
    block_emit(&tr);
    if (!alone)
        block->link_count = (uint8_t)(t->link_count - block->link_first);
    soft_activity_set(&c->counters, SOFT_IN_DISPATCH);
    if (tr.e.full) {
        soft_count(&c->counters.translated_not);
        block->code_alone = NULL;
        if (alone)
            return false;
        block->code = NULL;
        block->heat = 0;
        return false;
    }
    translation_note(&tr);
    if (is_behind_tail(&tr))
        soft_link_behind(t, t->tail, block);
    t->tail = alone ? NULL : tail_of(&tr);
    t->used = (size_t)(tr.body_end - t->write);
    t->cold_used = (size_t)(tr.e.at - t->write);
    soft_translator_join(t);
    return true;
}

/* What calls come back to is next to be run, but for what they call: its place is behind them.
 * Where stores have dropped code, heat 0, it may change before that. */
static void continuations_translate(struct soft_vcpu *c, const struct soft_block *block)
{
    const struct soft_translator *t = c->translator;

    for (unsigned n = 0; n < CONTINUATIONS_MAX && t->tail && t->tail->landing; n++) {
        struct soft_block *next = soft_code_find_beside(c, block, (unsigned)t->tail->target);

        if (!next || next->code || (next->heat == 0 && c->vm->translate_after != 0) ||
            !soft_cache_has_room(c, BLOCK_ROOM) || !block_translate(c, next, false))
            return;
        block = next;
    }
}

bool soft_translate_block(struct soft_vcpu *c, struct soft_block *block)
{
    struct soft_translator *t = c->translator;

    if (block->code && block->valid)
        return true;
    if (!t || !block->valid || c->code_size != X86_CODE_64)
        return false;
    if (block->heat < c->vm->translate_after) {
        block->heat++;
        return false;
    }
    /* The caller runs this block once more: it must stay until then. */
    if (!soft_cache_has_room(c, BLOCK_ROOM)) {
        soft_request(c, SOFT_REQUEST_CLEAR);
        return false;
    }
    if (!block_translate(c, block, false))
        return false;
    continuations_translate(c, block);
    return true;
}

bool soft_translate_alone(struct soft_vcpu *c, struct soft_block *block)
{
    if (block->code_alone)
        return true;
    if (!soft_cache_has_room(c, BLOCK_ROOM)) {
        soft_request(c, SOFT_REQUEST_CLEAR);
        return false;
    }
    if (block_translate(c, block, true))
        return true;
    /* There is no room for it in one piece of code: so the block must do without sharing. */
    soft_translation_drop(c, block);
    soft_translation_forget(block);
    block->code = NULL;
    block->unshared = true;
    return false;
}
