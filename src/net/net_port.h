/*
 * A network port: the interface between a network card and whatever is at the other end of its
 * cable (the user-mode NAT now, a switch later). Frames are Ethernet frames without FCS.
 *
 * Nothing is dropped on the way: a send that finds no room is refused and `writable` says later
 * when to try again; a receiver that has no room refuses, and the port keeps the frame (and reads
 * no more) until net_port_resume().
 *
 * Threads: all calls and all callbacks on the loop's thread. The peer's frames are hostile.
 */
#ifndef FREEHOLD_NET_NET_PORT_H
#define FREEHOLD_NET_NET_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/loop.h"

#define NET_FRAME_MIN 14
#define NET_FRAME_MAX 65550 /* a 65,535 byte packet, Ethernet and one VLAN header, rounded */

struct net_port;

/* The card's side. */
struct net_port_user {
    bool (*receive)(void *opaque, const void *frame, size_t length); /* false: no room now */
    void (*received)(void *opaque); /* the end of a batch of receive() calls */
    void (*writable)(void *opaque); /* a refused send may be tried again */
    void (*link)(void *opaque, bool up);
};

/* The back end's side. */
struct net_port_ops {
    int (*send)(struct net_port *port, const struct iovec *iov, unsigned count);
    void (*flush)(struct net_port *port);
    void (*resume)(struct net_port *port);
    void (*free)(struct net_port *port);
};

struct net_port {
    const struct net_port_ops *ops;
    const struct net_port_user *user;
    void *user_opaque;
    bool link_up;
    bool checksums_valid; /* the peer makes its frames itself: their checksums need no check */
    uint16_t mtu;         /* 0: 1500 */
};

/* Plugs the card in (NULL: out). Before the loop runs, or on its thread. */
void net_port_attach(struct net_port *port, const struct net_port_user *user, void *opaque);

/* Sends one frame gathered from `iov`; it may wait in a batch until net_port_flush(). 0, or -EAGAIN
 * (not taken: wait for `writable`), -EMSGSIZE (shorter or longer than a frame may be), -EPIPE (link
 * down). */
MUST_CHECK int net_port_send(struct net_port *port, const struct iovec *iov, unsigned count);
void net_port_flush(struct net_port *port);
void net_port_resume(struct net_port *port);
void net_port_free(struct net_port *port);

/* A port whose cable is a connected SOCK_SEQPACKET or SOCK_DGRAM unix socket, one frame a message.
 * Takes the descriptor. When the peer goes away: link down, said once. */
MUST_CHECK int net_socket_new(struct loop *loop, int fd, const char *name, struct net_port **out);

#endif
