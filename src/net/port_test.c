/* The socket port: frames both ways, back-pressure both ways, a peer that goes away. */
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/test.h"
#include "net/net_port.h"

/* A card that can be told to have no room. All of it on the loop's thread, which is the test's. */
struct card {
    struct net_port *port;
    struct loop *loop;
    unsigned room, received, batches, writable, downs;
    size_t last_length;
    uint8_t last_byte;
};

static bool card_receive(void *opaque, const void *frame, size_t length)
{
    struct card *card = opaque;

    if (card->room == 0)
        return false;
    card->room--;
    card->received++;
    card->last_length = length;
    card->last_byte = ((const uint8_t *)frame)[length - 1];
    return true;
}

static void card_received(void *opaque)
{
    ((struct card *)opaque)->batches++;
}

static void card_writable(void *opaque)
{
    ((struct card *)opaque)->writable++;
}

static void card_link(void *opaque, bool up)
{
    ((struct card *)opaque)->downs += !up;
}

static const struct net_port_user card_user = {card_receive, card_received, card_writable,
                                               card_link};

static void loop_end(void *opaque)
{
    loop_stop(opaque);
}

/* Lets the loop run for a few milliseconds. */
static void loop_turn(struct test *t, struct loop *loop)
{
    struct timespec now;
    struct timer timer;

    clock_gettime(CLOCK_MONOTONIC, &now);
    timer_init(&timer, loop, loop_end, loop);
    timer_arm(&timer, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + 10000000u);
    CHECK_EQ(t, loop_run(loop), 0);
}

static bool card_new(struct test *t, struct card *card, int *peer)
{
    int fd[2];

    *card = (struct card){.room = 1000};
    if (!CHECK_EQ(t, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd), 0))
        return false;
    *peer = fd[1];
    if (!CHECK_EQ(t, loop_new(&card->loop), 0) ||
        !CHECK_EQ(t, net_socket_new(card->loop, fd[0], "test", &card->port), 0))
        return false;
    net_port_attach(card->port, &card_user, card);
    return true;
}

static void card_free(struct card *card, int peer)
{
    net_port_free(card->port);
    loop_free(card->loop);
    close(peer);
}

static void test_frames(struct test *t)
{
    uint8_t frame[1500] = {0}, got[2000];
    struct iovec iov[2] = {{frame, 14}, {frame + 14, 1000}}, tiny = {frame, 13};
    struct iovec huge = {frame, NET_FRAME_MAX + 1};
    struct card card;
    int peer;

    if (!card_new(t, &card, &peer))
        return;
    frame[1013] = 0x42;
    CHECK_EQ(t, net_port_send(card.port, iov, 2), 0);
    CHECK_EQ(t, -net_port_send(card.port, &tiny, 1), EMSGSIZE);
    CHECK_EQ(t, -net_port_send(card.port, &huge, 1), EMSGSIZE);
    net_port_flush(card.port);
    CHECK_EQ(t, recv(peer, got, sizeof got, MSG_DONTWAIT), 1014);
    CHECK_EQ(t, got[1013], 0x42);
    CHECK_EQ(t, send(peer, frame, 1014, 0), 1014);
    CHECK_EQ(t, send(peer, frame, 5, 0), 5); /* shorter than a frame: dropped */
    CHECK_EQ(t, send(peer, frame, 60, 0), 60);
    loop_turn(t, card.loop);
    CHECK_EQ(t, card.received, 2);
    CHECK_EQ(t, card.last_length, 60);
    CHECK(t, card.batches >= 1);
    card_free(&card, peer);
}

/* Nothing is lost while the card has no room. */
static void test_receive_pressure(struct test *t)
{
    uint8_t frame[100] = {0};
    struct card card;
    int peer;

    if (!card_new(t, &card, &peer))
        return;
    card.room = 3;
    for (unsigned i = 0; i < 100; i++) {
        frame[99] = (uint8_t)i;
        CHECK_EQ(t, send(peer, frame, sizeof frame, MSG_DONTWAIT), sizeof frame);
    }
    loop_turn(t, card.loop);
    CHECK_EQ(t, card.received, 3);
    card.room = 1000;
    net_port_resume(card.port);
    loop_turn(t, card.loop);
    CHECK_EQ(t, card.received, 100);
    CHECK_EQ(t, card.last_byte, 99);
    card_free(&card, peer);
}

/* Sends until refused; what was taken arrives, in order; then the port says that it takes more. */
static void test_send_pressure(struct test *t)
{
    uint8_t frame[1500] = {0}, got[1500];
    struct iovec iov = {frame, sizeof frame};
    unsigned sent = 0, arrived = 0;
    struct card card;
    int peer, rc;

    if (!card_new(t, &card, &peer))
        return;
    do {
        frame[1499] = (uint8_t)sent;
        rc = net_port_send(card.port, &iov, 1);
        sent += rc == 0;
    } while (rc == 0 && sent < 100000);
    CHECK_EQ(t, -rc, EAGAIN);
    for (unsigned turn = 0; turn < 200 && arrived < sent; turn++) {
        while (recv(peer, got, sizeof got, MSG_DONTWAIT) == sizeof got)
            CHECK_EQ(t, got[1499], (uint8_t)arrived++);
        loop_turn(t, card.loop);
    }
    CHECK_EQ(t, arrived, sent);
    CHECK(t, card.writable > 0);
    CHECK_EQ(t, net_port_send(card.port, &iov, 1), 0);
    card_free(&card, peer);
}

static void test_peer_gone(struct test *t)
{
    uint8_t frame[100] = {0};
    struct iovec iov = {frame, sizeof frame};
    struct card card;
    int peer;

    if (!card_new(t, &card, &peer))
        return;
    close(peer);
    loop_turn(t, card.loop);
    loop_turn(t, card.loop);
    CHECK_EQ(t, card.downs, 1);
    CHECK(t, !card.port->link_up);
    CHECK_EQ(t, -net_port_send(card.port, &iov, 1), EPIPE);
    card_free(&card, -1);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_frames);
    TEST_RUN(&t, test_receive_pressure);
    TEST_RUN(&t, test_send_pressure);
    TEST_RUN(&t, test_peer_gone);
    return test_end(&t);
}
