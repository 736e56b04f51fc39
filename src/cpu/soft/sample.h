/* Where a vCPU's time goes, by samples: see sample.c. Only inside src/cpu/soft/. */
#ifndef FREEHOLD_CPU_SOFT_SAMPLE_H
#define FREEHOLD_CPU_SOFT_SAMPLE_H

#include "base/error.h"
#include "cpu/soft/counters.h"

struct soft_sampler;

/* Samples what `counters` say is being done, from now until soft_sampler_free(). */
MUST_CHECK int soft_sampler_new(struct soft_counters *counters, struct soft_sampler **out);
void soft_sampler_free(struct soft_sampler *sampler);

/* On the vCPU's thread: this is the one whose time is meant. */
void soft_sampler_here(struct soft_sampler *sampler);

#endif
