/* The options of `freehold run`: from the user's words to a VM's configuration. Threads: one. */
#ifndef FREEHOLD_CLI_RUN_OPTIONS_H
#define FREEHOLD_CLI_RUN_OPTIONS_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "cli/tools.h"
#include "vm/vm.h"

#define RUN_TEXTS_MAX (PC_DISKS_MAX + PC_NETS_MAX + 2)

struct run_options {
    struct vm_config vm; /* all but engine, escape and opaque */
    const char *engine;  /* a name, "auto", or "help" */
    struct tools_options tools;
    bool help, json, verbose;
    bool net_given, console_given;
    bool stdio_taken;    /* by a serial port or the console */
    unsigned text_count; /* copies that the configuration points into */
    char *text[RUN_TEXTS_MAX];
};

/* `words` ends with NULL. -EINVAL with the user's sentence. Needs run_options_fini() in any case.
 */
MUST_CHECK int run_options_parse(struct run_options *options, char **words, struct error *err);
void run_options_fini(struct run_options *options);

void run_options_help(FILE *to);

#endif
