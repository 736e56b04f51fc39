/*
 * The translator's arithmetic flags: where they are at each place, and how they get there.
 *
 * A fault shows all flags, so they must be known wherever an operation may fault, though programs
 * hardly ever look at them there. Flags that only a fault would read are therefore not kept; an
 * exit to C computes them again, by the interpreted twin of the operation that made them
 * (soft_flags_settle). Its operands are
 *  - still in the registers, or follow from its result: a recipe. Only the exit's own code, out of
 *    line, says which operation it was, or the block itself does where the one behind may fault;
 *  - or recorded: stored to soft_vcpu.recorded before the operation.
 * Operations that make a part of the flags (tr_flags_part) are recorded beside the one that made
 * all. Flags that code reads after the host's were spoilt are made once more by a CMP or TEST, or
 * saved by LAHF and SETO.
 *
 * Flags in memory are in soft_vcpu.arith if soft_vcpu.flags_site is 0; else they follow from it.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"

#include "cpu/x86/flags.h"
#include "cpu/x86/vector.h"

#define LOOK_AHEAD 8
#define LOOK_BYTES 32

/* -- what an operation does with them -- */

enum effect {
    EFFECT_NONE,
    EFFECT_WRITES, /* all of them, whatever they were */
    EFFECT_PART,   /* some, or may keep them */
    EFFECT_READS
};

static void flags_find(const struct x86_insn *insn, struct x86_flags *out)
{
    bool feature[X86_FEATURE_COUNT];
    struct x86_vector_insn vector;
    bool known = false;

    if (insn->op == X86_OP_VECTOR) {
        memset(feature, true, sizeof feature);
        known = x86_vector_describe(insn, feature, &vector);
    }
    x86_flags_of(insn, known ? &vector : NULL, out);
}

/* Flags that the manual leaves undefined: where every processor gives them some value that does
 * not depend on the old one, they are as good as written. */
static bool maybe_is_written(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_MUL:
    case X86_OP_IMUL1:
    case X86_OP_IMUL2:
    case X86_OP_IMUL3:
        return true;
    case X86_OP_SHL:
    case X86_OP_SHR:
    case X86_OP_SAR:
        return !insn->by_cl && (insn->immediate & (insn->operand_size == 8 ? 63 : 31)) != 0;
    default:
        return false;
    }
}

void tr_flags_of(const struct x86_insn *insn, const struct x86_vector_insn *vector,
                 struct x86_flags *out)
{
    x86_flags_of(insn, vector, out);
    if (maybe_is_written(insn)) {
        out->written |= out->maybe;
        out->maybe = 0;
    }
}

static enum effect effect_of(const struct x86_insn *insn)
{
    struct x86_flags f;

    flags_find(insn, &f);
    if (maybe_is_written(insn))
        f.written |= f.maybe;
    if (f.read)
        return EFFECT_READS;
    if (f.written == FLAGS_ALL)
        return EFFECT_WRITES;
    return f.written || f.maybe ? EFFECT_PART : EFFECT_NONE;
}

/* Operations between registers that make some flags, keep others and read none. */
static bool is_part(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_ROL:
    case X86_OP_ROR:
    case X86_OP_SHL:
    case X86_OP_SHR:
    case X86_OP_SAR:
    case X86_OP_INC:
    case X86_OP_DEC:
        return !insn->memory && effect_of(insn) == EFFECT_PART;
    default:
        return false;
    }
}

/* Whether translated code may spoil the host's flags before it does the operation. */
static bool is_spoiling(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_LEA:
    case X86_OP_NOP:
    case X86_OP_PREFETCH:
    case X86_OP_JMP:
    case X86_OP_JCC:
    case X86_OP_LOOP:
    case X86_OP_JCXZ:
        return false;
    case X86_OP_X87:
    case X86_OP_VECTOR:
        return insn->memory;
    default:
        return insn->memory || !tr_runs_as_it_stands(insn);
    }
}

/* Vector and x87 operations between registers, where the block's mode says that these can't fault
 * by themselves. */
