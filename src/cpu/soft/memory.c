/*
 * Guest memory as instructions see it: loads, stores and read-modify-write by linear address.
 *
 * The fast path is a TLB hit; everything else (miss, page crossing, memory-mapped I/O, stores to
 * pages with decoded code, alignment checks, watchpoints) takes the slow one. Aligned accesses, and
 * all that a host instruction does on soft_rmw_begin's pointer, are as atomic as on hardware.
 * Threads: a vCPU's own. Trusts nothing of the guest.
 */
#include "cpu/soft/code.h"
#include "cpu/soft/paging.h"
#include "cpu/soft/soft.h"

#define PAGE_OFFSET UINT64_C(0xfff)

/* Guest data lies at any alignment and has any type; each is still one access of the host's. */
typedef uint8_t guest_u8;
typedef uint16_t __attribute__((aligned(1), may_alias)) guest_u16;
typedef uint32_t __attribute__((aligned(1), may_alias)) guest_u32;
typedef uint64_t __attribute__((aligned(1), may_alias)) guest_u64;

static inline void *tlb_find(const struct soft_vcpu *c, uint64_t linear, unsigned size,
                             enum soft_access access)
{
    const struct soft_tlb_entry *entry =
        &c->tlb[c->privilege]->entry[access][(linear >> 12) % SOFT_TLB_ENTRIES];

    /* The last byte's page: an access that crosses pages misses. */
    if (__builtin_expect(entry->tag == ((linear + size - 1) & ~PAGE_OFFSET), 1))
        return (void *)(uintptr_t)(entry->page + (linear & PAGE_OFFSET));
    return NULL;
}

static inline void *tlb_find_store(struct soft_vcpu *c, uint64_t linear, unsigned size)
{
    void *host = tlb_find(c, linear, size, SOFT_WRITE);

    if (host && __builtin_expect(c->trail != NULL, 0))
        soft_trail_store(c, host, size);
    return host;
}

/* A part of an access that lies in one page. */
struct part {
    struct soft_target target;
    unsigned length;
};

struct span {
    struct soft_vcpu *c;
    uint64_t linear;
    unsigned length;
    enum soft_access access;
    enum soft_privilege privilege;
    uint64_t mask; /* of linear addresses */
    struct part part[2];
    unsigned parts;
};

static void alignment_check(const struct span *s)
{
    struct soft_vcpu *c = s->c;

    if (s->privilege == SOFT_USER && (c->rflags & X86_RFLAGS_AC) && (c->cr0 & X86_CR0_AM) &&
        s->length <= 8 && (s->linear & (s->length - 1)))
        soft_raise_code(c, X86_AC, 0);
}

/* Data breakpoints (Intel SDM vol. 3, 17.2.4): matched here, reported after the instruction. */
static void watchpoints_check(const struct span *s)
{
    static const uint8_t lengths[4] = {1, 2, 8, 4};
    struct soft_vcpu *c = s->c;

    for (unsigned i = 0; i < 4; i++) {
        unsigned control = (unsigned)(c->dr7 >> (16 + 4 * i)) & 15;
        uint64_t length = lengths[control >> 2];
        uint64_t from = c->dr[i] & ~(length - 1);
        bool enabled = (c->dr7 >> (2 * i)) & 3;
        bool kind = (control & 3) == 3 || ((control & 3) == 1 && s->access == SOFT_WRITE);

        if (enabled && kind && s->linear < from + length && from < s->linear + s->length)
            c->pending_db |= UINT64_C(1) << i;
    }
}

static void part_translate(struct span *s, uint64_t linear, unsigned length)
{
    struct part *part = &s->part[s->parts++];
    struct soft_walk_request request = {.linear = linear & s->mask,
                                        .access = s->access,
                                        .privilege = s->privilege,
                                        .cache = s->c->privilege != SOFT_CHECKED};

    soft_translate(s->c, &request, &part->target);
    part->length = length;
}

/* Judges and translates the whole span before anything is moved. */
static void span_prepare(struct span *s)
{
    unsigned first = (unsigned)(GUEST_PAGE_SIZE - (s->linear & PAGE_OFFSET));

    if (s->c->privilege == SOFT_CHECKED)
        alignment_check(s);
    if (first > s->length)
        first = s->length;
    part_translate(s, s->linear, first);
    if (first < s->length) {
        soft_count(&s->c->counters.crossings);
        part_translate(s, s->linear + first, s->length - first);
    }
    if (s->c->privilege == SOFT_CHECKED)
        watchpoints_check(s);
}

