/*
 * The cache of decoded blocks.
 *
 * Each vCPU has a cache of its own, so that finding and running a block takes no lock. A block is
 * known by the host address of its first byte (that is: by guest-physical address) and by the mode
 * bits that decoding depends on; a small direct-mapped table from linear addresses stands before.
 *
 * A dropped block is kept for a while with the bytes that it was made of, its own and those that
 * its translation looked at elsewhere. Where they are found again when code is to be decoded there,
 * it comes back: its page is marked and its pieces are covered first, and then the bytes are
 * compared, so that it is as right as a new one. Its links still lead to blocks that are valid, or
 * to C. What drops blocks when their bytes change: code.c. Threads: a vCPU's own.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "cpu/soft/code_internal.h"
#include "cpu/soft/leaf.h"
#include "cpu/soft/paging.h"
#include "cpu/soft/slots.h"
#include "cpu/soft/translate.h"

#define JUMP_ENTRIES    16384
#define HASH_ENTRIES    131072
#define PAGE_ENTRIES    4096
#define CROSSINGS       256
#define HEAT_NEEDED     2 /* interpretations of a block on a page that has not changed */
#define PAGES_SEEN_BITS 4096
#define KEPT_SETS       2048
#define KEPT_EACH       12
#define REACH_FIRST     64 /* bytes */
#define HEAT_LESS       2
#define BLOCK_BYTES_MAX                                                                            \
    (sizeof(struct soft_block) + SOFT_BLOCK_OPS_MAX * (sizeof(struct soft_op) + X86_INSN_BYTES_MAX))

struct jump_entry {
    uint64_t rip;
    uint64_t generation; /* with the mode: soft_vcpu.code_key */
    struct soft_block *block;
};

struct page_entry {
    const uint8_t *page;
    struct page_entry *next;
    struct soft_block *blocks;
    uint16_t reach, overwritten; /* see soft_cache_reach() */
    /* By piece: how many ranges that blocks depend on lie there. 255 stays for good. */
    uint8_t uses[SOFT_PAGE_PIECES];
    bool changed; /* a store has dropped blocks: their successors may soon go, too */
};

/* An instruction that no page holds alone, kept with its bytes, which are compared at each use. */
struct crossing {
    uint8_t bytes[16];
    uint8_t available, mode;
    struct soft_op op;
    _Alignas(16) uint8_t block[sizeof(struct soft_block)];
};

/* A dropped block. Where its bytes are what they were, it comes back as it is, translation and all.
 */
struct kept {
    struct soft_block *block; /* NULL: none */
    const uint8_t *host;
    uint64_t begin, mask; /* what it begins with, as far as it has 8 bytes */
    uint64_t gpa;
    uint8_t mode, heat;
    bool linked; /* links lead to it */
};
struct kept_set {
    struct kept kept[KEPT_EACH];
    unsigned next; /* to be replaced */
};

/* Hashes of the pages that have had jump entries since a generation began. */
struct pages {
    uint64_t seen[PAGES_SEEN_BITS / 64];
};

/* What an address space has of its own. */
struct space {
    uint64_t generation;
    struct pages pages;
};

/* What code_key and code_key_global make. */
struct salts {
    uint64_t key, key_global, salt, salt_global;
};

struct soft_cache {
    struct jump_entry jump[JUMP_ENTRIES];
    /* Of addresses: jump entries made under an older one do not count. Entries on global pages have
     * a generation of their own, whose numbers are odd. */
    uint64_t generation_global, generation_last;
    struct pages global_pages;
    struct space space[SOFT_SPACES]; /* as tlb.c numbers them */
    struct space *now;
    struct salts salts[SOFT_MODES];
    uint64_t secret;  /* makes salts that no guest can compute: see key_update() */
    uint64_t cs_base; /* outside 64-bit mode, what jump entries were made with */
    uint32_t cs_limit;
    struct soft_block *hash[HASH_ENTRIES];
    struct kept_set kept[KEPT_SETS]; /* by block_hash() */
    struct page_entry *pages[PAGE_ENTRIES];
    uint8_t *arena; /* of soft_vm.code_bytes */
    uint64_t arena_used;
    size_t arena_before; /* what it had in memory at the last clearing */
    /* The operations of the blocks decoded last; when it is full it begins anew, and those that are
     * needed still are decoded again. Most blocks are translated by then and need none. */
    struct soft_op *ops;
    size_t ops_used, ops_max;
    struct crossing crossing[CROSSINGS];
};

