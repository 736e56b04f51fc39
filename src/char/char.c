/*
 * Character back ends: specs, and input and output over descriptors (see char.h).
 *
 * Threads: the loop's, except char_backend_input_resume(), which only arms a timer. Input bytes are
 * passed on unread but for the escape key; a peer that sends without end is held back by not
 * reading, one that does not read by `writable`.
 */
#include "char/char.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "char/char_internal.h"

#define WRITE_MAY_BLOCK_BYTES 512 /* what a pipe or terminal that polls as writable takes */

static const struct char_ops *const char_kinds[] = {
    &char_stdio_ops,
    &char_file_ops,
    &char_unix_ops,
    &char_none_ops,
};
#define CHAR_KINDS (sizeof char_kinds / sizeof char_kinds[0])

/* ---- input ---- */

/* Offers what is pending; whether all of it was taken. */
static bool input_offer(struct char_backend *backend)
{
    size_t taken;

    if (backend->pending_count == 0)
        return true;
    if (!backend->client.input)
        return false;
    taken = backend->client.input(backend->client.opaque, backend->pending + backend->pending_first,
                                  backend->pending_count);
    backend->pending_first += taken;
    backend->pending_count -= taken;
    return backend->pending_count == 0;
}

static void input_watch(struct char_backend *backend)
{
    int rc;

    if (backend->in_fd < 0 || backend->in.active || backend->in_unwatched)
        return;
    rc = loop_watch_add(backend->config.loop, &backend->in);
    if (rc == -EPERM)
        backend->in_unwatched = true;
    else if (rc < 0)
        log_warn("cannot watch the input of \"%s\": %s", backend->config.spec, strerror(-rc));
}

static void hangup(struct char_backend *backend)
{
    loop_watch_remove(backend->config.loop, &backend->in);
    if (backend->ops->hangup)
        backend->ops->hangup(backend);
}

/* One read; whether more may follow now. */
static bool input_read(struct char_backend *backend)
{
    ssize_t got = read(backend->in_fd, backend->pending, sizeof backend->pending);

    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (got <= 0) {
        hangup(backend);
        return false;
    }
    backend->pending_first = 0;
    backend->pending_count = char_escape_filter(backend, backend->pending, (size_t)got);
    return true;
}

static void input_ready(void *opaque, uint32_t events)
{
    struct char_backend *backend = opaque;

    (void)events;
    if (!input_read(backend))
        return;
    if (!input_offer(backend)) /* not watched meanwhile: a hangup would be reported without end */
        loop_watch_remove(backend->config.loop, &backend->in);
}

/* A regular file is read a buffer at a time, so that the loop serves others in between. */
static void input_resumed(void *opaque)
{
    struct char_backend *backend = opaque;

    if (!backend->client.input || !input_offer(backend))
        return;
    input_watch(backend);
    if (backend->in_unwatched && backend->in_fd >= 0 && input_read(backend) && input_offer(backend))
        char_backend_input_resume(backend);
}

void char_backend_input_resume(struct char_backend *backend)
{
    timer_arm(&backend->resume, clock_monotonic_ns());
}

/* Ctrl-A is taken out, and the key after it goes to the owner; Ctrl-A twice is one Ctrl-A. */
size_t char_escape_filter(struct char_backend *backend, uint8_t *bytes, size_t length)
{
    const uint8_t control_a = 1;
    size_t kept = 0;

    if (!backend->config.escape || !backend->raw)
        return length;
    for (size_t i = 0; i < length; i++) {
        if (!backend->escape_seen && bytes[i] == control_a) {
            backend->escape_seen = true;
            continue;
        }
        if (!backend->escape_seen || bytes[i] == control_a)
            bytes[kept++] = bytes[i];
        else
            backend->config.escape(backend->config.opaque, bytes[i]);
        backend->escape_seen = false;
    }
    return kept;
}

/* ---- output ---- */

static void output_ready(void *opaque, uint32_t events)
{
    struct char_backend *backend = opaque;

    (void)events;
    loop_watch_remove(backend->config.loop, &backend->out);
    if (backend->out_short && backend->client.writable) {
        backend->out_short = false;
        backend->client.writable(backend->client.opaque);
    }
}

/* Bytes written, or a negative errno. */
static ssize_t output_write(const struct char_backend *backend, const uint8_t *bytes, size_t length)
{
    struct pollfd poll_fd = {.fd = backend->out_fd, .events = POLLOUT};
    ssize_t put;

    if (backend->out_may_block) {
        if (poll(&poll_fd, 1, 0) <= 0)
            return -EAGAIN;
        length = length < WRITE_MAY_BLOCK_BYTES ? length : WRITE_MAY_BLOCK_BYTES;
    }
    if (backend->path) /* a socket: a peer that has gone is an error, not a signal */
        put = send(backend->out_fd, bytes, length, MSG_NOSIGNAL);
    else
        put = write(backend->out_fd, bytes, length);
    return put < 0 ? -errno : put;
}

