/*
 * The guest-physical address space: RAM and ROM. The only code that touches guest RAM.
 *
 * All that is read from guest memory is hostile: copy it once with mem_read(), check the copy, use
 * the copy. Ranges may not wrap and must lie wholly in RAM (reads: or ROM), where adjacent slots
 * are as one; otherwise -EFAULT and nothing happens. Threads: the layout is fixed before vCPUs
 * start; reads and writes may come from any thread. Atomicity: aligned accesses of 1, 2, 4 or 8
 * bytes by mem_read/mem_write are single accesses.
 */
#ifndef FREEHOLD_MEM_MEM_H
#define FREEHOLD_MEM_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define GUEST_PAGE_SIZE UINT64_C(4096)
#define MEM_SLOTS_MAX   16

enum mem_kind { MEM_RAM, MEM_ROM };

/* One contiguous run of guest-physical addresses with a host mapping. */
struct mem_slot {
    uint64_t gpa;
    uint64_t size; /* bytes, a multiple of GUEST_PAGE_SIZE */
    uint8_t *host;
    enum mem_kind kind;
};

struct mem;

MUST_CHECK int mem_new(struct mem **out);
void mem_free(struct mem *mem);

/* Adds zeroed RAM, or a ROM holding `size` bytes of `content` (rounded up to pages with zeroes).
 * -EEXIST where it overlaps another slot, -ENOMEM, -ENOSPC when all slots are used. */
MUST_CHECK int mem_add_ram(struct mem *mem, uint64_t gpa, uint64_t size, struct error *err);
MUST_CHECK int mem_add_rom(struct mem *mem, uint64_t gpa, const void *content, uint64_t size,
                           struct error *err);

/* The most RAM that a guest may have here: what the host has (RAM and swap, less where a control
 * group allows less). mem_add_ram() refuses more than that in all. */
uint64_t mem_host_bytes(void);

/* The first page from `gpa` on, below `end` and in the same slot, that the host has memory for: all
 * others were never touched, or are swapped out. `end` or the slot's: there is none. */
uint64_t mem_touched_find(const struct mem *mem, uint64_t gpa, uint64_t end);

unsigned mem_slot_count(const struct mem *mem);
const struct mem_slot *mem_slot_get(const struct mem *mem, unsigned index);
const struct mem_slot *mem_slot_find(const struct mem *mem, uint64_t gpa); /* NULL: no slot */

MUST_CHECK int mem_read(struct mem *mem, uint64_t gpa, void *to, size_t length);
MUST_CHECK int mem_write(struct mem *mem, uint64_t gpa, const void *from, size_t length);
MUST_CHECK int mem_fill(struct mem *mem, uint64_t gpa, uint8_t value, size_t length);

/* A host pointer to [gpa, gpa + length), for bulk I/O (readv, writev) into guest RAM; NULL unless
 * it is RAM in one slot. The content may change at any time under the reader's feet. A device that
 * wrote through the pointer calls mem_written() before it announces completion. */
void *mem_span(struct mem *mem, uint64_t gpa, uint64_t length);
void mem_written(struct mem *mem, uint64_t gpa, uint64_t length);

/*
 * Gate: an engine that must know at which instruction devices change guest memory lets them do so
 * only while its vCPUs stand still. All changes that a guest may be waiting for lie between
 * mem_change_begin() and mem_change_end() (those of mem_write and mem_fill do by themselves), which
 * may be nested; `changed` is told of every change with mem_written(), inside or outside.
 */
struct mem_gate {
    void (*begin)(void *opaque);
    void (*end)(void *opaque);
    void (*changed)(void *opaque, uint64_t gpa, uint64_t length);
    void *opaque;
};
void mem_gate_set(struct mem *mem, const struct mem_gate *gate); /* NULL: none */
void mem_change_begin(struct mem *mem);
void mem_change_end(struct mem *mem);

/*
 * Code watch: an engine that caches decoded or translated code marks its pages; a device's write
 * to a marked page (through mem_write, mem_fill or mem_written) calls `written` before the write's
 * completion can be announced. The engine does the same for its own vCPUs' stores by itself.
 */
struct mem_code_watch {
    void (*written)(void *opaque, uint64_t gpa, uint64_t length);
    void *opaque;
};
void mem_code_watch_set(struct mem *mem, const struct mem_code_watch *watch);
void mem_code_mark(struct mem *mem, uint64_t gpa); /* the page that holds gpa */
void mem_code_clear(struct mem *mem, uint64_t gpa);
bool mem_code_marked(const struct mem *mem, uint64_t gpa);

#endif
