/*
 * Dropped blocks, kept for a while to come back.
 *
 * A dropped block is kept with the bytes that it was made of, its own and those that its
 * translation looked at elsewhere. Where they are found again when code is to be decoded there, it
 * comes back: its page is marked and its pieces are covered first, and then the bytes are compared,
 * so that it is as right as a new one. Its links still lead to blocks that are valid, or to C.
 *
 * Threads: a vCPU's own. Input: a guest's code, compared and not decoded.
 */
#include "cpu/soft/cache_internal.h"
#include "cpu/soft/translate.h"

static struct kept_set *kept_set(const struct soft_vcpu *c, const uint8_t *host, uint8_t mode)
{
    return &c->cache->kept[soft_block_hash(host, mode) % KEPT_SETS];
}

static void kept_unlink(struct kept *kept)
{
    if (kept->linked)
        soft_translation_forget(kept->block);
    kept->linked = false;
}

void soft_dropped_keep(const struct soft_vcpu *c, struct soft_block *block)
{
    struct kept_set *set = kept_set(c, block->host, block->mode);
    struct kept *kept = &set->kept[set->next];

    set->next = (set->next + 1) % KEPT_EACH;
    kept_unlink(kept);
    *kept = (struct kept){.block = block,
                          .host = block->host,
                          .gpa = block->gpa,
                          .mode = block->mode,
                          .heat = block->heat,
                          .linked = block->incoming != NULL};
    kept->mask = block->bytes < 8 ? (UINT64_C(1) << 8 * block->bytes) - 1 : UINT64_MAX;
    memcpy(&kept->begin, block->raw, 8); /* the arena goes on behind them */
    kept->begin &= kept->mask;
}

static bool block_is_same(const struct soft_block *block)
{
    const uint8_t *page = (const uint8_t *)((uintptr_t)block->host & ~(uintptr_t)0xfff);

    if (memcmp(block->host, block->raw, block->bytes) != 0)
        return false;
    for (unsigned i = 0; i < block->ahead_count; i++) {
        const struct soft_range *range = &block->ahead[i];

        if (memcmp(page + range->from, block->ahead_bytes[i], (size_t)(range->to - range->from)))
            return false;
    }
    return true;
}

/* A dropped block of the bytes that are there now; NULL: there is none, and `heat` is what one of
 * other bytes had. Those of other bytes are left by what leads to them. */
static struct soft_block *kept_take(struct soft_vcpu *c, const uint8_t *host, uint8_t *heat)
{
    uint8_t mode = soft_code_mode(c);
    struct kept_set *set = kept_set(c, host, mode);
    size_t left = GUEST_PAGE_SIZE - ((uintptr_t)host & (GUEST_PAGE_SIZE - 1));
    struct soft_block *same = NULL;
    uint64_t begin = 0;

    *heat = 0;
    memcpy(&begin, host, left < sizeof begin ? left : sizeof begin);
    for (struct kept *kept = set->kept; kept < set->kept + KEPT_EACH; kept++) {
        struct soft_block *block = kept->block;

        if (!block || kept->host != host || kept->mode != mode)
            continue;
        if (*heat < kept->heat)
            *heat = kept->heat;
        if (!same && (begin & kept->mask) == kept->begin && block_is_same(block)) {
            kept->block = NULL;
            kept->linked = false;
            same = block;
        } else {
            kept_unlink(kept);
        }
    }
    return same;
}

bool soft_dropped_place(const struct soft_vcpu *c, const uint8_t *host, uint64_t *gpa)
{
    uint8_t mode = soft_code_mode(c);
    const struct kept_set *set = kept_set(c, host, mode);

    for (unsigned i = 0; i < KEPT_EACH; i++) {
        const struct kept *kept = &set->kept[i];

        if (kept->block && kept->host == host && kept->mode == mode) {
            *gpa = kept->gpa;
            return true;
        }
    }
    return false;
}

struct soft_block *soft_dropped_revive(struct soft_vcpu *c, const uint8_t *host, uint64_t gpa,
                                       uint8_t *heat)
{
    struct soft_block *block = kept_take(c, host, heat);

    if (!block)
        return NULL;
    block->gpa = gpa;
    soft_code_cover(c, gpa, block->bytes);
    for (unsigned i = 0; i < block->ahead_count; i++)
        soft_code_cover(c, (gpa & ~UINT64_C(0xfff)) + block->ahead[i].from,
                        (unsigned)(block->ahead[i].to - block->ahead[i].from));
    soft_cache_enter(c, block);
    soft_translation_revive(c, block);
    soft_count(&c->counters.revived);
    return block;
}
