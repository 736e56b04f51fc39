/*
 * The part that all virtio devices share; see virtio.h for threads, locks and the rules of reset.
 * Every value that comes in here was written by the guest.
 */
#include "dev/virtio/virtio.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- from the doorbell to the loop ---- */

void virtio_kick(struct virtio_device *device, unsigned queue)
{
    uint32_t bit = UINT32_C(1) << queue, before;
    uint64_t one = 1;

    before = __atomic_fetch_or(&device->kicked, bit, __ATOMIC_ACQ_REL);
    if (before == 0 && write(device->kick_fd, &one, sizeof one) < 0)
        log_limited(&device->log, "%s: waking the I/O thread failed: %s", device->name,
                    strerror(errno));
}

void virtio_doorbell(struct virtio_device *device, unsigned queue)
{
    if (queue >= device->queue_count)
        return;
    if (device->ops->doorbell)
        device->ops->doorbell(device, queue);
    else
        virtio_kick(device, queue);
}

static void virtio_kicked(void *opaque, uint32_t events)
{
    struct virtio_device *device = opaque;
    uint64_t count;
    ssize_t got = read(device->kick_fd, &count, sizeof count);
    uint32_t queues = __atomic_exchange_n(&device->kicked, 0, __ATOMIC_ACQ_REL);

    (void)events;
    (void)got; /* the bits say what there is to do */
    pthread_mutex_lock(&device->lock);
    for (unsigned i = 0; i < device->queue_count; i++) {
        if ((queues & (UINT32_C(1) << i)) && virtio_queue_live(device, &device->queue[i]))
            device->ops->notify(device, i);
    }
    pthread_mutex_unlock(&device->lock);
}

/* ---- construction ---- */

#define RING_FEATURES                                                                              \
    (VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_PACKED |     \
     VIRTIO_F_RING_RESET)

int virtio_init(struct virtio_device *device, const struct virtio_init *init)
{
    int rc;

    assert(init->queue_count <= VIRTIO_QUEUES_MAX && init->queue_size <= VIRTQ_SIZE_MAX);
    device->ops = init->ops;
    device->name = init->name;
    device->type = init->type;
    device->config_size = init->config_size;
    device->features = init->features | RING_FEATURES;
    device->queue_count = init->queue_count;
    device->mem = init->mem;
    device->loop = init->loop;
    for (unsigned i = 0; i < device->queue_count; i++) {
        device->queue[i].mem = init->mem;
        device->queue[i].size_max = init->queue_size;
        virtq_reset(&device->queue[i]);
    }
    device->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (device->kick_fd < 0)
        return -errno;
    device->kick_watch = (struct loop_watch){
        .fd = device->kick_fd, .events = EPOLLIN, .ready = virtio_kicked, .opaque = device};
    rc = loop_watch_add(device->loop, &device->kick_watch);
    if (rc < 0) {
        close(device->kick_fd);
        return rc;
    }
    pthread_mutex_init(&device->lock, NULL);
    pthread_cond_init(&device->drained, NULL);
    return 0;
}

void virtio_fini(struct virtio_device *device)
{
    loop_watch_remove(device->loop, &device->kick_watch);
    close(device->kick_fd);
    pthread_cond_destroy(&device->drained);
    pthread_mutex_destroy(&device->lock);
}

void virtio_device_free(struct virtio_device *device)
{
    if (device)
        device->ops->free(device);
}

/* ---- reset ---- */

static void reset_finish(struct virtio_device *device)
{
    device->status = 0;
    device->driver_features = 0;
    device->resetting = false;
    for (unsigned i = 0; i < device->queue_count; i++)
        virtq_reset(&device->queue[i]);
    if (device->transport_ops)
        device->transport_ops->reset(device->transport);
    if (device->ops->reset)
        device->ops->reset(device);
    pthread_cond_broadcast(&device->drained);
}

static void reset_begin(struct virtio_device *device)
{
    device->resetting = true;
    if (device->in_flight == 0)
        reset_finish(device);
}

void virtio_device_reset(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
    reset_begin(device);
    while (device->resetting)
        pthread_cond_wait(&device->drained, &device->lock);
    pthread_mutex_unlock(&device->lock);
}

