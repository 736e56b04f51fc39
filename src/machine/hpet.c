/*
 * The HPET (see hpet.h). Section numbers: IA-PC HPET specification 1.0a.
 *
 * The main counter is a function of the monotonic time; nothing ticks. Threads: any, under `lock`;
 * `legacy` is atomic, so that the PIT and RTC pass through without it. Trusts nothing that the
 * guest writes; intervals have a floor, so that it cannot keep the loop busy.
 */
#include "machine/hpet.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"

#define HPET_INTERVAL_MIN UINT64_C(50000)     /* ns between two interrupts of a timer */
#define HPET_SLEEP_MAX    (UINT64_C(1) << 55) /* counter ticks; looks again after a year or ten */
#define HPET_PERIOD_FS    (UINT64_C(1000000) * HPET_PERIOD_NS)
#define HPET_ROUTES       UINT64_C(0x00f00000) /* GSI 20 to 23 */

#define REG_CAPABILITIES  0x00u
#define REG_CONFIG        0x10u
#define REG_STATUS        0x20u
#define REG_COUNTER       0xf0u
#define REG_TIMER         0x100u
#define REG_TIMER_STEP    0x20u

#define CONFIG_ENABLED    UINT64_C(1)
#define CONFIG_LEGACY     UINT64_C(2)

/* 2.3.8 */
#define TIMER_LEVEL            (UINT64_C(1) << 1)
#define TIMER_ENABLED          (UINT64_C(1) << 2)
#define TIMER_PERIODIC         (UINT64_C(1) << 3)
#define TIMER_PERIODIC_CAPABLE (UINT64_C(1) << 4)
#define TIMER_64BIT_CAPABLE    (UINT64_C(1) << 5)
#define TIMER_VALUE_SET        (UINT64_C(1) << 6)
#define TIMER_32BIT            (UINT64_C(1) << 8)
#define TIMER_ROUTE(config)    ((unsigned)((config) >> 9) & 31u)
#define TIMER_WRITABLE         UINT64_C(0x3f4e)

struct hpet_timer_state {
    uint64_t config;
    uint64_t comparator;
    uint64_t period;
};

struct hpet_state {
    uint64_t config;
    uint64_t status;
    uint64_t counter;  /* while stopped; else at start_ns */
    uint64_t start_ns; /* when it was enabled */
    struct hpet_timer_state timer[HPET_TIMERS];
};

struct hpet_timer {
    struct hpet *hpet;
    unsigned index;
    struct timer wakeup;
};

struct hpet {
    pthread_mutex_t lock;
    struct hpet_state state;
    atomic_bool legacy;
    struct hpet_timer timer[HPET_TIMERS];
    struct hpet_config config;
};

/* ---- counting; `lock` held ---- */

static uint64_t counter_now(const struct hpet *hpet)
{
    if (!(hpet->state.config & CONFIG_ENABLED))
        return hpet->state.counter;
    return hpet->state.counter + (clock_monotonic_ns() - hpet->state.start_ns) / HPET_PERIOD_NS;
}

static uint64_t timer_mask(const struct hpet_timer_state *timer)
{
    return timer->config & TIMER_32BIT ? UINT32_MAX : UINT64_MAX;
}

static bool timer_is_periodic(const struct hpet_timer_state *timer)
{
    return timer->config & TIMER_PERIODIC;
}

/* Wakes when the counter reaches the comparator. A deadline far away is only a look. */
static void timer_arm_in(struct hpet_timer *timer, uint64_t ticks)
{
    uint64_t ns = (ticks < HPET_SLEEP_MAX ? ticks : HPET_SLEEP_MAX) * HPET_PERIOD_NS;

    timer_arm(&timer->wakeup, clock_monotonic_ns() + ns);
}

/* Matches are found by equality (2.3.9.2), so a comparator that has been passed waits for the
 * counter to wrap. */
static void timer_schedule(struct hpet_timer *timer)
{
    const struct hpet *hpet = timer->hpet;
    const struct hpet_timer_state *state = &hpet->state.timer[timer->index];

    if ((hpet->state.config & CONFIG_ENABLED) && (state->config & TIMER_ENABLED))
        timer_arm_in(timer, (state->comparator - counter_now(hpet)) & timer_mask(state));
    else
        timer_cancel(&timer->wakeup);
}

static void schedule_all(struct hpet *hpet)
{
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        timer_schedule(&hpet->timer[i]);
}

/* ---- interrupts; `lock` held ---- */

static struct irq_line timer_line(const struct hpet *hpet, unsigned index)
{
    struct irq_line line = hpet->config.gsi;

    if (index < 2 && atomic_load(&hpet->legacy)) /* 2.4.3 */
        return index == 0 ? hpet->config.pit_irq : hpet->config.rtc_irq;
    line.pin = TIMER_ROUTE(hpet->state.timer[index].config);
    if (!(HPET_ROUTES >> line.pin & 1))
        line.set = NULL; /* not a route that the capabilities offer */
    return line;
}

