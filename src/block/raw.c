/*
 * The raw format: the file (or block device) is the disk.
 *
 * The lock is an open-file-description lock on the whole file, so that it dies with the VM process
 * however that ends, and so that two disks of one process also exclude each other.
 * Threads: any; pread and pwrite carry their own offsets.
 * Source: fcntl(2) "Open file description locks", open(2) O_DIRECT, fallocate(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "block/formats.h"

#define DIRECT_ALIGN 4096u
#define ZEROES_BYTES 65536u

struct raw {
    int fd;
    int direct_fd; /* a second description with O_DIRECT, or -1 */
    uint64_t size; /* of the file at opening */
};

/* ---- opening ---- */

static int raw_open_error(struct error *err, const struct block_config *config, int code)
{
    const char *purpose = config->readonly ? "reading" : "writing";
    bool refused = code == -EACCES || code == -EROFS || code == -EPERM;

    if (refused && !config->readonly)
        return error_set(
            err, code, "cannot open disk %s for writing: %s; add readonly=on, or make it writable",
            config->path, strerror(-code));
    return error_set(err, code, "cannot open disk %s for %s: %s", config->path, purpose,
                     strerror(-code));
}

static int raw_lock(const struct raw *raw, const struct block_config *config, struct error *err)
{
    struct flock lock = {.l_type = (short)(config->readonly ? F_RDLCK : F_WRLCK),
                         .l_whence = SEEK_SET};

    if (config->unlocked || fcntl(raw->fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return error_set(err, -EBUSY,
                         "cannot open disk %s: another VM holds it; stop that VM, or open it "
                         "readonly=on in both",
                         config->path);
    log_warn("disk %s: its file system offers no locks (%s); nothing keeps another VM from it",
             config->path, strerror(errno));
    return 0;
}

/* A regular file that nobody may write is meant to stay as it is, whoever we are. */
static int raw_check(struct raw *raw, const struct block_config *config, struct error *err)
{
    struct stat status;
    off_t size;

    if (fstat(raw->fd, &status) < 0)
        return raw_open_error(err, config, -errno);
    if (S_ISDIR(status.st_mode))
        return error_set(err, -EISDIR, "cannot open disk %s: it is a directory", config->path);
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
        return error_set(err, -EINVAL,
                         "cannot open disk %s: it is neither a file nor a block device",
                         config->path);
    if (S_ISREG(status.st_mode) && !config->readonly && !(status.st_mode & 0222))
        return raw_open_error(err, config, -EACCES);
    size = lseek(raw->fd, 0, SEEK_END); /* of block devices too */
    if (size < 0)
        return raw_open_error(err, config, -errno);
    if (size == 0)
        return error_set(err, -EINVAL, "cannot open disk %s: it is empty", config->path);
    raw->size = (uint64_t)size;
    return 0;
}

static void raw_close(void *image)
{
    struct raw *raw = image;

    if (raw->direct_fd >= 0)
        close(raw->direct_fd);
    if (raw->fd >= 0)
        close(raw->fd);
    free(raw);
}

static int raw_open_direct(struct raw *raw, const struct block_config *config, struct error *err)
{
    int access = config->readonly ? O_RDONLY : O_RDWR;

    if (!config->direct)
        return 0;
    raw->direct_fd = open(config->path, access | O_CLOEXEC | O_DIRECT);
    if (raw->direct_fd >= 0)
        return 0;
    return error_set(err, -errno,
                     "cannot open disk %s past the page cache: %s; leave out direct=on",
                     config->path, strerror(errno));
}

static int raw_open(const struct block_config *config, void **image, struct error *err)
{
    /* O_NONBLOCK: a FIFO must not hang us; it means nothing to files and disks. */
    int flags = O_CLOEXEC | O_NONBLOCK | (config->readonly ? O_RDONLY : O_RDWR);
    struct raw *raw = calloc(1, sizeof *raw);
    int rc;

    if (!raw)
        return error_set(err, -ENOMEM, "no memory to open disk %s", config->path);
    raw->direct_fd = -1;
    raw->fd = open(config->path, flags);
    if (raw->fd < 0 && errno == EISDIR)
        rc = error_set(err, -EISDIR, "cannot open disk %s: it is a directory", config->path);
    else
        rc = raw->fd < 0 ? raw_open_error(err, config, -errno) : raw_check(raw, config, err);
    if (rc == 0)
        rc = raw_lock(raw, config, err);
    if (rc == 0)
        rc = raw_open_direct(raw, config, err);
    if (rc < 0) {
        raw_close(raw);
        return rc;
    }
    *image = raw;
    return 0;
}

static uint64_t raw_size(void *image)
{
    return ((struct raw *)image)->size;
}

/* ---- reading and writing ---- */

static bool is_aligned(const struct iovec *iov, unsigned count, uint64_t offset)
{
    uint64_t all = offset;

    for (unsigned i = 0; i < count; i++)
        all |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return all % DIRECT_ALIGN == 0;
}

/* What is not aligned for O_DIRECT goes through the page cache; the kernel keeps both coherent. */
static int raw_fd(const struct raw *raw, const struct iovec *iov, unsigned count, uint64_t offset)
{
    return raw->direct_fd >= 0 && is_aligned(iov, count, offset) ? raw->direct_fd : raw->fd;
}

/* A position in a vector of spans, for transfers that the kernel cuts short. */
struct position {
    const struct iovec *iov;
    unsigned count;
    size_t skip; /* bytes of iov[0] that are done */
    uint64_t offset;
};

static void position_advance(struct position *at, size_t done)
{
    at->offset += done;
    while (at->count && done >= at->iov->iov_len - at->skip) {
        done -= at->iov->iov_len - at->skip;
        at->skip = 0;
        at->iov++;
        at->count--;
    }
    at->skip += done;
}

/* The next batch as the kernel wants it. */
static unsigned position_batch(const struct position *at, struct iovec batch[static 64])
{
    unsigned count = at->count < 64 ? at->count : 64;

    memcpy(batch, at->iov, count * sizeof *batch);
    batch[0].iov_base = (uint8_t *)batch[0].iov_base + at->skip;
    batch[0].iov_len -= at->skip;
    return count;
}

/* Past the end there is only the rest of the last sector, and it is zero; anything else means that
 * somebody cut the file short. */
static int raw_read_tail(const struct raw *raw, const struct position *at)
{
    if (at->offset < raw->size)
        return -EIO;
    for (unsigned i = 0; i < at->count; i++) {
        size_t skip = i == 0 ? at->skip : 0;

        memset((uint8_t *)at->iov[i].iov_base + skip, 0, at->iov[i].iov_len - skip);
    }
    return 0;
}

static int raw_readv(void *image, const struct iovec *iov, unsigned count, uint64_t offset)
{
    struct raw *raw = image;
    struct position at = {iov, count, 0, offset};
    int fd = raw_fd(raw, iov, count, offset);

    while (position_advance(&at, 0), at.count) {
        struct iovec batch[64];
        ssize_t got = preadv(fd, batch, (int)position_batch(&at, batch), (off_t)at.offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            return raw_read_tail(raw, &at);
        position_advance(&at, (size_t)got);
    }
    return 0;
}

static int raw_writev(void *image, const struct iovec *iov, unsigned count, uint64_t offset)
{
    struct raw *raw = image;
    struct position at = {iov, count, 0, offset};
    int fd = raw_fd(raw, iov, count, offset);

    while (position_advance(&at, 0), at.count) {
        struct iovec batch[64];
        ssize_t put = pwritev(fd, batch, (int)position_batch(&at, batch), (off_t)at.offset);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        if (put == 0)
            return -EIO;
        position_advance(&at, (size_t)put);
    }
    return 0;
}

static int raw_flush(void *image)
{
    struct raw *raw = image;

    return fdatasync(raw->fd) < 0 ? -errno : 0;
}

/* ---- discarding ---- */

static int raw_allocate(const struct raw *raw, int mode, uint64_t offset, uint64_t length)
{
    int rc;

    do {
        rc = fallocate(raw->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

static int raw_discard(void *image, uint64_t offset, uint64_t length)
{
    return length ? raw_allocate(image, FALLOC_FL_PUNCH_HOLE, offset, length) : 0;
}

static int raw_fill_zeroes(struct raw *raw, uint64_t offset, uint64_t length)
{
    static const uint8_t zeroes[ZEROES_BYTES];
    int rc = 0;

    while (length && rc == 0) {
        struct iovec iov = {(void *)(uintptr_t)zeroes,
                            length < ZEROES_BYTES ? length : ZEROES_BYTES};

        rc = raw_writev(raw, &iov, 1, offset);
        offset += iov.iov_len;
        length -= iov.iov_len;
    }
    return rc;
}

static int raw_write_zeroes(void *image, uint64_t offset, uint64_t length)
{
    int rc;

    if (!length)
        return 0;
    rc = raw_allocate(image, FALLOC_FL_ZERO_RANGE, offset, length);
    if (rc == -EOPNOTSUPP)
        rc = raw_allocate(image, FALLOC_FL_PUNCH_HOLE, offset, length);
    return rc == -EOPNOTSUPP ? raw_fill_zeroes(image, offset, length) : rc;
}

const struct block_ops block_raw_ops = {
    .format = "raw",
    .description = "the file is the disk, byte for byte",
    .open = raw_open,
    .close = raw_close,
    .size = raw_size,
    .readv = raw_readv,
    .writev = raw_writev,
    .flush = raw_flush,
    .discard = raw_discard,
    .write_zeroes = raw_write_zeroes,
};
