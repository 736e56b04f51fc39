/*
 * The PCI transport of virtio 1.2 (4.1), modern only.
 *
 * BAR 0 (32-bit, 4 KiB) holds the MSI-X table; BAR 2 (64-bit, 16 KiB) one page each of common
 * configuration, interrupt status, device configuration and doorbells. A doorbell write only
 * signals. Threads: vCPUs' (registers, with the device's lock), workers and the loop (interrupts).
 * All written values are the guest's; accesses of odd size or offset read the bytes that are there
 * and write nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "dev/pci/pci.h"
#include "dev/virtio/virtio.h"

#define REGION_SIZE     0x1000u
#define REGION_COMMON   0u
#define REGION_ISR      1u
#define REGION_DEVICE   2u
#define REGION_NOTIFY   3u
#define REGIONS_BAR     2u
#define REGIONS_SIZE    (4u * REGION_SIZE)
#define MSIX_BAR        0u
#define NOTIFY_MULTIPLY 4u

/* 4.1.4: the types of the vendor capability. */
#define CAP_COMMON 1u
#define CAP_NOTIFY 2u
#define CAP_ISR    3u
#define CAP_DEVICE 4u
#define CAP_PCI    5u

/* Offsets inside the vendor capability. */
#define CAP_BAR    4u
#define CAP_OFFSET 8u
#define CAP_LENGTH 12u
#define CAP_DATA   16u

/* 4.1.4.3: the common configuration. */
#define COMMON_DEVICE_FEATURE_SELECT 0x00u
#define COMMON_DEVICE_FEATURE        0x04u
#define COMMON_DRIVER_FEATURE_SELECT 0x08u
#define COMMON_DRIVER_FEATURE        0x0cu
#define COMMON_CONFIG_VECTOR         0x10u
#define COMMON_NUM_QUEUES            0x12u
#define COMMON_STATUS                0x14u
#define COMMON_GENERATION            0x15u
#define COMMON_QUEUE_SELECT          0x16u
#define COMMON_QUEUE_SIZE            0x18u
#define COMMON_QUEUE_VECTOR          0x1au
#define COMMON_QUEUE_ENABLE          0x1cu
#define COMMON_QUEUE_NOTIFY_OFF      0x1eu
#define COMMON_QUEUE_DESC            0x20u
#define COMMON_QUEUE_DRIVER          0x28u
#define COMMON_QUEUE_DEVICE          0x30u
#define COMMON_QUEUE_NOTIFY_DATA     0x38u
#define COMMON_QUEUE_RESET           0x3au
#define COMMON_SIZE                  0x3cu

#define ISR_QUEUE                    1u
#define ISR_CONFIG                   2u

struct virtio_pci {
    struct pci_device pci;
    struct virtio_device *device;

    /* With the device's lock. */
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    uint16_t config_vector;
    uint8_t isr;

    unsigned access_cap; /* the PCI configuration access capability (4.1.4.9) */
};

/* ---- interrupts ---- */

static void isr_raise(struct virtio_pci *vpci, uint8_t bit)
{
    vpci->isr |= bit;
    pci_irq_intx(&vpci->pci, true);
}

static void vpci_queue_interrupt(void *opaque, unsigned queue)
{
    struct virtio_pci *vpci = opaque;

    if (pci_irq_msix_enabled(&vpci->pci))
        pci_irq_msix(&vpci->pci, vpci->device->queue[queue].msix_vector);
    else
        isr_raise(vpci, ISR_QUEUE);
}

static void vpci_config_interrupt(void *opaque)
{
    struct virtio_pci *vpci = opaque;

    if (pci_irq_msix_enabled(&vpci->pci))
        pci_irq_msix(&vpci->pci, vpci->config_vector);
    else
        isr_raise(vpci, ISR_CONFIG);
}

static bool vpci_may_run(void *opaque)
{
    struct virtio_pci *vpci = opaque;

    return pci_irq_bus_master(&vpci->pci);
}

