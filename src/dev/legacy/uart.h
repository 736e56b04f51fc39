/*
 * A 16550A serial port.
 *
 * Source: National Semiconductor PC16550D datasheet. Bytes go out at the back end's pace, not the
 * baud rate's: a vCPU never waits. Transmitted bytes are buffered and drained by the I/O thread;
 * while the buffer cannot take another FIFO-full, LSR shows THRE and TEMT clear.
 * Threads: any; the back end's callbacks come on the loop. Lock order: uart -> pic/ioapic.
 */
#ifndef FREEHOLD_DEV_LEGACY_UART_H
#define FREEHOLD_DEV_LEGACY_UART_H

#include <stdint.h>

#include "base/error.h"
#include "base/irq.h"
#include "base/loop.h"
#include "char/char.h"
#include "mem/bus.h"

struct uart;

struct uart_config {
    struct bus *ports;
    uint16_t base; /* 0x3f8, 0x2f8, 0x3e8, 0x2e8 */
    struct irq_line irq;
    struct loop *loop;
    struct char_backend *backend; /* attached by uart_new; NULL: nothing connected */
};

MUST_CHECK int uart_new(const struct uart_config *config, struct uart **out);
/* On the loop's thread or after the loop has stopped, before the back end is freed: writes out
 * what is still buffered, as far as the back end takes it. */
void uart_free(struct uart *uart);
void uart_reset(struct uart *uart);

#endif
