/*
 * The memory of the cache, and the bound on it.
 *
 * One bound, soft_vm.code_bytes, holds for all that a vCPU keeps of code. Each kind of thing has a
 * mapping that could hold all of it, of which only what is used takes memory; blocks and what goes
 * with them are cut from the arena. When the bound is reached everything goes at once, but the
 * memory stays where it is, since it will soon be used again. As there may then be more of one kind
 * and less of another, what earlier rounds have left is given back before it would be too much.
 *
 * Threads: a vCPU's own.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/soft/cache_internal.h"
#include "cpu/soft/translate.h"

#define PARTS_MAX (SOFT_TRANSLATOR_PARTS + 1)
#define TRIM_PART 64 /* of the bound: given back at once */

void *soft_cache_map(size_t bytes)
{
    int fd = memfd_create("freehold-code-cache", MFD_CLOEXEC);
    void *memory = MAP_FAILED;

    if (fd < 0)
        return NULL;
    if (ftruncate(fd, (off_t)bytes) == 0)
        memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    close(fd);
    return memory == MAP_FAILED ? NULL : memory;
}

static size_t page_end(size_t bytes)
{
    return (bytes + GUEST_PAGE_SIZE - 1) & ~(size_t)(GUEST_PAGE_SIZE - 1);
}

/* In whole pages. */
static unsigned parts_get(struct soft_vcpu *c, struct soft_part parts[PARTS_MAX])
{
    unsigned count = soft_translator_parts(c, parts);

    parts[count++] =
        (struct soft_part){c->cache->arena, c->cache->arena_used, &c->cache->arena_held};
    for (unsigned i = 0; i < count; i++)
        parts[i].used = page_end(parts[i].used);
    return count;
}

static size_t part_slack(const struct soft_part *part)
{
    return *part->held > part->used ? *part->held - part->used : 0;
}

/* Gives back `bytes`, whole pages, of what parts hold beyond their use. */
static void parts_trim(const struct soft_part *parts, unsigned count, size_t bytes)
{
    while (bytes > 0) {
        const struct soft_part *most = parts;
        size_t less;

        for (unsigned i = 1; i < count; i++) {
            if (part_slack(&parts[i]) > part_slack(most))
                most = &parts[i];
        }
        less = part_slack(most) < bytes ? part_slack(most) : bytes;
        if (less == 0)
            return;
        *most->held -= less;
        (void)madvise(most->memory + *most->held, less, MADV_REMOVE);
        bytes -= less;
    }
}

bool soft_cache_has_room(struct soft_vcpu *c, size_t bytes)
{
    const size_t most = c->vm->code_bytes;
    struct soft_part parts[PARTS_MAX];
    unsigned count = parts_get(c, parts);
    size_t used = c->cache->ops_max * sizeof *c->cache->ops, slack = 0;

    for (unsigned i = 0; i < count; i++) {
        used += parts[i].used;
        slack += part_slack(&parts[i]);
    }
    if (used + bytes > most)
        return false;
    if (used + slack + bytes > most)
        parts_trim(parts, count, page_end(used + slack + bytes - most + most / TRIM_PART));
    return true;
}

static void maps_free(const struct soft_vcpu *c, const struct soft_cache *cache)
{
    if (cache->arena)
        munmap(cache->arena, c->vm->code_bytes);
    if (cache->ops)
        munmap(cache->ops, cache->ops_max * sizeof *cache->ops);
}

int soft_cache_new(struct soft_vcpu *c)
{
    struct soft_cache *cache = calloc(1, sizeof *cache);
    int result;

    if (!cache)
        return -ENOMEM;
    result = soft_spaces_init(c, cache);
    if (result != 0) {
        free(cache);
        return result;
    }
    cache->ops_max = c->vm->code_bytes / (c->vm->translate ? 8 : 2) / sizeof *cache->ops;
    cache->arena = soft_cache_map(c->vm->code_bytes);
    cache->ops = soft_cache_map(cache->ops_max * sizeof *cache->ops);
    if (!cache->arena || !cache->ops) {
        maps_free(c, cache);
        free(cache);
        return -ENOMEM;
    }
    c->decoded_round = 1;
    c->cache = cache;
    return 0;
}

void soft_cache_free(struct soft_vcpu *c)
{
    if (!c->cache)
        return;
    maps_free(c, c->cache);
    free(c->cache);
    c->cache = NULL;
}

void soft_cache_clear(struct soft_vcpu *c)
{
    struct soft_cache *cache = c->cache;
    struct soft_part parts[PARTS_MAX];
    unsigned count = parts_get(c, parts);

    soft_count(&c->counters.cache_clears);
    soft_trace(c, TRACE_CLEAR, 0, 0);
    memset(cache->hash, 0, sizeof cache->hash);
    memset(cache->kept, 0, sizeof cache->kept);
    memset(cache->pages, 0, sizeof cache->pages);
    for (unsigned i = 0; i < count; i++) {
        if (*parts[i].held < parts[i].used)
            *parts[i].held = parts[i].used;
    }
    cache->arena_used = 0;
    soft_ops_begin(c);
    soft_translator_clear(c);
    soft_code_forget_addresses(c);
}
