/*
 * The pair of 8259A interrupt controllers with their edge/level registers.
 *
 * Ports 0x20/0x21 (master), 0xa0/0xa1 (slave on the master's input 2), 0x4d0/0x4d1 (ELCR).
 * Source: Intel 8259A datasheet (231468); ELCR: Intel 82371AB (PIIX4) datasheet, 7.1.3.
 * Threads: any. Lock order: device -> pic -> LAPIC; the output line is driven with the lock held.
 */
#ifndef FREEHOLD_MACHINE_PIC_H
#define FREEHOLD_MACHINE_PIC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/irq.h"
#include "mem/bus.h"

#define PIC_INPUTS 16

struct pic;

struct pic_config {
    struct bus *ports;
    struct irq_line output; /* INTR: to LINT0 of the LAPICs (lapic_set_lint0) */
};

MUST_CHECK int pic_new(const struct pic_config *config, struct pic **out);
void pic_free(struct pic *pic);
void pic_reset(struct pic *pic);

/* An irq_line's set(): `pic` is a struct pic, irq is 0 to 15 (2 is the cascade and ignored). */
void pic_set_irq(void *pic, unsigned irq, bool level);

/* One interrupt acknowledge sequence of the CPU: the vector, a spurious one if nothing is left.
 * Fits lapic_ops.pic_acknowledge. */
uint8_t pic_acknowledge(void *pic);

#endif
