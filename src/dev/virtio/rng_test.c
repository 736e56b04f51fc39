/* The source of entropy, driven through PCI as a guest's driver does. */
#include "dev/virtio/devices.h"

#include <string.h>

#include "base/test.h"
#include "dev/virtio/testguest.h"

#define DATA (GUEST_BUFFERS + 0x10000)

static void test_rng(struct test *t)
{
    const struct guest_buffer in = {DATA, 64, true};
    struct virtio_rng_config config;
    struct virtio_device *rng;
    struct guest guest;
    struct guest_device device;
    struct guest_ring ring;
    uint8_t got[64], zeroes[64] = {0};

    if (!CHECK_EQ(t, guest_new(&guest), 0))
        return;
    config = (struct virtio_rng_config){guest.mem, guest.loop};
    CHECK_EQ(t, virtio_rng_new(&config, &rng, NULL), 0);
    CHECK_EQ(t, virtio_pci_new(rng, guest.root, 5, NULL), 0);
    guest_assign(&guest);
    CHECK_EQ(t, guest_probe(&guest, 5, &device), 0);
    CHECK(t, guest_begin(&device, VIRTIO_F_RING_PACKED));
    guest_ring_init(&device, 0, 8, &ring);
    guest_driver_ok(&device);
    guest_post(&ring, &in, 1);
    guest_kick(&ring);
    CHECK_EQ(t, guest_wait(&ring), 64);
    CHECK_EQ(t, mem_read(guest.mem, DATA, got, 64), 0);
    CHECK(t, memcmp(got, zeroes, 64) != 0);
    guest_free(&guest);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_rng);
    return test_end(&t);
}
