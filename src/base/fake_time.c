/* Time for unit tests. One thread; trusts the test. */
#include "base/fake_time.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/loop.h"

#define FAKE_TIMERS_MAX 64

static struct fake_time {
    uint64_t monotonic_ns, realtime_ns;
    struct timer *armed[FAKE_TIMERS_MAX]; /* slot 0 is unused, as in loop.h */
} fake;

void fake_time_reset(uint64_t monotonic_ns, uint64_t realtime_ns)
{
    for (unsigned i = 1; i < FAKE_TIMERS_MAX; i++) {
        if (fake.armed[i])
            timer_cancel(fake.armed[i]);
    }
    fake.monotonic_ns = monotonic_ns;
    fake.realtime_ns = realtime_ns;
}

uint64_t clock_monotonic_ns(void)
{
    return fake.monotonic_ns;
}

uint64_t clock_realtime_ns(void)
{
    return fake.realtime_ns;
}

void timer_init(struct timer *timer, struct loop *loop, void (*expired)(void *), void *opaque)
{
    *timer = (struct timer){.loop = loop, .expired = expired, .opaque = opaque};
}

void timer_arm(struct timer *timer, uint64_t deadline_ns)
{
    timer->deadline_ns = deadline_ns;
    for (unsigned i = 1; timer->heap_index == 0 && i < FAKE_TIMERS_MAX; i++) {
        if (!fake.armed[i]) {
            fake.armed[i] = timer;
            timer->heap_index = i;
        }
    }
    if (timer->heap_index == 0)
        abort();
}

void timer_cancel(struct timer *timer)
{
    if (timer->heap_index)
        fake.armed[timer->heap_index] = NULL;
    timer->heap_index = 0;
}

static struct timer *fake_earliest(uint64_t until_ns)
{
    struct timer *first = NULL;

    for (unsigned i = 1; i < FAKE_TIMERS_MAX; i++) {
        struct timer *timer = fake.armed[i];

        if (timer && timer->deadline_ns <= until_ns &&
            (!first || timer->deadline_ns < first->deadline_ns))
            first = timer;
    }
    return first;
}

static void fake_clock_set(uint64_t monotonic_ns)
{
    if (monotonic_ns > fake.monotonic_ns) {
        fake.realtime_ns += monotonic_ns - fake.monotonic_ns;
        fake.monotonic_ns = monotonic_ns;
    }
}

static void fake_run(uint64_t until_ns)
{
    struct timer *timer;

    while ((timer = fake_earliest(until_ns))) {
        fake_clock_set(timer->deadline_ns);
        timer_cancel(timer);
        timer->expired(timer->opaque);
    }
    fake_clock_set(until_ns);
}

void fake_time_advance(uint64_t ns)
{
    fake_run(fake.monotonic_ns + ns);
}

void fake_time_jump(uint64_t ns)
{
    fake_clock_set(fake.monotonic_ns + ns);
    fake_run(fake.monotonic_ns);
}

void fake_time_stall(uint64_t ns)
{
    fake_clock_set(fake.monotonic_ns + ns);
}
