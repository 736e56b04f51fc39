/*
 * For chips whose registers are 8 bits wide: a wider access is that many byte accesses at
 * ascending addresses, as an ISA bridge splits it.
 */
#ifndef FREEHOLD_MEM_BUS_BYTES_H
#define FREEHOLD_MEM_BUS_BYTES_H

#include <stdint.h>

static inline uint64_t bus_bytes_read(void *device, uint64_t offset, unsigned size,
                                      uint8_t (*read)(void *device, unsigned reg))
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)read(device, (unsigned)offset + i) << (8 * i);
    return value;
}

static inline void bus_bytes_write(void *device, uint64_t offset, unsigned size, uint64_t value,
                                   void (*write)(void *device, unsigned reg, uint8_t value))
{
    for (unsigned i = 0; i < size; i++)
        write(device, (unsigned)offset + i, (uint8_t)(value >> (8 * i)));
}

#endif
