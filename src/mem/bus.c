/*
 * A bus, as a sorted table of disjoint segments that is rebuilt at each change: where ranges
 * overlap, the overlap is cut out of the older one.
 *
 * Threads: any. Readers take no lock: they search the table under a sequence count and search again
 * if it was rebuilt meanwhile. Every word of it is released and acquired: a torn search is
 * harmless, and one that saw any new word also sees that the sequence moved. Writers (a guest that
 * moves a BAR) hold `lock`. Trusts: no address or size that a guest made.
 */
#include "mem/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BUS_RANGES_MAX   256
#define BUS_SEGMENTS_MAX (2 * BUS_RANGES_MAX)

/* [first, last], answered by `device`. */
struct bus_segment {
    _Atomic(uint64_t) first, last;
    _Atomic(uint64_t) base; /* of the range that it is a part of */
    _Atomic(const struct bus_ops *) ops;
    _Atomic(void *) device;
};

struct bus {
    pthread_mutex_t lock;
    unsigned range_count;
    struct bus_range range[BUS_RANGES_MAX]; /* in the order they were added */

    _Atomic(unsigned) sequence; /* odd while the table is being rebuilt */
    _Atomic(unsigned) segment_count;
    struct bus_segment segment[BUS_SEGMENTS_MAX];
};

/* What a search found, copied. */
struct bus_target {
    const struct bus_ops *ops; /* NULL: nobody */
    void *device;
    uint64_t base;
    uint64_t last; /* of the segment, or of the hole */
};

int bus_new(struct bus **out)
{
    struct bus *bus = calloc(1, sizeof *bus);

    if (!bus)
        return -ENOMEM;
    pthread_mutex_init(&bus->lock, NULL);
    *out = bus;
    return 0;
}

void bus_free(struct bus *bus)
{
    if (!bus)
        return;
    pthread_mutex_destroy(&bus->lock);
    free(bus);
}

/* ---- changing the map ---- */

static uint64_t range_last(const struct bus_range *range)
{
    return range->base + (range->size - 1);
}

/* The newest range that holds `address`, and up to where it stays so (or where the hole ends). */
static const struct bus_range *range_at(const struct bus *bus, uint64_t address, uint64_t *last)
{
    const struct bus_range *found = NULL;

    *last = UINT64_MAX;
    for (unsigned i = bus->range_count; i-- > 0;) {
        const struct bus_range *range = &bus->range[i];

        if (address < range->base) {
            if (range->base - 1 < *last)
                *last = range->base - 1;
        } else if (address <= range_last(range)) {
            if (range_last(range) < *last)
                *last = range_last(range);
            found = range;
            break;
        }
    }
    return found;
}

static void segment_store(struct bus_segment *segment, const struct bus_range *range,
                          uint64_t first, uint64_t last)
{
    atomic_store_explicit(&segment->first, first, memory_order_release);
    atomic_store_explicit(&segment->last, last, memory_order_release);
    atomic_store_explicit(&segment->base, range->base, memory_order_release);
    atomic_store_explicit(&segment->ops, range->ops, memory_order_release);
    atomic_store_explicit(&segment->device, range->device, memory_order_release);
}

/* Sweeps the address space from 0 up, a segment at a time. N ranges have 2N edges, so there are at
 * most 2N - 1 claimed segments. */
static void bus_rebuild(struct bus *bus)
{
    unsigned count = 0;
    uint64_t first = 0, last;

    atomic_fetch_add(&bus->sequence, 1);
    do {
        const struct bus_range *range = range_at(bus, first, &last);

        if (range)
            segment_store(&bus->segment[count++], range, first, last);
        first = last + 1;
    } while (last != UINT64_MAX);
    atomic_store(&bus->segment_count, count);
    atomic_fetch_add(&bus->sequence, 1);
}

int bus_add(struct bus *bus, const struct bus_range *range)
{
    uint64_t last;
    int rc = 0;

    if (range->size == 0 || __builtin_add_overflow(range->base, range->size - 1, &last))
        return -EINVAL;
    pthread_mutex_lock(&bus->lock);
    if (bus->range_count == BUS_RANGES_MAX) {
        rc = -ENOSPC;
    } else {
        bus->range[bus->range_count++] = *range;
        bus_rebuild(bus);
    }
    pthread_mutex_unlock(&bus->lock);
    return rc;
}