static bool is_free(const struct translation *tr, const struct x86_insn *insn)
{
    const unsigned both = SOFT_MODE_VECTORS | SOFT_MODE_X87;
    struct x86_vector_insn v;

    return (insn->op == X86_OP_VECTOR || insn->op == X86_OP_X87) && !insn->memory &&
           (tr->block->mode & both) == both &&
           x86_vector_describe(insn, tr->c->vm->cpuid->feature, &v);
}

/* Whether an operation may show the flags to somebody, by a fault, though it spoils none. */
static bool is_showing(const struct translation *tr, const struct x86_insn *insn)
{
    return insn->op != X86_OP_JCC && insn->op != X86_OP_JMP && x86_insn_may_fault(insn) &&
           !is_free(tr, insn);
}

/* All of that of one operation, as bits over enum effect. */
#define FACT_EFFECT 3u
#define FACT_SPOILS 4u
#define FACT_SHOWS  8u
#define FACT_PART   16u
#define FACT_KNOWN  32u

static uint8_t facts_of(const struct translation *tr, const struct x86_insn *insn)
{
    unsigned facts = FACT_KNOWN | effect_of(insn);

    facts |= is_spoiling(insn) ? FACT_SPOILS : 0;
    facts |= is_showing(tr, insn) ? FACT_SHOWS : 0;
    facts |= is_part(insn) ? FACT_PART : 0;
    return (uint8_t)facts;
}

/* Of the block's, which are asked for often. */
static uint8_t facts_at(struct translation *tr, unsigned i)
{
    if (tr->facts[i] == 0)
        tr->facts[i] = facts_of(tr, &tr->block->ops[i].insn);
    return tr->facts[i];
}

/* -- what becomes of them -- */

/* A walk along code from some place on. `need`: TR_FLAGS_* found so far. */
struct prospect {
    unsigned need;
    bool part; /* some were kept where others were written, */
    bool host; /* ... by what wants the others in the host's: not tr_flags_part() */
    bool done;
    uint16_t written, shown; /* registers so far, and before the flags may last be shown */
};

static void prospect_pass(struct prospect *p, uint8_t facts)
{
    enum effect effect = facts & FACT_EFFECT;
    unsigned in_host = p->need & TR_FLAGS_MEMORY ? TR_FLAGS_SAVED : TR_FLAGS_HOST;

    if (facts & FACT_SPOILS)
        p->need |= p->host ? in_host : TR_FLAGS_MEMORY;
    else if ((facts & FACT_SHOWS) && (p->host || p->need == TR_FLAGS_DEAD))
        p->need |= in_host;
    if (effect == EFFECT_READS)
        p->need |= in_host;
    if (facts & (FACT_SPOILS | FACT_SHOWS))
        p->shown = p->written;
    p->part |= effect == EFFECT_PART;
    p->host |= effect == EFFECT_PART && !(facts & FACT_PART);
    p->done = effect == EFFECT_WRITES || (p->need & TR_FLAGS_SAVED);
}

/* Code behind a direct jump, judged by its bytes. */
static unsigned bytes_look(const struct translation *tr, const uint8_t *bytes, size_t available,
                           uint16_t *written)
{
    struct prospect p = {0};
    struct x86_insn insn;

    *written = UINT16_MAX;
    for (unsigned i = 0; i < LOOK_AHEAD && !p.done; i++) {
        if (x86_decode(&insn, X86_CODE_64, bytes, available) != X86_DECODE_OK)
            break;
        prospect_pass(&p, facts_of(tr, &insn));
        if (soft_op_ends_block(&insn))
            break;
        p.written |= tr_registers_written(&insn);
        bytes += insn.length;
        available -= insn.length;
    }
    if (p.done)
        *written = p.shown;
    /* What was not seen may read them, but hardly does where they were spoilt. */
    return p.done || (p.need == TR_FLAGS_MEMORY && !p.part) ? p.need : TR_FLAGS_HOST;
}

