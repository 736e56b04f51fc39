/*
 * The other processors: started by INIT and SIPI (Intel SDM vol. 3, 8.4), each with a stack and a
 * loop that runs jobs. The first processor alone starts them, gives jobs and makes checks.
 */
#ifndef GUEST_CPUS_H
#define GUEST_CPUS_H

#include "apic.h"
#include "world.h"

#define CPUS_MAX 8

typedef void (*job_fn)(void);

struct cpu {
    volatile job_fn job; /* set by the first processor, cleared by this one when done */
    volatile u32 alive;
    u32 apic_id;
};
extern struct cpu cpus[CPUS_MAX]; /* [0] is the first processor */

/* Their interrupts. Every vector stops them until a test sets its gate, before it starts them. */
extern struct gate64 cpus_idt[256];
void cpus_gate_set(u64 vector, const void *to);

/* CR0 and CS as the last of them found them at its start. */
u32 cpus_start_cr0(void);
u16 cpus_start_cs(void);

/* Starts all of them; how many processors there are now, this one too. */
u32 cpus_start(void);
/* The index of the processor that asks, by its stack. */
u32 cpu_index(void);

/* Waits for a condition, bounded by the clock of loops. */
#define WAIT(condition)                                                                            \
    for (u64 waited = 0; !(condition) && waited < 400000000; waited++)                             \
    pause()

/* Runs `job` on processor `index` from now on, or waits for it to end and checks that it does. */
void cpu_run(u32 index, job_fn job);
void cpu_wait(u32 index);
/* Runs `job` on the first `count` processors at once, this one among them. */
void cpus_run(u32 count, job_fn job);

/* All of the first `count` processors come here before any goes on. */
void cpus_meet(u32 count);

#endif
