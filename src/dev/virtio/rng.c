/*
 * The virtio entropy device (Virtio 1.2, 5.4): the host's getrandom(2), on the loop's thread.
 * A request gives at most a page's worth, and a turn serves a bounded number of them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "dev/virtio/virtio.h"

#define RNG_QUEUE_SIZE 64u
#define RNG_BYTES_MAX  4096u
#define RNG_BUDGET     16u

struct virtio_rng {
    struct virtio_device device;
    struct virtq_chain chain;
};

static uint32_t rng_fill(struct virtio_rng *rng)
{
    uint64_t wanted = rng->chain.in_bytes;
    uint8_t bytes[RNG_BYTES_MAX];
    ssize_t got = getrandom(bytes, wanted < sizeof bytes ? wanted : sizeof bytes, 0);

    if (got <= 0)
        return 0;
    return (uint32_t)virtq_chain_write(rng->device.mem, &rng->chain, 0, bytes, (size_t)got);
}

static void rng_notify(struct virtio_device *device, unsigned index)
{
    struct virtio_rng *rng = (struct virtio_rng *)device;
    struct virtq *queue = &device->queue[index];
    unsigned budget = RNG_BUDGET;

    while (budget && virtio_pop(device, queue, &rng->chain)) {
        struct virtq_used used = virtq_used_of(&rng->chain, rng_fill(rng));

        virtio_push(device, queue, &used, 1);
        budget--;
    }
    virtio_signal(device, queue);
    if (virtio_queue_live(device, queue) && virtq_notify_enable(queue))
        virtio_kick(device, index);
}

static void rng_config_read(struct virtio_device *device, uint8_t *to)
{
    (void)device; /* it has none */
    (void)to;
}

static void rng_free(struct virtio_device *device)
{
    virtio_fini(device);
    free(device);
}

static const struct virtio_ops rng_ops = {
    .config_read = rng_config_read,
    .notify = rng_notify,
    .free = rng_free,
};

int virtio_rng_new(const struct virtio_rng_config *config, struct virtio_device **out,
                   struct error *err)
{
    const struct virtio_init init = {
        .ops = &rng_ops,
        .name = "virtio-rng",
        .type = VIRTIO_TYPE_RNG,
        .queue_count = 1,
        .queue_size = RNG_QUEUE_SIZE,
        .mem = config->mem,
        .loop = config->loop,
    };
    struct virtio_rng *rng = calloc(1, sizeof *rng);
    int rc;

    if (!rng)
        return error_set(err, -ENOMEM, "no memory for a random number device");
    rc = virtio_init(&rng->device, &init);
    if (rc < 0) {
        free(rng);
        return error_set(err, rc, "cannot make a random number device: %s", strerror(-rc));
    }
    *out = &rng->device;
    return 0;
}
