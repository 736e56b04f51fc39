/*
 * The lockstep engine: one vCPU twice. The leader is translated and has the VM's memory and
 * devices; the follower is interpreted, on a copy of the memory, and gets from a record what the
 * leader got from outside. After each run of the leader the follower executes as many instructions,
 * and then both must have the same registers, have stored the same and have asked the devices for
 * the same.
 *
 * Runs end between instructions, after a random number of them (struct soft_vcpu.fuel): translated
 * code counts at the entry of each block, and a run that ends in a block's middle ends interpreted.
 * Interrupts are injected only between runs, into both. Devices may change memory only between runs
 * (struct mem_gate); what they changed is copied to the follower before the next. A transfer by
 * readv(2) goes past the gate, but its request is taken between two runs, so that what the guest
 * stored in the buffer before was compared, and the guest does not look there before the end is
 * announced, which waits, too.
 *
 * What may differ: accessed bits of page tables (their caching is the engine's affair), and memory
 * under transfer. All of memory is compared now and then, apart from what was stored in a run.
 *
 * Threads: both run on the vCPU's thread; gate functions on any. Lock order: devices' locks, world,
 * lock. Input: guest code; nothing of it is trusted.
 */
#include "cpu/soft/lockstep.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/counted.h"
#include "base/log.h"
#include "cpu/soft/code.h"

#define STRIDE_DEFAULT  1000
#define BLOCKS_SHOWN    6
#define CHANGES_MAX     ((size_t)1 << 20)
#define COPY_BYTES      65536
#define MEMORY_INTERVAL (UINT64_C(1) << 28) /* instructions */

static struct lockstep_vm *vm_of(struct cpu_vm *vm)
{
    return (struct lockstep_vm *)(void *)vm;
}

static struct lockstep *lockstep_of(struct vcpu *vcpu)
{
    return (struct lockstep *)(void *)vcpu;
}

/* -- the gate: device threads, and the vCPU's own between runs -- */

static void gate_begin(void *opaque)
{
    struct lockstep_vm *vm = opaque;

    atomic_fetch_add(&vm->waiting, 1);
    pthread_mutex_lock(&vm->world);
    atomic_fetch_sub(&vm->waiting, 1);
}

static void gate_end(void *opaque)
{
    struct lockstep_vm *vm = opaque;

    pthread_mutex_unlock(&vm->world);
}

static bool change_extends(struct lockstep_range *last, uint64_t gpa, uint64_t length)
{
    if (last->gpa == gpa && last->length >= length)
        return true;
    if (last->gpa + last->length != gpa)
        return false;
    last->length += length;
    return true;
}

static void gate_changed(void *opaque, uint64_t gpa, uint64_t length)
{
    struct lockstep_vm *vm = opaque;

    pthread_mutex_lock(&vm->lock);
    if (vm->change_count > 0 && change_extends(&vm->changes[vm->change_count - 1], gpa, length))
        goto out;
    if (vm->change_count == vm->change_capacity) {
        size_t capacity = vm->change_capacity ? 2 * vm->change_capacity : 64;
        struct lockstep_range *more =
            capacity > CHANGES_MAX ? NULL : reallocarray(vm->changes, capacity, sizeof *more);

        if (!more) {
            vm->changes_lost = true;
            goto out;
        }
        vm->changes = more;
        vm->change_capacity = capacity;
    }
    vm->changes[vm->change_count++] = (struct lockstep_range){gpa, length};
out:
    pthread_mutex_unlock(&vm->lock);
}

/* Devices that wait get their turn. */
static void world_yield(struct lockstep_vm *vm)
{
    if (atomic_load(&vm->waiting) == 0)
        return;
    pthread_mutex_unlock(&vm->world);
    while (atomic_load(&vm->waiting) != 0)
        sched_yield();
    pthread_mutex_lock(&vm->world);
}

/* -- the follower's memory -- */

static int range_copy(struct lockstep_vm *vm, uint64_t gpa, uint64_t length)
{
    static const uint64_t most = COPY_BYTES;

    while (length > 0) {
        uint64_t part = length < most ? length : most;
        const void *from = mem_span(vm->mem, gpa, part);

        if (!from)
            part = GUEST_PAGE_SIZE - gpa % GUEST_PAGE_SIZE; /* from one slot into the next */
        if (part > length)
            part = length;
        from = mem_span(vm->mem, gpa, part);
        if (from && mem_write(vm->copy, gpa, from, part) != 0)
            return -EFAULT;
        gpa += part;
        length -= part;
    }
    return 0;
}

