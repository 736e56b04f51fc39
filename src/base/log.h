/*
 * Log lines on standard error, one per call, prefixed "freehold: ". Any thread.
 *
 * What a guest, an image or a peer can trigger is logged through log_limited(), with a
 * `struct log_limit` that lives in the device: at most 10 lines a second, then a count.
 */
#ifndef FREEHOLD_BASE_LOG_H
#define FREEHOLD_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct log_limit {
    uint64_t window_start_ns;
    unsigned in_window;
    unsigned suppressed;
};

void log_error(const char *format, ...) PRINTF(1, 2);
void log_warn(const char *format, ...) PRINTF(1, 2);
void log_info(const char *format, ...) PRINTF(1, 2); /* shown only when verbose */
void log_limited(struct log_limit *limit, const char *format, ...) PRINTF(2, 3);

/* Set once, before threads start. */
void log_set_verbose(bool verbose);

#endif
