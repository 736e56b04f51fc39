/*
 * The PCI Express root complex: configuration space (ports CF8/CFC and ECAM), functions with a type
 * 0 header on bus 0, BARs, MSI, MSI-X and INTx.
 *
 * All configuration and BAR values come from the guest and are hostile. A BAR may be moved
 * anywhere: over RAM it is never seen (RAM wins, since engines look for RAM first), over another
 * device the range added last answers, and a reset puts all back.
 *
 * Threads: any. Lock order: the root's config lock -> the device's own lock (the `config` and
 * `command` hooks) -> the function's interrupt lock (leaf; then IOAPIC, LAPIC). Functions whose
 * name begins with pci_irq_ may be called with the device's lock held.
 *
 * Source: PCI Local Bus 3.0, chapter 6; PCI Express Base 3.0, 7.2.2 (ECAM).
 */
#ifndef FREEHOLD_DEV_PCI_PCI_H
#define FREEHOLD_DEV_PCI_PCI_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/irq.h"
#include "mem/bus.h"

#define PCI_ECAM_BASE   UINT64_C(0xe0000000)
#define PCI_ECAM_SIZE   (UINT64_C(256) << 20)
#define PCI_SLOTS       32
#define PCI_BARS        6
#define PCI_CONFIG_SIZE 256
#define PCI_MSIX_MAX    64 /* vectors of one function */

/* Configuration header (PCI 3.0, figure 6-1). */
#define PCI_VENDOR_ID           0x00
#define PCI_DEVICE_ID           0x02
#define PCI_COMMAND             0x04
#define PCI_COMMAND_IO          0x0001u
#define PCI_COMMAND_MEMORY      0x0002u
#define PCI_COMMAND_MASTER      0x0004u
#define PCI_COMMAND_INTX_OFF    0x0400u
#define PCI_STATUS              0x06
#define PCI_STATUS_INTX         0x0008u
#define PCI_STATUS_CAPABILITIES 0x0010u
#define PCI_REVISION            0x08
#define PCI_CLASS               0x09 /* interface, subclass, class */
#define PCI_HEADER_TYPE         0x0e
#define PCI_BAR0                0x10
#define PCI_SUBSYSTEM_VENDOR    0x2c
#define PCI_SUBSYSTEM_ID        0x2e
#define PCI_CAPABILITIES        0x34
#define PCI_INTERRUPT_LINE      0x3c
#define PCI_INTERRUPT_PIN       0x3d

#define PCI_CAP_MSI             0x05
#define PCI_CAP_VENDOR          0x09
#define PCI_CAP_MSIX            0x11

struct pci_root;
struct pci_device;

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_bar {
    enum pci_bar_kind kind;
    uint64_t size; /* a power of two; at least 4 (I/O) or 16 */
    const struct bus_ops *ops;
    void *device;
    uint64_t address; /* as the guest programmed it */
    uint64_t mapped_at;
    bool mapped;
};

struct pci_msix_vector {
    uint64_t address;
    uint32_t data;
    bool masked, pending;
};

struct pci_device_ops {
    /* The command register changed (bus mastering switched on or off). May be NULL. */
    void (*command)(struct pci_device *device, uint16_t command);
    /* An access inside the capability that was registered as `hooked` (see pci_capability_hook):
     * before a read, to fill device->config; after a write. May be NULL. */
    void (*config)(struct pci_device *device, unsigned offset, unsigned size, bool write);
    void (*reset)(struct pci_device *device); /* after the header was reset. May be NULL */
    void (*free)(struct pci_device *device);
};

/* One function. Embed it, fill it with pci_device_init() and the calls below, then pci_root_add().
 */
struct pci_device {
    const struct pci_device_ops *ops;
    const char *name;
    struct pci_root *root;
    unsigned slot;
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t writable[PCI_CONFIG_SIZE]; /* mask of bits that the guest may change */
    uint8_t at_reset[PCI_CONFIG_SIZE]; /* taken by pci_root_add() */
    struct pci_bar bar[PCI_BARS];
    unsigned next_capability, last_capability; /* offsets while the list is being built */
    unsigned hook_start, hook_size;

