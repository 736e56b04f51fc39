/* Shared by lapic.c (registers, acceptance), lapic_ipi.c (messages) and lapic_timer.c. */
#ifndef FREEHOLD_MACHINE_LAPIC_INTERNAL_H
#define FREEHOLD_MACHINE_LAPIC_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "machine/lapic.h"

/* Register numbers: MMIO offset >> 4, x2APIC MSR - 0x800 (SDM vol. 3, tables 11-1 and 11-6). */
enum lapic_register {
    LAPIC_ID = 0x02,
    LAPIC_VERSION = 0x03,
    LAPIC_TPR = 0x08,
    LAPIC_APR = 0x09,
    LAPIC_PPR = 0x0a,
    LAPIC_EOI = 0x0b,
    LAPIC_RRD = 0x0c,
    LAPIC_LDR = 0x0d,
    LAPIC_DFR = 0x0e,
    LAPIC_SVR = 0x0f,
    LAPIC_ISR = 0x10,
    LAPIC_TMR = 0x18,
    LAPIC_IRR = 0x20,
    LAPIC_ESR = 0x28,
    LAPIC_ICR = 0x30,
    LAPIC_ICR_HIGH = 0x31,
    LAPIC_LVT_FIRST = 0x32,
    LAPIC_TIMER_INITIAL = 0x38,
    LAPIC_TIMER_CURRENT = 0x39,
    LAPIC_TIMER_DIVIDE = 0x3e,
    LAPIC_SELF_IPI = 0x3f
};

/* The local vector table, in register order from LAPIC_LVT_FIRST. */
enum lapic_lvt {
    LVT_TIMER,
    LVT_THERMAL,
    LVT_PERFORMANCE,
    LVT_LINT0,
    LVT_LINT1,
    LVT_ERROR,
    LVT_COUNT
};

#define LVT_MASKED         (1u << 16)
#define LVT_MODE(entry)    (((entry) >> 8) & 7u)
#define LVT_LEVEL          (1u << 15)
#define LVT_TIMER_MODE(e)  (((e) >> 17) & 3u)
#define TIMER_ONE_SHOT     0u
#define TIMER_PERIODIC     1u
#define TIMER_TSC_DEADLINE 2u

/* Delivery modes (SDM vol. 3, 11.5.1 and 11.6.1). */
#define MODE_FIXED        0u
#define MODE_LOWEST       1u
#define MODE_SMI          2u
#define MODE_NMI          4u
#define MODE_INIT         5u
#define MODE_STARTUP      6u
#define MODE_EXTINT       7u

#define SVR_ENABLED       (1u << 8)

#define APIC_BASE_BSP     (UINT64_C(1) << 8)
#define APIC_BASE_X2APIC  (UINT64_C(1) << 10)
#define APIC_BASE_ENABLED (UINT64_C(1) << 11)

/* Error status (11.5.3). */
#define ESR_SEND_VECTOR    (1u << 5)
#define ESR_RECEIVE_VECTOR (1u << 6)
#define ESR_REGISTER       (1u << 7)

/* What posters and other LAPICs look at is atomic; only the owner writes it, IRR and TMR aside. */
struct lapic_state {
    uint32_t id;                /* the vCPU's number, and its x2APIC ID */
    _Atomic(uint32_t) xapic_id; /* the same, unless a guest without x2APIC has changed it */
    _Atomic(uint64_t) apic_base;
    _Atomic(uint32_t) tpr, ldr, dfr, svr;
    _Atomic(uint32_t) irr[8], tmr[8];
    uint32_t isr[8];
    _Atomic(uint32_t) lvt[LVT_COUNT];
    _Atomic(uint32_t) esr_pending;
    uint32_t esr;
    uint64_t icr;
    atomic_bool lint0;  /* level of the 8259s' INTR */
    atomic_bool extint; /* an ExtINT message came and waits to be acknowledged */
};

/* The timer, under `lock`. */
struct lapic_timer_state {
    uint32_t initial;
    uint32_t divide;       /* the register's coding */
    uint64_t start_ns;     /* when `initial` was loaded */
    uint64_t deadline_ns;  /* when it fires next, LAPIC_NO_DEADLINE: stopped */
    uint64_t tsc_deadline; /* guest TSC; 0: not armed */
};

struct lapic_timer {
    pthread_mutex_t lock;
    struct timer wakeup; /* on the loop */
    struct lapic_timer_state state;
    uint64_t tsc_offset;
};

struct lapic {
    struct lapic_state state;
    _Atomic(uint32_t) ppr; /* derived from TPR and ISR */
    atomic_bool announced; /* false: interrupt_set() need not be told to withdraw */
    struct lapic_set *set;
    struct lapic_timer timer;
};

struct lapic_set {
    struct lapic_set_config config;
    struct lapic_chips chips;
    _Atomic(unsigned) rotation; /* where the search for the lowest priority starts */
    struct lapic lapic[];
};

/* lapic.c */
void lapic_post(struct lapic *lapic, uint8_t vector, bool level); /* a fixed interrupt */
void lapic_post_extint(struct lapic *lapic);
void lapic_lint0_rise(struct lapic *lapic);
void lapic_post_error(struct lapic *lapic, uint32_t esr_bit);
void lapic_lvt_deliver(struct lapic *lapic, enum lapic_lvt which);
void lapic_registers_reset(struct lapic *lapic); /* all but APIC base and ID */
void lapic_update(struct lapic *lapic);          /* [own] looks again what can be taken */

static inline bool lapic_is_x2apic(const struct lapic *lapic)
{
    return atomic_load_explicit(&lapic->state.apic_base, memory_order_relaxed) & APIC_BASE_X2APIC;
}

static inline uint32_t lapic_id(const struct lapic *lapic)
{
    return lapic_is_x2apic(lapic)
               ? lapic->state.id
               : atomic_load_explicit(&lapic->state.xapic_id, memory_order_relaxed);
}

static inline bool lapic_is_accepting(const struct lapic *lapic)
{
    return lapic_enabled(lapic) &&
           (atomic_load_explicit(&lapic->state.svr, memory_order_relaxed) & SVR_ENABLED);
}

/* lapic_ipi.c */
void lapic_icr_send(struct lapic *lapic, uint64_t icr);

/* lapic_timer.c */
void lapic_timer_init(struct lapic *lapic);
void lapic_timer_fini(struct lapic *lapic);
void lapic_timer_reset(struct lapic *lapic);
void lapic_timer_lvt_write(struct lapic *lapic, uint32_t value);
void lapic_timer_initial_write(struct lapic *lapic, uint32_t value);
void lapic_timer_divide_write(struct lapic *lapic, uint32_t value);
uint32_t lapic_timer_initial_read(struct lapic *lapic);
uint32_t lapic_timer_divide_read(struct lapic *lapic);
uint32_t lapic_timer_current_read(struct lapic *lapic);
void lapic_timer_tsc_write(struct lapic *lapic, uint64_t value);
uint64_t lapic_timer_tsc_read(struct lapic *lapic);

#endif
