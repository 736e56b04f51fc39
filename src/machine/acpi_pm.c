/*
 * ACPI fixed hardware and the reset control register (see acpi_pm.h).
 *
 * Section numbers are those of ACPI 6.5. Threads: any, under `lock`; sleep, wake and reset are
 * called after it is released. Trusts nothing that the guest writes.
 */
#include "machine/acpi_pm.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/clock.h"
#include "mem/bus_bytes.h"

/* PM1 status and enable (4.8.3.1). */
#define PM1_TIMER   (1u << 0)
#define PM1_GLOBAL  (1u << 5)
#define PM1_POWER   (1u << 8)
#define PM1_SLEEP   (1u << 9)
#define PM1_RTC     (1u << 10)
#define PM1_WAKE    (1u << 15)
#define PM1_ENABLES (PM1_TIMER | PM1_GLOBAL | PM1_POWER | PM1_SLEEP | PM1_RTC)

/* PM1 control, high byte (4.8.3.2.1). */
#define CONTROL_SCI_ENABLED   0x01u
#define CONTROL_LOW_WRITABLE  0x02u
#define CONTROL_TYPE(high)    (((high) >> 2) & 7u)
#define CONTROL_HIGH_WRITABLE 0x1cu
#define CONTROL_SLEEP_ENABLE  0x20u

#define RESET_CPU             (1u << 2)

struct acpi_pm_state {
    uint16_t status, enable;
    uint16_t gpe_status, gpe_enable;
    uint8_t control[2];
    uint8_t reset_control;
    bool asleep;         /* in S3 */
    uint64_t timer_half; /* half periods of the PM timer that TMR_STS has taken notice of */
};

struct acpi_pm {
    pthread_mutex_t lock;
    struct acpi_pm_state state;
    struct timer carry; /* when the PM timer's top bit changes next */
    struct acpi_pm_config config;
};

/* ---- `lock` held ---- */

static unsigned timer_top_bit(const struct acpi_pm *pm)
{
    return pm->config.timer_32bit ? 31 : 23;
}

static uint64_t timer_ticks(void)
{
    return muldiv64(clock_monotonic_ns(), ACPI_PM_TIMER_HZ, NS_PER_SECOND);
}

/* 4.8.3.3: TMR_STS is set whenever the top bit changes. Found out when somebody looks, and by a
 * timer only while the event is enabled. */
static void timer_carry_update(struct acpi_pm *pm)
{
    uint64_t half = timer_ticks() >> timer_top_bit(pm);
    uint64_t next = (half + 1) << timer_top_bit(pm);

    if (half != pm->state.timer_half)
        pm->state.status |= PM1_TIMER;
    pm->state.timer_half = half;
    if (pm->state.enable & PM1_TIMER)
        timer_arm(&pm->carry, muldiv64(next, NS_PER_SECOND, ACPI_PM_TIMER_HZ) + 1);
    else
        timer_cancel(&pm->carry);
}

static void sci_update(struct acpi_pm *pm)
{
    const struct acpi_pm_state *state = &pm->state;

    timer_carry_update(pm);
    irq_line_set(&pm->config.sci, (state->status & state->enable & PM1_ENABLES) ||
                                      (state->gpe_status & state->gpe_enable));
}

/* Whether the machine is to wake now (4.8.3.1): by the power button in any case, by the clock if
 * it may. */
static bool wake_take(struct acpi_pm *pm)
{
    struct acpi_pm_state *state = &pm->state;

    if (!state->asleep || !(state->status & (PM1_POWER | (state->enable & PM1_RTC))))
        return false;
    state->asleep = false;
    state->status |= PM1_WAKE;
    return true;
}

/* ---- events ---- */

static void carry_expired(void *opaque)
{
    struct acpi_pm *pm = opaque;

    pthread_mutex_lock(&pm->lock);
    sci_update(pm);
    pthread_mutex_unlock(&pm->lock);
}

static void fixed_event(struct acpi_pm *pm, uint16_t status)
{
    bool wake;

    pthread_mutex_lock(&pm->lock);
    pm->state.status |= status;
    sci_update(pm);
    wake = wake_take(pm);
    pthread_mutex_unlock(&pm->lock);
    if (wake)
        pm->config.wake(pm->config.opaque);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
    fixed_event(pm, PM1_POWER);
}

