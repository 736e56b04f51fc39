/*
 * Counted time: a process whose guest runs at another speed than a processor's (lockstep) gives it
 * a clock of its own. All clocks of clock.h then stand still but for what is added for executed
 * instructions, and run with the host's only while the guest idles. TSC and device timers stay
 * together, since all are derived from it.
 *
 * Off at first; counted_start() is called before threads start. After that: any thread.
 */
#ifndef FREEHOLD_BASE_COUNTED_H
#define FREEHOLD_BASE_COUNTED_H

#include <stdbool.h>
#include <stdint.h>

void counted_start(uint64_t tsc_hz);
bool counted_is_on(void);

/* An executed instruction is worth a nanosecond. */
void counted_add(uint64_t instructions);
/* The guest waits for an interrupt; or no longer. */
void counted_idle(bool idle);

uint64_t counted_ns(void);
uint64_t counted_realtime_ns(void);
/* The TSC: counted time, `instructions` that are not added yet included; the host's when off. */
uint64_t counted_tsc(uint64_t instructions);

/* The host's CLOCK_MONOTONIC, and what it shows at `deadline_ns` at the earliest. */
uint64_t counted_host_ns(void);
uint64_t counted_host_deadline(uint64_t deadline_ns);

#endif
