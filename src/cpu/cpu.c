/* The list of CPU engines, and the choice among them. */
#include "cpu/cpu.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "cpu/soft/soft_engine.h"

const struct cpu_engine *const cpu_engines[] = {&cpu_engine_soft, &cpu_engine_interpreter,
                                                &cpu_engine_translator, &cpu_engine_lockstep};
const unsigned cpu_engine_count = sizeof cpu_engines / sizeof *cpu_engines;

int cpu_engine_find(const char *name, const struct cpu_engine **out, struct error *err)
{
    bool any = !name || strcmp(name, "auto") == 0;
    int result = -ENOENT;

    for (unsigned i = 0; i < cpu_engine_count; i++) {
        if (!any && strcmp(name, cpu_engines[i]->name) != 0)
            continue;
        result = cpu_engines[i]->probe(err);
        if (result == 0) {
            *out = cpu_engines[i];
            return 0;
        }
        if (!any)
            return result;
    }
    if (any)
        return result;
    return error_set(err, -ENOENT,
                     "there is no CPU engine '%s'; --engine help lists those there are", name);
}

const char *cpu_exit_name(unsigned kind)
{
    static const char *const names[CPU_EXIT_KINDS] = {
        [CPU_EXIT_KICKED] = "kicked",
        [CPU_EXIT_IO] = "io",
        [CPU_EXIT_MMIO] = "mmio",
        [CPU_EXIT_MSR] = "msr",
        [CPU_EXIT_CR8] = "cr8",
        [CPU_EXIT_HALT] = "halt",
        [CPU_EXIT_INTERRUPT] = "interrupt",
        [CPU_EXIT_SHUTDOWN] = "shutdown",
        [CPU_EXIT_PAUSE] = "pause",
        [CPU_EXIT_FAILED] = "failed",
    };

    return kind < CPU_EXIT_KINDS ? names[kind] : "?";
}

static uint64_t raw_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* One reading of both clocks: the TSC is read between two clock readings that lie close together,
 * so that a preempted thread is noticed and tries again. */
static void both_clocks(uint64_t *ns, uint64_t *tsc)
{
    uint64_t best = UINT64_MAX;

    for (unsigned i = 0; i < 16; i++) {
        uint64_t before = raw_ns(), now = __rdtsc(), after = raw_ns();

        if (after - before < best) {
            best = after - before;
            *ns = before + (after - before) / 2;
            *tsc = now;
        }
    }
}

uint64_t cpu_tsc_hz(void)
{
    static _Atomic uint64_t measured; /* the same for every caller: a property of the host */
    const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
    uint64_t ns[2], tsc[2], hz = measured;

    if (hz != 0)
        return hz;
    both_clocks(&ns[0], &tsc[0]);
    nanosleep(&pause, NULL);
    both_clocks(&ns[1], &tsc[1]);
    hz = (uint64_t)((unsigned __int128)(tsc[1] - tsc[0]) * 1000000000 / (ns[1] - ns[0]));
    hz = (hz + 500) / 1000 * 1000;
    measured = hz;
    return hz;
}
