/*
 * The virtio devices and how a board plugs them in:
 *
 *     struct virtio_device *disk;
 *     virtio_blk_new(&config, &disk, err);
 *     virtio_pci_new(disk, root, 0, err);     // the PCI root owns it from here on, also on error
 */
#ifndef FREEHOLD_DEV_VIRTIO_DEVICES_H
#define FREEHOLD_DEV_VIRTIO_DEVICES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"
#include "block/block.h"
#include "dev/pci/pci.h"
#include "mem/mem.h"
#include "net/net_port.h"

struct virtio_device;

/* Every device takes its work off the vCPU: blk has workers of its own, the others use the loop. */
struct virtio_blk_config {
    struct mem *mem;
    struct loop *loop;
    struct block *disk; /* stays the caller's; closed after the device is freed */
    const char *serial; /* at most 20 bytes, or NULL */
    unsigned queues;    /* 0: one */
    unsigned workers;   /* requests at once; 0: four */
};
MUST_CHECK int virtio_blk_new(const struct virtio_blk_config *config, struct virtio_device **out,
                              struct error *err);

struct virtio_net_config {
    struct mem *mem;
    struct loop *loop;
    struct net_port *port; /* becomes the device's, freed with it */
    uint8_t mac[6];        /* all zero: 52:54:00 and three bytes from the host's random source */
};
MUST_CHECK int virtio_net_new(const struct virtio_net_config *config, struct virtio_device **out,
                              struct error *err);

struct virtio_console_config {
    struct mem *mem;
    struct loop *loop;
    /* What the guest writes; on the loop's thread, no lock held. Returns how many bytes were taken;
     * the rest stays in the guest's buffers until virtio_console_output_resume(). */
    size_t (*output)(void *opaque, const void *bytes, size_t length);
    /* The guest has room for input again, after a short virtio_console_input(). May be NULL. */
    void (*input_wanted)(void *opaque);
    void *opaque;
};
MUST_CHECK int virtio_console_new(const struct virtio_console_config *config,
                                  struct virtio_device **out, struct error *err);
/* Input for the guest; on the loop's thread. Returns how many bytes were taken. */
size_t virtio_console_input(struct virtio_device *device, const void *bytes, size_t length);
/* Output has room again; on the loop's thread. */
void virtio_console_output_resume(struct virtio_device *device);

struct virtio_rng_config {
    struct mem *mem;
    struct loop *loop;
};
MUST_CHECK int virtio_rng_new(const struct virtio_rng_config *config, struct virtio_device **out,
                              struct error *err);

void virtio_device_free(struct virtio_device *device); /* one that no transport owns */

/* Puts the device on PCI (slot 0: any free one). */
MUST_CHECK int virtio_pci_new(struct virtio_device *device, struct pci_root *root, unsigned slot,
                              struct error *err);

#endif
