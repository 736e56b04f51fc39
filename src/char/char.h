/*
 * Character back ends: where a serial port's or console's bytes come from and go to.
 *
 * "stdio", "file:F", "unix:F" (a listening socket, one client at a time, who may come and go) and
 * "none". A back end runs on the loop's thread: its callbacks come from there, and write() is
 * called there. It never blocks: what it cannot take now it leaves, and calls `writable` later.
 */
#ifndef FREEHOLD_CHAR_CHAR_H
#define FREEHOLD_CHAR_CHAR_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"

struct char_backend;

/* The device's side. All three are called on the loop's thread with no lock held. */
struct char_client {
    /* Bytes came in; returns how many were taken. If not all, the rest waits in the back end
     * until char_backend_input_resume(). */
    size_t (*input)(void *opaque, const uint8_t *bytes, size_t length);
    void (*writable)(void *opaque); /* after a short char_backend_write() */
    void *opaque;
};

struct char_config {
    const char *spec; /* "stdio", "file:F", "unix:F", "none" */
    struct loop *loop;
    /* stdio on a terminal only: Ctrl-A and then `key` was typed (Ctrl-A Ctrl-A sends one Ctrl-A).
     * NULL: no escape key. The terminal is raw from open to free. */
    void (*escape)(void *opaque, uint8_t key);
    void *opaque;
};

/* Opens it, with one sentence in `err`: unknown spec, missing directory, no permission... */
MUST_CHECK int char_backend_new(const struct char_config *config, struct char_backend **out,
                                struct error *err);
void char_backend_free(struct char_backend *backend); /* on the loop's thread or loop stopped */

/* Who gets the input; NULL detaches. On the loop's thread, or before it runs. */
void char_backend_attach(struct char_backend *backend, const struct char_client *client);

/* Returns how many bytes were taken (all of them for a socket nobody is connected to, and after
 * an error: output that has nowhere to go is dropped). On the loop's thread. */
size_t char_backend_write(struct char_backend *backend, const uint8_t *bytes, size_t length);

/* The client has room again. Any thread. */
void char_backend_input_resume(struct char_backend *backend);

#endif
