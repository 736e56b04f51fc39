/*
 * The NAT process: libslirp between the VM's socket and the host's network.
 *
 * One thread. It trusts neither side: frames come from a guest, and libslirp parses them here, in a
 * process that holds nothing of the VM's but this socket. Back-pressure: while frames for the VM
 * wait, no host socket is read, so nothing has to be dropped; a frame is lost only when libslirp
 * answers one guest frame with more than the queue holds.
 * It ends with status 0 when the VM's end closes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libslirp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/net_port.h"
#include "net/net_user.h"

#define NAT_POLLS_MAX   4096u
#define NAT_BATCH       32u
#define NAT_QUEUE_BYTES (4u << 20)
#define NAT_HIGH_WATER  (1u << 20)
#define NAT_TIMERS_MAX  8u
#define NAT_MTU_DEFAULT 1500

#define VM_NETWORK      0x0a000200u /* 10.0.2.0 */
#define VM_NETMASK      0xffffff00u
#define VM_GATEWAY      0x0a000202u
#define VM_NAMESERVER   0x0a000203u
#define VM_GUEST        0x0a00020fu

struct nat_timer {
    SlirpTimerCb callback;
    void *opaque;
    int64_t expires_ms; /* -1: not armed */
    bool used;
};

/* Frames for the VM: a ring of bytes would save memory, a linear buffer that empties itself is
 * simpler, and it is nearly always empty. */
struct nat_queue {
    size_t start, end;
    uint8_t *bytes; /* records: 4 bytes of length, then the frame */
};

struct nat {
    int fd;
    Slirp *slirp;
    bool closed;
    unsigned mtu;
    struct nat_queue queue;
    struct nat_timer timer[NAT_TIMERS_MAX];
    unsigned poll_count;
    struct pollfd poll[NAT_POLLS_MAX];
    unsigned forward_count;
    struct net_hostfwd forward[NET_HOSTFWD_MAX];
    uint8_t *in; /* NAT_BATCH frames */
    struct log_limit log;
};

/* ---- frames to the VM ---- */

static size_t queue_bytes(const struct nat_queue *queue)
{
    return queue->end - queue->start;
}

static unsigned queue_gather(const struct nat_queue *queue, struct iovec iov[NAT_BATCH])
{
    size_t at = queue->start;
    unsigned count = 0;

    while (at < queue->end && count < NAT_BATCH) {
        uint32_t length;

        memcpy(&length, queue->bytes + at, sizeof length);
        iov[count++] = (struct iovec){queue->bytes + at + sizeof length, length};
        at += sizeof length + length;
    }
    return count;
}

static void queue_drop(struct nat_queue *queue, const struct iovec *iov, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        queue->start += sizeof(uint32_t) + iov[i].iov_len;
    if (queue->start == queue->end)
        queue->start = queue->end = 0;
}

static void nat_flush(struct nat *nat)
{
    while (queue_bytes(&nat->queue)) {
        struct mmsghdr message[NAT_BATCH] = {0};
        struct iovec iov[NAT_BATCH];
        unsigned count = queue_gather(&nat->queue, iov);
        int sent;

        for (unsigned i = 0; i < count; i++) {
            message[i].msg_hdr.msg_iov = &iov[i];
            message[i].msg_hdr.msg_iovlen = 1;
        }
        sent = sendmmsg(nat->fd, message, count, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0) {
            nat->closed = errno != EAGAIN && errno != ENOBUFS;
            return;
        }
        queue_drop(&nat->queue, iov, (unsigned)sent);
    }
}

static bool queue_reserve(struct nat_queue *queue, size_t length)
{
    if (NAT_QUEUE_BYTES - queue->end >= length)
        return true;
    memmove(queue->bytes, queue->bytes + queue->start, queue_bytes(queue));
    queue->end -= queue->start;
    queue->start = 0;
    return NAT_QUEUE_BYTES - queue->end >= length;
}