void acpi_pm_rtc_alarm(struct acpi_pm *pm)
{
    fixed_event(pm, PM1_RTC);
}

void acpi_pm_gpe(struct acpi_pm *pm, unsigned event)
{
    if (event >= 16)
        return;
    pthread_mutex_lock(&pm->lock);
    pm->state.gpe_status |= (uint16_t)(1u << event);
    sci_update(pm);
    pthread_mutex_unlock(&pm->lock);
}

/* ---- ports ---- */

/* A status register (cleared by writing ones) and its enable register, two bytes each. */
static uint8_t pair_read(uint16_t status, uint16_t enable, unsigned reg)
{
    return (uint8_t)((reg & 2 ? enable : status) >> (8 * (reg & 1)));
}

static void pair_write(uint16_t *status, uint16_t *enable, unsigned reg, uint8_t value)
{
    unsigned shift = 8 * (reg & 1);

    if (reg & 2)
        *enable = (uint16_t)((*enable & ~(0xffu << shift)) | (unsigned)value << shift);
    else
        *status &= (uint16_t) ~((unsigned)value << shift);
}

static uint8_t event_read8(void *opaque, unsigned reg)
{
    struct acpi_pm *pm = opaque;
    uint8_t value;

    pthread_mutex_lock(&pm->lock);
    timer_carry_update(pm);
    value = pair_read(pm->state.status, pm->state.enable, reg);
    pthread_mutex_unlock(&pm->lock);
    return value;
}

static void event_write8(void *opaque, unsigned reg, uint8_t value)
{
    struct acpi_pm *pm = opaque;

    pthread_mutex_lock(&pm->lock);
    timer_carry_update(pm);
    pair_write(&pm->state.status, &pm->state.enable, reg, value);
    pm->state.enable &= PM1_ENABLES;
    sci_update(pm);
    pthread_mutex_unlock(&pm->lock);
}

static uint8_t gpe_read8(void *opaque, unsigned reg)
{
    struct acpi_pm *pm = opaque;
    uint8_t value;

    pthread_mutex_lock(&pm->lock);
    value = pair_read(pm->state.gpe_status, pm->state.gpe_enable, reg);
    pthread_mutex_unlock(&pm->lock);
    return value;
}

static void gpe_write8(void *opaque, unsigned reg, uint8_t value)
{
    struct acpi_pm *pm = opaque;

    pthread_mutex_lock(&pm->lock);
    pair_write(&pm->state.gpe_status, &pm->state.gpe_enable, reg, value);
    sci_update(pm);
    pthread_mutex_unlock(&pm->lock);
}

static uint8_t control_read8(void *opaque, unsigned reg)
{
    struct acpi_pm *pm = opaque;
    uint8_t value;

    pthread_mutex_lock(&pm->lock);
    value = pm->state.control[reg & 1];
    pthread_mutex_unlock(&pm->lock);
    return reg & 1 ? value : value | CONTROL_SCI_ENABLED;
}

/* What should wake the machine may have come before it sleeps. */
static void sleep_enter(struct acpi_pm *pm, unsigned type)
{
    bool wake;

    pm->config.sleep(pm->config.opaque, type);
    if (type != ACPI_PM_SLEEP_S3)
        return;
    pthread_mutex_lock(&pm->lock);
    pm->state.asleep = true;
    wake = wake_take(pm);
    pthread_mutex_unlock(&pm->lock);
    if (wake)
        pm->config.wake(pm->config.opaque);
}

static void control_write8(void *opaque, unsigned reg, uint8_t value)
{
    struct acpi_pm *pm = opaque;
    uint8_t writable = reg & 1 ? CONTROL_HIGH_WRITABLE : CONTROL_LOW_WRITABLE;

    pthread_mutex_lock(&pm->lock);
    pm->state.control[reg & 1] = value & writable;
    pthread_mutex_unlock(&pm->lock);
    if ((reg & 1) && (value & CONTROL_SLEEP_ENABLE))
        sleep_enter(pm, CONTROL_TYPE(value));
}

static uint64_t timer_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;
    uint64_t mask = (UINT64_C(2) << timer_top_bit(pm)) - 1;

    (void)size;
    return (timer_ticks() & mask) >> (8 * offset);
}

