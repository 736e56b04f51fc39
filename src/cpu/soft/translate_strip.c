/*
 * The translator's strips: a block that is a loop by itself, once more, without all that its
 * iterations need only because they might leave to C. Before a strip, the page of each memory
 * operand is looked up, and how many iterations stay on those pages follows from the constant
 * steps of the registers that make the addresses. So nothing in a strip can fault: its iterations
 * are the guest's instructions with the distance from guest to host added to each address, and one
 * comparison that ends the strip.
 *
 * What ends a strip, the loop's own condition or the last iteration on these pages, goes on in the
 * block's ordinary code at the comparison before its last jump, which is there done (again): no
 * flags but those it makes are alive there, and all other state is what ordinary code would have
 * at that place. A strip takes the place of the block's jump to itself, behind its poll; where a
 * page is not in the TLB, or too few iterations are left, that jump leads to the block as usual.
 *
 * One operand whose page lasts for less than a whole strip turns to its next page within it: the
 * strip's comparison is with the last iteration on this page, and behind that the page is looked
 * up. Where an address moves so far in each iteration that a page lasts for a few only, a column of
 * a matrix say, that operand walks: its page is looked up at the end of each iteration for the
 * next.
 *
 * A table that is read by an index of a byte, say, lies on two pages at most; the one that an
 * access is on is chosen by arithmetic, since the host could not foresee a branch.
 *
 * Within a strip no event is taken, and no change of pages is noticed. It is as one long block for
 * whoever waits for a vCPU's next block boundary; ITERATIONS_MAX keeps it short.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"
#include "cpu/soft/vector.h"

#define ITERATIONS_MAX 511
#define ITERATIONS_MIN 4
#define ITERATIONS_FEW 6         /* are not worth a strip */
#define STEP_MAX       (1 << 20) /* an iteration moves an address by this much at most */
#define STEP_TURNS     64        /* from here on an operand had better turn to its next page */
#define STEP_WALKS     1025      /* from here on it walks */
#define SPAN_MAX       1024      /* what one look-up covers */
#define TABLE_MAX      4096

#define STRIP_TABLE(field, group)                                                                  \
    (STATE(strip_table[0].field) + (int32_t)(sizeof(struct soft_strip_table) * (group)))
#define ARRAY(access) ((int32_t)((access) * sizeof(struct soft_tlb_entry) * SOFT_TLB_ENTRIES))

/* -- what the loop does -- */

/* Operation i as a strip may have it; `check` says what it does with its memory operand. */
static bool op_describe(const struct translation *tr, unsigned i, struct x86_vector_insn *v,
                        struct check *check)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;

    *check = (struct check){.op = i};
    switch (insn->op) {
    case X86_OP_NOP:
    case X86_OP_PREFETCH:
        return true;
    case X86_OP_LEA:
        return insn->address_size == 8 && insn->operand_size >= 4 && insn->base != X86_REG_RIP;
    case X86_OP_VECTOR:
        return tr_vector_describe(tr, i, v, check);
    case X86_OP_X87:
        return tr_x87_describe(tr, i, v, check) && !(v->flags & X86_VECTOR_CONTROL);
    default:
        return tr_integer_describe(tr, i, check);
    }
}

static bool is_vector(const struct x86_insn *insn)
{
    return insn->op == X86_OP_VECTOR || insn->op == X86_OP_X87;
}

/* The steps that operations up to `end` make, and which registers they change otherwise. */
struct steps {
    int64_t by[16];
    uint16_t lost, used;
};

static void steps_add(struct steps *steps, const struct x86_insn *insn,
                      const struct x86_vector_insn *v)
{
    struct emit_registers regs;
    unsigned reg;
    int64_t by;

    emit_registers_of(insn, is_vector(insn) ? v : NULL, &regs);
    steps->used |= regs.read | regs.written;
    if (tr_step_find(insn, &reg, &by) && by >= -STEP_MAX && by <= STEP_MAX)
        steps->by[reg] += by;
    else
        steps->lost |= regs.written | regs.implicit_written;
}

static bool is_accessing(const struct x86_insn *insn)
{
    return insn->memory && insn->op != X86_OP_LEA && insn->op != X86_OP_NOP &&
           insn->op != X86_OP_PREFETCH;
}

/* What the registers of an address have become by these steps. */
static int64_t moved(const struct steps *steps, const struct x86_insn *insn)
{
    int64_t base = insn->base < 16 ? steps->by[insn->base] : 0;
    int64_t index = insn->index < 16 ? steps->by[insn->index] : 0;

    return base + index * (INT64_C(1) << insn->scale);
}

static int64_t displacement_of(const struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];

    return op->insn.displacement +
           (op->insn.base == X86_REG_RIP ? tr_page_offset(tr, op->next) : 0);
}

static bool align_add(struct strip_group *group, int64_t at, unsigned align)
{
    for (unsigned k = 0; k < group->aligned_count; k++) {
        struct strip_align *old = &group->aligned[k];
        unsigned less = (old->align < align ? old->align : align) - 1;

        if (((old->at ^ at) & less) != 0)
            continue;
        if (align > old->align)
            *old = (struct strip_align){.at = (int32_t)at, .align = (uint8_t)align};
        return true;
    }
    if (group->aligned_count == STRIP_ALIGNED)
        return false;
    group->aligned[group->aligned_count++] =
        (struct strip_align){.at = (int32_t)at, .align = (uint8_t)align};
    return true;
}

/* What an operand may access: displacements as an iteration's beginning has them. */
struct span {
    int64_t low, high;
    bool table;
};

static bool group_takes(const struct strip_group *group, const struct x86_insn *insn,
                        const struct span *span)
{
    int64_t low = span->low < group->low ? span->low : group->low;
    int64_t high = span->high > group->high ? span->high : group->high;

    if (group->base != insn->base || group->index != insn->index ||
        (insn->index != X86_REG_NONE && group->scale != insn->scale) || group->table != span->table)
        return false;
    return span->table ? span->low == group->low && high - low <= TABLE_MAX
                       : high - low <= SPAN_MAX;
}

