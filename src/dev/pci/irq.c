/*
 * How a PCI function interrupts: INTx (shared, level), MSI and MSI-X.
 *
 * Source: PCI 3.0, 6.8 (MSI and MSI-X), 2.2.6 (INTx). Threads: any; `irq_lock` of the function
 * guards its copies of the header's bits and the vector table, and is held while the interrupt
 * controller is called, so that messages and levels arrive in order. The table's content is the
 * guest's: whoever receives an address checks it.
 */
#include <assert.h>
#include <string.h>

#include "base/endian.h"
#include "dev/pci/internal.h"
#include "dev/pci/pci.h"

#define MSI_CONTROL         2u
#define MSI_CONTROL_ENABLE  0x0001u
#define MSI_CONTROL_64BIT   0x0080u
#define MSI_ADDRESS         4u
#define MSI_DATA            12u
#define MSI_SIZE            14u

#define MSIX_CONTROL        2u
#define MSIX_CONTROL_MASK   0x4000u
#define MSIX_CONTROL_ENABLE 0x8000u
#define MSIX_SIZE           12u
#define MSIX_PENDING_OFFSET 0x800u
#define MSIX_BAR_SIZE       0x1000u

/* ---- INTx ---- */

/* With irq_lock held. Lines are shared: one stays up while any slot holds it. */
static void intx_update(struct pci_device *device)
{
    struct pci_root *root = device->root;
    unsigned line = pci_intx_line(device->slot);
    uint32_t bit = UINT32_C(1) << device->slot;
    uint32_t before, after;

    pthread_mutex_lock(&root->intx_lock);
    before = root->intx_slots[line];
    after = device->intx && !device->intx_off ? before | bit : before & ~bit;
    root->intx_slots[line] = after;
    if (!before != !after)
        irq_line_set(&root->config.intx[line], after != 0);
    pthread_mutex_unlock(&root->intx_lock);
}

void pci_irq_intx(struct pci_device *device, bool level)
{
    pthread_mutex_lock(&device->irq_lock);
    if (device->intx != level) {
        __atomic_store_n(&device->intx, level, __ATOMIC_RELAXED);
        intx_update(device);
    }
    pthread_mutex_unlock(&device->irq_lock);
}

/* ---- MSI ---- */

static void msi_send(struct pci_device *device, uint64_t address, uint32_t data)
{
    const struct msi_target *target = &device->root->config.msi;

    if (target->send)
        target->send(target->controller, address, data);
}

void pci_irq_msi(struct pci_device *device)
{
    pthread_mutex_lock(&device->irq_lock);
    if (device->msi_enabled && device->master)
        msi_send(device, device->msi_address, device->msi_data);
    pthread_mutex_unlock(&device->irq_lock);
}

void pci_msi_init(struct pci_device *device)
{
    uint8_t body[MSI_SIZE - 2] = {0};
    uint8_t *writable = device->writable;

    store_le16(body, MSI_CONTROL_64BIT);
    device->msi_offset = pci_capability_add(device, PCI_CAP_MSI, MSI_SIZE, body);
    store_le16(writable + device->msi_offset + MSI_CONTROL, MSI_CONTROL_ENABLE);
    store_le64(writable + device->msi_offset + MSI_ADDRESS, ~UINT64_C(3));
    store_le16(writable + device->msi_offset + MSI_DATA, UINT16_MAX);
}

/* ---- MSI-X ---- */

static bool msix_open(const struct pci_device *device)
{
    return device->msix_enabled && !device->msix_masked && device->master;
}

/* With irq_lock held: sends what had to wait. */
static void msix_deliver(struct pci_device *device, struct pci_msix_vector *vector)
{
    if (!vector->pending || vector->masked || !msix_open(device))
        return;
    vector->pending = false;
    msi_send(device, vector->address, vector->data);
}

void pci_irq_msix(struct pci_device *device, unsigned vector)
{
    if (vector >= device->msix_count)
        return;
    pthread_mutex_lock(&device->irq_lock);
    if (device->msix_enabled) {
        device->msix[vector].pending = true;
        msix_deliver(device, &device->msix[vector]);
    }
    pthread_mutex_unlock(&device->irq_lock);
}

bool pci_irq_msix_enabled(struct pci_device *device)
{
    return __atomic_load_n(&device->msix_enabled, __ATOMIC_ACQUIRE);
}

bool pci_irq_bus_master(struct pci_device *device)
{
    return __atomic_load_n(&device->master, __ATOMIC_ACQUIRE);
}

static uint32_t msix_pending_read(const struct pci_device *device, unsigned word)
{
    uint32_t bits = 0;

    for (unsigned i = 0; i < 32; i++) {
        unsigned vector = word * 32 + i;

        if (vector < device->msix_count && device->msix[vector].pending)
            bits |= UINT32_C(1) << i;
    }
    return bits;
}

