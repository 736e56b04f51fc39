/*
 * What vm.c (life), vcpu.c (threads, sleep and wake) and exit.c (what a vCPU's exits mean) share.
 *
 * Locks: `lock` is a leaf: it may be taken with a device's lock held, and nothing is called under
 * it.
 */
#ifndef FREEHOLD_VM_VM_INTERNAL_H
#define FREEHOLD_VM_VM_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "vm/vm.h"

struct block;
struct char_backend;

/* What others ask of a vCPU's thread (struct vm_vcpu.requests). Bits 8-15: the start-up vector. */
#define VCPU_REQUEST_INIT    0x1u
#define VCPU_REQUEST_STARTUP 0x2u
#define VCPU_REQUEST_NMI     0x4u
#define VCPU_REQUEST_NMI_2   0x8u /* another came before the first was seen */
#define VCPU_REQUEST_VECTOR  0xff00u

enum vcpu_activity {
    VCPU_RUNNING,
    VCPU_HALTED,
    VCPU_WAIT_STARTUP /* after INIT, until a start-up IPI */
};

struct vm_vcpu {
    struct vm *vm;
    unsigned index;
    struct vcpu *cpu;
    struct lapic *lapic;
    pthread_t thread;

    /* Its own thread's. */
    enum vcpu_activity activity;
    bool interruptible; /* halted with interrupts enabled */
    unsigned generation;
    uint64_t tsc_offset;
    struct cpu_exit exit;
    struct x86_state state; /* to start from; also scratch */

    /* Any thread's. */
    _Atomic(uint32_t) requests;
    _Atomic(uint32_t) wake; /* futex: counts wake-ups */
    atomic_bool asleep;
};

struct vm {
    const struct cpu_engine *engine;
    struct x86_cpuid cpuid;
    struct loop *loop;
    struct pc *pc;
    struct cpu_vm *cpu_vm;
    bool no_reboot;
    uint64_t tsc_offset; /* from the last power-on, when every guest TSC was 0 */
    void (*escape)(void *opaque, uint8_t key);
    void *opaque;

    unsigned vcpu_count;
    struct vm_vcpu *vcpu;
    unsigned threads_started; /* vCPU threads */
    bool io_started;
    pthread_t io_thread;

    unsigned disk_count;
    struct block *disk[PC_DISKS_MAX];
    unsigned serial_count;
    struct char_backend *serial[PC_SERIAL_MAX];
    struct char_backend *console; /* NULL: none */

    atomic_bool pause; /* vCPU threads leave their loops and park */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under `lock`. */
    enum vm_end end; /* what was asked for first; VM_END_RESET also when it will reboot */
    bool woken;      /* while `end` is VM_END_SLEEP: it is over */
    bool stop;       /* the user's, which outranks a reset */
    bool quit;       /* threads end */
    unsigned parked;
    unsigned generation; /* counts power-ons */
    struct vm_result result;
};

/* Asks for the end (or reset, or sleep) of the VM; the first to ask wins. Any thread, device locks
 * held. */
void vm_end_request(struct vm *vm, enum vm_end end, uint32_t value, const char *text);

/* vcpu.c */
void *vcpu_main(void *vcpu); /* a thread's start routine; takes a struct vm_vcpu */
void vcpu_wake(struct vm_vcpu *vcpu);
void vcpu_kick(struct vm_vcpu *vcpu);
void vcpu_tsc_sync(struct vm_vcpu *vcpu);
extern const struct lapic_ops vcpu_lapic_ops; /* opaque: struct vm */

/* exit.c: on the vCPU's own thread. */
void vcpu_exit_handle(struct vm_vcpu *vcpu);

/* msr.c: MSRs that no component owns. -EINVAL: #GP(0). */
MUST_CHECK int msr_default_read(uint32_t index, uint64_t *value);
MUST_CHECK int msr_default_write(uint32_t index, uint64_t value);

#endif
