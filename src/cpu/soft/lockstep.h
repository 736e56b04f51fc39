/*
 * Lockstep: the translator and the interpreter execute the same VM, and are compared. Only inside
 * src/cpu/soft/. See lockstep.c.
 */
#ifndef FREEHOLD_CPU_SOFT_LOCKSTEP_H
#define FREEHOLD_CPU_SOFT_LOCKSTEP_H

#include <pthread.h>
#include <stdatomic.h>

#include "cpu/soft/record.h"
#include "cpu/soft/soft_engine.h"

/* Bytes of guest memory that devices have changed. */
struct lockstep_range {
    uint64_t gpa, length;
};

struct lockstep_vm {
    struct mem *mem, *copy; /* the VM's, which the leader and the devices use; the follower's */
    struct cpu_vm *lead, *follow;
    uint64_t stride;       /* most instructions between comparisons; 0: one block */
    pthread_mutex_t world; /* recursive; held while guest code runs or devices change memory */
    atomic_uint waiting;   /* threads that want it */
    pthread_mutex_t lock;  /* a leaf: the changes */
    struct lockstep_range *changes;
    size_t change_count, change_capacity;
    bool changes_lost; /* no memory for one */
};

struct lockstep {
    struct lockstep_vm *vm;
    struct vcpu *lead, *follow;
    struct soft_record record;
    struct soft_trail trail;
    uint64_t random;
    uint64_t retired;          /* by the leader: operations and events */
    uint64_t behind;           /* ... of which the follower has still to do so many */
    uint64_t memory_due;       /* when all of memory is compared again, by `retired` */
    uint64_t memory_suspected; /* a page that differed then (its address + 1), 0: none */
    unsigned nmis;             /* to be injected when the leader stands between two instructions */
    struct x86_state state[2]; /* leader's, follower's: as they were compared last */
    bool same;                 /* nothing has run since they were compared */
};

/* lockstep_compare.c. Each gives the first difference in words, or false. */
#define LOCKSTEP_TEXT 160
bool lockstep_states_differ(struct lockstep *l, char text[LOCKSTEP_TEXT]);
bool lockstep_stores_differ(struct lockstep *l, char text[LOCKSTEP_TEXT]);
bool lockstep_memory_differs(struct lockstep *l, char text[LOCKSTEP_TEXT]);
/* Both states side by side and the code that ran last, to the log. */
void lockstep_report(struct lockstep *l, const char *difference);

#endif
