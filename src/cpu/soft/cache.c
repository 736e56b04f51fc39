/*
 * The cache of decoded blocks: finding and building them.
 *
 * Each vCPU has a cache of its own, so that finding and running a block takes no lock. A block is
 * known by the host address of its first byte (that is: by guest-physical address) and by the mode
 * bits that decoding depends on; a small direct-mapped table from linear addresses stands before.
 * The cache's other files: cache_internal.h. What drops blocks when their bytes change: code.c.
 *
 * Threads: a vCPU's own. Input: a guest's code, which devices and other vCPUs may be changing.
 */
#include "cpu/soft/cache_internal.h"
#include "cpu/soft/leaf.h"

#define HEAT_LESS 2

static uint64_t code_linear(const struct soft_vcpu *c)
{
    return (c->code_size == X86_CODE_64 ? c->rip : c->rip + c->seg[X86_CS].base) & c->address_mask;
}

/* How many bytes from c->rip on CS's limit allows. */
static uint64_t code_limit(const struct soft_vcpu *c)
{
    uint64_t limit = c->seg[X86_CS].limit;

    if (c->code_size == X86_CODE_64)
        return UINT64_MAX;
    return c->rip > limit ? 0 : limit - c->rip + 1;
}

/* Host pointer to an instruction byte from the TLB alone; NULL: ask fetch_host(). */
static const uint8_t *fetch_cached(const struct soft_vcpu *c, uint64_t linear)
{
    const struct soft_tlb_entry *entry =
        &c->tlb[soft_privilege_now(c)]->entry[SOFT_FETCH][(linear >> 12) % SOFT_TLB_ENTRIES];

    if (entry->tag != (linear & ~UINT64_C(0xfff)))
        return NULL;
    return (const uint8_t *)(uintptr_t)(entry->page + (linear & 0xfff));
}

/* Host pointer to an instruction byte; NULL: nothing there. Raises fetch faults. */
static const uint8_t *fetch_host(struct soft_vcpu *c, uint64_t linear, uint64_t *gpa)
{
    struct soft_walk_request request = {
        .linear = linear, .access = SOFT_FETCH, .privilege = soft_privilege_now(c), .cache = true};
    struct soft_target target;

    soft_translate(c, &request, &target);
    *gpa = target.gpa;
    return target.host;
}

static const uint8_t *fetch_any(struct soft_vcpu *c, uint64_t linear)
{
    const uint8_t *host = fetch_cached(c, linear);
    uint64_t gpa;

    return host ? host : fetch_host(c, linear, &gpa);
}

/* Copies up to 15 bytes across the page's end; a fault on the second page is that page's. */
static unsigned fetch_copy(struct soft_vcpu *c, uint64_t linear, uint8_t bytes[16])
{
    unsigned want = X86_INSN_BYTES_MAX;
    unsigned first = (unsigned)(GUEST_PAGE_SIZE - (linear & 0xfff));
    const uint8_t *host = fetch_any(c, linear);

    if (first > want)
        first = want;
    memset(bytes, 0xff, 16);
    if (host)
        memcpy(bytes, host, first);
    if (first == want)
        return want;
    /* Only when the instruction really reaches into the next page. */
    struct x86_insn probe;
    if (x86_decode(&probe, (enum x86_code_size)c->code_size, bytes, first) != X86_DECODE_MORE)
        return first;
    host = fetch_any(c, (linear + first) & c->address_mask);
    if (host)
        memcpy(bytes + first, host, want - first);
    return want;
}

/* One instruction that is not kept: it crosses pages, the limit of CS, or lies in no memory. */
static struct soft_block *block_uncached(struct soft_vcpu *c, uint64_t linear)
{
    struct crossing *crossing = &c->cache->crossing[linear % CROSSINGS];
    struct soft_block *block = (struct soft_block *)(void *)crossing->block;
    uint8_t bytes[16];
    uint64_t limit = code_limit(c);
    struct soft_window window = {.bytes = bytes, .most = 1};

