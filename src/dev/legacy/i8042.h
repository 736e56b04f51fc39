/*
 * The i8042 keyboard controller (ports 0x60, 0x64) with an AT keyboard, and port 0x92.
 *
 * Source: IBM PS/2 Technical Reference, "Keyboard and Auxiliary Device Controller" and "101/102-key
 * keyboard". No auxiliary device is connected: its port answers with a timeout. A20 can be switched
 * and read back, but the address line always stays enabled, as on later chipsets.
 * Threads: any. Lock order: i8042 -> pic/ioapic. `reset` is called with no lock held.
 */
#ifndef FREEHOLD_DEV_LEGACY_I8042_H
#define FREEHOLD_DEV_LEGACY_I8042_H

#include "base/error.h"
#include "base/irq.h"
#include "mem/bus.h"

struct i8042;

struct i8042_config {
    struct bus *ports;
    struct irq_line keyboard_irq; /* IRQ 1 */
    struct irq_line aux_irq;      /* IRQ 12 */
    void (*reset)(void *opaque);  /* CPU reset line was pulsed */
    void *opaque;
};

MUST_CHECK int i8042_new(const struct i8042_config *config, struct i8042 **out);
void i8042_free(struct i8042 *i8042);
void i8042_reset(struct i8042 *i8042);

#endif