static ssize_t nat_send_packet(const void *frame, size_t length, void *opaque)
{
    struct nat *nat = opaque;
    struct nat_queue *queue = &nat->queue;
    uint32_t record = (uint32_t)length;

    if (length > NET_FRAME_MAX || !queue_reserve(queue, sizeof record + length)) {
        log_limited(&nat->log, "nat: no room for a frame of %zu bytes to the VM", length);
        return (ssize_t)length;
    }
    memcpy(queue->bytes + queue->end, &record, sizeof record);
    memcpy(queue->bytes + queue->end + sizeof record, frame, length);
    queue->end += sizeof record + length;
    return (ssize_t)length;
}

/* ---- frames from the VM ---- */

static void nat_receive(struct nat *nat)
{
    struct mmsghdr message[NAT_BATCH] = {0};
    struct iovec iov[NAT_BATCH];
    int got;

    for (unsigned i = 0; i < NAT_BATCH; i++) {
        iov[i] = (struct iovec){nat->in + (size_t)i * NET_FRAME_MAX, NET_FRAME_MAX};
        message[i].msg_hdr.msg_iov = &iov[i];
        message[i].msg_hdr.msg_iovlen = 1;
    }
    got = recvmmsg(nat->fd, message, NAT_BATCH, MSG_DONTWAIT, NULL);
    if (got < 0) {
        nat->closed = errno != EAGAIN && errno != EINTR;
        return;
    }
    for (int i = 0; i < got; i++) {
        if (message[i].msg_len == 0) {
            nat->closed = true;
            return;
        }
        slirp_input(nat->slirp, iov[i].iov_base, (int)message[i].msg_len);
    }
}

/* ---- what libslirp asks of us ---- */

static void nat_guest_error(const char *text, void *opaque)
{
    struct nat *nat = opaque;

    log_limited(&nat->log, "nat: %s", text);
}

static int64_t nat_clock_ns(void *opaque)
{
    (void)opaque;
    return (int64_t)clock_monotonic_ns();
}

static void *nat_timer_new(SlirpTimerCb callback, void *callback_opaque, void *opaque)
{
    struct nat *nat = opaque;

    for (unsigned i = 0; i < NAT_TIMERS_MAX; i++) {
        if (!nat->timer[i].used) {
            nat->timer[i] = (struct nat_timer){callback, callback_opaque, -1, true};
            return &nat->timer[i];
        }
    }
    return NULL;
}

static void nat_timer_free(void *timer, void *opaque)
{
    (void)opaque;
    if (timer)
        ((struct nat_timer *)timer)->used = false;
}

static void nat_timer_mod(void *timer, int64_t expires_ms, void *opaque)
{
    (void)opaque;
    if (timer)
        ((struct nat_timer *)timer)->expires_ms = expires_ms;
}

static void nat_fd_ignored(int fd, void *opaque)
{
    (void)fd; /* poll() is given all descriptors each time */
    (void)opaque;
}

static void nat_notify_ignored(void *opaque)
{
    (void)opaque; /* one thread: it is awake */
}

static const SlirpCb nat_callbacks = {
    .send_packet = nat_send_packet,
    .guest_error = nat_guest_error,
    .clock_get_ns = nat_clock_ns,
    .timer_new = nat_timer_new,
    .timer_free = nat_timer_free,
    .timer_mod = nat_timer_mod,
    .register_poll_fd = nat_fd_ignored,
    .unregister_poll_fd = nat_fd_ignored,
    .notify = nat_notify_ignored,
};

/* ---- the loop ---- */

static int nat_poll_add(int fd, int events, void *opaque)
{
    struct nat *nat = opaque;
    short wanted = 0;

    if (nat->poll_count == NAT_POLLS_MAX)
        return -1;
    wanted = (short)(wanted | (events & SLIRP_POLL_IN ? POLLIN : 0));
    wanted = (short)(wanted | (events & SLIRP_POLL_OUT ? POLLOUT : 0));
    wanted = (short)(wanted | (events & SLIRP_POLL_PRI ? POLLPRI : 0));
    nat->poll[nat->poll_count] = (struct pollfd){.fd = fd, .events = wanted};
    return (int)nat->poll_count++;
}

