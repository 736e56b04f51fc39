/*
 * The translator's shared checks: accesses of a block to one object, [rbx + 8] and [rbx + 16] say,
 * are checked together where the first of them is, from the lowest byte to the highest. The host
 * address stays in R10 or waits in soft_vcpu.shared, and the others need but a displacement from
 * it. See translate.c and doc/soft.md.
 *
 * Where the first reads and others write, all are checked for writing, but by what the TLB has
 * only: a walk would fault, or set the dirty bit, before its time.
 *
 * Precision: what is checked early lies on the page of the first access, which happens at once; so
 * no accessed or dirty bit is set too soon, and no later access can fault where the check succeeds.
 * Where it does not (the object lies across two pages, on a device, beside code), nothing has
 * happened yet, and the rest of the block runs in its other code, soft_block.code_alone, in which
 * each access has a check of its own. That is made when it is first wanted.
 *
 * Lifetime: a checked host address is good until the block's end or the next call of C that may
 * change what it depends on. Operations that always call C are walls for sharing, and one that runs
 * interpreted by exception, out of line, does not come back to code that relies on a check.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"

/* Bytes from the lowest to the highest: the more, the more often they lie on two pages. */
#define SPAN_MAX 128

/* -- what an operation does -- */

static bool access_find(const struct translation *tr, const struct x86_insn *insn,
                        struct check *check)
{
    if (tr_stack_access(insn, check))
        return true;
    if (!insn->memory || insn->address_size != 8 || !tr_fits32(insn->displacement))
        return false;
    if (insn->op == X86_OP_VECTOR)
        return tr_vector_access(tr, insn, check);
    if (insn->op == X86_OP_X87)
        return tr_x87_access(tr, insn, check);
    return tr_runs_as_it_stands(insn) && tr_integer_access(insn, check);
}

/* The operation, with the word that a push or pop, call or return has on the stack as operand. */
static struct soft_op operand_of(const struct translation *tr, unsigned i)
{
    struct soft_op op = tr->block->ops[i];
    struct check check = {.op = i};

    if (!tr_stack_access(&op.insn, &check))
        return op;
    op.insn.base = X86_RSP;
    op.insn.index = X86_REG_NONE;
    op.insn.scale = 0;
    op.insn.segment = X86_SS;
    op.insn.address_size = 8;
    op.insn.displacement = check.access == SOFT_WRITE ? -8 : 0;
    return op;
}

/* Whether translated code may go on behind it without C having run, and with segments and the way
 * of judging permissions unchanged. */
static bool is_wall(const struct translation *tr, const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_PUSH:
    case X86_OP_POP:
    case X86_OP_LEAVE:
    case X86_OP_LEA:
    case X86_OP_NOP:
    case X86_OP_PREFETCH:
    case X86_OP_DIV:
    case X86_OP_IDIV:
    case X86_OP_JCC:
        return false;
    case X86_OP_VECTOR:
        return !(tr->block->mode & SOFT_MODE_VECTORS);
    case X86_OP_X87:
    case X86_OP_FWAIT:
        return !tr_x87_is_native(tr, insn);
    default:
        return !tr_runs_as_it_stands(insn);
    }
}

bool tr_step_find(const struct x86_insn *insn, unsigned *reg, int64_t *step)
{
    const bool whole = insn->operand_size == 8 && !insn->memory;

    *reg = insn->rm;
    switch (insn->op) {
    case X86_OP_ADD:
    case X86_OP_SUB:
        *step = insn->op == X86_OP_ADD ? (int64_t)insn->immediate : -(int64_t)insn->immediate;
        return whole && insn->form == X86_FORM_RM_IMM;
    case X86_OP_INC:
    case X86_OP_DEC:
        *step = insn->op == X86_OP_INC ? 1 : -1;
        return whole;
    case X86_OP_LEA:
        *reg = insn->reg;
        *step = insn->displacement;
        return insn->operand_size == 8 && insn->address_size == 8 && insn->base == insn->reg &&
               insn->index == X86_REG_NONE;
    case X86_OP_PUSH:
        *reg = X86_RSP;
        *step = -8;
        return insn->operand_size == 8;
    case X86_OP_POP:
        *reg = X86_RSP;
        *step = 8;
        return whole && insn->rm != X86_RSP;
    default:
        return false;
    }
}

/* -- planning -- */

