/*
 * Coherence of decoded code with guest memory: who holds code of which page, and what happens when
 * somebody writes there. The blocks themselves: cache.c.
 *
 * struct soft_code says for every guest page which vCPUs hold blocks of it and which of
 * its 64-byte lines they cover, under one lock. A page that holds code has no write entries in any
 * TLB, so every store to it comes here, drops the overlapping blocks of this vCPU, and leaves a
 * note for the others, which they read before their next block. A vCPU that decodes a page nobody
 * had decoded first has all write entries for it dropped, and waits until each running vCPU has
 * passed a block boundary: only then does it read the bytes. Devices write first and then look at
 * the mark (mem_written); the decoder marks first and then reads.
 *
 * Locks: soft_code.lock is a leaf but for the memory behind it. A vCPU that waits for it counts as
 * not running, so that the holder may wait for the others. It may be in the middle of an
 * instruction then: whoever has waited looks at a page's mark again before storing there.
 *
 * A vCPU that must be alone (read-modify-write across two pages) takes the lock, asks the others to
 * stop, and waits until none is running.
 * Threads: a vCPU's own, but for device_wrote(), which any thread may call.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "cpu/soft/code_internal.h"
#include "cpu/soft/paging.h"
#include "cpu/soft/tlb.h"

#define NOTES_MAX 64
#define SPINS     200 /* before a wait gives the core away */

struct code_page {
    uint64_t vcpus; /* bit n: vCPU n holds blocks of this page */
    uint64_t lines; /* bit n: bytes 64n to 64n + 63 belong to some block */
};

/* Pages whose blocks a vCPU must drop; written by others under soft_code.lock. */
struct notes {
    unsigned count;
    bool overflow; /* drop everything */
    uint64_t gpa[NOTES_MAX];
    unsigned from_device; /* how many there were, for the counters */
    unsigned from_vcpu;
};

struct soft_code {
    pthread_mutex_t lock;
    struct code_page *pages; /* by guest page number */
    uint64_t page_count;
    struct notes *notes; /* by vCPU */
    _Atomic bool *running;
    _Atomic bool exclusive;   /* a vCPU wants to be alone, or is; it holds the lock */
    _Atomic unsigned stopped; /* how many vCPUs wait for the end of that */
};

/* -- the VM's side -- */

static void device_wrote(void *opaque, uint64_t gpa, uint64_t length);

int soft_code_new(struct mem *mem, struct soft_vm *vm)
{
    struct soft_code *code = calloc(1, sizeof *code);
    struct mem_code_watch watch = {.written = device_wrote, .opaque = vm};
    void *pages;

    if (!code)
        return -ENOMEM;
    for (unsigned i = 0; i < mem_slot_count(mem); i++) {
        const struct mem_slot *slot = mem_slot_get(mem, i);
        uint64_t end = (slot->gpa + slot->size) / GUEST_PAGE_SIZE;

        if (end > code->page_count)
            code->page_count = end;
    }
    pages = mmap(NULL, (code->page_count + 1) * sizeof *code->pages, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    code->notes = calloc(vm->vcpu_count, sizeof *code->notes);
    code->running = calloc(vm->vcpu_count, sizeof *code->running);
    if (pages == MAP_FAILED || !code->notes || !code->running) {
        if (pages != MAP_FAILED)
            munmap(pages, (code->page_count + 1) * sizeof *code->pages);
        free(code->notes);
        free((void *)code->running);
        free(code);
        return -ENOMEM;
    }
    code->pages = pages;
    pthread_mutex_init(&code->lock, NULL);
    vm->code = code;
    mem_code_watch_set(mem, &watch);
    return 0;
}

void soft_code_free(struct soft_vm *vm)
{
    struct soft_code *code = vm->code;
    struct mem_code_watch none = {0};

    if (!code)
        return;
    mem_code_watch_set(vm->mem, &none);
    munmap(code->pages, (code->page_count + 1) * sizeof *code->pages);
    free(code->notes);
    free((void *)code->running);
    pthread_mutex_destroy(&code->lock);
    free(code);
    vm->code = NULL;
}

/* One more round of waiting for another thread, which may need this one's core. */
static void wait_round(unsigned *rounds)
{
    if (++*rounds < SPINS)
        __builtin_ia32_pause();
    else
        sched_yield();
}

void soft_code_enter(struct soft_vcpu *c)
{
    struct soft_code *code = c->vm->code;
    _Atomic bool *running = &code->running[c->index];
    unsigned rounds = 0;

    atomic_store(running, true);
    if (!atomic_load(&code->exclusive))
        return;
    atomic_fetch_add(&code->stopped, 1);
    do {
        atomic_store(running, false);
        while (atomic_load(&code->exclusive))
            wait_round(&rounds);
        atomic_store(running, true);
    } while (atomic_load(&code->exclusive));
    atomic_fetch_sub(&code->stopped, 1);
}

void soft_code_leave(struct soft_vcpu *c)
{
    atomic_store(&c->vm->code->running[c->index], false);
}

void soft_code_lock(struct soft_vcpu *c)
{
    struct soft_code *code = c->vm->code;

    if (c->exclusive || pthread_mutex_trylock(&code->lock) == 0)
        return;
    soft_code_leave(c);
    pthread_mutex_lock(&code->lock);
    soft_code_enter(c);
    /* Its holder may have taken us for stopped. */
    if (atomic_load(&c->request) & SOFT_REQUEST_TLB) {
        soft_tlb_flush_writes(c);
        atomic_fetch_and(&c->request, ~SOFT_REQUEST_TLB);
    }
}

void soft_code_unlock(struct soft_vcpu *c)
{
    if (!c->exclusive)
        pthread_mutex_unlock(&c->vm->code->lock);
}

/* -- alone -- */

void soft_exclusive_begin(struct soft_vcpu *c)
{
    struct soft_vm *vm = c->vm;
    struct soft_code *code = vm->code;
    unsigned rounds = 0;

    soft_code_lock(c);
    /* Whoever had to stop for the last one gets on first: two of these in a row starve nobody. */
    while (atomic_load(&code->stopped) > 0)
        wait_round(&rounds);
    atomic_store(&code->exclusive, true);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (i != c->index && vm->vcpu[i])
            atomic_fetch_or(&vm->vcpu[i]->request, SOFT_REQUEST_STOP);
    }
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        while (i != c->index && atomic_load(&code->running[i]))
            wait_round(&rounds);
    }
    c->exclusive = true;
}

