/*
 * Where a vCPU's time goes. A thread looks every millisecond at what the vCPU says it is doing, and
 * puts down to that the processor time which the vCPU's thread has used since the last look. So the
 * vCPU pays one store of a byte when it changes what it does, and rdtsc (10 ns, twice for an exit
 * of 30 ns) is not needed.
 *
 * Threads: one of its own per vCPU, only while samples are wanted.
 */
#include "cpu/soft/sample.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/counted.h"

#define PERIOD_NS NS_PER_MS

struct soft_sampler {
    struct soft_counters *counters;
    pthread_t thread;
    atomic_bool stop;
    atomic_bool has_clock;
    clockid_t clock; /* of the vCPU's thread; set before has_clock */
    uint64_t wall_ns, used_ns;
};

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now = {0};

    if (clock_gettime(clock, &now) != 0)
        return 0; /* the thread has ended */
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

static void sample(struct soft_sampler *s)
{
    uint64_t *time_ns = s->counters->time_ns;
    enum soft_activity activity = soft_activity_get(s->counters);
    uint64_t wall_ns = counted_host_ns(), used_ns = clock_ns(s->clock);
    uint64_t wall = wall_ns - s->wall_ns;
    uint64_t used = used_ns > s->used_ns ? used_ns - s->used_ns : 0;

    if (s->wall_ns != 0 && used_ns != 0) {
        soft_count_add(&time_ns[activity == SOFT_IN_HALT ? SOFT_UNSAMPLED : activity], used);
        if (wall > used)
            soft_count_add(&time_ns[activity == SOFT_IN_HALT ? SOFT_IN_HALT : SOFT_WAITING],
                           wall - used);
    }
    s->wall_ns = wall_ns;
    s->used_ns = used_ns;
}

static void *sampler_main(void *opaque)
{
    struct soft_sampler *s = opaque;
    const struct timespec period = {.tv_nsec = PERIOD_NS};

    while (!atomic_load(&s->stop)) {
        if (atomic_load(&s->has_clock))
            sample(s);
        clock_nanosleep(CLOCK_MONOTONIC, 0, &period, NULL);
    }
    return NULL;
}

int soft_sampler_new(struct soft_counters *counters, struct soft_sampler **out)
{
    struct soft_sampler *s = calloc(1, sizeof *s);
    int rc;

    if (!s)
        return -ENOMEM;
    s->counters = counters;
    rc = pthread_create(&s->thread, NULL, sampler_main, s);
    if (rc != 0) {
        free(s);
        return -rc;
    }
    *out = s;
    return 0;
}

void soft_sampler_free(struct soft_sampler *s)
{
    if (!s)
        return;
    atomic_store(&s->stop, true);
    pthread_join(s->thread, NULL);
    free(s);
}

void soft_sampler_here(struct soft_sampler *s)
{
    if (!atomic_load_explicit(&s->has_clock, memory_order_relaxed) &&
        pthread_getcpuclockid(pthread_self(), &s->clock) == 0)
        atomic_store(&s->has_clock, true);
}