static int nat_poll_events(int index, void *opaque)
{
    struct nat *nat = opaque;
    short got;
    int events = 0;

    if (index < 0 || (unsigned)index >= nat->poll_count)
        return 0;
    got = nat->poll[index].revents;
    events |= got & POLLIN ? SLIRP_POLL_IN : 0;
    events |= got & POLLOUT ? SLIRP_POLL_OUT : 0;
    events |= got & POLLPRI ? SLIRP_POLL_PRI : 0;
    events |= got & POLLERR ? SLIRP_POLL_ERR : 0;
    events |= got & POLLHUP ? SLIRP_POLL_HUP : 0;
    return events;
}

static int64_t now_ms(void)
{
    return (int64_t)(clock_monotonic_ns() / NS_PER_MS);
}

static int nat_timeout_ms(const struct nat *nat, uint32_t timeout_ms)
{
    int64_t now = now_ms(), timeout = timeout_ms > INT32_MAX ? INT32_MAX : (int64_t)timeout_ms;

    for (unsigned i = 0; i < NAT_TIMERS_MAX; i++) {
        const struct nat_timer *timer = &nat->timer[i];

        if (!timer->used || timer->expires_ms < 0)
            continue;
        if (timer->expires_ms - now < timeout)
            timeout = timer->expires_ms > now ? timer->expires_ms - now : 0;
    }
    return (int)timeout;
}

static void nat_timers_run(struct nat *nat)
{
    int64_t now = now_ms();

    for (unsigned i = 0; i < NAT_TIMERS_MAX; i++) {
        struct nat_timer *timer = &nat->timer[i];

        if (!timer->used || timer->expires_ms < 0 || timer->expires_ms > now)
            continue;
        timer->expires_ms = -1;
        timer->callback(timer->opaque);
    }
}

/* While the VM is behind, neither its frames nor the host's sockets are read. */
static void nat_step(struct nat *nat)
{
    bool behind = queue_bytes(&nat->queue) > NAT_HIGH_WATER;
    uint32_t timeout_ms = UINT32_MAX;
    int rc;

    nat->poll_count = 1;
    nat->poll[0] = (struct pollfd){.fd = nat->fd};
    nat->poll[0].events = (short)((behind ? 0 : POLLIN) | (queue_bytes(&nat->queue) ? POLLOUT : 0));
    if (!behind)
        slirp_pollfds_fill(nat->slirp, &timeout_ms, nat_poll_add, nat);
    rc = poll(nat->poll, nat->poll_count, nat_timeout_ms(nat, timeout_ms));
    if (rc < 0 && errno != EINTR)
        nat->closed = true;
    /* First this, since it tells libslirp the time: after a long sleep a packet would otherwise
     * make a socket that counts as expired at once. */
    if (!behind)
        slirp_pollfds_poll(nat->slirp, rc < 0, nat_poll_events, nat);
    if (rc > 0 && (nat->poll[0].revents & (POLLIN | POLLHUP | POLLERR)))
        nat_receive(nat);
    nat_timers_run(nat);
    if (!nat->closed)
        nat_flush(nat);
}

/* ---- starting ---- */