static void vpci_transport_reset(void *opaque)
{
    struct virtio_pci *vpci = opaque;

    vpci->device_feature_select = vpci->driver_feature_select = 0;
    vpci->queue_select = 0;
    vpci->config_vector = VIRTIO_NO_VECTOR;
    vpci->isr = 0;
    pci_irq_intx(&vpci->pci, false);
}

static const struct virtio_transport_ops vpci_transport_ops = {
    .queue_interrupt = vpci_queue_interrupt,
    .config_interrupt = vpci_config_interrupt,
    .may_run = vpci_may_run,
    .reset = vpci_transport_reset,
};

/* Reading the status clears it and lets the line go (4.1.4.5). */
static uint8_t isr_take(struct virtio_pci *vpci)
{
    uint8_t isr = vpci->isr;

    vpci->isr = 0;
    pci_irq_intx(&vpci->pci, false);
    return isr;
}

/* ---- the common configuration ---- */

static struct virtq *selected_queue(struct virtio_pci *vpci)
{
    struct virtio_device *device = vpci->device;

    return vpci->queue_select < device->queue_count ? &device->queue[vpci->queue_select] : NULL;
}

static uint32_t feature_word(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

static void common_fill_queue(const struct virtio_pci *vpci, const struct virtq *queue,
                              uint8_t *image)
{
    store_le16(image + COMMON_QUEUE_SIZE, queue->size);
    store_le16(image + COMMON_QUEUE_VECTOR, queue->msix_vector);
    store_le16(image + COMMON_QUEUE_ENABLE, queue->enabled);
    store_le16(image + COMMON_QUEUE_NOTIFY_OFF, vpci->queue_select);
    store_le64(image + COMMON_QUEUE_DESC, queue->desc_gpa);
    store_le64(image + COMMON_QUEUE_DRIVER, queue->driver_gpa);
    store_le64(image + COMMON_QUEUE_DEVICE, queue->device_gpa);
    store_le16(image + COMMON_QUEUE_RESET, queue->resetting);
}

static void common_fill(struct virtio_pci *vpci, uint8_t image[COMMON_SIZE])
{
    const struct virtio_device *device = vpci->device;
    const struct virtq *queue = selected_queue(vpci);

    memset(image, 0, COMMON_SIZE);
    store_le32(image + COMMON_DEVICE_FEATURE_SELECT, vpci->device_feature_select);
    store_le32(image + COMMON_DEVICE_FEATURE,
               feature_word(device->features, vpci->device_feature_select));
    store_le32(image + COMMON_DRIVER_FEATURE_SELECT, vpci->driver_feature_select);
    store_le32(image + COMMON_DRIVER_FEATURE,
               feature_word(device->driver_features, vpci->driver_feature_select));
    store_le16(image + COMMON_CONFIG_VECTOR, vpci->config_vector);
    store_le16(image + COMMON_NUM_QUEUES, (uint16_t)device->queue_count);
    image[COMMON_STATUS] = device->status;
    image[COMMON_GENERATION] = device->generation;
    store_le16(image + COMMON_QUEUE_SELECT, vpci->queue_select);
    if (queue)
        common_fill_queue(vpci, queue, image); /* else its size reads as 0: no such queue */
}

static void driver_feature_write(struct virtio_pci *vpci, uint32_t value)
{
    struct virtio_device *device = vpci->device;
    unsigned shift = 32 * vpci->driver_feature_select;

    if (vpci->driver_feature_select >= 2 || (device->status & VIRTIO_STATUS_FEATURES_OK))
        return;
    device->driver_features &= ~(UINT64_C(0xffffffff) << shift);
    device->driver_features |= (uint64_t)value << shift;
}

/* A vector that is not there reads back as "none" (4.1.5.1.2). */
static uint16_t vector_checked(const struct virtio_pci *vpci, uint64_t value)
{
    return value < vpci->pci.msix_count ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

static void address_write(uint64_t *address, unsigned part, unsigned size, uint64_t value)
{
    if (size == 8)
        *address = value;
    else if (part == 0)
        *address = (*address & ~UINT64_C(0xffffffff)) | (uint32_t)value;
    else
        *address = (uint32_t)*address | value << 32;
}

/* The ring's shape can't change while it is live (4.1.4.3.2): such writes are ignored. */
static void queue_shape_write(struct virtq *queue, unsigned offset, unsigned size, uint64_t value)
{
    unsigned part = offset & 4;

    if (queue->enabled || queue->resetting)
        return;
    switch (offset & ~4u) {
    case COMMON_QUEUE_SIZE:
        queue->size = (uint16_t)value;
        break;
    case COMMON_QUEUE_DESC:
        address_write(&queue->desc_gpa, part, size, value);
        break;
    case COMMON_QUEUE_DRIVER:
        address_write(&queue->driver_gpa, part, size, value);
        break;
    case COMMON_QUEUE_DEVICE:
        address_write(&queue->device_gpa, part, size, value);
        break;
    }
}

static void common_write_queue(struct virtio_pci *vpci, unsigned offset, unsigned size,
                               uint64_t value)
{
    struct virtq *queue = selected_queue(vpci);

    if (!queue || vpci->device->resetting)
        return;
    switch (offset) {
    case COMMON_QUEUE_VECTOR:
        queue->msix_vector = vector_checked(vpci, value);
        break;
    case COMMON_QUEUE_ENABLE:
        if (value == 1)
            virtio_queue_enable(vpci->device, queue);
        break;
    case COMMON_QUEUE_RESET:
        if (value == 1)
            virtio_queue_reset_request(vpci->device, queue);
        break;
    default:
        queue_shape_write(queue, offset, size, value);
        break;
    }
}

/* The natural width of the register at an offset, 0 for none or read-only. */
static unsigned common_width(unsigned offset)
{
    switch (offset) {
    case COMMON_STATUS:
        return 1;
    case COMMON_CONFIG_VECTOR:
    case COMMON_QUEUE_SELECT:
    case COMMON_QUEUE_SIZE:
    case COMMON_QUEUE_VECTOR:
    case COMMON_QUEUE_ENABLE:
    case COMMON_QUEUE_RESET:
        return 2;
    case COMMON_DEVICE_FEATURE_SELECT:
    case COMMON_DRIVER_FEATURE_SELECT:
    case COMMON_DRIVER_FEATURE:
    case COMMON_QUEUE_DESC:
    case COMMON_QUEUE_DESC + 4:
    case COMMON_QUEUE_DRIVER:
    case COMMON_QUEUE_DRIVER + 4:
    case COMMON_QUEUE_DEVICE:
    case COMMON_QUEUE_DEVICE + 4:
        return 4;
    default:
        return 0;
    }
}

static bool common_is_address(unsigned offset)
{
    return offset == COMMON_QUEUE_DESC || offset == COMMON_QUEUE_DRIVER ||
           offset == COMMON_QUEUE_DEVICE;
}

static void common_write(struct virtio_pci *vpci, unsigned offset, unsigned size, uint64_t value)
{
    if (size != common_width(offset) && !(size == 8 && common_is_address(offset)))
        return;
    switch (offset) {
    case COMMON_DEVICE_FEATURE_SELECT:
        vpci->device_feature_select = (uint32_t)value;
        break;
    case COMMON_DRIVER_FEATURE_SELECT:
        vpci->driver_feature_select = (uint32_t)value;
        break;
    case COMMON_DRIVER_FEATURE:
        driver_feature_write(vpci, (uint32_t)value);
        break;
    case COMMON_CONFIG_VECTOR:
        vpci->config_vector = vector_checked(vpci, value);
        break;
    case COMMON_STATUS:
        virtio_status_write(vpci->device, (uint8_t)value);
        break;
    case COMMON_QUEUE_SELECT:
        vpci->queue_select = (uint16_t)value;
        break;
    default:
        common_write_queue(vpci, offset, size, value);
        break;
    }
}

/* ---- the regions of BAR 2 ---- */

/* `size` bytes at `offset` of an image; what is past its end reads as zeroes. */
static uint64_t image_read(const uint8_t *image, uint64_t image_size, uint64_t offset,
                           unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size && offset + i < image_size; i++)
        value |= (uint64_t)image[offset + i] << (8 * i);
    return value;
}

static uint64_t device_config_read(struct virtio_device *device, uint64_t offset, unsigned size)
{
    uint8_t image[256] = {0};

    device->ops->config_read(device, image);
    return image_read(image, device->config_size, offset, size);
}

static void device_config_write(struct virtio_device *device, uint64_t offset, unsigned size,
                                uint64_t value)
{
    uint8_t bytes[8];

    if (!device->ops->config_write || offset >= device->config_size ||
        size > device->config_size - offset)
        return;
    store_le64(bytes, value);
    device->ops->config_write(device, (uint32_t)offset, size, bytes);
}

static uint64_t region_read(struct virtio_pci *vpci, uint64_t offset, unsigned size)
{
    uint64_t at = offset % REGION_SIZE;
    uint8_t image[COMMON_SIZE];

    switch (offset / REGION_SIZE) {
    case REGION_COMMON:
        common_fill(vpci, image);
        return image_read(image, sizeof image, at, size);
    case REGION_ISR:
        return at == 0 ? isr_take(vpci) : 0;
    case REGION_DEVICE:
        return device_config_read(vpci->device, at, size);
    default:
        return 0;
    }
}

static uint64_t vpci_read(void *opaque, uint64_t offset, unsigned size)
{
    struct virtio_pci *vpci = opaque;
    uint64_t value;

    pthread_mutex_lock(&vpci->device->lock);
    value = region_read(vpci, offset, size);
    pthread_mutex_unlock(&vpci->device->lock);
    return value;
}

static void vpci_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_pci *vpci = opaque;
    unsigned at = (unsigned)(offset % REGION_SIZE);

    if (offset / REGION_SIZE == REGION_NOTIFY) {
        virtio_doorbell(vpci->device, at / NOTIFY_MULTIPLY);
        return;
    }
    pthread_mutex_lock(&vpci->device->lock);
    if (offset / REGION_SIZE == REGION_COMMON)
        common_write(vpci, at, size, value);
    else if (offset / REGION_SIZE == REGION_DEVICE)
        device_config_write(vpci->device, at, size, value);
    pthread_mutex_unlock(&vpci->device->lock);
}

