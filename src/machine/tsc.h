/*
 * The host's time-stamp counter as devices see it. The guest's TSC is the host's plus an offset,
 * so both run at `hz`; the offset belongs to each vCPU (lapic_tsc_offset_set()).
 */
#ifndef FREEHOLD_MACHINE_TSC_H
#define FREEHOLD_MACHINE_TSC_H

#include <stdint.h>

#include "base/counted.h"

struct tsc_clock {
    uint64_t hz;            /* cpu_tsc_hz() */
    uint64_t (*read)(void); /* tsc_read_host(), or a test's own */
};

static inline uint64_t tsc_read_host(void)
{
    return counted_tsc(0);
}

#endif
