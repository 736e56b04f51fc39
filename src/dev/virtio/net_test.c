/* The network card, driven through PCI as a guest's driver does. */
#include "dev/virtio/devices.h"

#include <errno.h>
#include <string.h>

#include "base/test.h"
#include "dev/virtio/testguest.h"

#define STATUS  (GUEST_BUFFERS + 0x1000)
#define DATA    (GUEST_BUFFERS + 0x10000)
#define NET_MRG VIRTIO_BIT(15)

/* A port that keeps what it is sent and can be told to be full. */
struct fake_port {
    struct net_port port;
    unsigned sent, resumed; /* atomic */
    size_t last_length;
    uint8_t last[64]; /* its first bytes, when in one piece */
    bool full;
};

static int fake_send(struct net_port *port, const struct iovec *iov, unsigned count)
{
    struct fake_port *fake = (struct fake_port *)port;

    if (__atomic_load_n(&fake->full, __ATOMIC_SEQ_CST))
        return -EAGAIN;
    fake->last_length = 0;
    memcpy(fake->last, iov[0].iov_base, iov[0].iov_len < 64 ? iov[0].iov_len : 64);
    for (unsigned i = 0; i < count; i++)
        fake->last_length += iov[i].iov_len;
    __atomic_fetch_add(&fake->sent, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static void fake_flush(struct net_port *port)
{
    (void)port;
}

static void fake_resume(struct net_port *port)
{
    __atomic_fetch_add(&((struct fake_port *)port)->resumed, 1, __ATOMIC_SEQ_CST);
}

static const struct net_port_ops fake_ops = {fake_send, fake_flush, fake_resume, fake_flush};

struct net_guest {
    struct guest guest;
    struct fake_port fake;
    struct guest_device device;
    struct guest_ring rx, tx;
};

static bool net_guest_new(struct test *t, struct net_guest *n, uint64_t features)
{
    struct virtio_net_config config = {0};
    struct virtio_device *device;

    n->fake = (struct fake_port){.port = {.ops = &fake_ops, .link_up = true, .mtu = 1500}};
    if (!CHECK_EQ(t, guest_new(&n->guest), 0))
        return false;
    config.mem = n->guest.mem;
    config.loop = n->guest.loop;
    config.port = &n->fake.port;
    CHECK_EQ(t, virtio_net_new(&config, &device, NULL), 0);
    CHECK_EQ(t, virtio_pci_new(device, n->guest.root, 0, NULL), 0);
    guest_assign(&n->guest);
    CHECK_EQ(t, guest_probe(&n->guest, 1, &n->device), 0);
    CHECK(t, guest_begin(&n->device, features));
    guest_msix(&n->device);
    guest_ring_init(&n->device, 0, 16, &n->rx);
    guest_ring_init(&n->device, 1, 16, &n->tx);
    guest_driver_ok(&n->device);
    return true;
}

static bool net_give(struct net_guest *n, const void *frame, size_t length)
{
    bool taken = n->fake.port.user->receive(n->fake.port.user_opaque, frame, length);

    n->fake.port.user->received(n->fake.port.user_opaque);
    return taken;
}

static void net_receives(struct test *t, uint64_t features)
{
    const struct guest_buffer small = {DATA, 512, true}, next = {DATA + 512, 2048, true};
    struct net_guest n;
    uint8_t frame[1400], got[1400];

    if (!net_guest_new(t, &n, features))
        return;
    for (unsigned i = 0; i < sizeof frame; i++)
        frame[i] = (uint8_t)(i * 3);
    CHECK(t, !net_give(&n, frame, sizeof frame)); /* no buffer at all */
    guest_post(&n.rx, &small, 1);
    CHECK(t, !net_give(&n, frame, sizeof frame)); /* not enough: none is used */
    guest_post(&n.rx, &next, 1);
    guest_kick(&n.rx);
    for (unsigned i = 0; i < 100 && !n.fake.resumed; i++)
        guest_sleep_ms(10);
    CHECK(t, n.fake.resumed > 0);
    CHECK(t, net_give(&n, frame, sizeof frame));
    CHECK_EQ(t, guest_wait(&n.rx), 512);
    CHECK_EQ(t, guest_wait(&n.rx), 12 + sizeof frame - 512);
    CHECK_EQ(t, guest_load16(&n.guest, DATA + 10), 2);
    CHECK_EQ(t, mem_read(n.guest.mem, DATA + 12, got, sizeof got), 0);
    CHECK_MEM(t, got, frame, sizeof frame);
    CHECK(t, guest_messages(&n.guest, 0) > 0);
    guest_free(&n.guest);
}

static void test_net_receive_split(struct test *t)
{
    net_receives(t, NET_MRG | VIRTIO_F_EVENT_IDX);
}

static void test_net_receive_packed(struct test *t)
{
    net_receives(t, NET_MRG | VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX);
}

static void test_net_receive_single(struct test *t)
{
    const struct guest_buffer big = {DATA, 1600, true}, small = {DATA, 100, true};
    struct net_guest n;
    uint8_t frame[1400] = {1};

    if (!net_guest_new(t, &n, 0))
        return;
    guest_post(&n.rx, &big, 1);
    CHECK(t, net_give(&n, frame, sizeof frame));
    CHECK_EQ(t, guest_wait(&n.rx), 1412);
    CHECK_EQ(t, guest_load16(&n.guest, DATA + 10), 1);
    guest_post(&n.rx, &small, 1);
    CHECK(t, !net_give(&n, frame, sizeof frame));
    CHECK(t, guest_wait_status(&n.device, VIRTIO_STATUS_NEEDS_RESET));
    guest_free(&n.guest);
}

/* A full port holds frames back; none is lost, and they go when it says so. */
static void test_net_transmit(struct test *t)
{
    const struct guest_buffer out[2] = {{DATA, 12, false}, {DATA + 64, 900, false}};
    struct net_guest n;

    if (!net_guest_new(t, &n, VIRTIO_F_EVENT_IDX))
        return;
    guest_post(&n.tx, out, 2);
    guest_kick(&n.tx);
    CHECK_EQ(t, guest_wait(&n.tx), 0);
    CHECK_EQ(t, n.fake.sent, 1);
    CHECK_EQ(t, n.fake.last_length, 900);
    __atomic_store_n(&n.fake.full, true, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < 3; i++)
        guest_post(&n.tx, out, 2);
    guest_kick(&n.tx);
    guest_sleep_ms(50);
    CHECK_EQ(t, n.fake.sent, 1);
    CHECK_EQ(t, guest_load16(&n.guest, n.tx.used + 2), 1);
    __atomic_store_n(&n.fake.full, false, __ATOMIC_SEQ_CST);
    n.fake.port.user->writable(n.fake.port.user_opaque);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(t, guest_wait(&n.tx), 0);
    CHECK_EQ(t, n.fake.sent, 4);
    guest_free(&n.guest);
}

/* The guest leaves a checksum to the card: RFC 1071's own example, begun with a pseudo header. */
static void test_net_checksum(struct test *t)
{
    const struct guest_buffer out = {DATA, 12 + 28, false};
    uint8_t bytes[12 + 28] = {1, 0, 0, 0, 0, 0, 16, 0, 8, 0};
    struct net_guest n;

    if (!net_guest_new(t, &n, VIRTIO_BIT(0)))
        return;
    memcpy(bytes + 12 + 16, "\x00\x01\xf2\x03\xf4\xf5\xf6\xf7", 8); /* sums up to ddf2 */
    CHECK_EQ(t, mem_write(n.guest.mem, DATA, bytes, sizeof bytes), 0);
    guest_post(&n.tx, &out, 1);
    guest_kick(&n.tx);
    CHECK_EQ(t, guest_wait(&n.tx), 0);
    CHECK_EQ(t, n.fake.last_length, 28);
    CHECK_EQ(t, n.fake.last[24] << 8 | n.fake.last[25], 0x220d);
    bytes[6] = 27; /* outside the frame: dropped, and nothing else happens */
    CHECK_EQ(t, mem_write(n.guest.mem, DATA, bytes, sizeof bytes), 0);
    guest_post(&n.tx, &out, 1);
    guest_kick(&n.tx);
    CHECK_EQ(t, guest_wait(&n.tx), 0);
    CHECK_EQ(t, n.fake.sent, 1);
    guest_free(&n.guest);
}

/* A driver without merging gives 1526 bytes; a longer frame is dropped, the next one comes. */
static void test_net_too_long(struct test *t)
{
    const struct guest_buffer buffer = {DATA, 1526, true};
    static const uint8_t frame[3000];
    struct net_guest n;

    if (!net_guest_new(t, &n, 0))
        return;
    guest_post(&n.rx, &buffer, 1);
    CHECK(t, net_give(&n, frame, sizeof frame));
    CHECK(t, net_give(&n, frame, 1514));
    CHECK_EQ(t, guest_wait(&n.rx), 1526);
    guest_free(&n.guest);
}

static void test_net_link(struct test *t)
{
    struct net_guest n;

    if (!net_guest_new(t, &n, VIRTIO_BIT(16)))
        return;
    CHECK_EQ(t, guest_read(&n.device, n.device.config + 6, 2), 1);
    CHECK_EQ(t, guest_read(&n.device, n.device.config + 10, 2), 1500);
    guest_write(&n.device, n.device.common + 0x10, 2, 3);
    n.fake.port.user->link(n.fake.port.user_opaque, false);
    CHECK_EQ(t, guest_read(&n.device, n.device.config + 6, 2), 0);
    CHECK_EQ(t, guest_read(&n.device, n.device.common + 0x15, 1), 1);
    CHECK_EQ(t, guest_messages(&n.guest, 3), 1);
    guest_free(&n.guest);
}

static int net_control(struct net_guest *n, struct guest_ring *ring, uint8_t class, uint8_t command)
{
    const struct guest_buffer chain[2] = {{DATA, 2, false}, {STATUS, 1, true}};
    const uint8_t bytes[2] = {class, command};
    uint8_t answer = 0xee;

    if (mem_write(n->guest.mem, DATA, bytes, 2) < 0)
        return -1;
    guest_post(ring, chain, 2);
    guest_kick(ring);
    if (guest_wait(ring) != 1 || mem_read(n->guest.mem, STATUS, &answer, 1) < 0)
        return -1;
    return answer;
}

static void test_net_control(struct test *t)
{
    struct net_guest n;
    struct guest_ring ring;

    if (!net_guest_new(t, &n, VIRTIO_BIT(17) | VIRTIO_BIT(18)))
        return;
    guest_ring_init(&n.device, 2, 16, &ring);
    CHECK_EQ(t, net_control(&n, &ring, 0, 0), 0); /* promiscuous */
    CHECK_EQ(t, net_control(&n, &ring, 1, 0), 0); /* an address table */
    CHECK_EQ(t, net_control(&n, &ring, 0, 6), 1);
    CHECK_EQ(t, net_control(&n, &ring, 4, 0), 1); /* queue pairs: not offered */
    guest_free(&n.guest);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_net_receive_split);
    TEST_RUN(&t, test_net_receive_packed);
    TEST_RUN(&t, test_net_receive_single);
    TEST_RUN(&t, test_net_transmit);
    TEST_RUN(&t, test_net_checksum);
    TEST_RUN(&t, test_net_too_long);
    TEST_RUN(&t, test_net_link);
    TEST_RUN(&t, test_net_control);
    return test_end(&t);
}