static const struct bus_ops vpci_bar_ops = {.read = vpci_read, .write = vpci_write};

/* ---- PCI configuration ---- */

/* The access capability: a window onto the BAR for firmware that can't reach it. Its registers are
 * as hostile as any. */
static void vpci_config(struct pci_device *pci, unsigned offset, unsigned size, bool write)
{
    struct virtio_pci *vpci = (struct virtio_pci *)pci;
    uint8_t *cap = pci->config + vpci->access_cap;
    uint32_t at = load_le32(cap + CAP_OFFSET), length = load_le32(cap + CAP_LENGTH);

    if (offset + size <= vpci->access_cap + CAP_DATA || offset > vpci->access_cap + CAP_DATA)
        return;
    if (cap[CAP_BAR] != REGIONS_BAR || (length != 1 && length != 2 && length != 4) || at % length ||
        at >= REGIONS_SIZE)
        return;
    if (write)
        vpci_write(vpci, at, length, load_le32(cap + CAP_DATA) & (UINT32_MAX >> (32 - 8 * length)));
    else
        store_le32(cap + CAP_DATA, (uint32_t)vpci_read(vpci, at, length));
}

static void vpci_command(struct pci_device *pci, uint16_t command)
{
    struct virtio_pci *vpci = (struct virtio_pci *)pci;

    if (!(command & PCI_COMMAND_MASTER))
        return;
    for (unsigned i = 0; i < vpci->device->queue_count; i++)
        virtio_doorbell(vpci->device, i); /* what was rung meanwhile */
}