static uint8_t reset_read8(void *opaque, unsigned reg)
{
    struct acpi_pm *pm = opaque;
    uint8_t value;

    (void)reg;
    pthread_mutex_lock(&pm->lock);
    value = pm->state.reset_control;
    pthread_mutex_unlock(&pm->lock);
    return value;
}

/* ICH9, 13.7.5: a reset happens when RST_CPU goes from 0 to 1; SYS_RST and FULL_RST say which. All
 * are a reset of the whole machine here. */
static void reset_write8(void *opaque, unsigned reg, uint8_t value)
{
    struct acpi_pm *pm = opaque;
    bool rise;

    (void)reg;
    pthread_mutex_lock(&pm->lock);
    rise = (value & RESET_CPU) && !(pm->state.reset_control & RESET_CPU);
    pm->state.reset_control = value & 0x0e;
    pthread_mutex_unlock(&pm->lock);
    if (rise)
        pm->config.reset(pm->config.opaque);
}

#define ACPI_PM_OPS(name)                                                                          \
    static uint64_t name##_read(void *pm, uint64_t offset, unsigned size)                          \
    {                                                                                              \
        return bus_bytes_read(pm, offset, size, name##_read8);                                     \
    }                                                                                              \
    static void name##_write(void *pm, uint64_t offset, unsigned size, uint64_t value)             \
    {                                                                                              \
        bus_bytes_write(pm, offset, size, value, name##_write8);                                   \
    }                                                                                              \
    static const struct bus_ops name##_ops = {.read = name##_read, .write = name##_write}

ACPI_PM_OPS(event);
ACPI_PM_OPS(control);
ACPI_PM_OPS(gpe);
ACPI_PM_OPS(reset);
static const struct bus_ops timer_ops = {.read = timer_read};

static const struct bus_range acpi_pm_ranges[] = {
    {.name = "pm1a-event", .base = ACPI_PM_EVENT_PORT, .size = 4, .ops = &event_ops},
    {.name = "pm1a-control", .base = ACPI_PM_CONTROL_PORT, .size = 2, .ops = &control_ops},
    {.name = "pm-timer", .base = ACPI_PM_TIMER_PORT, .size = 4, .ops = &timer_ops},
    {.name = "gpe0", .base = ACPI_PM_GPE0_PORT, .size = ACPI_PM_GPE0_BYTES, .ops = &gpe_ops},
    {.name = "reset-control", .base = ACPI_PM_RESET_PORT, .size = 1, .ops = &reset_ops},
};
#define ACPI_PM_RANGES (sizeof acpi_pm_ranges / sizeof acpi_pm_ranges[0])

/* ---- construction ---- */

static void state_reset(struct acpi_pm *pm, uint16_t status_kept)
{
    pthread_mutex_lock(&pm->lock);
    pm->state = (struct acpi_pm_state){.status = pm->state.status & status_kept,
                                       .timer_half = timer_ticks() >> timer_top_bit(pm)};
    sci_update(pm);
    pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_reset(struct acpi_pm *pm)
{
    state_reset(pm, 0);
}

void acpi_pm_resume(struct acpi_pm *pm)
{
    state_reset(pm, PM1_ENABLES | PM1_WAKE);
}

int acpi_pm_new(const struct acpi_pm_config *config, struct acpi_pm **out)
{
    struct acpi_pm *pm = calloc(1, sizeof *pm);
    int rc = 0;

    if (!pm)
        return -ENOMEM;
    pthread_mutex_init(&pm->lock, NULL);
    pm->config = *config;
    timer_init(&pm->carry, config->loop, carry_expired, pm);
    acpi_pm_reset(pm);
    for (unsigned i = 0; rc == 0 && i < ACPI_PM_RANGES; i++) {
        struct bus_range range = acpi_pm_ranges[i];

        range.device = pm;
        rc = bus_add(config->ports, &range);
    }
    if (rc < 0)
        acpi_pm_free(pm);
    else
        *out = pm;
    return rc;
}

void acpi_pm_free(struct acpi_pm *pm)
{
    if (!pm)
        return;
    for (unsigned i = 0; i < ACPI_PM_RANGES; i++)
        bus_remove(pm->config.ports, acpi_pm_ranges[i].base, pm);
    timer_cancel(&pm->carry);
    pthread_mutex_destroy(&pm->lock);
    free(pm);
}
