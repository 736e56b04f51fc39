/*
 * Page walks, and what they put into the TLBs (tlb.c).
 *
 * Source: AMD APM vol. 2, ch. 5; Intel SDM vol. 3, ch. 4. A TLB entry stands for a permission
 * already judged: there is one TLB per way of judging (enum soft_privilege) and one array in it per
 * kind of access, so that a hit needs no further check. Write entries exist only for pages whose
 * dirty bit is set and that hold no decoded code.
 * Threads: a vCPU's own. Page tables are guest memory: they may change at any time and hold
 * anything; accessed and dirty bits are set by compare-and-exchange, as hardware does.
 */
#include "cpu/soft/paging.h"

#include "cpu/soft/code.h"
#include "cpu/soft/leaf.h"
#include "cpu/soft/tlb.h"

#define PTE_P       (UINT64_C(1) << 0)
#define PTE_W       (UINT64_C(1) << 1)
#define PTE_U       (UINT64_C(1) << 2)
#define PTE_A       (UINT64_C(1) << 5)
#define PTE_D       (UINT64_C(1) << 6)
#define PTE_PS      (UINT64_C(1) << 7)
#define PTE_G       (UINT64_C(1) << 8)
#define PTE_KEY     (UINT64_C(15) << 59)
#define PTE_NX      (UINT64_C(1) << 63)
#define PTE_ADDR    UINT64_C(0x000ffffffffff000)

#define PF_PRESENT  1u
#define PF_WRITE    2u
#define PF_USER     4u
#define PF_RESERVED 8u
#define PF_FETCH    16u
#define PF_KEY      32u

uint8_t *soft_host(struct soft_vcpu *c, uint64_t gpa, bool *rom)
{
    const struct mem_slot *slot = mem_slot_find(c->vm->mem, gpa);

    if (!slot)
        return NULL;
    *rom = slot->kind == MEM_ROM;
    return slot->host + (gpa - slot->gpa);
}

/* One paging-structure entry and where it lives. */
struct entry {
    uint64_t gpa;
    uint64_t value;
    uint8_t *host; /* NULL: not in RAM, accessed bits are not kept */
    unsigned size; /* 4 or 8 bytes */
};

struct walk {
    struct soft_vcpu *c;
    uint64_t linear;
    enum soft_access access;
    enum soft_privilege privilege;
    struct entry entry[4];
    unsigned depth;
    uint64_t rights; /* W and U bits of all levels, ANDed; NX ORed; the leaf's key */
    bool reserved;
    bool leaf, declined;
};

static void entry_read(struct walk *w, uint64_t gpa, unsigned size)
{
    struct entry *entry = &w->entry[w->depth++];
    bool rom = false;

    entry->gpa = gpa;
    entry->size = size;
    entry->host = soft_host(w->c, gpa, &rom);
    if (!entry->host)
        entry->value = UINT64_MAX; /* an empty bus reads as ones */
    else if (size == 8)
        entry->value = __atomic_load_n((uint64_t *)(void *)entry->host, __ATOMIC_RELAXED);
    else
        entry->value = __atomic_load_n((uint32_t *)(void *)entry->host, __ATOMIC_RELAXED);
    if (rom)
        entry->host = NULL;
    w->rights &= entry->value | ~(PTE_W | PTE_U);
    if (size == 8)
        w->rights |= entry->value & PTE_NX;
}

static uint64_t entry_reserved_bits(const struct soft_vcpu *c)
{
    uint64_t bits = PTE_ADDR & ~((UINT64_C(1) << c->vm->cpuid->physical_bits) - 1);

    if (!(c->efer & X86_EFER_NXE))
        bits |= PTE_NX;
    if (!c->long_mode)
        bits |= UINT64_C(0x7ff) << 52;
    return bits;
}

/* Checks the entry read last; false: the walk ends in a fault (not present or reserved). */
static bool entry_usable(struct walk *w, uint64_t reserved)
{
    const struct entry *entry = &w->entry[w->depth - 1];

    if (!(entry->value & PTE_P))
        return false;
    if (entry->value & reserved)
        w->reserved = true;
    return !w->reserved;
}

/* The offset bits of a page of 2^shift bytes. */
static uint64_t page_mask(unsigned shift)
{
    return (UINT64_C(1) << shift) - 1;
}