static void timer_fire(struct hpet *hpet, unsigned index)
{
    struct irq_line line = timer_line(hpet, index);

    if (hpet->state.timer[index].config & TIMER_LEVEL) {
        hpet->state.status |= 1u << index;
        irq_line_set(&line, true);
    } else {
        irq_line_set(&line, true);
        irq_line_set(&line, false);
    }
}

static void status_clear(struct hpet *hpet, uint64_t bits)
{
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        struct irq_line line = timer_line(hpet, i);

        if (hpet->state.status & bits & (1u << i))
            irq_line_set(&line, false);
    }
    hpet->state.status &= ~bits;
}

/* The comparator moves on by whole periods; those that were missed are merged into one. The counter
 * is not read again: it might have passed the new comparator meanwhile, which would be missed. */
static void timer_next_period(struct hpet_timer *timer, uint64_t late)
{
    struct hpet_timer_state *state = &timer->hpet->state.timer[timer->index];
    uint64_t step = state->period & timer_mask(state);
    uint64_t minimum = HPET_INTERVAL_MIN / HPET_PERIOD_NS;

    if (step == 0) {
        timer_cancel(&timer->wakeup);
        return;
    }
    state->comparator = (state->comparator + (late / step + 1) * step) & timer_mask(state);
    timer_arm_in(timer, step < minimum ? minimum : step - late % step);
}

/* How far past the comparator the counter is; false if it has not come there yet: the distance is
 * taken as signed in the timer's width. */
static bool timer_reached(const struct hpet *hpet, const struct hpet_timer_state *state,
                          uint64_t *late)
{
    uint64_t mask = timer_mask(state);

    *late = (counter_now(hpet) - state->comparator) & mask;
    return *late <= mask / 2;
}

static void timer_expired(void *opaque)
{
    struct hpet_timer *timer = opaque;
    struct hpet *hpet = timer->hpet;
    struct hpet_timer_state *state = &hpet->state.timer[timer->index];
    uint64_t late;

    pthread_mutex_lock(&hpet->lock);
    if (!(hpet->state.config & CONFIG_ENABLED) || !(state->config & TIMER_ENABLED)) {
        timer_cancel(&timer->wakeup);
    } else if (!timer_reached(hpet, state, &late)) {
        timer_arm_in(timer, (0 - late) & timer_mask(state));
    } else {
        timer_fire(hpet, timer->index);
        if (timer_is_periodic(state))
            timer_next_period(timer, late);
        else if (state->config & TIMER_32BIT) /* comes again when the counter has wrapped */
            timer_arm_in(timer, (UINT64_C(1) << 32) - late);
    }
    pthread_mutex_unlock(&hpet->lock);
}

/* ---- registers; `lock` held ---- */

static uint64_t timer_register_read(const struct hpet *hpet, unsigned index, unsigned reg)
{
    const struct hpet_timer_state *state = &hpet->state.timer[index];

    if (reg == 0)
        return state->config | HPET_ROUTES << 32 | TIMER_64BIT_CAPABLE |
               (index == 0 ? TIMER_PERIODIC_CAPABLE : 0);
    if (reg == 8)
        return state->comparator & timer_mask(state);
    return 0; /* no FSB delivery */
}

static uint64_t register_read(const struct hpet *hpet, unsigned reg)
{
    unsigned index = (reg - REG_TIMER) / REG_TIMER_STEP;

    switch (reg) {
    case REG_CAPABILITIES:
        return HPET_PERIOD_FS << 32 | HPET_BLOCK_ID;
    case REG_CONFIG:
        return hpet->state.config;
    case REG_STATUS:
        return hpet->state.status;
    case REG_COUNTER:
        return counter_now(hpet);
    default:
        if (reg < REG_TIMER || index >= HPET_TIMERS)
            return 0;
        return timer_register_read(hpet, index, reg % REG_TIMER_STEP);
    }
}

static void config_write(struct hpet *hpet, uint64_t value)
{
    uint64_t changed = (hpet->state.config ^ value) & (CONFIG_ENABLED | CONFIG_LEGACY);

    if (changed & CONFIG_ENABLED) {
        hpet->state.counter = counter_now(hpet);
        hpet->state.start_ns = clock_monotonic_ns();
    }
    hpet->state.config ^= changed;
    if (changed & CONFIG_LEGACY) {
        bool legacy = value & CONFIG_LEGACY;

        if (!legacy)
            status_clear(hpet, UINT64_MAX);
        atomic_store(&hpet->legacy, legacy);
        if (legacy) { /* whatever level they were left at */
            irq_line_set(&hpet->config.pit_irq, false);
            irq_line_set(&hpet->config.rtc_irq, false);
        }
    }
    if (changed)
        schedule_all(hpet);
}

static void timer_config_write(struct hpet *hpet, unsigned index, uint64_t value)
{
    struct hpet_timer_state *state = &hpet->state.timer[index];

    if (index != 0)
        value &= ~(TIMER_PERIODIC | TIMER_VALUE_SET);
    status_clear(hpet, 1u << index); /* before the route may change */
    state->config = value & TIMER_WRITABLE;
    if (state->config & TIMER_32BIT) {
        state->comparator &= UINT32_MAX;
        state->period &= UINT32_MAX;
    }
    timer_schedule(&hpet->timer[index]);
}

