/*
 * Debug ports: exit, console, panic (see debug_exit.h).
 *
 * Threads: any vCPU's; `lock` guards the console line, and callbacks are made after it is released.
 * Trusts nothing: console bytes that are not printable become '?', long lines are cut in two.
 */
#include "dev/legacy/debug_exit.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define CONSOLE_PRESENT    0xe9
#define CONSOLE_LINE_BYTES 160

struct debug_exit_state {
    unsigned line_length;
    char line[CONSOLE_LINE_BYTES];
};

struct debug_exit {
    pthread_mutex_t lock;
    struct debug_exit_state state;
    struct debug_exit_config config;
};

static void exit_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct debug_exit *ports = opaque;

    (void)size;
    if (offset == 0)
        ports->config.exit(ports->config.opaque, (uint32_t)value);
}

static uint64_t console_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque;
    (void)offset;
    (void)size;
    return CONSOLE_PRESENT;
}

/* Adds a byte; when a line is complete, copies it to `out`. */
static bool console_add(struct debug_exit_state *state, char byte, char out[CONSOLE_LINE_BYTES])
{
    bool full = state->line_length == CONSOLE_LINE_BYTES - 1;
    bool complete = byte == '\n' || full;

    if (complete) {
        memcpy(out, state->line, state->line_length);
        out[state->line_length] = '\0';
        state->line_length = 0;
    }
    if (byte != '\n' && byte != '\r')
        state->line[state->line_length++] = byte >= 0x20 && byte < 0x7f ? byte : '?';
    return complete;
}

static void console_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct debug_exit *ports = opaque;
    char line[CONSOLE_LINE_BYTES];
    bool complete;

    (void)offset;
    (void)size;
    pthread_mutex_lock(&ports->lock);
    complete = console_add(&ports->state, (char)value, line);
    pthread_mutex_unlock(&ports->lock);
    if (complete)
        ports->config.line(ports->config.opaque, line);
}

static uint64_t panic_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque;
    (void)offset;
    (void)size;
    return PANIC_PANICKED | PANIC_CRASH_LOADED;
}

static void panic_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct debug_exit *ports = opaque;
    uint8_t events = value & (PANIC_PANICKED | PANIC_CRASH_LOADED);

    (void)offset;
    (void)size;
    if (events)
        ports->config.panic(ports->config.opaque, events);
}

static const struct bus_ops exit_ops = {.write = exit_write};
static const struct bus_ops console_ops = {.read = console_read, .write = console_write};
static const struct bus_ops panic_ops = {.read = panic_read, .write = panic_write};

static int debug_exit_ranges_add(struct debug_exit *ports)
{
    const struct debug_exit_config *config = &ports->config;
    struct bus_range exit_range = {"debug-exit", DEBUG_EXIT_PORT, 4, &exit_ops, ports};
    struct bus_range console = {"debug-console", DEBUG_CONSOLE_PORT, 1, &console_ops, ports};
    struct bus_range panic = {"panic", PANIC_PORT, 1, &panic_ops, ports};
    int rc = 0;

    if (config->exit)
        rc = bus_add(config->ports, &exit_range);
    if (rc == 0 && config->line)
        rc = bus_add(config->ports, &console);
    if (rc == 0 && config->panic)
        rc = bus_add(config->ports, &panic);
    return rc;
}

void debug_exit_reset(struct debug_exit *ports)
{
    pthread_mutex_lock(&ports->lock);
    ports->state.line_length = 0;
    pthread_mutex_unlock(&ports->lock);
}

int debug_exit_new(const struct debug_exit_config *config, struct debug_exit **out)
{
    struct debug_exit *ports = calloc(1, sizeof *ports);
    int rc;

    if (!ports)
        return -ENOMEM;
    pthread_mutex_init(&ports->lock, NULL);
    ports->config = *config;
    rc = debug_exit_ranges_add(ports);
    if (rc < 0)
        debug_exit_free(ports);
    else
        *out = ports;
    return rc;
}

void debug_exit_free(struct debug_exit *ports)
{
    if (!ports)
        return;
    bus_remove(ports->config.ports, DEBUG_EXIT_PORT, ports);
    bus_remove(ports->config.ports, DEBUG_CONSOLE_PORT, ports);
    bus_remove(ports->config.ports, PANIC_PORT, ports);
    pthread_mutex_destroy(&ports->lock);
    free(ports);
}
