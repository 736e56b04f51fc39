/*
 * Network ports: the checks that every back end shares, and the port at a unix socket.
 *
 * The socket port gathers frames and moves up to 32 of them with one system call. Its peer (the NAT
 * process) is not trusted: a frame of a bad length is dropped, and said.
 * Threads: the loop's.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "net/net_port.h"

/* ---- every port ---- */

void net_port_attach(struct net_port *port, const struct net_port_user *user, void *opaque)
{
    port->user = user;
    port->user_opaque = opaque;
    if (user)
        port->ops->resume(port);
}

static size_t vector_length(const struct iovec *iov, unsigned count)
{
    size_t length = 0;

    for (unsigned i = 0; i < count && length <= NET_FRAME_MAX; i++) {
        if (iov[i].iov_len > NET_FRAME_MAX)
            return SIZE_MAX;
        length += iov[i].iov_len;
    }
    return length;
}

int net_port_send(struct net_port *port, const struct iovec *iov, unsigned count)
{
    size_t length = vector_length(iov, count);

    if (length < NET_FRAME_MIN || length > NET_FRAME_MAX)
        return -EMSGSIZE;
    if (!port->link_up)
        return -EPIPE;
    return port->ops->send(port, iov, count);
}

void net_port_flush(struct net_port *port)
{
    if (port->link_up)
        port->ops->flush(port);
}

void net_port_resume(struct net_port *port)
{
    port->ops->resume(port);
}

void net_port_free(struct net_port *port)
{
    if (port)
        port->ops->free(port);
}

/* ---- the socket port ---- */

#define BATCH_FRAMES 32u
#define BATCH_BYTES  (BATCH_FRAMES * 2048u + NET_FRAME_MAX)

/* Frames one after the other in `bytes`. */
struct batch {
    unsigned count, next;
    size_t used;
    struct iovec frame[BATCH_FRAMES];
    uint8_t bytes[BATCH_BYTES];
};

struct net_socket {
    struct net_port port;
    struct loop *loop;
    struct loop_watch watch;
    char name[32];
    struct batch out;
    bool blocked; /* the socket takes no more; the card waits for `writable` */

    /* What was read, but not yet taken by the card. */
    unsigned in_count, in_next;
    bool held; /* the card has no room */
    struct iovec in_frame[BATCH_FRAMES];
    uint8_t *in_bytes; /* BATCH_FRAMES of NET_FRAME_MAX */
    struct log_limit log;
};

static void socket_watch(struct net_socket *sock)
{
    uint32_t events =
        (sock->held ? 0u : (uint32_t)EPOLLIN) | (sock->blocked ? (uint32_t)EPOLLOUT : 0u);

    if (sock->watch.active && sock->watch.events != events &&
        loop_watch_change(sock->loop, &sock->watch, events) < 0)
        log_limited(&sock->log, "%s: the event loop refused a change", sock->name);
}

static void socket_down(struct net_socket *sock, const char *why)
{
    if (!sock->port.link_up)
        return;
    sock->port.link_up = false;
    sock->blocked = false;
    sock->out.count = sock->out.next = 0;
    loop_watch_remove(sock->loop, &sock->watch);
    log_warn("%s: %s; the VM goes on with its network cable unplugged", sock->name, why);
    if (sock->port.user)
        sock->port.user->link(sock->port.user_opaque, false);
}