static struct strip_group *group_find(struct strip *strip, const struct x86_insn *insn,
                                      const struct span *span)
{
    struct strip_group *group = strip->group;

    while (group < strip->group + strip->groups && !group_takes(group, insn, span))
        group++;
    if (group == strip->group + strip->groups) {
        if (strip->groups == SOFT_STRIP_GROUPS || span->high - span->low > TABLE_MAX)
            return NULL;
        strip->groups++;
        *group = (struct strip_group){.base = insn->base,
                                      .index = insn->index,
                                      .scale = insn->scale,
                                      .table = span->table,
                                      .low = (int32_t)span->low,
                                      .high = (int32_t)span->high,
                                      .host = HOST_NONE};
    }
    if (span->low < group->low)
        group->low = (int32_t)span->low;
    if (span->high > group->high)
        group->high = (int32_t)span->high;
    return group;
}

/* What registers are at most, where that is known; else UINT64_MAX. */
struct limits {
    uint64_t most[16];
};

static void limits_add(struct limits *limits, const struct x86_insn *insn)
{
    uint16_t written = tr_registers_written(insn);

    for (unsigned n = 0; n < 16; n++) {
        if (written >> n & 1)
            limits->most[n] = UINT64_MAX;
    }
    if (insn->operand_size < 4)
        return;
    if (insn->op == X86_OP_MOVZX8)
        limits->most[insn->reg] = UINT8_MAX;
    else if (insn->op == X86_OP_AND && !insn->memory && insn->form == X86_FORM_RM_IMM &&
             insn->immediate <= UINT16_MAX)
        limits->most[insn->rm] = insn->immediate;
}

/* Whether the operand is an element of a table, none of which lies across pages if the table is
 * aligned, and the flags may be spoilt before it. */
static bool is_table(struct translation *tr, const struct check *check, const struct limits *limits)
{
    const struct x86_insn *insn = &tr->block->ops[check->op].insn;

    return insn->index < 16 && limits->most[insn->index] <= UINT16_MAX &&
           check->access == SOFT_READ && check->align <= 1 &&
           __builtin_popcount(check->size) == 1 && check->size <= 1u << insn->scale &&
           !(tr_flags_from(tr, check->op) & (TR_FLAGS_HOST | TR_FLAGS_SAVED));
}

/* The access of operation i; `before`: the steps made by then. */
static bool access_add(struct translation *tr, const struct check *check,
                       const struct steps *before, const struct limits *limits)
{
    const struct x86_insn *insn = &tr->block->ops[check->op].insn;
    const bool table = is_table(tr, check, limits);
    struct x86_insn place = *insn;
    struct strip_group *group;
    struct span span;
    unsigned align = table ? check->size : check->align;
    int64_t at;

    if (table)
        place.index = X86_REG_NONE;
    at = displacement_of(tr, check->op) + moved(before, &place);
    if (check->size == 0 || check->size > 64 || insn->address_size != 8 ||
        insn->segment >= X86_FS || !tr_fits32(at) || !tr_fits32(at + TABLE_MAX))
        return false;
    span = (struct span){.low = at, .high = at + (int64_t)check->size, .table = table};
    if (table)
        span.high += (int64_t)(limits->most[insn->index] << insn->scale);
    group = group_find(&tr->strip, insn, &span);
    if (!group || (align > 1 && !align_add(group, at, align)))
        return false;
    group->written |= check->access == SOFT_WRITE;
    group->read |= check->access == SOFT_READ;
    group->uses++;
    tr->strip.group_of[check->op] = (uint8_t)(group - tr->strip.group);
    tr->strip.at[check->op] = (int32_t)at;
    return true;
}

/* How far the group goes in an iteration, and what follows from that; false: too far. */
static bool step_settle(struct strip *strip, struct strip_group *group, int64_t step)
{
    int64_t far = step < 0 ? -step : step;

    if (far > STEP_MAX || (far >= STEP_WALKS && group->read && group->written))
        return false;
    group->step = (int32_t)step;
    group->walks = far >= STEP_WALKS;
    strip->walks |= group->walks;
    strip->indexed |= !group->walks && group->base != X86_REG_NONE && group->index != X86_REG_NONE;
    for (unsigned k = 0; k < group->aligned_count; k++) {
        if (step & (group->aligned[k].align - 1))
            return false;
    }
    return true;
}

static bool is_lost(const struct steps *all, unsigned reg)
{
    return reg < 16 && (all->lost >> reg & 1);
}

static bool group_settle(struct strip *strip, struct strip_group *group, const struct steps *all)
{
    const struct x86_insn place = {.base = group->base,
                                   .index = group->table ? X86_REG_NONE : group->index,
                                   .scale = group->scale};

    if (is_lost(all, place.base) || is_lost(all, place.index))
        return false;
    strip->tables |= group->table;
    return group->table ? moved(all, &place) == 0 : step_settle(strip, group, moved(all, &place));
}

/* All the groups' registers must go by constant steps, and aligned operands stay so. */
static bool groups_settle(struct strip *strip, const struct steps *all)
{
    strip->counter = X86_REG_NONE;
    for (unsigned g = 0; g < strip->groups; g++) {
        struct strip_group *group = &strip->group[g];

        if (!group_settle(strip, group, all))
            return false;
        if (group->base < 16 && all->by[group->base] != 0)
            strip->counter = group->base;
        else if (!group->table && group->index < 16 && all->by[group->index] != 0)
            strip->counter = group->index;
    }
    for (unsigned n = 0; n < 16 && strip->counter == X86_REG_NONE; n++) {
        if (all->by[n] != 0 && !is_lost(all, n))
            strip->counter = n;
    }
    return strip->counter != X86_REG_NONE &&
           !((strip->walks || strip->tables) && strip->displaced) &&
           !(strip->walks && strip->tables);
}

/* The comparison before the last jump, which ordinary code does again: nothing but registers, and
 * what it changed can be taken back. */
static bool is_repeatable(const struct x86_insn *insn)
{
    if (insn->memory)
        return false;
    if (insn->op == X86_OP_CMP || insn->op == X86_OP_TEST)
        return true;
    return (insn->op == X86_OP_ADD || insn->op == X86_OP_SUB) && insn->form == X86_FORM_RM_IMM &&
           insn->operand_size >= 4;
}

#define DISPLACED (7u << 9)

/* The operand whose pages are looked up within the strip has R10; R11 is needed for that. */
static void hosts_choose_moving(struct strip *strip)
{
    unsigned moving = strip->turns ? strip->turns - 1u : 0;

    while (!strip->turns && !strip->group[moving].walks)
        moving++;
    strip->group[moving].host = HOST_R10;
    for (unsigned g = 0; g < strip->groups && strip->groups == 2 && !strip->indexed; g++) {
        if (g != moving && !strip->group[g].walks)
            strip->group[g].host = HOST_R11;
    }
}