    if (limit == 0)
        soft_raise_code(c, X86_GP, 0);
    window.available = fetch_copy(c, linear, bytes);
    if (window.available > limit)
        window.available = (unsigned)limit;
    if (block->count == 1 && crossing->mode == soft_code_mode(c) &&
        crossing->available == window.available && memcmp(bytes, crossing->bytes, 16) == 0)
        return block;
    block->ops = &crossing->op;
    if (soft_block_decode(c, &window, block) != X86_DECODE_OK)
        soft_raise_code(c, X86_GP, 0);
    soft_count(&c->counters.decoded_uncached);
    crossing->mode = soft_code_mode(c);
    crossing->available = (uint8_t)window.available;
    memcpy(crossing->bytes, bytes, 16);
    return block;
}

/* For two blocks, each of which may have a page_entry behind it. */
#define BLOCKS_ROOM (2 * (BLOCK_BYTES_MAX + sizeof(struct page_entry) + 32))

static void cache_room(struct soft_vcpu *c)
{
    if (!soft_cache_has_room(c, BLOCKS_ROOM))
        soft_cache_clear(c);
}

/* A place for one, after cache_room(). */
static struct soft_block *block_alloc(struct soft_vcpu *c)
{
    struct soft_block *block =
        (struct soft_block *)(void *)(c->cache->arena + c->cache->arena_used);

    block->ops = soft_ops_room(c);
    block->decoded_round = c->decoded_round;
    return block;
}

/* The room that the block took becomes its own. Odd operations stay: their bytes alone, without
 * what follows, may decode to something else. */
static void block_settle(struct soft_vcpu *c, struct soft_block *block)
{
    uint64_t bytes = sizeof *block + block->bytes;

    c->cache->arena_used += (bytes + 15) & ~UINT64_C(15);
    if (block->odd) {
        block->ops = soft_ops_keep(c, block->ops, block->count);
        block->decoded_round = 0;
    } else {
        c->cache->ops_used += block->count;
    }
}

static void block_keep(struct soft_vcpu *c, struct soft_block *block)
{
    block_settle(c, block);
    soft_cache_enter(c, block);
    soft_count(&c->counters.decoded);
    soft_count_add(&c->counters.decoded_bytes, block->bytes);
}

/* The bytes of an instruction that lies across two pages. */
static void crossing_fetch(struct soft_window *window, const uint8_t *first, const uint8_t *second,
                           uint8_t bytes[16])
{
    unsigned on_first = (unsigned)(GUEST_PAGE_SIZE - ((uintptr_t)first & 0xfff));

    memcpy(bytes, first, on_first);
    memcpy(bytes + on_first, second, X86_INSN_BYTES_MAX - on_first);
    *window = (struct soft_window){.bytes = bytes, .available = X86_INSN_BYTES_MAX, .most = 1};
}

/* The first instruction goes on on the next page. Its block is the first page's; the second page's
 * list has its end as if that were a block. */
static struct soft_block *crossing_build(struct soft_vcpu *c, const uint8_t *host, uint64_t gpa)
{
    unsigned first = (unsigned)(GUEST_PAGE_SIZE - (c->rip & 0xfff));
    struct soft_block *block = block_alloc(c), *end;
    struct soft_window window;
    uint64_t second_gpa;
    const uint8_t *second = fetch_host(c, c->rip + first, &second_gpa);
    uint8_t bytes[16];

