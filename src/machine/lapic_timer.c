/*
 * The LAPIC's timer: one-shot, periodic and TSC-deadline (Intel SDM vol. 3, 11.5.4).
 *
 * Deadlines are kept in monotonic nanoseconds, counted from the start of the count, so that nothing
 * drifts. The loop wakes the timer; so may a sleeping vCPU's own thread (lapic_timer_poll()):
 * whoever comes first fires it. A TSC deadline is compared with the guest's TSC itself when it
 * fires, so it is never early by the guest's reading, whatever the two clocks' drift.
 * Threads: any, under the timer's `lock`, a leaf (the loop's own lock aside), which is released
 * before the interrupt is posted.
 */
#include "base/clock.h"
#include "machine/lapic_internal.h"

/* The shortest period that is delivered: below it, ticks are merged, so that a guest can't keep the
 * I/O thread busy. */
#define PERIOD_MIN_NS UINT64_C(50000)

static unsigned timer_mode(const struct lapic *lapic)
{
    return LVT_TIMER_MODE(atomic_load(&lapic->state.lvt[LVT_TIMER]));
}

/* Divide configuration register, figure 11-10; LAPIC_TIMER_HZ is 1 GHz, so a count is this many ns.
 */
static uint64_t timer_count_ns(const struct lapic_timer_state *state)
{
    unsigned code = (state->divide & 3) | (state->divide & 8) >> 1;

    return UINT64_C(1) << ((code + 1) & 7);
}

static uint64_t timer_period_ns(const struct lapic_timer_state *state)
{
    return state->initial * timer_count_ns(state);
}

static uint64_t guest_tsc(const struct lapic *lapic)
{
    return lapic->set->config.tsc->read() + lapic->timer.tsc_offset;
}

/* ---- `lock` held ---- */

static void timer_set(struct lapic *lapic, uint64_t deadline_ns)
{
    struct lapic_timer *timer = &lapic->timer;

    timer->state.deadline_ns = deadline_ns;
    if (deadline_ns == LAPIC_NO_DEADLINE)
        timer_cancel(&timer->wakeup);
    else
        timer_arm(&timer->wakeup, deadline_ns);
}

/* Whether the TSC deadline is reached; if not, sets the timer for it. One reading of the TSC
 * decides both: with two, the deadline could pass in between. It comes before that of the clock, so
 * that time spent in between makes the timer later, not earlier. */
static bool tsc_deadline_take(struct lapic *lapic)
{
    uint64_t tsc = guest_tsc(lapic), ns, deadline_ns;

    if (tsc >= lapic->timer.state.tsc_deadline)
        return true;
    ns =
        muldiv64(lapic->timer.state.tsc_deadline - tsc, NS_PER_SECOND, lapic->set->config.tsc->hz) +
        1;
    if (__builtin_add_overflow(clock_monotonic_ns(), ns, &deadline_ns))
        deadline_ns = LAPIC_NO_DEADLINE - 1;
    timer_set(lapic, deadline_ns);
    return false;
}

/* The next multiple of the period after now, counted from the start; of several periods where one
 * would be too short. */
static void timer_set_next_period(struct lapic *lapic, uint64_t now)
{
    struct lapic_timer_state *state = &lapic->timer.state;
    uint64_t period_ns = timer_period_ns(state);
    uint64_t step_ns = (PERIOD_MIN_NS + period_ns - 1) / period_ns * period_ns;

    timer_set(lapic, state->start_ns + ((now - state->start_ns) / step_ns + 1) * step_ns);
}

/* Whether it is due; if so, moves on to what comes after. */
static bool timer_take(struct lapic *lapic)
{
    struct lapic_timer_state *state = &lapic->timer.state;
    uint64_t now = clock_monotonic_ns();

    if (state->deadline_ns > now)
        return false;
    switch (timer_mode(lapic)) {
    case TIMER_TSC_DEADLINE:
        if (!tsc_deadline_take(lapic))
            return false;
        state->tsc_deadline = 0;
        timer_set(lapic, LAPIC_NO_DEADLINE);
        return true;
    case TIMER_PERIODIC:
        timer_set_next_period(lapic, now);
        return true;
    default:
        timer_set(lapic, LAPIC_NO_DEADLINE);
        return true;
    }
}

