/*
 * The virtio console with one port (Virtio 1.2, 5.3).
 *
 * Nothing is buffered here: output that the back end cannot take now stays in the guest's buffers,
 * which are given back when all of it was taken; input waits in the back end until the guest offers
 * buffers.
 * Threads: all work is on the loop's thread with the device's lock held; the back end is called
 * without it, so that a slow one holds up no vCPU. Trusts nothing of the guest.
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
#define CONSOLE_BUDGET      64u /* pieces in one turn; an empty chain counts as one */

struct virtio_console {
    struct virtio_device device;
    struct virtio_console_config config;
    bool input_refused; /* the back end waits for input_wanted() */
    bool output_full;   /* the back end will call virtio_console_output_resume() */
    bool sending;       /* `out` was popped; its bytes from out_at on have yet to be taken */
    uint64_t out_at;
    struct virtq_chain in, out;
};

/* ---- output ---- */

/* The chain on its way, or the next one. A reset of the queue or device forgets the chain: then
 * nothing is in flight any more, since only this thread takes chains out. */
static bool tx_next(struct virtio_console *console, struct virtq *queue)
{
    if (console->sending && queue->in_flight > 0)
        return virtio_queue_live(&console->device, queue);
    console->sending = virtio_pop(&console->device, queue, &console->out);
    console->out_at = 0;
    return console->sending;
}

static void tx_piece(struct virtio_console *console, struct virtq *queue)
{
    struct virtq_used used = virtq_used_of(&console->out, 0);
    uint8_t piece[CONSOLE_PIECE];
    size_t length = virtq_chain_read(&console->out, console->out_at, piece, sizeof piece), taken;

    if (length > 0) {
        pthread_mutex_unlock(&console->device.lock);
        taken = console->config.output(console->config.opaque, piece, length);
        pthread_mutex_lock(&console->device.lock);
        console->output_full = taken < length;
        console->out_at += taken;
    }
    if (console->out_at < console->out.out_bytes)
        return;
    console->sending = false;
    if (queue->in_flight > 0) /* no reset meanwhile */
        virtio_push(&console->device, queue, &used, 1);
}

static void tx_notify(struct virtio_console *console)
{
    struct virtio_device *device = &console->device;
    struct virtq *queue = &device->queue[CONSOLE_TX_QUEUE];

    for (unsigned i = 0; i < CONSOLE_BUDGET && !console->output_full; i++) {
        if (!tx_next(console, queue))
            break;
        tx_piece(console, queue);
    }
    virtio_signal(device, queue);
    if (!console->output_full && virtio_queue_live(device, queue) &&
        (console->sending || virtq_notify_enable(queue)))
        virtio_kick(device, CONSOLE_TX_QUEUE);
}

void virtio_console_output_resume(struct virtio_device *device)
{
    struct virtio_console *console = (struct virtio_console *)device;

    pthread_mutex_lock(&device->lock);
    console->output_full = false;
    pthread_mutex_unlock(&device->lock);
    virtio_kick(device, CONSOLE_TX_QUEUE);
}

/* ---- input ---- */

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

/* ---- the device ---- */

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

/* What the guest wrote last goes out, as far as the back end takes it at once. */
static void console_free(struct virtio_device *device)
{
    struct virtio_console *console = (struct virtio_console *)device;

    pthread_mutex_lock(&device->lock);
    console->output_full = false; /* it may have room by now */
    tx_notify(console);
    pthread_mutex_unlock(&device->lock);
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
