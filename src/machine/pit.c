/*
 * The 8254 interval timer and system control port B (see pit.h). Names: Intel 82C54 datasheet
 * (231244).
 *
 * A channel's count is a function of the monotonic time since it was loaded; nothing ticks. Only
 * channel 0's output is followed by a timer, for IRQ 0. Threads: any, under `lock`. Trusts nothing
 * that the guest writes; intervals have a floor, so that it cannot keep the loop busy.
 */
#include "machine/pit.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/clock.h"
#include "mem/bus_bytes.h"

#define PIT_CHANNELS     3
#define PIT_GATED        2 /* the channel whose gate port 0x61 drives */
#define PIT_PORT_B       0x61
#define PIT_BACKLOG_MAX  8                /* late ticks that are still delivered */
#define PIT_INTERVAL_MIN UINT64_C(100000) /* ns between two interrupts */
#define PIT_REFRESH_NS   UINT64_C(15085)

#define ACCESS_LATCH     0
#define ACCESS_LOW       1
#define ACCESS_HIGH      2
#define ACCESS_BOTH      3

struct pit_channel_state {
    uint8_t mode; /* 0 to 5 */
    uint8_t access;
    bool bcd;
    bool gate;
    bool counting;   /* a count has been loaded (modes 1 and 5: and the gate has risen) */
    bool null_count; /* a control word came, its count has not */
    bool write_high, read_high; /* which byte is next in ACCESS_BOTH */
    uint8_t write_low;
    bool count_latched, status_latched;
    uint16_t latched_count;
    uint8_t latched_status;
    uint32_t reload;    /* 1 to 0x10000 ticks */
    uint64_t start_ns;  /* when it was loaded, pauses taken out */
    uint64_t paused_ns; /* gate low: how far it had come */
};

struct pit_state {
    struct pit_channel_state channel[PIT_CHANNELS];
    uint8_t port_b;     /* bits 0 to 3 as written */
    uint64_t delivered; /* periods of channel 0 that gave their interrupt */
    bool irq_level;
};

struct pit {
    pthread_mutex_t lock;
    struct pit_state state;
    struct timer tick;
    struct pit_config config;
};

/* ---- one channel ---- */

static uint64_t ticks_to_ns(uint64_t ticks)
{
    return muldiv64(ticks, NS_PER_SECOND, PIT_HZ) + 1; /* rounded up: never early */
}

static bool is_periodic(const struct pit_channel_state *channel)
{
    return channel->mode == 2 || channel->mode == 3;
}

/* Modes 1 and 5 start at the gate's rising edge; in the others a low gate pauses. */
static bool is_gate_triggered(const struct pit_channel_state *channel)
{
    return channel->mode == 1 || channel->mode == 5;
}

static uint64_t channel_elapsed(const struct pit_channel_state *channel)
{
    uint64_t ns = channel->paused_ns;

    if (channel->gate || is_gate_triggered(channel))
        ns = clock_monotonic_ns() - channel->start_ns;
    return muldiv64(ns, PIT_HZ, NS_PER_SECOND);
}

static uint16_t channel_count(const struct pit_channel_state *channel)
{
    uint64_t elapsed = channel->counting ? channel_elapsed(channel) : 0;
    uint32_t reload = channel->reload, count, wrap = channel->bcd ? 10000 : 0x10000;

    if (channel->mode == 2)
        count = reload - (uint32_t)(elapsed % reload);
    else if (channel->mode == 3) /* counts by two, twice a period */
        count = reload - (uint32_t)(elapsed * 2 % reload);
    else
        count = (uint32_t)((reload + wrap - elapsed % wrap) % wrap);
    if (!channel->bcd)
        return (uint16_t)count;
    count %= 10000;
    return (uint16_t)(count / 1000 << 12 | count / 100 % 10 << 8 | count / 10 % 10 << 4 |
                      count % 10);
}

static bool channel_output(const struct pit_channel_state *channel)
{
    uint64_t elapsed;

    if (!channel->counting)
        return channel->mode != 0;
    elapsed = channel_elapsed(channel);
    switch (channel->mode) {
    case 0:
    case 1:
        return elapsed >= channel->reload;
    case 2:
        return !channel->gate || elapsed % channel->reload != channel->reload - 1;
    case 3:
        return !channel->gate || elapsed % channel->reload < (channel->reload + 1) / 2;
    default:
        return elapsed != channel->reload;
    }
}

static uint8_t channel_status(const struct pit_channel_state *channel)
{
    return (uint8_t)(channel_output(channel) << 7 | channel->null_count << 6 |
                     channel->access << 4 | channel->mode << 1 | channel->bcd);
}

static void channel_start(struct pit_channel_state *channel)
{
    channel->counting = true;
    channel->start_ns = clock_monotonic_ns();
    channel->paused_ns = 0;
}

