/*
 * The paravirtual clock (see pvclock.h). Layouts and the version protocol: Linux
 * Documentation/virt/kvm/x86/msr.rst.
 *
 * One base for all vCPUs (a host TSC value, at which system time is 0) and one factor, so their
 * clocks agree and the "TSC stable" flag holds. Nothing is ever read back from guest memory.
 * Threads: any, under `lock`, a leaf.
 */
#include "machine/pvclock.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/endian.h"

#define MSR_WALL_CLOCK_OLD  0x11u
#define MSR_SYSTEM_TIME_OLD 0x12u
#define MSR_WALL_CLOCK      0x4b564d00u
#define MSR_SYSTEM_TIME     0x4b564d01u

#define TIME_INFO_BYTES     32
#define WALL_CLOCK_BYTES    12
#define FLAG_TSC_STABLE     1

struct pvclock_vcpu_state {
    uint64_t msr_system_time; /* address | enabled */
    uint64_t tsc_offset;
    uint32_t version;
};

struct pvclock_state {
    uint64_t base_tsc; /* host TSC at system time 0 */
    uint64_t msr_wall_clock;
    uint32_t wall_version;
};

struct pvclock {
    pthread_mutex_t lock;
    struct pvclock_config config;
    struct pvclock_state state;
    uint32_t tsc_mul; /* system ns = (ticks << tsc_shift) * tsc_mul >> 32 */
    int8_t tsc_shift;
    struct pvclock_vcpu_state vcpu[];
};

/* ---- `lock` held ---- */

/* Brings 10^9 / hz into [1/2, 1) times a power of two. */
static void pvclock_factor(struct pvclock *clock)
{
    unsigned __int128 numerator = NS_PER_SECOND, denominator = clock->config.tsc->hz;

    clock->tsc_shift = 0;
    for (; numerator >= denominator; clock->tsc_shift++)
        denominator <<= 1;
    for (; numerator * 2 < denominator; clock->tsc_shift--)
        numerator <<= 1;
    clock->tsc_mul = (uint32_t)((numerator << 32) / denominator);
}

/* What a guest computes, here with the host's TSC. */
static uint64_t pvclock_system_ns(const struct pvclock *clock)
{
    uint64_t ticks = clock->config.tsc->read() - clock->state.base_tsc;

    ticks = clock->tsc_shift >= 0 ? ticks << clock->tsc_shift : ticks >> -clock->tsc_shift;
    return (uint64_t)((unsigned __int128)ticks * clock->tsc_mul >> 32);
}

/* Version odd, content, version even: a guest that reads in between reads again. */
static int versioned_write(struct mem *mem, uint64_t gpa, uint8_t *bytes, size_t length)
{
    uint32_t version = load_le32(bytes);
    uint8_t odd[4];
    int rc;

    store_le32(odd, version - 1);
    rc = mem_write(mem, gpa, odd, sizeof odd);
    if (rc == 0)
        rc = mem_write(mem, gpa + 4, bytes + 4, length - 4);
    if (rc == 0)
        rc = mem_write(mem, gpa, bytes, 4);
    return rc;
}

/* An area outside RAM gets no clock; the guest sees that in its memory. */
static void time_info_write(struct pvclock *clock, struct pvclock_vcpu_state *vcpu)
{
    uint8_t info[TIME_INFO_BYTES] = {0};

    if (!(vcpu->msr_system_time & 1))
        return;
    vcpu->version += 2;
    store_le32(info, vcpu->version);
    store_le64(info + 8, clock->state.base_tsc + vcpu->tsc_offset);
    store_le64(info + 16, 0); /* system time at the base */
    store_le32(info + 24, clock->tsc_mul);
    info[28] = (uint8_t)clock->tsc_shift;
    info[29] = FLAG_TSC_STABLE;
    if (versioned_write(clock->config.mem, vcpu->msr_system_time & ~UINT64_C(1), info,
                        sizeof info) < 0)
        vcpu->msr_system_time &= ~UINT64_C(1);
}

