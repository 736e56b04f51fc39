/* The event loop: order and accuracy of timers, descriptors, stopping and arming across threads. */
#include "base/loop.h"
#include "base/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"

#define TIMERS 300

struct fixture {
    struct loop *loop;
    unsigned fired;
    uint64_t last_deadline_ns;
    unsigned disorder, early;
};

struct timed {
    struct timer timer;
    struct fixture *fixture;
};

static void timed_expired(void *opaque)
{
    struct timed *timed = opaque;
    struct fixture *f = timed->fixture;

    f->fired++;
    f->disorder += timed->timer.deadline_ns < f->last_deadline_ns;
    f->early += clock_monotonic_ns() < timed->timer.deadline_ns;
    f->last_deadline_ns = timed->timer.deadline_ns;
}

static void stop_expired(void *opaque)
{
    loop_stop(opaque);
}

static bool fixture_open(struct test *t, struct fixture *f)
{
    memset(f, 0, sizeof *f);
    return CHECK_EQ(t, loop_new(&f->loop), 0);
}

static void stop_at(struct fixture *f, struct timer *timer, uint64_t after_ns)
{
    timer_init(timer, f->loop, stop_expired, f->loop);
    timer_arm(timer, clock_monotonic_ns() + after_ns);
}

/* Many timers, in no order, some moved, some cancelled: the rest fire in order, none early. */
static void test_timer_order(struct test *t)
{
    struct fixture f;
    struct timed *timed = calloc(TIMERS, sizeof *timed);
    struct timer end;
    uint64_t now = clock_monotonic_ns();

    if (!timed || !fixture_open(t, &f))
        return;
    for (unsigned i = 0; i < TIMERS; i++) {
        timed[i].fixture = &f;
        timer_init(&timed[i].timer, f.loop, timed_expired, &timed[i]);
        timer_arm(&timed[i].timer, now + (i * 7919 % 997) * 10000);
    }
    for (unsigned i = 0; i < TIMERS; i += 3)
        timer_arm(&timed[i].timer, now + (i * 104729 % 991) * 10000);
    for (unsigned i = 0; i < TIMERS; i += 5)
        timer_cancel(&timed[i].timer);
    stop_at(&f, &end, 30 * NS_PER_MS);
    CHECK_EQ(t, loop_run(f.loop), 0);
    CHECK_EQ(t, f.fired, TIMERS - TIMERS / 5);
    CHECK_EQ(t, f.disorder, 0);
    CHECK_EQ(t, f.early, 0);
    loop_free(f.loop);
    free(timed);
}

static void rearm_expired(void *opaque)
{
    struct timed *timed = opaque;

    if (++timed->fixture->fired == 5)
        loop_stop(timed->fixture->loop);
    else
        timer_arm(&timed->timer, 0); /* the past: at once, but not in the same round */
}

static void test_rearm_in_callback(struct test *t)
{
    struct fixture f;
    struct timed timed = {.fixture = &f};

    if (!fixture_open(t, &f))
        return;
    timer_init(&timed.timer, f.loop, rearm_expired, &timed);
    timer_arm(&timed.timer, clock_monotonic_ns());
    CHECK_EQ(t, loop_run(f.loop), 0);
    CHECK_EQ(t, f.fired, 5);
    CHECK_EQ(t, timed.timer.heap_index, 0);
    loop_free(f.loop);
}

struct pair {
    struct fixture *fixture;
    struct loop_watch first, second;
    unsigned calls;
};

/* Whichever comes first removes the other one, which must then stay silent. */
static void pair_ready(void *opaque, uint32_t events)
{
    struct pair *pair = opaque;

    pair->calls += (events & EPOLLIN) != 0;
    loop_watch_remove(pair->fixture->loop, &pair->first);
    loop_watch_remove(pair->fixture->loop, &pair->second);
}

