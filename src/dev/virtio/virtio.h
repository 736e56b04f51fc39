/*
 * A virtio device apart from its transport: status, features, queues, the way to its thread.
 *
 * Threads and locks: `lock` guards everything here and the device's own state. The transport takes
 * it for register accesses (vCPU threads); a doorbell only sets a bit and wakes the loop, which
 * then calls ops->notify with the lock held. A device with workers of its own gives ops->doorbell
 * instead, which runs on the vCPU's thread without the lock and must only signal.
 *
 * Reset with requests in flight: queues stop at once, the status register keeps its old value until
 * the last request is done (4.1.4.3.2: the driver polls for 0), and what completes meanwhile is not
 * given back. Nothing touches guest memory after status reads 0.
 *
 * Source: Virtio 1.2, chapters 2 and 3.
 */
#ifndef FREEHOLD_DEV_VIRTIO_VIRTIO_H
#define FREEHOLD_DEV_VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "dev/virtio/devices.h"
#include "dev/virtio/queue.h"
#include "dev/virtio/spec.h"
#include "mem/mem.h"

#define VIRTIO_QUEUES_MAX 16

struct virtio_ops {
    /* Device configuration: fills `length` bytes (all of it), with the lock held. */
    void (*config_read)(struct virtio_device *device, uint8_t *to);
    void (*config_write)(struct virtio_device *device, uint32_t offset, uint32_t length,
                         const uint8_t *from);                    /* NULL: read-only */
    void (*start)(struct virtio_device *device);                  /* DRIVER_OK. May be NULL */
    void (*reset)(struct virtio_device *device);                  /* May be NULL */
    void (*notify)(struct virtio_device *device, unsigned queue); /* on the loop, locked */
    void (*doorbell)(struct virtio_device *device, unsigned queue);
    void (*free)(struct virtio_device *device);
};

struct virtio_transport_ops {
    void (*queue_interrupt)(void *transport, unsigned queue);
    void (*config_interrupt)(void *transport);
    bool (*may_run)(void *transport); /* bus mastering is on */
    void (*reset)(void *transport);   /* interrupt state back to its start */
};

struct virtio_device {
    const struct virtio_ops *ops;
    const char *name;
    uint16_t type;
    uint32_t config_size;
    struct mem *mem;
    struct loop *loop;

    pthread_mutex_t lock;
    pthread_cond_t drained;
    uint64_t features; /* offered */
    uint64_t driver_features;
    uint8_t status;
    bool resetting;
    uint8_t generation;
    unsigned in_flight; /* requests with workers, all queues */
    unsigned queue_count;
    struct virtq queue[VIRTIO_QUEUES_MAX];

    const struct virtio_transport_ops *transport_ops;
    void *transport;

    uint32_t kicked; /* atomic: queues to look at */
    int kick_fd;
    struct loop_watch kick_watch;
    struct log_limit log;
};

struct virtio_init {
    const struct virtio_ops *ops;
    const char *name;
    uint16_t type;
    uint32_t config_size;
    uint64_t features; /* of the device; those of rings are added here */
    unsigned queue_count;
    uint16_t queue_size;
    struct mem *mem;
    struct loop *loop;
};

MUST_CHECK int virtio_init(struct virtio_device *device, const struct virtio_init *init);
void virtio_fini(struct virtio_device *device);

/* ---- for devices; the lock is held ---- */

/* The queue may be processed: the driver is ready, nothing broken, no reset under way. */
bool virtio_queue_live(const struct virtio_device *device, const struct virtq *queue);
/* Pops; on trouble fails the device. true: a chain. */
bool virtio_pop(struct virtio_device *device, struct virtq *queue, struct virtq_chain *chain);
void virtio_push(struct virtio_device *device, struct virtq *queue, const struct virtq_used *used,
                 unsigned count);
/* Interrupts the driver if it wants to know. */
void virtio_signal(struct virtio_device *device, struct virtq *queue);
/* The driver lied: DEVICE_NEEDS_RESET, and a line in the log (2.1.2). */
void virtio_fail(struct virtio_device *device, const char *why);
/* Device configuration changed. */
void virtio_config_changed(struct virtio_device *device);
/* Looks at a queue again soon, on the loop. Any thread, lock or not. */
void virtio_kick(struct virtio_device *device, unsigned queue);

/* A request goes to a worker, or comes back from it. After _end(), false means that the queue was
 * reset meanwhile and the chain must be forgotten. */
void virtio_request_begin(struct virtio_device *device, struct virtq *queue);
bool virtio_request_end(struct virtio_device *device, struct virtq *queue);

/* ---- for transports ---- */

void virtio_status_write(struct virtio_device *device, uint8_t status);             /* locked */
void virtio_queue_enable(struct virtio_device *device, struct virtq *queue);        /* locked */
void virtio_queue_reset_request(struct virtio_device *device, struct virtq *queue); /* locked */
void virtio_doorbell(struct virtio_device *device, unsigned queue);                 /* not locked */
/* Resets and waits until nothing is in flight; not locked; vCPUs are stopped. */
void virtio_device_reset(struct virtio_device *device);

#endif
