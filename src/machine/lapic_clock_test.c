/*
 * The LAPIC's timer on the host's real clocks and a real loop's thread: a TSC deadline is never
 * early by the TSC, and soon. Also prints what the hot paths cost.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/clock.h"
#include "base/test.h"
#include "machine/lapic.h"

struct board {
    struct lapic_set *set;
    struct lapic *cpu;
    struct loop *loop;
    pthread_t thread;
    atomic_uint interrupts;
};

static struct tsc_clock tsc = {.read = tsc_read_host};

static void on_interrupt(void *opaque, unsigned vcpu, bool pending)
{
    struct board *board = opaque;

    (void)vcpu;
    if (pending)
        atomic_fetch_add(&board->interrupts, 1);
}

static void on_other(void *opaque, unsigned vcpu)
{
    (void)opaque;
    (void)vcpu;
}

static void on_startup(void *opaque, unsigned vcpu, uint8_t vector)
{
    (void)opaque;
    (void)vcpu;
    (void)vector;
}

static const struct lapic_ops ops = {on_interrupt, on_other, on_other, on_startup};

static void *loop_thread(void *opaque)
{
    struct board *board = opaque;

    return loop_run(board->loop) == 0 ? NULL : opaque;
}

static void sleep_ns(uint64_t ns)
{
    struct timespec pause = {.tv_nsec = (long)ns};

    nanosleep(&pause, NULL);
}

/* Deliberately crude: an error of the frequency must not make the timer early. */
static uint64_t tsc_hz_measure(void)
{
    uint64_t ns = clock_monotonic_ns(), ticks = tsc_read_host();

    sleep_ns(20 * NS_PER_MS);
    ticks = tsc_read_host() - ticks;
    return muldiv64(ticks, NS_PER_SECOND, clock_monotonic_ns() - ns);
}

static bool board_up(struct test *t, struct board *board)
{
    struct lapic_set_config config = {.count = 2,
                                      .physical_bits = 46,
                                      .tsc_deadline = true,
                                      .tsc = &tsc,
                                      .ops = &ops,
                                      .opaque = board};

    *board = (struct board){0};
    tsc.hz = tsc_hz_measure();
    if (!CHECK_EQ(t, loop_new(&board->loop), 0))
        return false;
    config.loop = board->loop;
    if (!CHECK_EQ(t, lapic_set_new(&config, &board->set), 0) ||
        !CHECK_EQ(t, pthread_create(&board->thread, NULL, loop_thread, board), 0))
        return false;
    board->cpu = lapic_set_get(board->set, 0);
    lapic_mmio_write(board->cpu, 0xf0, 4, 0x1ff);
    lapic_mmio_write(board->cpu, 0x320, 4, 0x400ec);
    return true;
}

static void board_down(struct test *t, struct board *board)
{
    void *failed;

    loop_stop(board->loop);
    pthread_join(board->thread, &failed);
    CHECK(t, failed == NULL);
    lapic_set_free(board->set);
    loop_free(board->loop);
}

/* Waits for the interrupt, 1 s at most; gives the TSC at which it was seen. */
static bool interrupt_wait(struct board *board, uint64_t *seen_tsc)
{
    uint64_t give_up = clock_monotonic_ns() + NS_PER_SECOND;

    while (!lapic_has_interrupt(board->cpu)) {
        if (clock_monotonic_ns() > give_up)
            return false;
        sleep_ns(20000);
    }
    *seen_tsc = tsc_read_host();
    return lapic_acknowledge(board->cpu) == 0xec;
}

static void test_deadline(struct test *t)
{
    struct board b;
    uint64_t seen, worst = 0, total = 0;
    unsigned early = 0, rounds = 200;

    if (!board_up(t, &b))
        return;
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t deadline = tsc_read_host() + tsc.hz / 1000 + i * 997;

        CHECK_EQ(t, lapic_msr_write(b.cpu, 0x6e0, deadline), 0);
        if (!CHECK(t, interrupt_wait(&b, &seen)))
            break;
        lapic_mmio_write(b.cpu, 0xb0, 4, 0);
        early += seen < deadline;
        total += seen - deadline;
        worst = seen - deadline > worst ? seen - deadline : worst;
    }
    CHECK_EQ(t, early, 0);
    printf("TSC deadline seen late by %" PRIu64 " us in the mean, %" PRIu64 " us at most\n",
           muldiv64(total / rounds, 1000000, tsc.hz), muldiv64(worst, 1000000, tsc.hz));
    board_down(t, &b);
}

/* A frequency that is 1% too high makes the loop wake early, again and again as the deadline comes
 * near: it may neither fire early nor get lost when it passes just while the timer is being set. */
static void test_wrong_frequency(struct test *t)
{
    struct board b;
    uint64_t seen, right;
    unsigned early = 0;

    if (!board_up(t, &b))
        return;
    right = tsc.hz;
    tsc.hz += right / 100;
    for (unsigned i = 0; i < 300; i++) {
        uint64_t deadline = tsc_read_host() + right / 2000;

        CHECK_EQ(t, lapic_msr_write(b.cpu, 0x6e0, deadline), 0);
        if (!CHECK(t, interrupt_wait(&b, &seen)))
            break;
        lapic_mmio_write(b.cpu, 0xb0, 4, 0);
        early += seen < deadline;
    }
    CHECK_EQ(t, early, 0);
    board_down(t, &b);
}

#define REPEAT 200000

static void cost_print(const char *what, uint64_t start_ns)
{
    printf("%s: %" PRIu64 " ns\n", what, (clock_monotonic_ns() - start_ns) / REPEAT);
}

static void test_costs(struct test *t)
{
    struct board b;
    uint64_t start;
    unsigned taken = 0;
    int rc = 0;

    if (!board_up(t, &b))
        return;
    start = clock_monotonic_ns();
    for (unsigned i = 0; i < REPEAT; i++)
        rc |= lapic_msr_write(b.cpu, 0x6e0, tsc_read_host() + tsc.hz + i * 1000);
    rc |= lapic_msr_write(b.cpu, 0x6e0, 0);
    cost_print("TSC deadline rearmed", start);
    start = clock_monotonic_ns();
    for (unsigned i = 0; i < REPEAT; i++) {
        lapic_set_deliver_msi(b.set, 0xfee00000, 0x50);
        taken += lapic_acknowledge(b.cpu) == 0x50;
        lapic_mmio_write(b.cpu, 0xb0, 4, 0);
    }
    cost_print("MSI posted, acknowledged, ended", start);
    start = clock_monotonic_ns();
    for (unsigned i = 0; i < REPEAT; i++)
        lapic_mmio_write(b.cpu, 0x300, 4, 0x000c00fd); /* all but self */
    cost_print("IPI to one other", start);
    CHECK_EQ(t, rc, 0);
    CHECK_EQ(t, taken, REPEAT);
    board_down(t, &b);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_deadline);
    TEST_RUN(&t, test_wrong_frequency);
    TEST_RUN(&t, test_costs);
    return test_end(&t);
}