static void vpci_reset(struct pci_device *pci)
{
    virtio_device_reset(((struct virtio_pci *)pci)->device);
}

static void vpci_free(struct pci_device *pci)
{
    struct virtio_pci *vpci = (struct virtio_pci *)pci;

    virtio_device_free(vpci->device);
    pci_device_fini(pci);
    free(vpci);
}

static const struct pci_device_ops vpci_ops = {
    .command = vpci_command,
    .config = vpci_config,
    .reset = vpci_reset,
    .free = vpci_free,
};

/* struct virtio_pci_cap and, for doorbells, the multiplier after it. */
static unsigned vpci_capability(struct virtio_pci *vpci, uint8_t type, unsigned region,
                                uint32_t length)
{
    uint8_t cap[20] = {0};
    unsigned size = type == CAP_NOTIFY || type == CAP_PCI ? 20 : 16;

    cap[2] = (uint8_t)size;
    cap[3] = type;
    cap[CAP_BAR] = type == CAP_PCI ? 0 : REGIONS_BAR;
    store_le32(cap + CAP_OFFSET, region * REGION_SIZE);
    store_le32(cap + CAP_LENGTH, length);
    if (type == CAP_NOTIFY)
        store_le32(cap + CAP_DATA, NOTIFY_MULTIPLY);
    return pci_capability_add(&vpci->pci, PCI_CAP_VENDOR, size, cap + 2);
}

