/*
 * The virtio block device (Virtio 1.2, 5.2).
 *
 * A doorbell wakes one of the device's workers; a worker takes a request, wakes the next worker if
 * there are more, executes the request without any lock, and gives it back. So a single request
 * costs one hand-over, and many run in parallel. Requests are the guest's: each is copied, checked
 * against the disk's size, and bounded.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "dev/virtio/virtio.h"

#define BLK_F_SEG_MAX         VIRTIO_BIT(2)
#define BLK_F_RO              VIRTIO_BIT(5)
#define BLK_F_BLK_SIZE        VIRTIO_BIT(6)
#define BLK_F_FLUSH           VIRTIO_BIT(9)
#define BLK_F_MQ              VIRTIO_BIT(12)
#define BLK_F_DISCARD         VIRTIO_BIT(13)
#define BLK_F_WRITE_ZEROES    VIRTIO_BIT(14)

#define BLK_T_IN              0u
#define BLK_T_OUT             1u
#define BLK_T_FLUSH           4u
#define BLK_T_GET_ID          8u
#define BLK_T_DISCARD         11u
#define BLK_T_WRITE_ZEROES    13u

#define BLK_S_OK              0u
#define BLK_S_IOERR           1u
#define BLK_S_UNSUPP          2u

#define BLK_CONFIG_SIZE       60u
#define BLK_CONFIG_CAPACITY   0u
#define BLK_CONFIG_SEG_MAX    12u
#define BLK_CONFIG_BLK_SIZE   20u
#define BLK_CONFIG_NUM_QUEUES 34u
#define BLK_CONFIG_DISCARD    36u /* sectors, segments, alignment */
#define BLK_CONFIG_ZEROES     48u /* sectors, segments, may unmap */
#define BLK_HEADER_SIZE       16u
#define BLK_SERIAL_SIZE       20u
#define BLK_QUEUE_SIZE        256u
#define BLK_RANGE_SIZE        16u
#define BLK_RANGES_MAX        16u
#define BLK_RANGE_SECTORS_MAX (UINT32_C(1) << 22) /* 2 GiB */
#define BLK_REQUEST_BYTES_MAX (UINT64_C(256) << 20)
#define BLK_WORKERS_DEFAULT   4u
#define BLK_WORKERS_MAX       32u

struct virtio_blk;

struct blk_worker {
    struct virtio_blk *blk;
    pthread_t thread;
    struct virtq_chain chain;       /* the request in its hands */
    struct iovec data[VIRTQ_SPANS]; /* its data, without header and status */
};

struct virtio_blk {
    struct virtio_device device;
    struct block *disk;
    uint8_t serial[BLK_SERIAL_SIZE];

    pthread_mutex_t wake_lock; /* leaf; guards the two flags */
    pthread_cond_t wake;
    bool work, stop;
    unsigned next_queue; /* with the device's lock: queues take turns */
    bool parallel;       /* more than one worker */
    unsigned worker_count;
    struct blk_worker *worker;
};

/* ---- one request ---- */

static unsigned blk_data_cut(struct blk_worker *worker, bool in, uint64_t skip, uint64_t length)
{
    const struct virtq_chain *chain = &worker->chain;
    const struct iovec *iov = in ? chain->iov + chain->out_count : chain->iov;
    unsigned count = in ? chain->in_count : chain->out_count, used = 0;

    for (unsigned i = 0; i < count && length; i++) {
        struct iovec span = iov[i];

        if (skip >= span.iov_len) {
            skip -= span.iov_len;
            continue;
        }
        span.iov_base = (uint8_t *)span.iov_base + skip;
        span.iov_len -= skip;
        skip = 0;
        if (span.iov_len > length)
            span.iov_len = length;
        length -= span.iov_len;
        worker->data[used++] = span;
    }
    return used;
}

static bool blk_length_good(uint64_t bytes)
{
    return bytes % BLOCK_SECTOR_SIZE == 0 && bytes <= BLK_REQUEST_BYTES_MAX;
}

static int sector_offset(uint64_t sector, uint64_t *offset)
{
    return __builtin_mul_overflow(sector, BLOCK_SECTOR_SIZE, offset) ? -EINVAL : 0;
}