/* A full count has been written: 0 means the largest. */
static void channel_load(struct pit_channel_state *channel, uint16_t value)
{
    uint32_t count = value;

    if (channel->bcd)
        count = (value >> 12) * 1000u + ((value >> 8) & 15u) * 100u + ((value >> 4) & 15u) * 10u +
                (value & 15u);
    if (count == 0)
        count = channel->bcd ? 10000 : 0x10000;
    channel->reload = count;
    channel->null_count = false;
    if (!is_gate_triggered(channel))
        channel_start(channel);
}

static void channel_set_gate(struct pit_channel_state *channel, bool gate)
{
    uint64_t now = clock_monotonic_ns();

    if (gate == channel->gate)
        return;
    if (!gate && !is_gate_triggered(channel))
        channel->paused_ns = now - channel->start_ns;
    channel->gate = gate;
    if (!gate)
        return;
    if (is_gate_triggered(channel) || is_periodic(channel)) {
        if (!channel->null_count)
            channel_start(channel);
    } else {
        channel->start_ns = now - channel->paused_ns;
    }
}

static void channel_latch_count(struct pit_channel_state *channel)
{
    if (channel->count_latched)
        return;
    channel->latched_count = channel_count(channel);
    channel->count_latched = true;
}

static void channel_control(struct pit_channel_state *channel, uint8_t value)
{
    channel->access = (value >> 4) & 3;
    channel->mode = (value >> 1) & 7;
    if (channel->mode > 5) /* 6 and 7 are 2 and 3 */
        channel->mode -= 4;
    channel->bcd = value & 1;
    channel->null_count = true;
    channel->counting = false;
    channel->write_high = channel->read_high = false;
    channel->count_latched = channel->status_latched = false;
}

/* Returns whether a count was loaded. */
static bool channel_write(struct pit_channel_state *channel, uint8_t value)
{
    switch (channel->access) {
    case ACCESS_LOW:
        channel_load(channel, value);
        return true;
    case ACCESS_HIGH:
        channel_load(channel, (uint16_t)(value << 8));
        return true;
    default:
        break;
    }
    channel->write_high = !channel->write_high;
    if (channel->write_high) {
        channel->write_low = value;
        return false;
    }
    channel_load(channel, (uint16_t)(value << 8 | channel->write_low));
    return true;
}

static uint8_t channel_read(struct pit_channel_state *channel)
{
    uint16_t count;
    bool high;

    if (channel->status_latched) {
        channel->status_latched = false;
        return channel->latched_status;
    }
    count = channel->count_latched ? channel->latched_count : channel_count(channel);
    high = channel->access == ACCESS_HIGH;
    if (channel->access == ACCESS_BOTH) {
        high = channel->read_high;
        channel->read_high = !high;
    }
    if (high || channel->access != ACCESS_BOTH)
        channel->count_latched = false;
    return (uint8_t)(high ? count >> 8 : count);
}

/* ---- IRQ 0: channel 0's rising edges; `lock` held ---- */

static void irq_set(struct pit *pit, bool level)
{
    if (level == pit->state.irq_level)
        return;
    pit->state.irq_level = level;
    irq_line_set(&pit->config.irq, level);
}

/* The next interrupt's time, from the start of the count; a late one comes after half a period. */
static void tick_arm(struct pit *pit)
{
    const struct pit_channel_state *channel = &pit->state.channel[0];
    uint64_t now = clock_monotonic_ns(), deadline, soonest, period;

    if (!channel->counting || (!is_periodic(channel) && pit->state.delivered > 0)) {
        timer_cancel(&pit->tick);
        return;
    }
    deadline = channel->start_ns + ticks_to_ns((pit->state.delivered + 1) * channel->reload);
    if (pit->state.delivered > 0) {
        period = ticks_to_ns(channel->reload);
        soonest = now + (period / 2 > PIT_INTERVAL_MIN ? period / 2 : PIT_INTERVAL_MIN);
        deadline = deadline > now ? deadline : soonest;
        if (period < PIT_INTERVAL_MIN && deadline < soonest)
            deadline = soonest;
    }
    timer_arm(&pit->tick, deadline);
}

static void tick_deliver(struct pit *pit)
{
    const struct pit_channel_state *channel = &pit->state.channel[0];
    uint64_t due = channel_elapsed(channel) / channel->reload;

    if (due <= pit->state.delivered)
        return; /* the count was loaded anew meanwhile */
    if (due - pit->state.delivered > PIT_BACKLOG_MAX)
        pit->state.delivered = due - PIT_BACKLOG_MAX;
    pit->state.delivered++;
    irq_set(pit, true);
    if (channel->mode != 0) /* mode 0 stays high until it is programmed again */
        irq_set(pit, false);
}

static void tick_expired(void *opaque)
{
    struct pit *pit = opaque;

    pthread_mutex_lock(&pit->lock);
    if (pit->state.channel[0].counting) {
        tick_deliver(pit);
        tick_arm(pit);
    }
    pthread_mutex_unlock(&pit->lock);
}

static void tick_restart(struct pit *pit)
{
    pit->state.delivered = 0;
    irq_set(pit, false);
    tick_arm(pit);
}

/* ---- ports; `lock` held ---- */