/* The operand that goes furthest, if its register is what tells the strip's end. */
static void turn_choose(struct strip *strip)
{
    int32_t most = STEP_TURNS - 1;

    if (strip->walks || strip->tables || strip->displaced)
        return;
    for (unsigned g = 0; g < strip->groups; g++) {
        const struct strip_group *group = &strip->group[g];
        int32_t far = group->step < 0 ? -group->step : group->step;

        if (far <= most || group->base >= 16 || group->index != X86_REG_NONE ||
            (group->read && group->written))
            continue;
        most = far;
        strip->turns = (uint8_t)(g + 1);
        strip->counter = group->base;
    }
}

/* Where the distances between guest and host are: two in registers at best. */
static void hosts_choose(struct strip *strip)
{
    struct strip_group *most = strip->group;

    if (strip->displaced || strip->tables)
        return;
    if (strip->walks || strip->turns) {
        hosts_choose_moving(strip);
        return;
    }
    if (strip->groups <= 2 && !strip->indexed) {
        strip->group[0].host = HOST_R10;
        strip->group[1].host = HOST_R11;
        return;
    }
    for (unsigned g = 1; g < strip->groups; g++) {
        if (strip->group[g].uses > most->uses)
            most = &strip->group[g];
    }
    most->host = HOST_R10;
}

static bool strip_find(struct translation *tr)
{
    const struct soft_op *ops = tr->block->ops;
    const unsigned end = tr->block->count - 1; /* the jump */
    struct steps steps = {0};
    struct limits limits;
    struct x86_vector_insn v;
    struct check check;

    memset(&limits, 0xff, sizeof limits);
    tr->strip = (struct strip){0};
    if (end < 2 || ops[end].insn.op != X86_OP_JCC || !is_repeatable(&ops[end - 1].insn))
        return false;
    for (unsigned i = 0; i < end; i++) {
        const struct x86_insn *insn = &ops[i].insn;

        if (!op_describe(tr, i, &v, &check))
            return false;
        if (is_accessing(insn) && !access_add(tr, &check, &steps, &limits))
            return false;
        if (insn->memory && ((insn->base < 16 && tr_is_displaced(insn->base)) ||
                             (insn->index < 16 && tr_is_displaced(insn->index))))
            tr->strip.displaced = true;
        if (i == end - 1)
            memcpy(tr->strip.by, steps.by, sizeof steps.by);
        steps_add(&steps, insn, &v);
        limits_add(&limits, insn);
    }
    tr->strip.displaced |= (steps.used & DISPLACED) != 0;
    if (tr->strip.groups == 0 || !groups_settle(&tr->strip, &steps))
        return false;
    turn_choose(&tr->strip);
    tr->strip.counter_step = (int32_t)steps.by[tr->strip.counter];
    hosts_choose(&tr->strip);
    return true;
}

bool tr_strip_is_due(struct translation *tr, int32_t target, unsigned op)
{
    unsigned need;

    if (target != tr_page_offset(tr, 0) || op != tr->block->count - 1u)
        return false;
    need = tr_flags_entry(tr);
    if ((need & (TR_FLAGS_HOST | TR_FLAGS_SAVED)) || (need != TR_FLAGS_DEAD && !tr->flags_memory))
        return false;
    return strip_find(tr);
}

/* -- before a strip -- */

struct failures {
    uint8_t *place[4 * SOFT_STRIP_GROUPS + 4];
    unsigned count;
};

static void fail_if(struct translation *tr, struct failures *f, enum emit_condition condition)
{
    f->place[f->count++] = emit_jcc_rel32(&tr->e, condition);
}

/* R10d = no more iterations than that after the first. */
static void left_lower(struct translation *tr)
{
    struct emit *e = &tr->e;
    uint8_t *enough;

    emit_alu_reg_state32(e, EMIT_CMP, HOST_R10, STATE(strip_left));
    enough = emit_jcc_rel32(e, EMIT_IF_AE);
    emit_mov_state_reg32(e, STATE(strip_left), HOST_R10);
    emit_patch_rel32(enough, e->at);
}

/* R10, below 4096, by the step's size: exact by the rounded-up reciprocal, since its error, below
 * the step, times R10 is below 2^24. */
static void divide_emit(struct translation *tr, unsigned step)
{
    if (__builtin_popcount(step) == 1) {
        emit_shift_imm32(&tr->e, EMIT_SHR, HOST_R10, (unsigned)__builtin_ctz(step));
        return;
    }
    emit_imul_reg_imm(&tr->e, HOST_R10, (int32_t)(((1u << 24) + step - 1) / step));
    emit_shift_imm(&tr->e, EMIT_SHR, HOST_R10, 24);
}

/* R10 = where the group's lowest byte is in the page. */
static void room_emit(struct translation *tr, const struct strip_group *group)
{
    const int32_t last = (int32_t)GUEST_PAGE_SIZE - (group->high - group->low);
    unsigned step = (unsigned)(group->step < 0 ? -group->step : group->step);

    if (step == 0)
        return;
    if (group->step > 0) {
        emit_not(&tr->e, HOST_R10);
        emit_alu_reg_imm(&tr->e, EMIT_ADD, HOST_R10, last + 1);
    }
    divide_emit(tr, step);
    left_lower(tr);
}

/* The linear address of the group's lowest byte to R10, with its registers moved by `ahead` from
 * where they are. Destroys R11. */
static bool group_address(struct translation *tr, const struct strip_group *group, int64_t ahead)
{
    struct soft_op op = {.insn = {.base = group->base == X86_REG_RIP ? X86_REG_NONE : group->base,
                                  .index = group->index,
                                  .scale = group->scale,
                                  .displacement = group->low + ahead,
                                  .address_size = 8,
                                  .segment = X86_DS}};

    if (!tr_address(tr, &op))
        return false;
    if (group->base == X86_REG_RIP)
        emit_alu_reg_state(&tr->e, EMIT_ADD, HOST_R10, STATE(code_page));
    return true;
}

static void alignment_check(struct translation *tr, const struct strip_group *group,
                            struct failures *f)
{
    for (unsigned k = 0; k < group->aligned_count; k++) {
        const struct strip_align *aligned = &group->aligned[k];
        int32_t apart = (aligned->at - group->low) & (aligned->align - 1);

        if (apart != 0)
            emit_lea(&tr->e, HOST_R11, HOST_R10, HOST_NONE, 0, apart);
        emit_test_reg_imm8(&tr->e, apart != 0 ? HOST_R11 : HOST_R10, aligned->align - 1);
        fail_if(tr, f, EMIT_IF_NE);
    }
}