    pthread_mutex_t irq_lock; /* all below */
    bool intx;                /* the function's wish; gated by the command register */
    bool intx_off, master;    /* copies of command bits */
    unsigned msi_offset;      /* 0: none */
    bool msi_enabled;
    uint64_t msi_address;
    uint32_t msi_data;
    unsigned msix_offset; /* 0: none */
    unsigned msix_count;
    bool msix_enabled, msix_masked;
    struct pci_msix_vector msix[PCI_MSIX_MAX];
};

struct pci_identity {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits: class, subclass, interface */
    uint8_t revision;
    bool intx; /* has an INTA pin */
};

void pci_device_init(struct pci_device *device, const char *name, const struct pci_device_ops *ops,
                     const struct pci_identity *identity);
void pci_device_fini(struct pci_device *device);
void pci_bar_init(struct pci_device *device, unsigned index, const struct pci_bar *bar);

/* Appends a capability of `size` bytes (id and next included; the content after them is copied from
 * `body`, size - 2 bytes) and returns its offset; the list is built before pci_root_add(), and must
 * fit into 256 bytes (our own invariant). Read-only, unless `writable` is set afterwards. */
unsigned pci_capability_add(struct pci_device *device, uint8_t id, unsigned size,
                            const uint8_t *body);
void pci_capability_hook(struct pci_device *device, unsigned offset, unsigned size);
void pci_msi_init(struct pci_device *device);
/* Makes BAR `bar` (32-bit, 4 KiB) hold the MSI-X table at 0 and the pending bits at 0x800. */
void pci_msix_init(struct pci_device *device, unsigned bar, unsigned vectors);

/* Interrupts (device's lock may be held). MSI-X vectors out of range do nothing. */
void pci_irq_intx(struct pci_device *device, bool level);
void pci_irq_msi(struct pci_device *device);
void pci_irq_msix(struct pci_device *device, unsigned vector);
bool pci_irq_msix_enabled(struct pci_device *device);
bool pci_irq_bus_master(struct pci_device *device);

struct pci_root_config {
    struct bus *mmio, *ports;
    struct irq_line intx[4]; /* GSI 16 to 19 on the board pc */
    struct msi_target msi;
    uint64_t ecam_base; /* 0: PCI_ECAM_BASE */
};

/* The host bridge is device 0:0.0. The root claims CF8/CFC and the ECAM window at once. */
MUST_CHECK int pci_root_new(const struct pci_root_config *config, struct pci_root **out);
/* Frees every function through its ops->free; call it when no vCPU or I/O thread runs. */
void pci_root_free(struct pci_root *root);
/* Puts the function into a slot (1 to 31), or any free one for slot 0. -EBUSY, -ENOSPC. The root
 * then owns it. */
MUST_CHECK int pci_root_add(struct pci_root *root, struct pci_device *device, unsigned slot);
struct pci_device *pci_root_find(struct pci_root *root, unsigned slot);
/* As the platform reset does: BARs unprogrammed, decoding off, devices reset. vCPUs are stopped. */
void pci_reset(struct pci_root *root);

/* What firmware would do, for direct kernel boot: gives every BAR an address inside the windows and
 * switches memory and I/O decoding on; sets the interrupt line registers. -ENOSPC. */
struct pci_windows {
    uint64_t mem_base, mem_size;
    uint64_t io_base, io_size;
    unsigned gsi_base; /* of INTA at slot 0: 16 */
};
MUST_CHECK int pci_assign_resources(struct pci_root *root, const struct pci_windows *windows);

/* Configuration access as the ports and ECAM do it (tests, boot code). Unaligned or odd sizes are
 * split; absent functions read as all ones. */
uint32_t pci_config_read(struct pci_root *root, unsigned bdf, unsigned offset, unsigned size);
void pci_config_write(struct pci_root *root, unsigned bdf, unsigned offset, unsigned size,
                      uint32_t value);

#endif