static void pit_read_back(struct pit *pit, uint8_t value)
{
    for (unsigned i = 0; i < PIT_CHANNELS; i++) {
        struct pit_channel_state *channel = &pit->state.channel[i];

        if (!(value & (2u << i)))
            continue;
        if (!(value & 0x20))
            channel_latch_count(channel);
        if (!(value & 0x10) && !channel->status_latched) {
            channel->latched_status = channel_status(channel);
            channel->status_latched = true;
        }
    }
}

static void pit_control(struct pit *pit, uint8_t value)
{
    unsigned index = value >> 6;

    if (index == 3) {
        pit_read_back(pit, value);
    } else if (((value >> 4) & 3) == ACCESS_LATCH) {
        channel_latch_count(&pit->state.channel[index]);
    } else {
        channel_control(&pit->state.channel[index], value);
        if (index == 0)
            tick_restart(pit);
    }
}

static uint8_t pit_read8(void *opaque, unsigned reg)
{
    struct pit *pit = opaque;
    uint8_t value = 0xff; /* the control word cannot be read */

    pthread_mutex_lock(&pit->lock);
    if (reg < PIT_CHANNELS)
        value = channel_read(&pit->state.channel[reg]);
    pthread_mutex_unlock(&pit->lock);
    return value;
}

static void pit_write8(void *opaque, unsigned reg, uint8_t value)
{
    struct pit *pit = opaque;

    pthread_mutex_lock(&pit->lock);
    if (reg >= PIT_CHANNELS)
        pit_control(pit, value);
    else if (channel_write(&pit->state.channel[reg], value) && reg == 0)
        tick_restart(pit);
    pthread_mutex_unlock(&pit->lock);
}

/* Bit 4 toggles with each memory refresh, which old delay loops count; bit 5 is channel 2's
 * output. */
static uint8_t port_b_read8(void *opaque, unsigned reg)
{
    struct pit *pit = opaque;
    uint8_t value;

    (void)reg;
    pthread_mutex_lock(&pit->lock);
    value = pit->state.port_b;
    if (clock_monotonic_ns() / PIT_REFRESH_NS % 2)
        value |= 0x10;
    if (channel_output(&pit->state.channel[PIT_GATED]))
        value |= 0x20;
    pthread_mutex_unlock(&pit->lock);
    return value;
}

static void port_b_write8(void *opaque, unsigned reg, uint8_t value)
{
    struct pit *pit = opaque;

    (void)reg;
    pthread_mutex_lock(&pit->lock);
    pit->state.port_b = value & 0x0f;
    channel_set_gate(&pit->state.channel[PIT_GATED], value & 1);
    pthread_mutex_unlock(&pit->lock);
}

#define PIT_OPS(name)                                                                              \
    static uint64_t name##_read(void *pit, uint64_t offset, unsigned size)                         \
    {                                                                                              \
        return bus_bytes_read(pit, offset, size, name##_read8);                                    \
    }                                                                                              \
    static void name##_write(void *pit, uint64_t offset, unsigned size, uint64_t value)            \
    {                                                                                              \
        bus_bytes_write(pit, offset, size, value, name##_write8);                                  \
    }                                                                                              \
    static const struct bus_ops name##_ops = {.read = name##_read, .write = name##_write}

PIT_OPS(pit);
PIT_OPS(port_b);

/* ---- construction ---- */

void pit_reset(struct pit *pit)
{
    pthread_mutex_lock(&pit->lock);
    irq_set(pit, false);
    pit->state = (struct pit_state){0};
    for (unsigned i = 0; i < PIT_CHANNELS; i++) {
        pit->state.channel[i].access = ACCESS_BOTH;
        pit->state.channel[i].mode = 3;
        pit->state.channel[i].gate = i != PIT_GATED;
        pit->state.channel[i].null_count = true;
        pit->state.channel[i].reload = 0x10000;
    }
    timer_cancel(&pit->tick);
    pthread_mutex_unlock(&pit->lock);
}

int pit_new(const struct pit_config *config, struct pit **out)
{
    struct pit *pit = calloc(1, sizeof *pit);
    struct bus_range timers = {"pit", 0x40, 4, &pit_ops, pit};
    struct bus_range port_b = {"port-b", PIT_PORT_B, 1, &port_b_ops, pit};
    int rc;

    if (!pit)
        return -ENOMEM;
    pthread_mutex_init(&pit->lock, NULL);
    pit->config = *config;
    timer_init(&pit->tick, config->loop, tick_expired, pit);
    pit_reset(pit);
    rc = bus_add(config->ports, &timers);
    if (rc == 0)
        rc = bus_add(config->ports, &port_b);
    if (rc < 0)
        pit_free(pit);
    else
        *out = pit;
    return rc;
}

void pit_free(struct pit *pit)
{
    if (!pit)
        return;
    bus_remove(pit->config.ports, 0x40, pit);
    bus_remove(pit->config.ports, PIT_PORT_B, pit);
    timer_cancel(&pit->tick);
    pthread_mutex_destroy(&pit->lock);
    free(pit);
}
