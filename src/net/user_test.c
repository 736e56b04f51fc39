/* The NAT process for real: DHCP, ARP, UDP to the host's loopback, a port forward. This program is
 * also the NAT: it is started again as `... nat --fd N`. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/test.h"
#include "net/net_user.h"

#define FRAMES_MAX 64

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

/* The guest's side of the port; the loop runs on the test's thread. */
struct host {
    struct loop *loop;
    struct net_port *port;
    unsigned count, downs;
    size_t length[FRAMES_MAX];
    uint8_t frame[FRAMES_MAX][2048];
};

static bool host_receive(void *opaque, const void *frame, size_t length)
{
    struct host *host = opaque;

    if (host->count < FRAMES_MAX && length <= 2048) {
        memcpy(host->frame[host->count], frame, length);
        host->length[host->count++] = length;
    }
    return true;
}

static void host_ignore(void *opaque)
{
    (void)opaque;
}

static void host_link(void *opaque, bool up)
{
    ((struct host *)opaque)->downs += !up;
}

static const struct net_port_user host_user = {host_receive, host_ignore, host_ignore, host_link};

static void loop_end(void *opaque)
{
    loop_stop(opaque);
}

static void host_turn(struct host *host)
{
    struct timer timer;

    timer_init(&timer, host->loop, loop_end, host->loop);
    timer_arm(&timer, clock_monotonic_ns() + 10 * NS_PER_MS);
    if (loop_run(host->loop) < 0)
        host->count = 0;
    timer_cancel(&timer);
}

/* Waits for a frame that `wanted` likes; NULL after two seconds. */
static const uint8_t *host_wait(struct host *host, bool (*wanted)(const uint8_t *frame))
{
    for (unsigned turn = 0; turn < 200; turn++) {
        for (unsigned i = 0; i < host->count; i++) {
            if (wanted(host->frame[i]))
                return host->frame[i];
        }
        host_turn(host);
    }
    return NULL;
}

static bool host_new(struct test *t, struct host *host, const struct net_hostfwd *forward)
{
    const struct net_user_config config = {.hostfwd = forward, .hostfwd_count = forward != NULL};
    struct error err = {0};

    memset(host, 0, sizeof *host);
    if (!CHECK_EQ(t, loop_new(&host->loop), 0))
        return false;
    if (!CHECK_EQ(t, net_user_new(&config, host->loop, &host->port, &err), 0)) {
        printf("%s\n", err.text);
        return false;
    }
    net_port_attach(host->port, &host_user, host);
    return true;
}

static void host_free(struct host *host)
{
    net_port_free(host->port);
    loop_free(host->loop);
}

static void host_send(struct test *t, struct host *host, const uint8_t *frame, size_t length)
{
    struct iovec iov = {(void *)(uintptr_t)frame, length};

    CHECK_EQ(t, net_port_send(host->port, &iov, 1), 0);
    net_port_flush(host->port);
}

static void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value & 0xffff);
}

static unsigned ip_checksum(const uint8_t *header)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < 20; i += 2)
        sum += (unsigned)header[i] << 8 | header[i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    return ~(sum + (sum >> 16)) & 0xffff;
}

/* Ethernet, IPv4 and UDP around `length` bytes at frame + 42. */
static size_t udp_frame(uint8_t *frame, uint32_t from, uint32_t to, unsigned ports[2],
                        unsigned length)
{
    memset(frame, 0xff, 6);
    memcpy(frame + 6, guest_mac, 6);
    put16(frame + 12, 0x0800);
    memset(frame + 14, 0, 28);
    frame[14] = 0x45;
    put16(frame + 16, 28 + length);
    frame[22] = 64;
    frame[23] = 17;
    put32(frame + 26, from);
    put32(frame + 30, to);
    put16(frame + 24, ip_checksum(frame + 14));
    put16(frame + 34, ports[0]);
    put16(frame + 36, ports[1]);
    put16(frame + 38, 8 + length);
    return 42 + length;
}

static bool is_udp(const uint8_t *frame)
{
    return frame[12] == 8 && frame[13] == 0 && frame[23] == 17;
}

static bool is_arp_reply(const uint8_t *frame)
{
    return frame[12] == 8 && frame[13] == 6 && frame[21] == 2;
}

static bool is_arp_request(const uint8_t *frame)
{
    return frame[12] == 8 && frame[13] == 6 && frame[21] == 1;
}

static bool is_syn(const uint8_t *frame)
{
    return frame[12] == 8 && frame[13] == 0 && frame[23] == 6 && (frame[47] & 2);
}

