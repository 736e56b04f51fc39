/*
 * The virtio network card (Virtio 1.2, 5.1): one pair of queues and a control queue.
 *
 * All work is done on the loop's thread with the device's lock held. A frame that finds no room in
 * the guest stays in the port until the guest makes buffers available; a frame that the port can't
 * take stays in the transmit queue. Checksums of sent frames are made here when the guest leaves
 * them to us; those of received frames are vouched for when the port made the frames itself.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/endian.h"
#include "dev/virtio/virtio.h"

#define NET_F_CSUM           VIRTIO_BIT(0)
#define NET_F_GUEST_CSUM     VIRTIO_BIT(1)
#define NET_F_MTU            VIRTIO_BIT(3)
#define NET_F_MAC            VIRTIO_BIT(5)
#define NET_F_MRG_RXBUF      VIRTIO_BIT(15)
#define NET_F_STATUS         VIRTIO_BIT(16)
#define NET_F_CTRL_VQ        VIRTIO_BIT(17)
#define NET_F_CTRL_RX        VIRTIO_BIT(18)

#define NET_CONFIG_SIZE      12u
#define NET_CONFIG_STATUS    6u
#define NET_CONFIG_MTU       10u
#define NET_S_LINK_UP        1u

#define NET_RX_QUEUE         0u
#define NET_TX_QUEUE         1u
#define NET_CTRL_QUEUE       2u
#define NET_HEADER_SIZE      12u
#define NET_HEADER_START     6u  /* csum_start */
#define NET_HEADER_FIELD     8u  /* csum_offset, from there */
#define NET_HEADER_COUNT     10u /* num_buffers */
#define NET_HDR_F_NEEDS_CSUM 1u
#define NET_HDR_F_DATA_VALID 2u
#define NET_RX_BUFFER_MIN    1526u /* what 5.1.6.3.1 demands without merging */
#define NET_QUEUE_SIZE       256u
#define NET_TX_BUDGET        256u /* frames in one turn, so that other devices get theirs */
#define NET_CTRL_BUDGET      16u
#define NET_CTRL_RX          0u
#define NET_CTRL_OK          0
#define NET_CTRL_ERR         1
#define NET_CTRL_RX_MODES    6u
#define NET_CTRL_MAC         1u
#define NET_CTRL_MAC_SET     0u /* the table */

struct virtio_net {
    struct virtio_device device;
    struct net_port *port;
    uint8_t mac[6];
    bool rx_waits; /* the port holds frames until there are buffers */
    bool tx_waits; /* frames wait until the port takes more */
    bool link_up;
    struct virtq_chain chain, first;
    uint8_t frame[NET_FRAME_MAX]; /* one whose checksum is made here */
    struct virtq_used used[VIRTQ_SIZE_MAX];
};

/* ---- receiving ---- */

/* A buffer as large as it must be: the frame is too long for this driver and is dropped, as a card
 * does. Else the driver is wrong. */
static int rx_too_small(struct virtio_net *net, const struct virtq_chain *chain,
                        const struct virtq_mark *mark)
{
    if (chain->in_bytes < NET_RX_BUFFER_MIN) {
        virtio_fail(&net->device, "a receive buffer that is too small");
        return -EPROTO;
    }
    virtq_rewind(&net->device.queue[NET_RX_QUEUE], mark);
    log_limited(&net->device.log, "virtio-net: dropped a frame longer than the guest's buffers");
    return -EMSGSIZE;
}

/* Fills as many buffers as the frame needs. The number of buffers; 0: not enough of them (none is
 * taken); negative: the frame does not fit into what this driver gives. */
static int rx_fill(struct virtio_net *net, const uint8_t *frame, size_t length)
{
    struct virtio_device *device = &net->device;
    struct virtq *queue = &device->queue[NET_RX_QUEUE];
    bool mergeable = device->driver_features & NET_F_MRG_RXBUF;
    const struct virtq_mark mark = virtq_mark(queue);
    size_t done = 0;
    int count = 0;

    do {
        struct virtq_chain *chain = count == 0 ? &net->first : &net->chain;
        uint64_t skip = count == 0 ? NET_HEADER_SIZE : 0;
        size_t piece;

        if (count == queue->size || !virtio_pop(device, queue, chain)) {
            virtq_rewind(queue, &mark);
            return 0;
        }
        if (chain->in_bytes <= skip || (!mergeable && chain->in_bytes - skip < length))
            return rx_too_small(net, chain, &mark);
        piece = virtq_chain_write(device->mem, chain, skip, frame + done, length - done);
        done += piece;
        net->used[count++] = virtq_used_of(chain, (uint32_t)(skip + piece));
    } while (done < length);
    return count;
}