static int blk_read(struct blk_worker *worker, uint64_t sector)
{
    uint64_t bytes = worker->chain.in_bytes - 1, offset;
    unsigned count;

    if (!blk_length_good(bytes) || sector_offset(sector, &offset) < 0)
        return -EINVAL;
    count = blk_data_cut(worker, true, 0, bytes);
    return block_readv(worker->blk->disk, worker->data, count, offset);
}

/* Without VIRTIO_BLK_F_FLUSH a write that is done must be safe (5.2.6.2). */
static int blk_write(struct blk_worker *worker, uint64_t sector)
{
    struct virtio_blk *blk = worker->blk;
    uint64_t bytes = worker->chain.out_bytes - BLK_HEADER_SIZE, offset;
    unsigned count;
    int rc;

    if (!blk_length_good(bytes) || sector_offset(sector, &offset) < 0)
        return -EINVAL;
    count = blk_data_cut(worker, false, BLK_HEADER_SIZE, bytes);
    rc = block_writev(blk->disk, worker->data, count, offset);
    if (rc == 0 && !(blk->device.driver_features & BLK_F_FLUSH))
        rc = block_flush(blk->disk);
    return rc;
}

static int blk_range(struct virtio_blk *blk, uint32_t type, const uint8_t *range)
{
    uint64_t sectors = load_le32(range + 8), offset;

    if (sectors > BLK_RANGE_SECTORS_MAX || sector_offset(load_le64(range), &offset) < 0)
        return -EINVAL;
    if (type == BLK_T_DISCARD)
        return block_discard(blk->disk, offset, sectors * BLOCK_SECTOR_SIZE);
    return block_write_zeroes(blk->disk, offset, sectors * BLOCK_SECTOR_SIZE);
}

static int blk_ranges(struct blk_worker *worker, uint32_t type)
{
    uint8_t range[BLK_RANGES_MAX * BLK_RANGE_SIZE];
    uint64_t bytes = worker->chain.out_bytes - BLK_HEADER_SIZE;
    size_t length;
    int rc = 0;

    if (bytes % BLK_RANGE_SIZE || bytes > sizeof range)
        return -EINVAL;
    length = virtq_chain_read(&worker->chain, BLK_HEADER_SIZE, range, bytes);
    for (size_t at = 0; at < length && rc == 0; at += BLK_RANGE_SIZE)
        rc = blk_range(worker->blk, type, range + at);
    return rc;
}

static int blk_get_id(struct blk_worker *worker)
{
    struct virtio_blk *blk = worker->blk;
    uint64_t room = worker->chain.in_bytes - 1;

    virtq_chain_write(blk->device.mem, &worker->chain, 0, blk->serial,
                      room < BLK_SERIAL_SIZE ? room : BLK_SERIAL_SIZE);
    return 0;
}

static int blk_run(struct blk_worker *worker, const uint8_t header[BLK_HEADER_SIZE])
{
    uint32_t type = load_le32(header);

    switch (type) {
    case BLK_T_IN:
        return blk_read(worker, load_le64(header + 8));
    case BLK_T_OUT:
        return blk_write(worker, load_le64(header + 8));
    case BLK_T_FLUSH:
        return block_flush(worker->blk->disk);
    case BLK_T_GET_ID:
        return blk_get_id(worker);
    case BLK_T_DISCARD:
    case BLK_T_WRITE_ZEROES:
        return blk_ranges(worker, type);
    default:
        return -EOPNOTSUPP;
    }
}

static uint8_t blk_status(struct virtio_blk *blk, int rc)
{
    if (rc == 0)
        return BLK_S_OK;
    if (rc == -EOPNOTSUPP)
        return BLK_S_UNSUPP;
    if (rc != -EINVAL) /* the host's trouble, not the guest's */
        log_limited(&blk->device.log, "disk: a request failed: %s", strerror(-rc));
    return BLK_S_IOERR;
}

/* Runs the request without a lock; returns the bytes written into the guest's memory. The caller
 * made sure that header and status are there. */
static uint32_t blk_execute(struct blk_worker *worker)
{
    const struct virtq_chain *chain = &worker->chain;
    struct mem *mem = worker->blk->device.mem;
    uint8_t header[BLK_HEADER_SIZE], status;
    uint32_t written = 1;

    virtq_chain_read(chain, 0, header, sizeof header);
    status = blk_status(worker->blk, blk_run(worker, header));
    if (load_le32(header) == BLK_T_IN) { /* a read that failed may have written a part */
        virtq_chain_written(mem, chain, chain->in_bytes - 1);
        written = (uint32_t)chain->in_bytes;
    }
    virtq_chain_write(mem, chain, chain->in_bytes - 1, &status, 1);
    return written;
}

