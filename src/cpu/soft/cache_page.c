/*
 * Which blocks lie on a page, on which of its bytes they depend, and how a change of these drops
 * them.
 *
 * Each page with blocks has their list and, by piece, how many ranges that they depend on lie
 * there, so that a store between them drops nothing and looks at no block. Who tells us of stores:
 * code.c.
 *
 * Threads: a vCPU's own, under code.c's lock where bytes of the guest's are concerned. Input: which
 * addresses a guest stores to, and how often.
 */
#include "cpu/soft/cache_internal.h"
#include "cpu/soft/translate.h"

#define HEAT_NEEDED 2  /* interpretations of a block on a page that has not changed */
#define REACH_FIRST 64 /* bytes */

static unsigned page_hash(const uint8_t *page)
{
    return (unsigned)(((uintptr_t)page >> 12) % PAGE_ENTRIES);
}

static void block_drop(struct soft_vcpu *c, struct soft_block *block)
{
    struct soft_block **link = &c->cache->hash[soft_block_hash(block->host, block->mode)];

    while (*link && *link != block)
        link = &(*link)->hash_next;
    if (*link)
        *link = block->hash_next;
    block->valid = false;
    soft_trace(c, TRACE_INVALIDATE, block->bytes, block->gpa);
    soft_translation_drop(c, block);
    if (block->second || block->head)
        soft_translation_forget(block);
    else
        soft_dropped_keep(c, block);
    /* The running block goes on to the end of the running instruction only. */
    if (soft_block_is_decoded(c, block) && c->op >= block->ops && c->op < block->ops + block->count)
        c->op_end = c->op + 1;
}

static struct page_entry *page_find(const struct soft_vcpu *c, const uint8_t *page)
{
    struct page_entry *entry = c->cache->pages[page_hash(page)];

    while (entry && entry->page != page)
        entry = entry->next;
    return entry;
}

/* Whether a change of [from, to) of the block's page concerns the block. */
static bool block_depends(const struct soft_block *block, const uint8_t *from, const uint8_t *to)
{
    const uint8_t *page = (const uint8_t *)((uintptr_t)block->host & ~(uintptr_t)0xfff);

    if (block->host < to && from < block->host + block->bytes)
        return true;
    for (unsigned i = 0; i < block->ahead_count; i++) {
        if (page + block->ahead[i].from < to && from < page + block->ahead[i].to)
            return true;
    }
    return false;
}

static void uses_add(struct page_entry *entry, struct soft_range range)
{
    for (unsigned i = range.from / SOFT_PIECE; i <= (range.to - 1u) / SOFT_PIECE; i++)
        entry->uses[i] = (uint8_t)(entry->uses[i] + (entry->uses[i] < 255));
}

static void uses_remove(struct page_entry *entry, struct soft_range range,
                        struct soft_pieces *freed)
{
    for (unsigned i = range.from / SOFT_PIECE; i <= (range.to - 1u) / SOFT_PIECE; i++) {
        if (entry->uses[i] < 255 && --entry->uses[i] == 0)
            freed->word[i / 64] |= UINT64_C(1) << (i % 64);
    }
}

static struct soft_range block_range(const struct soft_block *block)
{
    uint16_t from = (uintptr_t)block->host & 0xfff;

    return (struct soft_range){from, (uint16_t)(from + block->bytes)};
}

static bool uses_any(const struct page_entry *entry, const uint8_t *from, const uint8_t *to)
{
    for (unsigned i = (unsigned)(from - entry->page) / SOFT_PIECE;
         i <= (unsigned)(to - 1 - entry->page) / SOFT_PIECE; i++) {
        if (entry->uses[i] != 0)
            return true;
    }
    return false;
}

uint8_t *soft_cache_rely(struct soft_vcpu *c, struct soft_block *block, struct soft_range range)
{
    struct soft_cache *cache = c->cache;
    struct page_entry *entry =
        page_find(c, (const uint8_t *)((uintptr_t)block->host & ~(uintptr_t)0xfff));
    uint8_t *bytes = cache->arena + cache->arena_used;

    if (block->ahead_count == SOFT_AHEAD_MAX || !soft_cache_has_room(c, BLOCK_BYTES_MAX))
        return NULL;
    cache->arena_used += ((uint64_t)(range.to - range.from) + 15) & ~UINT64_C(15);
    block->ahead_bytes[block->ahead_count] = bytes;
    block->ahead[block->ahead_count++] = range;
    uses_add(entry, range);
    return bytes;
}