void soft_exclusive_end(struct soft_vcpu *c)
{
    c->exclusive = false;
    atomic_store(&c->vm->code->exclusive, false);
    soft_code_unlock(c);
}

void soft_exclusive_yield(struct soft_vcpu *c)
{
    atomic_fetch_and(&c->request, ~SOFT_REQUEST_STOP);
    soft_code_leave(c);
    soft_code_enter(c);
}

/* -- writes -- */

/* Under the lock: another vCPU's blocks of a page must go. */
static void note_leave(struct soft_vm *vm, unsigned vcpu, uint64_t gpa, bool from_device)
{
    struct notes *notes = &vm->code->notes[vcpu];

    notes->from_device += from_device;
    notes->from_vcpu += !from_device;
    if (notes->count < NOTES_MAX)
        notes->gpa[notes->count++] = gpa & ~UINT64_C(0xfff);
    else
        notes->overflow = true;
    atomic_fetch_or(&vm->vcpu[vcpu]->request, SOFT_REQUEST_INVALIDATE);
}

static uint64_t line_mask(uint64_t gpa, uint64_t length)
{
    unsigned first = (unsigned)(gpa & 0xfff) / 64;
    unsigned last = (unsigned)((gpa & 0xfff) + length - 1) / 64;
    uint64_t from_first = UINT64_MAX << first;
    uint64_t to_last = last >= 63 ? UINT64_MAX : (UINT64_C(2) << last) - 1;

    return from_first & to_last;
}

static void page_unmark_if_empty(struct soft_vm *vm, struct code_page *page, uint64_t gpa)
{
    if (page->vcpus != 0)
        return;
    page->lines = 0;
    mem_code_clear(vm->mem, gpa);
}

/* Under the lock. `own` is NULL when a device writes. The write lies in one page. */
static void page_written(struct soft_vm *vm, struct soft_vcpu *own, uint64_t gpa, uint64_t length)
{
    struct code_page *page;

    if (gpa / GUEST_PAGE_SIZE >= vm->code->page_count)
        return;
    page = &vm->code->pages[gpa / GUEST_PAGE_SIZE];
    if (!(page->lines & line_mask(gpa, length)))
        return;
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        uint64_t bit = UINT64_C(1) << i;

        if (!(page->vcpus & bit))
            continue;
        if (own && own->index == i) {
            bool rom = false;
            const uint8_t *host = soft_host(own, gpa, &rom);

            soft_count(&own->counters.code_stores);
            if (soft_cache_drop(own, host, host + length, &own->counters.dropped_by_store))
                page->vcpus &= ~bit;
        } else {
            note_leave(vm, i, gpa, own == NULL);
            page->vcpus &= ~bit;
        }
    }
    page_unmark_if_empty(vm, page, gpa);
}