struct plan {
    struct translation *tr;
    unsigned open;              /* those that more may join, by bit */
    int64_t moved[SOFT_SHARED]; /* what the registers' changes have added to the address */
};

static bool same_address(const struct shared *shared, const struct x86_insn *insn)
{
    return shared->base == insn->base && shared->index == insn->index &&
           shared->scale == insn->scale && shared->segment == insn->segment;
}

/* Whether both ends may be on one page, and the displacement can be encoded. */
static bool span_fits(const struct shared *shared, int64_t low, int64_t high)
{
    if (shared->base == X86_REG_RIP && (low ^ (high - 1)) & ~(int64_t)0xfff)
        return false;
    return high - low <= (shared->base == X86_REG_RIP ? (int64_t)GUEST_PAGE_SIZE : SPAN_MAX) &&
           tr_fits32(low) && tr_fits32(high);
}

static int64_t displacement_of(const struct translation *tr, const struct soft_op *op)
{
    return op->insn.displacement +
           (op->insn.base == X86_REG_RIP ? tr_page_offset(tr, op->next) : 0);
}

static bool access_join(struct plan *plan, unsigned n, unsigned i, const struct check *check)
{
    struct translation *tr = plan->tr;
    struct shared *shared = &tr->shared[n];
    const struct soft_op op = operand_of(tr, i);
    int64_t at = displacement_of(tr, &op) + plan->moved[n];
    int64_t end = at + check->size;
    int64_t low = at < shared->low ? at : shared->low;
    int64_t high = end > shared->high ? end : shared->high;

    if (!(plan->open >> n & 1) || !same_address(shared, &op.insn) || !span_fits(shared, low, high))
        return false;
    shared->low = low;
    shared->high = high;
    if (check->align > shared->align)
        shared->align = (uint8_t)check->align;
    if (check->access > shared->access) {
        shared->access = (uint8_t)check->access;
        shared->early = true;
    }
    shared->last = i;
    shared->members++;
    tr->shared_of[i] = (uint8_t)(n + 1);
    tr->shared_at[i] = (int32_t)at;
    return true;
}

static void access_begin(struct plan *plan, unsigned i, const struct check *check)
{
    struct translation *tr = plan->tr;
    const struct soft_op op = operand_of(tr, i);
    const struct x86_insn *insn = &op.insn;
    struct shared *shared = &tr->shared[tr->shared_count];
    int64_t at = displacement_of(tr, &op);

    if (tr->shared_count == SOFT_SHARED)
        return;
    *shared = (struct shared){.base = insn->base,
                              .index = insn->index,
                              .scale = insn->scale,
                              .segment = insn->segment,
                              .access = (uint8_t)check->access,
                              .first = i,
                              .low = at,
                              .high = at};
    plan->moved[tr->shared_count] = 0;
    plan->open |= 1u << tr->shared_count;
    if (access_join(plan, tr->shared_count, i, check))
        tr->shared_count++;
    else
        plan->open &= ~(1u << tr->shared_count);
}

/* One that nobody has joined makes room. */
static void access_drop_single(struct plan *plan)
{
    struct translation *tr = plan->tr;
    unsigned n = tr->shared_count - 1u;

    if (tr->shared_count == SOFT_SHARED && tr->shared[n].members == 1) {
        tr->shared_of[tr->shared[n].first] = 0;
        plan->open &= ~(1u << n);
        tr->shared_count--;
    }
}

static void access_plan(struct plan *plan, unsigned i)
{
    struct check check = {.op = i};

    if (!access_find(plan->tr, &plan->tr->block->ops[i].insn, &check))
        return;
    for (unsigned n = plan->tr->shared_count; n > 0; n--) {
        if (access_join(plan, n - 1, i, &check))
            return;
    }
    access_drop_single(plan);
    access_begin(plan, i, &check);
}

/* After operation i: which addresses are no longer what they were. */
static void registers_plan(struct plan *plan, unsigned i)
{
    const struct x86_insn *insn = &plan->tr->block->ops[i].insn;
    uint16_t written = tr_registers_written(insn);
    unsigned reg = 0;
    int64_t step = 0;
    bool steps = tr_step_find(insn, &reg, &step);

    for (unsigned n = 0; n < plan->tr->shared_count; n++) {
        const struct shared *shared = &plan->tr->shared[n];
        uint16_t uses = (uint16_t)((shared->base < 16 ? 1u << shared->base : 0) |
                                   (shared->index < 16 ? 1u << shared->index : 0));

        if (steps && tr_fits32(plan->moved[n] + (step * 8))) {
            if (shared->base == reg)
                plan->moved[n] += step;
            if (shared->index == reg)
                plan->moved[n] += step * (1 << shared->scale);
            if (!(written & uses & ~(1u << reg)))
                continue;
        }
        if (written & uses)
            plan->open &= ~(1u << n);
    }
}

