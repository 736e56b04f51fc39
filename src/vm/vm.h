/*
 * One virtual machine: the board, an engine that runs its CPUs, a thread for each vCPU and one for
 * I/O, and the VM's life from power on to its end.
 *
 * Threads: vm_new, vm_run and vm_free by one thread (the caller's); vm_stop, vm_power_button by
 * any. Input: the user's configuration, refused by one sentence, before anything is created or
 * changed where that can be found out.
 */
#ifndef FREEHOLD_VM_VM_H
#define FREEHOLD_VM_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"
#include "cpu/cpu.h"
#include "cpu/trace.h"
#include "machine/pc.h"
#include "net/net_user.h"

struct vm;

struct vm_disk {
    const char *path;
    const char *format; /* NULL: "raw" */
    const char *serial; /* NULL: none */
    bool readonly;
};

/* A network card behind the user-mode NAT. */
struct vm_net {
    unsigned hostfwd_count;
    struct net_hostfwd hostfwd[NET_HOSTFWD_MAX];
};

/* Strings stay the caller's, and must live as long as the VM. */
struct vm_config {
    const struct cpu_engine *engine;
    const char *cpu_model; /* NULL: the best named model that this host offers */
    unsigned cpus;
    uint64_t memory_bytes;
    struct boot_config boot;
    unsigned disk_count;
    struct vm_disk disk[PC_DISKS_MAX];
    unsigned net_count;
    struct vm_net net[PC_NETS_MAX];
    unsigned serial_count;
    const char *serial[PC_SERIAL_MAX]; /* back ends, as char/char.h names them */
    const char *console;               /* the virtio console's; NULL: no such device */
    const char *name;                  /* NULL: none */
    bool no_reboot;
    bool debug_exit;
    bool testdev;
    bool interpret_only;
    bool lockstep_blocks;          /* see cpu.h */
    const struct cpu_tools *tools; /* NULL: none */
    uint32_t code_bytes;           /* most that each vCPU keeps of code; 0: the engine's choice */
    /* A key typed after Ctrl-A, on the I/O thread; may call vm_stop and vm_power_button. */
    void (*escape)(void *opaque, uint8_t key);
    void *opaque;
};

enum vm_end {
    VM_END_NONE,         /* still running */
    VM_END_POWEROFF,     /* the guest switched itself off */
    VM_END_SLEEP,        /* never an end: the guest sleeps until something wakes it */
    VM_END_RESET,        /* the guest asked for a reset, under no_reboot */
    VM_END_STOPPED,      /* vm_stop() */
    VM_END_DEBUG_EXIT,   /* the guest wrote to port 0xf4 */
    VM_END_PANIC,        /* the guest reported its own panic */
    VM_END_TRIPLE_FAULT, /* a vCPU shut down */
    VM_END_FAILED,       /* the engine or the board could not go on */
    VM_END_COUNT
};

struct vm_result {
    enum vm_end end;
    uint32_t debug_value; /* what VM_END_DEBUG_EXIT wrote */
    unsigned resets;      /* how often the guest rebooted */
    uint64_t ran_ns;
    char text[512]; /* one sentence */
};

/* One word for programs: "poweroff", "triple-fault"... */
const char *vm_end_name(enum vm_end end);

/* What a process that ran this VM exits with: 0, 1 or (value << 1) | 1. */
int vm_result_status(const struct vm_result *result);

MUST_CHECK int vm_new(const struct vm_config *config, struct vm **out, struct error *err);
void vm_free(struct vm *vm);

/* Powers it on and returns when it has ended. -errno when its threads can't be started. */
MUST_CHECK int vm_run(struct vm *vm, struct vm_result *result, struct error *err);

void vm_stop(struct vm *vm); /* pulls the plug; also before vm_run() */
void vm_power_button(struct vm *vm);

struct loop *vm_loop(struct vm *vm); /* the I/O thread's */
const char *vm_cpu_model(const struct vm *vm);
/* The engine's counters of one vCPU (struct vm_config.cpus), those that are not 0. Any thread. */
void vm_counters(struct vm *vm, unsigned vcpu, cpu_counter_visit *visit, void *opaque);

#endif