/* false: keep the frame, there is no room. */
static bool rx_frame(struct virtio_net *net, const uint8_t *frame, size_t length)
{
    struct virtio_device *device = &net->device;
    struct virtq *queue = &device->queue[NET_RX_QUEUE];
    uint8_t header[NET_HEADER_SIZE] = {0};
    int count;

    if (!virtio_queue_live(device, queue))
        return false;
    count = rx_fill(net, frame, length);
    if (count == 0 && virtio_queue_live(device, queue) && virtq_notify_enable(queue))
        count = rx_fill(net, frame, length); /* buffers came while we asked to be told */
    if (count <= 0)
        return count == -EMSGSIZE;
    virtq_notify_disable(queue);
    if (net->port->checksums_valid && (device->driver_features & NET_F_GUEST_CSUM))
        header[0] = NET_HDR_F_DATA_VALID;
    store_le16(header + NET_HEADER_COUNT, (uint16_t)count); /* 1 without merging (5.1.6.4.1) */
    virtq_chain_write(device->mem, &net->first, 0, header, sizeof header);
    virtio_push(device, queue, net->used, (unsigned)count);
    return true;
}

static bool net_receive(void *opaque, const void *frame, size_t length)
{
    struct virtio_net *net = opaque;
    bool taken;

    pthread_mutex_lock(&net->device.lock);
    taken = rx_frame(net, frame, length);
    net->rx_waits = !taken;
    pthread_mutex_unlock(&net->device.lock);
    return taken;
}

static void net_received(void *opaque)
{
    struct virtio_net *net = opaque;

    pthread_mutex_lock(&net->device.lock);
    virtio_signal(&net->device, &net->device.queue[NET_RX_QUEUE]);
    pthread_mutex_unlock(&net->device.lock);
}

/* ---- sending ---- */

