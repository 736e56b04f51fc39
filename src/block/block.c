/*
 * Disk images: finds the format, checks every range, passes the rest to the format's table.
 * Threads: any, after block_open(). Offsets and lengths come from devices, thus from guests.
 */
#include "block/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "block/formats.h"

const struct block_ops *const block_formats[] = {&block_raw_ops};
const unsigned block_format_count = sizeof block_formats / sizeof block_formats[0];

struct block {
    const struct block_ops *ops;
    void *image;
    bool readonly;
    uint64_t size;
};

static const struct block_ops *format_find(const char *name)
{
    for (unsigned i = 0; i < block_format_count; i++) {
        if (strcmp(block_formats[i]->format, name) == 0)
            return block_formats[i];
    }
    return NULL;
}

int block_open(const struct block_config *config, struct block **out, struct error *err)
{
    const char *format = config->format ? config->format : "raw";
    struct block *block = calloc(1, sizeof *block);
    int rc;

    if (!block)
        return error_set(err, -ENOMEM, "no memory to open disk %s", config->path);
    block->ops = format_find(format);
    block->readonly = config->readonly;
    if (!block->ops) {
        rc = error_set(err, -EINVAL, "cannot open disk %s: unknown format '%s'; use format=raw",
                       config->path, format);
        goto out_free;
    }
    rc = block->ops->open(config, &block->image, err);
    if (rc < 0)
        goto out_free;
    if (!checked_align_up(block->ops->size(block->image), BLOCK_SECTOR_SIZE, &block->size))
        block->size = UINT64_MAX - (BLOCK_SECTOR_SIZE - 1);
    *out = block;
    return 0;

out_free:
    free(block);
    return rc;
}

void block_close(struct block *block)
{
    if (!block)
        return;
    block->ops->close(block->image);
    free(block);
}

uint64_t block_size(const struct block *block)
{
    return block->size;
}

bool block_readonly(const struct block *block)
{
    return block->readonly;
}

bool block_can_discard(const struct block *block)
{
    return block->ops->discard && !block->readonly;
}

bool block_can_write_zeroes(const struct block *block)
{
    return block->ops->write_zeroes && !block->readonly;
}

static int vector_check(const struct block *block, const struct iovec *iov, unsigned count,
                        uint64_t offset)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < count; i++) {
        if (!checked_add(total, iov[i].iov_len, &total))
            return -EINVAL;
    }
    return range_fits(offset, total, block->size) ? 0 : -EINVAL;
}

int block_readv(struct block *block, const struct iovec *iov, unsigned count, uint64_t offset)
{
    int rc = vector_check(block, iov, count, offset);

    return rc < 0 ? rc : block->ops->readv(block->image, iov, count, offset);
}

int block_writev(struct block *block, const struct iovec *iov, unsigned count, uint64_t offset)
{
    int rc = vector_check(block, iov, count, offset);

    if (block->readonly)
        return -EROFS;
    return rc < 0 ? rc : block->ops->writev(block->image, iov, count, offset);
}

int block_flush(struct block *block)
{
    return block->readonly ? 0 : block->ops->flush(block->image);
}

static int change_check(const struct block *block, uint64_t offset, uint64_t length)
{
    if (block->readonly)
        return -EROFS;
    return range_fits(offset, length, block->size) ? 0 : -EINVAL;
}

int block_discard(struct block *block, uint64_t offset, uint64_t length)
{
    int rc = change_check(block, offset, length);

    if (rc < 0)
        return rc;
    return block->ops->discard ? block->ops->discard(block->image, offset, length) : -EOPNOTSUPP;
}

int block_write_zeroes(struct block *block, uint64_t offset, uint64_t length)
{
    int rc = change_check(block, offset, length);

    if (rc < 0)
        return rc;
    return block->ops->write_zeroes ? block->ops->write_zeroes(block->image, offset, length)
                                    : -EOPNOTSUPP;
}