/* With the world held: what devices have changed since the last run, to the follower. */
static bool changes_copy(struct lockstep_vm *vm)
{
    bool copied = !vm->changes_lost;

    pthread_mutex_lock(&vm->lock);
    for (size_t i = 0; i < vm->change_count; i++)
        copied = range_copy(vm, vm->changes[i].gpa, vm->changes[i].length) == 0 && copied;
    vm->change_count = 0;
    pthread_mutex_unlock(&vm->lock);
    return copied;
}

/* What a slot holds already; pages that were never touched stay so. */
static int slot_copy(struct lockstep_vm *vm, const struct mem_slot *slot)
{
    const uint64_t end = slot->gpa + slot->size;
    uint64_t at = slot->gpa;
    int result = 0;

    while (result == 0 && (at = mem_touched_find(vm->mem, at, end)) < end) {
        result = range_copy(vm, at, GUEST_PAGE_SIZE);
        at += GUEST_PAGE_SIZE;
    }
    return result;
}

static int copy_make(struct lockstep_vm *vm, struct error *err)
{
    int result = mem_new(&vm->copy);

    for (unsigned i = 0; result == 0 && i < mem_slot_count(vm->mem); i++) {
        const struct mem_slot *slot = mem_slot_get(vm->mem, i);

        if (slot->kind == MEM_ROM) {
            result = mem_add_rom(vm->copy, slot->gpa, slot->host, slot->size, err);
            continue;
        }
        result = mem_add_ram(vm->copy, slot->gpa, slot->size, err);
        if (result == 0)
            result = slot_copy(vm, slot);
    }
    return result;
}

/* -- the VM -- */

static void lockstep_vm_free(struct cpu_vm *opaque)
{
    struct lockstep_vm *vm = vm_of(opaque);

    if (!vm)
        return;
    mem_gate_set(vm->mem, NULL);
    cpu_engine_soft.vm_free(vm->lead);
    cpu_engine_interpreter.vm_free(vm->follow);
    mem_free(vm->copy);
    free(vm->changes);
    pthread_mutex_destroy(&vm->world);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

static int engines_make(struct lockstep_vm *vm, const struct cpu_config *config, struct error *err)
{
    struct cpu_config follower = *config;
    const struct mem_gate gate = {gate_begin, gate_end, gate_changed, vm};
    int result = copy_make(vm, err);

    if (result < 0)
        return result;
    mem_gate_set(vm->mem, &gate);
    result = cpu_engine_soft.vm_new(config, &vm->lead, err);
    if (result < 0)
        return result;
    follower.mem = vm->copy;
    follower.tools = NULL;
    result = cpu_engine_interpreter.vm_new(&follower, &vm->follow, err);
    if (result < 0)
        return result;
    vm->lead->soft.counted = true;
    vm->follow->soft.counted = true;
    return 0;
}

static int lockstep_vm_new(const struct cpu_config *config, struct cpu_vm **out, struct error *err)
{
    struct lockstep_vm *vm;
    pthread_mutexattr_t recursive;
    int result;

    if (config->vcpu_count != 1)
        return error_set(err, -EINVAL, "the lockstep engine runs one vCPU: give --cpus 1");
    vm = calloc(1, sizeof *vm);
    if (!vm)
        return error_set(err, -ENOMEM, "not enough memory for the lockstep engine");
    vm->mem = config->mem;
    vm->stride = config->lockstep_blocks ? 0 : STRIDE_DEFAULT;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&vm->world, &recursive);
    pthread_mutexattr_destroy(&recursive);
    pthread_mutex_init(&vm->lock, NULL);
    result = engines_make(vm, config, err);
    if (result < 0) {
        lockstep_vm_free((struct cpu_vm *)(void *)vm);
        return result;
    }
    *out = (struct cpu_vm *)(void *)vm;
    return 0;
}

static void lockstep_vcpu_free(struct vcpu *vcpu)
{
    struct lockstep *l = lockstep_of(vcpu);

    if (!l)
        return;
    if (l->lead)
        cpu_engine_soft.vcpu_free(l->lead);
    if (l->follow)
        cpu_engine_interpreter.vcpu_free(l->follow);
    soft_record_fini(&l->record);
    free(l->trail.stores);
    free(l->trail.bytes);
    free(l);
}

static int lockstep_vcpu_new(struct cpu_vm *vm, unsigned index, struct vcpu **out,
                             struct error *err)
{
    struct lockstep *l = aligned_alloc(_Alignof(struct lockstep), sizeof *l);
    int result;

