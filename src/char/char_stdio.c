/*
 * The process's own standard input and output as a back end, and files.
 *
 * Descriptors 0 and 1 are shared with the shell, so O_NONBLOCK is never set on them: a pipe or
 * terminal is opened anew through /proc, which gives a file description of our own. Where that
 * fails, and for regular files (whose offset is shared for a reason), they are duplicated.
 * Threads: the loop's. Trusts the user who gave the path.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "char/char_internal.h"

/* ---- stdio ---- */

static int stdio_reopen(int fd, int flags, bool *may_block)
{
    struct stat info;
    char path[32];
    int own = -1;

    if (fstat(fd, &info) < 0)
        return -1; /* closed: no input, no output */
    *may_block = !S_ISREG(info.st_mode);
    if (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode)) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        own = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    }
    if (own >= 0)
        *may_block = false;
    else
        own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return own;
}

/* Raw input, so that Ctrl-C and the like go to the guest; output processing stays, so that the
 * log's lines look right. A background job leaves the terminal alone. */
static void terminal_raw(struct char_backend *backend)
{
    pid_t foreground = tcgetpgrp(backend->in_fd); /* -1: no terminal, or not our controlling one */
    struct termios raw;

    if ((foreground >= 0 && foreground != getpgrp()) ||
        tcgetattr(backend->in_fd, &backend->saved) < 0)
        return;
    raw = backend->saved;
    cfmakeraw(&raw);
    raw.c_oflag = backend->saved.c_oflag;
    backend->raw = tcsetattr(backend->in_fd, TCSANOW, &raw) == 0;
}

static int stdio_open(struct char_backend *backend, const char *argument, struct error *err)
{
    bool unused;

    (void)argument;
    (void)err;
    backend->in_fd = stdio_reopen(STDIN_FILENO, O_RDONLY, &unused);
    backend->out_fd = stdio_reopen(STDOUT_FILENO, O_WRONLY, &backend->out_may_block);
    terminal_raw(backend);
    char_backend_start(backend);
    return 0;
}

static void stdio_close(struct char_backend *backend)
{
    if (backend->raw)
        tcsetattr(backend->in_fd, TCSANOW, &backend->saved);
}

/* ---- file:F ---- */

static int file_error(const char *path, int error, struct error *err)
{
    char directory[256];

    if (error == ENOENT) {
        snprintf(directory, sizeof directory, "%s", path);
        return error_set(err, -error,
                         "cannot write serial output to %s: there is no directory %s; create it "
                         "first",
                         path, dirname(directory));
    }
    if (error == ENXIO)
        return error_set(err, -error,
                         "cannot write serial output to %s: nobody reads this pipe; start its "
                         "reader first",
                         path);
    return error_set(err, -error, "cannot write serial output to %s: %s", path, strerror(error));
}

static int file_open(struct char_backend *backend, const char *path, struct error *err)
{
    backend->out_fd =
        open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    if (backend->out_fd < 0)
        return file_error(path, errno, err);
    char_backend_start(backend);
    return 0;
}

static void file_close(struct char_backend *backend)
{
    (void)backend; /* char_backend_free() closes the descriptor */
}

const struct char_ops char_stdio_ops = {.name = "stdio", .open = stdio_open, .close = stdio_close};
const struct char_ops char_file_ops = {
    .name = "file", .argument = "a file name", .open = file_open, .close = file_close};
