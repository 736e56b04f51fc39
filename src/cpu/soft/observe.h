/* For engineers: what code was made of which. See observe.c. Only inside src/cpu/soft/. */
#ifndef FREEHOLD_CPU_SOFT_OBSERVE_H
#define FREEHOLD_CPU_SOFT_OBSERVE_H

#include "cpu/soft/soft.h"

struct soft_observer;
struct translation;

/* Sets c->observer if the VM's tools want one. */
MUST_CHECK int soft_observer_new(struct soft_vcpu *c);
/* Writes what is written at the end. */
void soft_observer_free(struct soft_vcpu *c);

/* The block at c->rip has been translated. */
void soft_observe_block(const struct translation *tr);
/* All translated code is gone. */
void soft_observe_clear(struct soft_vcpu *c);

#endif
