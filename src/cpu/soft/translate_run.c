/*
 * Running translated code: the code cache, links between blocks, and what C does at each exit.
 *
 * Threads: a vCPU's own. The cache is shared memory mapped twice, writable at one address and
 * executable at another (W^X); anonymous, since perf finds symbols of no other mapping. Translated
 * code and its exits: translate.c, translate_fixed.c.
 */
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/soft/observe.h"
#include "cpu/soft/paging.h"
#include "cpu/soft/translate_internal.h"

#define LINK_PATIENCE 128
#define ENTRY_BYTES   5 /* JMP rel32 */
#define JMP           0xe9
#define AWAY_BYTES    128
/* In soft_vcpu.exit_site, of no branch that was looked up: a dropped block was entered, maybe by a
 * link that knows no flags; neither. */
#define SITE_AWAY  UINT32_MAX
#define SITE_NONE  (UINT32_MAX - 1)
#define LARGE_PAGE ((size_t)2 << 20)
#ifndef MADV_COLLAPSE /* Linux 6.1; headers may be older */
#define MADV_COLLAPSE 25
#endif

/* -- the cache -- */

/* `bytes` of address space for a mapping that begins a large page; the rest stays reserved. */
static uint8_t *cache_reserve(uint8_t **reserved, size_t bytes)
{
    *reserved = mmap(NULL, bytes + LARGE_PAGE, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*reserved == MAP_FAILED) {
        *reserved = NULL;
        return NULL;
    }
    return *reserved + (-(uintptr_t)*reserved & (LARGE_PAGE - 1));
}

static int cache_map(struct soft_translator *t)
{
    t->write = cache_reserve(&t->reserved[0], t->bytes);
    t->execute = cache_reserve(&t->reserved[1], t->bytes);
    if (!t->write || !t->execute ||
        mmap(t->write, t->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1,
             0) == MAP_FAILED ||
        mremap(t->write, 0, t->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, t->execute) == MAP_FAILED ||
        mprotect(t->execute, t->bytes, PROT_READ | PROT_EXEC) != 0)
        return -errno;
    return 0;
}

static void cache_unmap(struct soft_translator *t)
{
    for (unsigned view = 0; view < 2; view++) {
        if (t->reserved[view])
            munmap(t->reserved[view], t->bytes + LARGE_PAGE);
    }
}

void soft_translator_join(struct soft_translator *t)
{
    size_t kept = t->used > t->held[0] ? t->used : t->held[0];

    if (t->joined > kept) /* the rest was given back */
        t->joined = kept & ~(LARGE_PAGE - 1);
    while (t->joined + LARGE_PAGE <= t->used) {
        if (madvise(t->write + t->joined, LARGE_PAGE, MADV_COLLAPSE) == 0)
            (void)madvise(t->execute + t->joined, LARGE_PAGE, MADV_COLLAPSE);
        t->joined += LARGE_PAGE;
    }
}

/* All below the frames is unused but for leaves; a guard page ends it. Frames over the base match
 * no return, so that none need ask whether there is a frame. */
static int stack_map(struct soft_vcpu *c, struct soft_translator *t)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

    t->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (t->stack == MAP_FAILED || mprotect(t->stack, STACK_GUARD, PROT_NONE) != 0)
        return -ENOMEM;
    c->return_floor = (uint64_t)(uintptr_t)t->stack + STACK_GUARD + STACK_LEAVES + FRAME_BYTES;
    atomic_init(&c->return_limit, c->return_floor);
    /* Functions begin 8 bytes off 16, and so does all translated code. */
    c->return_base =
        (uint64_t)(uintptr_t)t->stack + STACK_BYTES - (size_t)FRAME_BYTES * FRAMES_UNWOUND - 8;
    c->return_stack = c->return_base;
    return 0;
}

int soft_translator_new(struct soft_vcpu *c)
{
    struct soft_translator *t = calloc(1, sizeof *t);
    int result;

    if (!t)
        return -ENOMEM;
    t->wide = (c->vm->cpuid->xcr0_allowed & X86_XCR0_AVX512) != 0;
    t->bytes = 2 * c->vm->code_bytes;
    t->links = soft_cache_map(c->vm->code_bytes);
    t->sites = soft_cache_map(c->vm->code_bytes);
    t->paces = soft_cache_map(c->vm->code_bytes);
    t->vcpu = c;
    result = t->links && t->sites && t->paces ? cache_map(t) : -ENOMEM;
    if (result == 0)
        result = stack_map(c, t);
    if (result == 0 && !soft_fixed_emit(t, c))
        result = -ENOSPC;
    c->translator = t;
    if (result != 0) {
        soft_translator_free(c);
        return result;
    }
    c->vector_ready = t->fixed.vector_load;
    c->x87_ready = t->fixed.x87_load;
    c->strip_patience = SOFT_PACE_MISSES;
    return 0;
}