/* Output failed for good: it is dropped from now on. A peer that went away is no news. */
static void output_failed(struct char_backend *backend, int error)
{
    if (error != -EPIPE && error != -ECONNRESET)
        log_warn("writing to \"%s\" failed (%s); its further output is dropped",
                 backend->config.spec, strerror(-error));
    if (backend->ops->hangup) {
        hangup(backend);
    } else if (backend->out_fd >= 0) {
        close(backend->out_fd);
        backend->out_fd = -1;
    }
}

static size_t output_full(struct char_backend *backend, size_t taken)
{
    if (!backend->out.active && loop_watch_add(backend->config.loop, &backend->out) < 0) {
        log_warn("cannot watch the output of \"%s\"", backend->config.spec);
        return taken;
    }
    backend->out_short = true;
    return taken;
}

size_t char_backend_write(struct char_backend *backend, const uint8_t *bytes, size_t length)
{
    size_t taken = 0;

    while (taken < length && backend->out_fd >= 0) {
        ssize_t put = output_write(backend, bytes + taken, length - taken);

        if (put == -EINTR)
            continue;
        if (put == -EAGAIN)
            return output_full(backend, taken);
        if (put < 0) {
            output_failed(backend, (int)put);
            break;
        }
        taken += (size_t)put;
    }
    return length;
}

/* ---- life ---- */

void char_backend_start(struct char_backend *backend)
{
    backend->in = (struct loop_watch){
        .fd = backend->in_fd, .events = EPOLLIN, .ready = input_ready, .opaque = backend};
    backend->out = (struct loop_watch){
        .fd = backend->out_fd, .events = EPOLLOUT, .ready = output_ready, .opaque = backend};
    backend->in_unwatched = false;
    backend->pending_count = 0;
    if (backend->client.input)
        char_backend_input_resume(backend);
}

void char_backend_stop(struct char_backend *backend)
{
    int in_fd = backend->in_fd, out_fd = backend->out_fd;

    loop_watch_remove(backend->config.loop, &backend->in);
    loop_watch_remove(backend->config.loop, &backend->out);
    backend->in_fd = backend->out_fd = -1;
    backend->pending_count = 0;
    if (in_fd >= 0)
        close(in_fd);
    if (out_fd >= 0 && out_fd != in_fd)
        close(out_fd);
}

void char_backend_attach(struct char_backend *backend, const struct char_client *client)
{
    backend->client = client ? *client : (struct char_client){0};
    if (client)
        char_backend_input_resume(backend);
    else
        loop_watch_remove(backend->config.loop, &backend->in);
}

static int spec_unknown(const char *spec, struct error *err)
{
    return error_set(err, -EINVAL,
                     "\"%s\" is no place for serial output: use stdio, file:F, unix:F or none",
                     spec);
}

/* The kind whose name the spec starts with, and what follows the colon. */
static int spec_parse(const char *spec, const struct char_ops **kind, const char **argument,
                      struct error *err)
{
    size_t name_length = strcspn(spec, ":");

    *argument = spec[name_length] ? spec + name_length + 1 : NULL;
    for (unsigned i = 0; i < CHAR_KINDS; i++) {
        const struct char_ops *ops = char_kinds[i];

        if (strlen(ops->name) != name_length || strncmp(spec, ops->name, name_length) != 0)
            continue;
        if (ops->argument && (!*argument || !**argument))
            return error_set(err, -EINVAL, "\"%s\" lacks %s: write %s:F", spec, ops->argument,
                             ops->name);
        if (!ops->argument && *argument)
            return spec_unknown(spec, err);
        *kind = ops;
        return 0;
    }
    return spec_unknown(spec, err);
}

int char_backend_new(const struct char_config *config, struct char_backend **out, struct error *err)
{
    struct char_backend *backend;
    const struct char_ops *kind = NULL;
    const char *argument = NULL;
    int rc = spec_parse(config->spec, &kind, &argument, err);

    if (rc < 0)
        return rc;
    backend = calloc(1, sizeof *backend);
    if (!backend)
        return error_set(err, -ENOMEM, "not enough memory to open \"%s\"", config->spec);
    backend->ops = kind;
    backend->config = *config;
    backend->in_fd = backend->out_fd = backend->listen_fd = -1;
    timer_init(&backend->resume, config->loop, input_resumed, backend);
    backend->config.spec = strdup(config->spec);
    if (!backend->config.spec)
        rc = error_set(err, -ENOMEM, "not enough memory to open \"%s\"", config->spec);
    else
        rc = kind->open(backend, argument, err);
    if (rc < 0)
        char_backend_free(backend);
    else
        *out = backend;
    return rc;
}

void char_backend_free(struct char_backend *backend)
{
    if (!backend)
        return;
    timer_cancel(&backend->resume);
    backend->ops->close(backend);
    char_backend_stop(backend);
    free(backend->path);
    free((char *)backend->config.spec);
    free(backend);
}

/* ---- none: output vanishes, input never comes ---- */

static int none_open(struct char_backend *backend, const char *argument, struct error *err)
{
    (void)backend;
    (void)argument;
    (void)err;
    return 0;
}

static void none_close(struct char_backend *backend)
{
    (void)backend;
}

const struct char_ops char_none_ops = {.name = "none", .open = none_open, .close = none_close};