static unsigned target_look(const struct translation *tr, int32_t target, uint16_t *written)
{
    const struct soft_op *last = &tr->block->ops[tr->block->count - 1];
    struct soft_range range = {(uint16_t)target, (uint16_t)(target + LOOK_BYTES)};
    const uint8_t *bytes;
    unsigned need;

    *written = UINT16_MAX;
    if (!tr_link_is_plain(tr, target)) /* C may take an event at the guard */
        return TR_FLAGS_MEMORY;
    if (range.to > GUEST_PAGE_SIZE)
        range.to = GUEST_PAGE_SIZE;
    bytes = soft_code_rely(tr->c, tr->block, range);
    need = bytes ? bytes_look(tr, bytes, (size_t)(range.to - range.from), written) : TR_FLAGS_HOST;
    if (need & (TR_FLAGS_HOST | TR_FLAGS_SAVED))
        return TR_FLAGS_HOST;
    if (tr->c->counted) /* any block may be left before it: see tr_flags_entry() */
        return TR_FLAGS_MEMORY;
    /* A jump backwards polls, and an event shows all flags. */
    if (need == TR_FLAGS_DEAD && target <= tr_page_offset(tr, last->offset))
        return TR_FLAGS_POLLED;
    return need;
}

static const struct looked *looked_at(struct translation *tr, int32_t target)
{
    struct looked *looked = &tr->looked[0];

    while (looked < tr->looked + tr->looked_count && looked->target != target)
        looked++;
    if (looked == tr->looked + 2)
        looked = &tr->looked[0];
    else if (looked < tr->looked + tr->looked_count)
        return looked;
    else
        tr->looked_count++;
    *looked = (struct looked){.target = target};
    looked->need = target_look(tr, target, &looked->written);
    return looked;
}

unsigned tr_flags_at(struct translation *tr, int32_t target)
{
    return looked_at(tr, target)->need;
}

/* Behind the block's last operation, where the flags are still the host's. */
static unsigned end_look(struct translation *tr)
{
    const struct soft_op *last = &tr->block->ops[tr->block->count - 1];
    int32_t target, next = tr_page_offset(tr, last->next);
    bool near = tr_branch_offset(tr, last, &target);
    unsigned need;

    switch (last->insn.op) {
    case X86_OP_CALL: /* polls, and passes them in memory */
        need = near ? tr_flags_at(tr, target) : TR_FLAGS_MEMORY;
        return need & TR_FLAGS_HOST     ? TR_FLAGS_SAVED
               : need & TR_FLAGS_MEMORY ? TR_FLAGS_MEMORY
                                        : TR_FLAGS_POLLED;
    case X86_OP_JMP:
        return near ? tr_flags_at(tr, target) : TR_FLAGS_MEMORY;
    case X86_OP_JCC:
        return near ? tr_flags_at(tr, target) | tr_flags_at(tr, next) : TR_FLAGS_MEMORY;
    default:
        return last->sets_rip ? TR_FLAGS_MEMORY : tr_flags_at(tr, next);
    }
}

/* Whether code is known to overwrite all flags where the block leads to. */
static bool end_overwrites(struct translation *tr)
{
    const struct soft_op *last = &tr->block->ops[tr->block->count - 1];
    int32_t target = tr_page_offset(tr, last->next);

    if (last->sets_rip && (last->insn.op != X86_OP_JMP || !tr_branch_offset(tr, last, &target)))
        return false;
    return looked_at(tr, target)->written != UINT16_MAX;
}

/* The same behind operation i, or in the block. */
static bool is_overwritten(struct translation *tr, unsigned i)
{
    while (++i < tr->block->count) {
        if ((facts_at(tr, i) & FACT_EFFECT) == EFFECT_WRITES)
            return true;
    }
    return end_overwrites(tr);
}

unsigned tr_flags_from(struct translation *tr, unsigned i)
{
    struct prospect p = {0};
    unsigned end;

    for (; i < tr->block->count && !p.done; i++)
        prospect_pass(&p, facts_at(tr, i));
    if (p.done)
        return p.need;
    end = end_look(tr);
    if (p.host || (p.part && !end_overwrites(tr)))
        end |= TR_FLAGS_HOST;
    if ((p.need & TR_FLAGS_MEMORY) && (end & TR_FLAGS_HOST))
        end = TR_FLAGS_SAVED;
    return p.need | end;
}