static void arp_frame(uint8_t frame[42], bool reply, const uint8_t to[6], uint32_t target)
{
    memset(frame, 0xff, 6);
    memcpy(frame + 6, guest_mac, 6);
    put16(frame + 12, 0x0806);
    put16(frame + 14, 1);
    put16(frame + 16, 0x0800);
    frame[18] = 6;
    frame[19] = 4;
    put16(frame + 20, reply ? 2 : 1);
    memcpy(frame + 22, guest_mac, 6);
    put32(frame + 28, 0x0a00020f);
    memcpy(frame + 32, to, 6);
    put32(frame + 38, target);
}

static void test_arp(struct test *t)
{
    static const uint8_t nobody[6];
    const uint8_t *reply;
    struct host host;
    uint8_t frame[42];

    if (!host_new(t, &host, NULL))
        return;
    arp_frame(frame, false, nobody, 0x0a000202);
    host_send(t, &host, frame, sizeof frame);
    reply = host_wait(&host, is_arp_reply);
    if (CHECK(t, reply != NULL))
        CHECK_MEM(t, reply + 28, ((uint8_t[]){10, 0, 2, 2}), 4);
    host_free(&host);
}

/* RFC 2131: a DISCOVER, answered by an OFFER of 10.0.2.15 with router and name server. */
static void test_dhcp(struct test *t)
{
    unsigned ports[2] = {68, 67};
    uint8_t frame[600] = {0}, *bootp = frame + 42;
    const uint8_t *offer;
    struct host host;
    size_t length;

    if (!host_new(t, &host, NULL))
        return;
    length = udp_frame(frame, 0, 0xffffffff, ports, 300);
    bootp[0] = bootp[1] = 1;
    bootp[2] = 6;
    memcpy(bootp + 28, guest_mac, 6);
    memcpy(bootp + 236, "\x63\x82\x53\x63\x35\x01\x01\xff", 8);
    host_send(t, &host, frame, length);
    offer = host_wait(&host, is_udp);
    if (CHECK(t, offer != NULL)) {
        CHECK_EQ(t, offer[42], 2);
        CHECK_MEM(t, offer + 42 + 16, ((uint8_t[]){10, 0, 2, 15}), 4);
    }
    host_free(&host);
}

