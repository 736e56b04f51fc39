/*
 * The HPET: a 64-bit 100 MHz counter with three timers (one periodic), legacy replacement routing.
 *
 * Source: IA-PC HPET specification 1.0a. Memory-mapped, 1 KiB at 0xfed00000.
 * It also is the switch that legacy replacement needs: the PIT's and RTC's lines run through
 * hpet_legacy_input(), which passes them on only while the HPET has not taken their place.
 * Threads: any; timers run on the loop. Lock order: pit/rtc -> (no hpet lock) and hpet -> ioapic.
 */
#ifndef FREEHOLD_MACHINE_HPET_H
#define FREEHOLD_MACHINE_HPET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/irq.h"
#include "base/loop.h"
#include "mem/bus.h"

#define HPET_BASE      UINT64_C(0xfed00000)
#define HPET_SIZE      UINT64_C(0x400)
#define HPET_TIMERS    3
#define HPET_PERIOD_NS 10
/* The capabilities' low half, which the ACPI HPET table repeats as "Event Timer Block ID". */
#define HPET_BLOCK_ID UINT32_C(0x8086a201)

struct hpet;

struct hpet_config {
    struct bus *mmio;
    struct loop *loop;
    struct irq_line pit_irq; /* where IRQ 0 goes (8259 input 0 and GSI 2) */
    struct irq_line rtc_irq; /* where IRQ 8 goes (8259 input 8 and GSI 8) */
    struct irq_line gsi;     /* I/O APIC: `pin` is replaced by the timer's route */
};

MUST_CHECK int hpet_new(const struct hpet_config *config, struct hpet **out);
void hpet_free(struct hpet *hpet); /* on the loop's thread or after the loop has stopped */
void hpet_reset(struct hpet *hpet);

#define HPET_INPUT_PIT 0
#define HPET_INPUT_RTC 1
/* An irq_line's set(): `hpet` is a struct hpet, pin one of the two above. */
void hpet_legacy_input(void *hpet, unsigned pin, bool level);

#endif
