/*
 * Counted time: see counted.h.
 *
 * Its state is the process's, like the host's clocks that it stands for: one VM is one process.
 * Threads: any; the lock is a leaf.
 */
#include "base/counted.h"

#include <pthread.h>
#include <time.h>
#include <x86intrin.h>

#define NS UINT64_C(1000000000)
#define WAIT_MIN_NS                                                                                \
    UINT64_C(100000) /* between looks at a clock that may be slower than the host's */

static struct {
    bool on; /* set once */
    pthread_mutex_t lock;
    uint64_t tsc_hz;
    uint64_t ns;
    uint64_t realtime_ns; /* when ns was 0 */
    uint64_t idle_since;  /* host time, 0: not idle */
} counted = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint64_t host_clock(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * NS + (uint64_t)now.tv_nsec;
}

uint64_t counted_host_ns(void)
{
    return host_clock(CLOCK_MONOTONIC);
}

void counted_start(uint64_t tsc_hz)
{
    if (counted.on)
        return;
    counted.tsc_hz = tsc_hz;
    counted.ns = counted_host_ns();
    counted.realtime_ns = host_clock(CLOCK_REALTIME) - counted.ns;
    counted.on = true;
}

bool counted_is_on(void)
{
    return counted.on;
}

void counted_add(uint64_t instructions)
{
    pthread_mutex_lock(&counted.lock);
    counted.ns += instructions;
    pthread_mutex_unlock(&counted.lock);
}

void counted_idle(bool idle)
{
    uint64_t now = counted_host_ns();

    pthread_mutex_lock(&counted.lock);
    if (counted.idle_since)
        counted.ns += now - counted.idle_since;
    counted.idle_since = idle ? now : 0;
    pthread_mutex_unlock(&counted.lock);
}

uint64_t counted_ns(void)
{
    uint64_t ns;

    if (!counted.on)
        return counted_host_ns();
    pthread_mutex_lock(&counted.lock);
    ns = counted.ns;
    if (counted.idle_since)
        ns += counted_host_ns() - counted.idle_since;
    pthread_mutex_unlock(&counted.lock);
    return ns;
}

uint64_t counted_realtime_ns(void)
{
    return counted.on ? counted_ns() + counted.realtime_ns : host_clock(CLOCK_REALTIME);
}

uint64_t counted_tsc(uint64_t instructions)
{
    if (!counted.on)
        return __rdtsc();
    return (uint64_t)((unsigned __int128)(counted_ns() + instructions) * counted.tsc_hz / NS);
}

uint64_t counted_host_deadline(uint64_t deadline_ns)
{
    uint64_t now, left;

    if (!counted.on)
        return deadline_ns;
    now = counted_ns();
    left = deadline_ns > now ? deadline_ns - now : 0;
    return counted_host_ns() + (left > WAIT_MIN_NS ? left : WAIT_MIN_NS);
}