/* R10 from the lowest byte's linear address to the host's. Destroys R11. */
static uint8_t *walker_look(struct translation *tr, const struct strip_group *group)
{
    return tr_tlb_look(tr, group->read ? SOFT_READ : SOFT_WRITE,
                       (unsigned)(group->high - group->low));
}

static bool walker_begin(struct translation *tr, const struct strip_group *group,
                         struct failures *f)
{
    if (!group_address(tr, group, 0))
        return false;
    alignment_check(tr, group, f);
    f->place[f->count++] = walker_look(tr, group);
    emit_mov_state_reg(&tr->e, STRIP_DISTANCE(group - tr->strip.group), HOST_R10);
    return true;
}

/* The host address to the state at `to`, of what lies `ahead` in R10's way and is read. */
static bool table_look(struct translation *tr, const struct strip_group *first, int32_t ahead,
                       struct failures *f)
{
    if (!group_address(tr, first, ahead))
        return false;
    f->place[f->count++] = tr_tlb_look(tr, SOFT_READ, 1);
    if (ahead != 0)
        emit_alu_reg_imm(&tr->e, EMIT_SUB, HOST_R10, ahead);
    return true;
}

/* Where the table would begin on the host by its first page and by its last, and how many elements
 * begin on the first. Where that is all of them the two are one, and any number is right. A table
 * around the end of the address space is none. */
static bool table_begin(struct translation *tr, const struct strip_group *group, struct failures *f)
{
    const unsigned number = (unsigned)(group - tr->strip.group);
    const int32_t ahead = group->high - group->low - 1;
    struct strip_group first = *group;
    struct emit *e = &tr->e;

    first.index = X86_REG_NONE;
    if (!group_address(tr, &first, 0))
        return false;
    alignment_check(tr, group, f);
    if (!table_look(tr, &first, 0, f))
        return false;
    emit_mov_state_reg(e, STRIP_DISTANCE(number), HOST_R10);
    if (!table_look(tr, &first, ahead, f))
        return false;
    emit_mov_state_reg(e, STRIP_TABLE(last, number), HOST_R10);
    (void)group_address(tr, &first, 0);
    emit_mov_reg_reg(e, HOST_R11, HOST_R10);
    emit_alu_reg_imm(e, EMIT_ADD, HOST_R11, ahead);
    fail_if(tr, f, EMIT_IF_B);
    emit_alu_reg_imm(e, EMIT_AND, HOST_R11, -(int32_t)GUEST_PAGE_SIZE);
    emit_alu_reg_reg(e, EMIT_SUB, HOST_R11, HOST_R10);
    emit_alu_reg_imm(e, EMIT_ADD, HOST_R11, (1 << group->scale) - 1);
    emit_shift_imm(e, EMIT_SAR, HOST_R11, group->scale);
    emit_mov_state_reg(e, STRIP_TABLE(first, number), HOST_R11);
    return true;
}

static bool is_turning(const struct translation *tr, const struct strip_group *group)
{
    return group - tr->strip.group == tr->strip.turns - 1;
}

static bool turner_begin(struct translation *tr, const struct strip_group *group,
                         struct failures *f)
{
    if (group->aligned_count == 0)
        return true;
    if (!group_address(tr, group, 0))
        return false;
    alignment_check(tr, group, f);
    return true;
}

/* The TLB must have the page, for all that is done there and at one place on the host. The distance
 * goes to soft_vcpu.strip_distance. */
static bool group_emit(struct translation *tr, const struct strip_group *group, struct failures *f)
{
    const int32_t array = ARRAY(group->read ? SOFT_READ : SOFT_WRITE);
    const int32_t other = ARRAY(SOFT_WRITE);
    struct emit *e = &tr->e;

    if (group->table)
        return table_begin(tr, group, f);
    if (group->walks)
        return walker_begin(tr, group, f);
    if (is_turning(tr, group))
        return turner_begin(tr, group, f);
    if (!group_address(tr, group, 0))
        return false;
    alignment_check(tr, group, f);
    emit_mov_reg_reg32(e, HOST_R11, HOST_R10);
    emit_shift_imm32(e, EMIT_SHR, HOST_R11, 8);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, (SOFT_TLB_ENTRIES - 1) * 16);
    emit_alu_reg_state(e, EMIT_ADD, HOST_R11, STATE(tlb_now));
    emit_xor_reg_mem(e, HOST_R10, HOST_R11, array);
    emit_alu_reg_imm(e, EMIT_CMP, HOST_R10, (int32_t)GUEST_PAGE_SIZE - (group->high - group->low));
    fail_if(tr, f, EMIT_IF_A);
    room_emit(tr, group);
    if (group->read && group->written) {
        emit_load(e, HOST_R10, HOST_R11, array, 8);
        emit_cmp_reg_mem(e, HOST_R10, HOST_R11, other);
        fail_if(tr, f, EMIT_IF_NE);
        emit_load(e, HOST_R10, HOST_R11, array + 8, 8);
        emit_cmp_reg_mem(e, HOST_R10, HOST_R11, other + 8);
        fail_if(tr, f, EMIT_IF_NE);
    } else {
        emit_load(e, HOST_R10, HOST_R11, array + 8, 8);
    }
    emit_load(e, HOST_R11, HOST_R11, array, 8);
    emit_alu_reg_reg(e, EMIT_SUB, HOST_R10, HOST_R11);
    if (group->base == X86_REG_RIP)
        emit_alu_reg_state(e, EMIT_ADD, HOST_R10, STATE(code_page));
    emit_mov_state_reg(e, STRIP_DISTANCE(group - tr->strip.group), HOST_R10);
    return true;
}

/* The counter's value at the comparison of the last iteration. */
static void limit_emit(struct translation *tr, struct failures *f)
{
    const struct strip *strip = &tr->strip;
    struct emit *e = &tr->e;

    emit_mov_reg_state32(e, HOST_R10, STATE(strip_left));
    emit_alu_reg_imm32(e, EMIT_CMP, HOST_R10, ITERATIONS_MIN);
    fail_if(tr, f, EMIT_IF_B);
    if (strip->counter_step != 1)
        emit_imul_reg_imm(e, HOST_R10, strip->counter_step);
    tr_guest_to(tr, HOST_R11, strip->counter);
    emit_lea(e, HOST_R10, HOST_R10, HOST_R11, 0, (int32_t)strip->by[strip->counter]);
    emit_mov_state_reg(e, strip->turns ? STATE(strip_end) : STATE(strip_limit), HOST_R10);
}

