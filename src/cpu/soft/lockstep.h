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
    /* Where the last run began, so that it can be repeated. */
    struct x86_state start;
    bool start_whole; /* not in the middle of an instruction */
    bool start_inject;
    uint8_t start_vector, start_nmis;
    uint64_t run;     /* its length */
    uint64_t culprit; /* after a difference: the block that makes it, 0: not known */
};

/* lockstep_compare.c. Each gives the first difference in words, or false. */
#define LOCKSTEP_TEXT 160
bool lockstep_states_differ(struct lockstep *l, char text[LOCKSTEP_TEXT]);
bool lockstep_stores_differ(struct lockstep *l, char text[LOCKSTEP_TEXT]);
bool lockstep_memory_differs(struct lockstep *l, char text[LOCKSTEP_TEXT]);
/* The guest-physical address of a place in the follower's memory. */
uint64_t lockstep_gpa_of(const struct lockstep *l, const uint8_t *host);
/* Both states side by side, and the blocks that ran last, to the log. */
void lockstep_report(struct lockstep *l, const char *difference, unsigned blocks);

/* lockstep_find.c: notes where a run begins; repeats it in parts to find the block that makes the
 * difference. False: repeated, there is none. */
void lockstep_start_note(struct lockstep *l);
bool lockstep_find(struct lockstep *l, char text[LOCKSTEP_TEXT]);

#endif
