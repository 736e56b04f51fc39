/*
 * The event loop: epoll for descriptors, one timerfd for the earliest timer (an hrtimer, exact to
 * the nanosecond, with no slack; under counted time it may fire early, and is set again), one
 * eventfd to wake the loop from other threads.
 *
 * Threads: any may call; `lock` guards the heap and the batch of events being handed out, and is
 * never held while a callback runs. Trusts its callers.
 */
#include "base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/counted.h"
#include "base/log.h"

#define LOOP_BATCH        32
#define LOOP_HEAP_INITIAL 64
#define DEADLINE_NEVER    UINT64_MAX

struct loop {
    int epoll_fd, timer_fd, wake_fd;
    pthread_mutex_t lock;
    atomic_bool stop;
    atomic_bool running;
    _Atomic(pthread_t) thread; /* valid while running */

    struct timer **heap; /* heap[1] is the earliest; index 0 is unused */
    unsigned heap_count, heap_capacity;
    uint64_t programmed_ns; /* what timer_fd will fire at */

    struct epoll_event batch[LOOP_BATCH];
    int batch_count;
};

/* ---- construction ---- */

static int loop_own_fd_add(struct loop *loop, int *fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = fd};

    if (*fd < 0)
        return -errno;
    return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, *fd, &event) < 0 ? -errno : 0;
}

static void fd_close(int fd)
{
    if (fd >= 0)
        close(fd);
}

static int loop_fds_open(struct loop *loop)
{
    int rc;

    loop->timer_fd = loop->wake_fd = -1;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0)
        return -errno;
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    rc = loop_own_fd_add(loop, &loop->timer_fd);
    if (rc < 0)
        return rc;
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return loop_own_fd_add(loop, &loop->wake_fd);
}

int loop_new(struct loop **out)
{
    struct loop *loop = calloc(1, sizeof *loop);
    int rc;

    if (!loop)
        return -ENOMEM;
    pthread_mutex_init(&loop->lock, NULL);
    loop->programmed_ns = DEADLINE_NEVER;
    loop->heap_capacity = LOOP_HEAP_INITIAL;
    rc = loop_fds_open(loop);
    if (rc < 0)
        goto out_free;
    loop->heap = calloc(loop->heap_capacity, sizeof *loop->heap);
    if (!loop->heap) {
        rc = -ENOMEM;
        goto out_free;
    }
    *out = loop;
    return 0;

out_free:
    loop_free(loop);
    return rc;
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    fd_close(loop->wake_fd);
    fd_close(loop->timer_fd);
    fd_close(loop->epoll_fd);
    pthread_mutex_destroy(&loop->lock);
    free(loop->heap);
    free(loop);
}

/* ---- timers: a binary heap, with each timer knowing its place ---- */

static void heap_place(struct loop *loop, unsigned index, struct timer *timer)
{
    loop->heap[index] = timer;
    timer->heap_index = index;
}

static void heap_rise(struct loop *loop, struct timer *timer)
{
    unsigned index = timer->heap_index;

    while (index > 1 && loop->heap[index / 2]->deadline_ns > timer->deadline_ns) {
        heap_place(loop, index, loop->heap[index / 2]);
        index /= 2;
    }
    heap_place(loop, index, timer);
}

static void heap_sink(struct loop *loop, struct timer *timer)
{
    unsigned index = timer->heap_index;

    for (;;) {
        unsigned child = index * 2;

        if (child > loop->heap_count)
            break;
        if (child < loop->heap_count &&
            loop->heap[child + 1]->deadline_ns < loop->heap[child]->deadline_ns)
            child++;
        if (loop->heap[child]->deadline_ns >= timer->deadline_ns)
            break;
        heap_place(loop, index, loop->heap[child]);
        index = child;
    }
    heap_place(loop, index, timer);
}

static void heap_remove(struct loop *loop, struct timer *timer)
{
    struct timer *last = loop->heap[loop->heap_count];
    unsigned index = timer->heap_index;

    loop->heap_count--;
    timer->heap_index = 0;
    if (last == timer)
        return;
    heap_place(loop, index, last);
    heap_rise(loop, last);
    heap_sink(loop, last);
}

/* The number of timers is fixed by the board, not by the guest, so this grows a few times at most;
 * without memory for a few pointers the process could not go on anyway. */
static void heap_reserve(struct loop *loop)
{
    struct timer **heap;

    if (loop->heap_count + 1 < loop->heap_capacity)
        return;
    heap = reallocarray(loop->heap, loop->heap_capacity * 2u, sizeof *heap);
    if (!heap) {
        log_error("no memory for a timer");
        abort();
    }
    loop->heap = heap;
    loop->heap_capacity *= 2;
}

/* Makes the timerfd fire at the earliest deadline. A deadline that moved later is left to fire
 * early once: that costs less than a system call at each re-arming. */
