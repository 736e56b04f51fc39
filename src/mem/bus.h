/*
 * A bus: address ranges and the devices that answer them. A VM has two, ports (addresses 0 to
 * 0xffff) and memory-mapped I/O (guest-physical addresses with no RAM).
 *
 * Unclaimed reads give all ones, unclaimed writes vanish, as on a PC. Threads: any; ranges may be
 * added and removed while vCPUs run (a guest moves its BARs); no lock of the bus is held while a
 * device's operation runs, and devices take their own locks.
 */
#ifndef FREEHOLD_MEM_BUS_H
#define FREEHOLD_MEM_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct bus_ops {
    /* size is 1, 2, 4 or 8 bytes; offset is relative to the range's base; the access lies wholly
     * inside the range. Values are zero-extended. NULL: reads as all ones, ignores writes. */
    uint64_t (*read)(void *device, uint64_t offset, unsigned size);
    void (*write)(void *device, uint64_t offset, unsigned size, uint64_t value);
};

struct bus_range {
    const char *name;
    uint64_t base;
    uint64_t size;
    const struct bus_ops *ops;
    void *device;
};

struct bus;

MUST_CHECK int bus_new(struct bus **out);
void bus_free(struct bus *bus);

/* Adds a range. Where ranges overlap, the one added last answers, of those that hold the whole
 * access (a BAR moved over another device does no harm; a byte register may lie inside a wider
 * one). -ENOMEM, -ENOSPC beyond 256 ranges, -EINVAL when empty or wrapping. */
MUST_CHECK int bus_add(struct bus *bus, const struct bus_range *range);
void bus_remove(struct bus *bus, uint64_t base, const void *device);

uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size);
void bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value);

#endif