    if (!l)
        return error_set(err, -ENOMEM, "not enough memory for vCPU %u", index);
    memset(l, 0, sizeof *l);
    l->vm = vm_of(vm);
    l->random = 1;
    l->memory_due = MEMORY_INTERVAL;
    result = cpu_engine_soft.vcpu_new(l->vm->lead, index, &l->lead, err);
    if (result == 0)
        result = cpu_engine_interpreter.vcpu_new(l->vm->follow, index, &l->follow, err);
    if (result < 0) {
        lockstep_vcpu_free((struct vcpu *)(void *)l);
        return result;
    }
    l->lead->soft.record = &l->record;
    l->lead->soft.by_block = l->vm->stride == 0;
    l->follow->soft.record = &l->record;
    l->follow->soft.trail = &l->trail;
    *out = (struct vcpu *)(void *)l;
    return 0;
}

/* -- running -- */

/* Runs of any length up to the stride, most of them long; the same in each VM. */
static int64_t run_length(struct lockstep *l)
{
    l->random = l->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    if (l->vm->stride == 0)
        return SOFT_BLOCK_OPS_MAX;
    return 1 + (int64_t)((l->random >> 33) % l->vm->stride);
}

static void lead_run(struct lockstep *l, struct cpu_exit *exit)
{
    struct soft_vcpu *c = &l->lead->soft;
    /* An instruction that waited for a device is completed alone. */
    const int64_t fuel = c->io_waiting ? 1 : run_length(l);

    l->record.replaying = false;
    c->fuel_given = c->fuel = fuel;
    c->fuel_cut = 0;
    cpu_engine_soft.run(l->lead, exit);
    l->behind += (uint64_t)(fuel - c->fuel_cut - c->fuel);
    l->run = (uint64_t)(fuel - c->fuel_cut - c->fuel);
    c->fuel_given -= (int64_t)l->run; /* from now on the clock has it */
    counted_add(l->run);
    l->retired += l->run;
}

/* The follower catches up. Why it could not, or NULL. */
static const char *follow_run(struct lockstep *l)
{
    struct soft_vcpu *c = &l->follow->soft;
    struct cpu_exit exit = {0};

    if (l->behind == 0)
        return NULL;
    l->record.replaying = true;
    c->fuel = (int64_t)l->behind;
    cpu_engine_interpreter.run(l->follow, &exit);
    l->behind = 0;
    if (exit.kind == CPU_EXIT_FAILED)
        return l->record.difference;
    if (c->fuel != 0)
        return exit.kind == CPU_EXIT_HALT       ? "the interpreter halts earlier"
               : exit.kind == CPU_EXIT_SHUTDOWN ? "the interpreter takes a triple fault earlier"
                                                : "the interpreter does not stop there";
    return NULL;
}

/* Whether the leader stands between two instructions, so that all of its state can be compared. */
static bool lead_is_between(const struct lockstep *l, const struct cpu_exit *exit)
{
    return !l->lead->soft.io_waiting && exit->kind != CPU_EXIT_SHUTDOWN;
}

static bool memory_is_due(struct lockstep *l)
{
    if (l->retired < l->memory_due)
        return false;
    l->memory_due = l->retired + MEMORY_INTERVAL;
    return true;
}

static bool differs(struct lockstep *l, const struct cpu_exit *exit, char text[LOCKSTEP_TEXT])
{
    const char *why = follow_run(l);

    if (why) {
        snprintf(text, LOCKSTEP_TEXT, "%s", why);
        return true;
    }
    if (!lead_is_between(l, exit))
        return lockstep_stores_differ(l, text);
    if (l->record.read != l->record.count) {
        snprintf(text, LOCKSTEP_TEXT, "the interpreter has taken fewer inputs");
        return true;
    }
    return lockstep_states_differ(l, text) || lockstep_stores_differ(l, text) ||
           (memory_is_due(l) && lockstep_memory_differs(l, text));
}

static void fail(struct lockstep *l, struct cpu_exit *exit, const char *text)
{
    char found[LOCKSTEP_TEXT];

    lockstep_report(l, text, BLOCKS_SHOWN);
    if (!l->start_whole)
        log_error("lockstep: the run began inside an instruction and can't be repeated");
    else if (lockstep_find(l, found))
        lockstep_report(l, found, 1);
    else
        log_error("lockstep: there is no difference when the run is repeated: it takes links, "
                  "lookups or a TLB as they were");
    exit->kind = CPU_EXIT_FAILED;
    snprintf(exit->failed, sizeof exit->failed, "translator and interpreter differ: %s", text);
}

