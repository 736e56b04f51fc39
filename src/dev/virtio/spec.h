/* Numbers of the virtio specification, version 1.2. */
#ifndef FREEHOLD_DEV_VIRTIO_SPEC_H
#define FREEHOLD_DEV_VIRTIO_SPEC_H

#include <stdint.h>

#define VIRTIO_BIT(n) (UINT64_C(1) << (n))

/* 2.1 Device status */
#define VIRTIO_STATUS_ACKNOWLEDGE 0x01u
#define VIRTIO_STATUS_DRIVER      0x02u
#define VIRTIO_STATUS_DRIVER_OK   0x04u
#define VIRTIO_STATUS_FEATURES_OK 0x08u
#define VIRTIO_STATUS_NEEDS_RESET 0x40u
#define VIRTIO_STATUS_FAILED      0x80u

/* 6 Reserved feature bits */
#define VIRTIO_F_INDIRECT_DESC VIRTIO_BIT(28)
#define VIRTIO_F_EVENT_IDX     VIRTIO_BIT(29)
#define VIRTIO_F_VERSION_1     VIRTIO_BIT(32)
#define VIRTIO_F_RING_PACKED   VIRTIO_BIT(34)
#define VIRTIO_F_RING_RESET    VIRTIO_BIT(40)

/* 2.7.5, 2.8.13 Descriptors: 16 bytes */
#define VIRTQ_DESC_SIZE            16u
#define VIRTQ_DESC_F_NEXT          0x0001u
#define VIRTQ_DESC_F_WRITE         0x0002u
#define VIRTQ_DESC_F_INDIRECT      0x0004u
#define VIRTQ_DESC_F_AVAIL         0x0080u
#define VIRTQ_DESC_F_USED          0x8000u

#define VIRTQ_AVAIL_F_NO_INTERRUPT 1u
#define VIRTQ_USED_F_NO_NOTIFY     1u

/* 2.8.14 Event suppression structure of packed rings */
#define VIRTQ_EVENT_ENABLE  0u
#define VIRTQ_EVENT_DISABLE 1u
#define VIRTQ_EVENT_DESC    2u

#define VIRTIO_NO_VECTOR    0xffffu

/* 5 Device types */
#define VIRTIO_TYPE_NET     1u
#define VIRTIO_TYPE_BLOCK   2u
#define VIRTIO_TYPE_CONSOLE 3u
#define VIRTIO_TYPE_RNG     4u

#endif
