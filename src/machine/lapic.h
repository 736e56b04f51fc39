/*
 * The local APICs of a VM: one for each vCPU, APIC ID = vCPU index, xAPIC and x2APIC.
 *
 * Source: Intel SDM vol. 3, chapter 11 ("Advanced Programmable Interrupt Controller").
 *
 * Threads. Functions marked [own] are called by the LAPIC's own vCPU thread only (or while it does
 * not run); all others by any thread. Posting an interrupt is lock-free: the request register is
 * atomic, and registers that posters look at are written by the owner alone. The timer has a
 * mutex of its own, which is a leaf. Callbacks are made with no lock held and must not call back
 * into a device: `interrupt_set`, `nmi`, `init` and `startup` may come from any thread at any time.
 *
 * How src/vm uses it:
 *  - `interrupt_set(vcpu, true)` -> engine->interrupt_set() and wake the vCPU if it halts. On
 *    CPU_EXIT_INTERRUPT: vector = lapic_acknowledge(); inject unless negative (pending may be
 *    announced spuriously, never too late).
 *  - In HLT sleep while !lapic_has_interrupt(), no longer than until lapic_timer_deadline_ns(),
 *    and call lapic_timer_poll() after every sleep: the vCPU wakes by itself for its own timer.
 *  - `init`: the target's thread resets the CPU (x86_state_reset), calls lapic_init_reset(), then
 *    waits for `startup`, which carries the page of the start address. A vCPU that does not wait
 *    for a start-up IPI ignores it.
 *  - An MMIO exit in the page lapic_mmio_base() of the running vCPU goes to lapic_mmio_read/write.
 */
#ifndef FREEHOLD_MACHINE_LAPIC_H
#define FREEHOLD_MACHINE_LAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"
#include "machine/tsc.h"

#define LAPIC_BASE_DEFAULT UINT64_C(0xfee00000)
#define LAPIC_TIMER_HZ     UINT64_C(1000000000) /* what the divider divides */
#define LAPIC_NO_DEADLINE  UINT64_MAX

struct lapic;
struct lapic_set;

struct lapic_ops {
    /* false comes from the owner only; true from anyone, also when it is true already: keep that
     * case cheap. */
    void (*interrupt_set)(void *opaque, unsigned vcpu, bool pending);
    void (*nmi)(void *opaque, unsigned vcpu);
    void (*init)(void *opaque, unsigned vcpu);
    void (*startup)(void *opaque, unsigned vcpu, uint8_t vector);
};

struct lapic_set_config {
    unsigned count;              /* vCPUs, 1 to 255 */
    unsigned physical_bits;      /* of the CPU's addresses, 36 to 52 */
    bool x2apic, tsc_deadline;   /* what CPUID says that there is */
    struct loop *loop;           /* runs the timers */
    const struct tsc_clock *tsc; /* outlives the set */
    const struct lapic_ops *ops;
    void *opaque; /* for ops */
};

MUST_CHECK int lapic_set_new(const struct lapic_set_config *config, struct lapic_set **out);
void lapic_set_free(struct lapic_set *set);
void lapic_set_reset(struct lapic_set *set); /* RESET of all; no vCPU runs */
struct lapic *lapic_set_get(struct lapic_set *set, unsigned vcpu);

/* Wires the chips that LAPICs call (once, before vCPUs run): the end of a level-triggered
 * interrupt goes to the I/O APIC, an acknowledge of LINT0's ExtINT to the 8259s. */
struct lapic_chips {
    void (*eoi)(void *ioapic, uint8_t vector);
    void *ioapic;
    uint8_t (*pic_acknowledge)(void *pic);
    void *pic;
};
void lapic_set_wire(struct lapic_set *set, const struct lapic_chips *chips);

/* A message-signalled interrupt (SDM vol. 3, 11.11). Fits struct msi_target.send. */
void lapic_set_deliver_msi(void *set, uint64_t address, uint32_t data);

/* The 8259s' INTR output, which drives LINT0 of every LAPIC. Fits struct irq_line.set. */
void lapic_set_lint0(void *set, unsigned pin, bool level);

/* LINT1, the board's NMI wire; an edge. Fits struct irq_line.set. */
void lapic_set_lint1(void *set, unsigned pin, bool level);

void lapic_init_reset(struct lapic *lapic); /* [own] what INIT does to the LAPIC */

/* [own] Register accesses. MMIO: offset within the page; accesses that are not 32 bits wide at a
 * 16-byte boundary read as zero and are ignored. */
bool lapic_mmio_enabled(const struct lapic *lapic); /* xAPIC mode: the page is mapped */
uint64_t lapic_mmio_base(const struct lapic *lapic);
uint64_t lapic_mmio_read(struct lapic *lapic, uint32_t offset, unsigned size);
void lapic_mmio_write(struct lapic *lapic, uint32_t offset, unsigned size, uint64_t value);

/* [own] MSRs 0x1b (IA32_APIC_BASE), 0x6e0 (IA32_TSC_DEADLINE), 0x800 to 0x8ff. -ENOENT: not an
 * MSR of the LAPIC; -EINVAL: #GP(0). */
MUST_CHECK int lapic_msr_read(struct lapic *lapic, uint32_t index, uint64_t *value);
MUST_CHECK int lapic_msr_write(struct lapic *lapic, uint32_t index, uint64_t value);
bool lapic_enabled(const struct lapic *lapic); /* IA32_APIC_BASE bit 11: CPUID.1:EDX.APIC */

/* [own] CR8 (task priority >> 4). */
uint64_t lapic_cr8_get(const struct lapic *lapic);
void lapic_cr8_set(struct lapic *lapic, uint64_t value);

/* Whether an interrupt can be taken (RFLAGS.IF aside). */
bool lapic_has_interrupt(const struct lapic *lapic);

/* [own] The vector to inject, which moves from requested to in service; negative: none. */
int lapic_acknowledge(struct lapic *lapic);

/* The monotonic time at which this LAPIC's timer next fires, or LAPIC_NO_DEADLINE. */
uint64_t lapic_timer_deadline_ns(struct lapic *lapic);
void lapic_timer_poll(struct lapic *lapic); /* fires it if it is due */

/* [own] Guest TSC = host TSC + offset (0 until set). Set it whenever the engine changes it. */
void lapic_tsc_offset_set(struct lapic *lapic, uint64_t offset);

#endif