static void device_wrote(void *opaque, uint64_t gpa, uint64_t length)
{
    struct soft_vm *vm = opaque;

    pthread_mutex_lock(&vm->code->lock);
    while (length > 0) {
        uint64_t part = GUEST_PAGE_SIZE - (gpa & (GUEST_PAGE_SIZE - 1));

        if (part > length)
            part = length;
        page_written(vm, NULL, gpa, part);
        gpa += part;
        length -= part;
    }
    pthread_mutex_unlock(&vm->code->lock);
}

void soft_code_write_begin(struct soft_vcpu *c, uint64_t gpa, unsigned length)
{
    soft_code_lock(c);
    page_written(c->vm, c, gpa, length);
}

void soft_code_write_end(struct soft_vcpu *c)
{
    soft_code_unlock(c);
}

void soft_code_written(struct soft_vcpu *c, uint64_t gpa, unsigned length)
{
    if (!mem_code_marked(c->vm->mem, gpa))
        return;
    soft_code_write_begin(c, gpa, length);
    soft_code_write_end(c);
}

void soft_code_serve(struct soft_vcpu *c, uint32_t requests)
{
    struct notes *notes = &c->vm->code->notes[c->index];

    if (requests & SOFT_REQUEST_TLB) {
        soft_tlb_flush_writes(c);
        atomic_fetch_and(&c->request, ~SOFT_REQUEST_TLB);
    }
    if (requests & SOFT_REQUEST_CLEAR) {
        soft_cache_clear(c);
        atomic_fetch_and(&c->request, ~SOFT_REQUEST_CLEAR);
    }
    if (!(requests & SOFT_REQUEST_INVALIDATE))
        return;
    soft_code_lock(c);
    atomic_fetch_and(&c->request, ~SOFT_REQUEST_INVALIDATE);
    soft_count_add(&c->counters.code_notes_device, notes->from_device);
    soft_count_add(&c->counters.code_notes_vcpu, notes->from_vcpu);
    if (notes->overflow)
        soft_cache_clear(c);
    for (unsigned i = 0; i < notes->count && !notes->overflow; i++) {
        bool rom = false;
        const uint8_t *page = soft_host(c, notes->gpa[i], &rom);

        if (page)
            (void)soft_cache_drop(c, page, page + GUEST_PAGE_SIZE, &c->counters.dropped_by_note);
    }
    notes->count = 0;
    notes->from_device = 0;
    notes->from_vcpu = 0;
    notes->overflow = false;
    soft_code_unlock(c);
}

/* -- marking pages -- */

/* Under the lock: no vCPU may keep a write entry for a page that has just become code. */
static void writers_stop(struct soft_vcpu *c)
{
    struct soft_vm *vm = c->vm;

    soft_tlb_flush_writes(c);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (i != c->index && vm->vcpu[i])
            atomic_fetch_or(&vm->vcpu[i]->request, SOFT_REQUEST_TLB);
    }
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (i == c->index || !vm->vcpu[i])
            continue;
        while (atomic_load(&vm->code->running[i]) &&
               (atomic_load(&vm->vcpu[i]->request) & SOFT_REQUEST_TLB))
            sched_yield();
    }
}

void soft_code_mark(struct soft_vcpu *c, uint64_t gpa)
{
    struct code_page *page = &c->vm->code->pages[gpa / GUEST_PAGE_SIZE];
    bool fresh = page->vcpus == 0;

    page->vcpus |= UINT64_C(1) << c->index;
    if (!fresh)
        return;
    soft_count(&c->counters.code_pages);
    mem_code_mark(c->vm->mem, gpa);
    memory_fence();
    writers_stop(c);
}

void soft_code_cover(struct soft_vcpu *c, uint64_t gpa, unsigned bytes)
{
    c->vm->code->pages[gpa / GUEST_PAGE_SIZE].lines |= line_mask(gpa, bytes);
}

void soft_code_rely(struct soft_vcpu *c, struct soft_block *block, struct soft_range range)
{
    for (unsigned i = 0; i < block->ahead_count; i++) {
        if (block->ahead[i].from == range.from)
            return;
    }
    block->ahead[block->ahead_count++] = range;
    soft_code_lock(c);
    soft_code_cover(c, (block->gpa & ~UINT64_C(0xfff)) + range.from,
                    (unsigned)(range.to - range.from));
    soft_code_unlock(c);
}