/* Between iterations. */
struct turn {
    int64_t ahead; /* from where the registers are to the next iteration's beginning, */
    int32_t next;  /* and the counter's way to the next comparison */
};

/* R10 from where the group's lowest byte is in the page: how far it may go in later iterations. */
static void turn_room(struct translation *tr, const struct strip_group *group)
{
    const int32_t last = (int32_t)GUEST_PAGE_SIZE - (group->high - group->low);
    unsigned step = (unsigned)(group->step < 0 ? -group->step : group->step);

    if (group->step > 0) {
        emit_not(&tr->e, HOST_R10);
        emit_alu_reg_imm(&tr->e, EMIT_ADD, HOST_R10, last + 1);
    }
    if (__builtin_popcount(step) == 1) {
        emit_alu_reg_imm(&tr->e, EMIT_AND, HOST_R10, -(int32_t)step);
    } else {
        divide_emit(tr, step);
        emit_imul_reg_imm(&tr->e, HOST_R10, (int32_t)step);
    }
}

/* The counter's value where the page or the strip ends, whichever comes first. What is compared
 * are distances, which can't overflow: the lesser in R10's place, strip_limit, or in R11. */
static void turn_limit(struct translation *tr, const struct turn *turn)
{
    const enum host_register counter = tr_host_of(tr->strip.counter);
    const bool down = tr->strip.counter_step < 0;
    struct emit *e = &tr->e;
    uint8_t *less;

    emit_mov_reg_state(e, HOST_R11, STATE(strip_end));
    emit_alu_reg_reg(e, EMIT_SUB, HOST_R11, counter);
    emit_alu_reg_imm(e, EMIT_SUB, HOST_R11, turn->next);
    if (down) {
        emit_not(e, HOST_R11);
        emit_alu_reg_imm(e, EMIT_ADD, HOST_R11, 1);
    }
    emit_alu_reg_state(e, EMIT_CMP, HOST_R11, STATE(strip_limit));
    less = emit_jcc_rel32(e, EMIT_IF_BE);
    emit_mov_reg_state(e, HOST_R11, STATE(strip_limit));
    emit_patch_rel32(less, e->at);
    if (down)
        emit_not(e, HOST_R11);
    emit_lea(e, HOST_R11, HOST_R11, counter, 0, turn->next + (down ? 1 : 0));
    emit_mov_state_reg(e, STATE(strip_limit), HOST_R11);
}

/* The page of the next iteration's operand: its distance goes to R10. */
static bool turn_emit(struct translation *tr, const struct turn *turn, struct failures *f)
{
    const struct strip_group *group = &tr->strip.group[tr->strip.turns - 1];
    const int32_t array = ARRAY(group->read ? SOFT_READ : SOFT_WRITE);
    struct emit *e = &tr->e;

    if (!group_address(tr, group, turn->ahead))
        return false;
    emit_mov_reg_reg32(e, HOST_R11, HOST_R10);
    emit_shift_imm32(e, EMIT_SHR, HOST_R11, 8);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, (SOFT_TLB_ENTRIES - 1) * 16);
    emit_alu_reg_state(e, EMIT_ADD, HOST_R11, STATE(tlb_now));
    emit_xor_reg_mem(e, HOST_R10, HOST_R11, array);
    emit_alu_reg_imm(e, EMIT_CMP, HOST_R10, (int32_t)GUEST_PAGE_SIZE - (group->high - group->low));
    fail_if(tr, f, EMIT_IF_A);
    turn_room(tr, group);
    emit_mov_state_reg(e, STATE(strip_limit), HOST_R10);
    emit_load(e, HOST_R10, HOST_R11, array + 8, 8);
    emit_load(e, HOST_R11, HOST_R11, array, 8);
    emit_alu_reg_reg(e, EMIT_SUB, HOST_R10, HOST_R11);
    turn_limit(tr, turn);
    return true;
}

/* Before the first iteration. */
static bool turn_begin(struct translation *tr, struct failures *f)
{
    const struct turn turn = {.next = (int32_t)tr->strip.by[tr->strip.counter]};

    if (tr->strip.turns == 0)
        return true;
    if (!turn_emit(tr, &turn, f))
        return false;
    emit_mov_state_reg(&tr->e, STRIP_DISTANCE(tr->strip.turns - 1), HOST_R10);
    return true;
}

/* How many iterations there may be, pages aside. */
static void left_begin(struct translation *tr, struct failures *f)
{
    struct emit *e = &tr->e;

    emit_mov_state_imm32(e, STATE(strip_left), ITERATIONS_MAX);
    if (!tr->c->counted)
        return;
    _Static_assert(SOFT_BLOCK_OPS_MAX < 64, "an iteration takes less than 64 off the fuel");
    emit_mov_reg_state(e, HOST_R10, STATE(fuel));
    emit_shift_imm(e, EMIT_SHR, HOST_R10, 6);
    emit_alu_reg_imm(e, EMIT_SUB, HOST_R10, 1);
    fail_if(tr, f, EMIT_IF_B);
    left_lower(tr);
}

/* Adds a constant to a register of at least `size` bytes. */
static bool count_find(const struct x86_insn *insn, unsigned size, unsigned *reg, int64_t *by)
{
    struct x86_insn whole = *insn;

    if (insn->operand_size < size || insn->operand_size < 4)
        return false;
    whole.operand_size = 8;
    whole.immediate = (uint64_t)(int64_t)(int32_t)insn->immediate;
    return tr_step_find(&whole, reg, by);
}

/* What the register's lower `size` bytes go by in each iteration; 0: not by a constant. */
static int32_t count_step(const struct translation *tr, unsigned reg, unsigned size)
{
    int64_t by, all = 0;
    unsigned found;

    for (unsigned i = 0; i < tr->block->count - 1u; i++) {
        const struct x86_insn *insn = &tr->block->ops[i].insn;

        if (!(tr_registers_written(insn) >> reg & 1))
            continue;
        if (!count_find(insn, size, &found, &by) || found != reg)
            return 0;
        all += by;
    }
    return all >= -STEP_MAX && all <= STEP_MAX ? (int32_t)all : 0;
}

