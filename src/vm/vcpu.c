/*
 * A vCPU's thread: parks until the VM is powered on, then runs the engine, sleeps when the guest
 * halts, and does what other vCPUs' interrupts ask (INIT, start-up, NMI).
 *
 * Sleeping: the thread notes `wake`, looks at everything that could keep it awake, and sleeps on a
 * futex that is still at that value. Whoever changes something adds to `wake` afterwards: no
 * wake-up can be lost.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/counted.h"
#include "machine/pvclock.h"
#include "vm/vm_internal.h"

/* ---- wake and sleep ---- */

void vcpu_wake(struct vm_vcpu *vcpu)
{
    atomic_fetch_add(&vcpu->wake, 1);
    if (atomic_load(&vcpu->asleep))
        syscall(SYS_futex, &vcpu->wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Makes the thread look at its requests, whether it runs or sleeps. */
void vcpu_kick(struct vm_vcpu *vcpu)
{
    if (vcpu->cpu)
        vcpu->vm->engine->kick(vcpu->cpu);
    vcpu_wake(vcpu);
}

/* Sleeps until woken since `seen`, or the monotonic deadline. */
static void vcpu_futex_wait(struct vm_vcpu *vcpu, uint32_t seen, uint64_t deadline_ns)
{
    uint64_t host_ns = deadline_ns == LAPIC_NO_DEADLINE ? 0 : counted_host_deadline(deadline_ns);
    struct timespec deadline = {.tv_sec = (time_t)(host_ns / NS_PER_SECOND),
                                .tv_nsec = (long)(host_ns % NS_PER_SECOND)};

    atomic_store(&vcpu->asleep, true);
    syscall(SYS_futex, &vcpu->wake, FUTEX_WAIT_BITSET_PRIVATE, seen,
            deadline_ns == LAPIC_NO_DEADLINE ? NULL : &deadline, NULL, FUTEX_BITSET_MATCH_ANY);
    atomic_store(&vcpu->asleep, false);
}

static void vcpu_sleep(struct vm_vcpu *vcpu, uint32_t seen)
{
    bool idles = counted_is_on() && vcpu->activity == VCPU_HALTED;

    if (idles)
        counted_idle(true);
    vcpu_futex_wait(vcpu, seen, lapic_timer_deadline_ns(vcpu->lapic));
    if (idles)
        counted_idle(false);
    lapic_timer_poll(vcpu->lapic);
}

/* ---- what LAPICs ask of vCPUs: any thread ---- */

static void lapic_interrupt_set(void *opaque, unsigned index, bool pending)
{
    struct vm *vm = opaque;
    struct vm_vcpu *vcpu = &vm->vcpu[index];

    if (!vcpu->cpu)
        return; /* the board is still being built */
    vm->engine->interrupt_set(vcpu->cpu, pending);
    if (pending)
        vcpu_wake(vcpu);
}

static void lapic_nmi(void *opaque, unsigned index)
{
    struct vm *vm = opaque;

    _Atomic(uint32_t) *requests = &vm->vcpu[index].requests;

    if (atomic_fetch_or(requests, VCPU_REQUEST_NMI) & VCPU_REQUEST_NMI)
        atomic_fetch_or(requests, VCPU_REQUEST_NMI_2);
    vcpu_kick(&vm->vcpu[index]);
}

/* An INIT forgets start-up IPIs that came before it. */
static void lapic_init(void *opaque, unsigned index)
{
    struct vm *vm = opaque;
    _Atomic(uint32_t) *requests = &vm->vcpu[index].requests;
    uint32_t old = atomic_load(requests), new;

    do {
        new = (old & ~(VCPU_REQUEST_STARTUP | VCPU_REQUEST_VECTOR)) | VCPU_REQUEST_INIT;
    } while (!atomic_compare_exchange_weak(requests, &old, new));
    vcpu_kick(&vm->vcpu[index]);
}

/* Of two start-up IPIs in a row (the usual sequence) the first counts. */
static void lapic_startup(void *opaque, unsigned index, uint8_t vector)
{
    struct vm *vm = opaque;
    _Atomic(uint32_t) *requests = &vm->vcpu[index].requests;
    uint32_t old = atomic_load(requests), new;

    do {
        if (old & VCPU_REQUEST_STARTUP)
            return;
        new = old | VCPU_REQUEST_STARTUP | (uint32_t)vector << 8;
    } while (!atomic_compare_exchange_weak(requests, &old, new));
    vcpu_kick(&vm->vcpu[index]);
}

const struct lapic_ops vcpu_lapic_ops = {
    .interrupt_set = lapic_interrupt_set,
    .nmi = lapic_nmi,
    .init = lapic_init,
    .startup = lapic_startup,
};

/* ---- the thread ---- */

/* The devices that count in the guest's TSC are told where it is. */
static void vcpu_tsc_publish(struct vm_vcpu *vcpu, uint64_t offset)
{
    vcpu->tsc_offset = offset;
    lapic_tsc_offset_set(vcpu->lapic, offset);
    pvclock_tsc_offset_set(pc_pvclock(vcpu->vm->pc), vcpu->index, offset);
}

void vcpu_tsc_sync(struct vm_vcpu *vcpu)
{
    uint64_t offset = vcpu->vm->engine->tsc_offset_get(vcpu->cpu);

    if (offset != vcpu->tsc_offset)
        vcpu_tsc_publish(vcpu, offset);
}

static void vcpu_state_load(struct vm_vcpu *vcpu, uint64_t tsc_offset)
{
    const struct cpu_engine *engine = vcpu->vm->engine;
    struct error err = {0};

    vcpu->exit = (struct cpu_exit){0};
    if (engine->state_set(vcpu->cpu, &vcpu->state, &err) < 0)
        vm_end_request(vcpu->vm, VM_END_FAILED, 0, err.text);
    engine->tsc_offset_set(vcpu->cpu, tsc_offset);
    vcpu_tsc_publish(vcpu, tsc_offset);
}

/* INIT (SDM vol. 3, 9.4): application processors then wait, the boot processor starts again. */
static void vcpu_init(struct vm_vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;

    vm->engine->state_get(vcpu->cpu, &vcpu->state);
    x86_state_reset(&vcpu->state, false, vm->cpuid.signature);
    vcpu_state_load(vcpu, vm->engine->tsc_offset_get(vcpu->cpu));
    lapic_init_reset(vcpu->lapic);
    vcpu->activity = vcpu->index == 0 ? VCPU_RUNNING : VCPU_WAIT_STARTUP;
}

static void vcpu_startup(struct vm_vcpu *vcpu, uint8_t vector)
{
    const struct cpu_engine *engine = vcpu->vm->engine;

    if (vcpu->activity != VCPU_WAIT_STARTUP)
        return;
    engine->state_get(vcpu->cpu, &vcpu->state);
    x86_state_startup(&vcpu->state, vector);
    vcpu_state_load(vcpu, engine->tsc_offset_get(vcpu->cpu));
    vcpu->activity = VCPU_RUNNING;
}

/* The engine keeps as many as a processor would: at most one waits while one is handled. */
static void vcpu_nmi(struct vm_vcpu *vcpu, uint32_t requests)
{
    const struct cpu_engine *engine = vcpu->vm->engine;

    if (vcpu->activity == VCPU_WAIT_STARTUP)
        return;
    if (requests & VCPU_REQUEST_NMI)
        engine->inject(vcpu->cpu, X86_NMI, true);
    if (requests & VCPU_REQUEST_NMI_2)
        engine->inject(vcpu->cpu, X86_NMI, true);
    vcpu->activity = VCPU_RUNNING;
}

static void vcpu_requests_handle(struct vm_vcpu *vcpu)
{
    uint32_t requests = atomic_load_explicit(&vcpu->requests, memory_order_relaxed);

    if (requests == 0)
        return;
    requests = atomic_exchange(&vcpu->requests, 0);
    if (requests & VCPU_REQUEST_INIT)
        vcpu_init(vcpu);
    if (requests & VCPU_REQUEST_STARTUP)
        vcpu_startup(vcpu, (uint8_t)(requests >> 8));
    if (requests & (VCPU_REQUEST_NMI | VCPU_REQUEST_NMI_2))
        vcpu_nmi(vcpu, requests);
}

/* A halt with interrupts enabled ends by taking one. It is injected here, not announced: the
 * announcement may be under way still, and the guest would get past its HLT without an interrupt.
 */
static void vcpu_halt_end(struct vm_vcpu *vcpu)
{
    int vector;

    if (!vcpu->interruptible || !lapic_has_interrupt(vcpu->lapic))
        return;
    vector = lapic_acknowledge(vcpu->lapic);
    if (vector < 0)
        return;
    vcpu->vm->engine->inject(vcpu->cpu, (uint8_t)vector, false);
    vcpu->activity = VCPU_RUNNING;
}

static bool vcpu_runnable(struct vm_vcpu *vcpu)
{
    if (vcpu->activity == VCPU_HALTED)
        vcpu_halt_end(vcpu);
    return vcpu->activity == VCPU_RUNNING;
}

static void vcpu_run(struct vm_vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;

    for (;;) {
        uint32_t seen = atomic_load(&vcpu->wake);

        if (atomic_load(&vm->pause))
            break;
        vcpu_requests_handle(vcpu);
        if (!vcpu_runnable(vcpu)) {
            vcpu_sleep(vcpu, seen);
            continue;
        }
        vm->engine->run(vcpu->cpu, &vcpu->exit);
        vcpu_exit_handle(vcpu);
    }
}

/* Parks until the next power-on; false when the VM ends. `parked` is set back by the power-on, so
 * that a thread counts as running from then on, awake or not. */
static bool vcpu_park(struct vm_vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    bool quit;

    pthread_mutex_lock(&vm->lock);
    vm->parked++;
    pthread_cond_broadcast(&vm->changed);
    while (!vm->quit && vm->generation == vcpu->generation)
        pthread_cond_wait(&vm->changed, &vm->lock);
    vcpu->generation = vm->generation;
    quit = vm->quit;
    pthread_mutex_unlock(&vm->lock);
    return !quit;
}

void *vcpu_main(void *opaque)
{
    struct vm_vcpu *vcpu = opaque;

    while (vcpu_park(vcpu)) {
        vcpu_state_load(vcpu, vcpu->vm->tsc_offset);
        vcpu_run(vcpu);
    }
    return NULL;
}