static void lockstep_inject(struct vcpu *vcpu, uint8_t vector, bool nmi)
{
    struct lockstep *l = lockstep_of(vcpu);

    if (nmi) {
        l->nmis++;
        return;
    }
    cpu_engine_soft.inject(l->lead, vector, false);
    cpu_engine_interpreter.inject(l->follow, vector, false);
}

static void nmis_inject(struct lockstep *l)
{
    for (; l->nmis > 0 && !l->lead->soft.io_waiting; l->nmis--) {
        cpu_engine_soft.inject(l->lead, X86_NMI, true);
        cpu_engine_interpreter.inject(l->follow, X86_NMI, true);
    }
}

static void lockstep_run(struct vcpu *vcpu, struct cpu_exit *exit)
{
    struct lockstep *l = lockstep_of(vcpu);
    char text[LOCKSTEP_TEXT] = "";

    pthread_mutex_lock(&l->vm->world);
    do {
        world_yield(l->vm);
        if (!changes_copy(l->vm))
            snprintf(text, sizeof text, "devices have changed memory too often");
        nmis_inject(l);
        lockstep_start_note(l);
        lead_run(l, exit);
        if (text[0] || differs(l, exit, text))
            fail(l, exit, text);
    } while (exit->kind == CPU_EXIT_PAUSE);
    pthread_mutex_unlock(&l->vm->world);
}

/* -- the engine's other operations -- */

static int lockstep_probe(struct error *why)
{
    return cpu_engine_soft.probe(why);
}

static void lockstep_kick(struct vcpu *vcpu)
{
    cpu_engine_soft.kick(lockstep_of(vcpu)->lead);
}

static void lockstep_interrupt_set(struct vcpu *vcpu, bool pending)
{
    cpu_engine_soft.interrupt_set(lockstep_of(vcpu)->lead, pending);
}

static void lockstep_state_get(struct vcpu *vcpu, struct x86_state *state)
{
    cpu_engine_soft.state_get(lockstep_of(vcpu)->lead, state);
}

static int lockstep_state_set(struct vcpu *vcpu, const struct x86_state *state, struct error *err)
{
    struct lockstep *l = lockstep_of(vcpu);
    int result = cpu_engine_soft.state_set(l->lead, state, err);

    if (result == 0)
        result = cpu_engine_interpreter.state_set(l->follow, state, err);
    cpu_engine_interpreter.tsc_offset_set(l->follow, cpu_engine_soft.tsc_offset_get(l->lead));
    soft_record_clear(&l->record);
    l->behind = 0;
    l->nmis = 0;
    return result;
}

static uint64_t lockstep_tsc_offset_get(struct vcpu *vcpu)
{
    return cpu_engine_soft.tsc_offset_get(lockstep_of(vcpu)->lead);
}

static void lockstep_tsc_offset_set(struct vcpu *vcpu, uint64_t offset)
{
    struct lockstep *l = lockstep_of(vcpu);

    cpu_engine_soft.tsc_offset_set(l->lead, offset);
    cpu_engine_interpreter.tsc_offset_set(l->follow, offset);
}

static void lockstep_counters(struct vcpu *vcpu, cpu_counter_visit *visit, void *opaque)
{
    const struct lockstep *l = lockstep_of(vcpu);
    const struct cpu_counter retired = {"lockstep", "instructions", l->retired};

    visit(opaque, &retired);
    cpu_engine_soft.counters(l->lead, visit, opaque);
}

const struct cpu_engine cpu_engine_lockstep = {
    .name = "lockstep",
    .counts_time = true,
    .description = "translator and interpreter side by side, stops where they differ: for tests",
    .probe = lockstep_probe,
    .vm_new = lockstep_vm_new,
    .vm_free = lockstep_vm_free,
    .vcpu_new = lockstep_vcpu_new,
    .vcpu_free = lockstep_vcpu_free,
    .run = lockstep_run,
    .kick = lockstep_kick,
    .interrupt_set = lockstep_interrupt_set,
    .inject = lockstep_inject,
    .state_get = lockstep_state_get,
    .state_set = lockstep_state_set,
    .tsc_offset_get = lockstep_tsc_offset_get,
    .tsc_offset_set = lockstep_tsc_offset_set,
    .counters = lockstep_counters,
};