/* The wall-clock time at system time 0. */
static void wall_clock_write(struct pvclock *clock)
{
    uint8_t wall[WALL_CLOCK_BYTES];
    uint64_t at_base_ns = clock_realtime_ns() - pvclock_system_ns(clock);

    clock->state.wall_version += 2;
    store_le32(wall, clock->state.wall_version);
    store_le32(wall + 4, (uint32_t)(at_base_ns / NS_PER_SECOND));
    store_le32(wall + 8, (uint32_t)(at_base_ns % NS_PER_SECOND));
    if (versioned_write(clock->config.mem, clock->state.msr_wall_clock, wall, sizeof wall) < 0)
        clock->state.msr_wall_clock = 0;
}

/* ---- interface ---- */

int pvclock_msr_read(struct pvclock *clock, unsigned vcpu, uint32_t index, uint64_t *value)
{
    int rc = 0;

    if (vcpu >= clock->config.vcpu_count)
        return -ENOENT;
    pthread_mutex_lock(&clock->lock);
    if (index == MSR_WALL_CLOCK || index == MSR_WALL_CLOCK_OLD)
        *value = clock->state.msr_wall_clock;
    else if (index == MSR_SYSTEM_TIME || index == MSR_SYSTEM_TIME_OLD)
        *value = clock->vcpu[vcpu].msr_system_time;
    else
        rc = -ENOENT;
    pthread_mutex_unlock(&clock->lock);
    return rc;
}

int pvclock_msr_write(struct pvclock *clock, unsigned vcpu, uint32_t index, uint64_t value)
{
    bool wall = index == MSR_WALL_CLOCK || index == MSR_WALL_CLOCK_OLD;

    if (vcpu >= clock->config.vcpu_count ||
        (!wall && index != MSR_SYSTEM_TIME && index != MSR_SYSTEM_TIME_OLD))
        return -ENOENT;
    if (value & (wall ? 3 : 2)) /* 4-byte aligned; bit 0 of the system time enables */
        return -EINVAL;
    pthread_mutex_lock(&clock->lock);
    if (wall) {
        clock->state.msr_wall_clock = value;
        wall_clock_write(clock);
    } else {
        clock->vcpu[vcpu].msr_system_time = value;
        time_info_write(clock, &clock->vcpu[vcpu]);
    }
    pthread_mutex_unlock(&clock->lock);
    return 0;
}

void pvclock_tsc_offset_set(struct pvclock *clock, unsigned vcpu, uint64_t offset)
{
    if (vcpu >= clock->config.vcpu_count)
        return;
    pthread_mutex_lock(&clock->lock);
    clock->vcpu[vcpu].tsc_offset = offset;
    time_info_write(clock, &clock->vcpu[vcpu]);
    pthread_mutex_unlock(&clock->lock);
}

void pvclock_reset(struct pvclock *clock)
{
    pthread_mutex_lock(&clock->lock);
    clock->state.msr_wall_clock = 0;
    for (unsigned i = 0; i < clock->config.vcpu_count; i++)
        clock->vcpu[i].msr_system_time = 0;
    pthread_mutex_unlock(&clock->lock);
}

int pvclock_new(const struct pvclock_config *config, struct pvclock **out)
{
    struct pvclock *clock;

    if (config->tsc->hz == 0)
        return -EINVAL;
    clock = calloc(1, sizeof *clock + config->vcpu_count * sizeof clock->vcpu[0]);
    if (!clock)
        return -ENOMEM;
    pthread_mutex_init(&clock->lock, NULL);
    clock->config = *config;
    clock->state.base_tsc = config->tsc->read();
    pvclock_factor(clock);
    *out = clock;
    return 0;
}

void pvclock_free(struct pvclock *clock)
{
    if (!clock)
        return;
    pthread_mutex_destroy(&clock->lock);
    free(clock);
}