static void test_watch_removed_in_batch(struct test *t)
{
    struct fixture f;
    struct pair pair = {.fixture = &f};
    struct timer end;
    int a[2], b[2];

    if (!fixture_open(t, &f) || !CHECK(t, pipe(a) == 0 && pipe(b) == 0))
        return;
    pair.first = (struct loop_watch){a[0], EPOLLIN, pair_ready, &pair, false};
    pair.second = (struct loop_watch){b[0], EPOLLIN, pair_ready, &pair, false};
    CHECK_EQ(t, loop_watch_add(f.loop, &pair.first), 0);
    CHECK_EQ(t, loop_watch_add(f.loop, &pair.second), 0);
    CHECK(t, write(a[1], "x", 1) == 1 && write(b[1], "x", 1) == 1);
    stop_at(&f, &end, 5 * NS_PER_MS);
    CHECK_EQ(t, loop_run(f.loop), 0);
    CHECK_EQ(t, pair.calls, 1);
    CHECK(t, !pair.first.active && !pair.second.active);
    loop_free(f.loop);
    for (int i = 0; i < 2; i++) {
        close(a[i]);
        close(b[i]);
    }
}

static void *loop_thread(void *opaque)
{
    return loop_run(opaque) == 0 ? opaque : NULL;
}

struct threaded {
    struct timer timer;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    uint64_t fired_ns;
    bool own_thread;
};

static void threaded_expired(void *opaque)
{
    struct threaded *threaded = opaque;

    pthread_mutex_lock(&threaded->lock);
    threaded->fired_ns = clock_monotonic_ns();
    threaded->own_thread = loop_is_own_thread(threaded->timer.loop);
    pthread_cond_signal(&threaded->cond);
    pthread_mutex_unlock(&threaded->lock);
}

/* A timer armed by another thread while the loop sleeps without any deadline. */
static void test_arm_from_other_thread(struct test *t)
{
    struct fixture f;
    struct threaded threaded = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                .cond = PTHREAD_COND_INITIALIZER};
    pthread_t thread;
    void *result = NULL;
    uint64_t deadline;

    if (!fixture_open(t, &f))
        return;
    timer_init(&threaded.timer, f.loop, threaded_expired, &threaded);
    if (!CHECK_EQ(t, pthread_create(&thread, NULL, loop_thread, f.loop), 0))
        return;
    usleep(2000);
    timer_arm(&threaded.timer, clock_monotonic_ns() + 500 * NS_PER_MS);
    deadline = clock_monotonic_ns() + 3 * NS_PER_MS;
    timer_arm(&threaded.timer, deadline); /* earlier than what the timerfd waits for */
    pthread_mutex_lock(&threaded.lock);
    while (threaded.fired_ns == 0)
        pthread_cond_wait(&threaded.cond, &threaded.lock);
    CHECK(t, threaded.fired_ns >= deadline);
    CHECK(t, threaded.fired_ns < deadline + 400 * NS_PER_MS);
    CHECK(t, threaded.own_thread);
    pthread_mutex_unlock(&threaded.lock);
    CHECK(t, !loop_is_own_thread(f.loop));
    loop_stop(f.loop);
    pthread_join(thread, &result);
    CHECK(t, result == f.loop);
    loop_free(f.loop);
}

/* A stop that comes before the run is not lost, and does not outlive it. */
static void test_stop_before_run(struct test *t)
{
    struct fixture f;
    struct timer end;
    uint64_t start;

    if (!fixture_open(t, &f))
        return;
    loop_stop(f.loop);
    CHECK_EQ(t, loop_run(f.loop), 0);
    start = clock_monotonic_ns();
    stop_at(&f, &end, 2 * NS_PER_MS);
    CHECK_EQ(t, loop_run(f.loop), 0);
    CHECK(t, clock_monotonic_ns() - start >= 2 * NS_PER_MS);
    loop_free(f.loop);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_timer_order);
    TEST_RUN(&t, test_rearm_in_callback);
    TEST_RUN(&t, test_watch_removed_in_batch);
    TEST_RUN(&t, test_arm_from_other_thread);
    TEST_RUN(&t, test_stop_before_run);
    return test_end(&t);
}
