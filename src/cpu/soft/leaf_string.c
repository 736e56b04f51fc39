/*
 * String instructions of 64-bit code by the host's own, page by page: a leaf of translated code
 * (leaf.h), and what the interpreter (string.c) does at once where it can.
 *
 * Each part is what lies in one page at either end, done by the host's string instruction, so that
 * overlaps and the direction come out as on hardware; then RCX, RSI and RDI are committed. What
 * remains when a page has no TLB entry that allows the access is left to the interpreter.
 * Threads: a vCPU's own. Trusts nothing of the guest.
 */
#include "cpu/soft/leaf.h"

/* Elements that lie in one page of each operand, and where. */
struct part {
    uint8_t *from, *to;
    uint64_t count;
    uint16_t arith; /* CMPS, SCAS: flags of the last comparison */
};

static bool reads_source(const struct x86_insn *insn)
{
    return insn->op == X86_OP_MOVS || insn->op == X86_OP_CMPS || insn->op == X86_OP_LODS;
}

static bool uses_destination(const struct x86_insn *insn)
{
    return insn->op != X86_OP_LODS;
}

static bool compares(const struct x86_insn *insn)
{
    return insn->op == X86_OP_CMPS || insn->op == X86_OP_SCAS;
}

static bool repeats(const struct x86_insn *insn)
{
    return insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE);
}

/* A store beside code: only up to the next code, and backwards not at all. */
static void part_shorten(struct soft_vcpu *c, unsigned size, uint64_t linear, struct part *part)
{
    if (c->rflags & X86_RFLAGS_DF)
        part->count = 1;
    else
        part->count = soft_leaf_apart(c, linear, (unsigned)part->count * size) / size;
}

/* Limits the part to the page at `linear` and gives its host address; NULL: none. */
static uint8_t *part_limit(struct soft_vcpu *c, const struct soft_op *op, uint64_t linear,
                           enum soft_access access, struct part *part)
{
    const struct soft_tlb_entry *entry =
        &c->tlb_now->entry[access][(linear >> 12) % SOFT_TLB_ENTRIES];
    unsigned size = op->insn.operand_size, offset = (unsigned)linear & (GUEST_PAGE_SIZE - 1);
    unsigned shift = (unsigned)__builtin_ctz(size);
    unsigned most = c->rflags & X86_RFLAGS_DF ? (offset >> shift) + 1
                                              : ((unsigned)GUEST_PAGE_SIZE - offset) >> shift;

    if (offset + size > GUEST_PAGE_SIZE)
        return NULL;
    if (part->count > most)
        part->count = most;
    if (entry->tag != linear - offset) {
        enum soft_fill fill = soft_leaf_fill(c, linear, access | size << 8);

        if (fill == SOFT_FILL_DIRECT) {
            part_shorten(c, size, linear, part);
            return (uint8_t *)(uintptr_t)c->exit_value;
        }
        if (fill != SOFT_FILL_AGAIN)
            return NULL;
    }
    return (uint8_t *)(uintptr_t)(entry->page + offset);
}

static bool part_find(struct soft_vcpu *c, const struct soft_op *op, struct part *part)
{
    const struct x86_insn *insn = &op->insn;
    uint64_t base = insn->segment >= X86_FS ? c->seg[insn->segment].base : 0;

    part->from = part->to = NULL;
    if (reads_source(insn))
        part->from = part_limit(c, op, c->gpr[X86_RSI] + base, SOFT_READ, part);
    if (uses_destination(insn))
        part->to =
            part_limit(c, op, c->gpr[X86_RDI], compares(insn) ? SOFT_READ : SOFT_WRITE, part);
    return (part->from || !reads_source(insn)) && (part->to || !uses_destination(insn));
}

/* One host instruction, in the guest's direction and element size. */
#define BY_SIZE(size, mnemonic, tail, ...)                                                         \
    switch (size) {                                                                                \
    case 1:                                                                                        \
        __asm__ volatile(mnemonic "b\n\t" tail __VA_ARGS__);                                       \
        break;                                                                                     \
    case 2:                                                                                        \
        __asm__ volatile(mnemonic "w\n\t" tail __VA_ARGS__);                                       \
        break;                                                                                     \
    case 4:                                                                                        \
        __asm__ volatile(mnemonic "l\n\t" tail __VA_ARGS__);                                       \
        break;                                                                                     \
    default:                                                                                       \
        __asm__ volatile(mnemonic "q\n\t" tail __VA_ARGS__);                                       \
    }