unsigned tr_flags_entry(struct translation *tr)
{
    unsigned need = tr_flags_from(tr, 0);

    if (need == TR_FLAGS_DEAD && !tr->c->counted)
        return TR_FLAGS_DEAD;
    return need & (TR_FLAGS_HOST | TR_FLAGS_SAVED) ? TR_FLAGS_HOST : TR_FLAGS_MEMORY;
}

/* -- recipes and records -- */

#define FROM_REGISTERS UINT32_C(0x40000000) /* in soft_vcpu.flags_site: a recipe */
#define PART_AT        4                    /* bytes of it that tell of the whole */

/* The registers that `insn` reads, if its flags depend on them alone. */
static bool inputs_find(const struct x86_insn *insn, uint16_t *out)
{
    struct emit_registers regs;

    if (insn->op > X86_OP_SHRD || insn->memory || insn->by_cl || effect_of(insn) != EFFECT_WRITES)
        return false;
    emit_registers_of(insn, NULL, &regs);
    *out = regs.read | regs.implicit_read;
    return true;
}

static bool is_same_register(const struct x86_insn *insn)
{
    return (insn->form == X86_FORM_RM_REG || insn->form == X86_FORM_REG_RM) &&
           insn->reg == insn->rm;
}

/* Whether the flags follow from registers after `insn`, and from which. */
static bool recipe_find(const struct x86_insn *insn, uint16_t *out)
{
    struct emit_registers regs;

    if (!inputs_find(insn, out))
        return false;
    switch (insn->op) {
    case X86_OP_CMP:
    case X86_OP_TEST:
    case X86_OP_AND: /* the same once more has the same result */
    case X86_OP_OR:
        return true;
    case X86_OP_SUB:
    case X86_OP_XOR:
        if (is_same_register(insn)) {
            *out = 0;
            return true;
        }
        return insn->operand_size >= 4;
    case X86_OP_ADD:
        return insn->operand_size >= 4 && !is_same_register(insn);
    default:
        emit_registers_of(insn, NULL, &regs);
        return !((regs.written | regs.implicit_written) & *out);
    }
}

uint16_t tr_registers_written(const struct x86_insn *insn)
{
    bool feature[X86_FEATURE_COUNT];
    struct x86_vector_insn vector;
    struct emit_registers regs;

    if (insn->op == X86_OP_VECTOR || insn->op == X86_OP_X87) {
        memset(feature, true, sizeof feature);
        if (!x86_vector_describe(insn, feature, &vector))
            return UINT16_MAX;
        emit_registers_of(insn, &vector, &regs);
    } else {
        emit_registers_of(insn, NULL, &regs);
    }
    return regs.written | regs.implicit_written;
}

/* Whether a recipe for operation i holds wherever its flags may be shown or read: `needed`, its
 * registers, are not written before. */
static bool recipe_holds(struct translation *tr, unsigned i, uint16_t needed)
{
    const struct soft_block *block = tr->block;
    uint16_t written = 0;

    while (++i < block->count) {
        uint8_t facts = facts_at(tr, i);
        enum effect effect = facts & FACT_EFFECT;

        if (((facts & (FACT_SPOILS | FACT_SHOWS)) || effect == EFFECT_READS) && (written & needed))
            return false;
        if (effect == EFFECT_WRITES)
            return true;
        written |= tr_registers_written(&block->ops[i].insn);
    }
    if (end_look(tr) & TR_FLAGS_MEMORY)
        return false;
    return !(end_look(tr) & TR_FLAGS_POLLED) || !(written & needed);
}

/* Whether code behind a jump to `target`, if it wants flags in memory, leaves these registers as
 * they are while it may show them. */
static bool target_keeps(struct translation *tr, int32_t target, uint16_t needed)
{
    const struct looked *looked = looked_at(tr, target);

    return !(looked->need & TR_FLAGS_MEMORY) || !(looked->written & needed);
}