/* What the last comparison compares: `counter`, which goes by `step`, with `other`, X86_REG_NONE
 * for the immediate. */
struct count {
    unsigned counter, other;
    int32_t step;
};

static bool count_settle(const struct translation *tr, struct count *count)
{
    const struct x86_insn *insn = &tr->block->ops[tr->block->count - 2].insn;
    bool immediate = insn->form == X86_FORM_RM_IMM;
    unsigned size = insn->operand_size;

    if (size < 4 || insn->op != X86_OP_CMP)
        return false;
    *count = (struct count){.counter = insn->rm,
                            .other = immediate ? X86_REG_NONE : insn->reg,
                            .step = count_step(tr, insn->rm, size)};
    if (count->step != 0 || immediate)
        return count->step != 0;
    *count = (struct count){
        .counter = insn->reg, .other = insn->rm, .step = count_step(tr, insn->reg, size)};
    return count->step != 0;
}

/* R10 = how far the counter is from what ends the loop, in its direction. */
static void distance_emit(struct translation *tr, const struct count *count)
{
    const struct x86_insn *insn = &tr->block->ops[tr->block->count - 2].insn;

    if (count->other == X86_REG_NONE)
        emit_mov_reg_imm64(&tr->e, HOST_R10, insn->immediate);
    else
        tr_guest_to(tr, HOST_R10, count->other);
    tr_guest_to(tr, HOST_R11, count->counter);
    if (count->step < 0)
        emit_not(&tr->e, HOST_R11); /* ~a - ~b is b - a */
    if (count->step < 0)
        emit_not(&tr->e, HOST_R10);
    if (insn->operand_size == 8)
        emit_alu_reg_reg(&tr->e, EMIT_SUB, HOST_R10, HOST_R11);
    else
        emit_alu_reg_reg32(&tr->e, EMIT_SUB, HOST_R10, HOST_R11);
}

/* Whether the loop goes on at least until the counter has gone that far: its jump was taken just
 * now, and is taken until the two are equal, or while the counter is on its side of the other. */
static bool count_is_exact(const struct translation *tr, const struct count *count)
{
    const struct soft_op *ops = tr->block->ops;
    const struct x86_insn *insn = &ops[tr->block->count - 2].insn;
    unsigned first = insn->form == X86_FORM_REG_RM ? insn->reg : insn->rm;
    bool below = (first == count->counter) == (count->step > 0); /* of the two, the first */

    for (unsigned i = 0; i < tr->block->count - 1u && count->other != X86_REG_NONE; i++) {
        if (tr_registers_written(&ops[i].insn) >> count->other & 1)
            return false;
    }
    switch ((enum emit_condition)(ops[tr->block->count - 1].insn.opcode & 15)) {
    case EMIT_IF_NE:
        return true;
    case EMIT_IF_B:
    case EMIT_IF_BE:
    case EMIT_IF_L:
    case EMIT_IF_LE:
        return below;
    case EMIT_IF_A:
    case EMIT_IF_AE:
    case EMIT_IF_G:
    case EMIT_IF_GE:
        return !below;
    default:
        return false;
    }
}

/* A strip of a few iterations costs more than it gives. Where it is known how many the loop itself
 * has left, a strip has no more, and need not compare what the loop does. */
static uint8_t *few_check(struct translation *tr)
{
    struct emit *e = &tr->e;
    struct count count;
    uint8_t *few, *less;
    unsigned far;

    if (!count_settle(tr, &count))
        return NULL;
    distance_emit(tr, &count);
    far = (unsigned)(count.step < 0 ? -count.step : count.step);
    emit_alu_reg_imm(e, EMIT_CMP, HOST_R10, ITERATIONS_FEW * (int32_t)far);
    few = emit_jcc_rel32(e, EMIT_IF_B);
    if (__builtin_popcount(far) != 1 || !count_is_exact(tr, &count))
        return few;
    tr->strip.counted = true;
    if (far != 1)
        emit_shift_imm(e, EMIT_SHR, HOST_R10, (unsigned)__builtin_ctz(far));
    emit_alu_reg_imm(e, EMIT_SUB, HOST_R10, 1); /* the last is for the ordinary code to end */
    emit_alu_reg_imm(e, EMIT_CMP, HOST_R10, ITERATIONS_MAX);
    less = emit_jcc_rel32(e, EMIT_IF_A);
    left_lower(tr);
    emit_patch_rel32(less, e->at);
    return few;
}

/* -- a strip -- */

static enum host_register host_or_none(unsigned guest)
{
    return guest < 16 ? tr_host_of(guest) : HOST_NONE;
}

/* Where a register of the address lies in memory it goes to R11 for the moment. */
static enum host_register address_part(struct translation *tr, unsigned guest)
{
    if (guest >= 16 || !tr_is_displaced(guest))
        return host_or_none(guest);
    emit_mov_reg_state(&tr->e, HOST_R11, GPR(guest));
    return HOST_R11;
}

/* With R11 needed for other things: R10 = distance + base, + index if that lies in memory. */
static void place_displaced(struct translation *tr, const struct x86_insn *insn,
                            struct emit_rename *rename)
{
    enum host_register part = address_part(tr, insn->base);

    if (part != HOST_NONE)
        emit_lea(&tr->e, HOST_R10, HOST_R10, part, 0, 0);
    part = address_part(tr, insn->index);
    if (part == HOST_R11) {
        emit_lea(&tr->e, HOST_R10, HOST_R10, part, insn->scale, 0);
        part = HOST_NONE;
    }
    rename->memory_base = HOST_R10;
    rename->memory_index = (uint8_t)part;
    rename->memory_scale = insn->scale;
}

/* The operand of one that walks: the host address of the group's lowest byte is at hand. */
static void place_walking(struct translation *tr, unsigned i, struct emit_rename *rename)
{
    const struct strip_group *group = &tr->strip.group[tr->strip.group_of[i]];

    if (group->host == HOST_NONE)
        emit_mov_reg_state(&tr->e, HOST_R11, STRIP_DISTANCE(tr->strip.group_of[i]));
    rename->memory_base = group->host == HOST_NONE ? HOST_R11 : group->host;
    rename->memory_disp = tr->strip.at[i] - group->low;
}