static void part_unmap(const struct soft_vcpu *c, void *part)
{
    if (part)
        munmap(part, c->vm->code_bytes);
}

void soft_translator_free(struct soft_vcpu *c)
{
    struct soft_translator *t = c->translator;

    if (!t)
        return;
    cache_unmap(t);
    if (t->stack && t->stack != MAP_FAILED)
        munmap(t->stack, STACK_BYTES);
    part_unmap(c, t->links);
    part_unmap(c, t->sites);
    part_unmap(c, t->paces);
    free(t);
    c->translator = NULL;
}

unsigned soft_translator_parts(const struct soft_vcpu *c,
                               struct soft_part parts[SOFT_TRANSLATOR_PARTS])
{
    struct soft_translator *t = c->translator;
    size_t own, cold, paces;

    if (!t)
        return 0;
    /* Code in the making, and a strip's pace, are not counted yet. */
    own = t->used + TR_CODE_ROOM;
    cold = t->cold_used - t->cold_from + TR_CODE_ROOM;
    parts[0] = (struct soft_part){t->write, own, &t->held[0]};
    parts[1] = (struct soft_part){t->write + t->cold_from, cold, &t->held[1]};
    parts[2] =
        (struct soft_part){(uint8_t *)t->links, t->link_count * sizeof *t->links, &t->held[2]};
    parts[3] =
        (struct soft_part){(uint8_t *)t->sites, t->site_count * sizeof *t->sites, &t->held[3]};
    paces = (t->pace_count + 1) * sizeof *t->paces;
    parts[4] = (struct soft_part){(uint8_t *)t->paces, paces, &t->held[4]};
    return SOFT_TRANSLATOR_PARTS;
}

/* -- links -- */

static void link_remove(struct soft_link *link)
{
    if (!link->previous)
        return;
    *link->previous = link->next;
    if (link->next)
        link->next->previous = link->previous;
    link->previous = NULL;
}

/* Of the two entries the one that is the body itself: the other lies out of line. */
static const uint8_t *body_of(const struct soft_block *block)
{
    const uint8_t *code = block->code, *code_flags = block->code_flags;

    return code < code_flags ? code : code_flags;
}

/* A jump over nothing but NOPs becomes one, which takes less time. */
static void link_aim(const struct soft_link *link, const uint8_t *target)
{
    static const uint8_t nop[] = {0x0f, 0x1f, 0x44, 0, 0};
    uint8_t *opcode = link->place - 1;

    if (link->behind_at != 0 && target == link->place + link->behind_at) {
        memcpy(opcode, nop, sizeof nop);
        return;
    }
    if (link->behind_at != 0)
        *opcode = JMP;
    emit_patch_rel32(link->place, target);
}

static void link_patch(struct soft_translator *t, struct soft_link *link, struct soft_block *target)
{
    const uint8_t *to = link->alone             ? target->code_alone
                        : link->flags_in_memory ? target->code_flags
                                                : target->code;

    if (link->flags_anywhere)
        to = body_of(target);
    link->behind = to == body_of(target) && target->units_bytes != 0 && !target->came_back &&
                   (target->units & ~link->units) == 0;
    if (link->behind)
        to += target->units_bytes;
    link_remove(link);
    link_aim(link, to_write(t, to));
    link->next = target->incoming;
    link->previous = &target->incoming;
    if (link->next)
        link->next->previous = &link->next;
    target->incoming = link;
}

void soft_link_behind(struct soft_translator *t, struct soft_link *link, struct soft_block *target)
{
    link->behind_at = (uint8_t)(to_write(t, body_of(target)) - link->place);
    link_patch(t, link, target);
}

/*
 * A link to another page, or of an indirect branch: its code compares rip + salt with the key and
 * adds nothing that depends on who patched it. So whatever brought C here, the pair of this key and
 * this code is right for as long as the lookup table's would be: a change of the address space or
 * the mode changes the salt, a change of the bytes drops the block and its incoming links with it.
 */
static void link_patch_guarded(struct soft_vcpu *c, struct soft_link *link,
                               struct soft_block *target)
{
    bool global = soft_code_is_global(c, target);
    uint64_t key = c->rip + (global ? c->salt_global : c->salt) - (uint64_t)link->less;
    uint64_t page = c->rip & ~UINT64_C(0xfff);
    int32_t salt = global ? STATE(salt_global) : STATE(salt);

