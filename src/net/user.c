/*
 * Starts the NAT process and makes a port of its socket.
 *
 * The NAT's first message says whether it serves: the byte 0, or the byte 1 and a sentence. It ends
 * when our end of the socket closes, so there is nobody to kill; it is a grandchild, so there is
 * nobody to wait for.
 * Threads: before the VM's threads start.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/net_user.h"

#define START_TIMEOUT_MS 10000
#define SOCKET_BYTES     (1 << 20)
#define NAT_FD           3
#define ARGUMENTS_MAX    (8 + 2 * NET_HOSTFWD_MAX)

/* argv of the NAT, with the strings it points to. */
struct arguments {
    char *argv[ARGUMENTS_MAX];
    unsigned count;
    char text[NET_HOSTFWD_MAX + 2][80];
};

static void argument_add(struct arguments *arguments, const char *text)
{
    arguments->argv[arguments->count++] = (char *)(uintptr_t)text;
}

static void hostfwd_print(const struct net_hostfwd *forward, char text[80])
{
    char host[INET_ADDRSTRLEN] = "", guest[INET_ADDRSTRLEN] = "";

    if (forward->host_address.s_addr != INADDR_ANY)
        inet_ntop(AF_INET, &forward->host_address, host, sizeof host);
    if (forward->guest_address.s_addr != INADDR_ANY)
        inet_ntop(AF_INET, &forward->guest_address, guest, sizeof guest);
    snprintf(text, 80, "%s:%s:%u-%s:%u", forward->udp ? "udp" : "tcp", host, forward->host_port,
             guest, forward->guest_port);
}

static void arguments_build(const struct net_user_config *config, struct arguments *arguments)
{
    unsigned texts = 0;

    arguments->count = 0;
    argument_add(arguments, "freehold");
    argument_add(arguments, "nat");
    argument_add(arguments, "--fd");
    snprintf(arguments->text[texts], sizeof arguments->text[0], "%d", NAT_FD);
    argument_add(arguments, arguments->text[texts++]);
    if (config->mtu) {
        snprintf(arguments->text[texts], sizeof arguments->text[0], "%u", config->mtu);
        argument_add(arguments, "--mtu");
        argument_add(arguments, arguments->text[texts++]);
    }
    for (unsigned i = 0; i < config->hostfwd_count; i++) {
        hostfwd_print(&config->hostfwd[i], arguments->text[texts]);
        argument_add(arguments, "--hostfwd");
        argument_add(arguments, arguments->text[texts++]);
    }
    arguments->argv[arguments->count] = NULL;
}

/* In the child: only async-signal-safe calls. Forks again, so that the NAT is nobody's zombie. */
static _Noreturn void child_run(const char *program, char **argv, int fd)
{
    pid_t pid = fork();

    if (pid != 0)
        _exit(pid < 0);
    setsid(); /* a Ctrl-C at the terminal is not for the NAT */
    if (fd == NAT_FD) {
        if (fcntl(fd, F_SETFD, 0) < 0)
            _exit(127);
    } else if (dup2(fd, NAT_FD) < 0) {
        _exit(127);
    }
    execv(program, argv);
    _exit(127);
}

static int nat_spawn(const struct net_user_config *config, int fd)
{
    const char *program = config->program ? config->program : "/proc/self/exe";
    struct arguments *arguments = malloc(sizeof *arguments);
    int status = 0;
    pid_t pid;

    if (!arguments)
        return -ENOMEM;
    arguments_build(config, arguments);
    pid = fork();
    if (pid == 0)
        child_run(program, arguments->argv, fd);
    free(arguments);
    if (pid < 0)
        return -errno;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return status == 0 ? 0 : -ECHILD;
}

/* The NAT's first message. */
static int nat_wait(int fd, struct error *err)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    char answer[400] = "";
    ssize_t got = 0;
    int rc;

    do {
        rc = poll(&poll_fd, 1, START_TIMEOUT_MS);
    } while (rc < 0 && errno == EINTR);
    if (rc > 0)
        got = recv(fd, answer, sizeof answer - 1, 0);
    if (got == 1 && answer[0] == 0)
        return 0;
    if (got > 1 && answer[0] == 1)
        return error_set(err, -EADDRINUSE, "cannot start the user network: %s", answer + 1);
    return error_set(err, -ECHILD, "cannot start the user network: its process (`freehold nat`) %s",
                     rc == 0 ? "does not answer" : "ended at once");
}

static void socket_grow(int fd)
{
    int bytes = SOCKET_BYTES;

    /* As much as the host allows; less is only slower. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

int net_user_new(const struct net_user_config *config, struct loop *loop, struct net_port **out,
                 struct error *err)
{
    int fd[2], rc;

    if (config->hostfwd_count > NET_HOSTFWD_MAX)
        return error_set(err, -E2BIG, "too many port forwards: at most %d", NET_HOSTFWD_MAX);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd) < 0)
        return error_set(err, -errno, "cannot start the user network: %s", strerror(errno));
    socket_grow(fd[0]);
    socket_grow(fd[1]);
    rc = nat_spawn(config, fd[1]);
    close(fd[1]);
    if (rc < 0)
        error_set(err, rc, "cannot start the user network: %s", strerror(-rc));
    else
        rc = nat_wait(fd[0], err);
    if (rc < 0) {
        close(fd[0]);
        return rc;
    }
    rc = net_socket_new(loop, fd[0], "network", out);
    if (rc < 0)
        return error_set(err, rc, "cannot start the user network: %s", strerror(-rc));
    (*out)->mtu = config->mtu;
    (*out)->checksums_valid = true; /* libslirp ends every connection and makes its own packets */
    return 0;
}
