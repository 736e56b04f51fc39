/*
 * The cache of decoded blocks: what its files share. Only cache*.c include it.
 *
 * cache.c finds and builds blocks, cache_page.c knows which bytes of a page they depend on and
 * drops them, cache_dropped.c keeps dropped ones, cache_space.c numbers the address spaces and
 * modes that addresses are looked up in, cache_ops.c holds decoded operations, cache_memory.c the
 * memory of all. Threads: a vCPU's own.
 */
#ifndef FREEHOLD_CPU_SOFT_CACHE_INTERNAL_H
#define FREEHOLD_CPU_SOFT_CACHE_INTERNAL_H

#include "cpu/soft/code_internal.h"
#include "cpu/soft/paging.h"

#define JUMP_ENTRIES    16384
#define HASH_ENTRIES    131072
#define PAGE_ENTRIES    4096
#define CROSSINGS       256
#define PAGES_SEEN_BITS 4096
#define KEPT_SETS       2048
#define KEPT_EACH       12
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

/* A dropped block. Where its bytes are what they were, it comes back as it is, with its
 * translation. */
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
    struct kept_set kept[KEPT_SETS]; /* by soft_block_hash() */
    struct page_entry *pages[PAGE_ENTRIES];
    uint8_t *arena; /* of soft_vm.code_bytes */
    uint64_t arena_used;
    size_t arena_held; /* see struct soft_part */
    /* The operations of the blocks decoded last; when it is full it begins anew, and those that are
     * needed still are decoded again. Most blocks are translated by then and need none. */
    struct soft_op *ops;
    size_t ops_used, ops_max;
    struct crossing crossing[CROSSINGS];
};

static inline unsigned soft_block_hash(const uint8_t *host, uint8_t mode)
{
    return (unsigned)((((uintptr_t)host * UINT64_C(0x9e3779b97f4a7c15)) >> 40) + mode) %
           HASH_ENTRIES;
}

/* As far as the TLB knows: c->rip's page has an entry where it was used or made just now. */
static inline bool soft_page_is_global(const struct soft_vcpu *c, uint64_t linear)
{
    const struct soft_tlb *tlb = c->tlb[soft_privilege_now(c)];
    unsigned index = (unsigned)(linear >> 12) % SOFT_TLB_ENTRIES;

    return tlb->entry[SOFT_FETCH][index].tag == (linear & ~UINT64_C(0xfff)) &&
           tlb->global[SOFT_FETCH][index];
}

/* -- cache_page.c -- */

/* On its page's list, so that a change of its bytes drops it; and where soft_code_find() looks. */
void soft_cache_watch(struct soft_vcpu *c, struct soft_block *block);
void soft_cache_enter(struct soft_vcpu *c, struct soft_block *block);

/* -- cache_dropped.c -- */

/* Keeps a block that has just been dropped. */
void soft_dropped_keep(const struct soft_vcpu *c, struct soft_block *block);
/* Where in the guest's memory dropped code at `host` was, and so still is; false: there is none. */
bool soft_dropped_place(const struct soft_vcpu *c, const uint8_t *host, uint64_t *gpa);
/* Under the lock, on a marked page: a dropped block of the bytes that are there now, entered anew;
 * NULL: there is none, and `heat` is what one of other bytes had. */
struct soft_block *soft_dropped_revive(struct soft_vcpu *c, const uint8_t *host, uint64_t gpa,
                                       uint8_t *heat);

/* -- cache_space.c -- */

MUST_CHECK int soft_spaces_init(struct soft_vcpu *c, struct soft_cache *cache);
/* There will be a jump entry for code on this page. */
void soft_space_see(struct soft_vcpu *c, uint64_t linear, bool global);

/* -- cache_ops.c -- */

/* A new round: no block has operations, but for those that have them for good. */
void soft_ops_begin(struct soft_vcpu *c);
/* For as many as a block has. */
struct soft_op *soft_ops_room(struct soft_vcpu *c);
/* A copy that stays as long as all code does, in room that there must be. */
struct soft_op *soft_ops_keep(struct soft_vcpu *c, const struct soft_op *ops, unsigned count);

#endif