/* PAE and 4-level tables from `level` down (level 0 is the page table). */
static bool walk_wide(struct walk *w, uint64_t table, unsigned level, struct soft_page *page)
{
    uint64_t reserved = entry_reserved_bits(w->c);

    for (;; level--) {
        unsigned shift = 12 + 9 * level;
        bool may_be_large =
            level == 1 || (level == 2 && w->c->vm->cpuid->feature[X86_FEATURE_PAGE1GB]);
        uint64_t extra = 0;
        uint64_t value;

        entry_read(w, table + 8 * ((w->linear >> shift) & 511), 8);
        value = w->entry[w->depth - 1].value;
        if (level > 0 && !may_be_large)
            extra = PTE_PS;
        if (level > 0 && may_be_large && (value & PTE_PS))
            extra = page_mask(shift) & ~page_mask(13);
        if (!entry_usable(w, reserved | extra))
            return false;
        if (level == 0 || (value & PTE_PS)) {
            page->gpa = (value & PTE_ADDR & ~page_mask(shift)) | (w->linear & page_mask(shift));
            page->shift = shift;
            w->rights |= value & PTE_KEY;
            return true;
        }
        table = value & PTE_ADDR;
    }
}

/* 32-bit paging, with 4 MiB pages of PSE (and PSE-36's upper address bits). */
static bool walk_narrow(struct walk *w, struct soft_page *page)
{
    uint64_t table = w->c->cr3 & 0xfffff000u;
    uint64_t value;

    entry_read(w, table + 4 * (w->linear >> 22), 4);
    value = w->entry[0].value;
    if ((value & PTE_PS) && (w->c->cr4 & X86_CR4_PSE)) {
        if (!entry_usable(w, UINT64_C(1) << 21))
            return false;
        page->gpa = (value & 0xffc00000u) | ((value & 0x1fe000) << 19) | (w->linear & 0x3fffff);
        page->shift = 22;
        return true;
    }
    if (!entry_usable(w, 0))
        return false;
    entry_read(w, (value & 0xfffff000u) + 4 * ((w->linear >> 12) & 1023), 4);
    if (!entry_usable(w, 0))
        return false;
    page->gpa = (w->entry[1].value & 0xfffff000u) | (w->linear & 0xfff);
    page->shift = 12;
    return true;
}

static bool walk_tables(struct walk *w, struct soft_page *page)
{
    const struct soft_vcpu *c = w->c;
    uint64_t pdpte;

    if (c->long_mode)
        return walk_wide(w, c->cr3 & PTE_ADDR, 3, page);
    if (!(c->cr4 & X86_CR4_PAE))
        return walk_narrow(w, page);
    pdpte = c->pdpte[(w->linear >> 30) & 3];
    if (!(pdpte & PTE_P))
        return false;
    return walk_wide(w, pdpte & PTE_ADDR, 1, page);
}

/* Protection keys (SDM vol. 3, 4.6.2): two bits a key, "no access" and "no write". */
static inline bool key_permits(const struct soft_vcpu *c, enum soft_access access,
                               enum soft_privilege privilege, uint64_t rights)
{
    bool user_page = (rights & PTE_U) != 0;
    unsigned shift = (unsigned)((rights & PTE_KEY) >> 59) * 2;
    uint64_t bits = (user_page ? c->pkru : c->pkrs) >> shift;

    if (!(c->cr4 & (user_page ? X86_CR4_PKE : X86_CR4_PKS)) || !c->long_mode ||
        access == SOFT_FETCH)
        return true;
    if (bits & 1)
        return false;
    return !(bits & 2) || access != SOFT_WRITE ||
           (privilege != SOFT_USER && !(c->cr0 & X86_CR0_WP));
}

static inline bool access_permitted(const struct soft_vcpu *c, enum soft_access access,
                                    enum soft_privilege privilege, uint64_t rights)
{
    bool user_page = (rights & PTE_U) != 0;
    bool writable = (rights & PTE_W) != 0;

    if (access == SOFT_FETCH && (rights & PTE_NX))
        return false;
    if (!key_permits(c, access, privilege, rights))
        return false;
    if (privilege == SOFT_USER)
        return user_page && (access != SOFT_WRITE || writable);
    if (user_page && access == SOFT_FETCH)
        return !(c->cr4 & X86_CR4_SMEP);
    if (user_page && privilege == SOFT_KERNEL_SMAP)
        return false;
    return access != SOFT_WRITE || writable || !(c->cr0 & X86_CR0_WP);
}

