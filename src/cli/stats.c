/* The counters of a VM's vCPUs. Threads: one. Input: numbers that the guest can drive, and names
 * of the engine's own. */
#include "cli/stats.h"

#include <stdlib.h>
#include <string.h>

#include "cli/report.h"

#define SHOWN_MAX 20

/* ---- JSON ---- */

struct json {
    FILE *to;
    char group[32]; /* open now, "": none */
};

static void json_counter(void *opaque, const struct cpu_counter *counter)
{
    struct json *json = opaque;

    if (strcmp(json->group, counter->group) != 0) {
        fputs(json->group[0] ? "}," : "", json->to);
        snprintf(json->group, sizeof json->group, "%s", counter->group);
        json_string(json->to, json->group);
        fputs(":{", json->to);
    } else {
        fputc(',', json->to);
    }
    json_string(json->to, counter->name);
    fprintf(json->to, ":%llu", (unsigned long long)counter->value);
}

void stats_print_json(const struct stats *stats, FILE *to)
{
    for (unsigned i = 0; i < stats->cpus; i++) {
        struct json json = {.to = to};

        fprintf(to, "{\"event\":\"stats\",\"vcpu\":%u,\"seconds\":%.3f,\"counters\":{", i,
                stats->seconds);
        vm_counters(stats->vm, i, json_counter, &json);
        fprintf(to, "%s}}\n", json.group[0] ? "}" : "");
    }
}

/* ---- text ---- */

struct line {
    char name[40];
    uint64_t value;
};

struct table {
    FILE *to;
    double seconds;
    char group[32]; /* "": none yet */
    struct line line[SHOWN_MAX];
    unsigned lines;
    uint64_t lines_left_out;
    uint64_t sum;
};

static int line_compare(const void *a, const void *b)
{
    const struct line *left = a, *right = b;

    return (left->value < right->value) - (left->value > right->value);
}

static void table_line(const struct table *table, const struct line *line)
{
    size_t length = strlen(table->group);

    if (length > 3 && strcmp(table->group + length - 3, "_ns") == 0)
        fprintf(table->to, "  %-28s %12.3f ms %10.1f %%\n", line->name, (double)line->value / 1e6,
                100 * (double)line->value / (double)table->sum);
    else if (table->seconds > 0)
        fprintf(table->to, "  %-28s %15llu %10.0f/s\n", line->name, (unsigned long long)line->value,
                (double)line->value / table->seconds);
    else
        fprintf(table->to, "  %-28s %15llu\n", line->name, (unsigned long long)line->value);
}

/* Prints what was gathered of a group. */
static void table_flush(struct table *table)
{
    if (table->lines > 0)
        fprintf(table->to, "%s\n", table->group);
    qsort(table->line, table->lines, sizeof table->line[0], line_compare);
    for (unsigned i = 0; i < table->lines; i++)
        table_line(table, &table->line[i]);
    if (table->lines_left_out > 0)
        fprintf(table->to, "  (%llu more)\n", (unsigned long long)table->lines_left_out);
    table->lines = 0;
    table->lines_left_out = 0;
    table->sum = 0;
}

/* Where to put a line: a free place, or the least one's if that is less; NULL: leave it out. */
static struct line *table_place(struct table *table, uint64_t value)
{
    struct line *least = &table->line[0];

    if (table->lines < SHOWN_MAX)
        return &table->line[table->lines++];
    table->lines_left_out++;
    for (unsigned i = 1; i < SHOWN_MAX; i++) {
        if (table->line[i].value < least->value)
            least = &table->line[i];
    }
    return least->value < value ? least : NULL;
}

static void table_counter(void *opaque, const struct cpu_counter *counter)
{
    struct table *table = opaque;
    struct line *line;

    if (strcmp(table->group, counter->group) != 0) {
        table_flush(table);
        snprintf(table->group, sizeof table->group, "%s", counter->group);
    }
    table->sum += counter->value;
    line = table_place(table, counter->value);
    if (!line)
        return;
    snprintf(line->name, sizeof line->name, "%s", counter->name);
    line->value = counter->value;
}

void stats_print(const struct stats *stats, FILE *to)
{
    for (unsigned i = 0; i < stats->cpus; i++) {
        struct table table = {.to = to, .seconds = stats->seconds};

        fprintf(to, "vCPU %u, %.3f s\n", i, stats->seconds);
        vm_counters(stats->vm, i, table_counter, &table);
        table_flush(&table);
    }
}
