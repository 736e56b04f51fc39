/*
 * Log lines on standard error. Threads: any; each line is one write(2), so lines never mix.
 * The text may hold what a guest supplied: control characters are shown as '?', so that no guest
 * can move the cursor of the terminal that shows the log.
 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/counted.h"

#define LOG_LINE_BYTES       640
#define LOG_LIMIT_PER_SECOND 10

/* The one setting of the process: written before threads start, then only read. */
static bool log_verbose;

void log_set_verbose(bool verbose)
{
    log_verbose = verbose;
}

static void log_line(const char *level, const char *format, va_list args)
{
    char line[LOG_LINE_BYTES];
    int prefix = snprintf(line, sizeof line, "freehold: %s", level);
    size_t length;
    ssize_t ignored;

    vsnprintf(line + prefix, sizeof line - (size_t)prefix - 1, format, args);
    length = strlen(line);
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    }
    line[length++] = '\n';
    ignored = write(STDERR_FILENO, line, length);
    (void)ignored; /* nowhere left to report to */
}

void log_error(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_line("error: ", format, args);
    va_end(args);
}

void log_warn(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_line("warning: ", format, args);
    va_end(args);
}

void log_info(const char *format, ...)
{
    va_list args;

    if (!log_verbose)
        return;
    va_start(args, format);
    log_line("", format, args);
    va_end(args);
}

/* Counts this line; true when it may be shown. Starts a new window each second and hands out how
 * many lines the last one swallowed. Two threads racing here can only miscount by a line. */
static bool log_limit_admit(struct log_limit *limit, unsigned *swallowed)
{
    uint64_t now = counted_host_ns();
    uint64_t start = __atomic_load_n(&limit->window_start_ns, __ATOMIC_RELAXED);

    *swallowed = 0;
    if (start == 0 || now - start >= NS_PER_SECOND) {
        __atomic_store_n(&limit->window_start_ns, now, __ATOMIC_RELAXED);
        __atomic_store_n(&limit->in_window, 0, __ATOMIC_RELAXED);
        *swallowed = __atomic_exchange_n(&limit->suppressed, 0, __ATOMIC_RELAXED);
    }
    if (__atomic_fetch_add(&limit->in_window, 1, __ATOMIC_RELAXED) < LOG_LIMIT_PER_SECOND)
        return true;
    __atomic_fetch_add(&limit->suppressed, 1, __ATOMIC_RELAXED);
    return false;
}

void log_limited(struct log_limit *limit, const char *format, ...)
{
    va_list args;
    unsigned swallowed;

    if (!log_limit_admit(limit, &swallowed))
        return;
    if (swallowed > 0)
        log_warn("%u more messages like the next one were not shown", swallowed);
    va_start(args, format);
    log_line("warning: ", format, args);
    va_end(args);
}
