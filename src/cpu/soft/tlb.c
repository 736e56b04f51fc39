/*
 * The TLBs: filling, what drops entries, and the address spaces of PCIDs.
 *
 * Source: Intel SDM vol. 3, 4.10 (TLBs, PCIDs, invalidation); AMD APM vol. 2, 5.5. User code has a
 * TLB for each of the PCIDs used last, so that a CR3 load that keeps a PCID's entries finds them
 * again; one that is used again after its TLB went to another begins empty. The kernel's TLBs are
 * one for all: most of their entries are global, and the others are dropped at each CR3 load, from
 * a list. What was set since the last flush is known by groups of entries, so that flushing costs
 * what filling did. cache_space.c does the same for blocks, by the number of the space.
 *
 * Threads: a vCPU's own. Needs no libc and no vectors: leaves flush.
 */
#include "cpu/soft/tlb.h"

#include <stdlib.h>

#include "cpu/soft/code.h"
#include "cpu/soft/slots.h"

#define GROUP   8 /* entries */
#define WORDS   (SOFT_TLB_ENTRIES / GROUP / 64)
#define LOCALS  256
#define PCID    UINT64_C(0xfff)
#define NO_PCID UINT32_MAX

_Static_assert(WORDS *GROUP * 64 == SOFT_TLB_ENTRIES, "groups fill whole words");

/* What is remembered of one soft_tlb. */
struct tlb_use {
    uint64_t touched[3][WORDS]; /* by group */
    /* Entries that are not global, as access << 16 | index, of the kernel's TLBs; more than LOCALS:
     * any of those touched. */
    uint32_t local[LOCALS];
    unsigned locals;
};

/* Of one PCID; 0 stands for none too. */
struct space {
    struct soft_tlb user;
    struct tlb_use use;
    uint32_t pcid;
    uint64_t used_at; /* 0: it is free */
};

/*
 * INVLPG drops the whole of a large page, but TLB entries know only 4 KiB. Two Bloom-like bitmaps
 * remember in which 2 MiB and 1 GiB units large pages were used since the last flush: an INVLPG
 * there flushes everything, elsewhere it need look at one entry only. Each half of the address
 * space has its own: kernels map all memory with large pages.
 */
struct large_pages {
    uint64_t seen[2][64];
};

struct soft_tlbs {
    struct soft_tlb kernel[2], checked;
    struct tlb_use kernel_use[2]; /* SOFT_KERNEL, SOFT_KERNEL_SMAP */
    struct space space[SOFT_SPACES];
    struct large_pages large;
    unsigned now;      /* the space */
    uint64_t switches; /* so far */
    bool user_globals; /* some space's user TLB may have global entries */
};

/* -- construction -- */

static void tlb_init(struct soft_tlb *tlb)
{
    for (unsigned a = 0; a < 3; a++) {
        tlb->entry[a][0].tag = soft_tlb_empty(0);
        tlb->entry[a][SOFT_TLB_ENTRIES - 1].tag = soft_tlb_empty(SOFT_TLB_ENTRIES - 1);
    }
}

bool soft_tlbs_new(struct soft_vcpu *c)
{
    struct soft_tlbs *t = calloc(1, sizeof *t);

    if (!t)
        return false;
    for (unsigned i = 0; i < SOFT_SPACES; i++) {
        tlb_init(&t->space[i].user);
        t->space[i].pcid = i == 0 ? 0 : NO_PCID;
    }
    tlb_init(&t->kernel[0]);
    tlb_init(&t->kernel[1]);
    tlb_init(&t->checked);
    c->tlb[SOFT_KERNEL] = &t->kernel[SOFT_KERNEL];
    c->tlb[SOFT_KERNEL_SMAP] = &t->kernel[SOFT_KERNEL_SMAP];
    c->tlb[SOFT_USER] = &t->space[0].user;
    c->tlb[SOFT_CHECKED] = &t->checked;
    c->tlbs = t;
    return true;
}

