/*
 * ACPI fixed hardware: PM1a event and control blocks, PM timer, GPE0 block, power button, sleep
 * states, and the reset control register at port 0xcf9.
 *
 * Source: ACPI 6.5, 4.8.3 (PM1, PM timer), 4.8.4.1 (GPE); reset: Intel ICH9 datasheet, 13.7.5.
 * The machine is always in ACPI mode (SCI_EN is set; the FADT has no SMI command port).
 * Threads: any. Lock order: rtc -> acpi_pm -> ioapic/pic. `sleep`, `wake` and `reset` are called
 * with no lock of its own held.
 */
#ifndef FREEHOLD_MACHINE_ACPI_PM_H
#define FREEHOLD_MACHINE_ACPI_PM_H

#include <stdbool.h>

#include "base/error.h"
#include "base/irq.h"
#include "base/loop.h"
#include "mem/bus.h"

#define ACPI_PM_EVENT_PORT   0x600
#define ACPI_PM_CONTROL_PORT 0x604
#define ACPI_PM_TIMER_PORT   0x608
#define ACPI_PM_GPE0_PORT    0x620
#define ACPI_PM_GPE0_BYTES   4
#define ACPI_PM_RESET_PORT   0xcf9
#define ACPI_PM_RESET_VALUE  0x06
#define ACPI_PM_SLEEP_S3     1 /* SLP_TYP */
#define ACPI_PM_SLEEP_S5     5
#define ACPI_PM_TIMER_HZ     3579545

struct acpi_pm;

struct acpi_pm_config {
    struct bus *ports; /* 0xcf9 lies inside the PCI address register: add this after PCI */
    struct loop *loop;
    struct irq_line sci;                        /* level-triggered, GSI 9 */
    bool timer_32bit;                           /* FADT flag TMR_VAL_EXT */
    void (*sleep)(void *opaque, unsigned type); /* SLP_TYP of a SLP_EN write */
    void (*wake)(void *opaque);                 /* from S3, after sleep(); once */
    void (*reset)(void *opaque);
    void *opaque;
};

MUST_CHECK int acpi_pm_new(const struct acpi_pm_config *config, struct acpi_pm **out);
void acpi_pm_free(struct acpi_pm *pm); /* on the loop's thread or after the loop has stopped */
void acpi_pm_reset(struct acpi_pm *pm);
void acpi_pm_resume(struct acpi_pm *pm); /* the same after S3: leaves what woke the machine */

void acpi_pm_power_button(struct acpi_pm *pm); /* presses it: the guest gets an SCI */
void acpi_pm_rtc_alarm(struct acpi_pm *pm);    /* the clock asserts its interrupt */
/* Raises general-purpose event 0 to 15 (hot plug and the like). */
void acpi_pm_gpe(struct acpi_pm *pm, unsigned event);

#endif
