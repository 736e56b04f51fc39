/*
 * Interrupt wires between components, so that a device need not know which controller listens.
 * Both calls may come from any thread; callees take their own locks (order: device, then IOAPIC
 * or 8259, then LAPIC) and never call back into the device.
 */
#ifndef FREEHOLD_BASE_IRQ_H
#define FREEHOLD_BASE_IRQ_H

#include <stdbool.h>
#include <stdint.h>

/* A level: set(true) asserts, set(false) releases. An edge is set(true) then set(false). */
struct irq_line {
    void (*set)(void *controller, unsigned pin, bool level);
    void *controller;
    unsigned pin;
};

static inline void irq_line_set(const struct irq_line *line, bool level)
{
    if (line->set)
        line->set(line->controller, line->pin, level);
}

/* Where message-signalled interrupts go (Intel SDM vol. 3, 11.11). */
struct msi_target {
    void (*send)(void *controller, uint64_t address, uint32_t data);
    void *controller;
};

#endif