/* Whether an operation leaves R10 alone. */
static bool keeps_address(const struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    struct emit_registers regs;

    if (insn->op == X86_OP_NOP || insn->op == X86_OP_PREFETCH)
        return true;
    if (insn->op == X86_OP_LEA && tr_lea_is_near(insn))
        return true;
    if (insn->op == X86_OP_LEA)
        return !tr_is_displaced(insn->base) && !tr_is_displaced(insn->index) &&
               !tr_is_displaced(insn->reg) && insn->base != X86_REG_RIP &&
               insn->base != X86_REG_NONE && insn->operand_size >= 4;
    if (insn->memory)
        return false;
    if (insn->op == X86_OP_X87 || insn->op == X86_OP_FWAIT)
        return true;
    if (insn->op == X86_OP_VECTOR)
        return !tr_is_displaced(insn->reg) && !tr_is_displaced(insn->rm);
    if (!tr_runs_as_it_stands(insn))
        return false;
    emit_registers_of(insn, NULL, &regs);
    return __builtin_popcount((regs.read | regs.written) & 7u << 9) < 2;
}

static bool is_shared(const struct translation *tr, unsigned i)
{
    return tr->shared_of[i] != 0 && tr->shared[tr->shared_of[i] - 1].members > 1;
}

/* Whether the check of the lowest byte has found this access's alignment, too. */
static bool is_aligned_with(const struct shared *shared, const struct check *check, int32_t at)
{
    return shared->align >= check->align && ((uint32_t)at & (check->align - 1)) == 0;
}

/* The lowest byte is aligned as the access that wants most, if that lies so far from it; else each
 * access sees to itself. */
static void aligns_plan(struct translation *tr)
{
    for (unsigned i = 0; i < tr->block->count; i++) {
        struct check check = {.op = i};
        struct shared *shared;

        if (tr->shared_of[i] == 0 || !access_find(tr, &tr->block->ops[i].insn, &check))
            continue;
        shared = &tr->shared[tr->shared_of[i] - 1];
        if (check.align != 0 &&
            !is_aligned_with(shared, &check, (int32_t)(tr->shared_at[i] - shared->low)))
            shared->align = 0;
    }
}

/* Which host addresses another use of R10 would lose. */
static void spills_plan(struct translation *tr)
{
    unsigned held = 0;
    unsigned loaded = 0; /* UNIT_*: loading them needs R10 */

    for (unsigned i = 0; i < tr->block->count; i++) {
        const struct x86_insn *insn = &tr->block->ops[i].insn;

        unsigned unit = insn->op == X86_OP_VECTOR ? UNIT_VECTOR
                        : insn->op == X86_OP_X87  ? UNIT_X87
                                                  : 0;

        if (is_wall(tr, insn))
            loaded = 0;
        if (unit & ~loaded)
            held = 0;
        loaded |= unit;
        if (is_shared(tr, i)) {
            struct shared *shared = &tr->shared[tr->shared_of[i] - 1];

            if (i != shared->first && (held != tr->shared_of[i] || insn->op == X86_OP_CALL_IND))
                shared->spilled = true;
            held = tr->shared_of[i];
        } else if (held != 0 && !keeps_address(tr, i)) {
            held = 0;
        }
    }
}

void tr_share_plan(struct translation *tr)
{
    struct plan plan = {.tr = tr};

    memset(tr->shared_of, 0, sizeof tr->shared_of);
    if (tr->alone || tr->block->unshared || tr->block->second || tr->block->count < 2)
        return;
    for (unsigned i = 0; i < tr->block->count; i++) {
        const struct x86_insn *insn = &tr->block->ops[i].insn;

        if (is_wall(tr, insn)) {
            if (tr_branches_by_stack(insn))
                access_plan(&plan, i);
            plan.open = 0;
            continue;
        }
        access_plan(&plan, i);
        if (plan.open != 0)
            registers_plan(&plan, i);
    }
    if (tr->shared_count == 0)
        return;
    aligns_plan(tr);
    spills_plan(tr);
}

/* -- emission -- */