void soft_tlbs_free(struct soft_vcpu *c)
{
    free(c->tlbs);
    c->tlbs = NULL;
}

/* -- filling -- */

static unsigned large_hash(uint64_t unit)
{
    return (unsigned)((unit * UINT64_C(0x9e3779b97f4a7c15)) >> 52);
}

void soft_tlb_large_note(struct soft_vcpu *c, uint64_t linear, unsigned shift)
{
    uint64_t *seen = c->tlbs->large.seen[linear >> 63];
    unsigned bit = large_hash(shift == 30 ? ~(linear >> 30) : linear >> (shift == 22 ? 22 : 21));

    if (shift > 12)
        seen[bit / 64] |= UINT64_C(1) << (bit % 64);
}

static bool large_seen(const struct soft_vcpu *c, uint64_t linear)
{
    const uint64_t *seen = c->tlbs->large.seen[linear >> 63];
    const uint64_t units[] = {linear >> 21, linear >> 22, ~(linear >> 30)};

    for (unsigned i = 0; i < 3; i++) {
        unsigned bit = large_hash(units[i]);

        if (seen[bit / 64] & (UINT64_C(1) << (bit % 64)))
            return true;
    }
    return false;
}

void soft_tlb_set(struct soft_vcpu *c, enum soft_privilege privilege, enum soft_access access,
                  const struct soft_tlb_fill *fill)
{
    struct soft_tlbs *t = c->tlbs;
    struct tlb_use *use =
        privilege == SOFT_USER ? &t->space[t->now].use : &t->kernel_use[privilege];
    struct soft_tlb *tlb = c->tlb[privilege];
    unsigned index = (unsigned)(fill->linear >> 12) % SOFT_TLB_ENTRIES;
    uint64_t offset = fill->linear & (GUEST_PAGE_SIZE - 1);

    tlb->entry[access][index] = (struct soft_tlb_entry){
        .tag = fill->linear - offset, .page = (uint64_t)(uintptr_t)fill->host - offset};
    tlb->global[access][index] = fill->global;
    use->touched[access][index / GROUP / 64] |= UINT64_C(1) << (index / GROUP % 64);
    if (privilege == SOFT_USER)
        t->user_globals |= fill->global;
    else if (!fill->global && use->locals <= LOCALS) {
        if (use->locals < LOCALS)
            use->local[use->locals] = (uint32_t)access << 16 | index;
        use->locals++;
    }
}

/* -- dropping -- */

static void group_drop(struct soft_tlb *tlb, unsigned access, unsigned group, bool globals)
{
    for (unsigned i = group * GROUP; i < (group + 1) * GROUP; i++) {
        if (globals || !tlb->global[access][i])
            tlb->entry[access][i].tag = soft_tlb_empty(i);
    }
}

/* All entries of one kind of access; or those that are not global. */
static void array_drop(struct soft_tlb *tlb, struct tlb_use *use, unsigned access, bool globals)
{
    for (unsigned word = 0; word < WORDS; word++) {
        uint64_t touched = use->touched[access][word];

        for (; touched; touched &= touched - 1)
            group_drop(tlb, access, word * 64 + (unsigned)__builtin_ctzll(touched), globals);
        if (globals)
            use->touched[access][word] = 0;
    }
}

static void tlb_drop(struct soft_tlb *tlb, struct tlb_use *use)
{
    for (unsigned a = 0; a < 3; a++)
        array_drop(tlb, use, a, true);
    use->locals = 0;
}

/* The kernel's entries that belong to one address space. */
static void kernel_locals_drop(struct soft_vcpu *c)
{
    for (unsigned p = SOFT_KERNEL; p <= SOFT_KERNEL_SMAP; p++) {
        struct tlb_use *use = &c->tlbs->kernel_use[p];
        struct soft_tlb *tlb = c->tlb[p];

        for (unsigned a = 0; use->locals > LOCALS && a < 3; a++)
            array_drop(tlb, use, a, false);
        for (unsigned i = 0; use->locals <= LOCALS && i < use->locals; i++) {
            unsigned access = use->local[i] >> 16, index = use->local[i] & 0xffff;

            if (!tlb->global[access][index])
                tlb->entry[access][index].tag = soft_tlb_empty(index);
        }
        use->locals = 0;
    }
}