/* Whether a recipe for operation i holds in what follows the block, too. */
static bool recipe_lasts(struct translation *tr, unsigned i, uint16_t needed)
{
    const struct soft_block *block = tr->block;
    const struct soft_op *last = &block->ops[block->count - 1];
    int32_t target, next = tr_page_offset(tr, last->next);

    while (++i < block->count) {
        if (tr_registers_written(&block->ops[i].insn) & needed)
            return false;
    }
    if (last->insn.op != X86_OP_JCC && last->insn.op != X86_OP_JMP)
        return !last->sets_rip && target_keeps(tr, next, needed);
    return tr_branch_offset(tr, last, &target) && target_keeps(tr, target, needed) &&
           (last->insn.op == X86_OP_JMP || target_keeps(tr, next, needed));
}

/* Whether the operation can be done once more, where it stands, for the sake of its flags alone:
 * one instruction instead of saving and restoring them. */
static bool is_repeatable(const struct x86_insn *insn, uint16_t *needed)
{
    const uint16_t displaced = 7u << 9;

    return (insn->op == X86_OP_CMP || insn->op == X86_OP_TEST) && inputs_find(insn, needed) &&
           !(*needed & displaced) && !(*needed & 1u << X86_RSP);
}

static bool ends_in_jcc(const struct translation *tr)
{
    return tr->block->ops[tr->block->count - 1].insn.op == X86_OP_JCC;
}

/* The number of a site from which flags follow. */
static uint32_t source_new(struct translation *tr, unsigned op)
{
    uint32_t number = tr_site_new(tr, op);
    struct site *site = &tr->t->sites[number];
    struct emit_registers regs;

    emit_registers_of(&tr->block->ops[op].insn, NULL, &regs);
    site->inputs = regs.read | regs.implicit_read;
    site->touched = site->inputs | regs.written | regs.implicit_written;
    return number + 1;
}

static void inputs_emit(struct translation *tr, uint16_t inputs, const struct emit_rename *rename,
                        int32_t at)
{
    for (unsigned n = 0; n < 16; n++) {
        if (!(inputs >> n & 1))
            continue;
        emit_mov_state_reg(&tr->e, at, rename->gpr[n]);
        at += (int32_t)sizeof(uint64_t);
    }
}

static void record_emit(struct translation *tr, unsigned i, const struct emit_rename *rename)
{
    uint16_t inputs = 0;

    (void)inputs_find(&tr->block->ops[i].insn, &inputs);
    inputs_emit(tr, inputs, rename, STATE(recorded[0]));
    emit_mov_state_imm64(&tr->e, STATE(flags_site), (int32_t)source_new(tr, i));
    tr->flags_memory = tr->flags_recorded = tr->flags_whole = true;
}

/* Behind the block nobody knows which operation it was. */
static void recipe_store(struct translation *tr, unsigned i)
{
    emit_mov_state_imm64(&tr->e, STATE(flags_site), (int32_t)(source_new(tr, i) | FROM_REGISTERS));
    tr->flags_memory = tr->flags_recorded = tr->flags_whole = true;
}

/* If there is a part already, both go to soft_vcpu.arith. Destroys the host's flags. */
static void part_settle(struct translation *tr)
{
    struct cold *cold;

    emit_cmp_state32_imm8(&tr->e, STATE(flags_site) + PART_AT, 0);
    cold = tr_cold_add(tr, emit_jcc_rel32(&tr->e, EMIT_IF_NE), COLD_PART);
    cold->back = tr->e.at;
}

/* Whether nobody but a fault wants the flags behind operation i. */
static bool is_for_faults(struct translation *tr, unsigned i)
{
    unsigned need = tr_flags_from(tr, i + 1);

    return need != TR_FLAGS_DEAD && !(need & (TR_FLAGS_HOST | TR_FLAGS_SAVED)) &&
           is_overwritten(tr, i);
}

bool tr_flags_part(struct translation *tr, unsigned i, const struct emit_rename *rename)
{
    struct emit_registers regs;
    uint16_t inputs;

    if (!(facts_at(tr, i) & FACT_PART) || !(tr->flags_memory || tr->flags_recipe != 0) ||
        (tr->flags_host && tr->flags_memory && !tr->flags_whole) || !is_for_faults(tr, i))
        return false;
    emit_registers_of(&tr->block->ops[i].insn, NULL, &regs);
    inputs = regs.read | regs.implicit_read;
    if (__builtin_popcount(inputs) > 2)
        return false;
    tr_flags_save(tr);
    tr->flags_recipe = 0;
    tr->flags_recorded = true;
    if (!tr->flags_whole)
        part_settle(tr);
    tr->flags_whole = false;
    inputs_emit(tr, inputs, rename, STATE(recorded_part[0]));
    emit_mov_state_imm32(&tr->e, STATE(flags_site) + PART_AT, source_new(tr, i));
    return true;
}

