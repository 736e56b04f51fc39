/*
 * Hostile guests: what every test here needs. A machine with all four devices, a driver for each
 * that behaves, and the question that each attack ends with: does the device work after a reset?
 */
#ifndef FREEHOLD_TESTS_HOSTILE_H
#define FREEHOLD_TESTS_HOSTILE_H

#include <stdint.h>

#include "base/test.h"
#include "block/block.h"
#include "dev/virtio/testguest.h"

#define SLOT_BLK      1
#define SLOT_NET      2
#define SLOT_CONSOLE  3
#define SLOT_RNG      4
#define HOSTILE_SLOTS 4

#define DISK_BYTES    (4u << 20)
#define HEADER        GUEST_BUFFERS
#define STATUS        (GUEST_BUFFERS + 0x1000)
#define DATA          (GUEST_BUFFERS + 0x10000)

#define ALL_RING_FEATURES                                                                          \
    (VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_RESET | VIRTIO_BIT(9))

struct hostile {
    struct guest guest;
    struct block *disk;
    int peer; /* the other end of the network cable */
    struct virtio_device *console;
    struct guest_device device[HOSTILE_SLOTS + 1]; /* by slot */
    struct guest_ring ring;                        /* of the device under attack */
    char path[40];
};

bool hostile_new(struct test *t, struct hostile *h);
void hostile_free(struct hostile *h);

/* Resets a device and brings its queue 0 up (with ring size 16); blk and rng can then be asked. */
bool hostile_start(struct test *t, struct hostile *h, unsigned slot, uint64_t features);

/* Every device is reset, started and does its work: split, then packed. */
void hostile_check_alive(struct test *t, struct hostile *h);

/* The device noticed: NEEDS_RESET is set soon. */
void hostile_check_refused(struct test *t, struct hostile *h, unsigned slot);

/* A disk request through h->ring; the status byte or -1. */
int hostile_disk(struct hostile *h, uint32_t type, uint64_t sector, struct guest_buffer *data);

/* xorshift: the same numbers in every run. */
static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#endif
