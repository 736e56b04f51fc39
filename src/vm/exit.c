/*
 * What a vCPU's exits mean: each is answered by the bus, the LAPIC, the paravirtual clock or the
 * VM's own rules. Threads: the vCPU's own. Everything in an exit is the guest's and hostile; it
 * only ever names an address, which the callee checks.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>

#include "machine/pvclock.h"
#include "vm/vm_internal.h"

static void exit_io(struct vm_vcpu *vcpu, struct cpu_exit *exit)
{
    struct bus *ports = pc_ports(vcpu->vm->pc);

    if (exit->io.write)
        bus_write(ports, exit->io.port, exit->io.size, exit->io.value);
    else
        exit->io.value = (uint32_t)bus_read(ports, exit->io.port, exit->io.size);
}

/* The LAPIC's page is each vCPU's own, so it is not on the bus. */
static bool exit_is_lapic(const struct vm_vcpu *vcpu, uint64_t gpa)
{
    return lapic_mmio_enabled(vcpu->lapic) &&
           (gpa & ~(GUEST_PAGE_SIZE - 1)) == lapic_mmio_base(vcpu->lapic);
}

static void exit_lapic(struct vm_vcpu *vcpu, struct cpu_exit *exit)
{
    uint32_t offset = (uint32_t)(exit->mmio.gpa % GUEST_PAGE_SIZE);

    if (exit->mmio.write)
        lapic_mmio_write(vcpu->lapic, offset, exit->mmio.size, exit->mmio.value);
    else
        exit->mmio.value = lapic_mmio_read(vcpu->lapic, offset, exit->mmio.size);
}

static void exit_mmio(struct vm_vcpu *vcpu, struct cpu_exit *exit)
{
    struct pc *pc = vcpu->vm->pc;

    if (exit_is_lapic(vcpu, exit->mmio.gpa))
        exit_lapic(vcpu, exit);
    else if (!exit->mmio.write)
        exit->mmio.value = bus_read(pc_mmio(pc), exit->mmio.gpa, exit->mmio.size);
    else if (!mem_slot_find(pc_mem(pc), exit->mmio.gpa)) /* else a write to ROM: nothing happens */
        bus_write(pc_mmio(pc), exit->mmio.gpa, exit->mmio.size, exit->mmio.value);
}

/* Asks the owners in turn; -ENOENT means "not mine", -EINVAL #GP(0). */
static int msr_read(struct vm_vcpu *vcpu, uint32_t index, uint64_t *value)
{
    int rc = lapic_msr_read(vcpu->lapic, index, value);

    if (rc == -ENOENT)
        rc = pvclock_msr_read(pc_pvclock(vcpu->vm->pc), vcpu->index, index, value);
    return rc == -ENOENT ? msr_default_read(index, value) : rc;
}

static int msr_write(struct vm_vcpu *vcpu, uint32_t index, uint64_t value)
{
    int rc = lapic_msr_write(vcpu->lapic, index, value);

    if (rc == -ENOENT)
        rc = pvclock_msr_write(pc_pvclock(vcpu->vm->pc), vcpu->index, index, value);
    return rc == -ENOENT ? msr_default_write(index, value) : rc;
}

static void exit_msr(struct vm_vcpu *vcpu, struct cpu_exit *exit)
{
    int rc;

    vcpu_tsc_sync(vcpu);
    if (exit->msr.write)
        rc = msr_write(vcpu, exit->msr.index, exit->msr.value);
    else
        rc = msr_read(vcpu, exit->msr.index, &exit->msr.value);
    exit->msr.fault = rc < 0;
}

static void exit_cr8(struct vm_vcpu *vcpu, struct cpu_exit *exit)
{
    exit->msr.fault = false;
    if (exit->msr.write)
        lapic_cr8_set(vcpu->lapic, exit->msr.value);
    else
        exit->msr.value = lapic_cr8_get(vcpu->lapic);
}

/* With interrupts disabled only NMI and INIT end a halt. */
static void exit_halt(struct vm_vcpu *vcpu)
{
    vcpu->vm->engine->state_get(vcpu->cpu, &vcpu->state);
    vcpu->interruptible = (vcpu->state.rflags & X86_RFLAGS_IF) != 0;
    vcpu->activity = VCPU_HALTED;
}

/* The announcement may be stale; the LAPIC then withdraws it. */
static void exit_interrupt(struct vm_vcpu *vcpu)
{
    int vector = lapic_acknowledge(vcpu->lapic);

    if (vector >= 0)
        vcpu->vm->engine->inject(vcpu->cpu, (uint8_t)vector, false);
}

/* Ends the VM with a sentence that says where the guest was. */
static void exit_fatal(struct vm_vcpu *vcpu, enum vm_end end, const char *what)
{
    const struct x86_state *state = &vcpu->state;
    char text[512];

    vcpu->vm->engine->state_get(vcpu->cpu, &vcpu->state);
    snprintf(text, sizeof text,
             "vCPU %u %s at CS:RIP %04x:%016llx (RSP %016llx, CR0 %08llx, CR2 %016llx, "
             "CR3 %016llx, CR4 %08llx, EFER %04llx)",
             vcpu->index, what, state->seg[X86_CS].selector, (unsigned long long)state->rip,
             (unsigned long long)state->gpr[X86_RSP], (unsigned long long)state->cr0,
             (unsigned long long)state->cr2, (unsigned long long)state->cr3,
             (unsigned long long)state->cr4, (unsigned long long)state->efer);
    vm_end_request(vcpu->vm, end, 0, text);
}

static void exit_failed(struct vm_vcpu *vcpu, const struct cpu_exit *exit)
{
    char what[200];

    snprintf(what, sizeof what, "cannot go on: %.*s,", (int)sizeof exit->failed, exit->failed);
    exit_fatal(vcpu, VM_END_FAILED, what);
}

void vcpu_exit_handle(struct vm_vcpu *vcpu)
{
    struct cpu_exit *exit = &vcpu->exit;

    switch (exit->kind) {
    case CPU_EXIT_KICKED:
        break;
    case CPU_EXIT_IO:
        exit_io(vcpu, exit);
        break;
    case CPU_EXIT_MMIO:
        exit_mmio(vcpu, exit);
        break;
    case CPU_EXIT_MSR:
        exit_msr(vcpu, exit);
        break;
    case CPU_EXIT_CR8:
        exit_cr8(vcpu, exit);
        break;
    case CPU_EXIT_HALT:
        exit_halt(vcpu);
        break;
    case CPU_EXIT_INTERRUPT:
        exit_interrupt(vcpu);
        break;
    case CPU_EXIT_SHUTDOWN:
        exit_fatal(vcpu, VM_END_TRIPLE_FAULT, "took a triple fault");
        break;
    case CPU_EXIT_PAUSE:
        sched_yield();
        break;
    case CPU_EXIT_FAILED:
        exit_failed(vcpu, exit);
        break;
    }
}
