/*
 * What `freehold run` offers to engineers: counters, event trace, perf's map, a dump of translated
 * code. Threads: one. Input: the user's words and files.
 */
#ifndef FREEHOLD_CLI_TOOLS_H
#define FREEHOLD_CLI_TOOLS_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "cli/stats.h"
#include "cpu/cpu.h"
#include "cpu/trace.h"
#include "vm/vm.h"

#define TOOLS_DUMP_AT_MAX 64

struct tools_options {
    const char *stats;         /* a file, "-": standard error, NULL: nobody asks */
    struct trace_config trace; /* but `vcpus`; path NULL: nobody asks */
    bool perf_map;
    const char *symbols; /* NULL: none */
    const char *dump;    /* NULL: nobody asks */
    uint64_t dump_at[TOOLS_DUMP_AT_MAX];
    unsigned dump_at_count;
};

/* Take "FILE,key=value..." apart in place: --trace and --dump-blocks. */
MUST_CHECK int tools_trace_parse(struct tools_options *options, char *text, struct error *err);
MUST_CHECK int tools_dump_parse(struct tools_options *options, char *text, struct error *err);

struct tools {
    struct cpu_tools cpu; /* what the VM is given */
    FILE *stats;
    struct symbols *symbols;
};

/* Opens every file. tools_close() in any case, after the VM is freed. */
MUST_CHECK int tools_open(struct tools *tools, const struct tools_options *options, unsigned vcpus,
                          struct error *err);
void tools_close(struct tools *tools);

/* After the run, before the VM is freed. */
void tools_stats_write(const struct tools *tools, const struct stats *stats, bool json);

#endif
