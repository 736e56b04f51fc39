/*
 * Coherence of decoded code with guest memory: who holds code of which page, and what happens when
 * somebody writes there. The blocks themselves: cache.c, cache_page.c.
 *
 * struct soft_code says for every guest page which vCPUs hold blocks of it and which of
 * its 16-byte pieces they cover, under one lock. A page that holds code has no write entries in any
 * TLB, so every store to it comes here, drops the overlapping blocks of this vCPU, and leaves a
 * note for the others, which they read before their next block. A vCPU that decodes a page nobody
 * had decoded first has all write entries for it dropped, and waits until each running vCPU has
 * passed a block boundary: only then does it read the bytes. Devices write first and then look at
 * the mark (mem_written); the decoder marks first and then reads.
 *
 * Where code and data share a page, or code is being made beside running code, most stores hit no
 * block. Each page has one vCPU, its writer, that makes those without the lock. Nobody else may
 * cover a piece meanwhile: another vCPU that is about to decode there first ends that, and waits
 * until the writer has passed a block boundary. Between two of its own boundaries the writer may so
 * keep what it was told: soft_vcpu.apart, which is empty whenever it begins to run, and again once
 * it covers a piece itself.
 *
 * A page without blocks is no code any more, and has write entries again, unless that happens again
 * and again: then it stays marked, and its writer has all of it, until the stores there are many.
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
#include "cpu/soft/slots.h"
#include "cpu/soft/tlb.h"

#define NOTES_MAX 64
#define SPINS     200 /* before a wait gives the core away */
/* After how many stores by others a page's writer is exchanged, and how often at most. */
#define OTHERS_MAX 16
#define TURNS_MAX  8
/* How often a page that holds no code any more is let go at once; and how many looks for where to
 * store there (each may serve many stores) it takes later. */
#define MARKS_MAX 4
#define IDLE_MAX  100

struct code_page {
    uint64_t vcpus;                                  /* bit n: vCPU n holds blocks of this page */
    _Atomic uint64_t covered[SOFT_PAGE_PIECES / 64]; /* pieces that belong to some block */
    /* Index + 1 of the vCPU that stores to the other pieces without the lock; 0: none does. */
    _Atomic uint8_t writer;
    uint8_t others; /* stores by others since then */
    uint8_t turns;  /* how often that had to end */
    bool marked;    /* it has no write entries in TLBs */
    uint8_t marks;  /* how often it became so */
    uint8_t idle;   /* looks since its last block went, by the writer */
};

/* What a vCPU must drop: bytes [from, to) of a page. */
struct note {
    uint64_t gpa; /* of the page */
    uint16_t from, to;
};

/* Written by others under soft_code.lock. */
struct notes {
    unsigned count;
    bool overflow; /* drop everything */
    struct note note[NOTES_MAX];
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

    soft_apart_clear(c); /* another one may have become the page's writer meanwhile */
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
            soft_request(vm->vcpu[i], SOFT_REQUEST_STOP);
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

/* Under the lock: another vCPU's blocks must go. One note for each page is enough. */
static void note_leave(struct soft_vm *vm, unsigned vcpu, struct note note)
{
    struct notes *notes = &vm->code->notes[vcpu];
    unsigned i = notes->count;

    while (i > 0 && notes->note[i - 1].gpa != note.gpa)
        i--;
    if (i > 0) {
        struct note *old = &notes->note[i - 1];

        old->from = old->from < note.from ? old->from : note.from;
        old->to = old->to > note.to ? old->to : note.to;
    } else if (notes->count < NOTES_MAX) {
        notes->note[notes->count++] = note;
    } else {
        notes->overflow = true;
    }
    soft_request(vm->vcpu[vcpu], SOFT_REQUEST_INVALIDATE);
}

static struct soft_pieces pieces_of(uint64_t gpa, uint64_t length)
{
    unsigned first = (unsigned)(gpa % GUEST_PAGE_SIZE) / SOFT_PIECE;
    unsigned last = (unsigned)(gpa % GUEST_PAGE_SIZE + length - 1) / SOFT_PIECE;
    struct soft_pieces pieces = {0};

    for (unsigned i = first / 64; i <= last / 64; i++) {
        uint64_t from = i == first / 64 ? UINT64_MAX << (first % 64) : UINT64_MAX;
        uint64_t to = i == last / 64 ? (UINT64_C(2) << (last % 64)) - 1 : UINT64_MAX;

        pieces.word[i] = from & to;
    }
    return pieces;
}

static bool page_is_covered(const struct code_page *page, uint64_t gpa, uint64_t length)
{
    struct soft_pieces pieces = pieces_of(gpa, length);
    uint64_t hit = 0;

    for (unsigned i = 0; i < SOFT_PAGE_PIECES / 64; i++)
        hit |= atomic_load_explicit(&page->covered[i], memory_order_relaxed) & pieces.word[i];
    return hit != 0;
}

/* NULL: beyond all memory. */
static struct code_page *page_of(const struct soft_vm *vm, uint64_t gpa)
{
    uint64_t number = gpa / GUEST_PAGE_SIZE;

