/*
 * What the user or a calling program is told, on standard error: sentences, or with --json one
 * object a line. Threads: the one that runs the command.
 */
#ifndef FREEHOLD_CLI_REPORT_H
#define FREEHOLD_CLI_REPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "cli/run_options.h"
#include "vm/vm.h"

#define STATUS_FAILED      1
#define STATUS_BAD_COMMAND 2

/* `text` as a JSON string, quotes included; bytes that are not UTF-8 text become '?'. */
void json_string(FILE *to, const char *text);

void report_error(bool json, int status, const char *text);

struct report_run {
    const struct run_options *options;
    const char *engine;
    const char *cpu_model;
};
void report_start(const struct report_run *run); /* --json only */
void report_end(const struct report_run *run, const struct vm_result *result, int status);

/* The lists of --engine help and --cpu help, on standard output. */
void report_engines(bool json);
void report_cpu_models(bool json);

#endif
