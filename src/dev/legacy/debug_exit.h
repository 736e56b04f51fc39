/*
 * Debug ports: exit (0xf4), console (0x402, as SeaBIOS writes it) and panic (0x505).
 *
 * 0xf4: a write of 1, 2 or 4 bytes ends the VM with status (value << 1) | 1. 0x402: reads 0xe9,
 * which tells firmware that it is there; a written byte goes to the log. 0x505: reads the event
 * mask (bit 0: panicked, bit 1: crash loaded), a write reports one.
 * Threads: any. Callbacks are made on the writing vCPU's thread with no lock held.
 */
#ifndef FREEHOLD_DEV_LEGACY_DEBUG_EXIT_H
#define FREEHOLD_DEV_LEGACY_DEBUG_EXIT_H

#include <stdint.h>

#include "base/error.h"
#include "mem/bus.h"

#define DEBUG_EXIT_PORT    0xf4
#define DEBUG_CONSOLE_PORT 0x402
#define PANIC_PORT         0x505
#define PANIC_PANICKED     0x1u
#define PANIC_CRASH_LOADED 0x2u

struct debug_exit;

/* A port is present if its callback is not NULL. */
struct debug_exit_config {
    struct bus *ports;
    void (*exit)(void *opaque, uint32_t value);
    void (*line)(void *opaque, const char *text); /* one console line, no newline, printable */
    void (*panic)(void *opaque, uint8_t events);
    void *opaque;
};

MUST_CHECK int debug_exit_new(const struct debug_exit_config *config, struct debug_exit **out);
void debug_exit_free(struct debug_exit *ports);
void debug_exit_reset(struct debug_exit *ports); /* drops an unfinished console line */

#endif