static void loop_program(struct loop *loop)
{
    struct itimerspec when = {0};
    uint64_t deadline_ns, host_ns;

    if (loop->heap_count == 0 || loop->heap[1]->deadline_ns >= loop->programmed_ns)
        return;
    deadline_ns = loop->heap[1]->deadline_ns;
    loop->programmed_ns = deadline_ns;
    host_ns = counted_host_deadline(deadline_ns);
    when.it_value.tv_sec = (time_t)(host_ns / NS_PER_SECOND);
    when.it_value.tv_nsec = (long)(host_ns % NS_PER_SECOND);
    if (host_ns == 0)
        when.it_value.tv_nsec = 1; /* 0 would disarm */
    timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

void timer_init(struct timer *timer, struct loop *loop, void (*expired)(void *), void *opaque)
{
    *timer = (struct timer){.loop = loop, .expired = expired, .opaque = opaque};
}

void timer_arm(struct timer *timer, uint64_t deadline_ns)
{
    struct loop *loop = timer->loop;

    pthread_mutex_lock(&loop->lock);
    timer->deadline_ns = deadline_ns;
    if (timer->heap_index == 0) {
        heap_reserve(loop);
        heap_place(loop, ++loop->heap_count, timer);
    }
    heap_rise(loop, timer);
    heap_sink(loop, timer);
    loop_program(loop);
    pthread_mutex_unlock(&loop->lock);
}

void timer_cancel(struct timer *timer)
{
    struct loop *loop = timer->loop;

    if (!loop)
        return;
    pthread_mutex_lock(&loop->lock);
    if (timer->heap_index != 0)
        heap_remove(loop, timer);
    pthread_mutex_unlock(&loop->lock);
}

/* Runs what has expired by now. A callback that arms a timer in the past gets it in the next
 * round, so that descriptors are served in between. */
static void loop_timers_run(struct loop *loop)
{
    uint64_t now = clock_monotonic_ns();
    uint64_t expirations;
    ssize_t got = read(loop->timer_fd, &expirations, sizeof expirations);

    (void)got; /* EAGAIN when a reprogramming overtook it */
    pthread_mutex_lock(&loop->lock);
    loop->programmed_ns = DEADLINE_NEVER;
    for (unsigned budget = loop->heap_count; budget > 0; budget--) {
        struct timer *timer;

        if (loop->heap_count == 0 || loop->heap[1]->deadline_ns > now)
            break;
        timer = loop->heap[1];
        heap_remove(loop, timer);
        pthread_mutex_unlock(&loop->lock);
        timer->expired(timer->opaque);
        pthread_mutex_lock(&loop->lock);
    }
    loop->programmed_ns = DEADLINE_NEVER;
    loop_program(loop);
    pthread_mutex_unlock(&loop->lock);
}

/* ---- descriptors ---- */

int loop_watch_add(struct loop *loop, struct loop_watch *watch)
{
    struct epoll_event event = {.events = watch->events, .data.ptr = watch};

    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, watch->fd, &event) < 0)
        return -errno;
    __atomic_store_n(&watch->active, true, __ATOMIC_RELAXED);
    return 0;
}

int loop_watch_change(struct loop *loop, struct loop_watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};

    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event) < 0)
        return -errno;
    watch->events = events;
    return 0;
}

void loop_watch_remove(struct loop *loop, struct loop_watch *watch)
{
    if (!__atomic_exchange_n(&watch->active, false, __ATOMIC_RELAXED))
        return;
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    pthread_mutex_lock(&loop->lock);
    for (int i = 0; i < loop->batch_count; i++) {
        if (loop->batch[i].data.ptr == watch)
            loop->batch[i].data.ptr = NULL; /* fetched already, not to be handed out any more */
    }
    pthread_mutex_unlock(&loop->lock);
}

/* ---- running ---- */

static void loop_wake_drain(struct loop *loop)
{
    uint64_t count;
    ssize_t got = read(loop->wake_fd, &count, sizeof count);

    (void)got;
}

static void loop_dispatch(struct loop *loop, int index)
{
    struct epoll_event event;

    pthread_mutex_lock(&loop->lock);
    event = loop->batch[index];
    pthread_mutex_unlock(&loop->lock);
    if (event.data.ptr == &loop->timer_fd) {
        loop_timers_run(loop);
    } else if (event.data.ptr == &loop->wake_fd) {
        loop_wake_drain(loop);
    } else if (event.data.ptr) {
        struct loop_watch *watch = event.data.ptr;

        watch->ready(watch->opaque, event.events);
    }
}

static int loop_step(struct loop *loop)
{
    struct epoll_event events[LOOP_BATCH];
    int count = epoll_wait(loop->epoll_fd, events, LOOP_BATCH, -1);

    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    pthread_mutex_lock(&loop->lock);
    for (int i = 0; i < count; i++)
        loop->batch[i] = events[i];
    loop->batch_count = count;
    pthread_mutex_unlock(&loop->lock);
    for (int i = 0; i < count; i++)
        loop_dispatch(loop, i);
    return 0;
}

int loop_run(struct loop *loop)
{
    int rc = 0;

    atomic_store(&loop->thread, pthread_self());
    atomic_store(&loop->running, true);
    while (rc == 0 && !atomic_load(&loop->stop))
        rc = loop_step(loop);
    pthread_mutex_lock(&loop->lock);
    loop->batch_count = 0;
    pthread_mutex_unlock(&loop->lock);
    atomic_store(&loop->running, false);
    atomic_store(&loop->stop, false);
    return rc;
}

void loop_stop(struct loop *loop)
{
    uint64_t one = 1;
    ssize_t put;

    atomic_store(&loop->stop, true);
    put = write(loop->wake_fd, &one, sizeof one);
    (void)put; /* EAGAIN: the counter is full, so the loop is being woken already */
}

bool loop_is_own_thread(const struct loop *loop)
{
    return atomic_load(&loop->running) && pthread_equal(atomic_load(&loop->thread), pthread_self());
}
