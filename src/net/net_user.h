/*
 * User-mode network: the guest behind a NAT that is a process of its own (`freehold nat`), so that
 * the VM process needs no network rights. 10.0.2.0/24, gateway and host loopback 10.0.2.2, DNS
 * 10.0.2.3, first guest address 10.0.2.15.
 */
#ifndef FREEHOLD_NET_NET_USER_H
#define FREEHOLD_NET_NET_USER_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"
#include "net/net_port.h"

#define NET_HOSTFWD_MAX 64

/* hostfwd=tcp|udp:[HOST_ADDRESS]:HOST_PORT-[GUEST_ADDRESS]:GUEST_PORT */
struct net_hostfwd {
    bool udp;
    struct in_addr host_address; /* 0.0.0.0: all */
    uint16_t host_port;
    struct in_addr guest_address; /* 0.0.0.0: the guest's own, 10.0.2.15 */
    uint16_t guest_port;
};

/* Parses what stands after `hostfwd=`. -EINVAL with its sentence. */
MUST_CHECK int net_hostfwd_parse(const char *text, struct net_hostfwd *out, struct error *err);

struct net_user_config {
    const struct net_hostfwd *hostfwd;
    unsigned hostfwd_count;
    uint16_t mtu;        /* 0: the default */
    const char *program; /* NULL: this program (/proc/self/exe), run as `nat --fd N ...` */
};

/* Starts the NAT process and waits until it serves, or says why it can't (a host port in use). */
MUST_CHECK int net_user_new(const struct net_user_config *config, struct loop *loop,
                            struct net_port **out, struct error *err);

/* The NAT process itself: `freehold nat --fd N [--mtu N] [--hostfwd SPEC]...`, argv[0] is "nat".
 * Returns the exit status when the VM's end of the socket closes. */
int nat_main(int argc, char **argv);

#endif
