/*
 * The guest-physical address space. RAM is anonymous memory, mapped without reservation, so that it
 * costs memory only once touched.
 *
 * Threads: slots are added before vCPUs start and never change afterwards, so lookups take no lock.
 * Trusts: nothing in guest memory, and no address that a guest made.
 */
#include "mem/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/checked.h"

#define BITS_PER_WORD 64u

struct mem {
    unsigned slot_count;
    struct mem_slot slot[MEM_SLOTS_MAX]; /* sorted by gpa */
    uint64_t *code[MEM_SLOTS_MAX];       /* a bit per page: holds cached code */
    uint64_t ram_bytes;
    struct mem_code_watch watch;
    struct mem_gate gate;
};

/* ---- construction ---- */

int mem_new(struct mem **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : -ENOMEM;
}

static void slot_fini(struct mem_slot *slot)
{
    if (slot->host)
        munmap(slot->host, slot->size);
}

void mem_free(struct mem *mem)
{
    if (!mem)
        return;
    for (unsigned i = 0; i < mem->slot_count; i++) {
        slot_fini(&mem->slot[i]);
        free(mem->code[i]);
    }
    free(mem);
}

/* A control group's limit in bytes, or UINT64_MAX ("max", or no such file). */
static uint64_t cgroup_limit_bytes(void)
{
    FILE *file = fopen("/sys/fs/cgroup/memory.max", "re");
    unsigned long long limit = UINT64_MAX;

    if (!file)
        return UINT64_MAX;
    if (fscanf(file, "%llu", &limit) != 1)
        limit = UINT64_MAX;
    fclose(file);
    return limit;
}

uint64_t mem_host_bytes(void)
{
    uint64_t limit = cgroup_limit_bytes();
    struct sysinfo info;
    uint64_t host;

    if (sysinfo(&info) < 0)
        return limit;
    host = ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
    return host < limit ? host : limit;
}

/* Whether [gpa, gpa + size) can become a slot. */
static int slot_check(const struct mem *mem, uint64_t gpa, uint64_t size, struct error *err)
{
    uint64_t end;

    if (size == 0 || (gpa | size) % GUEST_PAGE_SIZE != 0 || !checked_add(gpa, size, &end))
        return error_set(err, -EINVAL, "memory of %#llx bytes at %#llx is not made of whole pages",
                         (unsigned long long)size, (unsigned long long)gpa);
    if (mem->slot_count == MEM_SLOTS_MAX)
        return error_set(err, -ENOSPC, "the VM has %d memory slots already, and can have no more",
                         MEM_SLOTS_MAX);
    for (unsigned i = 0; i < mem->slot_count; i++) {
        const struct mem_slot *other = &mem->slot[i];

        if (gpa < other->gpa + other->size && other->gpa < end)
            return error_set(err, -EEXIST, "memory at %#llx overlaps memory that is there already",
                             (unsigned long long)gpa);
    }
    return 0;
}

static int slot_insert(struct mem *mem, const struct mem_slot *slot)
{
    uint64_t pages = slot->size / GUEST_PAGE_SIZE;
    uint64_t *code = calloc((pages + BITS_PER_WORD - 1) / BITS_PER_WORD, sizeof *code);
    unsigned at = mem->slot_count;

    if (!code)
        return -ENOMEM;
    for (; at > 0 && mem->slot[at - 1].gpa > slot->gpa; at--) {
        mem->slot[at] = mem->slot[at - 1];
        mem->code[at] = mem->code[at - 1];
    }
    mem->slot[at] = *slot;
    mem->code[at] = code;
    mem->slot_count++;
    return 0;
}

static int ram_limit_check(const struct mem *mem, uint64_t size, struct error *err)
{
    uint64_t host = mem_host_bytes();
    uint64_t total;

    if (checked_add(mem->ram_bytes, size, &total) && total <= host)
        return 0;
    return error_set(err, -ENOMEM,
                     "cannot give the guest %llu MiB of memory: this host has %llu MiB; "
                     "ask for less with --memory",
                     (unsigned long long)((mem->ram_bytes + size) >> 20),
                     (unsigned long long)(host >> 20));
}

#define HUGE_PAGE UINT64_C(0x200000)

