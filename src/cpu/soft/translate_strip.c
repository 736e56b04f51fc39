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
#include "cpu/soft/translate_strip.h"
#include "cpu/soft/vector.h"

#define ITERATIONS_MAX 511
#define ITERATIONS_MIN 4
#define ITERATIONS_FEW 6 /* are not worth a strip */

#define STRIP_TABLE(field, group)                                                                  \
    (STATE(strip_table[0].field) + (int32_t)(sizeof(struct soft_strip_table) * (group)))
#define ARRAY(access) ((int32_t)((access) * sizeof(struct soft_tlb_entry) * SOFT_TLB_ENTRIES))

/* -- before a strip -- */

struct failures {
    uint8_t *place[5 * SOFT_STRIP_GROUPS + 4];
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

/* From R10, where the group's lowest byte is in the page: no more iterations than stay there. */
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

/* R10 from the lowest byte's linear address to where that is in its page, R11 to the TLB's entry.
 */
static void entry_look(struct translation *tr, const struct strip_group *group, struct failures *f)
{
    const int32_t array = ARRAY(group->read ? SOFT_READ : SOFT_WRITE);
    struct emit *e = &tr->e;

    emit_mov_reg_reg32(e, HOST_R11, HOST_R10);
    emit_shift_imm32(e, EMIT_SHR, HOST_R11, 8);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, (SOFT_TLB_ENTRIES - 1) * 16);
    emit_alu_reg_state(e, EMIT_ADD, HOST_R11, STATE(tlb_now));
    emit_xor_reg_mem(e, HOST_R10, HOST_R11, array);
    emit_alu_reg_imm(e, EMIT_CMP, HOST_R10, (int32_t)GUEST_PAGE_SIZE - (group->high - group->low));
    fail_if(tr, f, EMIT_IF_A);
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
    entry_look(tr, group, f);
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
    entry_look(tr, group, f);
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

/* R10 = how far the counter is from what ends the loop, in its direction. */
static void distance_emit(struct translation *tr, const struct strip_count *count)
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

/* A strip of a few iterations costs more than it gives. Where it is known how many the loop itself
 * has left, a strip has no more, and need not compare what the loop does. */
static uint8_t *few_check(struct translation *tr)
{
    struct emit *e = &tr->e;
    struct strip_count count;
    uint8_t *few, *less;
    unsigned far;

    if (!tr_strip_count(tr, &count))
        return NULL;
    distance_emit(tr, &count);
    far = (unsigned)(count.step < 0 ? -count.step : count.step);
    emit_alu_reg_imm(e, EMIT_CMP, HOST_R10, ITERATIONS_FEW * (int32_t)far);
    few = emit_jcc_rel32(e, EMIT_IF_B);
    if (__builtin_popcount(far) != 1 || !tr_strip_count_is_exact(tr, &count))
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
    rename->memory_disp = (int32_t)tr_strip_displacement(tr, i);
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
    if (!tr_strip_describe(tr, i, &v, &check))
        return false;
    emit_registers_of(insn, tr_strip_is_vector(insn) ? &v : NULL, &regs);
    if (!tr_rename(insn, &regs, &r))
        return false;
    if (insn->op == X86_OP_LEA && !place_lea(insn, &r.rename))
        return false;
    if (tr_strip_is_accessing(insn))
        place_emit(tr, i, &r.rename);
    tr_renamed_load(tr, &r);
    if (!emit_insn(&tr->e, insn, tr_strip_is_vector(insn) ? &v : NULL, &r.rename))
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
    struct strip_steps steps = {0}, at = {0};
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
            tr_strip_step(&steps, insn, NULL);
    }
    if (last == end)
        return true;
    tr_x87_pointer(tr, last);
    if (data == end)
        return true;
    op = tr->block->ops[data];
    op.insn.displacement += tr_strip_moved(&at, &op.insn);
    for (unsigned n = 0; n < 16; n++)
        at.by[n] = tr->strip.by[n];
    op.insn.displacement -= tr_strip_moved(&at, &op.insn);
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
    struct strip_steps now = {0};

    memcpy(now.by, tr->strip.by, sizeof now.by);
    for (unsigned n = tr->strip.groups; n > 0; n--) {
        const struct strip_group *group = &tr->strip.group[n - 1];
        const struct x86_insn place = {
            .base = group->base, .index = group->index, .scale = group->scale};

        if (!group->walks)
            continue;
        if (!group_address(tr, group, group->step - tr_strip_moved(&now, &place)))
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