/* ---- workers ---- */

static void blk_wake(struct virtio_blk *blk)
{
    pthread_mutex_lock(&blk->wake_lock);
    blk->work = true;
    pthread_cond_signal(&blk->wake);
    pthread_mutex_unlock(&blk->wake_lock);
}

static void blk_doorbell(struct virtio_device *device, unsigned queue)
{
    (void)queue;
    blk_wake((struct virtio_blk *)device);
}

/* Takes the next request of any queue, or leaves with all queues asking to be notified. */
static struct virtq *blk_take(struct virtio_blk *blk, struct virtq_chain *chain)
{
    struct virtio_device *device = &blk->device;

    for (unsigned i = 0; i < device->queue_count; i++) {
        unsigned index = (blk->next_queue + i) % device->queue_count;
        struct virtq *queue = &device->queue[index];

        if (!virtio_queue_live(device, queue))
            continue;
        virtq_notify_disable(queue);
        if (virtio_pop(device, queue, chain) ||
            (virtio_queue_live(device, queue) && virtq_notify_enable(queue) &&
             virtio_pop(device, queue, chain))) {
            blk->next_queue = index + 1;
            return queue;
        }
    }
    return NULL;
}

static bool blk_more(struct virtio_blk *blk)
{
    for (unsigned i = 0; i < blk->device.queue_count; i++) {
        struct virtq *queue = &blk->device.queue[i];

        if (virtio_queue_live(&blk->device, queue) && virtq_available(queue))
            return true;
    }
    return false;
}

/* With the device's lock held, which it drops while the request runs. */
static void blk_serve(struct blk_worker *worker, struct virtq *queue)
{
    struct virtio_blk *blk = worker->blk;
    struct virtq_chain *chain = &worker->chain;
    struct virtq_used used = virtq_used_of(chain, 0);

    if (chain->out_bytes < BLK_HEADER_SIZE || chain->in_bytes < 1) {
        virtio_fail(&blk->device, "a disk request without header or status");
        return;
    }
    virtio_request_begin(&blk->device, queue);
    if (blk->parallel && blk_more(blk))
        blk_wake(blk);
    pthread_mutex_unlock(&blk->device.lock);
    used.written = blk_execute(worker);
    pthread_mutex_lock(&blk->device.lock);
    if (!virtio_request_end(&blk->device, queue))
        return;
    virtio_push(&blk->device, queue, &used, 1);
    virtio_signal(&blk->device, queue);
}

static bool blk_wait(struct virtio_blk *blk)
{
    bool go;

    pthread_mutex_lock(&blk->wake_lock);
    while (!blk->work && !blk->stop)
        pthread_cond_wait(&blk->wake, &blk->wake_lock);
    blk->work = false;
    go = !blk->stop;
    pthread_mutex_unlock(&blk->wake_lock);
    return go;
}

static void *blk_worker_main(void *opaque)
{
    struct blk_worker *worker = opaque;
    struct virtio_blk *blk = worker->blk;
    struct virtq *queue;

    while (blk_wait(blk)) {
        pthread_mutex_lock(&blk->device.lock);
        while ((queue = blk_take(blk, &worker->chain)) != NULL)
            blk_serve(worker, queue);
        pthread_mutex_unlock(&blk->device.lock);
    }
    return NULL;
}

static void blk_workers_stop(struct virtio_blk *blk)
{
    pthread_mutex_lock(&blk->wake_lock);
    blk->stop = true;
    pthread_cond_broadcast(&blk->wake);
    pthread_mutex_unlock(&blk->wake_lock);
    for (unsigned i = 0; i < blk->worker_count; i++)
        pthread_join(blk->worker[i].thread, NULL);
    blk->worker_count = 0;
}

