/*
 * The I/O APIC: 24 pins, each routed by a redirection entry to the LAPICs as a message.
 *
 * Source: Intel 82093AA datasheet (290566); version 0x20 with the EOI register at offset 0x40
 * (Intel ICH9 datasheet, 13.5.5). Memory-mapped, 4 KiB.
 * Threads: any. Lock order: device -> ioapic -> LAPIC; messages are sent with the lock held.
 */
#ifndef FREEHOLD_MACHINE_IOAPIC_H
#define FREEHOLD_MACHINE_IOAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/irq.h"
#include "mem/bus.h"

#define IOAPIC_PINS 24
#define IOAPIC_BASE UINT64_C(0xfec00000)

struct ioapic;

struct ioapic_config {
    struct bus *mmio;
    uint64_t base;
    struct msi_target target; /* lapic_set_deliver_msi */
};

MUST_CHECK int ioapic_new(const struct ioapic_config *config, struct ioapic **out);
void ioapic_free(struct ioapic *ioapic);
void ioapic_reset(struct ioapic *ioapic);

/* An irq_line's set(): `ioapic` is a struct ioapic, pin is 0 to 23. */
void ioapic_set_irq(void *ioapic, unsigned pin, bool level);

/* A LAPIC ended a level-triggered interrupt. Fits lapic_ops.eoi. */
void ioapic_eoi(void *ioapic, uint8_t vector);

#endif
