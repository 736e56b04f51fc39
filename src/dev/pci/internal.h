/* What the parts of the PCI code share: functions (pci.c), interrupts (irq.c), the root (root.c).
 */
#ifndef FREEHOLD_DEV_PCI_INTERNAL_H
#define FREEHOLD_DEV_PCI_INTERNAL_H

#include "dev/pci/pci.h"

struct pci_root {
    struct pci_root_config config;
    pthread_mutex_t lock; /* configuration space of every function, and `address` */
    uint32_t address;     /* the CF8 register */
    struct pci_device *device[PCI_SLOTS];
    struct pci_device bridge;

    pthread_mutex_t intx_lock;
    uint32_t intx_slots[4]; /* which slots hold each line up */
};

/* All with root->lock held; the access lies inside the header's 256 bytes. */
uint32_t pci_device_read(struct pci_device *device, unsigned offset, unsigned size);
void pci_device_write(struct pci_device *device, unsigned offset, unsigned size, uint32_t value);
void pci_device_reset(struct pci_device *device);
void pci_bars_update(struct pci_device *device);
void pci_bars_unmap(struct pci_device *device);

/* Follow the header after a write to it. */
void pci_irq_update(struct pci_device *device);
void pci_irq_reset(struct pci_device *device);

static inline unsigned pci_intx_line(unsigned slot)
{
    return slot & 3u; /* INTA of every slot; PCI-to-PCI Bridge 1.2, 9.1 */
}

static inline bool ranges_touch(unsigned a, unsigned a_size, unsigned b, unsigned b_size)
{
    return a < b + b_size && b < a + a_size;
}

#endif
