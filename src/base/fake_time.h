/*
 * Time for unit tests: the clock stands still until fake_time_advance() moves it.
 *
 * fake_time.c defines clock_monotonic_ns(), clock_realtime_ns() and the timer functions of loop.h
 * anew; a test that compiles it in gets these instead of lib_base's. One thread.
 */
#ifndef FREEHOLD_BASE_FAKE_TIME_H
#define FREEHOLD_BASE_FAKE_TIME_H

#include <stdint.h>

/* Forgets all timers and sets both clocks. */
void fake_time_reset(uint64_t monotonic_ns, uint64_t realtime_ns);

/* Moves on, stopping at each timer that is due, which then runs. */
void fake_time_advance(uint64_t ns);

/* The I/O thread oversleeps: moves on at once, then runs what is due. */
void fake_time_jump(uint64_t ns);

/* The I/O thread sleeps still: moves on and runs nothing. */
void fake_time_stall(uint64_t ns);

#endif