/* -- dropping blocks -- */

static unsigned page_hash(const uint8_t *page)
{
    return (unsigned)(((uintptr_t)page >> 12) % PAGE_ENTRIES);
}

static unsigned block_hash(const uint8_t *host, uint8_t mode)
{
    return (unsigned)((((uintptr_t)host * UINT64_C(0x9e3779b97f4a7c15)) >> 40) + mode) %
           HASH_ENTRIES;
}

static struct kept_set *kept_set(const struct soft_vcpu *c, const uint8_t *host, uint8_t mode)
{
    return &c->cache->kept[block_hash(host, mode) % KEPT_SETS];
}

static void kept_unlink(struct kept *kept)
{
    if (kept->linked)
        soft_translation_forget(kept->block);
    kept->linked = false;
}

static void block_put_by(const struct soft_vcpu *c, struct soft_block *block)
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

static void block_drop(struct soft_vcpu *c, struct soft_block *block)
{
    struct soft_block **link = &c->cache->hash[block_hash(block->host, block->mode)];

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
        block_put_by(c, block);
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

    if (!soft_cache_has_room(c, BLOCK_BYTES_MAX))
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

void soft_cache_release(uint8_t *memory, size_t used, size_t *before)
{
    size_t from = (used + GUEST_PAGE_SIZE - 1) & ~(size_t)(GUEST_PAGE_SIZE - 1);

    if (*before > from)
        (void)madvise(memory + from, *before - from, MADV_REMOVE);
    *before = from;
}

/* A new round: no block has operations, but for those that have them for good. */
static void ops_begin(struct soft_vcpu *c)
{
    c->cache->ops_used = 0;
    c->decoded_round++;
}

/* For as many as a block has. */
static struct soft_op *ops_room(struct soft_vcpu *c)
{
    struct soft_cache *cache = c->cache;

    if (cache->ops_used + SOFT_BLOCK_OPS_MAX > cache->ops_max)
        ops_begin(c);
    return cache->ops + cache->ops_used;
}

struct soft_op *soft_block_decode_again(struct soft_vcpu *c, struct soft_block *block)
{
    const struct soft_window window = {.bytes = block->raw, .available = block->bytes};
    enum soft_activity before = soft_activity_get(&c->counters);
    unsigned offset = 0;

    soft_activity_set(&c->counters, SOFT_IN_DECODE);
    soft_count(&c->counters.decoded_again);
    block->ops = ops_room(c);
    block->decoded_round = c->decoded_round;
    for (unsigned i = 0; i < block->count; i++) {
        /* As the first time: the bytes are the same. */
        (void)soft_op_decode(c, &window, block->mode & 3, offset, &block->ops[i]);
        offset = block->ops[i].next;
    }
    c->cache->ops_used += block->count;
    soft_activity_set(&c->counters, before);
    return block->ops;
}

static struct soft_op *ops_keep(struct soft_vcpu *c, const struct soft_op *ops, unsigned count)
{
    struct soft_op *kept = (struct soft_op *)(void *)(c->cache->arena + c->cache->arena_used);

    memcpy(kept, ops, count * sizeof *ops);
    c->cache->arena_used += (count * sizeof *ops + 15) & ~UINT64_C(15);
    return kept;
}

const struct soft_op *soft_op_keep(struct soft_vcpu *c, const struct soft_op *op)
{
    return ops_keep(c, op, 1);
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
    ops_begin(c);
    soft_translator_clear(c);
    soft_code_forget_addresses(c);
}

/* -- finding and building -- */

static uint64_t scramble(uint64_t key)
{
    key *= UINT64_C(0x9e3779b97f4a7c15);
    return (key ^ key >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
}

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

    if (!cache)
        return -ENOMEM;
    if (getrandom(&cache->secret, sizeof cache->secret, 0) != sizeof cache->secret) {
        free(cache);
        return -EIO;
    }
    c->slot_empty = (scramble(~cache->secret) >> 2 & ~UINT64_C(0xfff)) | UINT64_C(1) << 63;
    soft_slots_clear(c);
    cache->ops_max = c->vm->code_bytes / (c->vm->translate ? 8 : 2) / sizeof *cache->ops;
    cache->arena = soft_cache_map(c->vm->code_bytes);
    cache->ops = soft_cache_map(cache->ops_max * sizeof *cache->ops);
    if (!cache->arena || !cache->ops) {
        maps_free(c, cache);
        free(cache);
        return -ENOMEM;
    }
    c->decoded_round = 1;
    for (unsigned i = 0; i < SOFT_SPACES; i++)
        cache->space[i].generation = cache->generation_last += 2;
    cache->generation_global = cache->generation_last + 1;
    cache->now = &cache->space[0];
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

/* Whether vector instructions may run on the host's unit as they stand: nothing of the guest's
 * settings makes them fault. */
static bool vectors_free(const struct soft_vcpu *c)
{
    const struct x86_cpuid *cpuid = c->vm->cpuid;
    bool saved = !cpuid->feature[X86_FEATURE_XSAVE] ||
                 ((c->cr4 & X86_CR4_OSXSAVE) &&
                  (c->xcr0 | X86_XCR0_PKRU) == (cpuid->xcr0_allowed | X86_XCR0_PKRU));

    return (c->vector.mxcsr & 0x1f80) == 0x1f80 && !(c->cr0 & (X86_CR0_EM | X86_CR0_TS)) &&
           (c->cr4 & X86_CR4_OSFXSR) && saved && cpuid->feature[X86_FEATURE_AVX];
}

/* The mode changes often, from among few; the generations seldom. */
static void salts_update(struct soft_vcpu *c, unsigned mode)
{
    struct salts *salts = &c->cache->salts[mode];

    if (salts->key != c->code_key || salts->key_global != c->code_key_global)
        *salts = (struct salts){.key = c->code_key,
                                .key_global = c->code_key_global,
                                .salt = scramble(c->code_key ^ c->cache->secret),
                                .salt_global = scramble(c->code_key_global ^ c->cache->secret)};
    c->salt = salts->salt;
    c->salt_global = salts->salt_global;
}

/* The same for x87 and MMX instructions: with all exceptions masked none can be pending. */
static bool x87_free(const struct soft_vcpu *c)
{
    return (c->vector.fxsave[0] & 0x3f) == 0x3f && !(c->cr0 & (X86_CR0_EM | X86_CR0_TS));
}

/* A lookup key is rip + salt: some rip makes the key of any entry, stale and empty ones too. A
 * guest that knew the salts could branch there. */
static void key_update(struct soft_vcpu *c)
{
    bool plain = soft_is_real(c) || soft_is_v86(c);
    unsigned mode = c->code_size | (plain ? 4u : 0) | (vectors_free(c) ? SOFT_MODE_VECTORS : 0) |
                    (x87_free(c) ? SOFT_MODE_X87 : 0) | (c->cpl == 3 ? SOFT_MODE_USER : 0);

    c->code_key = c->cache->now->generation << 6 | mode;
    c->code_key_global = c->cache->generation_global << 6 | mode;
    salts_update(c, mode);
    soft_privilege_apply(c);
}

static bool page_is_global(const struct soft_vcpu *c, uint64_t linear)
{
    const struct soft_tlb *tlb = c->tlb[soft_privilege_now(c)];
    unsigned index = (unsigned)(linear >> 12) % SOFT_TLB_ENTRIES;

    return tlb->entry[SOFT_FETCH][index].tag == (linear & ~UINT64_C(0xfff)) &&
           tlb->global[SOFT_FETCH][index];
}

/* Outside 64-bit mode linear addresses are others, and nobody asks. */
bool soft_code_is_global(const struct soft_vcpu *c, const struct soft_block *block)
{
    return page_is_global(c, c->rip) &&
           (!block->second || page_is_global(c, c->rip + GUEST_PAGE_SIZE));
}

/* Of one half of the bits for each half of the address space: where all global pages are the
 * kernel's, no INVLPG of a user's page seems to be one of theirs. */
static unsigned page_bit(uint64_t linear)
{
    unsigned hash = (unsigned)(((linear >> 12) * UINT64_C(0x9e3779b97f4a7c15)) >> 40);

    return hash % (PAGES_SEEN_BITS / 2) + (linear >> 63 ? PAGES_SEEN_BITS / 2 : 0);
}

static bool page_seen(const struct pages *pages, uint64_t linear)
{
    unsigned bit = page_bit(linear);

    return pages->seen[bit / 64] & (UINT64_C(1) << (bit % 64));
}

/* Not by memset(): leaves come here. */
static void pages_forget(struct pages *pages)
{
    for (volatile uint64_t *seen = pages->seen; seen < pages->seen + PAGES_SEEN_BITS / 64; seen++)
        *seen = 0;
}

static void space_forget(struct soft_cache *cache, struct space *space)
{
    space->generation = cache->generation_last += 2;
    pages_forget(&space->pages);
}

static void global_forget(struct soft_cache *cache)
{
    cache->generation_last += 2;
    cache->generation_global = cache->generation_last + 1;
    pages_forget(&cache->global_pages);
}

void soft_code_space_set(struct soft_vcpu *c, unsigned space)
{
    c->cache->now = &c->cache->space[space];
    key_update(c);
}

void soft_code_forget_space(struct soft_vcpu *c, unsigned space)
{
    space_forget(c->cache, &c->cache->space[space]);
    key_update(c);
}

void soft_code_forget_addresses(struct soft_vcpu *c)
{
    global_forget(c->cache);
    for (unsigned i = 0; i < SOFT_SPACES; i++)
        space_forget(c->cache, &c->cache->space[i]);
    key_update(c);
}

void soft_code_forget_page(struct soft_vcpu *c, uint64_t linear)
{
    struct soft_cache *cache = c->cache;

    if (page_seen(&cache->global_pages, linear))
        soft_code_forget_addresses(c);
    else if (page_seen(&cache->now->pages, linear))
        soft_code_forget_space(c, (unsigned)(cache->now - cache->space));
}

void soft_code_mode_changed(struct soft_vcpu *c)
{
    struct soft_cache *cache = c->cache;
    const struct x86_segment *cs = &c->seg[X86_CS];

    if (c->code_size != X86_CODE_64 &&
        (cs->base != cache->cs_base || cs->limit != cache->cs_limit)) {
        cache->cs_base = cs->base;
        cache->cs_limit = cs->limit;
        soft_code_forget_addresses(c);
    }
    key_update(c);
}

/* The part of the key that decoding depends on (VEX has no meaning in real and v86 mode). */
uint8_t soft_code_mode(const struct soft_vcpu *c)
{
    return c->code_key & 63;
}

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
static void cache_room(struct soft_vcpu *c)
{
    if (!soft_cache_has_room(c, 2 * (BLOCK_BYTES_MAX + sizeof(struct page_entry) + 32)))
        soft_cache_clear(c);
}

/* A place for one, after cache_room(). */
static struct soft_block *block_alloc(struct soft_vcpu *c)
{
    struct soft_block *block =
        (struct soft_block *)(void *)(c->cache->arena + c->cache->arena_used);

    block->ops = ops_room(c);
    block->decoded_round = c->decoded_round;
    return block;
}

/* On its page's list, so that a change of its bytes drops it. */
static void block_watch(struct soft_vcpu *c, struct soft_block *block)
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

static void block_enter(struct soft_vcpu *c, struct soft_block *block)
{
    struct soft_block **bucket = &c->cache->hash[block_hash(block->host, block->mode)];

    block_watch(c, block);
    block->hash_next = *bucket;
    *bucket = block;
}

/* The room that the block took becomes its own. Odd operations stay: their bytes alone, without
 * what follows, may decode to something else. */
static void block_settle(struct soft_vcpu *c, struct soft_block *block)
{
    uint64_t bytes = sizeof *block + block->bytes;

    c->cache->arena_used += (bytes + 15) & ~UINT64_C(15);
    if (block->odd) {
        block->ops = ops_keep(c, block->ops, block->count);
        block->decoded_round = 0;
    } else {
        c->cache->ops_used += block->count;
    }
}

static void block_keep(struct soft_vcpu *c, struct soft_block *block)
{
    block_settle(c, block);
    block_enter(c, block);
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
    block_watch(c, end);
    soft_code_unlock(c);
    return block;
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

/* Where in the guest's memory dropped code at `host` was, and so still is; false: there is none. */
static bool kept_place(const struct soft_vcpu *c, const uint8_t *host, uint64_t *gpa)
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

/* Under the lock, on a marked page. */
static struct soft_block *block_revive(struct soft_vcpu *c, const uint8_t *host, uint64_t gpa,
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
    block_enter(c, block);
    soft_translation_revive(c, block);
    soft_count(&c->counters.revived);
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

static struct soft_block *block_build(struct soft_vcpu *c, const uint8_t *host, uint64_t gpa)
{
    uint64_t linear = code_linear(c);
    uint64_t limit = code_limit(c);
    struct soft_window window = {.most = SOFT_BLOCK_OPS_MAX,
                                 .available = (unsigned)(GUEST_PAGE_SIZE - (linear & 0xfff))};
    struct soft_block *block;
    uint8_t heat;

    if (limit < window.available)
        window.available = (unsigned)limit;
    if (window.available > SOFT_BLOCK_OPS_MAX * X86_INSN_BYTES_MAX)
        window.available = SOFT_BLOCK_OPS_MAX * X86_INSN_BYTES_MAX;
    if (window.available == 0)
        return block_uncached(c, linear);
    cache_room(c);
    soft_code_lock(c);
    soft_activity_set(&c->counters, SOFT_IN_DECODE);
    soft_code_mark(c, gpa);
    block = block_revive(c, host, gpa, &heat);
    if (!block) {
        block = block_decode(c, host, gpa, &window);
        /* What was worth translating is so again, unless it changes before it runs twice (and a run
         * may count twice: on the way out of translated code, too). */
        if (block && heat > HEAT_LESS)
            block->heat = (uint8_t)(heat - HEAT_LESS);
    }
    soft_code_unlock(c);
    soft_activity_set(&c->counters, SOFT_IN_DISPATCH);
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
    struct soft_block *block = c->cache->hash[block_hash(host, mode)];

    while (block && (block->host != host || block->mode != mode || !second_is_same(c, block)))
        block = block->hash_next;
    return block;
}

static inline struct jump_entry *jump_entry(const struct soft_vcpu *c)
{
    return &c->cache->jump[(c->rip ^ (c->rip >> 12)) % JUMP_ENTRIES];
}

/* An entry for code on a page of its own space and a global one counts as the space's; yet INVLPG
 * of the global one must find it from every space: see soft_code_forget_page(). */
static void page_see(struct soft_vcpu *c, uint64_t linear, bool global)
{
    unsigned bit = page_bit(linear);

    if (!global)
        c->cache->now->pages.seen[bit / 64] |= UINT64_C(1) << (bit % 64);
    if (global || page_is_global(c, linear))
        c->cache->global_pages.seen[bit / 64] |= UINT64_C(1) << (bit % 64);
}

/* Remembers where c->rip led. The page has a fetch TLB entry: it was used or made just now. */
static void jump_set(struct soft_vcpu *c, uint64_t linear, struct soft_block *block)
{
    bool global = page_is_global(c, linear) &&
                  (!block->second || page_is_global(c, linear + GUEST_PAGE_SIZE));

    page_see(c, linear, global);
    if (block->second)
        page_see(c, linear + GUEST_PAGE_SIZE, global);
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
    if (!block && !(host && kept_place(c, host, &gpa))) {
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
    block = c->cache->hash[block_hash(host, mode)];
    while (block && (block->host != host || block->mode != mode || block->second))
        block = block->hash_next;
    if (block)
        jump_set(c, c->rip, block);
    return block;
}