static void vpci_capabilities(struct virtio_pci *vpci)
{
    uint8_t *writable = vpci->pci.writable;
    unsigned cap;

    vpci_capability(vpci, CAP_COMMON, REGION_COMMON, COMMON_SIZE);
    vpci_capability(vpci, CAP_ISR, REGION_ISR, 1);
    if (vpci->device->config_size)
        vpci_capability(vpci, CAP_DEVICE, REGION_DEVICE, vpci->device->config_size);
    vpci_capability(vpci, CAP_NOTIFY, REGION_NOTIFY, vpci->device->queue_count * NOTIFY_MULTIPLY);
    cap = vpci_capability(vpci, CAP_PCI, 0, 0);
    vpci->access_cap = cap;
    writable[cap + CAP_BAR] = 0xff;
    memset(writable + cap + CAP_OFFSET, 0xff, 12); /* offset, length and data */
    pci_capability_hook(&vpci->pci, cap, 20);
}

static uint32_t class_code(uint16_t type)
{
    switch (type) {
    case VIRTIO_TYPE_NET:
        return 0x020000;
    case VIRTIO_TYPE_BLOCK:
        return 0x010000;
    case VIRTIO_TYPE_CONSOLE:
        return 0x078000;
    default:
        return 0xff0000;
    }
}

static void vpci_build(struct virtio_pci *vpci, struct virtio_device *device)
{
    const struct pci_identity identity = {
        .vendor = 0x1af4,
        .device = (uint16_t)(0x1040 + device->type), /* 4.1.2 */
        .subsystem_vendor = 0x1af4,
        .subsystem = 0x1100,
        .class_code = class_code(device->type),
        .revision = 1,
        .intx = true,
    };
    const struct pci_bar regions = {
        .kind = PCI_BAR_MEM64, .size = REGIONS_SIZE, .ops = &vpci_bar_ops, .device = vpci};

    pci_device_init(&vpci->pci, device->name, &vpci_ops, &identity);
    vpci->device = device;
    pci_bar_init(&vpci->pci, REGIONS_BAR, &regions);
    vpci_capabilities(vpci);
    pci_msix_init(&vpci->pci, MSIX_BAR, device->queue_count + 1);
    vpci->config_vector = VIRTIO_NO_VECTOR;
    device->transport = vpci;
    device->transport_ops = &vpci_transport_ops;
}

int virtio_pci_new(struct virtio_device *device, struct pci_root *root, unsigned slot,
                   struct error *err)
{
    struct virtio_pci *vpci = calloc(1, sizeof *vpci);
    int rc;

    if (!vpci) {
        virtio_device_free(device);
        return error_set(err, -ENOMEM, "no memory for a PCI device");
    }
    vpci_build(vpci, device);
    rc = pci_root_add(root, &vpci->pci, slot);
    if (rc < 0) {
        error_set(err, rc, "cannot add %s: PCI slot %u is taken or none is free; use fewer devices",
                  device->name, slot);
        vpci_free(&vpci->pci);
    }
    return rc;
}
