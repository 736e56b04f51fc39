/*
 * The MC146818 real-time clock with 128 bytes of CMOS RAM (ports 0x70, 0x71), IRQ 8.
 *
 * Time starts as the host's UTC and may be set by the guest (kept as an offset to the host's).
 * Source: Motorola MC146818A datasheet; CMOS cells as PC firmware uses them (century 0x32, memory
 * size 0x15-0x18, 0x30/0x31, 0x34/0x35, 0x5b-0x5d, vCPUs - 1 at 0x5f).
 * Threads: any; timers run on the loop. Lock order: rtc -> pic/ioapic.
 */
#ifndef FREEHOLD_MACHINE_RTC_H
#define FREEHOLD_MACHINE_RTC_H

#include <stdint.h>

#include "base/error.h"
#include "base/irq.h"
#include "base/loop.h"
#include "mem/bus.h"

#define RTC_CMOS_BYTES 128

struct rtc;

struct rtc_config {
    struct bus *ports;
    struct loop *loop;
    struct irq_line irq;         /* IRQ 8 (through hpet_legacy_input where there is an HPET) */
    uint64_t ram_below_4g_bytes; /* RAM under the PCI hole, counted from address 0 */
    uint64_t ram_above_4g_bytes;
    unsigned vcpu_count;
};

MUST_CHECK int rtc_new(const struct rtc_config *config, struct rtc **out);
void rtc_free(struct rtc *rtc); /* on the loop's thread or after the loop has stopped */
void rtc_reset(struct rtc *rtc);

/* Presets a CMOS RAM cell (index 0x0e to 0x7f), as firmware setup would: boot order and such. */
void rtc_cmos_set(struct rtc *rtc, uint8_t index, uint8_t value);

#endif
