/*
 * Virtqueues, split and packed: takes buffers that the driver made available, gives them back.
 *
 * Everything in a ring is hostile. A descriptor is copied once and checked; addresses become host
 * spans only when wholly RAM; a chain has at most as many descriptors as the queue, a queue at most
 * VIRTQ_SIZE_MAX. A lie marks the queue broken (with a reason) and it gives no more buffers until
 * it is reset; nothing else happens.
 *
 * Threads: the device's lock is held around every call; only the ring memory is shared (with the
 * guest's CPUs, by acquire and release).
 * Source: Virtio 1.2, 2.7 (split), 2.8 (packed).
 */
#ifndef FREEHOLD_DEV_VIRTIO_QUEUE_H
#define FREEHOLD_DEV_VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "mem/mem.h"

#define VIRTQ_SIZE_MAX 256
#define VIRTQ_SPANS                                                                                \
    (VIRTQ_SIZE_MAX + 8) /* a descriptor may cross from one RAM slot to the next                   \
                          */

struct virtq {
    struct mem *mem;

    /* What the driver configures while the queue is disabled. */
    uint16_t size_max, size;
    uint16_t msix_vector;
    uint64_t desc_gpa, driver_gpa, device_gpa;
    bool enabled;

    /* Fixed by virtq_start(). */
    bool packed, indirect, event_idx;
    uint8_t *desc, *driver, *device; /* host addresses of the three areas */

    uint16_t avail_next; /* split: a free-running index; packed: a slot */
    uint16_t used_next;
    bool avail_wrap, used_wrap; /* packed */
    uint16_t signalled;         /* used_next at the last notification decision */
    bool signalled_wrap, signalled_valid;
    bool notify_wanted; /* what we told the driver */

    unsigned in_flight; /* ring slots popped, not yet pushed */
    unsigned busy;      /* requests with workers */
    bool resetting;     /* the driver resets this queue; waits for busy == 0 */
    const char *broken; /* why, or NULL */
};

/* A buffer: `out` spans to read, then `in` spans to write. */
struct virtq_chain {
    uint16_t id;
    uint16_t slots; /* ring slots it takes (packed) */
    unsigned out_count, in_count;
    uint64_t out_bytes, in_bytes;
    struct iovec iov[VIRTQ_SPANS]; /* out first, in from iov[out_count] */
    uint64_t gpa[VIRTQ_SPANS];
};

/* What is given back of a chain. */
struct virtq_used {
    uint16_t id;
    uint16_t slots;
    uint32_t written;
};

/* A place to go back to, when popped chains turn out not to be usable yet. */
struct virtq_mark {
    uint16_t avail_next;
    bool avail_wrap;
    unsigned in_flight;
};

void virtq_reset(struct virtq *queue);

/* Checks the configured areas against RAM and begins. -EINVAL: size, alignment or addresses. */
MUST_CHECK int virtq_start(struct virtq *queue, uint64_t features);

/* 1: a chain; 0: nothing available; -EPROTO: the queue is (now) broken. */
MUST_CHECK int virtq_pop(struct virtq *queue, struct virtq_chain *chain);
bool virtq_available(struct virtq *queue);

struct virtq_mark virtq_mark(const struct virtq *queue);
void virtq_rewind(struct virtq *queue, const struct virtq_mark *mark);

/* Gives `count` chains back; the driver sees all of them or none. */
void virtq_push(struct virtq *queue, const struct virtq_used *used, unsigned count);

/* Whether the driver wants an interrupt for what was pushed since the last call. */
bool virtq_interrupt_wanted(struct virtq *queue);

/* Asks for notifications, or for silence. After asking, true when buffers came in between. */
bool virtq_notify_enable(struct virtq *queue);
void virtq_notify_disable(struct virtq *queue);

/* Copies between a chain's spans and a buffer, from `offset` on; returns the bytes copied. These
 * three need no lock. */
size_t virtq_chain_read(const struct virtq_chain *chain, uint64_t offset, void *to, size_t length);
size_t virtq_chain_write(struct mem *mem, const struct virtq_chain *chain, uint64_t offset,
                         const void *from, size_t length);
/* Announces device writes through the spans to the first `length` bytes of the in part. */
void virtq_chain_written(struct mem *mem, const struct virtq_chain *chain, uint64_t length);

static inline struct virtq_used virtq_used_of(const struct virtq_chain *chain, uint32_t written)
{
    return (struct virtq_used){.id = chain->id, .slots = chain->slots, .written = written};
}

#endif