static uint32_t fault_code(const struct walk *w, bool present)
{
    const struct soft_vcpu *c = w->c;
    bool nx = (c->efer & X86_EFER_NXE) && (c->cr4 & X86_CR4_PAE);
    uint32_t code = present ? PF_PRESENT : 0;

    if (w->reserved)
        code |= PF_RESERVED | PF_PRESENT;
    if (w->access == SOFT_WRITE)
        code |= PF_WRITE;
    if (w->privilege == SOFT_USER)
        code |= PF_USER;
    if (w->access == SOFT_FETCH && (nx || (c->cr4 & X86_CR4_SMEP)))
        code |= PF_FETCH;
    if (present && !key_permits(c, w->access, w->privilege, w->rights))
        code |= PF_KEY;
    return code;
}

/* Sets bits in an entry unless it has changed meanwhile; false: walk again. */
static bool entry_mark(struct walk *w, struct entry *entry, uint64_t bits)
{
    uint64_t wanted = entry->value | bits;

    if (!entry->host || wanted == entry->value)
        return true;
    if (w->leaf && mem_code_marked(w->c->vm->mem, entry->gpa)) {
        w->declined = true;
        return true;
    }
    soft_code_written(w->c, entry->gpa, entry->size);
    if (entry->size == 8)
        return __atomic_compare_exchange_n((uint64_t *)(void *)entry->host, &entry->value, wanted,
                                           false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    uint32_t expected = (uint32_t)entry->value;
    return __atomic_compare_exchange_n((uint32_t *)(void *)entry->host, &expected, (uint32_t)wanted,
                                       false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static bool entries_mark(struct walk *w)
{
    for (unsigned i = 0; i < w->depth; i++) {
        bool leaf = i + 1 == w->depth;
        uint64_t bits = PTE_A | (leaf && w->access == SOFT_WRITE ? PTE_D : 0);

        if (!entry_mark(w, &w->entry[i], bits))
            return false;
    }
    return true;
}

/* Whether a store needs no further walk: dirty already, and permitted. */
static bool store_permitted(const struct walk *w)
{
    return access_permitted(w->c, SOFT_WRITE, w->privilege, w->rights) &&
           (w->access == SOFT_WRITE || (w->entry[w->depth - 1].value & PTE_D));
}

/*
 * The usual walk: 4-level tables in RAM, nothing to raise and nothing to mark; false: it is not
 * that. It keeps all in registers: a guest that stores all over its memory has the host's store
 * buffer full of misses, and each store of a walk then waits for one of them.
 */
static bool walk_plain(struct soft_vcpu *c, const struct soft_walk_request *request,
                       struct soft_page *page)
{
    uint64_t linear = request->linear, table = c->cr3 & PTE_ADDR, rights = PTE_W | PTE_U;
    uint64_t reserved = entry_reserved_bits(c), needed = PTE_P | PTE_A, value;
    unsigned shift = 39;

    for (;; shift -= 9) {
        const struct mem_slot *slot = mem_slot_find(c->vm->mem, table);

        if (!slot || slot->kind != MEM_RAM)
            return false;
        value = __atomic_load_n(
            (uint64_t *)(void *)(slot->host + (table - slot->gpa) + 8 * (linear >> shift & 511)),
            __ATOMIC_RELAXED);
        if ((value & needed) != needed || (value & reserved))
            return false;
        rights = (rights & (value | ~(PTE_W | PTE_U))) | (value & PTE_NX);
        if (shift == 12)
            break;
        if (value & PTE_PS) {
            if (shift == 39 || (shift == 30 && !c->vm->cpuid->feature[X86_FEATURE_PAGE1GB]) ||
                (value & page_mask(shift) & ~page_mask(13)))
                return false;
            break;
        }
        table = value & PTE_ADDR;
    }
    rights |= value & PTE_KEY;
    if ((request->access == SOFT_WRITE && !(value & PTE_D)) ||
        !access_permitted(c, request->access, request->privilege, rights))
        return false;
    page->gpa = (value & PTE_ADDR & ~page_mask(shift)) | (linear & page_mask(shift));
    page->shift = shift;
    page->writable = (value & PTE_D) && access_permitted(c, SOFT_WRITE, request->privilege, rights);
    page->global = (c->cr4 & X86_CR4_PGE) && (value & PTE_G);
    return true;
}

bool soft_walk(struct soft_vcpu *c, const struct soft_walk_request *request, struct soft_page *page)
{
    if (!(c->cr0 & X86_CR0_PG)) {
        page->gpa = request->linear;
        page->writable = true;
        return true;
    }
    soft_count(&c->counters.walks);
    if (c->long_mode && walk_plain(c, request, page))
        return true;
    for (;;) {
        struct walk w = {.c = c,
                         .linear = request->linear,
                         .access = request->access,
                         .privilege = request->privilege,
                         .leaf = request->leaf,
                         .rights = PTE_W | PTE_U};

        if (!walk_tables(&w, page)) {
            page->fault_code = fault_code(&w, false);
            return false;
        }
        if (!access_permitted(c, w.access, w.privilege, w.rights)) {
            page->fault_code = fault_code(&w, true);
            return false;
        }
        if (entries_mark(&w)) {
            page->declined = w.declined;
            if (w.declined)
                return false;
            page->writable = store_permitted(&w);
            page->global = (c->cr4 & X86_CR4_PGE) && (w.entry[w.depth - 1].value & PTE_G);
            return true;
        }
    }
}

enum soft_privilege soft_privilege_now(const struct soft_vcpu *c)
{
    if (c->cpl == 3)
        return SOFT_USER;
    return (c->cr4 & X86_CR4_SMAP) && !(c->rflags & X86_RFLAGS_AC) ? SOFT_KERNEL_SMAP : SOFT_KERNEL;
}

static void target_set(struct soft_vcpu *c, const struct soft_page *page,
                       struct soft_target *target)
{
    bool rom = false;

    target->gpa = page->gpa;
    target->host = soft_host(c, page->gpa, &rom);
    target->rom = rom;
    target->global = page->global;
    target->code = target->host && !rom && mem_code_marked(c->vm->mem, page->gpa);
}

/* Makes the TLB entries that the walk allows. */
static void target_cache(struct soft_vcpu *c, const struct soft_walk_request *request,
                         const struct soft_page *page, const struct soft_target *target)
{
    const struct soft_tlb_fill fill = {
        .linear = request->linear, .host = target->host, .global = target->global};

    soft_tlb_large_note(c, request->linear, page->shift);
    if (request->access == SOFT_FETCH) {
        soft_tlb_set(c, request->privilege, SOFT_FETCH, &fill);
        return;
    }
    soft_tlb_set(c, request->privilege, SOFT_READ, &fill);
    if (page->writable && !target->rom && !target->code)
        soft_tlb_set(c, request->privilege, SOFT_WRITE, &fill);
}

void soft_translate(struct soft_vcpu *c, const struct soft_walk_request *request,
                    struct soft_target *target)
{
    struct soft_page page = {0};
    uint64_t linear = request->linear;

    if (c->long_mode && !soft_is_canonical(linear)) {
        if (request->access != SOFT_FETCH && c->op->insn.segment == X86_SS && c->op->insn.memory)
            soft_raise_code(c, X86_SSV, 0);
        soft_raise_code(c, X86_GP, 0);
    }
    enum soft_activity before = soft_activity_get(&c->counters);
    soft_activity_set(&c->counters, SOFT_IN_WALK);
    if (request->cache)
        soft_count(&c->counters.tlb_miss[request->privilege][request->access]);
    if (!soft_walk(c, request, &page))
        soft_page_fault(c, linear, page.fault_code);
    soft_activity_set(&c->counters, before);
    target_set(c, &page, target);
    if (target->host && request->cache)
        target_cache(c, request, &page, target);
}

/* -- stores to pages with code: what the TLB must not hold -- */

/* The next stores around this one need not ask (slot_emit() in translate_fixed.c). */
static void apart_set(struct soft_vcpu *c, uint64_t linear, uint64_t gpa)
{
    struct soft_range range = soft_code_apart_range(c, gpa);
    uint64_t page = linear & ~UINT64_C(0xfff);

    c->apart = (struct soft_apart){.from = page + range.from,
                                   .base = page + range.to - GUEST_PAGE_SIZE,
                                   .host = c->exit_value - linear};
}

/* Whether the store may go straight to c->exit_value. */
static bool code_write_find(struct soft_vcpu *c, uint64_t linear, unsigned size)
{
    const struct soft_code_writes *writes = &c->code_writes;
    unsigned i = (unsigned)(linear >> 12) % SOFT_CODE_WRITES;
    uint64_t offset = linear & (GUEST_PAGE_SIZE - 1);

    if (writes->tag[i] != linear - offset || writes->privilege[i] != c->privilege ||
        !soft_code_is_apart(c, writes->gpa[i] + offset, size))
        return false;
    soft_code_look(c, writes->gpa[i] + offset);
    soft_count(&c->counters.leaf_stores_apart);
    c->exit_value = (uint64_t)(uintptr_t)(writes->host[i] + offset);
    apart_set(c, linear, writes->gpa[i] + offset);
    return true;
}

unsigned soft_leaf_apart(const struct soft_vcpu *c, uint64_t linear, unsigned most)
{
    uint64_t page = c->code_writes.gpa[(linear >> 12) % SOFT_CODE_WRITES];
    unsigned offset = (unsigned)linear % GUEST_PAGE_SIZE;
    struct soft_range range = soft_code_apart_range(c, page + offset);

    if (range.to == 0)
        return 0;
    return most < range.to - offset ? most : range.to - offset;
}

static void code_write_set(struct soft_vcpu *c, uint64_t linear, const struct soft_target *target)
{
    struct soft_code_writes *writes = &c->code_writes;
    unsigned i = (unsigned)(linear >> 12) % SOFT_CODE_WRITES;
    uint64_t offset = linear & (GUEST_PAGE_SIZE - 1);

    writes->tag[i] = linear - offset;
    writes->gpa[i] = target->gpa - offset;
    writes->host[i] = target->host - offset;
    writes->privilege[i] = c->privilege;
}

enum soft_fill soft_leaf_fill(struct soft_vcpu *c, uint64_t linear, uint32_t what)
{
    unsigned size = what >> 8;
    struct soft_walk_request request = {.linear = linear,
                                        .access = (enum soft_access)(what & 0x3f),
                                        .privilege = soft_privilege_now(c),
                                        .leaf = true};
    struct soft_page page = {0};
    struct soft_target target;
    enum soft_activity before = soft_activity_get(&c->counters);

    if ((what & SOFT_FILL_COPY) && (linear & 0xfff) + size > GUEST_PAGE_SIZE)
        return soft_leaf_split_read(c, linear, size);
    if ((linear & 0xfff) + size > GUEST_PAGE_SIZE || c->privilege == SOFT_CHECKED ||
        !soft_is_canonical(linear) || (what & SOFT_FILL_EARLY))
        return SOFT_FILL_TWIN;
    if (request.access == SOFT_WRITE && code_write_find(c, linear, size))
        return SOFT_FILL_DIRECT;
    soft_activity_set(&c->counters, SOFT_IN_WALK);
    if (!soft_walk(c, &request, &page))
        return SOFT_FILL_TWIN;
    target_set(c, &page, &target);
    if (!target.host || (request.access == SOFT_WRITE && target.rom))
        return SOFT_FILL_TWIN;
    if (request.access == SOFT_WRITE && target.code) {
        code_write_set(c, linear, &target);
        soft_activity_set(&c->counters, before);
        return code_write_find(c, linear, size) ? SOFT_FILL_DIRECT : SOFT_FILL_TWIN;
    }
    target_cache(c, &request, &page, &target);
    soft_count(&c->counters.tlb_miss[request.privilege][request.access]);
    soft_count(&c->counters.leaf_fills);
    soft_activity_set(&c->counters, before);
    return SOFT_FILL_AGAIN;
}

/* Intel SDM vol. 3, 4.4.1: the four PDPTEs are loaded by MOV to CR3 and friends. */
bool soft_pdpte_load(struct soft_vcpu *c, uint64_t cr3)
{
    uint64_t value[4];
    uint64_t physical = (UINT64_C(1) << c->vm->cpuid->physical_bits) - 1;
    uint64_t reserved = 0x1e6 | ~physical;

    if (mem_read(c->vm->mem, cr3 & 0xffffffe0u, value, sizeof value) != 0)
        return true; /* an empty bus: no walk will succeed, but nothing to refuse */
    for (unsigned i = 0; i < 4; i++) {
        if ((value[i] & PTE_P) && (value[i] & reserved))
            return false;
    }
    memcpy(c->pdpte, value, sizeof value);
    return true;
}