/* MMIO in naturally aligned pieces of up to 8 bytes. */
static void mmio_move(const struct span *s, const struct part *part, uint8_t *bytes)
{
    bool write = s->access == SOFT_WRITE;

    for (unsigned done = 0; done < part->length;) {
        uint64_t gpa = part->target.gpa + done;
        unsigned size = 8;
        struct cpu_exit request = {.kind = CPU_EXIT_MMIO};

        while ((gpa & (size - 1)) || size > part->length - done)
            size /= 2;
        request.mmio.gpa = gpa;
        request.mmio.size = (uint8_t)size;
        request.mmio.write = write;
        if (write)
            memcpy(&request.mmio.value, bytes + done, size);
        uint64_t value = soft_io(s->c, &request);
        if (!write)
            memcpy(bytes + done, &value, size);
        done += size;
    }
}

/* Single accesses where the size has one (guest code relies on their atomicity). */
static void host_copy(void *to, const void *from, unsigned length)
{
    switch (length) {
    case 1:
        __atomic_store_n((uint8_t *)to, *(const uint8_t *)from, __ATOMIC_RELAXED);
        break;
    case 2:
        *(volatile guest_u16 *)to = *(const volatile guest_u16 *)from;
        break;
    case 4:
        *(volatile guest_u32 *)to = *(const volatile guest_u32 *)from;
        break;
    case 8:
        *(volatile guest_u64 *)to = *(const volatile guest_u64 *)from;
        break;
    default:
        memcpy(to, from, length);
    }
}

static bool part_is_ram(const struct part *part)
{
    return part->target.host && !part->target.rom;
}

static void part_store(const struct span *s, const struct part *part, const uint8_t *bytes)
{
    if (__builtin_expect(s->c->trail != NULL, 0))
        soft_trail_store(s->c, part->target.host, part->length);
    /* Asked now, not when the span was prepared: the other part may have waited for the lock. */
    if (mem_code_marked(s->c->vm->mem, part->target.gpa) &&
        !soft_code_is_apart(s->c, part->target.gpa, part->length)) {
        soft_code_write_begin(s->c, part->target.gpa, part->length);
        host_copy(part->target.host, bytes, part->length);
        soft_code_write_end(s->c);
        return;
    }
    host_copy(part->target.host, bytes, part->length);
}

static void parts_load(const struct span *s, uint8_t *to)
{
    for (unsigned i = 0; i < s->parts; i++) {
        if (s->part[i].target.host)
            host_copy(to, s->part[i].target.host, s->part[i].length);
        else
            mmio_move(s, &s->part[i], to);
        to += s->part[i].length;
    }
}

/* Devices first, RAM last: an access to a device restarts the instruction, which may have read the
 * RAM it is to change. */
static void parts_store(const struct span *s, const uint8_t *from)
{
    for (unsigned i = 0; i < s->parts; i++) {
        if (!part_is_ram(&s->part[i]))
            mmio_move(s, &s->part[i], (uint8_t *)(uintptr_t)from + (i > 0 ? s->part[0].length : 0));
    }
    for (unsigned i = 0; i < s->parts; i++) {
        if (part_is_ram(&s->part[i]))
            part_store(s, &s->part[i], from + (i > 0 ? s->part[0].length : 0));
    }
}

static void span_load(struct span *s, uint8_t *to)
{
    span_prepare(s);
    parts_load(s, to);
}

static void span_store(struct span *s, const uint8_t *from)
{
    span_prepare(s);
    parts_store(s, from);
}

/* By c->privilege, which descriptor.c lends, or what SOFT_CHECKED stands for. */
static struct span span_of(struct soft_vcpu *c, uint64_t linear, unsigned length,
                           enum soft_access access)
{
    enum soft_privilege privilege = (enum soft_privilege)c->privilege;

    if (privilege == SOFT_CHECKED)
        privilege = soft_privilege_now(c);
    return (struct span){.c = c,
                         .linear = linear,
                         .length = length,
                         .access = access,
                         .privilege = privilege,
                         .mask = c->address_mask};
}

static __attribute__((noinline)) uint64_t load_slow(struct soft_vcpu *c, uint64_t linear,
                                                    unsigned size)
{
    struct span s = span_of(c, linear, size, SOFT_READ);
    _Alignas(8) uint8_t bytes[8] = {0};
    uint64_t value;

    span_load(&s, bytes);
    memcpy(&value, bytes, sizeof value);
    return value;
}

