/* Shared by char.c (specs, input and output over descriptors) and the kinds of back end. */
#ifndef FREEHOLD_CHAR_CHAR_INTERNAL_H
#define FREEHOLD_CHAR_CHAR_INTERNAL_H

#include <stdbool.h>
#include <termios.h>

#include "char/char.h"

#define CHAR_INPUT_BYTES 256

struct char_ops {
    const char *name;     /* of the spec, before the colon */
    const char *argument; /* what follows the colon, for the user; NULL: nothing does */
    int (*open)(struct char_backend *backend, const char *argument, struct error *err);
    void (*hangup)(struct char_backend *backend); /* end of input, or output failed; may be NULL */
    void (*close)(struct char_backend *backend);
};

/* All on the loop's thread, but for `resume`. */
struct char_backend {
    const struct char_ops *ops;
    struct char_config config;
    struct char_client client;

    int in_fd, out_fd;         /* -1: none */
    struct loop_watch in, out; /* active while input is wanted, while output is full */
    bool in_unwatched;         /* in_fd cannot be polled (a regular file): always ready */
    bool out_may_block;        /* out_fd could not be made non-blocking: poll before each write */
    bool out_short;            /* the client waits for `writable` */
    struct timer resume;       /* input again, on the loop's thread */
    uint8_t pending[CHAR_INPUT_BYTES]; /* read but not yet taken */
    size_t pending_first, pending_count;

    bool escape_seen; /* Ctrl-A was typed */
    bool raw;         /* the terminal is to be restored to `saved` */
    struct termios saved;

    int listen_fd; /* unix */
    struct loop_watch listening;
    char *path;
};

/* in_fd or out_fd has been set: starts input, lets output flow. */
void char_backend_start(struct char_backend *backend);
/* Stops watching and closes both. */
void char_backend_stop(struct char_backend *backend);

/* Takes Ctrl-A sequences out of `bytes`, in place; returns the new length. */
size_t char_escape_filter(struct char_backend *backend, uint8_t *bytes, size_t length);

extern const struct char_ops char_stdio_ops, char_file_ops, char_unix_ops, char_none_ops;

#endif