static int bound_socket(struct test *t, int type, unsigned *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

    CHECK(t, fd >= 0);
    CHECK_EQ(t, bind(fd, (struct sockaddr *)&address, length), 0);
    CHECK_EQ(t, getsockname(fd, (struct sockaddr *)&address, &length), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

/* 10.0.2.2 is the host's loopback; the answer finds its way back. */
static void test_udp(struct test *t)
{
    struct sockaddr_in from;
    struct pollfd wait = {.events = POLLIN};
    socklen_t from_length = sizeof from;
    unsigned ports[2] = {4000, 0};
    uint8_t frame[100];
    const uint8_t *request, *answer;
    struct host host;
    char got[16] = "";
    size_t length;

    if (!host_new(t, &host, NULL))
        return;
    wait.fd = bound_socket(t, SOCK_DGRAM, &ports[1]);
    length = udp_frame(frame, 0x0a00020f, 0x0a000202, ports, 4);
    memcpy(frame + 42, "ping", 4);
    host_send(t, &host, frame, length);
    if (CHECK_EQ(t, poll(&wait, 1, 2000), 1)) {
        CHECK_EQ(t, recvfrom(wait.fd, got, sizeof got, 0, (struct sockaddr *)&from, &from_length),
                 4);
        CHECK_STR(t, got, "ping");
        CHECK_EQ(t, sendto(wait.fd, "pong!", 5, 0, (struct sockaddr *)&from, from_length), 5);
        request = host_wait(&host, is_arp_request); /* it asks for our address first */
        if (CHECK(t, request != NULL)) {
            arp_frame(frame, true, request + 6, 0x0a000202);
            host_send(t, &host, frame, 42);
        }
        answer = host_wait(&host, is_udp);
        if (CHECK(t, answer != NULL))
            CHECK_MEM(t, answer + 42, "pong!", 5);
    }
    close(wait.fd);
    host_free(&host);
}

static unsigned free_port(struct test *t)
{
    unsigned port;

    close(bound_socket(t, SOCK_STREAM, &port));
    return port;
}

/* A connection to the host's port reaches the guest as a SYN to port 22. */
static void test_forward(struct test *t)
{
    struct net_hostfwd forward = {.guest_port = 22};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint8_t frame[42];
    const uint8_t *request, *syn;
    struct host host;
    int fd;

    forward.host_port = (uint16_t)free_port(t);
    forward.host_address.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(forward.host_port);
    if (!host_new(t, &host, &forward))
        return;
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(t, connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    request = host_wait(&host, is_arp_request);
    if (request) {
        arp_frame(frame, true, request + 6, 0x0a000202);
        host_send(t, &host, frame, sizeof frame);
    }
    syn = host_wait(&host, is_syn);
    if (CHECK(t, syn != NULL))
        CHECK_EQ(t, syn[36] << 8 | syn[37], 22);
    close(fd);
    host_free(&host);
}

static void test_port_in_use(struct test *t)
{
    struct net_hostfwd forward = {.guest_port = 22};
    const struct net_user_config config = {.hostfwd = &forward, .hostfwd_count = 1};
    struct net_port *port;
    struct error err = {0};
    struct loop *loop;
    unsigned taken;
    int fd = bound_socket(t, SOCK_STREAM, &taken);

    CHECK_EQ(t, listen(fd, 1), 0);
    forward.host_port = (uint16_t)taken;
    forward.host_address.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_EQ(t, loop_new(&loop), 0);
    CHECK_EQ(t, -net_user_new(&config, loop, &port, &err), EADDRINUSE);
    CHECK(t, strstr(err.text, "cannot listen on TCP port") != NULL);
    loop_free(loop);
    close(fd);
}

/* The NAT of this program: a process in a session of its own whose second word is "nat". */
static pid_t nat_pid(void)
{
    struct dirent *entry;
    DIR *processes = opendir("/proc");
    pid_t found = 0;

    while (processes && !found && (entry = readdir(processes)) != NULL) {
        char path[300], own[200] = "", other[200] = "";
        pid_t pid = atoi(entry->d_name);

        snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
        if (pid <= 0 || pid == getpid() || readlink("/proc/self/exe", own, sizeof own - 1) < 0 ||
            readlink(path, other, sizeof other - 1) < 0)
            continue;
        if (strcmp(own, other) == 0 && getsid(pid) != getsid(0))
            found = pid;
    }
    if (processes)
        closedir(processes);
    return found;
}

/* The VM process blocks signals for its main thread; the NAT must not inherit that. When it is
 * gone, the card's cable is out. */
static void test_nat_killed(struct test *t)
{
    struct host host;
    sigset_t set, old;
    pid_t pid;

    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, &old);
    if (host_new(t, &host, NULL)) {
        pid = nat_pid();
        if (CHECK(t, pid > 0))
            CHECK_EQ(t, kill(pid, SIGTERM), 0);
        for (unsigned turn = 0; turn < 200 && !host.downs; turn++)
            host_turn(&host);
        CHECK_EQ(t, host.downs, 1);
        host_free(&host);
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
}

static void test_no_program(struct test *t)
{
    const struct net_user_config config = {.program = "/nonexistent"};
    struct net_port *port;
    struct error err = {0};
    struct loop *loop;

    CHECK_EQ(t, loop_new(&loop), 0);
    CHECK_EQ(t, -net_user_new(&config, loop, &port, &err), ECHILD);
    CHECK(t, strstr(err.text, "ended at once") != NULL);
    loop_free(loop);
}

static void parse_bad(struct test *t, const char *text)
{
    struct net_hostfwd forward;
    struct error err = {0};

    CHECK_EQ(t, -net_hostfwd_parse(text, &forward, &err), EINVAL);
    CHECK(t, strstr(err.text, text) != NULL);
}

static void test_parse(struct test *t)
{
    static const char *const bad[] = {
        "",           "tcp",           "tcp::22",       "sctp::1-:2",          "tcp::0-:22",
        "tcp::1-:0",  "tcp::65536-:1", "tcp::1-:65536", "tcp:1.2.3:1-:1",      "tcp::1-1.2.3.4.5:1",
        "tcp:22-:22", "tcp::+1-:1",    "tcp::1-:2x",    "udp:host.name:1-:22",
    };
    struct net_hostfwd forward;

    CHECK_EQ(t, net_hostfwd_parse("tcp::2222-:22", &forward, NULL), 0);
    CHECK(t, !forward.udp && forward.host_port == 2222 && forward.guest_port == 22);
    CHECK_EQ(t, forward.host_address.s_addr, 0);
    CHECK_EQ(t, net_hostfwd_parse("udp:127.0.0.1:53-10.0.2.9:5353", &forward, NULL), 0);
    CHECK(t, forward.udp && forward.host_port == 53 && forward.guest_port == 5353);
    CHECK_EQ(t, ntohl(forward.host_address.s_addr), INADDR_LOOPBACK);
    CHECK_EQ(t, ntohl(forward.guest_address.s_addr), 0x0a000209);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        parse_bad(t, bad[i]);
}

int main(int argc, char **argv)
{
    struct test t = {0};

    if (argc > 1 && strcmp(argv[1], "nat") == 0)
        return nat_main(argc - 1, argv + 1);
    TEST_RUN(&t, test_parse);
    TEST_RUN(&t, test_nat_killed); /* first, while no other NAT of ours is about to end */
    TEST_RUN(&t, test_arp);
    TEST_RUN(&t, test_dhcp);
    TEST_RUN(&t, test_udp);
    TEST_RUN(&t, test_forward);
    TEST_RUN(&t, test_port_in_use);
    TEST_RUN(&t, test_no_program);
    return test_end(&t);
}
