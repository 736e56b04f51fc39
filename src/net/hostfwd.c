/*
 * Parses `tcp|udp:[HOST_ADDRESS]:HOST_PORT-[GUEST_ADDRESS]:GUEST_PORT`, as the user types it.
 * Threads: any. Trusts nothing in the text.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/net_user.h"

static int port_parse(const char *text, uint16_t *port)
{
    unsigned long value;
    char *end;

    if (*text < '0' || *text > '9')
        return -EINVAL;
    value = strtoul(text, &end, 10);
    if (*end || value == 0 || value > 65535)
        return -EINVAL;
    *port = (uint16_t)value;
    return 0;
}

/* [ADDRESS]:PORT */
static int endpoint_parse(const char *text, struct in_addr *address, uint16_t *port)
{
    char host[INET_ADDRSTRLEN];
    const char *colon = strchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;

    if (!colon || length >= sizeof host)
        return -EINVAL;
    memcpy(host, text, length);
    host[length] = '\0';
    address->s_addr = INADDR_ANY;
    if (length && inet_pton(AF_INET, host, address) != 1)
        return -EINVAL;
    return port_parse(colon + 1, port);
}

static int hostfwd_parse(char *text, struct net_hostfwd *out)
{
    char *dash = strchr(text, '-');

    if (!dash || (strncmp(text, "tcp:", 4) != 0 && strncmp(text, "udp:", 4) != 0))
        return -EINVAL;
    *dash = '\0';
    out->udp = text[0] == 'u';
    if (endpoint_parse(text + 4, &out->host_address, &out->host_port) < 0)
        return -EINVAL;
    return endpoint_parse(dash + 1, &out->guest_address, &out->guest_port);
}

int net_hostfwd_parse(const char *text, struct net_hostfwd *out, struct error *err)
{
    char copy[128];
    size_t length = strlen(text);
    int rc = -EINVAL;

    memset(out, 0, sizeof *out);
    if (length < sizeof copy) {
        memcpy(copy, text, length + 1);
        rc = hostfwd_parse(copy, out);
    }
    if (rc == 0)
        return 0;
    return error_set(err, rc,
                     "hostfwd=%s is no port forward; write tcp::2222-:22 or "
                     "udp:127.0.0.1:5353-10.0.2.15:53",
                     text);
}