/* An element of a table: R11 is where the table would begin by its page. */
static void place_table(struct translation *tr, unsigned i, struct emit_rename *rename)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    const unsigned number = tr->strip.group_of[i];

    emit_mov_reg_state(&tr->e, HOST_R11, STRIP_DISTANCE(number));
    emit_alu_reg_state(&tr->e, EMIT_CMP, tr_host_of(insn->index), STRIP_TABLE(first, number));
    emit_cmovae_reg_state(&tr->e, HOST_R11, STRIP_TABLE(last, number));
    rename->memory_base = HOST_R11;
    rename->memory_index = (uint8_t)tr_host_of(insn->index);
    rename->memory_scale = insn->scale;
    rename->memory_disp = 0;
}

/* Operation i's memory operand on the host. */
static void place_emit(struct translation *tr, unsigned i, struct emit_rename *rename)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    const unsigned number = tr->strip.group_of[i];
    enum host_register distance = (enum host_register)tr->strip.group[number].host;

    if (tr->strip.group[number].table) {
        place_table(tr, i, rename);
        return;
    }
    if (tr->strip.group[number].walks) {
        place_walking(tr, i, rename);
        return;
    }
    rename->memory_disp = (int32_t)displacement_of(tr, i);
    if (distance == HOST_NONE) {
        distance = tr->strip.displaced ? HOST_R10 : HOST_R11;
        emit_mov_reg_state(&tr->e, distance, STRIP_DISTANCE(number));
    }
    if (tr->strip.displaced) {
        place_displaced(tr, insn, rename);
        return;
    }
    rename->memory_base = (uint8_t)distance;
    rename->memory_index = (uint8_t)host_or_none(insn->base);
    if (insn->index == X86_REG_NONE)
        return;
    if (insn->base < 16) {
        emit_lea(&tr->e, HOST_R11, distance, tr_host_of(insn->base), 0, 0);
        rename->memory_base = HOST_R11;
    }
    rename->memory_index = (uint8_t)tr_host_of(insn->index);
    rename->memory_scale = insn->scale;
}

/* LEA's operand; false: it needs registers that lie in memory. */
static bool place_lea(const struct x86_insn *insn, struct emit_rename *rename)
{
    if ((insn->base < 16 && tr_is_displaced(insn->base)) ||
        (insn->index < 16 && tr_is_displaced(insn->index)) || !tr_fits32(insn->displacement))
        return false;
    rename->memory_base = (uint8_t)host_or_none(insn->base);
    rename->memory_index = (uint8_t)host_or_none(insn->index);
    rename->memory_scale = insn->scale;
    rename->memory_disp = (int32_t)insn->displacement;
    return true;
}

static bool op_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    struct emit_registers regs;
    struct tr_renaming r;
    struct x86_vector_insn v;
    struct check check;

    if (insn->op == X86_OP_NOP || insn->op == X86_OP_PREFETCH)
        return true;
    if (!op_describe(tr, i, &v, &check))
        return false;
    emit_registers_of(insn, is_vector(insn) ? &v : NULL, &regs);
    if (!tr_rename(insn, &regs, &r))
        return false;
    if (insn->op == X86_OP_LEA && !place_lea(insn, &r.rename))
        return false;
    if (is_accessing(insn))
        place_emit(tr, i, &r.rename);
    tr_renamed_load(tr, &r);
    if (!emit_insn(&tr->e, insn, is_vector(insn) ? &v : NULL, &r.rename))
        return false;
    tr_renamed_store(tr, &r);
    return true;
}

/* Takes the last comparison back, for ordinary code to do it again. */
static void comparison_undo(struct translation *tr, const struct x86_insn *insn)
{
    enum host_register reg = tr_host_of(insn->rm);
    int32_t by = (int32_t)insn->immediate;

    if (insn->op != X86_OP_ADD && insn->op != X86_OP_SUB)
        return;
    if (insn->op == X86_OP_ADD)
        by = -by;
    if (tr_is_displaced(insn->rm)) {
        reg = HOST_R11;
        emit_mov_reg_state(&tr->e, reg, GPR(insn->rm));
    }
    if (insn->operand_size == 8)
        emit_lea(&tr->e, reg, reg, HOST_NONE, 0, by);
    else
        emit_lea32(&tr->e, reg, reg, HOST_NONE, 0, by);
    if (tr_is_displaced(insn->rm))
        emit_mov_state_reg(&tr->e, GPR(insn->rm), reg);
}

/* The guest's FIP and FDP, as of the last x87 operations. */
static bool pointers_emit(struct translation *tr)
{
    const unsigned end = tr->block->count - 1;
    struct steps steps = {0}, at = {0};
    const struct vector_vm *unit = tr->c->vm->stubs;
    unsigned last = end, data = end;
    struct soft_op op;

    for (unsigned i = 0; i < end; i++) {
        const struct x86_insn *insn = &tr->block->ops[i].insn;

        if (insn->op == X86_OP_X87)
            last = i;
        if (insn->op == X86_OP_X87 && insn->memory && !unit->fdp_on_exception) {
            data = i;
            at = steps;
        }
        if (insn->op != X86_OP_X87 && insn->op != X86_OP_VECTOR)
            steps_add(&steps, insn, NULL);
    }
    if (last == end)
        return true;
    tr_x87_pointer(tr, last);
    if (data == end)
        return true;
    op = tr->block->ops[data];
    op.insn.displacement += moved(&at, &op.insn);
    for (unsigned n = 0; n < 16; n++)
        at.by[n] = tr->strip.by[n];
    op.insn.displacement -= moved(&at, &op.insn);
    return tr_x87_data_pointer(tr, &op);
}

/* A look-up has spoilt R11, which may be another operand's. */
static void moving_done(struct translation *tr)
{
    for (unsigned n = 0; n < tr->strip.groups; n++) {
        if (tr->strip.group[n].host == HOST_R11)
            emit_mov_reg_state(&tr->e, HOST_R11, STRIP_DISTANCE(n));
    }
}

/* At the comparison: what the next iteration accesses at the end of a walk's step. Where that is in
 * no TLB entry, this is the strip's last iteration. */
static bool walkers_step(struct translation *tr, struct failures *ends)
{
    struct steps now = {0};

    memcpy(now.by, tr->strip.by, sizeof now.by);
    for (unsigned n = tr->strip.groups; n > 0; n--) {
        const struct strip_group *group = &tr->strip.group[n - 1];
        const struct x86_insn place = {
            .base = group->base, .index = group->index, .scale = group->scale};

        if (!group->walks)
            continue;
        if (!group_address(tr, group, group->step - moved(&now, &place)))
            return false;
        ends->place[ends->count++] = walker_look(tr, group);
        if (group->host == HOST_NONE)
            emit_mov_state_reg(&tr->e, STRIP_DISTANCE(n - 1), HOST_R10);
    }
    if (tr->strip.walks)
        moving_done(tr);
    return true;
}