/*
 * The first drop takes only what is stored to, each further one that follows close behind the last
 * twice as much beyond that: whoever overwrites a function stops here a few times instead of at
 * each block. What was dropped for nothing comes back at little cost.
 */
const uint8_t *soft_cache_reach(struct soft_vcpu *c, const uint8_t *from, const uint8_t *to)
{
    const uint8_t *page = (const uint8_t *)((uintptr_t)from & ~(uintptr_t)0xfff);
    struct page_entry *entry = page_find(c, page);
    const uint8_t *end = to;

    if (!entry || !uses_any(entry, from, to))
        return to;
    if (from >= page + entry->overwritten && from <= page + entry->overwritten + REACH_FIRST)
        entry->reach = entry->reach < REACH_FIRST ? REACH_FIRST : (uint16_t)(entry->reach * 2);
    else
        entry->reach = 0;
    if (entry->reach > GUEST_PAGE_SIZE)
        entry->reach = GUEST_PAGE_SIZE;
    if (end < from + entry->reach)
        end = from + entry->reach;
    if (end > page + GUEST_PAGE_SIZE)
        end = page + GUEST_PAGE_SIZE;
    entry->overwritten = (uint16_t)(end - page);
    return end;
}

bool soft_cache_drop(struct soft_vcpu *c, const uint8_t *from, const uint8_t *to,
                     struct soft_pieces *freed)
{
    const uint8_t *page = (const uint8_t *)((uintptr_t)from & ~(uintptr_t)0xfff);
    struct page_entry *entry = page_find(c, page);
    struct soft_block **link;

    if (!entry)
        return true;
    if (!uses_any(entry, from, to))
        return entry->blocks == NULL;
    link = &entry->blocks;
    while (*link) {
        struct soft_block *block = *link;

        if (block_depends(block, from, to)) {
            *link = block->page_next;
            uses_remove(entry, block_range(block), freed);
            for (unsigned i = 0; i < block->ahead_count; i++)
                uses_remove(entry, block->ahead[i], freed);
            block_drop(c, block);
            entry->changed = true;
            soft_count(&c->counters.dropped);
            if (block->head && block->head->valid) {
                struct soft_pieces elsewhere = {0}; /* they stay covered */

                (void)soft_cache_drop(c, block->head->host, block->head->host + 1, &elsewhere);
                link = &entry->blocks; /* both may lie on this page */
            }
        } else {
            link = &block->page_next;
        }
    }
    return entry->blocks == NULL;
}

void soft_cache_watch(struct soft_vcpu *c, struct soft_block *block)
{
    struct soft_cache *cache = c->cache;
    const uint8_t *page = (const uint8_t *)((uintptr_t)block->host & ~(uintptr_t)0xfff);
    struct page_entry *entry = page_find(c, page);

    if (!entry) {
        entry = (struct page_entry *)(void *)(cache->arena + cache->arena_used);
        cache->arena_used += (sizeof *entry + 15) & ~UINT64_C(15);
        *entry = (struct page_entry){.page = page, .next = cache->pages[page_hash(page)]};
        cache->pages[page_hash(page)] = entry;
    }
    entry->overwritten = GUEST_PAGE_SIZE;
    uses_add(entry, block_range(block));
    for (unsigned i = 0; i < block->ahead_count; i++)
        uses_add(entry, block->ahead[i]);
    if (!entry->changed && c->vm->translate_after > HEAT_NEEDED)
        block->heat = (uint8_t)(c->vm->translate_after - HEAT_NEEDED);
    block->page_next = entry->blocks;
    entry->blocks = block;
    block->valid = true;
}

void soft_cache_enter(struct soft_vcpu *c, struct soft_block *block)
{
    struct soft_block **bucket = &c->cache->hash[soft_block_hash(block->host, block->mode)];

    soft_cache_watch(c, block);
    block->hash_next = *bucket;
    *bucket = block;
}