#define MOVING                                                                                     \
    : "+a"(*rax), "+S"(part->from), "+D"(part->to), "+c"(left) : : "memory", "cc"

static void part_move(const struct x86_insn *insn, struct part *part, uint64_t *rax)
{
    uint64_t left = part->count;

    if (insn->op == X86_OP_MOVS)
        BY_SIZE(insn->operand_size, "rep movs", "", MOVING)
    else if (insn->op == X86_OP_STOS)
        BY_SIZE(insn->operand_size, "rep stos", "", MOVING)
    else
        BY_SIZE(insn->operand_size, "rep lods", "", MOVING)
}

static void part_compare(const struct x86_insn *insn, struct part *part, uint64_t rax)
{
    uint64_t left = part->count;
    bool until_unequal = !(insn->prefixes & X86_PREFIX_REPNE);

#define COMPARING                                                                                  \
    : "+a"(rax), "+S"(part->from), "+D"(part->to), "+c"(left) : : "memory", "cc"
    if (insn->op == X86_OP_CMPS && until_unequal)
        BY_SIZE(insn->operand_size, "repe cmps", "lahf\n\tseto %%al", COMPARING)
    else if (insn->op == X86_OP_CMPS)
        BY_SIZE(insn->operand_size, "repne cmps", "lahf\n\tseto %%al", COMPARING)
    else if (until_unequal)
        BY_SIZE(insn->operand_size, "repe scas", "lahf\n\tseto %%al", COMPARING)
    else
        BY_SIZE(insn->operand_size, "repne scas", "lahf\n\tseto %%al", COMPARING)
    part->arith = (uint16_t)rax;
    part->count -= left;
}

static void part_run(struct soft_vcpu *c, const struct x86_insn *insn, struct part *part)
{
    bool down = (c->rflags & X86_RFLAGS_DF) != 0;

    if (down)
        __asm__ volatile("std" : : : "memory", "cc");
    if (compares(insn))
        part_compare(insn, part, c->gpr[X86_RAX]);
    else
        part_move(insn, part, &c->gpr[X86_RAX]);
    if (down)
        __asm__ volatile("cld" : : : "memory", "cc");
}

static void part_commit(struct soft_vcpu *c, const struct x86_insn *insn, const struct part *part)
{
    uint64_t bytes = part->count * insn->operand_size;

    if (c->rflags & X86_RFLAGS_DF)
        bytes = -bytes;
    if (reads_source(insn))
        c->gpr[X86_RSI] += bytes;
    if (uses_destination(insn))
        c->gpr[X86_RDI] += bytes;
    if (repeats(insn))
        c->gpr[X86_RCX] -= part->count;
}

/* Whether the comparison that ended the part ends the instruction. */
static bool condition_ends(const struct x86_insn *insn, const struct part *part)
{
    bool zero = (part->arith & 0x4000) != 0;

    return compares(insn) && (insn->prefixes & X86_PREFIX_REP ? !zero : zero);
}

bool soft_leaf_string(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    struct part part;

    /* An access of this iteration is answered by the log; each store is to be noted. */
    if (c->io_done != 0 || c->trail)
        return false;
    if (repeats(insn) && c->gpr[X86_RCX] == 0)
        return true;
    do {
        part.count = repeats(insn) ? c->gpr[X86_RCX] : 1;
        if (!part_find(c, op, &part))
            return false;
        part_run(c, insn, &part);
        part_commit(c, insn, &part);
        if (!repeats(insn) || condition_ends(insn, &part) || c->gpr[X86_RCX] == 0) {
            /* Only now: a fault before it restores the flags (SDM vol. 2, REP). */
            if (compares(insn))
                c->arith = part.arith;
            return true;
        }
    } while (atomic_load_explicit(&c->request, memory_order_relaxed) == 0);
    return false;
}