/* Workers take no signals: those are for the vCPUs and the main thread. */
static int blk_workers_start(struct virtio_blk *blk, unsigned count)
{
    sigset_t all, old;
    int rc = 0;

    blk->worker = calloc(count, sizeof *blk->worker);
    if (!blk->worker)
        return -ENOMEM;
    blk->parallel = count > 1;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (blk->worker_count < count && rc == 0) {
        struct blk_worker *worker = &blk->worker[blk->worker_count];

        worker->blk = blk;
        rc = -pthread_create(&worker->thread, NULL, blk_worker_main, worker);
        if (rc == 0)
            blk->worker_count++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return blk->worker_count ? 0 : rc; /* fewer than asked for still do */
}

/* ---- the device ---- */

static void blk_config_read(struct virtio_device *device, uint8_t *to)
{
    const struct virtio_blk *blk = (const struct virtio_blk *)device;

    store_le64(to + BLK_CONFIG_CAPACITY, block_size(blk->disk) / BLOCK_SECTOR_SIZE);
    store_le32(to + BLK_CONFIG_SEG_MAX, BLK_QUEUE_SIZE - 2);
    store_le32(to + BLK_CONFIG_BLK_SIZE, BLOCK_SECTOR_SIZE);
    store_le16(to + BLK_CONFIG_NUM_QUEUES, (uint16_t)device->queue_count);
    if (device->features & BLK_F_DISCARD) {
        store_le32(to + BLK_CONFIG_DISCARD, BLK_RANGE_SECTORS_MAX);
        store_le32(to + BLK_CONFIG_DISCARD + 4, BLK_RANGES_MAX);
        store_le32(to + BLK_CONFIG_DISCARD + 8, 4096 / BLOCK_SECTOR_SIZE);
    }
    if (device->features & BLK_F_WRITE_ZEROES) {
        store_le32(to + BLK_CONFIG_ZEROES, BLK_RANGE_SECTORS_MAX);
        store_le32(to + BLK_CONFIG_ZEROES + 4, BLK_RANGES_MAX);
        to[BLK_CONFIG_ZEROES + 8] = 1;
    }
}

static void blk_free(struct virtio_device *device)
{
    struct virtio_blk *blk = (struct virtio_blk *)device;

    blk_workers_stop(blk);
    virtio_fini(device);
    pthread_cond_destroy(&blk->wake);
    pthread_mutex_destroy(&blk->wake_lock);
    free(blk->worker);
    free(blk);
}

static const struct virtio_ops blk_ops = {
    .config_read = blk_config_read,
    .doorbell = blk_doorbell,
    .free = blk_free,
};

static uint64_t blk_features(const struct virtio_blk_config *config, unsigned queues)
{
    uint64_t features = BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_FLUSH;

    if (queues > 1)
        features |= BLK_F_MQ;
    if (block_readonly(config->disk))
        features |= BLK_F_RO;
    if (block_can_discard(config->disk))
        features |= BLK_F_DISCARD;
    if (block_can_write_zeroes(config->disk))
        features |= BLK_F_WRITE_ZEROES;
    return features;
}

static unsigned clamp(unsigned value, unsigned standard, unsigned most)
{
    if (value == 0)
        return standard;
    return value < most ? value : most;
}

int virtio_blk_new(const struct virtio_blk_config *config, struct virtio_device **out,
                   struct error *err)
{
    unsigned queues = clamp(config->queues, 1, VIRTIO_QUEUES_MAX);
    struct virtio_init init = {
        .ops = &blk_ops,
        .name = "virtio-blk",
        .type = VIRTIO_TYPE_BLOCK,
        .config_size = BLK_CONFIG_SIZE,
        .features = blk_features(config, queues),
        .queue_count = queues,
        .queue_size = BLK_QUEUE_SIZE,
        .mem = config->mem,
        .loop = config->loop,
    };
    struct virtio_blk *blk = calloc(1, sizeof *blk);
    int rc;

    if (!blk)
        return error_set(err, -ENOMEM, "no memory for a disk");
    blk->disk = config->disk;
    if (config->serial)
        memcpy(blk->serial, config->serial, strnlen(config->serial, BLK_SERIAL_SIZE));
    rc = virtio_init(&blk->device, &init);
    if (rc < 0) {
        free(blk);
        return error_set(err, rc, "cannot make a disk: %s", strerror(-rc));
    }
    pthread_mutex_init(&blk->wake_lock, NULL);
    pthread_cond_init(&blk->wake, NULL);
    rc = blk_workers_start(blk, clamp(config->workers, BLK_WORKERS_DEFAULT, BLK_WORKERS_MAX));
    if (rc < 0) {
        blk_free(&blk->device);
        return error_set(err, rc, "cannot start a disk's worker: %s", strerror(-rc));
    }
    *out = &blk->device;
    return 0;
}