/* Anonymous memory on huge pages, since a shared file's gets none on most hosts: a guest that uses
 * its memory pays for fewer faults and fewer misses of the host's TLB. */
static int ram_map(struct mem_slot *slot)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    uint64_t slack = slot->size >= HUGE_PAGE ? HUGE_PAGE : 0, skip;
    uint8_t *host = mmap(NULL, slot->size + slack, PROT_READ | PROT_WRITE, flags, -1, 0);

    if (host == MAP_FAILED)
        return -errno;
    skip = slack ? (slot->gpa - (uint64_t)(uintptr_t)host) % HUGE_PAGE : 0;
    if (skip > 0)
        munmap(host, skip);
    if (slack > skip)
        munmap(host + skip + slot->size, slack - skip);
    slot->host = host + skip;
    (void)madvise(slot->host, slot->size, MADV_HUGEPAGE); /* where the host has none: as it is */
    return 0;
}

int mem_add_ram(struct mem *mem, uint64_t gpa, uint64_t size, struct error *err)
{
    struct mem_slot slot = {.gpa = gpa, .size = size, .kind = MEM_RAM};
    int rc = slot_check(mem, gpa, size, err);

    if (rc == 0)
        rc = ram_limit_check(mem, size, err);
    if (rc < 0)
        return rc;
    rc = ram_map(&slot);
    if (rc == 0)
        rc = slot_insert(mem, &slot);
    if (rc < 0) {
        slot_fini(&slot);
        return error_set(err, rc, "cannot map %llu MiB of guest memory: %s",
                         (unsigned long long)(size >> 20), strerror(-rc));
    }
    mem->ram_bytes += size;
    return 0;
}

int mem_add_rom(struct mem *mem, uint64_t gpa, const void *content, uint64_t size,
                struct error *err)
{
    struct mem_slot slot = {.gpa = gpa, .kind = MEM_ROM};
    void *host;
    int rc;