void tr_share_end(struct translation *tr)
{
    tr->shared_ready = 0;
    tr->shared_held = 0;
}

void tr_share_after(struct translation *tr, unsigned i)
{
    if (!is_shared(tr, i) && !keeps_address(tr, i))
        tr->shared_held = 0;
}

bool tr_share_is_live(const struct translation *tr, const struct cold *cold)
{
    for (unsigned n = 0; n < tr->shared_count; n++) {
        if ((cold->shared_ready >> n & 1) && tr->shared[n].last > cold->op)
            return true;
    }
    return false;
}

/* R10 = the host's address of the lowest byte. */
static void shared_check(struct translation *tr, unsigned i, unsigned n)
{
    const struct shared *shared = &tr->shared[n];
    const struct check check = {.op = i,
                                .size = (unsigned)(shared->high - shared->low),
                                .align = shared->align,
                                .stack = shared->base == X86_RSP && shared->index == X86_REG_NONE,
                                .access = (enum soft_access)shared->access};
    struct soft_op lowest = operand_of(tr, i);

    lowest.insn.displacement += shared->low - tr->shared_at[i];
    tr_flags_clobber(tr);
    (void)tr_address(tr, &lowest);
    tr_check(tr, &check);
    tr->cold[tr->cold_count - 1].kind = COLD_SHARED;
    tr->cold[tr->cold_count - 1].fill = shared->early ? SOFT_FILL_EARLY : 0;
    if (shared->spilled)
        emit_mov_state_reg(&tr->e, STATE(shared[0]) + 8 * (int32_t)n, HOST_R10);
    tr->shared_ready |= (uint8_t)(1u << n);
}

static void align_check(struct translation *tr, const struct check *check, int32_t at)
{
    tr_flags_clobber(tr);
    emit_lea32(&tr->e, HOST_R11, HOST_R10, HOST_NONE, 0, at);
    emit_alu_reg_imm32(&tr->e, EMIT_AND, HOST_R11, (int32_t)check->align - 1);
    tr_twin_if(tr, check->op, EMIT_IF_NE);
}

/* An operation between may have turned out not to be translated. */
static bool shared_is_there(const struct translation *tr, unsigned n)
{
    return (tr->shared_ready >> n & 1) && (tr->shared_held == n + 1 || tr->shared[n].spilled);
}

bool tr_share_use(struct translation *tr, const struct check *check, int32_t *at)
{
    unsigned i = check->op, n = tr->shared_of[i] - 1u;

    if (!is_shared(tr, i))
        return false;
    if (i == tr->shared[n].first) {
        shared_check(tr, i, n);
    } else if (!shared_is_there(tr, n)) {
        tr->shared_held = 0;
        return false;
    } else if (tr->shared_held != n + 1) {
        emit_mov_reg_state(&tr->e, HOST_R10, STATE(shared[0]) + 8 * (int32_t)n);
    }
    tr->shared_held = (uint8_t)(n + 1);
    *at = (int32_t)(tr->shared_at[i] - tr->shared[n].low);
    if (check->align != 0 && !is_aligned_with(&tr->shared[n], check, *at))
        align_check(tr, check, *at);
    return true;
}

/* To the other code, as if the block had ended before the operation. */
void tr_share_cold(struct translation *tr, struct cold *cold)
{
    struct emit *e = &tr->e;
    struct soft_link *link = &tr->t->links[tr->t->link_count++];
    int32_t target = tr_page_offset(tr, tr->block->ops[cold->op].offset);

    tr_x87_settle(tr, &cold->x87);
    tr_flags_cook(tr, cold->recipe);
    if (tr->c->counted) {
        emit_mov_reg_state(e, HOST_R11, STATE(fuel));
        emit_lea(e, HOST_R11, HOST_R11, HOST_NONE, 0, tr->block->count - (int32_t)cold->op);
        emit_mov_state_reg(e, STATE(fuel), HOST_R11);
    }
    tr_rip(tr, target);
    *link = (struct soft_link){.from = tr->block,
                               .place = emit_jmp_rel32(e),
                               .unlinked = e->at,
                               .target = target,
                               .alone = true,
                               .flags_in_memory = true};
    emit_patch_rel32(link->place, link->unlinked);
    emit_mov_reg_imm64(e, HOST_R10, (uint64_t)(link - tr->t->links));
    tr_jump_to(tr, tr->t->fixed.exit[EXIT_LINK][1]);
}