static void timer_stop(struct lapic *lapic)
{
    lapic->timer.state.initial = 0;
    lapic->timer.state.tsc_deadline = 0;
    timer_set(lapic, LAPIC_NO_DEADLINE);
}

static uint32_t timer_current(const struct lapic *lapic)
{
    const struct lapic_timer_state *state = &lapic->timer.state;
    uint64_t counted = (clock_monotonic_ns() - state->start_ns) / timer_count_ns(state);

    if (state->deadline_ns == LAPIC_NO_DEADLINE || state->initial == 0)
        return 0;
    if (timer_mode(lapic) == TIMER_PERIODIC)
        return state->initial - (uint32_t)(counted % state->initial);
    return counted >= state->initial ? 0 : state->initial - (uint32_t)counted;
}

/* ---- expiry ---- */

/* Takes the lock with nothing overdue: what a register access is to change or tell must not lose
 * or hide an expiry that nobody has come to fire yet. */
static void timer_lock_settled(struct lapic *lapic)
{
    pthread_mutex_lock(&lapic->timer.lock);
    while (timer_take(lapic)) {
        pthread_mutex_unlock(&lapic->timer.lock);
        lapic_lvt_deliver(lapic, LVT_TIMER);
        pthread_mutex_lock(&lapic->timer.lock);
    }
}

void lapic_timer_poll(struct lapic *lapic)
{
    bool due;

    pthread_mutex_lock(&lapic->timer.lock);
    due = timer_take(lapic);
    pthread_mutex_unlock(&lapic->timer.lock);
    if (due)
        lapic_lvt_deliver(lapic, LVT_TIMER);
}

/* The loop may be early when the deadline has moved meanwhile: then wake again. */
static void timer_expired(void *opaque)
{
    struct lapic *lapic = opaque;
    struct lapic_timer *timer = &lapic->timer;
    bool due;

    pthread_mutex_lock(&timer->lock);
    due = timer_take(lapic);
    if (!due && timer->state.deadline_ns != LAPIC_NO_DEADLINE)
        timer_arm(&timer->wakeup, timer->state.deadline_ns);
    pthread_mutex_unlock(&timer->lock);
    if (due)
        lapic_lvt_deliver(lapic, LVT_TIMER);
}

uint64_t lapic_timer_deadline_ns(struct lapic *lapic)
{
    uint64_t deadline_ns;

    pthread_mutex_lock(&lapic->timer.lock);
    deadline_ns = lapic->timer.state.deadline_ns;
    pthread_mutex_unlock(&lapic->timer.lock);
    return deadline_ns;
}

/* ---- registers ---- */

/* The count that runs goes on to its end in the new mode, one-shot or periodic. */
static void timer_period_enter(struct lapic *lapic)
{
    struct lapic_timer_state *state = &lapic->timer.state;
    uint64_t period_ns = timer_period_ns(state), now = clock_monotonic_ns();

    if (state->deadline_ns == LAPIC_NO_DEADLINE || state->initial == 0)
        return;
    state->start_ns += (now - state->start_ns) / period_ns * period_ns;
    timer_set(lapic, state->start_ns + period_ns);
}

void lapic_timer_lvt_write(struct lapic *lapic, uint32_t value)
{
    unsigned old_mode, new_mode = LVT_TIMER_MODE(value);

    timer_lock_settled(lapic);
    old_mode = timer_mode(lapic);
    /* To or from TSC-deadline mode disarms (11.5.4.1). */
    if ((old_mode == TIMER_TSC_DEADLINE) != (new_mode == TIMER_TSC_DEADLINE))
        timer_stop(lapic);
    else if (old_mode != new_mode)
        timer_period_enter(lapic);
    atomic_store(&lapic->state.lvt[LVT_TIMER], value);
    pthread_mutex_unlock(&lapic->timer.lock);
}

