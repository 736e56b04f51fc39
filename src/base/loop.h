/*
 * An event loop: file descriptors and timers, run by one thread (the I/O thread).
 *
 * loop_run() returns after loop_stop(). Everything here may be called from any thread; callbacks
 * run on the loop's own thread with no lock of the loop held. A timer's or watch's memory belongs
 * to its owner, who removes it before freeing it; after loop_watch_remove() or timer_cancel()
 * *called on the loop's thread* (or with the loop not running) the callback will not run any more.
 */
#ifndef FREEHOLD_BASE_LOOP_H
#define FREEHOLD_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct loop;

struct loop_watch {
    int fd;
    uint32_t events; /* EPOLLIN, EPOLLOUT */
    void (*ready)(void *opaque, uint32_t events);
    void *opaque;
    bool active;
};

/* One-shot; the owner arms it again. deadline_ns is CLOCK_MONOTONIC. */
struct timer {
    struct loop *loop;
    void (*expired)(void *opaque);
    void *opaque;
    uint64_t deadline_ns;
    unsigned heap_index; /* 0 while not armed */
};

MUST_CHECK int loop_new(struct loop **out);
void loop_free(struct loop *loop);
MUST_CHECK int loop_run(struct loop *loop);
void loop_stop(struct loop *loop);
bool loop_is_own_thread(const struct loop *loop);

MUST_CHECK int loop_watch_add(struct loop *loop, struct loop_watch *watch);
MUST_CHECK int loop_watch_change(struct loop *loop, struct loop_watch *watch, uint32_t events);
void loop_watch_remove(struct loop *loop, struct loop_watch *watch);

void timer_init(struct timer *timer, struct loop *loop, void (*expired)(void *), void *opaque);
void timer_arm(struct timer *timer, uint64_t deadline_ns); /* replaces an earlier deadline */
void timer_cancel(struct timer *timer);

#endif