    return number < vm->code->page_count ? &vm->code->pages[number] : NULL;
}

bool soft_code_is_apart(const struct soft_vcpu *c, uint64_t gpa, unsigned length)
{
    const struct code_page *page = page_of(c->vm, gpa);

    return page && atomic_load(&page->writer) == c->index + 1 && page->idle < IDLE_MAX &&
           !page_is_covered(page, gpa, length);
}

/* The first covered piece from `piece` on, and the end of the last one before it. */
static unsigned covered_next(const struct code_page *page, unsigned piece)
{
    for (unsigned i = piece / 64, skip = piece % 64; i < SOFT_PAGE_PIECES / 64; i++, skip = 0) {
        uint64_t word = atomic_load_explicit(&page->covered[i], memory_order_relaxed);

        word = word >> skip << skip;
        if (word != 0)
            return i * 64 + (unsigned)__builtin_ctzll(word);
    }
    return SOFT_PAGE_PIECES;
}

static unsigned covered_before(const struct code_page *page, unsigned piece)
{
    for (unsigned i = piece / 64 + 1, skip = 63 - piece % 64; i > 0; i--, skip = 0) {
        uint64_t word = atomic_load_explicit(&page->covered[i - 1], memory_order_relaxed);

        word = word << skip >> skip;
        if (word != 0)
            return i * 64 - (unsigned)__builtin_clzll(word);
    }
    return 0;
}

struct soft_range soft_code_apart_range(const struct soft_vcpu *c, uint64_t gpa)
{
    const struct code_page *page = page_of(c->vm, gpa);
    unsigned piece = (unsigned)(gpa % GUEST_PAGE_SIZE) / SOFT_PIECE;

    if (!soft_code_is_apart(c, gpa, 1))
        return (struct soft_range){0, 0};
    return (struct soft_range){(uint16_t)(covered_before(page, piece) * SOFT_PIECE),
                               (uint16_t)(covered_next(page, piece) * SOFT_PIECE)};
}

/* Under the lock: from now on nobody stores to the page without it, but for this vCPU. */
static void writer_end(struct soft_vcpu *c, struct code_page *page)
{
    unsigned writer = atomic_load(&page->writer);
    unsigned rounds = 0;
    struct soft_vcpu *other;

    if (writer == 0 || writer == c->index + 1)
        return;
    atomic_store(&page->writer, 0);
    page->turns++;
    other = c->vm->vcpu[writer - 1];
    if (!other)
        return;
    soft_request(other, SOFT_REQUEST_STOP);
    while (atomic_load(&c->vm->code->running[writer - 1]) &&
           (atomic_load(&other->request) & SOFT_REQUEST_STOP))
        wait_round(&rounds);
}

/* Under the lock: this vCPU has stored to the page, and may do so again. */
static void writer_choose(struct soft_vcpu *c, struct code_page *page)
{
    unsigned writer = atomic_load(&page->writer);

    if (!page->marked || page->turns == TURNS_MAX || writer == c->index + 1)
        return;
    if (writer != 0) {
        if (++page->others < OTHERS_MAX)
            return;
        writer_end(c, page);
    }
    page->others = 0;
    if (page->turns < TURNS_MAX)
        atomic_store(&page->writer, (uint8_t)(c->index + 1));
}

/* Under the lock: nobody holds blocks of the page, and all may store there. */
static void page_unmark(struct soft_vm *vm, struct code_page *page, uint64_t gpa)
{
    memset(page, 0, sizeof *page);
    mem_code_clear(vm->mem, gpa);
}

/* Under the lock: the last block of the page is gone. Marking a page has its price: one that
 * becomes code again and again stays marked, for as long as its stores are not too many. */
static void page_emptied(struct soft_vm *vm, struct code_page *page, uint64_t gpa)
{
    uint8_t marks = page->marks;

    for (unsigned i = 0; i < SOFT_PAGE_PIECES / 64; i++)
        atomic_store_explicit(&page->covered[i], 0, memory_order_relaxed);
    page->idle = 0;
    if (marks == MARKS_MAX)
        return;
    page_unmark(vm, page, gpa);
    page->marks = marks;
}

void soft_code_look(const struct soft_vcpu *c, uint64_t gpa)
{
    struct code_page *page = page_of(c->vm, gpa);

    if (page->vcpus == 0 && page->idle < IDLE_MAX)
        page->idle++;
}

/* Under the lock: vCPU `index` has dropped blocks of the page. */
static void page_dropped(struct soft_vm *vm, uint64_t gpa, unsigned index,
                         const struct soft_pieces *freed)
{
    struct code_page *page = page_of(vm, gpa);
    uint64_t bit = UINT64_C(1) << index;

    if (!freed) {
        if (page->vcpus == bit)
            page_emptied(vm, page, gpa);
        page->vcpus &= ~bit;
        return;
    }
    /* Which pieces other vCPUs' blocks cover only they know. */
    for (unsigned i = 0; page->vcpus == bit && i < SOFT_PAGE_PIECES / 64; i++)
        atomic_fetch_and(&page->covered[i], ~freed->word[i]);
}

/* Under the lock: drops this vCPU's blocks that depend on bytes of one page; `stored`: it is about
 * to change them. */
static void own_drop(struct soft_vcpu *c, uint64_t gpa, uint64_t length, bool stored)
{
    bool rom = false;
    const uint8_t *host = soft_host(c, gpa, &rom);
    const uint8_t *end = host + length;
    struct soft_pieces freed = {0};

    if (!host)
        return;
    if (stored)
        end = soft_cache_reach(c, host, end);
    if (soft_cache_drop(c, host, end, &freed))
        page_dropped(c->vm, gpa, c->index, NULL);
    else
        page_dropped(c->vm, gpa, c->index, &freed);
}

/* Under the lock. `own` is NULL when a device writes. The write lies in one page. */
static void page_written(struct soft_vm *vm, struct soft_vcpu *own, uint64_t gpa, uint64_t length)
{
    struct code_page *page = page_of(vm, gpa);

    if (!page || !page_is_covered(page, gpa, length))
        return;
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (!(page->vcpus & UINT64_C(1) << i))
            continue;
        if (own && own->index == i) {
            soft_count(&own->counters.code_stores);
            own_drop(own, gpa, length, true);
        } else {
            note_leave(vm, i,
                       (struct note){.gpa = gpa & ~UINT64_C(0xfff),
                                     .from = gpa & 0xfff,
                                     .to = (uint16_t)((gpa & 0xfff) + length)});
            vm->code->notes[i].from_device += own == NULL;
            vm->code->notes[i].from_vcpu += own != NULL;
        }
    }
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
    struct code_page *page = page_of(c->vm, gpa);