void lapic_timer_initial_write(struct lapic *lapic, uint32_t value)
{
    struct lapic_timer_state *state = &lapic->timer.state;

    timer_lock_settled(lapic);
    if (timer_mode(lapic) != TIMER_TSC_DEADLINE) {
        state->initial = value;
        state->start_ns = clock_monotonic_ns();
        timer_set(lapic, value ? state->start_ns + timer_period_ns(state) : LAPIC_NO_DEADLINE);
    }
    pthread_mutex_unlock(&lapic->timer.lock);
}

/* A running count goes on from where it is at the new rate. */
void lapic_timer_divide_write(struct lapic *lapic, uint32_t value)
{
    struct lapic_timer_state *state = &lapic->timer.state;
    uint32_t current;

    timer_lock_settled(lapic);
    current = timer_current(lapic);
    state->divide = value;
    if (current && timer_mode(lapic) != TIMER_TSC_DEADLINE) {
        uint64_t now = clock_monotonic_ns();

        state->start_ns = now - (state->initial - current) * timer_count_ns(state);
        timer_set(lapic, now + current * timer_count_ns(state));
    }
    pthread_mutex_unlock(&lapic->timer.lock);
}

uint32_t lapic_timer_initial_read(struct lapic *lapic)
{
    uint32_t value;

    pthread_mutex_lock(&lapic->timer.lock);
    value = lapic->timer.state.initial;
    pthread_mutex_unlock(&lapic->timer.lock);
    return value;
}

uint32_t lapic_timer_divide_read(struct lapic *lapic)
{
    uint32_t value;

    pthread_mutex_lock(&lapic->timer.lock);
    value = lapic->timer.state.divide;
    pthread_mutex_unlock(&lapic->timer.lock);
    return value;
}

uint32_t lapic_timer_current_read(struct lapic *lapic)
{
    uint32_t value;

    timer_lock_settled(lapic);
    value = timer_current(lapic);
    pthread_mutex_unlock(&lapic->timer.lock);
    return value;
}

/* In other modes the MSR reads as zero and writes are ignored (11.5.4.1). */
void lapic_timer_tsc_write(struct lapic *lapic, uint64_t value)
{
    bool due = false;

    timer_lock_settled(lapic);
    if (timer_mode(lapic) == TIMER_TSC_DEADLINE) {
        lapic->timer.state.tsc_deadline = value;
        due = value && tsc_deadline_take(lapic);
        if (!value || due) {
            lapic->timer.state.tsc_deadline = 0;
            timer_set(lapic, LAPIC_NO_DEADLINE);
        }
    }
    pthread_mutex_unlock(&lapic->timer.lock);
    if (due)
        lapic_lvt_deliver(lapic, LVT_TIMER);
}

uint64_t lapic_timer_tsc_read(struct lapic *lapic)
{
    uint64_t value;

    timer_lock_settled(lapic);
    value = lapic->timer.state.tsc_deadline;
    pthread_mutex_unlock(&lapic->timer.lock);
    return value;
}

void lapic_tsc_offset_set(struct lapic *lapic, uint64_t offset)
{
    pthread_mutex_lock(&lapic->timer.lock);
    lapic->timer.tsc_offset = offset;
    if (lapic->timer.state.tsc_deadline && tsc_deadline_take(lapic))
        timer_set(lapic, clock_monotonic_ns());
    pthread_mutex_unlock(&lapic->timer.lock);
}

/* ---- construction ---- */

void lapic_timer_init(struct lapic *lapic)
{
    pthread_mutex_init(&lapic->timer.lock, NULL);
    timer_init(&lapic->timer.wakeup, lapic->set->config.loop, timer_expired, lapic);
    lapic->timer.state.deadline_ns = LAPIC_NO_DEADLINE;
}

void lapic_timer_fini(struct lapic *lapic)
{
    timer_cancel(&lapic->timer.wakeup);
    pthread_mutex_destroy(&lapic->timer.lock);
}

void lapic_timer_reset(struct lapic *lapic)
{
    pthread_mutex_lock(&lapic->timer.lock);
    timer_stop(lapic);
    lapic->timer.state.divide = 0;
    pthread_mutex_unlock(&lapic->timer.lock);
}