/* The answer that net_user_new() waits for: 0, or 1 and a sentence. */
static int nat_answer(const struct nat *nat, const char *failure)
{
    char answer[400];
    size_t length = 1;

    answer[0] = failure != NULL;
    if (failure)
        length += (size_t)snprintf(answer + 1, sizeof answer - 1, "%s", failure);
    if (length > sizeof answer - 1)
        length = sizeof answer - 1;
    return send(nat->fd, answer, length, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int nat_forward_all(struct nat *nat)
{
    for (unsigned i = 0; i < nat->forward_count; i++) {
        const struct net_hostfwd *forward = &nat->forward[i];
        struct in_addr guest = forward->guest_address;
        char host[INET_ADDRSTRLEN], text[200];

        if (guest.s_addr == INADDR_ANY)
            guest.s_addr = htonl(VM_GUEST);
        if (slirp_add_hostfwd(nat->slirp, forward->udp, forward->host_address, forward->host_port,
                              guest, forward->guest_port) == 0)
            continue;
        snprintf(text, sizeof text, "cannot listen on %s port %u of %s: %s; choose another port",
                 forward->udp ? "UDP" : "TCP", forward->host_port,
                 inet_ntop(AF_INET, &forward->host_address, host, sizeof host), strerror(errno));
        nat_answer(nat, text);
        return -EADDRINUSE;
    }
    return 0;
}

static int nat_start(struct nat *nat)
{
    const SlirpConfig config = {
        .version = 1,
        .in_enabled = true,
        .vnetwork.s_addr = htonl(VM_NETWORK),
        .vnetmask.s_addr = htonl(VM_NETMASK),
        .vhost.s_addr = htonl(VM_GATEWAY),
        .vdhcp_start.s_addr = htonl(VM_GUEST),
        .vnameserver.s_addr = htonl(VM_NAMESERVER),
        .if_mtu = nat->mtu,
        .if_mru = nat->mtu,
    };

    nat->queue.bytes = malloc(NAT_QUEUE_BYTES);
    nat->in = malloc((size_t)NAT_BATCH * NET_FRAME_MAX);
    if (!nat->queue.bytes || !nat->in)
        return -ENOMEM;
    nat->slirp = slirp_new(&config, &nat_callbacks, nat);
    if (!nat->slirp) {
        nat_answer(nat, "libslirp refused its configuration");
        return -EINVAL;
    }
    return nat_forward_all(nat);
}

static int nat_option(struct nat *nat, const char *name, const char *value)
{
    struct error err;

    if (strcmp(name, "--fd") == 0) {
        nat->fd = atoi(value);
        return fcntl(nat->fd, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
    }
    if (strcmp(name, "--mtu") == 0) {
        nat->mtu = (unsigned)atoi(value);
        return nat->mtu >= 576 && nat->mtu <= 65521 ? 0 : -EINVAL; /* libslirp's IF_MTU_MAX */
    }
    if (strcmp(name, "--hostfwd") == 0 && nat->forward_count < NET_HOSTFWD_MAX)
        return net_hostfwd_parse(value, &nat->forward[nat->forward_count++], &err);
    return -EINVAL;
}

static int nat_options(struct nat *nat, int argc, char **argv)
{
    int rc = 0;

    nat->fd = -1;
    nat->mtu = NAT_MTU_DEFAULT;
    for (int i = 1; i < argc && rc == 0; i += 2)
        rc = i + 1 < argc ? nat_option(nat, argv[i], argv[i + 1]) : -EINVAL;
    return nat->fd < 0 ? -EINVAL : rc;
}

/* No right that this process could gain, and neither the terminal's input nor its output. */
static void nat_drop_rights(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    sigset_t none;

    sigemptyset(&none); /* the VM process blocks the signals that it waits for */
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        close(null);
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (chdir("/") < 0)
        log_warn("nat: cannot leave its directory: %s", strerror(errno));
}

static void nat_free(struct nat *nat)
{
    if (nat->slirp)
        slirp_cleanup(nat->slirp);
    free(nat->queue.bytes);
    free(nat->in);
    free(nat);
}

int nat_main(int argc, char **argv)
{
    struct nat *nat = calloc(1, sizeof *nat);
    int status = 1;

    if (!nat)
        return 1;
    if (nat_options(nat, argc, argv) < 0) {
        log_error("nat: this is a part of `freehold run`, which starts it by itself");
        status = 2;
        goto out;
    }
    nat_drop_rights();
    if (nat_start(nat) < 0 || nat_answer(nat, NULL) < 0)
        goto out;
    while (!nat->closed)
        nat_step(nat);
    status = 0;
out:
    nat_free(nat);
    return status;
}