/* A space's own entries and blocks. */
static void space_drop(struct soft_vcpu *c, unsigned i)
{
    tlb_drop(&c->tlbs->space[i].user, &c->tlbs->space[i].use);
    soft_code_forget_space(c, i);
}

static void page_drop(struct soft_tlb *tlb, uint64_t linear)
{
    unsigned index = (unsigned)(linear >> 12) % SOFT_TLB_ENTRIES;

    for (unsigned a = 0; a < 3; a++) {
        if (tlb->entry[a][index].tag == (linear & ~UINT64_C(0xfff)))
            tlb->entry[a][index].tag = soft_tlb_empty(index);
    }
}

/* -- what the processor does -- */

static uint32_t pcid_of(const struct soft_vcpu *c, uint64_t cr3)
{
    return c->cr4 & X86_CR4_PCIDE ? (uint32_t)(cr3 & PCID) : 0;
}

void soft_tlb_flush(struct soft_vcpu *c)
{
    struct soft_tlbs *t = c->tlbs;

    soft_slots_clear(c);
    soft_count(&c->counters.flush_all);
    soft_trace(c, TRACE_FLUSH, TRACE_FLUSH_ALL, 0);
    tlb_drop(c->tlb[SOFT_KERNEL], &t->kernel_use[SOFT_KERNEL]);
    tlb_drop(c->tlb[SOFT_KERNEL_SMAP], &t->kernel_use[SOFT_KERNEL_SMAP]);
    for (unsigned i = 0; i < SOFT_SPACES; i++) {
        tlb_drop(&t->space[i].user, &t->space[i].use);
        t->space[i].pcid = NO_PCID;
        t->space[i].used_at = 0;
    }
    t->space[t->now].pcid = pcid_of(c, c->cr3);
    t->space[t->now].used_at = ++t->switches;
    t->user_globals = false;
    for (unsigned half = 0; half < 2; half++) {
        for (volatile uint64_t *seen = t->large.seen[half]; seen < t->large.seen[half] + 64; seen++)
            *seen = 0;
    }
    soft_code_forget_addresses(c);
}

/* This PCID's entries; global pages stay in the kernel's TLBs. */
static void flush_local(struct soft_vcpu *c)
{
    soft_slots_clear(c);
    soft_count(&c->counters.flush_local);
    soft_trace(c, TRACE_FLUSH, TRACE_FLUSH_LOCAL, 0);
    kernel_locals_drop(c);
    space_drop(c, c->tlbs->now);
}

void soft_tlb_flush_spaces(struct soft_vcpu *c)
{
    flush_local(c);
    for (unsigned i = 0; i < SOFT_SPACES; i++) {
        if (i != c->tlbs->now && c->tlbs->space[i].pcid != NO_PCID)
            space_drop(c, i);
    }
}

/* Of a PCID, or SOFT_SPACES. */
static unsigned space_find(const struct soft_tlbs *t, uint32_t pcid)
{
    unsigned i = 0;

    while (i < SOFT_SPACES && t->space[i].pcid != pcid)
        i++;
    return i;
}

/* The one used longest ago, emptied. */
static unsigned space_take(struct soft_vcpu *c, uint32_t pcid)
{
    struct soft_tlbs *t = c->tlbs;
    unsigned oldest = 0;

    for (unsigned i = 1; i < SOFT_SPACES; i++) {
        if (t->space[i].used_at < t->space[oldest].used_at)
            oldest = i;
    }
    space_drop(c, oldest);
    t->space[oldest].pcid = pcid;
    return oldest;
}

static void space_enter(struct soft_vcpu *c, unsigned i)
{
    struct soft_tlbs *t = c->tlbs;

    t->now = i;
    t->space[i].used_at = ++t->switches;
    c->tlb[SOFT_USER] = &t->space[i].user;
    soft_code_space_set(c, i); /* and c->tlb_now */
}