/* One aligned 32-bit word of the BAR. */
static uint32_t msix_word_read(const struct pci_device *device, unsigned offset)
{
    const struct pci_msix_vector *vector;

    if (offset >= MSIX_PENDING_OFFSET)
        return msix_pending_read(device, (offset - MSIX_PENDING_OFFSET) / 4);
    if (offset / 16 >= device->msix_count)
        return 0;
    vector = &device->msix[offset / 16];
    switch (offset % 16) {
    case 0:
        return (uint32_t)vector->address;
    case 4:
        return (uint32_t)(vector->address >> 32);
    case 8:
        return vector->data;
    default:
        return vector->masked;
    }
}

static void msix_word_write(struct pci_device *device, unsigned offset, uint32_t value)
{
    struct pci_msix_vector *vector;

    if (offset / 16 >= device->msix_count)
        return; /* also the pending bits, which are read-only */
    vector = &device->msix[offset / 16];
    switch (offset % 16) {
    case 0:
        vector->address = (vector->address & ~UINT64_C(0xffffffff)) | (value & ~3u);
        break;
    case 4:
        vector->address = (uint32_t)vector->address | (uint64_t)value << 32;
        break;
    case 8:
        vector->data = value;
        break;
    default:
        vector->masked = value & 1;
        msix_deliver(device, vector);
        break;
    }
}

static uint64_t msix_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pci_device *device = opaque;
    unsigned word = (unsigned)offset & ~3u;
    unsigned shift = ((unsigned)offset & 3u) * 8;
    uint64_t value;

    if (offset % size)
        return UINT64_MAX;
    pthread_mutex_lock(&device->irq_lock);
    value = msix_word_read(device, word);
    if (size == 8)
        value |= (uint64_t)msix_word_read(device, word + 4) << 32;
    pthread_mutex_unlock(&device->irq_lock);
    value >>= shift;
    return size == 8 ? value : value & ((UINT64_C(1) << (size * 8)) - 1);
}

/* Only whole words are defined (6.8.2); others are dropped. */
static void msix_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_device *device = opaque;

    if (offset % size || size < 4)
        return;
    pthread_mutex_lock(&device->irq_lock);
    msix_word_write(device, (unsigned)offset, (uint32_t)value);
    if (size == 8)
        msix_word_write(device, (unsigned)offset + 4, (uint32_t)(value >> 32));
    pthread_mutex_unlock(&device->irq_lock);
}

static const struct bus_ops msix_ops = {.read = msix_read, .write = msix_write};

void pci_msix_init(struct pci_device *device, unsigned bar, unsigned vectors)
{
    uint8_t body[MSIX_SIZE - 2] = {0};
    struct pci_bar table = {
        .kind = PCI_BAR_MEM32, .size = MSIX_BAR_SIZE, .ops = &msix_ops, .device = device};

    assert(vectors > 0 && vectors <= PCI_MSIX_MAX);
    store_le16(body, (uint16_t)(vectors - 1));
    store_le32(body + 2, bar);
    store_le32(body + 6, MSIX_PENDING_OFFSET | bar);
    device->msix_offset = pci_capability_add(device, PCI_CAP_MSIX, MSIX_SIZE, body);
    device->msix_count = vectors;
    store_le16(device->writable + device->msix_offset + MSIX_CONTROL,
               MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK);
    pci_bar_init(device, bar, &table);
}

/* ---- following the header ---- */

static void msi_follow(struct pci_device *device)
{
    const uint8_t *at = device->config + device->msi_offset;

    if (!device->msi_offset)
        return;
    device->msi_enabled = load_le16(at + MSI_CONTROL) & MSI_CONTROL_ENABLE;
    device->msi_address = load_le64(at + MSI_ADDRESS);
    device->msi_data = load_le16(at + MSI_DATA);
}

static void msix_follow(struct pci_device *device)
{
    uint16_t control;

    if (!device->msix_offset)
        return;
    control = load_le16(device->config + device->msix_offset + MSIX_CONTROL);
    __atomic_store_n(&device->msix_enabled, control & MSIX_CONTROL_ENABLE, __ATOMIC_RELEASE);
    device->msix_masked = control & MSIX_CONTROL_MASK;
    for (unsigned i = 0; i < device->msix_count; i++)
        msix_deliver(device, &device->msix[i]);
}

void pci_irq_update(struct pci_device *device)
{
    uint16_t command = load_le16(device->config + PCI_COMMAND);

    pthread_mutex_lock(&device->irq_lock);
    device->intx_off = command & PCI_COMMAND_INTX_OFF;
    __atomic_store_n(&device->master, command & PCI_COMMAND_MASTER, __ATOMIC_RELEASE);
    intx_update(device);
    msi_follow(device);
    msix_follow(device);
    pthread_mutex_unlock(&device->irq_lock);
}

void pci_irq_reset(struct pci_device *device)
{
    pthread_mutex_lock(&device->irq_lock);
    for (unsigned i = 0; i < PCI_MSIX_MAX; i++)
        device->msix[i] = (struct pci_msix_vector){.masked = true}; /* 6.8.2.9 */
    __atomic_store_n(&device->intx, false, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&device->irq_lock);
    pci_irq_update(device);
}