static __attribute__((noinline)) void store_slow(struct soft_vcpu *c, uint64_t linear,
                                                 uint64_t value, unsigned size)
{
    struct span s = span_of(c, linear, size, SOFT_WRITE);
    _Alignas(8) uint8_t bytes[8];

    memcpy(bytes, &value, sizeof value);
    span_store(&s, bytes);
}

#define SIZED_ACCESS(bits)                                                                         \
    uint##bits##_t soft_load##bits(struct soft_vcpu *c, uint64_t linear)                           \
    {                                                                                              \
        const volatile guest_u##bits *host = tlb_find(c, linear, bits / 8, SOFT_READ);             \
                                                                                                   \
        return host ? *host : (uint##bits##_t)load_slow(c, linear, bits / 8);                      \
    }                                                                                              \
    void soft_store##bits(struct soft_vcpu *c, uint64_t linear, uint##bits##_t value)              \
    {                                                                                              \
        volatile guest_u##bits *host = tlb_find_store(c, linear, bits / 8);                        \
                                                                                                   \
        if (host)                                                                                  \
            *host = value;                                                                         \
        else                                                                                       \
            store_slow(c, linear, value, bits / 8);                                                \
    }
SIZED_ACCESS(8)
SIZED_ACCESS(16)
SIZED_ACCESS(32)
SIZED_ACCESS(64)

uint64_t soft_load(struct soft_vcpu *c, uint64_t linear, unsigned size)
{
    switch (size) {
    case 1:
        return soft_load8(c, linear);
    case 2:
        return soft_load16(c, linear);
    case 4:
        return soft_load32(c, linear);
    default:
        return soft_load64(c, linear);
    }
}

void soft_store(struct soft_vcpu *c, uint64_t linear, uint64_t value, unsigned size)
{
    switch (size) {
    case 1:
        soft_store8(c, linear, (uint8_t)value);
        break;
    case 2:
        soft_store16(c, linear, (uint16_t)value);
        break;
    case 4:
        soft_store32(c, linear, (uint32_t)value);
        break;
    default:
        soft_store64(c, linear, value);
    }
}

void soft_load_bytes(struct soft_vcpu *c, uint64_t linear, void *to, unsigned length)
{
    const void *host = tlb_find(c, linear, length, SOFT_READ);

    if (host) {
        memcpy(to, host, length);
        return;
    }
    struct span s = span_of(c, linear, length, SOFT_READ);
    span_load(&s, to);
}

void soft_store_bytes(struct soft_vcpu *c, uint64_t linear, const void *from, unsigned length)
{
    void *host = tlb_find_store(c, linear, length);

    if (host) {
        memcpy(host, from, length);
        return;
    }
    struct span s = span_of(c, linear, length, SOFT_WRITE);
    span_store(&s, from);
}

void soft_probe(struct soft_vcpu *c, uint64_t linear, unsigned length, enum soft_access access)
{
    if (tlb_find(c, linear, length, access))
        return;
    struct span s = span_of(c, linear, length, access);
    span_prepare(&s);
}

/* -- with another privilege -- */

/* The processor's own accesses, to tables and inner stacks, have 64-bit addresses in compatibility
 * mode too. */
static struct span span_as(struct soft_vcpu *c, uint64_t linear, unsigned length,
                           enum soft_privilege privilege)
{
    return (struct span){.c = c,
                         .linear = linear,
                         .length = length,
                         .privilege = privilege,
                         .mask = c->long_mode ? UINT64_MAX : UINT32_MAX};
}

/* In that privilege's TLB; NULL: take the slow way. */
static void *span_find(const struct span *s, enum soft_access access)
{
    const struct soft_vcpu *c = s->c;
    const struct soft_tlb_entry *entry =
        &c->tlb[s->privilege]->entry[access][(s->linear >> 12) % SOFT_TLB_ENTRIES];

    if (c->privilege == SOFT_CHECKED || s->linear > s->mask ||
        entry->tag != ((s->linear + s->length - 1) & ~PAGE_OFFSET))
        return NULL;
    return (void *)(uintptr_t)(entry->page + (s->linear & PAGE_OFFSET));
}

static enum soft_privilege system_privilege(const struct soft_vcpu *c)
{
    return c->cr4 & X86_CR4_SMAP ? SOFT_KERNEL_SMAP : SOFT_KERNEL;
}

static enum soft_privilege privilege_as(const struct soft_vcpu *c, uint8_t cpl)
{
    return cpl == 3 ? SOFT_USER : system_privilege(c);
}

static uint64_t load_privileged(struct span s)
{
    _Alignas(8) uint8_t bytes[8] = {0};
    const void *host = span_find(&s, SOFT_READ);
    uint64_t value;

    s.access = SOFT_READ;
    if (host)
        host_copy(bytes, host, s.length);
    else
        span_load(&s, bytes);
    memcpy(&value, bytes, sizeof value);
    return value;
}

static void store_privileged(struct span s, uint64_t value)
{
    _Alignas(8) uint8_t bytes[8];
    void *host = span_find(&s, SOFT_WRITE);

    s.access = SOFT_WRITE;
    memcpy(bytes, &value, sizeof value);
    if (host && s.c->trail)
        soft_trail_store(s.c, host, s.length);
    if (host)
        host_copy(host, bytes, s.length);
    else
        span_store(&s, bytes);
}

uint64_t soft_system_load(struct soft_vcpu *c, uint64_t linear, unsigned size)
{
    return load_privileged(span_as(c, linear, size, system_privilege(c)));
}

void soft_system_store(struct soft_vcpu *c, uint64_t linear, uint64_t value, unsigned size)
{
    store_privileged(span_as(c, linear, size, system_privilege(c)), value);
}

void soft_system_probe(struct soft_vcpu *c, uint64_t linear, unsigned length,
                       enum soft_access access)
{
    struct span s = span_as(c, linear, length, system_privilege(c));

    s.access = access;
    if (!span_find(&s, access))
        span_prepare(&s);
}

void soft_store_as(struct soft_vcpu *c, uint8_t cpl, uint64_t linear, uint64_t value, unsigned size)
{
    store_privileged(span_as(c, linear, size, privilege_as(c, cpl)), value);
}

void soft_probe_as(struct soft_vcpu *c, uint8_t cpl, uint64_t linear, unsigned length,
                   enum soft_access access)
{
    struct span s = span_as(c, linear, length, privilege_as(c, cpl));

    s.access = access;
    if (!span_find(&s, access))
        span_prepare(&s);
}

/* -- read-modify-write -- */

/* In two pages or in a device: on a copy. Across two pages nobody else may look meanwhile; with a
 * device in it, that holds for what the last run of the instruction does to the RAM. */
static void *rmw_copy(struct span *s)
{
    struct soft_vcpu *c = s->c;

    if (s->parts == 2) {
        soft_exclusive_begin(c);
        s->parts = 0;
        span_prepare(s);
    }
    c->rmw_buffered = true;
    c->rmw_address = s->linear;
    c->rmw_size = (uint8_t)s->length;
    s->access = SOFT_READ;
    parts_load(s, c->rmw_buffer);
    return c->rmw_buffer;
}

static __attribute__((noinline)) void *rmw_slow(struct soft_vcpu *c, uint64_t linear, unsigned size)
{
    struct span s = span_of(c, linear, size, SOFT_WRITE);

    span_prepare(&s);
    if (s.parts == 2 || !part_is_ram(&s.part[0]))
        return rmw_copy(&s);
    if (__builtin_expect(c->trail != NULL, 0))
        soft_trail_store(c, s.part[0].target.host, size);
    if (mem_code_marked(c->vm->mem, s.part[0].target.gpa) &&
        !soft_code_is_apart(c, s.part[0].target.gpa, size)) {
        soft_code_write_begin(c, s.part[0].target.gpa, size);
        c->rmw_locked = true;
    }
    return s.part[0].target.host;
}

void *soft_rmw_begin(struct soft_vcpu *c, uint64_t linear, unsigned size)
{
    void *host = tlb_find_store(c, linear, size);

    c->rmw_buffered = false;
    return host ? host : rmw_slow(c, linear, size);
}

void soft_rmw_end(struct soft_vcpu *c)
{
    if (__builtin_expect(c->rmw_locked, 0)) {
        c->rmw_locked = false;
        soft_code_write_end(c);
    }
    if (__builtin_expect(c->rmw_buffered, 0)) {
        struct span s = span_of(c, c->rmw_address, c->rmw_size, SOFT_WRITE);

        c->rmw_buffered = false;
        span_store(&s, c->rmw_buffer);
        if (c->exclusive)
            soft_exclusive_end(c);
    }
}
