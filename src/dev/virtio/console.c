/*
 * The virtio console with one port (Virtio 1.2, 5.3). All work is on the loop's thread with the
 * device's lock held; the back end is called without it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtio/virtio.h"

#define CONSOLE_RX_QUEUE    0u
#define CONSOLE_TX_QUEUE    1u
#define CONSOLE_QUEUE_SIZE  64u
#define CONSOLE_CONFIG_SIZE 8u /* columns, rows, ports: with no feature offered, all 0 */
#define CONSOLE_PIECE       4096u
#define CONSOLE_BUDGET      64u /* pieces in one turn */

struct virtio_console {
    struct virtio_device device;
    struct virtio_console_config config;
    bool input_refused;
    struct virtq_chain in, out;
};

/* Hands one chain's bytes to the back end, piece by piece; `budget` bounds what a turn may do. */
static void tx_chain(struct virtio_console *console, struct virtq *queue, unsigned *budget)
{
    struct virtq_used used = virtq_used_of(&console->out, 0);
    uint8_t piece[CONSOLE_PIECE];
    uint64_t at = 0;
    size_t length;

    while (*budget && (length = virtq_chain_read(&console->out, at, piece, sizeof piece)) > 0) {
        console->config.output(console->config.opaque, piece, length);
        at += length;
        --*budget;
    }
    virtio_push(&console->device, queue, &used, 1);
}

static void tx_notify(struct virtio_console *console)
{
    struct virtio_device *device = &console->device;
    struct virtq *queue = &device->queue[CONSOLE_TX_QUEUE];
    unsigned budget = CONSOLE_BUDGET;

    while (budget && virtio_pop(device, queue, &console->out)) {
        budget--; /* empty chains cost something, too */
        tx_chain(console, queue, &budget);
    }
    virtio_signal(device, queue);
    if (virtio_queue_live(device, queue) && virtq_notify_enable(queue))
        virtio_kick(device, CONSOLE_TX_QUEUE);
}

static size_t rx_some(struct virtio_console *console, const uint8_t *bytes, size_t length)
{
    struct virtio_device *device = &console->device;
    struct virtq *queue = &device->queue[CONSOLE_RX_QUEUE];
    size_t done = 0;

    while (done < length && virtio_pop(device, queue, &console->in)) {
        size_t piece = virtq_chain_write(device->mem, &console->in, 0, bytes + done, length - done);
        struct virtq_used used = virtq_used_of(&console->in, (uint32_t)piece);

        if (piece == 0) {
            virtio_fail(device, "an input buffer without room");
            break;
        }
        done += piece;
        virtio_push(device, queue, &used, 1);
    }
    return done;
}

size_t virtio_console_input(struct virtio_device *device, const void *bytes, size_t length)
{
    struct virtio_console *console = (struct virtio_console *)device;
    struct virtq *queue = &device->queue[CONSOLE_RX_QUEUE];
    const uint8_t *from = bytes;
    size_t done;

    pthread_mutex_lock(&device->lock);
    done = rx_some(console, from, length);
    if (done < length && virtio_queue_live(device, queue) && virtq_notify_enable(queue))
        done += rx_some(console, from + done, length - done);
    console->input_refused = done < length;
    if (done)
        virtio_signal(device, queue);
    pthread_mutex_unlock(&device->lock);
    return done;
}

static void rx_notify(struct virtio_console *console)
{
    if (!console->input_refused || !console->config.input_wanted)
        return;
    console->input_refused = false;
    pthread_mutex_unlock(&console->device.lock);
    console->config.input_wanted(console->config.opaque);
    pthread_mutex_lock(&console->device.lock);
}

static void console_notify(struct virtio_device *device, unsigned queue)
{
    struct virtio_console *console = (struct virtio_console *)device;

    if (queue == CONSOLE_RX_QUEUE)
        rx_notify(console);
    else
        tx_notify(console);
}

static void console_config_read(struct virtio_device *device, uint8_t *to)
{
    (void)device;
    memset(to, 0, CONSOLE_CONFIG_SIZE);
}

static void console_free(struct virtio_device *device)
{
    virtio_fini(device);
    free(device);
}

static const struct virtio_ops console_ops = {
    .config_read = console_config_read,
    .notify = console_notify,
    .free = console_free,
};

int virtio_console_new(const struct virtio_console_config *config, struct virtio_device **out,
                       struct error *err)
{
    const struct virtio_init init = {
        .ops = &console_ops,
        .name = "virtio-console",
        .type = VIRTIO_TYPE_CONSOLE,
        .config_size = CONSOLE_CONFIG_SIZE,
        .queue_count = 2,
        .queue_size = CONSOLE_QUEUE_SIZE,
        .mem = config->mem,
        .loop = config->loop,
    };
    struct virtio_console *console = calloc(1, sizeof *console);
    int rc;

    if (!console)
        return error_set(err, -ENOMEM, "no memory for a console");
    console->config = *config;
    rc = virtio_init(&console->device, &init);
    if (rc < 0) {
        free(console);
        return error_set(err, rc, "cannot make a console: %s", strerror(-rc));
    }
    *out = &console->device;
    return 0;
}
