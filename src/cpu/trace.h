/*
 * An event trace: for each vCPU a ring of the last events, in a mapped file, so that the file has
 * them however the process ends. `freehold trace FILE` shows it.
 *
 * Threads: a ring is its vCPU's own; trace_new, trace_free and trace_print by one thread each. The
 * file may be read while it is written: what a reader then sees of the newest event may be torn.
 */
#ifndef FREEHOLD_CPU_TRACE_H
#define FREEHOLD_CPU_TRACE_H

#include <stdint.h>
#include <stdio.h>
#include <x86intrin.h>

#include "base/error.h"

/* Kind, its name for users. What `info` and `detail` of each are: see trace_text() in trace.c. */
/* clang-format off */
#define TRACE_KINDS(X)                                                                             \
    X(START, "start") X(FAULT, "fault") X(INTERRUPT, "interrupt") X(MODE, "mode") X(CR3, "cr3")    \
    X(FLUSH, "flush") X(INVALIDATE, "invalidate") X(EXIT, "exit") X(TRANSLATE, "translate")        \
    X(CLEAR, "clear")
/* clang-format on */

enum trace_kind {
#define TRACE_KIND(name, text) TRACE_##name,
    TRACE_KINDS(TRACE_KIND)
#undef TRACE_KIND
        TRACE_KIND_COUNT
};

enum trace_flush { TRACE_FLUSH_ALL, TRACE_FLUSH_LOCAL, TRACE_FLUSH_PAGE, TRACE_FLUSH_KINDS };

/* `info` of TRACE_MODE. */
#define TRACE_MODE_PROTECTED 0x1u
#define TRACE_MODE_PAGING    0x2u
#define TRACE_MODE_LONG      0x4u
#define TRACE_MODE_V86       0x8u
#define TRACE_MODE_CODE      0x30u /* enum x86_code_size << 4 */

/* As in the file, in the host's byte order. */
struct trace_event {
    uint64_t tsc; /* the host's */
    uint64_t rip;
    uint64_t detail;
    uint32_t info;
    uint16_t kind; /* enum trace_kind */
    uint16_t unused;
};

struct trace_ring {
    uint64_t *written; /* events ever; in the file */
    struct trace_event *events;
    uint32_t mask;
    uint32_t kinds; /* bit n: enum trace_kind n is wanted */
};

struct trace;

#define TRACE_EVENTS_MIN     16u
#define TRACE_EVENTS_MAX     (1u << 24)
#define TRACE_EVENTS_DEFAULT (1u << 16)

struct trace_config {
    const char *path;
    unsigned vcpus;
    uint32_t events; /* of each vCPU that are kept; rounded up to a power of two */
    uint32_t kinds;
};

/* Makes the file with room for all events, so that writing one can't fail later. */
MUST_CHECK int trace_new(const struct trace_config *config, struct trace **out, struct error *err);
void trace_free(struct trace *trace);
struct trace_ring *trace_ring_get(struct trace *trace, unsigned vcpu);

/* "fault:cr3" to bits; names that do not exist are named in the error. */
MUST_CHECK int trace_kinds_parse(const char *names, uint32_t *kinds, struct error *err);
const char *trace_kind_name(enum trace_kind kind);

/* The events in `path` in the order of time, one a line. Trusts nothing in the file. */
MUST_CHECK int trace_print(const char *path, FILE *to, struct error *err);

struct trace_what {
    enum trace_kind kind;
    uint32_t info;
    uint64_t rip, detail;
};

static inline void trace_add(struct trace_ring *ring, const struct trace_what *what)
{
    uint64_t n = *ring->written;

    if (!(ring->kinds >> what->kind & 1))
        return;
    ring->events[n & ring->mask] = (struct trace_event){.tsc = __rdtsc(),
                                                        .rip = what->rip,
                                                        .detail = what->detail,
                                                        .info = what->info,
                                                        .kind = (uint16_t)what->kind};
    __atomic_store_n(ring->written, n + 1, __ATOMIC_RELEASE);
}

#endif