/* The ones' complement sum (RFC 1071), in the machine's byte order, which does not matter. */
static uint16_t checksum(const uint8_t *from, size_t length)
{
    uint64_t sum = 0;

    for (; length >= 4; from += 4, length -= 4)
        sum += load_le32(from);
    if (length >= 2)
        sum += load_le16(from);
    if (length & 1)
        sum += from[length & 2];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* Completes a checksum that the guest began (5.1.6.2), in a copy of the frame. */
static int tx_checksummed(struct virtio_net *net, const struct virtq_chain *chain,
                          const uint8_t *header)
{
    size_t start = load_le16(header + NET_HEADER_START);
    size_t field = start + load_le16(header + NET_HEADER_FIELD), length;
    struct iovec iov = {net->frame, 0};
    uint16_t sum;

    if (chain->out_bytes < NET_HEADER_SIZE ||
        chain->out_bytes - NET_HEADER_SIZE > sizeof net->frame)
        return -EMSGSIZE;
    length = virtq_chain_read(chain, NET_HEADER_SIZE, net->frame, sizeof net->frame);
    if (field + 2 > length)
        return -EMSGSIZE;
    sum = (uint16_t)~checksum(net->frame + start, length - start);
    store_le16(net->frame + field, sum ? sum : 0xffff); /* RFC 768: 0 would mean none */
    iov.iov_len = length;
    return net_port_send(net->port, &iov, 1);
}

static int tx_plain(struct virtio_net *net, const struct virtq_chain *chain)
{
    struct iovec iov[VIRTQ_SPANS];
    uint64_t skip = NET_HEADER_SIZE;
    unsigned count = 0;

    for (unsigned i = 0; i < chain->out_count; i++) {
        struct iovec span = chain->iov[i];

        if (skip >= span.iov_len) {
            skip -= span.iov_len;
            continue;
        }
        iov[count++] = (struct iovec){(uint8_t *)span.iov_base + skip, span.iov_len - skip};
        skip = 0;
    }
    return net_port_send(net->port, iov, count);
}

/* The frame behind the header; -EAGAIN when the port is full. Frames that no wire could carry and
 * those for an unplugged cable are taken from the driver and are gone, as on a real card. */
static int tx_frame(struct virtio_net *net, const struct virtq_chain *chain)
{
    uint8_t header[NET_HEADER_SIZE] = {0};
    int rc;

    virtq_chain_read(chain, 0, header, sizeof header);
    if ((header[0] & NET_HDR_F_NEEDS_CSUM) && (net->device.driver_features & NET_F_CSUM))
        rc = tx_checksummed(net, chain, header);
    else
        rc = tx_plain(net, chain);
    if (rc == -EMSGSIZE)
        log_limited(&net->device.log, "virtio-net: the guest sent a frame of a bad length");
    return rc == -EAGAIN ? rc : 0;
}

/* Sends up to a turn's worth; true when there is more to do now. */
static bool tx_run(struct virtio_net *net, struct virtq *queue)
{
    unsigned count = 0;

    while (count < NET_TX_BUDGET) {
        const struct virtq_mark mark = virtq_mark(queue);

        if (!virtio_pop(&net->device, queue, &net->chain))
            break;
        if (tx_frame(net, &net->chain) == -EAGAIN) {
            virtq_rewind(queue, &mark);
            net->tx_waits = true;
            break;
        }
        net->used[count % NET_TX_BUDGET] = virtq_used_of(&net->chain, 0);
        count++;
    }
    net_port_flush(net->port);
    if (count) {
        virtio_push(&net->device, queue, net->used, count);
        virtio_signal(&net->device, queue);
    }
    return count == NET_TX_BUDGET;
}

static void tx_notify(struct virtio_net *net)
{
    struct virtio_device *device = &net->device;
    struct virtq *queue = &device->queue[NET_TX_QUEUE];
    bool more;

    if (net->tx_waits)
        return; /* net_writable() comes back to it */
    virtq_notify_disable(queue);
    more = tx_run(net, queue);
    if (net->tx_waits || !virtio_queue_live(device, queue))
        return;
    if (more || virtq_notify_enable(queue))
        virtio_kick(device, NET_TX_QUEUE);
}

static void net_writable(void *opaque)
{
    struct virtio_net *net = opaque;
    struct virtio_device *device = &net->device;

    pthread_mutex_lock(&device->lock);
    net->tx_waits = false;
    if (virtio_queue_live(device, &device->queue[NET_TX_QUEUE]))
        tx_notify(net);
    pthread_mutex_unlock(&device->lock);
}

/* ---- control ---- */

/* Receive modes and address filters (both belong to VIRTIO_NET_F_CTRL_RX) are accepted and need
 * nothing: the card passes every frame it is sent, which 5.1.6.5.2 allows. */
static uint8_t ctrl_command(struct virtio_net *net)
{
    uint8_t command[2] = {0xff, 0xff};
    bool known;

    virtq_chain_read(&net->chain, 0, command, sizeof command);
    known = (command[0] == NET_CTRL_RX && command[1] < NET_CTRL_RX_MODES) ||
            (command[0] == NET_CTRL_MAC && command[1] == NET_CTRL_MAC_SET);
    return known ? NET_CTRL_OK : NET_CTRL_ERR;
}

static void ctrl_notify(struct virtio_net *net)
{
    struct virtio_device *device = &net->device;
    struct virtq *queue = &device->queue[NET_CTRL_QUEUE];
    unsigned budget = NET_CTRL_BUDGET;

    while (budget && virtio_pop(device, queue, &net->chain)) {
        struct virtq_used used = virtq_used_of(&net->chain, 1);
        uint8_t answer = ctrl_command(net);

        budget--;
        if (virtq_chain_write(device->mem, &net->chain, 0, &answer, 1) != 1) {
            virtio_fail(device, "a control command without room for its answer");
            return;
        }
        virtio_push(device, queue, &used, 1);
    }
    virtio_signal(device, queue);
    if (virtio_queue_live(device, queue) && virtq_notify_enable(queue))
        virtio_kick(device, NET_CTRL_QUEUE);
}

/* ---- the device ---- */

/* Called with the lock held; the port calls back into net_receive(), which takes it. */
static void rx_notify(struct virtio_net *net)
{
    if (!net->rx_waits)
        return;
    pthread_mutex_unlock(&net->device.lock);
    net_port_resume(net->port);
    pthread_mutex_lock(&net->device.lock);
}

static void net_notify(struct virtio_device *device, unsigned queue)
{
    struct virtio_net *net = (struct virtio_net *)device;

    if (queue == NET_RX_QUEUE)
        rx_notify(net);
    else if (queue == NET_TX_QUEUE)
        tx_notify(net);
    else
        ctrl_notify(net);
}

static void net_link(void *opaque, bool up)
{
    struct virtio_net *net = opaque;

    pthread_mutex_lock(&net->device.lock);
    net->link_up = up;
    net->tx_waits = false;
    virtio_config_changed(&net->device);
    virtio_kick(&net->device, NET_TX_QUEUE);
    pthread_mutex_unlock(&net->device.lock);
}

static const struct net_port_user net_user = {
    .receive = net_receive,
    .received = net_received,
    .writable = net_writable,
    .link = net_link,
};

static void net_config_read(struct virtio_device *device, uint8_t *to)
{
    struct virtio_net *net = (struct virtio_net *)device;

    memcpy(to, net->mac, sizeof net->mac);
    store_le16(to + NET_CONFIG_STATUS, net->link_up ? NET_S_LINK_UP : 0);
    store_le16(to + NET_CONFIG_MTU, net->port->mtu);
}

static void net_reset(struct virtio_device *device)
{
    /* A frame that waits for the port is still in its ring, which is gone. */
    ((struct virtio_net *)device)->tx_waits = false;
}

static void net_free(struct virtio_device *device)
{
    struct virtio_net *net = (struct virtio_net *)device;

    net_port_attach(net->port, NULL, NULL);
    net_port_free(net->port);
    virtio_fini(device);
    free(net);
}

static const struct virtio_ops net_ops = {
    .config_read = net_config_read,
    .notify = net_notify,
    .reset = net_reset,
    .free = net_free,
};

/* Locally administered, as every VM's: 52:54:00 and three random bytes. */
static void mac_make(uint8_t mac[6], const uint8_t wish[6])
{
    static const uint8_t none[6];

    memcpy(mac, wish, 6);
    if (memcmp(wish, none, 6) != 0)
        return;
    memcpy(mac, "\x52\x54\x00", 3);
    if (getrandom(mac + 3, 3, 0) != 3)
        memcpy(mac + 3, "\x12\x34\x56", 3);
}

int virtio_net_new(const struct virtio_net_config *config, struct virtio_device **out,
                   struct error *err)
{
    struct virtio_init init = {
        .ops = &net_ops,
        .name = "virtio-net",
        .type = VIRTIO_TYPE_NET,
        .config_size = NET_CONFIG_SIZE,
        .features =
            NET_F_CSUM | NET_F_MAC | NET_F_MRG_RXBUF | NET_F_STATUS | NET_F_CTRL_VQ | NET_F_CTRL_RX,
        .queue_count = 3,
        .queue_size = NET_QUEUE_SIZE,
        .mem = config->mem,
        .loop = config->loop,
    };
    struct virtio_net *net = calloc(1, sizeof *net);
    int rc;

    if (!net)
        return error_set(err, -ENOMEM, "no memory for a network card");
    if (config->port->checksums_valid)
        init.features |= NET_F_GUEST_CSUM;
    if (config->port->mtu)
        init.features |= NET_F_MTU;
    net->port = config->port;
    net->link_up = config->port->link_up;
    mac_make(net->mac, config->mac);
    rc = virtio_init(&net->device, &init);
    if (rc < 0) {
        free(net);
        return error_set(err, rc, "cannot make a network card: %s", strerror(-rc));
    }
    net_port_attach(net->port, &net_user, net);
    *out = &net->device;
    return 0;
}