/* Sends what is gathered; stops where the socket is full. */
static int socket_flush_some(struct net_socket *sock)
{
    struct batch *out = &sock->out;

    while (out->next < out->count) {
        struct mmsghdr message[BATCH_FRAMES] = {0};
        unsigned count = out->count - out->next;
        int sent;

        for (unsigned i = 0; i < count; i++) {
            message[i].msg_hdr.msg_iov = &out->frame[out->next + i];
            message[i].msg_hdr.msg_iovlen = 1;
        }
        sent = sendmmsg(sock->watch.fd, message, count, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return -errno;
        out->next += (unsigned)sent;
    }
    out->count = out->next = 0;
    out->used = 0;
    return 0;
}

static void socket_flush(struct net_port *port)
{
    struct net_socket *sock = (struct net_socket *)port;
    int rc = socket_flush_some(sock);

    sock->blocked = rc == -EAGAIN || rc == -ENOBUFS;
    if (rc < 0 && !sock->blocked)
        socket_down(sock, "the network process is gone");
    else
        socket_watch(sock);
}

static bool batch_room(const struct batch *batch)
{
    return batch->count < BATCH_FRAMES && BATCH_BYTES - batch->used >= NET_FRAME_MAX;
}

static int socket_send(struct net_port *port, const struct iovec *iov, unsigned count)
{
    struct net_socket *sock = (struct net_socket *)port;
    struct batch *out = &sock->out;
    uint8_t *start;

    if (!sock->blocked && !batch_room(out))
        socket_flush(port);
    if (!port->link_up)
        return -EPIPE;
    if (sock->blocked || !batch_room(out))
        return -EAGAIN;
    start = out->bytes + out->used;
    for (unsigned i = 0; i < count; i++) {
        memcpy(out->bytes + out->used, iov[i].iov_base, iov[i].iov_len);
        out->used += iov[i].iov_len;
    }
    out->frame[out->count++] = (struct iovec){start, (size_t)(out->bytes + out->used - start)};
    return 0;
}

/* Hands frames to the card until it refuses one; that one waits for resume(). */
static void socket_deliver(struct net_socket *sock)
{
    struct net_port *port = &sock->port;
    bool any = false;

    sock->held = false;
    while (sock->in_next < sock->in_count) {
        struct iovec *frame = &sock->in_frame[sock->in_next];

        if (!port->user ||
            !port->user->receive(port->user_opaque, frame->iov_base, frame->iov_len)) {
            sock->held = true;
            break;
        }
        any = true;
        sock->in_next++;
    }
    if (any)
        port->user->received(port->user_opaque);
}

/* 0: some frames came in; -EAGAIN; or why the peer is gone. */
static int socket_receive(struct net_socket *sock)
{
    struct mmsghdr message[BATCH_FRAMES] = {0};
    struct iovec iov[BATCH_FRAMES];
    int got;

    for (unsigned i = 0; i < BATCH_FRAMES; i++) {
        iov[i] = (struct iovec){sock->in_bytes + (size_t)i * NET_FRAME_MAX, NET_FRAME_MAX};
        message[i].msg_hdr.msg_iov = &iov[i];
        message[i].msg_hdr.msg_iovlen = 1;
    }
    got = recvmmsg(sock->watch.fd, message, BATCH_FRAMES, MSG_DONTWAIT, NULL);
    if (got < 0)
        return -errno;
    sock->in_count = sock->in_next = 0;
    for (int i = 0; i < got; i++) {
        size_t length = message[i].msg_len;

        if (length == 0)
            return sock->in_count ? 0 : -EPIPE; /* the end of a SOCK_SEQPACKET */
        if (length < NET_FRAME_MIN || (message[i].msg_hdr.msg_flags & MSG_TRUNC)) {
            log_limited(&sock->log, "%s: dropped a frame of a bad length", sock->name);
            continue;
        }
        sock->in_frame[sock->in_count++] = (struct iovec){iov[i].iov_base, length};
    }
    return 0;
}

static void socket_ready(void *opaque, uint32_t events)
{
    struct net_socket *sock = opaque;
    struct net_port *port = &sock->port;

    if ((events & EPOLLOUT) && sock->blocked) {
        socket_flush(port);
        if (port->link_up && !sock->blocked && port->user)
            port->user->writable(port->user_opaque);
    }
    if (!port->link_up || sock->held || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
        if ((events & (EPOLLHUP | EPOLLERR)) && !(events & EPOLLIN))
            socket_down(sock, "the network process is gone");
        return;
    }
    switch (socket_receive(sock)) {
    case 0:
        socket_deliver(sock);
        socket_watch(sock);
        break;
    case -EAGAIN:
    case -EINTR:
        break;
    default:
        socket_down(sock, "the network process is gone");
        break;
    }
}

static void socket_resume(struct net_port *port)
{
    struct net_socket *sock = (struct net_socket *)port;

    if (!sock->held || !port->link_up)
        return;
    socket_deliver(sock);
    socket_watch(sock);
}

static void socket_free(struct net_port *port)
{
    struct net_socket *sock = (struct net_socket *)port;

    loop_watch_remove(sock->loop, &sock->watch);
    close(sock->watch.fd);
    free(sock->in_bytes);
    free(sock);
}

static const struct net_port_ops socket_ops = {
    .send = socket_send,
    .flush = socket_flush,
    .resume = socket_resume,
    .free = socket_free,
};

int net_socket_new(struct loop *loop, int fd, const char *name, struct net_port **out)
{
    struct net_socket *sock = calloc(1, sizeof *sock);
    int rc = -ENOMEM;

    if (!sock)
        goto out_close;
    sock->in_bytes = malloc((size_t)BATCH_FRAMES * NET_FRAME_MAX);
    if (!sock->in_bytes)
        goto out_free;
    sock->port = (struct net_port){.ops = &socket_ops, .link_up = true};
    sock->loop = loop;
    strncpy(sock->name, name, sizeof sock->name - 1);
    sock->watch =
        (struct loop_watch){.fd = fd, .events = EPOLLIN, .ready = socket_ready, .opaque = sock};
    rc = loop_watch_add(loop, &sock->watch);
    if (rc < 0)
        goto out_free;
    *out = &sock->port;
    return 0;

out_free:
    free(sock->in_bytes);
    free(sock);
out_close:
    close(fd);
    return rc;
}
