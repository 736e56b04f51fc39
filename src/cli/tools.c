/* What `freehold run` offers to engineers. Threads: one. Input: the user's words and files. */
#include "cli/tools.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/symbols.h"
#include "cli/options.h"

/* ---- options ---- */

static int trace_part(struct trace_config *trace, char *part, struct error *err)
{
    char *value;
    uint64_t events;
    int rc;

    if (option_key(part, "events", &value))
        return trace_kinds_parse(value, &trace->kinds, err);
    if (!option_key(part, "size", &value))
        return error_set(err, -EINVAL,
                         "--trace: there is no \"%s\"; after the file come events=NAME:NAME... and "
                         "size=N",
                         part);
    rc = option_number("trace FILE,size", value,
                       (struct number_range){TRACE_EVENTS_MIN, TRACE_EVENTS_MAX}, &events, err);
    if (rc == 0)
        trace->events = (uint32_t)events;
    return rc;
}

int tools_trace_parse(struct tools_options *options, char *text, struct error *err)
{
    char *part;

    if (options->trace.path)
        return error_set(err, -EINVAL, "there can be no more than one --trace");
    options->trace = (struct trace_config){
        .path = option_part(&text), .events = TRACE_EVENTS_DEFAULT, .kinds = UINT32_MAX};
    if (options->trace.path[0] == '\0')
        return error_set(err, -EINVAL, "--trace needs a file: --trace FILE");
    while ((part = option_part(&text)) != NULL) {
        int rc = trace_part(&options->trace, part, err);

        if (rc < 0)
            return rc;
    }
    return 0;
}

/* "ADDRESS:ADDRESS...", hexadecimal. */
static int dump_addresses(struct tools_options *options, const char *text, struct error *err)
{
    for (;;) {
        char *end;

        errno = 0;
        uint64_t address = strtoull(text, &end, 16);
        if (end == text || (*end != '\0' && *end != ':') || errno != 0 || *text == '-')
            return error_set(err, -EINVAL,
                             "--dump-blocks: at=%s will not do: give addresses in hexadecimal, "
                             "with colons between them",
                             text);
        if (options->dump_at_count == TOOLS_DUMP_AT_MAX)
            return error_set(err, -EINVAL, "--dump-blocks: no more than %d addresses, please",
                             TOOLS_DUMP_AT_MAX);
        options->dump_at[options->dump_at_count++] = address;
        if (*end == '\0')
            return 0;
        text = end + 1;
    }
}

int tools_dump_parse(struct tools_options *options, char *text, struct error *err)
{
    char *part, *value;

    if (options->dump)
        return error_set(err, -EINVAL, "there can be no more than one --dump-blocks");
    options->dump = option_part(&text);
    if (options->dump[0] == '\0')
        return error_set(err, -EINVAL, "--dump-blocks needs a file: --dump-blocks FILE");
    while ((part = option_part(&text)) != NULL) {
        int rc = -EINVAL;

        if (option_key(part, "at", &value))
            rc = dump_addresses(options, value, err);
        else
            error_set(err, rc,
                      "--dump-blocks: there is no \"%s\"; after the file comes "
                      "at=ADDRESS:ADDRESS...",
                      part);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- files ---- */

static int file_open(FILE **file, const char *path, const char *what, struct error *err)
{
    *file = fopen(path, "we");
    return *file ? 0
                 : error_set(err, -errno, "cannot write %s to %s: %s", what, path, strerror(errno));
}

/* perf looks for it there, and wants it to be the user's own. */
static int perf_map_open(struct tools *tools, struct error *err)
{
    char path[64];
    int fd;

    snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
    unlink(path); /* of an older process with this number */
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    tools->cpu.perf_map = fd < 0 ? NULL : fdopen(fd, "w");
    if (!tools->cpu.perf_map)
        return error_set(err, -errno, "cannot write perf's map to %s: %s", path, strerror(errno));
    return 0;
}

int tools_open(struct tools *tools, const struct tools_options *options, unsigned vcpus,
               struct error *err)
{
    struct trace_config trace = options->trace;
    int rc = 0;

    tools->cpu.measure = options->stats != NULL;
    tools->cpu.dump_at = options->dump_at;
    tools->cpu.dump_at_count = options->dump_at_count;
    trace.vcpus = vcpus;
    if (options->symbols)
        rc = symbols_load(options->symbols, &tools->symbols, err);
    tools->cpu.symbols = tools->symbols;
    if (rc == 0 && options->stats && strcmp(options->stats, "-") == 0)
        tools->stats = stderr;
    else if (rc == 0 && options->stats)
        rc = file_open(&tools->stats, options->stats, "the counters", err);
    if (rc == 0 && options->dump)
        rc = file_open(&tools->cpu.dump, options->dump, "the translated blocks", err);
    if (rc == 0 && options->trace.path)
        rc = trace_new(&trace, &tools->cpu.trace, err);
    if (rc == 0 && options->perf_map)
        rc = perf_map_open(tools, err);
    return rc;
}

static void file_close(FILE *file, const char *what)
{
    bool failed;

    if (!file || file == stderr)
        return;
    failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed)
        log_error("%s could not be written in full", what);
}

void tools_close(struct tools *tools)
{
    file_close(tools->stats, "the counters");
    file_close(tools->cpu.dump, "the translated blocks");
    file_close(tools->cpu.perf_map, "perf's map");
    trace_free(tools->cpu.trace);
    symbols_free(tools->symbols);
    *tools = (struct tools){0};
}

void tools_stats_write(const struct tools *tools, const struct stats *stats, bool json)
{
    if (!tools->stats)
        return;
    if (json)
        stats_print_json(stats, tools->stats);
    else
        stats_print(stats, tools->stats);
    fflush(tools->stats);
}
