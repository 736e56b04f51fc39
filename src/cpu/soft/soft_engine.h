/* What the soft engine's files share about the vCPU as a whole: state conversion, its table. */
#ifndef FREEHOLD_CPU_SOFT_SOFT_ENGINE_H
#define FREEHOLD_CPU_SOFT_SOFT_ENGINE_H

#include "cpu/soft/soft.h"

struct cpu_vm {
    struct soft_vm soft;
};

struct vcpu {
    struct soft_vcpu soft;
};

extern const struct cpu_engine cpu_engine_soft;
extern const struct cpu_engine cpu_engine_interpreter;
extern const struct cpu_engine cpu_engine_translator;
extern const struct cpu_engine cpu_engine_lockstep;

void soft_state_get(const struct soft_vcpu *c, struct x86_state *state);
MUST_CHECK int soft_state_set(struct soft_vcpu *c, const struct x86_state *state,
                              struct error *err);

#endif
