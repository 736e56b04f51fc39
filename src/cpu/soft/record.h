/*
 * The record of what comes to a vCPU from outside: answers of devices and MSRs, the TSC, random
 * numbers. One vCPU writes it, another that executes the same instructions reads it (lockstep.c).
 * Only inside src/cpu/soft/.
 *
 * Threads: both vCPUs run on one. Input: the VM's answers, as they are.
 */
#ifndef FREEHOLD_CPU_SOFT_RECORD_H
#define FREEHOLD_CPU_SOFT_RECORD_H

#include "cpu/soft/soft.h"

enum soft_input_kind { SOFT_INPUT_EXIT, SOFT_INPUT_TSC, SOFT_INPUT_RANDOM_OK, SOFT_INPUT_RANDOM };

struct soft_input {
    enum soft_input_kind kind;
    uint64_t value;
    struct cpu_exit exit; /* SOFT_INPUT_EXIT: request and answer */
};

struct soft_record {
    struct soft_input *inputs;
    size_t count, capacity, read; /* read: how many have been replayed */
    bool replaying;
    char difference[160]; /* what was asked for that was not recorded; "": nothing */
};

void soft_record_fini(struct soft_record *record);
/* Forgets all, or what has been replayed. */
void soft_record_clear(struct soft_record *record);
void soft_record_trim(struct soft_record *record);

static inline bool soft_record_replays(const struct soft_record *record)
{
    return record->replaying;
}

/* A completed exit. */
void soft_record_exit(struct soft_record *record, const struct cpu_exit *exit);
/* The recorded answer to `request`. If another was recorded, run() ends with CPU_EXIT_FAILED and
 * `difference` says why. */
uint64_t soft_record_replay(struct soft_vcpu *c, const struct cpu_exit *request);
uint64_t soft_record_input(struct soft_vcpu *c, enum soft_input_kind kind, uint64_t value);

/* What the vCPU is to take for `value`, which it has just read from the host. */
static inline uint64_t soft_input(struct soft_vcpu *c, enum soft_input_kind kind, uint64_t value)
{
    return __builtin_expect(c->record != NULL, 0) ? soft_record_input(c, kind, value) : value;
}

#endif
