/*
 * Disk images: a table of operations per format. All calls are synchronous and may come from
 * several threads at once (the devices' workers); the image's content is hostile.
 */
#ifndef FREEHOLD_BLOCK_BLOCK_H
#define FREEHOLD_BLOCK_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"

#define BLOCK_SECTOR_SIZE 512u

struct block_config {
    const char *path;
    const char *format; /* NULL: "raw" */
    bool readonly;
    bool direct;   /* O_DIRECT: past the host's page cache */
    bool unlocked; /* take no lock (tests) */
};

struct block; /* an open image */

/* One format. `offset` and lengths are bytes, inside the image (block_* checks). */
struct block_ops {
    const char *format;
    const char *description;
    int (*open)(const struct block_config *config, void **image, struct error *err);
    void (*close)(void *image);
    uint64_t (*size)(void *image); /* bytes */
    int (*readv)(void *image, const struct iovec *iov, unsigned count, uint64_t offset);
    int (*writev)(void *image, const struct iovec *iov, unsigned count, uint64_t offset);
    int (*flush)(void *image); /* every write that completed before is now safe */
    int (*discard)(void *image, uint64_t offset, uint64_t length);      /* NULL: cannot */
    int (*write_zeroes)(void *image, uint64_t offset, uint64_t length); /* NULL: cannot */
};

extern const struct block_ops *const block_formats[];
extern const unsigned block_format_count;

/* Opens an image and takes its advisory lock (exclusive for writers, shared for readers). -EBUSY
 * when another VM holds it, -EACCES, -EROFS, -ENOENT, -EINVAL (unknown format, a directory), each
 * with its sentence. */
MUST_CHECK int block_open(const struct block_config *config, struct block **out, struct error *err);
void block_close(struct block *block);

/* What the guest sees: the image's bytes rounded up to a sector; the tail reads as zeroes, and a
 * write into it makes the file longer. */
uint64_t block_size(const struct block *block);
bool block_readonly(const struct block *block);
bool block_can_discard(const struct block *block);
bool block_can_write_zeroes(const struct block *block);

/* All or nothing: 0, or a negative errno; -EINVAL beyond the end, -EROFS. */
MUST_CHECK int block_readv(struct block *block, const struct iovec *iov, unsigned count,
                           uint64_t offset);
MUST_CHECK int block_writev(struct block *block, const struct iovec *iov, unsigned count,
                            uint64_t offset);
MUST_CHECK int block_flush(struct block *block);
MUST_CHECK int block_discard(struct block *block, uint64_t offset, uint64_t length);
MUST_CHECK int block_write_zeroes(struct block *block, uint64_t offset, uint64_t length);

#endif
