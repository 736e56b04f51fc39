/*
 * Random guests: registers, configuration space and rings get random but repeatable values. Usage:
 * fuzz [SEED [SECONDS]]. Each round ends with all devices working after a reset.
 */
#include "hostile.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/endian.h"

#define SECONDS_DEFAULT 6
#define ROUNDS_MAX      100000
#define STEPS           300

struct fuzz {
    struct hostile h;
    uint64_t state;
    uint64_t features;
};

static uint64_t below(struct fuzz *f, uint64_t limit)
{
    return random_next(&f->state) % limit;
}

/* Numbers that matter more often than chance would have it. */
static uint64_t number(struct fuzz *f)
{
    static const uint64_t special[] = {
        0,          1,         2,        0xff,        0xffff, 0x8000, 0x7fff,        UINT32_MAX,
        UINT64_MAX, 0xa0000,   0x100000, GUEST_RINGS, DATA,   HEADER, GUEST_RAM_END, GUEST_HIGH,
        0xe0000000, 0xfee00000};
    uint64_t kind = below(f, 4);

    if (kind == 0)
        return special[below(f, sizeof special / sizeof special[0])];
    if (kind == 1)
        return below(f, 64);
    if (kind == 2)
        return GUEST_RINGS + below(f, 0x40000);
    return random_next(&f->state) >> below(f, 64);
}

static void step_register(struct fuzz *f, const struct guest_device *device)
{
    uint64_t at = below(f, 4) ? below(f, 0x40) : below(f, 0x4000);
    unsigned size = 1u << below(f, 4);

    if (at + size > 0x4000)
        return;
    if (below(f, 2))
        guest_write(device, device->common + at, size, number(f));
    else
        guest_read(device, device->common + at, size);
}

static void step_config(struct fuzz *f, const struct guest_device *device)
{
    unsigned at = (unsigned)below(f, 0x110), size = 1u << below(f, 3);

    if (below(f, 2))
        pci_config_write(f->h.guest.root, device->slot << 3, at, size, (uint32_t)number(f));
    else
        pci_config_read(f->h.guest.root, device->slot << 3, at, size);
}

static void step_ring_bytes(struct fuzz *f)
{
    uint8_t bytes[16];

    store_le64(bytes, number(f));
    store_le64(bytes + 8, random_next(&f->state));
    if (below(f, 2))
        store_le32(bytes + 8, (uint32_t)below(f, 0x10000)); /* a length that may do */
    if (mem_write(f->h.guest.mem,
                  (below(f, 2) ? GUEST_RINGS : GUEST_BUFFERS) + below(f, 0x40000 / 16) * 16, bytes,
                  1 + below(f, 16)) < 0)
        abort();
}

static void step_head(struct fuzz *f, uint64_t base)
{
    struct guest *guest = &f->h.guest;

    guest_store16(guest, base + 0x8004 + below(f, 16) * 2, (uint16_t)below(f, 18));
    guest_store16(guest, base + 0x8002,
                  (uint16_t)(guest_load16(guest, base + 0x8002) + below(f, 3)));
}

/* A descriptor that looks right: mostly good flags, mostly good addresses. */
static void step_descriptor(struct fuzz *f, uint64_t base)
{
    uint8_t raw[16];
    uint16_t flags = (uint16_t)(below(f, 8) | (below(f, 2) ? 0x80 : 0x8000));
    uint16_t next = (uint16_t)below(f, 17);
    bool packed = f->features & VIRTIO_F_RING_PACKED;

    store_le64(raw, below(f, 8) ? GUEST_BUFFERS + below(f, 0x100000) : number(f));
    store_le32(raw + 8, below(f, 8) ? (uint32_t)below(f, 0x2000) : (uint32_t)number(f));
    store_le16(raw + 12, packed ? next : flags);
    store_le16(raw + 14, packed ? flags : next);
    if (mem_write(f->h.guest.mem, base + below(f, 16) * 16, raw, 16) < 0)
        abort();
}

static void step(struct fuzz *f)
{
    const struct guest_device *device = &f->h.device[1 + below(f, HOSTILE_SLOTS)];
    uint64_t queue = below(f, 3), base = GUEST_RINGS + queue * 0x10000;

    switch (below(f, 32)) {
    case 0 ... 2:
        step_register(f, device);
        break;
    case 3:
        step_config(f, device);
        break;
    case 4 ... 6:
        step_ring_bytes(f);
        break;
    case 7 ... 14:
        step_descriptor(f, base);
        break;
    case 15 ... 22:
        step_head(f, base);
        break;
    default:
        guest_write(device, device->notify + queue * 4, 2, queue);
        break;
    }
}

static void round_begin(struct test *t, struct fuzz *f)
{
    f->features = ALL_RING_FEATURES | VIRTIO_BIT(15) | VIRTIO_BIT(0);
    if (below(f, 2))
        f->features |= VIRTIO_F_RING_PACKED;
    if (below(f, 4) == 0)
        f->features &= ~VIRTIO_F_EVENT_IDX;
    for (unsigned slot = 1; slot <= HOSTILE_SLOTS; slot++) {
        CHECK(t, guest_begin(&f->h.device[slot], f->features));
        guest_msix(&f->h.device[slot]);
        for (unsigned queue = 0; queue < 3; queue++)
            guest_ring_init(&f->h.device[slot], queue, 16, &f->h.ring);
        guest_driver_ok(&f->h.device[slot]);
    }
}

/* Frames for the card and bytes for the console come meanwhile. */
static void round_input(struct fuzz *f)
{
    static const uint8_t frame[600];

    if (send(f->h.peer, frame, 14 + below(f, 500), MSG_DONTWAIT) < 0)
        (void)frame; /* the cable is full: fine */
}

static unsigned fuzz_run(struct test *t, struct fuzz *f, uint64_t seconds)
{
    uint64_t end = clock_monotonic_ns() + seconds * NS_PER_SECOND;
    unsigned rounds = 0;

    while (rounds < ROUNDS_MAX && clock_monotonic_ns() < end && !t->bad_checks) {
        round_begin(t, f);
        for (unsigned i = 0; i < STEPS; i++) {
            step(f);
            if (i % 16 == 0)
                round_input(f);
        }
        hostile_check_alive(t, &f->h);
        rounds++;
    }
    return rounds;
}

int main(int argc, char **argv)
{
    static struct fuzz fuzz;
    struct test t = {0};
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 20261121;
    uint64_t seconds = argc > 2 ? strtoull(argv[2], NULL, 0) : SECONDS_DEFAULT;

    fuzz.state = seed ? seed : 1;
    if (hostile_new(&t, &fuzz.h)) {
        unsigned rounds = fuzz_run(&t, &fuzz, seconds);

        printf("seed %llu: %u rounds of %u steps\n", (unsigned long long)seed, rounds, STEPS);
        CHECK(&t, rounds > 0);
        hostile_free(&fuzz.h);
    }
    t.failed = t.bad_checks != 0;
    t.passed = !t.failed;
    return test_end(&t);
}