    if (!checked_align_up(size, GUEST_PAGE_SIZE, &slot.size))
        return error_set(err, -EINVAL, "a ROM of %#llx bytes is too large",
                         (unsigned long long)size);
    rc = slot_check(mem, gpa, slot.size, err);
    if (rc < 0)
        return rc;
    host = mmap(NULL, slot.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (host == MAP_FAILED)
        return error_set(err, -errno, "cannot map a ROM of %llu KiB: %s",
                         (unsigned long long)(slot.size >> 10), strerror(errno));
    slot.host = host;
    memcpy(host, content, size);
    rc = mprotect(host, slot.size, PROT_READ) < 0 ? -errno : slot_insert(mem, &slot);
    if (rc < 0) {
        slot_fini(&slot);
        return error_set(err, rc, "cannot make a ROM: %s", strerror(-rc));
    }
    return 0;
}

/* ---- lookup ---- */

unsigned mem_slot_count(const struct mem *mem)
{
    return mem->slot_count;
}

const struct mem_slot *mem_slot_get(const struct mem *mem, unsigned index)
{
    return index < mem->slot_count ? &mem->slot[index] : NULL;
}

const struct mem_slot *mem_slot_find(const struct mem *mem, uint64_t gpa)
{
    for (unsigned i = 0; i < mem->slot_count; i++) {
        const struct mem_slot *slot = &mem->slot[i];

        if (gpa - slot->gpa < slot->size)
            return slot;
    }
    return NULL;
}

/* How many pages are asked about at once: few where the answer is near. */
#define PAGES_ASKED_FIRST 8u
#define PAGES_ASKED_MOST  512u

uint64_t mem_touched_find(const struct mem *mem, uint64_t gpa, uint64_t end)
{
    const struct mem_slot *slot = mem_slot_find(mem, gpa);
    unsigned char resident[PAGES_ASKED_MOST];
    unsigned most = PAGES_ASKED_FIRST;

    if (slot && end > slot->gpa + slot->size)
        end = slot->gpa + slot->size;
    while (slot && gpa < end) {
        uint64_t pages = (end - gpa) / GUEST_PAGE_SIZE;

        if (pages > most)
            pages = most;
        if (most < PAGES_ASKED_MOST)
            most *= 2;
        if (mincore(slot->host + (gpa - slot->gpa), pages * GUEST_PAGE_SIZE, resident) < 0)
            return gpa;
        for (uint64_t i = 0; i < pages; i++, gpa += GUEST_PAGE_SIZE) {
            if (resident[i] & 1)
                return gpa;
        }
    }
    return end;
}

/* The part of [gpa, gpa + length) that lies in gpa's slot; 0 when there is none, or when it is ROM
 * and `writing`. */
static size_t part_find(const struct mem *mem, uint64_t gpa, size_t length, bool writing,
                        const struct mem_slot **out)
{
    const struct mem_slot *slot = mem_slot_find(mem, gpa);
    uint64_t room;

    *out = slot;
    if (!slot || (writing && slot->kind != MEM_RAM))
        return 0;
    room = slot->size - (gpa - slot->gpa);
    return length < room ? length : (size_t)room;
}

/* All of the range is checked before any of it is touched. */
static int range_check(const struct mem *mem, uint64_t gpa, size_t length, bool writing)
{
    const struct mem_slot *slot;
    uint64_t end;

    if (!checked_add(gpa, length, &end))
        return -EFAULT;
    while (length > 0) {
        size_t part = part_find(mem, gpa, length, writing, &slot);

        if (part == 0)
            return -EFAULT;
        gpa += part;
        length -= part;
    }
    return 0;
}

/* ---- access ---- */

/* Aligned accesses of 1, 2, 4 and 8 bytes are single ones: the other side may be a guest that uses
 * them as flags or ring indices. */
static void copy_from_guest(void *to, const uint8_t *from, size_t length)
{
    uintptr_t alignment = (uintptr_t)from | length;

    if (length == 8 && alignment % 8 == 0) {
        uint64_t value = __atomic_load_n((const uint64_t *)(const void *)from, __ATOMIC_ACQUIRE);
        memcpy(to, &value, sizeof value);
    } else if (length == 4 && alignment % 4 == 0) {
        uint32_t value = __atomic_load_n((const uint32_t *)(const void *)from, __ATOMIC_ACQUIRE);
        memcpy(to, &value, sizeof value);
    } else if (length == 2 && alignment % 2 == 0) {
        uint16_t value = __atomic_load_n((const uint16_t *)(const void *)from, __ATOMIC_ACQUIRE);
        memcpy(to, &value, sizeof value);
    } else {
        memcpy(to, from, length);
    }
}

static void copy_to_guest(uint8_t *to, const void *from, size_t length)
{
    uintptr_t alignment = (uintptr_t)to | length;

    if (length == 8 && alignment % 8 == 0) {
        uint64_t value;
        memcpy(&value, from, sizeof value);
        __atomic_store_n((uint64_t *)(void *)to, value, __ATOMIC_RELEASE);
    } else if (length == 4 && alignment % 4 == 0) {
        uint32_t value;
        memcpy(&value, from, sizeof value);
        __atomic_store_n((uint32_t *)(void *)to, value, __ATOMIC_RELEASE);
    } else if (length == 2 && alignment % 2 == 0) {
        uint16_t value;
        memcpy(&value, from, sizeof value);
        __atomic_store_n((uint16_t *)(void *)to, value, __ATOMIC_RELEASE);
    } else {
        memcpy(to, from, length);
    }
}

int mem_read(struct mem *mem, uint64_t gpa, void *to, size_t length)
{
    const struct mem_slot *slot;
    uint8_t *out = to;

    if (range_check(mem, gpa, length, false) < 0)
        return -EFAULT;
    while (length > 0) {
        size_t part = part_find(mem, gpa, length, false, &slot);

        copy_from_guest(out, slot->host + (gpa - slot->gpa), part);
        out += part;
        gpa += part;
        length -= part;
    }
    return 0;
}

int mem_write(struct mem *mem, uint64_t gpa, const void *from, size_t length)
{
    const struct mem_slot *slot;
    const uint8_t *in = from;

    if (range_check(mem, gpa, length, true) < 0)
        return -EFAULT;
    mem_change_begin(mem);
    while (length > 0) {
        size_t part = part_find(mem, gpa, length, true, &slot);

        copy_to_guest(slot->host + (gpa - slot->gpa), in, part);
        mem_written(mem, gpa, part);
        in += part;
        gpa += part;
        length -= part;
    }
    mem_change_end(mem);
    return 0;
}

int mem_fill(struct mem *mem, uint64_t gpa, uint8_t value, size_t length)
{
    const struct mem_slot *slot;

    if (range_check(mem, gpa, length, true) < 0)
        return -EFAULT;
    mem_change_begin(mem);
    while (length > 0) {
        size_t part = part_find(mem, gpa, length, true, &slot);

        memset(slot->host + (gpa - slot->gpa), value, part);
        mem_written(mem, gpa, part);
        gpa += part;
        length -= part;
    }
    mem_change_end(mem);
    return 0;
}

void *mem_span(struct mem *mem, uint64_t gpa, uint64_t length)
{
    const struct mem_slot *slot = mem_slot_find(mem, gpa);

    if (!slot || slot->kind != MEM_RAM || !range_fits(gpa - slot->gpa, length, slot->size))
        return NULL;
    return slot->host + (gpa - slot->gpa);
}

/* ---- gate ---- */

void mem_gate_set(struct mem *mem, const struct mem_gate *gate)
{
    mem->gate = gate ? *gate : (struct mem_gate){0};
}

void mem_change_begin(struct mem *mem)
{
    if (mem->gate.begin)
        mem->gate.begin(mem->gate.opaque);
}

void mem_change_end(struct mem *mem)
{
    if (mem->gate.end)
        mem->gate.end(mem->gate.opaque);
}

/* ---- code watch ---- */

void mem_code_watch_set(struct mem *mem, const struct mem_code_watch *watch)
{
    mem->watch = watch ? *watch : (struct mem_code_watch){0};
}

/* The word and bit of gpa's page; NULL where there is no memory. */
static uint64_t *code_word(const struct mem *mem, uint64_t gpa, uint64_t *bit)
{
    const struct mem_slot *slot = mem_slot_find(mem, gpa);
    uint64_t page;

    if (!slot)
        return NULL;
    page = (gpa - slot->gpa) / GUEST_PAGE_SIZE;
    *bit = UINT64_C(1) << (page % BITS_PER_WORD);
    return &mem->code[slot - mem->slot][page / BITS_PER_WORD];
}

/* Marking comes before reading the code (here), and writing before looking at the mark
 * (code_marked_after_write); both are full barriers, so that no write goes unseen. */
void mem_code_mark(struct mem *mem, uint64_t gpa)
{
    uint64_t bit, *word = code_word(mem, gpa, &bit);

    if (word)
        __atomic_fetch_or(word, bit, __ATOMIC_SEQ_CST);
}

void mem_code_clear(struct mem *mem, uint64_t gpa)
{
    uint64_t bit, *word = code_word(mem, gpa, &bit);

    if (word)
        __atomic_fetch_and(word, ~bit, __ATOMIC_SEQ_CST);
}

bool mem_code_marked(const struct mem *mem, uint64_t gpa)
{
    uint64_t bit;
    const uint64_t *word = code_word(mem, gpa, &bit);

    return word && (__atomic_load_n(word, __ATOMIC_SEQ_CST) & bit) != 0;
}

static bool code_marked_after_write(const struct mem *mem, uint64_t gpa)
{
    uint64_t bit, *word = code_word(mem, gpa, &bit);

    return word && (__atomic_fetch_or(word, 0, __ATOMIC_SEQ_CST) & bit) != 0;
}

void mem_written(struct mem *mem, uint64_t gpa, uint64_t length)
{
    uint64_t end;

    if (mem->gate.changed)
        mem->gate.changed(mem->gate.opaque, gpa, length);
    if (!mem->watch.written || length == 0 || !checked_add(gpa, length, &end))
        return;
    for (uint64_t at = gpa; at < end;) {
        uint64_t page_end = (at | (GUEST_PAGE_SIZE - 1)) + 1;
        uint64_t stop = page_end != 0 && page_end < end ? page_end : end;

        if (code_marked_after_write(mem, at))
            mem->watch.written(mem->watch.opaque, at, stop - at);
        at = stop;
    }
}
