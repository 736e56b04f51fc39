/*
 * A listening Unix socket as a back end: one client at a time, who may come and go. The next one
 * waits in the backlog. Output is dropped while nobody is connected.
 * Threads: the loop's. The client is whoever may open the socket (its directory's permissions).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "char/char_internal.h"

static void unix_listen(struct char_backend *backend)
{
    int rc = loop_watch_add(backend->config.loop, &backend->listening);

    if (rc < 0)
        log_warn("cannot wait for connections to %s: %s", backend->path, strerror(-rc));
}

/* Somebody connects. The descriptor is duplicated, since the loop watches each for one thing. */
static void unix_accept(void *opaque, uint32_t events)
{
    struct char_backend *backend = opaque;
    int fd = accept4(backend->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    (void)events;
    if (fd < 0)
        return;
    backend->in_fd = fd;
    backend->out_fd = dup(fd);
    if (backend->out_fd < 0) {
        char_backend_stop(backend);
        return;
    }
    loop_watch_remove(backend->config.loop, &backend->listening);
    char_backend_start(backend);
}

/* The client went away: whoever waits for it to read goes on, since output is dropped now. */
static void unix_hangup(struct char_backend *backend)
{
    bool out_short = backend->out_short;

    char_backend_stop(backend);
    backend->out_short = false;
    unix_listen(backend);
    if (out_short && backend->client.writable)
        backend->client.writable(backend->client.opaque);
}

/* A socket file that nobody answers is left over from a process that died. */
static bool unix_is_stale(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool stale;

    if (fd < 0)
        return false;
    stale =
        connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static int unix_bind(struct char_backend *backend, const struct sockaddr_un *address)
{
    const struct sockaddr *generic = (const struct sockaddr *)address;

    backend->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (backend->listen_fd < 0)
        return -errno;
    if (bind(backend->listen_fd, generic, sizeof *address) == 0)
        return 0;
    if (errno != EADDRINUSE || !unix_is_stale(address))
        return -errno;
    unlink(address->sun_path);
    return bind(backend->listen_fd, generic, sizeof *address) < 0 ? -errno : 0;
}

static int unix_error(const char *path, int code, struct error *err)
{
    if (code == -EADDRINUSE)
        return error_set(err, code,
                         "cannot listen on %s: another process does, or it is no socket; choose "
                         "another name",
                         path);
    if (code == -ENOENT)
        return error_set(
            err, code, "cannot listen on %s: its directory does not exist; create it first", path);
    return error_set(err, code, "cannot listen on %s: %s", path, strerror(-code));
}

static int unix_open(struct char_backend *backend, const char *path, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int rc;

    if (strlen(path) >= sizeof address.sun_path)
        return error_set(err, -ENAMETOOLONG,
                         "cannot listen on %s: a socket's name has at most %zu characters", path,
                         sizeof address.sun_path - 1);
    strcpy(address.sun_path, path);
    rc = unix_bind(backend, &address);
    if (rc < 0)
        return unix_error(path, rc, err);
    backend->path = strdup(path); /* ours from now on: removed at the end */
    if (!backend->path || listen(backend->listen_fd, 1) < 0) {
        unlink(path);
        return error_set(err, -ENOMEM, "cannot listen on %s: out of resources", path);
    }
    backend->listening = (struct loop_watch){
        .fd = backend->listen_fd, .events = EPOLLIN, .ready = unix_accept, .opaque = backend};
    unix_listen(backend);
    return 0;
}

static void unix_close(struct char_backend *backend)
{
    if (backend->listen_fd < 0)
        return;
    loop_watch_remove(backend->config.loop, &backend->listening);
    close(backend->listen_fd);
    if (backend->path)
        unlink(backend->path);
}

const struct char_ops char_unix_ops = {
    .name = "unix",
    .argument = "a socket name",
    .open = unix_open,
    .hangup = unix_hangup,
    .close = unix_close,
};
