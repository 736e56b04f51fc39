/*
 * The board `pc`: RAM, buses, interrupt controllers, timers, legacy devices, PCI Express with
 * virtio functions, ACPI and SMBIOS tables, and the image to boot. The VM above it (src/vm) runs
 * vCPU threads and routes their exits here; the board calls back through `struct pc_events`.
 *
 * Threads: pc_new, pc_reset and pc_free while no vCPU runs. Everything reached through the buses
 * may be called by any vCPU's thread; timers and back ends run on the loop's thread. Input: the
 * user's configuration (checked here, answered by one sentence) and, through the buses, the guest's
 * hostile accesses (checked by each device).
 */
#ifndef FREEHOLD_MACHINE_PC_H
#define FREEHOLD_MACHINE_PC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"
#include "cpu/x86/cpuid.h"
#include "cpu/x86/state.h"
#include "machine/boot.h"
#include "machine/lapic.h"
#include "mem/bus.h"
#include "mem/mem.h"

struct block;
struct char_backend;
struct net_port;
struct pvclock;

#define PC_VCPUS_MAX  64
#define PC_DISKS_MAX  16
#define PC_NETS_MAX   4
#define PC_SERIAL_MAX 4

/*
 * What the board asks of the VM. Any thread may call (a vCPU's inside a bus access, the loop's),
 * with device locks held: only note the request, kick and return; never call back into the board.
 * After a poweroff, sleep, reset, panic or debug_exit the calling vCPU should leave its run loop
 * before it runs another instruction.
 */
struct pc_events {
    void *opaque;
    void (*poweroff)(void *opaque);
    void (*sleep)(void *opaque); /* to S3: RAM stays, pc_resume() goes on */
    void (*wake)(void *opaque);  /* from it: follows each sleep, any time later */
    void (*reset)(void *opaque);
    void (*panic)(void *opaque);                      /* the guest reported its own panic */
    void (*debug_exit)(void *opaque, uint32_t value); /* the value as written */
    struct lapic_ops lapic;                           /* called with the same opaque */
};

struct pc_disk {
    struct block *block; /* opened by the caller, who also closes it after pc_free() */
    const char *serial;  /* NULL: none */
};

struct pc_config {
    const char *name; /* NULL: none */
    uint64_t memory_bytes;
    unsigned vcpu_count;
    const struct x86_cpuid *cpuid;
    struct loop *loop; /* the I/O thread's */
    struct boot_config boot;
    unsigned disk_count;
    struct pc_disk disk[PC_DISKS_MAX];
    unsigned net_count;
    struct net_port *net[PC_NETS_MAX];          /* become the board's, also when pc_new fails */
    struct char_backend *serial[PC_SERIAL_MAX]; /* the caller's; NULL: that port is not there */
    struct char_backend *console;               /* the caller's; NULL: no virtio console */
    bool debug_exit;                            /* offer port 0xf4 */
    bool testdev;                               /* offer the test device */
    struct pc_events events;
};

struct pc;

/* Checks the whole configuration and opens the boot images; -errno with the user's sentence. The
 * board is not yet reset: call pc_reset() before the first run. */
MUST_CHECK int pc_new(const struct pc_config *config, struct pc **out, struct error *err);
void pc_free(struct pc *pc);

/* Power on and every later reset: resets every device, loads the boot image again, and gives vCPU
 * 0's first state. The other vCPUs wait for INIT and start-up IPIs (x86_state_reset, then halted).
 */
MUST_CHECK int pc_reset(struct pc *pc, struct x86_state *boot_vcpu, struct error *err);

/* The end of S3: resets every device, keeps RAM, and gives the state of vCPU 0 where the OS wants
 * to go on (or in firmware, which finds that out). The other vCPUs wait as after pc_reset(). */
MUST_CHECK int pc_resume(struct pc *pc, struct x86_state *boot_vcpu, struct error *err);

struct mem *pc_mem(struct pc *pc);
struct bus *pc_ports(struct pc *pc);
struct bus *pc_mmio(struct pc *pc);
struct lapic *pc_lapic(struct pc *pc, unsigned vcpu); /* interrupts, MMIO page, MSRs, CR8 */
struct pvclock *pc_pvclock(struct pc *pc);

/* The user presses the power button (an ACPI event; the guest decides). */
void pc_power_button(struct pc *pc);

#endif
