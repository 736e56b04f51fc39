/*
 * A guest's driver in miniature, for tests: a machine of RAM, buses, a PCI root and an I/O thread,
 * and what a driver does with them, through the buses only. No CPU is needed.
 *
 * RAM: 0 to 640K, 768K to 1M, 1M to 64M (three slots that touch or not), and 16M from 4G up.
 */
#ifndef FREEHOLD_DEV_VIRTIO_TESTGUEST_H
#define FREEHOLD_DEV_VIRTIO_TESTGUEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "dev/pci/pci.h"
#include "dev/virtio/devices.h"
#include "dev/virtio/spec.h"
#include "mem/bus.h"
#include "mem/mem.h"

#define GUEST_LOW_END   UINT64_C(0xa0000)
#define GUEST_RAM_END   UINT64_C(0x4000000)
#define GUEST_HIGH      UINT64_C(0x100000000)
#define GUEST_HIGH_END  UINT64_C(0x101000000)
#define GUEST_RINGS     UINT64_C(0x100000) /* 64 KiB per queue */
#define GUEST_BUFFERS   UINT64_C(0x800000)
#define GUEST_MSI_DATAS 64

struct guest {
    struct mem *mem;
    struct bus *mmio, *ports;
    struct loop *loop;
    pthread_t thread;
    struct pci_root *root;
    unsigned msi[GUEST_MSI_DATAS]; /* atomic: messages by their data */
    bool intx[4];                  /* atomic: the lines */
};

/* Whether INTx `line` is asserted. */
static inline bool guest_line(const struct guest *guest, unsigned line)
{
    return __atomic_load_n(&guest->intx[line], __ATOMIC_SEQ_CST);
}

/* How many messages with this data have come. */
static inline unsigned guest_messages(const struct guest *guest, unsigned data)
{
    return __atomic_load_n(&guest->msi[data], __ATOMIC_SEQ_CST);
}

/* 0, or a negative errno; the I/O thread runs afterwards. */
MUST_CHECK int guest_new(struct guest *guest);
void guest_free(struct guest *guest);
void guest_assign(struct guest *guest); /* BARs, as firmware does */

/* A virtio device, found through configuration space. */
struct guest_device {
    struct guest *guest;
    unsigned slot;
    uint64_t common, isr, config, notify; /* addresses of the regions */
    uint32_t notify_multiplier;
    uint64_t features;
};

MUST_CHECK int guest_probe(struct guest *guest, unsigned slot, struct guest_device *device);
uint64_t guest_read(const struct guest_device *device, uint64_t address, unsigned size);
void guest_write(const struct guest_device *device, uint64_t address, unsigned size,
                 uint64_t value);
uint8_t guest_status(const struct guest_device *device);
bool guest_reset(const struct guest_device *device); /* waits; false: never came */
bool guest_wait_status(const struct guest_device *device, uint8_t bits);
/* Up to FEATURES_OK with those of `wanted` that are offered; false when refused. */
bool guest_begin(struct guest_device *device, uint64_t wanted);
void guest_driver_ok(const struct guest_device *device);
void guest_msix(const struct guest_device *device); /* vector i sends data i; enabled */

struct guest_buffer {
    uint64_t gpa;
    uint32_t length;
    bool write; /* by the device */
};

struct guest_ring {
    struct guest_device *device;
    unsigned index;
    uint16_t size;
    bool packed;
    uint64_t desc, driver, used; /* the three areas */
    uint16_t next, used_next;    /* split: indices; packed: slots */
    bool wrap, used_wrap;
    uint16_t slots[256]; /* packed: of the chain with that id */
};

/* Configures and enables a queue at its place in GUEST_RINGS. */
void guest_ring_init(struct guest_device *device, unsigned index, uint16_t size,
                     struct guest_ring *ring);
void guest_ring_enable(struct guest_ring *ring);
/* One raw descriptor, at a slot or inside an indirect table. */
void guest_descriptor(struct guest_ring *ring, uint64_t at, const struct guest_buffer *buffer,
                      uint16_t flags, uint16_t next_or_id);
/* Makes a chain available; the descriptors start at ring->next. */
void guest_post(struct guest_ring *ring, const struct guest_buffer *buffers, unsigned count);
void guest_kick(const struct guest_ring *ring);
/* Waits up to two seconds for the next used buffer; -1, or the bytes written. */
int64_t guest_wait(struct guest_ring *ring);

uint16_t guest_load16(struct guest *guest, uint64_t gpa);
void guest_store16(struct guest *guest, uint64_t gpa, uint16_t value);
/* Fills memory with bytes that differ. */
void guest_pattern_fill(struct guest *guest, uint64_t gpa, uint8_t seed, unsigned length);
void guest_sleep_ms(unsigned ms);

#endif