/* 2.6.1: the ring goes back to its start, and the driver configures it anew. */
void virtio_queue_reset_request(struct virtio_device *device, struct virtq *queue)
{
    if (!(device->driver_features & VIRTIO_F_RING_RESET) || device->resetting)
        return;
    queue->enabled = false;
    queue->resetting = queue->busy != 0;
    if (!queue->resetting)
        virtq_reset(queue);
}

void virtio_request_begin(struct virtio_device *device, struct virtq *queue)
{
    queue->busy++;
    device->in_flight++;
}

bool virtio_request_end(struct virtio_device *device, struct virtq *queue)
{
    bool forgotten = device->resetting || queue->resetting;

    device->in_flight--;
    queue->busy--;
    if (device->resetting) {
        if (device->in_flight == 0)
            reset_finish(device);
    } else if (queue->resetting && queue->busy == 0) {
        virtq_reset(queue);
    }
    return !forgotten;
}

/* ---- status ---- */

static bool features_acceptable(const struct virtio_device *device)
{
    return (device->driver_features & ~device->features) == 0 &&
           (device->driver_features & VIRTIO_F_VERSION_1);
}

void virtio_status_write(struct virtio_device *device, uint8_t status)
{
    uint8_t added = (uint8_t)(status & ~device->status);

    if (device->resetting)
        return;
    if (status == 0) {
        reset_begin(device);
        return;
    }
    if ((added & VIRTIO_STATUS_FEATURES_OK) && !features_acceptable(device))
        status &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK; /* 3.1.1: the driver looks again */
    /* The driver only adds bits (2.1.1), and NEEDS_RESET is ours. */
    status &= (uint8_t)~VIRTIO_STATUS_NEEDS_RESET;
    device->status |= status;
    if (!(added & VIRTIO_STATUS_DRIVER_OK))
        return;
    if (device->ops->start)
        device->ops->start(device);
    for (unsigned i = 0; i < device->queue_count; i++)
        virtio_doorbell(device, i);
}

void virtio_queue_enable(struct virtio_device *device, struct virtq *queue)
{
    if (queue->enabled || queue->resetting || device->resetting)
        return;
    if (virtq_start(queue, device->driver_features) < 0) {
        virtio_fail(device, "a queue outside RAM, misaligned or of a bad size");
        return;
    }
    queue->enabled = true;
}

bool virtio_queue_live(const struct virtio_device *device, const struct virtq *queue)
{
    const uint8_t good = VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FEATURES_OK;

    return queue->enabled && !queue->broken && !queue->resetting && !device->resetting &&
           (device->status & good) == good && !(device->status & VIRTIO_STATUS_NEEDS_RESET) &&
           device->transport_ops && device->transport_ops->may_run(device->transport);
}

void virtio_fail(struct virtio_device *device, const char *why)
{
    if (device->status & VIRTIO_STATUS_NEEDS_RESET)
        return;
    device->status |= VIRTIO_STATUS_NEEDS_RESET;
    log_limited(&device->log, "%s: the guest's driver gave it %s; the device waits for a reset",
                device->name, why);
    if ((device->status & VIRTIO_STATUS_DRIVER_OK) && device->transport_ops)
        device->transport_ops->config_interrupt(device->transport);
}

void virtio_config_changed(struct virtio_device *device)
{
    device->generation++;
    if ((device->status & VIRTIO_STATUS_DRIVER_OK) && device->transport_ops)
        device->transport_ops->config_interrupt(device->transport);
}

/* ---- queues ---- */

bool virtio_pop(struct virtio_device *device, struct virtq *queue, struct virtq_chain *chain)
{
    int rc;

    if (!virtio_queue_live(device, queue))
        return false;
    rc = virtq_pop(queue, chain);
    if (rc < 0)
        virtio_fail(device, queue->broken);
    return rc == 1;
}

void virtio_push(struct virtio_device *device, struct virtq *queue, const struct virtq_used *used,
                 unsigned count)
{
    if (device->resetting || !queue->enabled)
        return;
    virtq_push(queue, used, count);
}

void virtio_signal(struct virtio_device *device, struct virtq *queue)
{
    if (device->resetting || !queue->enabled || !device->transport_ops)
        return;
    if (virtq_interrupt_wanted(queue))
        device->transport_ops->queue_interrupt(device->transport,
                                               (unsigned)(queue - device->queue));
}