    if (!second || first >= X86_INSN_BYTES_MAX)
        return block_uncached(c, c->rip);
    soft_code_lock(c);
    soft_code_mark(c, gpa);
    soft_code_mark(c, second_gpa);
    crossing_fetch(&window, host, second, bytes);
    if (soft_block_decode(c, &window, block) != X86_DECODE_OK || block->bytes <= first) {
        soft_code_unlock(c);
        return block_uncached(c, c->rip);
    }
    soft_code_cover(c, gpa, first);
    soft_code_cover(c, second_gpa, block->bytes - first);
    *block = (struct soft_block){.host = host,
                                 .gpa = gpa,
                                 .mode = soft_code_mode(c),
                                 .count = 1,
                                 .bytes = (uint16_t)first,
                                 .second = second,
                                 .odd = true,
                                 .ops = block->ops};
    block_keep(c, block);
    end = (struct soft_block *)(void *)(c->cache->arena + c->cache->arena_used);
    *end = (struct soft_block){.host = second,
                               .gpa = second_gpa,
                               .mode = block->mode,
                               .bytes = (uint16_t)(block->ops[0].next - first),
                               .head = block};
    block_settle(c, end);
    soft_cache_watch(c, end);
    soft_code_unlock(c);
    return block;
}

/* Under the lock, on a marked page. NULL: the first instruction is not complete. Operations and
 * bytes come from one look at what devices may be changing. */
static struct soft_block *block_decode(struct soft_vcpu *c, const uint8_t *host, uint64_t gpa,
                                       struct soft_window *window)
{
    struct soft_block *block = block_alloc(c);
    uint8_t bytes[SOFT_BLOCK_OPS_MAX * X86_INSN_BYTES_MAX];

    memcpy(bytes, host, window->available);
    window->bytes = bytes;
    if (soft_block_decode(c, window, block) != X86_DECODE_OK)
        return NULL;
    block->host = host;
    block->gpa = gpa;
    block->mode = soft_code_mode(c);
    memcpy(block->raw, bytes, block->bytes);
    soft_code_cover(c, gpa, block->bytes);
    block_keep(c, block);
    return block;
}

/* After cache_room(), on one page: NULL, if the first instruction goes on behind it. */
static struct soft_block *block_on_page(struct soft_vcpu *c, const uint8_t *host, uint64_t gpa,
                                        struct soft_window *window)
{
    struct soft_block *block;
    uint8_t heat;

    soft_code_lock(c);
    soft_activity_set(&c->counters, SOFT_IN_DECODE);
    soft_code_mark(c, gpa);
    block = soft_dropped_revive(c, host, gpa, &heat);
    if (!block) {
        block = block_decode(c, host, gpa, window);
        /* What was worth translating is so again, unless it changes before it runs twice (and a run
         * may count twice: on the way out of translated code, too). */
        if (block && heat > HEAT_LESS)
            block->heat = (uint8_t)(heat - HEAT_LESS);
    }
    soft_code_unlock(c);
    soft_activity_set(&c->counters, SOFT_IN_DISPATCH);
    return block;
}

static struct soft_block *block_build(struct soft_vcpu *c, const uint8_t *host, uint64_t gpa)
{
    uint64_t linear = code_linear(c);
    uint64_t limit = code_limit(c);
    struct soft_window window = {.most = SOFT_BLOCK_OPS_MAX,
                                 .available = (unsigned)(GUEST_PAGE_SIZE - (linear & 0xfff))};
    struct soft_block *block;

    if (limit < window.available)
        window.available = (unsigned)limit;
    if (window.available > SOFT_BLOCK_OPS_MAX * X86_INSN_BYTES_MAX)
        window.available = SOFT_BLOCK_OPS_MAX * X86_INSN_BYTES_MAX;
    if (window.available == 0)
        return block_uncached(c, linear);
    cache_room(c);
    block = block_on_page(c, host, gpa, &window);
    if (block)
        return block;
    return c->code_size == X86_CODE_64 ? crossing_build(c, host, gpa) : block_uncached(c, linear);
}

/* Whether the page behind c->rip's is the one that the block's only instruction ends on, if it has
 * any there. */
static bool second_is_same(struct soft_vcpu *c, const struct soft_block *block)
{
    return !block->second ||
           fetch_any(c, (c->rip & ~UINT64_C(0xfff)) + GUEST_PAGE_SIZE) == block->second;
}

static struct soft_block *block_lookup(struct soft_vcpu *c, const uint8_t *host)
{
    uint8_t mode = soft_code_mode(c);
    struct soft_block *block = c->cache->hash[soft_block_hash(host, mode)];

