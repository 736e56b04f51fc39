/*
 * Running translated code: the code cache, links between blocks, and what C does at each exit.
 *
 * Threads: a vCPU's own. The cache is one memfd mapped twice, writable at one address and
 * executable at another (W^X). Translated code and its exits: translate.c, translate_fixed.c.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/soft/paging.h"
#include "cpu/soft/translate_internal.h"

/* -- the cache -- */

static int cache_map(struct soft_translator *t)
{
    int fd = memfd_create("freehold-code", MFD_CLOEXEC);
    int result = -ENOMEM;

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)t->bytes) == 0) {
        t->write = mmap(NULL, t->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        t->execute = mmap(NULL, t->bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
        if (t->write != MAP_FAILED && t->execute != MAP_FAILED)
            result = 0;
    }
    close(fd);
    return result;
}

int soft_translator_new(struct soft_vcpu *c)
{
    struct soft_translator *t = calloc(1, sizeof *t);
    int result;

    if (!t)
        return -ENOMEM;
    t->wide = (c->vm->cpuid->xcr0_allowed & X86_XCR0_AVX512) != 0;
    /* Blocks differ, but on the average need less of these than of code. */
    t->bytes = c->vm->code_bytes;
    t->links_max = (uint32_t)(t->bytes / 160);
    t->sites_max = (uint32_t)(t->bytes / 64);
    t->links = malloc(t->links_max * sizeof *t->links);
    t->sites = malloc(t->sites_max * sizeof *t->sites);
    result = t->links && t->sites ? cache_map(t) : -ENOMEM;
    if (result == 0 && !soft_fixed_emit(t, c))
        result = -ENOSPC;
    c->translator = t;
    if (result != 0)
        soft_translator_free(c);
    else
        c->vector_ready = t->fixed.vector_load;
    return result;
}

void soft_translator_free(struct soft_vcpu *c)
{
    struct soft_translator *t = c->translator;

    if (!t)
        return;
    if (t->write && t->write != MAP_FAILED)
        munmap(t->write, t->bytes);
    if (t->execute && t->execute != MAP_FAILED)
        munmap(t->execute, t->bytes);
    free(t->links);
    free(t->sites);
    free(t);
    c->translator = NULL;
}

/* -- links -- */

static void link_patch(struct soft_translator *t, struct soft_link *link, struct soft_block *target)
{
    const uint8_t *to = link->flags_in_memory ? target->code_flags : target->code;

    emit_patch_rel32(link->place, to_write(t, to));
    link->next = target->incoming;
    target->incoming = link;
}

void soft_translation_drop(struct soft_vcpu *c, struct soft_block *block)
{
    struct soft_translator *t = c->translator;

    /* Code of dropped blocks is left alone: its entry has become a way out, see below. */
    for (struct soft_link *link = block->incoming; link; link = link->next) {
        if (link->from->valid)
            emit_patch_rel32(link->place, link->unlinked);
    }
    block->incoming = NULL;
    if (!block->code)
        return;
    /* Lookups may still lead here; R10 holds the rip that was looked up. */
    for (unsigned flags = 0; flags < 2; flags++) {
        uint8_t *at = to_write(t, flags ? block->code_flags : block->code);
        struct emit e = {.at = at, .end = at + 5};

        emit_patch_rel32(emit_jmp_rel32(&e), to_write(t, t->fixed.exit[EXIT_RIP][flags]));
    }
    block->code = NULL;
}

void soft_translator_clear(struct soft_vcpu *c)
{
    struct soft_translator *t = c->translator;

    if (!t)
        return;
    t->used = t->fixed_bytes;
    t->flushes++;
    t->link_count = 0;
    t->site_count = 0;
    memset(c->lookup, 0, sizeof c->lookup);
}

/* -- running -- */

static void lookup_fill(struct soft_vcpu *c, const struct soft_block *block)
{
    struct soft_lookup *entry = &c->lookup[c->rip & (SOFT_LOOKUPS - 1)];

    entry->key = c->rip + (soft_code_is_global(c) ? c->salt_global : c->salt);
    entry->page = c->rip & ~UINT64_C(0xfff);
    entry->code = block->code;
    entry->code_flags = block->code_flags;
}

/* Runs the interpreted twin; false: the block is over. */
static bool twin_run(struct soft_vcpu *c, const struct site *site, const uint8_t **at)
{
    struct soft_block *block = site->block;
    const struct soft_op *op = &block->ops[site->op];

    soft_activity_set(&c->counters, SOFT_IN_TWIN);
    c->block_rip = c->code_page + ((uintptr_t)block->host & 0xfff);
    c->op = op;
    c->op_end = op + 1;
    op->run(c, op);
    if (!op->sets_rip)
        c->rip = c->block_rip + op->next;
    *at = block->valid ? block->resume[site->op] : NULL;
    return *at && !soft_op_ends_block(&op->insn);
}

static void site_count(struct soft_counters *counters, const struct site *site)
{
    const struct x86_insn *insn = &site->block->ops[site->op].insn;

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

/* A branch led to no address: its twin raises #GP, with RSP as it was before. Where code ran on
 * over the end of the address space there is nothing to undo: the fetch at c->rip faults. */
static void branch_undo(struct soft_vcpu *c)
{
    const struct site *site = &c->translator->sites[c->exit_site];
    const struct x86_insn *insn = &site->block->ops[site->op].insn;
    const uint8_t *at;

    if (!site->block->ops[site->op].sets_rip)
        return;
    if (insn->op == X86_OP_RET)
        c->gpr[X86_RSP] -= 8 + insn->immediate;
    if (insn->op == X86_OP_CALL || insn->op == X86_OP_CALL_IND)
        c->gpr[X86_RSP] += 8;
    (void)twin_run(c, site, &at);
}

/* The block at c->rip, translated, or NULL: the run loop goes on. */
static struct soft_block *next_block(struct soft_vcpu *c)
{
    struct soft_block *block;

    if (atomic_load_explicit(&c->request, memory_order_relaxed) != 0)
        return NULL;
    c->block_rip = c->rip;
    c->op = &c->idle_op;
    block = soft_code_find(c);
    return soft_translate_block(c, block) ? block : NULL;
}

static bool same_page(const struct soft_block *a, const struct soft_block *b)
{
    return (((uintptr_t)a->host ^ (uintptr_t)b->host) & ~(uintptr_t)0xfff) == 0;
}

void soft_translated_run(struct soft_vcpu *c, struct soft_block *block)
{
    struct soft_translator *t = c->translator;
    struct soft_counters *counters = &c->counters;
    const uint8_t *at = block->code;
    struct soft_link *link;
    uint64_t flushes;

    lookup_fill(c, block);
    c->code_page = c->rip & ~UINT64_C(0xfff);
    for (;;) {
        soft_count(&counters->entries);
        soft_activity_set(counters, SOFT_IN_TRANSLATED);
        uint32_t kind = t->fixed.enter(c, at);
        soft_activity_set(counters, SOFT_IN_DISPATCH);
        switch (kind) {
        case EXIT_OP:
            site_count(counters, &t->sites[c->exit_value]);
            if (!twin_run(c, &t->sites[c->exit_value], &at))
                return;
            continue;
        case EXIT_LINK:
            soft_count(&counters->exit_link);
            link = &t->links[c->exit_value];
            flushes = t->flushes;
            c->rip = c->code_page + link->target;
            block = next_block(c);
            if (!block)
                return;
            /* The page may have been exchanged since the jump's block was entered. */
            if (t->flushes == flushes && same_page(link->from, block)) {
                link_patch(t, link, block);
                soft_count(&counters->linked);
            }
            break;
        default:
            soft_count(atomic_load_explicit(&c->request, memory_order_relaxed) != 0
                           ? &counters->exit_poll
                           : &counters->exit_lookup);
            c->rip = c->exit_value;
            if (!soft_is_canonical(c->rip)) {
                /* code_page is still the branch's own. */
                branch_undo(c);
                return;
            }
            block = next_block(c);
            if (!block)
                return;
            lookup_fill(c, block);
            c->code_page = c->rip & ~UINT64_C(0xfff);
        }
        at = block->code;
    }
}
