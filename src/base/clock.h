/* Time as guests and devices see it, in nanoseconds: the host's (clock_gettime(2), CLOCK_MONOTONIC
 * and CLOCK_REALTIME), unless counted.h's stands for it. */
#ifndef FREEHOLD_BASE_CLOCK_H
#define FREEHOLD_BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_SECOND UINT64_C(1000000000)
#define NS_PER_MS     UINT64_C(1000000)

uint64_t clock_monotonic_ns(void);
uint64_t clock_realtime_ns(void);

/* a * b / c without overflow in between; c is not 0. */
static inline uint64_t muldiv64(uint64_t a, uint64_t b, uint64_t c)
{
    return (uint64_t)((unsigned __int128)a * b / c);
}

#endif