    soft_code_lock(c);
    page_written(c->vm, c, gpa, length);
    if (page && page->idle == IDLE_MAX)
        page_unmark(c->vm, page, gpa);
    if (page)
        writer_choose(c, page);
}

void soft_code_write_end(struct soft_vcpu *c)
{
    soft_code_unlock(c);
}

void soft_code_written(struct soft_vcpu *c, uint64_t gpa, unsigned length)
{
    if (!mem_code_marked(c->vm->mem, gpa) || soft_code_is_apart(c, gpa, length))
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
        const struct note *note = &notes->note[i];

        own_drop(c, note->gpa + note->from, (uint64_t)(note->to - note->from), false);
    }
    notes->count = 0;
    notes->from_device = 0;
    notes->from_vcpu = 0;
    notes->overflow = false;
    soft_code_unlock(c);
}

/* -- marking pages -- */

/* Under the lock: no vCPU may keep a write entry for a page that has just become code. */
static void writers_stop(struct soft_vcpu *c, const uint8_t *page)
{
    struct soft_vm *vm = c->vm;
    unsigned rounds = 0;

    soft_tlb_forget_writes(c, page);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (i != c->index && vm->vcpu[i])
            soft_request(vm->vcpu[i], SOFT_REQUEST_TLB);
    }
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (i == c->index || !vm->vcpu[i])
            continue;
        while (atomic_load(&vm->code->running[i]) &&
               (atomic_load(&vm->vcpu[i]->request) & SOFT_REQUEST_TLB))
            wait_round(&rounds);
    }
}

void soft_code_mark(struct soft_vcpu *c, uint64_t gpa)
{
    struct code_page *page = page_of(c->vm, gpa);
    bool rom = false;

    writer_end(c, page);
    page->vcpus |= UINT64_C(1) << c->index;
    page->idle = 0;
    if (page->marked)
        return;
    page->marked = true;
    if (page->marks < MARKS_MAX)
        page->marks++;
    soft_count(&c->counters.code_pages);
    mem_code_mark(c->vm->mem, gpa);
    memory_fence();
    writers_stop(c, soft_host(c, gpa & ~UINT64_C(0xfff), &rom));
}

void soft_code_cover(struct soft_vcpu *c, uint64_t gpa, unsigned bytes)
{
    struct code_page *page = page_of(c->vm, gpa);
    struct soft_pieces pieces = pieces_of(gpa, bytes);

    soft_apart_clear(c);
    for (unsigned i = 0; i < SOFT_PAGE_PIECES / 64; i++)
        atomic_fetch_or(&page->covered[i], pieces.word[i]);
}

const uint8_t *soft_code_rely(struct soft_vcpu *c, struct soft_block *block,
                              struct soft_range range)
{
    const uint8_t *page = (const uint8_t *)((uintptr_t)block->host & ~(uintptr_t)0xfff);
    uint8_t *bytes;

    for (unsigned i = 0; i < block->ahead_count; i++) {
        if (block->ahead[i].from == range.from)
            return block->ahead_bytes[i];
    }
    bytes = soft_cache_rely(c, block, range);
    if (!bytes)
        return NULL;
    soft_code_lock(c);
    writer_end(c, page_of(c->vm, block->gpa));
    soft_code_cover(c, (block->gpa & ~UINT64_C(0xfff)) + range.from,
                    (unsigned)(range.to - range.from));
    memcpy(bytes, page + range.from, (size_t)(range.to - range.from));
    soft_code_unlock(c);
    return bytes;
}