/* Whether this is the strip's last iteration. No flag is alive before the comparison. */
static uint8_t *limit_check(struct translation *tr, enum emit_condition condition)
{
    enum host_register counter = address_part(tr, tr->strip.counter);

    emit_alu_reg_state(&tr->e, EMIT_CMP, counter, STATE(strip_limit));
    return emit_jcc_rel32(&tr->e, condition);
}

/* At the comparison of the last iteration on a page; then on to `back`. */
static bool turn_inside(struct translation *tr, uint8_t *back, struct failures *ends)
{
    const unsigned counter = tr->strip.counter;
    const struct turn turn = {.ahead = tr->strip.counter_step - tr->strip.by[counter],
                              .next = tr->strip.counter_step};

    if (tr->strip.turns == 0)
        return true;
    emit_alu_reg_state(&tr->e, EMIT_CMP, tr_host_of(counter), STATE(strip_end));
    fail_if(tr, ends, EMIT_IF_E);
    if (!turn_emit(tr, &turn, ends))
        return false;
    moving_done(tr);
    emit_patch_rel32(emit_jmp_rel32(&tr->e), back);
    return true;
}

/* An iteration's end where the loop goes on as long as the strip does. */
static bool counted_end(struct translation *tr, uint8_t *again, struct failures *ends)
{
    uint8_t *over = limit_check(tr, tr->strip.walks ? EMIT_IF_E : EMIT_IF_NE);

    if (!tr->strip.walks) {
        emit_patch_rel32(over, again);
        return turn_inside(tr, again, ends);
    }
    ends->place[ends->count++] = over;
    if (!walkers_step(tr, ends))
        return false;
    emit_patch_rel32(emit_jmp_rel32(&tr->e), again);
    return true;
}

/* The same with the loop's own comparison. */
static bool compared_end(struct translation *tr, uint8_t *again, struct failures *ends)
{
    const unsigned end = tr->block->count - 1;
    const struct soft_op *ops = tr->block->ops;
    uint8_t *limit = limit_check(tr, EMIT_IF_E), *compare = tr->e.at, *over;

    if (!walkers_step(tr, ends) || !op_emit(tr, end - 1))
        return false;
    over = emit_jcc_rel32(&tr->e, (enum emit_condition)(ops[end].insn.opcode & 15));
    emit_patch_rel32(over, again);
    comparison_undo(tr, &ops[end - 1].insn);
    if (tr->strip.turns == 0) {
        ends->place[ends->count++] = limit;
        return true;
    }
    over = emit_jmp_rel32(&tr->e);
    emit_patch_rel32(limit, tr->e.at);
    if (!turn_inside(tr, compare, ends))
        return false;
    emit_patch_rel32(over, tr->e.at);
    return true;
}

/* To where the ordinary code's comparison was. */
static bool loop_end(struct translation *tr, const struct failures *ends)
{
    for (unsigned i = 0; i < ends->count; i++)
        emit_patch_rel32(ends->place[i], tr->e.at);
    if (!pointers_emit(tr))
        return false;
    emit_patch_rel32(emit_jmp_rel32(&tr->e), tr->op_at[tr->block->count - 2]);
    return true;
}

static bool loop_emit(struct translation *tr)
{
    const unsigned end = tr->block->count - 1;
    struct emit *e = &tr->e;
    struct failures ends = {.count = 0};
    uint8_t *again;

    for (unsigned g = 0; g < tr->strip.groups; g++) {
        if (tr->strip.group[g].host != HOST_NONE)
            emit_mov_reg_state(e, (enum host_register)tr->strip.group[g].host, STRIP_DISTANCE(g));
    }
    emit_nops(e, (unsigned)(-(uintptr_t)e->at & 31));
    again = e->at;
    if (tr->c->counted)
        emit_sub_state_imm8(e, STATE(fuel), (int8_t)tr->block->count);
    for (unsigned i = 0; i < end - 1; i++) {
        if (!op_emit(tr, i))
            return false;
    }
    if (tr->strip.counted ? !counted_end(tr, again, &ends) : !compared_end(tr, again, &ends))
        return false;
    return loop_end(tr, &ends);
}

/* To the block; but a strip that can't begin many times in a row and soon again is given up. */
static void failures_emit(struct translation *tr, const struct failures *f, struct soft_pace *pace)
{
    struct emit *e = &tr->e;

    for (unsigned i = 0; i < f->count; i++)
        emit_patch_rel32(f->place[i], e->at);
    emit_dec_state32(e, STATE(strip_patience));
    emit_patch_rel32(emit_jcc_rel32(e, EMIT_IF_NE), tr->body);
    emit_mov_state_imm32(e, STATE(strip_patience), SOFT_PACE_MISSES);
    emit_mov_reg_imm64(e, HOST_R11, (uint64_t)(uintptr_t)pace);
    emit_patch_rel32(emit_call_rel32(e), to_write(tr->t, tr->t->fixed.pace));
    emit_patch_rel32(emit_jmp_rel32(e), tr->body);
}

static bool strip_emit(struct translation *tr, struct soft_pace *pace)
{
    struct failures failures = {.count = 0};
    uint8_t *few;

    *pace = (struct soft_pace){.place = tr->e.at, .hash = tr->body};
    left_begin(tr, &failures);
    few = few_check(tr);
    for (unsigned g = 0; g < tr->strip.groups; g++) {
        if (!group_emit(tr, &tr->strip.group[g], &failures))
            return false;
    }
    limit_emit(tr, &failures);
    if (!turn_begin(tr, &failures))
        return false;
    emit_mov_state_imm32(&tr->e, STATE(strip_patience), SOFT_PACE_MISSES);
    if (!loop_emit(tr))
        return false;
    failures_emit(tr, &failures, pace);
    if (few)
        emit_patch_rel32(few, tr->body);
    return true;
}

void tr_strip_emit(struct translation *tr)
{
    const struct emit before = tr->e;

    if (strip_emit(tr, &tr->t->paces[tr->t->pace_count])) {
        tr->t->pace_count++;
        return;
    }
    tr->e = before;
    emit_patch_rel32(emit_jmp_rel32(&tr->e), tr->body);
}
