/*
 * The 8254 interval timer (ports 0x40 to 0x43) and system control port B (0x61): channel 0 drives
 * IRQ 0, channel 2 the speaker gate.
 *
 * Source: Intel 82C54 datasheet (231244); port 0x61: Intel ICH9 datasheet, 13.7.1.
 * Counts are computed from the monotonic clock; each deadline from the start of the count, so that
 * nothing drifts. Missed ticks of channel 0 are delivered late, a few at most, never as a storm.
 * Threads: any; the timer runs on the loop. Lock order: pit -> pic/ioapic.
 */
#ifndef FREEHOLD_MACHINE_PIT_H
#define FREEHOLD_MACHINE_PIT_H

#include "base/error.h"
#include "base/irq.h"
#include "base/loop.h"
#include "mem/bus.h"

#define PIT_HZ UINT64_C(1193182)

struct pit;

struct pit_config {
    struct bus *ports;
    struct loop *loop;
    struct irq_line irq; /* IRQ 0 (through hpet_legacy_input where there is an HPET) */
};

MUST_CHECK int pit_new(const struct pit_config *config, struct pit **out);
void pit_free(struct pit *pit); /* on the loop's thread or after the loop has stopped */
void pit_reset(struct pit *pit);

#endif