void bus_remove(struct bus *bus, uint64_t base, const void *device)
{
    pthread_mutex_lock(&bus->lock);
    for (unsigned i = 0; i < bus->range_count; i++) {
        if (bus->range[i].base != base || bus->range[i].device != device)
            continue;
        bus->range_count--;
        memmove(&bus->range[i], &bus->range[i + 1], (bus->range_count - i) * sizeof bus->range[0]);
        bus_rebuild(bus);
        break;
    }
    pthread_mutex_unlock(&bus->lock);
}

/* ---- access ---- */

static void bus_search(const struct bus *bus, uint64_t address, struct bus_target *out)
{
    unsigned low = 0, high = atomic_load(&bus->segment_count);

    *out = (struct bus_target){.last = UINT64_MAX};
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        const struct bus_segment *segment = &bus->segment[middle];
        uint64_t first = atomic_load_explicit(&segment->first, memory_order_acquire);
        uint64_t last = atomic_load_explicit(&segment->last, memory_order_acquire);

        if (address < first) {
            out->last = first - 1;
            high = middle;
        } else if (address > last) {
            low = middle + 1;
        } else {
            out->last = last;
            out->base = atomic_load_explicit(&segment->base, memory_order_acquire);
            out->device = atomic_load_explicit(&segment->device, memory_order_acquire);
            out->ops = atomic_load_explicit(&segment->ops, memory_order_acquire);
            return;
        }
    }
}

static struct bus_target bus_find(const struct bus *bus, uint64_t address)
{
    struct bus_target target;
    unsigned before;

    do {
        before = atomic_load_explicit(&bus->sequence, memory_order_acquire);
        bus_search(bus, address, &target);
    } while (before % 2 != 0 ||
             atomic_load_explicit(&bus->sequence, memory_order_acquire) != before);
    return target;
}

static uint64_t size_mask(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (size * 8)) - 1;
}

static bool access_fits(const struct bus_target *target, uint64_t address, unsigned size)
{
    return size == 1 || target->last - address >= size - 1;
}

/* A small range may lie in the middle of a wider register (the reset control register, 0xcf9, in
 * PCI's 32-bit 0xcf8): an access that sticks out of its segment belongs to the newest range that
 * holds all of it. Rare, so it takes the lock. */
static bool bus_find_whole(struct bus *bus, uint64_t address, unsigned size, struct bus_target *out)
{
    bool found = false;

    pthread_mutex_lock(&bus->lock);
    for (unsigned i = bus->range_count; !found && i-- > 0;) {
        const struct bus_range *range = &bus->range[i];

        if (address < range->base || address - range->base >= range->size ||
            range->size - (address - range->base) < size)
            continue;
        *out = (struct bus_target){range->ops, range->device, range->base, range_last(range)};
        found = true;
    }
    pthread_mutex_unlock(&bus->lock);
    return found;
}

uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size)
{
    struct bus_target target = bus_find(bus, address);
    unsigned half = size / 2;

    /* What no range holds whole is done in halves, as a PC's bridge splits it. */
    if (!access_fits(&target, address, size) && !bus_find_whole(bus, address, size, &target))
        return bus_read(bus, address, half) | bus_read(bus, address + half, half) << (half * 8);
    if (!target.ops || !target.ops->read)
        return size_mask(size);
    return target.ops->read(target.device, address - target.base, size) & size_mask(size);
}

void bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value)
{
    struct bus_target target = bus_find(bus, address);
    unsigned half = size / 2;

    if (!access_fits(&target, address, size) && !bus_find_whole(bus, address, size, &target)) {
        bus_write(bus, address, half, value & size_mask(half));
        bus_write(bus, address + half, half, value >> (half * 8));
    } else if (target.ops && target.ops->write) {
        target.ops->write(target.device, address - target.base, size, value & size_mask(size));
    }
}
