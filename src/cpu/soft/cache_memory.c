/*
 * The memory of the cache, and the bound on it.
 *
 * One bound, soft_vm.code_bytes, holds for all that a vCPU keeps of code. Each kind of thing has a
 * mapping that could hold all of it, of which only what is used takes memory; blocks and what goes
 * with them are cut from the arena. When the bound is reached everything goes at once.
 *
 * Threads: a vCPU's own.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/soft/cache_internal.h"
#include "cpu/soft/translate.h"

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

void soft_cache_release(uint8_t *memory, size_t used, size_t *before)
{
    size_t from = (used + GUEST_PAGE_SIZE - 1) & ~(size_t)(GUEST_PAGE_SIZE - 1);

    if (*before > from)
        (void)madvise(memory + from, *before - from, MADV_REMOVE);
    *before = from;
}

bool soft_cache_has_room(const struct soft_vcpu *c, size_t bytes)
{
    size_t used =
        c->cache->arena_used + c->cache->ops_max * sizeof *c->cache->ops + soft_translator_used(c);

    return used + bytes <= c->vm->code_bytes;
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

    soft_count(&c->counters.cache_clears);
    soft_trace(c, TRACE_CLEAR, 0, 0);
    memset(cache->hash, 0, sizeof cache->hash);
    memset(cache->kept, 0, sizeof cache->kept);
    memset(cache->pages, 0, sizeof cache->pages);
    soft_cache_release(cache->arena, cache->arena_used, &cache->arena_before);
    cache->arena_used = 0;
    soft_ops_begin(c);
    soft_translator_clear(c);
    soft_code_forget_addresses(c);
}