    /* A direct branch sets code_page by its own distance from the page's beginning. */
    if (!link->from->valid || (!link->indirect && (c->rip ^ (uint64_t)link->target) & 0xfff))
        return;
    if (link->page_at != 0) {
        key = -key;
        memcpy(link->key + link->page_at, &page, sizeof page);
    }
    memcpy(link->key, &key, sizeof key);
    memcpy(link->salt, &salt, sizeof salt);
    emit_patch_rel32(link->failed,
                     to_write(c->translator, c->translator->fixed.missed[link->flags_in_memory]));
    link_patch(c->translator, link, target);
    soft_count(&c->counters.linked);
}

static void link_undo(struct soft_link *link)
{
    link_aim(link, link->unlinked);
    link_remove(link);
}

static uint8_t *entry_of(const struct soft_translator *t, const struct soft_block *block,
                         unsigned flags)
{
    return to_write(t, flags ? block->code_flags : block->code);
}

/* Code of dropped blocks stays, and so do their links, but for those in what is put over their
 * entries. */
static void entry_links_undo(struct soft_translator *t, const struct soft_block *block)
{
    for (uint32_t i = 0; i < block->link_count; i++) {
        struct soft_link *link = &t->links[block->link_first + i];

        for (unsigned flags = 0; flags < 2; flags++) {
            const uint8_t *at = entry_of(t, block, flags);

            if (link->place + 4 > at && link->place - 1 < at + ENTRY_BYTES)
                link_undo(link);
        }
    }
}

/* Ways to C from the block's entries, which set the rip as a lookup would; false: there is no room.
 */
static bool away_emit(struct soft_vcpu *c, struct soft_block *block)
{
    struct soft_translator *t = c->translator;
    int32_t offset = (int32_t)((uintptr_t)block->host & 0xfff);
    struct emit e = {.at = t->write + t->cold_used};

    if (block->away[0])
        return true;
    if (!soft_cache_has_room(c, AWAY_BYTES) || t->cold_used + AWAY_BYTES > t->bytes)
        return false;
    e.end = e.at + AWAY_BYTES;
    for (unsigned flags = 0; flags < 2; flags++) {
        block->away[flags] = e.at;
        emit_mov_reg_state(&e, HOST_R10, STATE(code_page));
        emit_lea(&e, HOST_R10, HOST_R10, HOST_NONE, 0, offset);
        emit_mov_state_imm32(&e, STATE(exit_site), SITE_AWAY);
        emit_patch_rel32(emit_jmp_rel32(&e), to_write(t, t->fixed.exit[EXIT_RIP][flags]));
    }
    t->cold_used = (size_t)(e.at - t->write);
    return true;
}

/* Those that lead to no entry: there the code stays as it is. */
static void links_inner_undo(struct soft_block *block)
{
    for (struct soft_link *link = block->incoming, *next; link; link = next) {
        next = link->next;
        if (link->alone || link->behind)
            link_undo(link);
    }
}

void soft_translation_drop(struct soft_vcpu *c, struct soft_block *block)
{
    struct soft_translator *t = c->translator;
    bool links_stay;

    if (!block->code) {
        soft_translation_forget(block);
        return;
    }
    links_stay = block->came_back && away_emit(c, block);
    if (links_stay)
        links_inner_undo(block);
    else
        soft_translation_forget(block);
    entry_links_undo(t, block);
    for (unsigned flags = 0; flags < 2; flags++)
        memcpy(block->entry[flags], entry_of(t, block, flags), ENTRY_BYTES);
    /* Lookups may lead here, too; R10 holds the rip that was looked up. */
    for (unsigned flags = 0; flags < 2; flags++) {
        uint8_t *at = entry_of(t, block, flags);
        struct emit e = {.at = at, .end = at + ENTRY_BYTES};

        emit_patch_rel32(emit_jmp_rel32(&e), links_stay
                                                 ? block->away[flags]
                                                 : to_write(t, t->fixed.exit[EXIT_RIP][flags]));
    }
}

void soft_translation_forget(struct soft_block *block)
{
    while (block->incoming)
        link_undo(block->incoming);
}

void soft_translation_revive(struct soft_vcpu *c, struct soft_block *block)
{
    block->came_back = true;
    for (unsigned flags = 0; block->code && flags < 2; flags++)
        memcpy(entry_of(c->translator, block, flags), block->entry[flags], ENTRY_BYTES);
}