void tr_flags_part_cold(struct translation *tr, const struct cold *cold)
{
    emit_patch_rel32(emit_call_rel32(&tr->e), to_write(tr->t, tr->t->fixed.flags_load));
    emit_patch_rel32(emit_jmp_rel32(&tr->e), cold->back);
}

void tr_flags_made(struct translation *tr, unsigned i, const struct emit_rename *rename)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    unsigned need = tr_flags_from(tr, i + 1);
    uint16_t inputs, needed;

    tr->flags_memory = tr->flags_recorded = false;
    tr->flags_recipe = 0;
    if (!(need & (TR_FLAGS_MEMORY | TR_FLAGS_POLLED)))
        return;
    if (need & TR_FLAGS_SAVED) {
        const unsigned at_end = ends_in_jcc(tr) ? TR_FLAGS_SAVED : TR_FLAGS_SAVED | TR_FLAGS_HOST;

        if (is_repeatable(insn, &needed) && recipe_holds(tr, i, needed) && !(end_look(tr) & at_end))
            tr->flags_recipe = i + 1;
        return;
    }
    if (!recipe_find(insn, &needed))
        needed = UINT16_MAX;
    if (needed != UINT16_MAX && recipe_holds(tr, i, needed))
        tr->flags_recipe = i + 1;
    else if (needed != UINT16_MAX && recipe_lasts(tr, i, needed))
        recipe_store(tr, i);
    else if (inputs_find(insn, &inputs) && __builtin_popcount(inputs) <= 2)
        record_emit(tr, i, rename);
}

void tr_flags_cook(struct translation *tr, unsigned recipe)
{
    if (recipe != 0)
        emit_mov_state_imm64(&tr->e, STATE(flags_site),
                             (int32_t)(source_new(tr, recipe - 1) | FROM_REGISTERS));
}

/* What the first operand was before the operation. */
static uint64_t operand_before(const struct soft_vcpu *c, const struct x86_insn *insn)
{
    bool first = insn->form == X86_FORM_REG_RM;
    uint64_t result = c->gpr[first ? insn->reg : insn->rm];
    uint64_t other = insn->immediate;

    if (insn->form == X86_FORM_RM_REG)
        other = c->gpr[insn->reg];
    else if (first)
        other = c->gpr[insn->rm];
    if (insn->op == X86_OP_XOR)
        return result ^ other;
    return insn->op == X86_OP_ADD ? result - other : result + other;
}

/* The operation's inputs, from its record or as the recipe has it (NULL), to the registers. */
static void inputs_restore(struct soft_vcpu *c, const struct site *site,
                           const struct x86_insn *insn, const uint64_t *record)
{
    if (!record) {
        if ((insn->op == X86_OP_ADD || insn->op == X86_OP_SUB || insn->op == X86_OP_XOR) &&
            !is_same_register(insn))
            c->gpr[insn->form == X86_FORM_REG_RM ? insn->reg : insn->rm] = operand_before(c, insn);
        return;
    }
    for (unsigned left = site->inputs; left != 0; left &= left - 1)
        c->gpr[__builtin_ctz(left)] = *record++;
}

/* The operation, decoded `again` if its block's room for them went to others. */
static const struct soft_op *source_op(const struct soft_vcpu *c, const struct site *site,
                                       struct soft_op *again)
{
    const struct soft_block *block = site->block;

    if (soft_block_is_decoded(c, block))
        return &block->ops[site->op];
    /* As the first time: the bytes are the same. */
    (void)x86_decode(&again->insn, X86_CODE_64, block->raw + site->offset,
                     (size_t)(block->bytes - site->offset));
    again->run = soft_handler_for(&again->insn);
    return again;
}