    while (block && (block->host != host || block->mode != mode || !second_is_same(c, block)))
        block = block->hash_next;
    return block;
}

static inline struct jump_entry *jump_entry(const struct soft_vcpu *c)
{
    return &c->cache->jump[(c->rip ^ (c->rip >> 12)) % JUMP_ENTRIES];
}

/* Remembers where c->rip led. The page has a fetch TLB entry: it was used or made just now. */
static void jump_set(struct soft_vcpu *c, uint64_t linear, struct soft_block *block)
{
    bool global = soft_page_is_global(c, linear) &&
                  (!block->second || soft_page_is_global(c, linear + GUEST_PAGE_SIZE));

    soft_space_see(c, linear, global);
    if (block->second)
        soft_space_see(c, linear + GUEST_PAGE_SIZE, global);
    *jump_entry(c) = (struct jump_entry){
        .rip = c->rip, .generation = global ? c->code_key_global : c->code_key, .block = block};
}

static __attribute__((noinline)) struct soft_block *find_slow(struct soft_vcpu *c)
{
    uint64_t linear = code_linear(c);
    const uint8_t *host;
    struct soft_block *block;
    uint64_t gpa;

    if (code_limit(c) == 0)
        soft_raise_code(c, X86_GP, 0);
    host = fetch_cached(c, linear);
    block = host ? block_lookup(c, host) : NULL;
    if (!block && !(host && soft_dropped_place(c, host, &gpa))) {
        host = fetch_host(c, linear, &gpa);
        if (!host)
            return block_uncached(c, linear);
        block = block_lookup(c, host);
    }
    if (!block)
        block = block_build(c, host, gpa);
    if (block->bytes > code_limit(c))
        return block_uncached(c, linear);
    if (block->valid)
        jump_set(c, linear, block);
    return block;
}

static inline struct soft_block *find_jump(const struct soft_vcpu *c)
{
    const struct jump_entry *jump = jump_entry(c);
    bool same = jump->rip == c->rip &&
                (jump->generation == c->code_key || jump->generation == c->code_key_global);

    return same && jump->block->valid ? jump->block : NULL;
}

struct soft_block *soft_code_find(struct soft_vcpu *c)
{
    struct soft_block *block = find_jump(c);

    return block ? block : find_slow(c);
}

struct soft_block *soft_code_find_known(struct soft_vcpu *c)
{
    struct soft_block *block = find_jump(c);
    uint8_t mode = soft_code_mode(c);
    const uint8_t *host;

    if (block)
        return block;
    host = fetch_cached(c, c->rip);
    if (!host && soft_leaf_fill(c, c->rip, SOFT_FETCH | 1u << 8) == SOFT_FILL_AGAIN)
        host = fetch_cached(c, c->rip);
    if (!host)
        return NULL;
    block = c->cache->hash[soft_block_hash(host, mode)];
    while (block && (block->host != host || block->mode != mode || block->second))
        block = block->hash_next;
    if (block)
        jump_set(c, c->rip, block);
    return block;
}

struct soft_block *soft_code_find_beside(struct soft_vcpu *c, const struct soft_block *block,
                                         unsigned offset)
{
    const unsigned most = SOFT_BLOCK_OPS_MAX * X86_INSN_BYTES_MAX;
    const uint8_t *host = (const uint8_t *)((uintptr_t)block->host & ~(uintptr_t)0xfff) + offset;
    struct soft_window window = {.most = SOFT_BLOCK_OPS_MAX,
                                 .available = (unsigned)GUEST_PAGE_SIZE - offset};
    struct soft_block *known = c->cache->hash[soft_block_hash(host, block->mode)];

    while (known && (known->host != host || known->mode != block->mode || known->second))
        known = known->hash_next;
    if (known || !soft_cache_has_room(c, BLOCKS_ROOM))
        return known;
    if (window.available > most)
        window.available = most;
    return block_on_page(c, host, (block->gpa & ~UINT64_C(0xfff)) + offset, &window);
}