void soft_translator_clear(struct soft_vcpu *c)
{
    struct soft_translator *t = c->translator;

    if (!t)
        return;
    soft_observe_clear(c);
    t->used = t->fixed_bytes;
    t->cold_used = t->cold_from;
    t->flushes++;
    t->tail = NULL;
    t->link_count = 0;
    t->site_count = 0;
    t->pace_count = 0;
    memset(c->lookup, 0, sizeof c->lookup);
    c->return_stack = c->return_base;
}

/* -- running -- */

static void lookup_fill(struct soft_vcpu *c, const struct soft_block *block)
{
    uint64_t key = c->rip + (soft_code_is_global(c, block) ? c->salt_global : c->salt);

    c->lookup[key & (SOFT_LOOKUPS - 1)] = (struct soft_lookup){.key = key,
                                                               .page = c->rip & ~UINT64_C(0xfff),
                                                               .code = block->code,
                                                               .code_flags = block->code_flags};
}

/* What a branch led to was found: its next time will be shorter. */
static void target_link(struct soft_vcpu *c, struct soft_block *block)
{
    const struct soft_translator *t = c->translator;

    c->link_patience = LINK_PATIENCE;
    lookup_fill(c, block);
    if (c->exit_site < t->site_count && t->sites[c->exit_site].link)
        link_patch_guarded(c, t->sites[c->exit_site].link, block);
}

bool soft_leaf_target(struct soft_vcpu *c)
{
    struct soft_block *block;

    soft_activity_set(&c->counters, SOFT_IN_DISPATCH);
    c->rip = c->exit_value;
    block = soft_code_find_known(c);
    soft_activity_set(&c->counters, SOFT_IN_TRANSLATED);
    if (!block || !block->code)
        return false;
    soft_count(&c->counters.leaf_targets);
    target_link(c, block);
    c->code_page = c->rip & ~UINT64_C(0xfff);
    c->found = block->code_flags;
    return true;
}

static const struct soft_op *site_op(struct soft_vcpu *c, const struct site *site)
{
    return &soft_block_ops(c, site->block)[site->op];
}

static void twin_run(struct soft_vcpu *c, const struct site *site)
{
    const struct soft_block *block = site->block;
    const struct soft_op *op = site_op(c, site);

    soft_activity_set(&c->counters, SOFT_IN_TWIN);
    c->block_rip = c->code_page + ((uintptr_t)block->host & 0xfff);
    c->op = op;
    c->op_first = op;
    c->op_end = op + 1;
    c->partial = false;
    /* A counted block has taken all its operations off the fuel at its entry. */
    c->fuel += c->counted ? block->count - site->op : 0;
    op->run(c, op);
    c->fuel--;
    if (!op->sets_rip)
        c->rip = c->block_rip + op->next;
}

static void site_count(struct soft_vcpu *c, const struct site *site)
{
    struct soft_counters *counters = &c->counters;
    const struct x86_insn *insn = &site_op(c, site)->insn;

    switch (site->reason) {
    case SITE_TLB:
        soft_count(&counters->exit_tlb);
        break;
    case SITE_DECLINED:
        soft_count(&counters->exit_declined);
        soft_count(&counters->declined[insn->op]);
        break;
    default:
        soft_count(&counters->exit_twin);
        soft_count_twin(counters, insn);
    }
}

/* A branch led to no address: its twin raises #GP, with RSP as it was before (CALL's pushes the
 * same once more). Where code ran on over the end of the address space there is nothing to undo:
 * the fetch at c->rip faults. */
static void branch_undo(struct soft_vcpu *c)
{
    const struct site *site = &c->translator->sites[c->exit_site];
    const struct soft_op *op = site_op(c, site);
    const struct x86_insn *insn = &op->insn;

    if (!op->sets_rip)
        return;
    if (insn->op == X86_OP_RET)
        c->gpr[X86_RSP] -= 8 + insn->immediate;
    if (insn->op == X86_OP_CALL || insn->op == X86_OP_CALL_IND)
        c->gpr[X86_RSP] += 8;
    twin_run(c, site);
}

/* The block at c->rip, translated, or NULL: the run loop goes on. `mind` has the requests for which
 * it should. */
static struct soft_block *next_block_minding(struct soft_vcpu *c, unsigned mind)
{
    struct soft_block *block;

    soft_activity_set(&c->counters, SOFT_IN_DISPATCH);
    c->op_first = c->op; /* a leaf's, perhaps, whose block has counted it */
    if ((atomic_load_explicit(&c->request, memory_order_relaxed) & mind) != 0 || c->halted ||
        c->step || c->shadow)
        return NULL;
    c->block_rip = c->rip;
    c->op = &c->idle_op;
    c->op_first = c->op;
    block = soft_code_find(c);
    if (c->counted && block->count > c->fuel)
        return NULL;
    return soft_translate_block(c, block) ? block : NULL;
}