/* Runs the operation of a site on its inputs for the sake of its flags. */
static void source_run(struct soft_vcpu *c, uint32_t number, const uint64_t *record)
{
    const struct site *site = &c->translator->sites[number - 1];
    struct soft_op again;
    const struct soft_op *op = source_op(c, site, &again);
    uint64_t kept[16];

    for (unsigned left = site->touched; left != 0; left &= left - 1)
        kept[__builtin_ctz(left)] = c->gpr[__builtin_ctz(left)];
    inputs_restore(c, site, &op->insn, record);
    op->run(c, op);
    for (unsigned left = site->touched; left != 0; left &= left - 1)
        c->gpr[__builtin_ctz(left)] = kept[__builtin_ctz(left)];
}

void soft_flags_settle(struct soft_vcpu *c)
{
    const uint32_t whole = (uint32_t)c->flags_site, part = (uint32_t)(c->flags_site >> 32);

    c->flags_site = 0;
    if (whole != 0)
        source_run(c, whole & ~FROM_REGISTERS, whole & FROM_REGISTERS ? NULL : c->recorded);
    if (part != 0)
        source_run(c, part, c->recorded_part);
}

/* -- moving them -- */

void tr_flags_save(struct translation *tr)
{
    struct emit *e = &tr->e;

    if (tr->flags_memory)
        return;
    if (tr->flags_recipe != 0) {
        tr_flags_cook(tr, tr->flags_recipe);
        tr->flags_memory = tr->flags_whole = true;
        return;
    }
    if (!tr->flags_host)
        return;
    emit_mov_reg_reg(e, HOST_R11, HOST_RAX);
    emit_lahf_seto(e);
    emit_mov_state_reg16(e, STATE(arith), HOST_RAX);
    emit_mov_state_imm64(e, STATE(flags_site), 0);
    emit_mov_reg_reg(e, HOST_RAX, HOST_R11);
    tr->flags_memory = tr->flags_whole = true;
    tr->flags_recorded = false;
}

/* The host's flags from the operation that made them. */
static bool recipe_repeat(struct translation *tr)
{
    struct emit_rename rename;
    uint16_t needed;

    if (tr->flags_memory || tr->flags_recipe == 0)
        return false;
    const struct x86_insn *insn = &tr->block->ops[tr->flags_recipe - 1].insn;
    if (!is_repeatable(insn, &needed))
        return false;
    for (unsigned n = 0; n < 16; n++)
        rename.gpr[n] = (uint8_t)tr_host_of(n);
    tr->flags_host = emit_insn(&tr->e, insn, NULL, &rename);
    return tr->flags_host;
}

void tr_flags_load(struct translation *tr)
{
    struct emit *e = &tr->e;

    if (tr->flags_host || recipe_repeat(tr))
        return;
    if (!tr->flags_memory)
        tr_flags_cook(tr, tr->flags_recipe);
    if (tr->flags_recorded || tr->flags_recipe != 0) {
        emit_patch_rel32(emit_call_rel32(e), to_write(tr->t, tr->t->fixed.flags_load));
    } else {
        emit_mov_state_reg(e, STATE(saved_rax), HOST_RAX);
        emit_mov_reg_state16(e, HOST_RAX, STATE(arith));
        emit_restore_flags(e);
        emit_mov_reg_state(e, HOST_RAX, STATE(saved_rax));
    }
    tr->flags_host = true;
}

/* The host's CF alone, which INC and DEC keep. */
void tr_carry_load(struct translation *tr)
{
    if (tr->flags_host)
        return;
    if (tr->flags_memory && !tr->flags_recorded && tr->flags_recipe == 0)
        emit_bt_state16(&tr->e, STATE(arith), 8); /* AH is its upper byte */
    else
        tr_flags_load(tr);
}

void tr_flags_store(struct translation *tr)
{
    if (tr->flags_memory && !tr->flags_recorded)
        return;
    tr->flags_memory = false;
    if (!tr->flags_host)
        tr_flags_load(tr);
    tr->flags_recipe = 0;
    tr_flags_save(tr);
}

void tr_flags_clobber(struct translation *tr)
{
    if (tr->flags_recipe == 0)
        tr_flags_save(tr);
    tr->flags_host = false;
}
