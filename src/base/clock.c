/* Host time, or counted time in its stead. Threads: any. */
#include "base/clock.h"

#include "base/counted.h"

uint64_t clock_monotonic_ns(void)
{
    return counted_ns();
}

uint64_t clock_realtime_ns(void)
{
    return counted_realtime_ns();
}
