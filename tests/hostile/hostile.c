/* See hostile.h. */
#include "hostile.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"

static size_t console_take(void *opaque, const void *bytes, size_t length)
{
    (void)opaque;
    (void)bytes;
    return length;
}

static bool disk_add(struct test *t, struct hostile *h)
{
    struct block_config block = {0};
    struct virtio_blk_config config = {.serial = "hostile"};
    struct virtio_device *device;
    int fd;

    strcpy(h->path, "hostile-disk-XXXXXX");
    fd = mkstemp(h->path);
    if (!CHECK(t, fd >= 0) || !CHECK_EQ(t, ftruncate(fd, DISK_BYTES), 0))
        return false;
    close(fd);
    block.path = h->path;
    if (!CHECK_EQ(t, block_open(&block, &h->disk, NULL), 0))
        return false;
    config.mem = h->guest.mem;
    config.loop = h->guest.loop;
    config.disk = h->disk;
    config.queues = 2;
    return CHECK_EQ(t, virtio_blk_new(&config, &device, NULL), 0) &&
           CHECK_EQ(t, virtio_pci_new(device, h->guest.root, SLOT_BLK, NULL), 0);
}

/* The other end of the cable is a socket that nobody reads: the worst of peers. */
static bool net_add(struct test *t, struct hostile *h)
{
    struct virtio_net_config config = {.mem = h->guest.mem, .loop = h->guest.loop};
    struct virtio_device *device;
    int fd[2];

    if (!CHECK_EQ(t, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd), 0) ||
        !CHECK_EQ(t, net_socket_new(h->guest.loop, fd[0], "hostile", &config.port), 0))
        return false;
    h->peer = fd[1];
    return CHECK_EQ(t, virtio_net_new(&config, &device, NULL), 0) &&
           CHECK_EQ(t, virtio_pci_new(device, h->guest.root, SLOT_NET, NULL), 0);
}

static bool others_add(struct test *t, struct hostile *h)
{
    struct virtio_console_config console = {
        .mem = h->guest.mem, .loop = h->guest.loop, .output = console_take};
    struct virtio_rng_config rng = {h->guest.mem, h->guest.loop};
    struct virtio_device *device;

    return CHECK_EQ(t, virtio_console_new(&console, &h->console, NULL), 0) &&
           CHECK_EQ(t, virtio_pci_new(h->console, h->guest.root, SLOT_CONSOLE, NULL), 0) &&
           CHECK_EQ(t, virtio_rng_new(&rng, &device, NULL), 0) &&
           CHECK_EQ(t, virtio_pci_new(device, h->guest.root, SLOT_RNG, NULL), 0);
}

static bool probe_all(struct test *t, struct hostile *h)
{
    for (unsigned slot = 1; slot <= HOSTILE_SLOTS; slot++) {
        if (!CHECK_EQ(t, guest_probe(&h->guest, slot, &h->device[slot]), 0))
            return false;
    }
    return true;
}

bool hostile_new(struct test *t, struct hostile *h)
{
    memset(h, 0, sizeof *h);
    if (!CHECK_EQ(t, guest_new(&h->guest), 0) || !disk_add(t, h) || !net_add(t, h) ||
        !others_add(t, h))
        return false;
    guest_assign(&h->guest);
    return probe_all(t, h);
}

void hostile_free(struct hostile *h)
{
    guest_free(&h->guest);
    block_close(h->disk);
    close(h->peer);
    unlink(h->path);
}

bool hostile_start(struct test *t, struct hostile *h, unsigned slot, uint64_t features)
{
    struct guest_device *device = &h->device[slot];

    if (!CHECK(t, guest_begin(device, features)))
        return false;
    guest_ring_init(device, 0, 16, &h->ring);
    guest_driver_ok(device);
    return true;
}

int hostile_disk(struct hostile *h, uint32_t type, uint64_t sector, struct guest_buffer *data)
{
    struct guest_buffer chain[3] = {{HEADER, 16, false}, {STATUS, 1, true}};
    uint8_t header[16] = {0}, status = 0xee;
    unsigned count = 2;

    store_le32(header, type);
    store_le64(header + 8, sector);
    if (mem_write(h->guest.mem, HEADER, header, 16) < 0)
        return -1;
    if (data) {
        chain[count++] = chain[1];
        chain[1] = *data;
    }
    guest_post(&h->ring, chain, count);
    guest_kick(&h->ring);
    if (guest_wait(&h->ring) < 0 || mem_read(h->guest.mem, STATUS, &status, 1) < 0)
        return -1;
    return status;
}

static void disk_alive(struct test *t, struct hostile *h, uint64_t features)
{
    struct guest_buffer out = {DATA, 4096, false}, in = {DATA + 0x2000, 4096, true};
    uint32_t want = 0x600df00d, got = 0;

    if (!hostile_start(t, h, SLOT_BLK, features))
        return;
    CHECK_EQ(t, mem_write(h->guest.mem, DATA, &want, 4), 0);
    CHECK_EQ(t, hostile_disk(h, 1, 100, &out), 0);
    CHECK_EQ(t, hostile_disk(h, 0, 100, &in), 0);
    CHECK_EQ(t, mem_read(h->guest.mem, DATA + 0x2000, &got, 4), 0);
    CHECK_EQ(t, got, want);
}

static void rng_alive(struct test *t, struct hostile *h, uint64_t features)
{
    struct guest_buffer in = {DATA, 32, true};

    if (!hostile_start(t, h, SLOT_RNG, features))
        return;
    guest_post(&h->ring, &in, 1);
    guest_kick(&h->ring);
    CHECK_EQ(t, guest_wait(&h->ring), 32);
}

/* Both send on queue 1; an Ethernet frame behind its header, or text. */
static void sender_alive(struct test *t, struct hostile *h, unsigned slot, uint64_t features)
{
    struct guest_buffer out = {DATA, 100, false};

    if (!CHECK(t, guest_begin(&h->device[slot], features)))
        return;
    guest_ring_init(&h->device[slot], 1, 16, &h->ring);
    guest_driver_ok(&h->device[slot]);
    guest_post(&h->ring, &out, 1);
    guest_kick(&h->ring);
    CHECK_EQ(t, guest_wait(&h->ring), 0);
}

/* Reads the cable empty, so that frames sent by an attack do not stand in the way. */
static void cable_drain(struct hostile *h)
{
    static uint8_t frame[NET_FRAME_MAX];

    while (recv(h->peer, frame, sizeof frame, MSG_DONTWAIT) > 0)
        continue;
}

void hostile_check_alive(struct test *t, struct hostile *h)
{
    const uint64_t ways[] = {ALL_RING_FEATURES, ALL_RING_FEATURES | VIRTIO_F_RING_PACKED};

    pci_reset(h->guest.root);
    guest_assign(&h->guest);
    if (!probe_all(t, h))
        return;
    for (unsigned way = 0; way < 2; way++) {
        cable_drain(h);
        disk_alive(t, h, ways[way]);
        rng_alive(t, h, ways[way]);
        sender_alive(t, h, SLOT_NET, ways[way]);
        sender_alive(t, h, SLOT_CONSOLE, ways[way]);
    }
}

void hostile_check_refused(struct test *t, struct hostile *h, unsigned slot)
{
    CHECK(t, guest_wait_status(&h->device[slot], VIRTIO_STATUS_NEEDS_RESET));
}