static struct soft_block *next_block(struct soft_vcpu *c)
{
    return next_block_minding(c, UINT_MAX);
}

static const uint8_t *block_entry(struct soft_vcpu *c, const struct soft_block *block)
{
    c->code_page = c->rip & ~UINT64_C(0xfff);
    if (c->vector_changed)
        soft_vectors_judge(c);
    soft_count(&c->counters.entries);
    soft_activity_set(&c->counters, SOFT_IN_TRANSLATED);
    return block->code_flags;
}

static bool same_page(const struct soft_block *a, const struct soft_block *b)
{
    return (((uintptr_t)a->host ^ (uintptr_t)b->host) & ~(uintptr_t)0xfff) == 0;
}

/* Translated code has come to C. */
static void exit_begin(struct soft_vcpu *c)
{
    if (c->flags_site != 0)
        soft_flags_settle(c);
}

bool soft_exit_twin(struct soft_vcpu *c)
{
    const struct soft_translator *t = c->translator;
    const struct site *site = &t->sites[c->exit_value];
    uint64_t flushes = t->flushes;

    exit_begin(c);
    site_count(c, site);
    twin_run(c, site);
    soft_activity_set(&c->counters, SOFT_IN_TRANSLATED);
    if (t->flushes != flushes || !site->block->valid || soft_code_mode(c) != site->block->mode)
        return false;
    if (c->vector_changed)
        soft_vectors_judge(c);
    c->fuel -= c->counted ? site->block->count - site->op - 1 : 0;
    soft_count(&c->counters.entries);
    return true;
}

const uint8_t *soft_exit_op(struct soft_vcpu *c)
{
    const struct site *site = &c->translator->sites[c->exit_value];
    struct soft_block *block;

    exit_begin(c);
    site_count(c, site);
    twin_run(c, site);
    block = next_block(c);
    return block ? block_entry(c, block) : NULL;
}

const uint8_t *soft_exit_link(struct soft_vcpu *c)
{
    struct soft_translator *t = c->translator;
    struct soft_link *link = &t->links[c->exit_value];
    uint64_t flushes = t->flushes;
    struct soft_block *block;
    const uint8_t *at;

    exit_begin(c);
    soft_count(&c->counters.exit_link);
    c->rip = c->code_page + (uint64_t)link->target;
    /* A block that goes on in its other code may have done nothing yet, and begin again with this
     * if it came back: an interrupt or NMI that waits, masked, must not keep it from going on. */
    block = next_block_minding(c, link->alone ? ~(SOFT_REQUEST_INTERRUPT | SOFT_REQUEST_NMI)
                                              : UINT_MAX);
    if (!block || (link->alone && !soft_translate_alone(c, block))) {
        c->flags_dead = link->flags_dead;
        return NULL;
    }
    /* The page may have been exchanged since the jump's block was entered, and a second page may be
     * at any time: such a block has guarded links alone. */
    if (t->flushes == flushes && link->from->valid && same_page(link->from, block) &&
        !block->second) {
        link_patch(t, link, block);
        soft_count(&c->counters.linked);
    }
    at = block_entry(c, block);
    return link->alone ? block->code_alone : at;
}

const uint8_t *soft_exit_rip(struct soft_vcpu *c)
{
    struct soft_translator *t = c->translator;
    uint64_t flushes = t->flushes;
    bool away = c->exit_site == SITE_AWAY;
    struct soft_block *block;

    if (away) /* polls leave it as it was */
        c->exit_site = SITE_NONE;
    exit_begin(c);
    soft_count(atomic_load_explicit(&c->request, memory_order_relaxed) != 0
                   ? &c->counters.exit_poll
                   : &c->counters.exit_lookup);
    c->rip = c->exit_value;
    if (!soft_is_canonical(c->rip)) {
        branch_undo(c);
        return NULL;
    }
    block = next_block(c);
    if (!block) {
        c->flags_dead = away && !c->counted; /* there all are kept */
        return NULL;
    }
    if (t->flushes == flushes)
        target_link(c, block);
    else
        lookup_fill(c, block);
    return block_entry(c, block);
}

void soft_translated_run(struct soft_vcpu *c, struct soft_block *block)
{
    lookup_fill(c, block);
    c->translator->fixed.enter(c, block_entry(c, block));
}
