/*
 * Address spaces and modes: under which key the code at a linear address is looked up.
 *
 * c->code_key holds the generation of the current address space and the mode, the bits that
 * decoding and translation depend on. A space whose addresses mean something else from now on gets
 * a new generation, and what was remembered under the old one is not found any more. Global pages
 * have a generation of their own. Translated code adds a salt to addresses, the key scrambled.
 *
 * Threads: a vCPU's own. Input: a guest's settings and how it invalidates; salts and empty tags are
 * secrets that it must not compute. Leaves come here: no libc and no vectors after the beginning.
 */
#include <errno.h>
#include <sys/random.h>

#include "cpu/soft/cache_internal.h"
#include "cpu/soft/slots.h"

static uint64_t scramble(uint64_t key)
{
    key *= UINT64_C(0x9e3779b97f4a7c15);
    return (key ^ key >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
}

int soft_spaces_init(struct soft_vcpu *c, struct soft_cache *cache)
{
    if (getrandom(&cache->secret, sizeof cache->secret, 0) != sizeof cache->secret)
        return -EIO;
    c->slot_empty = (scramble(~cache->secret) >> 2 & ~UINT64_C(0xfff)) | UINT64_C(1) << 63;
    soft_slots_clear(c);
    for (unsigned i = 0; i < SOFT_SPACES; i++)
        cache->space[i].generation = cache->generation_last += 2;
    cache->generation_global = cache->generation_last + 1;
    cache->now = &cache->space[0];
    return 0;
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

/* Outside 64-bit mode linear addresses are others, and nobody asks. */
bool soft_code_is_global(const struct soft_vcpu *c, const struct soft_block *block)
{
    return soft_page_is_global(c, c->rip) &&
           (!block->second || soft_page_is_global(c, c->rip + GUEST_PAGE_SIZE));
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

/* An entry for code on a page of its own space and a global one counts as the space's; yet INVLPG
 * of the global one must find it from every space: see soft_code_forget_page(). */
void soft_space_see(struct soft_vcpu *c, uint64_t linear, bool global)
{
    unsigned bit = page_bit(linear);

    if (!global)
        c->cache->now->pages.seen[bit / 64] |= UINT64_C(1) << (bit % 64);
    if (global || soft_page_is_global(c, linear))
        c->cache->global_pages.seen[bit / 64] |= UINT64_C(1) << (bit % 64);
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
