/*
 * Which loops the translator runs in strips, and what their operands and counters do: see
 * translate_strip.c.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_strip.h"
#include "cpu/soft/vector.h"

#define STEP_MAX   (1 << 20) /* an iteration moves an address by this much at most */
#define STEP_TURNS 64        /* from here on an operand had better turn to its next page */
#define STEP_WALKS 1025      /* from here on it walks */
#define SPAN_MAX   1024      /* what one look-up covers */
#define TABLE_MAX  4096

/* -- what the loop does -- */

bool tr_strip_describe(const struct translation *tr, unsigned i, struct x86_vector_insn *v,
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

void tr_strip_step(struct strip_steps *steps, const struct x86_insn *insn,
                   const struct x86_vector_insn *v)
{
    struct emit_registers regs;
    unsigned reg;
    int64_t by;

    emit_registers_of(insn, tr_strip_is_vector(insn) ? v : NULL, &regs);
    steps->used |= regs.read | regs.written;
    if (tr_step_find(insn, &reg, &by) && by >= -STEP_MAX && by <= STEP_MAX)
        steps->by[reg] += by;
    else
        steps->lost |= regs.written | regs.implicit_written;
}

bool tr_strip_is_accessing(const struct x86_insn *insn)
{
    return insn->memory && insn->op != X86_OP_LEA && insn->op != X86_OP_NOP &&
           insn->op != X86_OP_PREFETCH;
}

int64_t tr_strip_moved(const struct strip_steps *steps, const struct x86_insn *insn)
{
    int64_t base = insn->base < 16 ? steps->by[insn->base] : 0;
    int64_t index = insn->index < 16 ? steps->by[insn->index] : 0;

    return base + index * (INT64_C(1) << insn->scale);
}

int64_t tr_strip_displacement(const struct translation *tr, unsigned i)
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

    /* An x87 operand's address must follow from registers at the strip's end: the index may not. */
    return insn->op != X86_OP_X87 && insn->index < 16 && limits->most[insn->index] <= UINT16_MAX &&
           check->access == SOFT_READ && check->align <= 1 &&
           __builtin_popcount(check->size) == 1 && check->size <= 1u << insn->scale &&
           !(tr_flags_from(tr, check->op) & (TR_FLAGS_HOST | TR_FLAGS_SAVED));
}

/* The access of operation i; `before`: the steps made by then. */
static bool access_add(struct translation *tr, const struct check *check,
                       const struct strip_steps *before, const struct limits *limits)
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
    at = tr_strip_displacement(tr, check->op) + tr_strip_moved(before, &place);
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

static bool is_lost(const struct strip_steps *all, unsigned reg)
{
    return reg < 16 && (all->lost >> reg & 1);
}

static bool group_settle(struct strip *strip, struct strip_group *group,
                         const struct strip_steps *all)
{
    const struct x86_insn place = {.base = group->base,
                                   .index = group->table ? X86_REG_NONE : group->index,
                                   .scale = group->scale};

    if (is_lost(all, place.base) || is_lost(all, place.index))
        return false;
    strip->tables |= group->table;
    return group->table ? tr_strip_moved(all, &place) == 0
                        : step_settle(strip, group, tr_strip_moved(all, &place));
}

/* All the groups' registers must go by constant steps, and aligned operands stay so. */
static bool groups_settle(struct strip *strip, const struct strip_steps *all)
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
           insn->operand_size >= 4 && (int32_t)insn->immediate != INT32_MIN; /* has no negative */
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
    struct strip_steps steps = {0};
    struct limits limits;
    struct x86_vector_insn v;
    struct check check;

    memset(&limits, 0xff, sizeof limits);
    tr->strip = (struct strip){0};
    if (end < 2 || ops[end].insn.op != X86_OP_JCC || !is_repeatable(&ops[end - 1].insn))
        return false;
    for (unsigned i = 0; i < end; i++) {
        const struct x86_insn *insn = &ops[i].insn;

        if (!tr_strip_describe(tr, i, &v, &check))
            return false;
        if (tr_strip_is_accessing(insn) && !access_add(tr, &check, &steps, &limits))
            return false;
        if (insn->memory && ((insn->base < 16 && tr_is_displaced(insn->base)) ||
                             (insn->index < 16 && tr_is_displaced(insn->index))))
            tr->strip.displaced = true;
        if (i == end - 1)
            memcpy(tr->strip.by, steps.by, sizeof steps.by);
        tr_strip_step(&steps, insn, &v);
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

/* -- what tells the loop's end -- */

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

bool tr_strip_count(const struct translation *tr, struct strip_count *count)
{
    const struct x86_insn *insn = &tr->block->ops[tr->block->count - 2].insn;
    bool immediate = insn->form == X86_FORM_RM_IMM;
    unsigned size = insn->operand_size;

    if (size < 4 || insn->op != X86_OP_CMP)
        return false;
    *count = (struct strip_count){.counter = insn->rm,
                                  .other = immediate ? X86_REG_NONE : insn->reg,
                                  .step = count_step(tr, insn->rm, size)};
    if (count->step != 0 || immediate)
        return count->step != 0;
    *count = (struct strip_count){
        .counter = insn->reg, .other = insn->rm, .step = count_step(tr, insn->reg, size)};
    return count->step != 0;
}

bool tr_strip_count_is_exact(const struct translation *tr, const struct strip_count *count)
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