void soft_tlb_switch(struct soft_vcpu *c, uint64_t cr3, bool keep)
{
    uint32_t pcid = pcid_of(c, cr3);
    unsigned i = space_find(c->tlbs, pcid);

    soft_slots_clear(c);
    soft_count(keep ? &c->counters.flush_none : &c->counters.flush_local);
    soft_trace(c, TRACE_FLUSH, TRACE_FLUSH_LOCAL, 0);
    kernel_locals_drop(c);
    if (i == SOFT_SPACES)
        i = space_take(c, pcid);
    else if (!keep)
        space_drop(c, i);
    if (c->tlbs->now != i)
        space_enter(c, i);
}

void soft_tlb_flush_pcid(struct soft_vcpu *c, uint16_t pcid)
{
    unsigned i = space_find(c->tlbs, pcid);

    if (i == c->tlbs->now)
        flush_local(c);
    else if (i < SOFT_SPACES)
        space_drop(c, i);
}

void soft_tlb_flush_page(struct soft_vcpu *c, uint64_t linear)
{
    struct soft_tlbs *t = c->tlbs;

    soft_count(&c->counters.flush_page);
    soft_trace(c, TRACE_FLUSH, TRACE_FLUSH_PAGE, linear);
    if (large_seen(c, linear)) {
        soft_tlb_flush(c);
        return;
    }
    soft_slots_clear(c);
    for (unsigned p = 0; p < SOFT_CHECKED; p++)
        page_drop(c->tlb[p], linear);
    for (unsigned i = 0; t->user_globals && i < SOFT_SPACES; i++)
        page_drop(&t->space[i].user, linear);
    soft_code_forget_page(c, linear);
}

void soft_tlb_flush_pcid_page(struct soft_vcpu *c, uint16_t pcid, uint64_t linear)
{
    unsigned i = space_find(c->tlbs, pcid);

    if (i == c->tlbs->now)
        soft_tlb_flush_page(c, linear);
    else if (i < SOFT_SPACES)
        space_drop(c, i);
}

void soft_tlb_flush_writes(struct soft_vcpu *c)
{
    struct soft_tlbs *t = c->tlbs;

    soft_slots_clear(c);
    soft_count(&c->counters.flush_writes);
    array_drop(c->tlb[SOFT_KERNEL], &t->kernel_use[SOFT_KERNEL], SOFT_WRITE, true);
    array_drop(c->tlb[SOFT_KERNEL_SMAP], &t->kernel_use[SOFT_KERNEL_SMAP], SOFT_WRITE, true);
    for (unsigned i = 0; i < SOFT_SPACES; i++)
        array_drop(&t->space[i].user, &t->space[i].use, SOFT_WRITE, true);
}

static void page_writes_drop(struct soft_tlb *tlb, const struct tlb_use *use, const uint8_t *page)
{
    struct soft_tlb_entry *entry = tlb->entry[SOFT_WRITE];

    for (unsigned word = 0; word < WORDS; word++) {
        uint64_t touched = use->touched[SOFT_WRITE][word];

        for (; touched; touched &= touched - 1) {
            unsigned first = (word * 64 + (unsigned)__builtin_ctzll(touched)) * GROUP;

            for (unsigned i = first; i < first + GROUP; i++) {
                if (entry[i].page == (uint64_t)(uintptr_t)page)
                    entry[i].tag = soft_tlb_empty(i);
            }
        }
    }
}

void soft_tlb_forget_writes(struct soft_vcpu *c, const uint8_t *page)
{
    struct soft_tlbs *t = c->tlbs;

    soft_slots_clear(c);
    for (unsigned p = SOFT_KERNEL; p <= SOFT_KERNEL_SMAP; p++)
        page_writes_drop(c->tlb[p], &t->kernel_use[p], page);
    for (unsigned i = 0; i < SOFT_SPACES; i++)
        page_writes_drop(&t->space[i].user, &t->space[i].use, page);
}