/* 2.3.9.2.2: in periodic mode a write sets the period; with VAL_SET it sets the comparator first.
 */
static void comparator_write(struct hpet *hpet, unsigned index, uint64_t value)
{
    struct hpet_timer_state *state = &hpet->state.timer[index];

    value &= timer_mask(state);
    if (!timer_is_periodic(state) || (state->config & TIMER_VALUE_SET))
        state->comparator = value;
    if (timer_is_periodic(state))
        state->period = value;
    timer_schedule(&hpet->timer[index]);
}

/* `written` has the bits that the access covers. */
static void register_write(struct hpet *hpet, unsigned reg, uint64_t value, uint64_t written)
{
    unsigned index = (reg - REG_TIMER) / REG_TIMER_STEP;

    if (reg == REG_CONFIG) {
        config_write(hpet, value);
    } else if (reg == REG_STATUS) {
        status_clear(hpet, value & written);
    } else if (reg == REG_COUNTER) { /* software stops it first (2.3.7) */
        hpet->state.counter = value;
        hpet->state.start_ns = clock_monotonic_ns();
        schedule_all(hpet);
    } else if (reg >= REG_TIMER && index < HPET_TIMERS) {
        if (reg % REG_TIMER_STEP == 0)
            timer_config_write(hpet, index, value);
        else if (reg % REG_TIMER_STEP == 8)
            comparator_write(hpet, index, value);
    }
}

/* VAL_SET holds for one write of the comparator, be it in halves: it falls with the low one's. */
static void value_set_clear(struct hpet *hpet, unsigned reg, uint64_t written)
{
    unsigned index = (reg - REG_TIMER) / REG_TIMER_STEP;

    if (reg >= REG_TIMER && index < HPET_TIMERS && reg % REG_TIMER_STEP == 8 && (written & 1))
        hpet->state.timer[index].config &= ~TIMER_VALUE_SET;
}

/* ---- memory-mapped I/O: 32 or 64 bits, aligned (2.3.2) ---- */

static bool access_valid(uint64_t offset, unsigned size)
{
    return (size == 4 || size == 8) && offset % size == 0;
}

static uint64_t hpet_read(void *opaque, uint64_t offset, unsigned size)
{
    struct hpet *hpet = opaque;
    uint64_t value;

    if (!access_valid(offset, size))
        return 0;
    pthread_mutex_lock(&hpet->lock);
    value = register_read(hpet, (unsigned)offset & ~7u);
    pthread_mutex_unlock(&hpet->lock);
    return offset & 4 ? value >> 32 : value;
}

static void hpet_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct hpet *hpet = opaque;
    unsigned reg = (unsigned)offset & ~7u, shift = offset & 4 ? 32 : 0;
    uint64_t written = (size == 8 ? UINT64_MAX : UINT32_MAX) << shift, old;

    if (!access_valid(offset, size))
        return;
    pthread_mutex_lock(&hpet->lock);
    old = register_read(hpet, reg);
    register_write(hpet, reg, (old & ~written) | (value << shift & written), written);
    value_set_clear(hpet, reg, written);
    pthread_mutex_unlock(&hpet->lock);
}

static const struct bus_ops hpet_ops = {.read = hpet_read, .write = hpet_write};

void hpet_legacy_input(void *opaque, unsigned pin, bool level)
{
    struct hpet *hpet = opaque;

    if (!atomic_load(&hpet->legacy))
        irq_line_set(pin == HPET_INPUT_PIT ? &hpet->config.pit_irq : &hpet->config.rtc_irq, level);
}

/* ---- construction ---- */

void hpet_reset(struct hpet *hpet)
{
    pthread_mutex_lock(&hpet->lock);
    status_clear(hpet, UINT64_MAX);
    atomic_store(&hpet->legacy, false);
    hpet->state = (struct hpet_state){0};
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        hpet->state.timer[i].comparator = UINT64_MAX;
    schedule_all(hpet);
    pthread_mutex_unlock(&hpet->lock);
}

int hpet_new(const struct hpet_config *config, struct hpet **out)
{
    struct hpet *hpet = calloc(1, sizeof *hpet);
    struct bus_range range = {"hpet", HPET_BASE, HPET_SIZE, &hpet_ops, hpet};
    int rc;

    if (!hpet)
        return -ENOMEM;
    pthread_mutex_init(&hpet->lock, NULL);
    hpet->config = *config;
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        hpet->timer[i].hpet = hpet;
        hpet->timer[i].index = i;
        timer_init(&hpet->timer[i].wakeup, config->loop, timer_expired, &hpet->timer[i]);
    }
    hpet_reset(hpet);
    rc = bus_add(config->mmio, &range);
    if (rc < 0)
        hpet_free(hpet);
    else
        *out = hpet;
    return rc;
}

void hpet_free(struct hpet *hpet)
{
    if (!hpet)
        return;
    bus_remove(hpet->config.mmio, HPET_BASE, hpet);
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        timer_cancel(&hpet->timer[i].wakeup);
    pthread_mutex_destroy(&hpet->lock);
    free(hpet);
}
