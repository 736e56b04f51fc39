/* The counters of a VM's vCPUs, as a table for people or as JSON. Threads: one. */
#ifndef FREEHOLD_CLI_STATS_H
#define FREEHOLD_CLI_STATS_H

#include <stdbool.h>
#include <stdio.h>

#include "vm/vm.h"

struct stats {
    struct vm *vm;
    unsigned cpus;
    double seconds; /* that the VM ran, for rates; 0: none are shown */
};

/* One object a vCPU and line: {"event":"stats","vcpu":0,"counters":{"GROUP":{"NAME":VALUE}}}. */
void stats_print_json(const struct stats *stats, FILE *to);

/* By group, the largest first and of long groups only those, with the rate per second. */
void stats_print(const struct stats *stats, FILE *to);

#endif
