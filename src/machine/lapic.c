/*
 * The local APIC: acceptance of interrupts and registers (see lapic.h for the threads).
 *
 * Section numbers are those of Intel SDM vol. 3. Posting is lock-free: a poster sets the bit in IRR
 * and then looks at PPR; the owner lowers PPR and then looks at IRR (both sequentially consistent),
 * so at least one of them sees that the interrupt can be taken. The announcement may be spurious,
 * never missing. Trusts nothing that the guest writes.
 */
#include "machine/lapic.h"

#include <errno.h>

#include "machine/lapic_internal.h"

#define MSR_APIC_BASE       0x1bu
#define MSR_TSC_DEADLINE    0x6e0u
#define MSR_X2APIC          0x800u

#define LAPIC_VERSION_VALUE (0x14u | (LVT_COUNT - 1u) << 16)
#define APIC_BASE_ADDRESS   UINT64_C(0x000ffffffffff000)
#define VECTOR_MIN          16u

/* ---- requested, in service, priority (11.8) ---- */

static int bits_highest(const uint32_t words[8])
{
    for (int i = 7; i >= 0; i--) {
        if (words[i])
            return i * 32 + 31 - __builtin_clz(words[i]);
    }
    return -1;
}

static int irr_highest(const struct lapic *lapic)
{
    for (int i = 7; i >= 0; i--) {
        uint32_t word = atomic_load(&lapic->state.irr[i]);

        if (word)
            return i * 32 + 31 - __builtin_clz(word);
    }
    return -1;
}

static void ppr_update(struct lapic *lapic)
{
    uint32_t tpr = atomic_load_explicit(&lapic->state.tpr, memory_order_relaxed);
    int highest = bits_highest(lapic->state.isr);
    uint32_t service = highest < 0 ? 0 : (uint32_t)highest & 0xf0;

    atomic_store(&lapic->ppr, (tpr & 0xf0) >= service ? tpr : service);
}

static bool vector_beats_ppr(const struct lapic *lapic, int vector)
{
    return vector >= 0 && ((uint32_t)vector & 0xf0) > (atomic_load(&lapic->ppr) & 0xf0);
}

/* The 8259s' interrupt reaches the CPU through LINT0 as ExtINT, or past a disabled LAPIC. */
static bool extint_pending(const struct lapic *lapic)
{
    uint32_t lint0 = atomic_load(&lapic->state.lvt[LVT_LINT0]);

    if (atomic_load(&lapic->state.extint))
        return true;
    if (!atomic_load(&lapic->state.lint0))
        return false;
    return !lapic_enabled(lapic) || (!(lint0 & LVT_MASKED) && LVT_MODE(lint0) == MODE_EXTINT);
}

bool lapic_has_interrupt(const struct lapic *lapic)
{
    return extint_pending(lapic) || vector_beats_ppr(lapic, irr_highest(lapic));
}

static void interrupt_set(struct lapic *lapic, bool pending)
{
    const struct lapic_set_config *config = &lapic->set->config;

    config->ops->interrupt_set(config->opaque, lapic->state.id, pending);
}

/* Always calls, also when it was announced already: another thread's call to withdraw it may be
 * under way, and only a call made after that one is sure to count. */
static void announce(struct lapic *lapic)
{
    atomic_store(&lapic->announced, true);
    interrupt_set(lapic, true);
}

/* [own] Withdraws the announcement, and looks again in case a poster came in between. */
static void withdraw(struct lapic *lapic)
{
    atomic_store(&lapic->announced, false);
    interrupt_set(lapic, false);
    if (lapic_has_interrupt(lapic))
        announce(lapic);
}

void lapic_update(struct lapic *lapic)
{
    if (lapic_has_interrupt(lapic))
        announce(lapic);
    else if (atomic_load(&lapic->announced))
        withdraw(lapic);
}

void lapic_post(struct lapic *lapic, uint8_t vector, bool level)
{
    _Atomic(uint32_t) *tmr = &lapic->state.tmr[vector / 32];
    uint32_t bit = UINT32_C(1) << (vector % 32);

    if (vector < VECTOR_MIN) {
        lapic_post_error(lapic, ESR_RECEIVE_VECTOR);
        return;
    }
    if (level)
        atomic_fetch_or(tmr, bit);
    else if (atomic_load(tmr) & bit)
        atomic_fetch_and(tmr, ~bit);
    atomic_fetch_or(&lapic->state.irr[vector / 32], bit);
    if (vector_beats_ppr(lapic, vector))
        announce(lapic);
}

void lapic_post_extint(struct lapic *lapic)
{
    atomic_store(&lapic->state.extint, true);
    announce(lapic);
}

/* The 8259s' INTR rose. When it falls, the owner finds out at its next look. */
void lapic_lint0_rise(struct lapic *lapic)
{
    if (lapic_enabled(lapic))
        lapic_lvt_deliver(lapic, LVT_LINT0);
    if (extint_pending(lapic))
        announce(lapic);
}

/* An error interrupt comes for the first of each kind until ESR is written, so an error vector that
 * is itself illegal cannot recurse. */
void lapic_post_error(struct lapic *lapic, uint32_t esr_bit)
{
    if (!(atomic_fetch_or(&lapic->state.esr_pending, esr_bit) & esr_bit))
        lapic_lvt_deliver(lapic, LVT_ERROR);
}

/* 11.5.1. The timer and error entries have no mode bits, so theirs is "fixed". */
void lapic_lvt_deliver(struct lapic *lapic, enum lapic_lvt which)
{
    const struct lapic_set_config *config = &lapic->set->config;
    uint32_t entry = atomic_load(&lapic->state.lvt[which]);

    if (entry & LVT_MASKED)
        return;
    switch (LVT_MODE(entry)) {
    case MODE_FIXED: /* LINT1 is always edge-triggered (11.5.1, "Trigger mode") */
        lapic_post(lapic, (uint8_t)entry, which == LVT_LINT0 && (entry & LVT_LEVEL));
        break;
    case MODE_NMI:
        config->ops->nmi(config->opaque, lapic->state.id);
        break;
    case MODE_INIT:
        config->ops->init(config->opaque, lapic->state.id);
        break;
    case MODE_EXTINT:
        if (which != LVT_LINT0) /* LINT0's follows the wire */
            lapic_post_extint(lapic);
        break;
    default: /* SMI: there is no SMM */
        break;
    }
}

static int acknowledge_extint(struct lapic *lapic)
{
    const struct lapic_chips *chips = &lapic->set->chips;
    int vector = -1;

    atomic_store(&lapic->state.extint, false);
    if (chips->pic_acknowledge)
        vector = chips->pic_acknowledge(chips->pic);
    lapic_update(lapic);
    return vector;
}

int lapic_acknowledge(struct lapic *lapic)
{
    uint32_t bit;
    int vector;

    if (extint_pending(lapic))
        return acknowledge_extint(lapic);
    vector = irr_highest(lapic);
    if (!vector_beats_ppr(lapic, vector)) {
        withdraw(lapic);
        return -1;
    }
    bit = UINT32_C(1) << (vector % 32);
    atomic_fetch_and(&lapic->state.irr[vector / 32], ~bit);
    lapic->state.isr[vector / 32] |= bit;
    ppr_update(lapic);
    lapic_update(lapic);
    return vector;
}

static void lapic_eoi(struct lapic *lapic)
{
    const struct lapic_chips *chips = &lapic->set->chips;
    int vector = bits_highest(lapic->state.isr);
    uint32_t bit;

    if (vector < 0)
        return;
    bit = UINT32_C(1) << (vector % 32);
    lapic->state.isr[vector / 32] &= ~bit;
    ppr_update(lapic);
    if ((atomic_load(&lapic->state.tmr[vector / 32]) & bit) && chips->eoi)
        chips->eoi(chips->ioapic, (uint8_t)vector);
    lapic_update(lapic);
}

static void tpr_write(struct lapic *lapic, uint32_t value)
{
    atomic_store_explicit(&lapic->state.tpr, value & 0xff, memory_order_relaxed);
    ppr_update(lapic);
    lapic_update(lapic);
}

uint64_t lapic_cr8_get(const struct lapic *lapic)
{
    return atomic_load_explicit(&lapic->state.tpr, memory_order_relaxed) >> 4;
}

void lapic_cr8_set(struct lapic *lapic, uint64_t value)
{
    tpr_write(lapic, (uint32_t)(value & 0xf) << 4);
}

/* ---- registers, in both modes ---- */

static uint32_t ldr_read(const struct lapic *lapic)
{
    uint32_t id = lapic->state.id;

    if (lapic_is_x2apic(lapic)) /* 11.12.10.2 */
        return (id >> 4) << 16 | 1u << (id & 15);
    return atomic_load(&lapic->state.ldr);
}

static int register_read(struct lapic *lapic, unsigned reg, uint32_t *value)
{
    struct lapic_state *state = &lapic->state;

    switch (reg) {
    case LAPIC_ID:
        *value = lapic_is_x2apic(lapic) ? state->id : atomic_load(&state->xapic_id) << 24;
        return 0;
    case LAPIC_VERSION:
        *value = LAPIC_VERSION_VALUE;
        return 0;
    case LAPIC_TPR:
        *value = atomic_load(&state->tpr);
        return 0;
    case LAPIC_PPR:
        *value = atomic_load(&lapic->ppr);
        return 0;
    case LAPIC_LDR:
        *value = ldr_read(lapic);
        return 0;
    case LAPIC_SVR:
        *value = atomic_load(&state->svr);
        return 0;
    case LAPIC_ISR ... LAPIC_ISR + 7:
        *value = state->isr[reg - LAPIC_ISR];
        return 0;
    case LAPIC_TMR ... LAPIC_TMR + 7:
        *value = atomic_load(&state->tmr[reg - LAPIC_TMR]);
        return 0;
    case LAPIC_IRR ... LAPIC_IRR + 7:
        *value = atomic_load(&state->irr[reg - LAPIC_IRR]);
        return 0;
    case LAPIC_ESR:
        *value = state->esr;
        return 0;
    case LAPIC_ICR:
        *value = (uint32_t)state->icr;
        return 0;
    case LAPIC_LVT_FIRST ... LAPIC_LVT_FIRST + LVT_COUNT - 1:
        *value = atomic_load(&state->lvt[reg - LAPIC_LVT_FIRST]);
        return 0;
    case LAPIC_TIMER_INITIAL:
        *value = lapic_timer_initial_read(lapic);
        return 0;
    case LAPIC_TIMER_CURRENT:
        *value = lapic_timer_current_read(lapic);
        return 0;
    case LAPIC_TIMER_DIVIDE:
        *value = lapic_timer_divide_read(lapic);
        return 0;
    default:
        return -ENOENT;
    }
}

/* Bits that software may set; x2APIC mode faults on others (11.12.1.3). 0: not a plain register. */
static uint32_t register_writable(const struct lapic *lapic, unsigned reg)
{
    switch (reg) {
    case LAPIC_TPR:
        return 0xff;
    case LAPIC_SVR:
        return 0x1ff;
    case LAPIC_LVT_FIRST + LVT_TIMER:
        return lapic->set->config.tsc_deadline ? 0x700ff : 0x300ff;
    case LAPIC_LVT_FIRST + LVT_THERMAL:
    case LAPIC_LVT_FIRST + LVT_PERFORMANCE:
        return 0x107ff;
    case LAPIC_LVT_FIRST + LVT_LINT0:
    case LAPIC_LVT_FIRST + LVT_LINT1:
        return 0x1a7ff;
    case LAPIC_LVT_FIRST + LVT_ERROR:
        return 0x100ff;
    case LAPIC_TIMER_INITIAL:
        return UINT32_MAX;
    case LAPIC_TIMER_DIVIDE:
        return 0xb;
    default:
        return 0;
    }
}

/* Delivery status and remote IRR are read-only, and may be written back. */
static uint32_t register_ignored(unsigned reg)
{
    return reg >= LAPIC_LVT_FIRST && reg < LAPIC_TIMER_INITIAL ? 1u << 12 | 1u << 14 : 0;
}

static void lvt_write(struct lapic *lapic, enum lapic_lvt which, uint32_t value)
{
    if (!(atomic_load(&lapic->state.svr) & SVR_ENABLED))
        value |= LVT_MASKED; /* 11.4.7.2 */
    if (which == LVT_TIMER)
        lapic_timer_lvt_write(lapic, value);
    else
        atomic_store(&lapic->state.lvt[which], value);
    lapic_update(lapic);
}

static void svr_write(struct lapic *lapic, uint32_t value)
{
    atomic_store(&lapic->state.svr, value);
    if (value & SVR_ENABLED)
        return;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        lvt_write(lapic, i, atomic_load(&lapic->state.lvt[i]));
}

static void esr_write(struct lapic *lapic)
{
    lapic->state.esr = atomic_exchange(&lapic->state.esr_pending, 0);
}

/* `value` has only writable bits. */
static void register_write(struct lapic *lapic, unsigned reg, uint32_t value)
{
    switch (reg) {
    case LAPIC_TPR:
        tpr_write(lapic, value);
        break;
    case LAPIC_SVR:
        svr_write(lapic, value);
        break;
    case LAPIC_TIMER_INITIAL:
        lapic_timer_initial_write(lapic, value);
        break;
    case LAPIC_TIMER_DIVIDE:
        lapic_timer_divide_write(lapic, value);
        break;
    default:
        lvt_write(lapic, reg - LAPIC_LVT_FIRST, value);
        break;
    }
}

/* ---- xAPIC: memory-mapped (11.4.1) ---- */

bool lapic_enabled(const struct lapic *lapic)
{
    return atomic_load_explicit(&lapic->state.apic_base, memory_order_relaxed) & APIC_BASE_ENABLED;
}

bool lapic_mmio_enabled(const struct lapic *lapic)
{
    return lapic_enabled(lapic) && !lapic_is_x2apic(lapic);
}

uint64_t lapic_mmio_base(const struct lapic *lapic)
{
    return atomic_load_explicit(&lapic->state.apic_base, memory_order_relaxed) & APIC_BASE_ADDRESS;
}

uint64_t lapic_mmio_read(struct lapic *lapic, uint32_t offset, unsigned size)
{
    uint32_t value = 0;

    if (size != 4 || offset & 0xf || offset > 0xff0)
        return 0;
    switch (offset >> 4) {
    case LAPIC_DFR:
        return atomic_load(&lapic->state.dfr);
    case LAPIC_ICR_HIGH:
        return lapic->state.icr >> 32;
    case LAPIC_APR: /* absent since the Pentium 4: reads as zero */
    case LAPIC_RRD:
    case LAPIC_EOI:
        return 0;
    default:
        break;
    }
    if (register_read(lapic, offset >> 4, &value) < 0)
        lapic_post_error(lapic, ESR_REGISTER);
    return value;
}

static void mmio_register_write(struct lapic *lapic, unsigned reg, uint32_t value)
{
    uint32_t writable = register_writable(lapic, reg);

    if (writable)
        register_write(lapic, reg, value & writable);
    else if (reg > LAPIC_SELF_IPI || reg == LAPIC_SELF_IPI || reg < LAPIC_ID)
        lapic_post_error(lapic, ESR_REGISTER);
}

void lapic_mmio_write(struct lapic *lapic, uint32_t offset, unsigned size, uint64_t value)
{
    struct lapic_state *state = &lapic->state;

    if (size != 4 || offset & 0xf || offset > 0xff0)
        return;
    switch (offset >> 4) {
    case LAPIC_EOI:
        lapic_eoi(lapic);
        break;
    case LAPIC_ID: /* writable or not by model (11.4.6): never where there is x2APIC */
        if (!lapic->set->config.x2apic)
            atomic_store(&state->xapic_id, (uint32_t)value >> 24);
        break;
    case LAPIC_LDR:
        atomic_store(&state->ldr, (uint32_t)value & 0xff000000);
        break;
    case LAPIC_DFR:
        atomic_store(&state->dfr, (uint32_t)value | 0x0fffffff);
        break;
    case LAPIC_ESR:
        esr_write(lapic);
        break;
    case LAPIC_ICR_HIGH:
        state->icr = (state->icr & UINT32_MAX) | (value & 0xff000000) << 32;
        break;
    case LAPIC_ICR: /* writing the low half sends */
        state->icr = (state->icr & ~(uint64_t)UINT32_MAX) | (value & 0xccfff);
        lapic_icr_send(lapic, state->icr);
        break;
    default:
        mmio_register_write(lapic, offset >> 4, (uint32_t)value);
        break;
    }
}

/* ---- x2APIC: MSRs (11.12) ---- */

static int x2apic_read(struct lapic *lapic, unsigned reg, uint64_t *value)
{
    uint32_t low;
    int rc;

    if (!lapic_is_x2apic(lapic))
        return -EINVAL;
    if (reg == LAPIC_ICR) {
        *value = lapic->state.icr;
        return 0;
    }
    rc = register_read(lapic, reg, &low);
    if (rc < 0)
        return -EINVAL;
    *value = low;
    return 0;
}

static int x2apic_write_zero(struct lapic *lapic, unsigned reg, uint64_t value)
{
    if (value)
        return -EINVAL;
    if (reg == LAPIC_EOI)
        lapic_eoi(lapic);
    else
        esr_write(lapic);
    return 0;
}

static int x2apic_write(struct lapic *lapic, unsigned reg, uint64_t value)
{
    uint32_t writable = register_writable(lapic, reg);

    if (!lapic_is_x2apic(lapic))
        return -EINVAL;
    if (reg == LAPIC_EOI || reg == LAPIC_ESR)
        return x2apic_write_zero(lapic, reg, value);
    if (reg == LAPIC_ICR) {
        if (value & 0xfff32000)
            return -EINVAL;
        lapic->state.icr = value & ~UINT64_C(0x1000); /* no delivery status here */
        lapic_icr_send(lapic, value);
        return 0;
    }
    if (reg == LAPIC_SELF_IPI) {
        if (value & ~UINT64_C(0xff))
            return -EINVAL;
        lapic_icr_send(lapic, value | UINT64_C(1) << 18);
        return 0;
    }
    if (!writable || value & ~(uint64_t)(writable | register_ignored(reg)))
        return -EINVAL;
    register_write(lapic, reg, (uint32_t)value & writable);
    return 0;
}

/* 11.12.5, figure 11-27: which changes of mode are allowed. */
static bool apic_base_change_legal(const struct lapic *lapic, uint64_t from, uint64_t to)
{
    uint64_t address_end = UINT64_C(1) << lapic->set->config.physical_bits;
    uint64_t mode = APIC_BASE_ENABLED | APIC_BASE_X2APIC;

    if (to >= address_end || (to & ~(APIC_BASE_ADDRESS | APIC_BASE_BSP | mode)))
        return false;
    if ((to & mode) == APIC_BASE_X2APIC)
        return false;
    if ((to & APIC_BASE_X2APIC) && !lapic->set->config.x2apic) /* reserved */
        return false;
    if ((from & mode) == mode)
        return (to & mode) != APIC_BASE_ENABLED;
    return (from & mode) != 0 || (to & mode) != mode;
}

static int apic_base_write(struct lapic *lapic, uint64_t value)
{
    uint64_t old = atomic_load(&lapic->state.apic_base);

    if (!apic_base_change_legal(lapic, old, value))
        return -EINVAL;
    atomic_store(&lapic->state.apic_base, value);
    if ((old ^ value) & APIC_BASE_ENABLED) { /* 11.4.3: as after a reset */
        lapic_registers_reset(lapic);
        atomic_store(&lapic->state.xapic_id, lapic->state.id);
    }
    lapic_update(lapic);
    return 0;
}

int lapic_msr_read(struct lapic *lapic, uint32_t index, uint64_t *value)
{
    if (index == MSR_APIC_BASE) {
        *value = atomic_load(&lapic->state.apic_base);
        return 0;
    }
    if (index == MSR_TSC_DEADLINE) {
        if (!lapic->set->config.tsc_deadline)
            return -EINVAL;
        *value = lapic_timer_tsc_read(lapic);
        return 0;
    }
    if (index < MSR_X2APIC || index > MSR_X2APIC + 0xff)
        return -ENOENT;
    return x2apic_read(lapic, index - MSR_X2APIC, value);
}

int lapic_msr_write(struct lapic *lapic, uint32_t index, uint64_t value)
{
    if (index == MSR_TSC_DEADLINE) {
        if (!lapic->set->config.tsc_deadline)
            return -EINVAL;
        lapic_timer_tsc_write(lapic, value);
        return 0;
    }
    if (index == MSR_APIC_BASE)
        return apic_base_write(lapic, value);
    if (index < MSR_X2APIC || index > MSR_X2APIC + 0xff)
        return -ENOENT;
    return x2apic_write(lapic, index - MSR_X2APIC, value);
}

/* ---- reset (11.4.7) ---- */

void lapic_registers_reset(struct lapic *lapic)
{
    struct lapic_state *state = &lapic->state;

    atomic_store(&state->tpr, 0);
    atomic_store(&state->ldr, 0);
    atomic_store(&state->dfr, UINT32_MAX);
    atomic_store(&state->svr, 0xff);
    atomic_store(&state->esr_pending, 0);
    atomic_store(&state->extint, false);
    state->esr = 0;
    state->icr = 0;
    for (unsigned i = 0; i < 8; i++) {
        atomic_store(&state->irr[i], 0);
        atomic_store(&state->tmr[i], 0);
        state->isr[i] = 0;
    }
    for (unsigned i = 0; i < LVT_COUNT; i++)
        atomic_store(&state->lvt[i], LVT_MASKED);
    lapic_timer_reset(lapic);
    ppr_update(lapic);
}

void lapic_init_reset(struct lapic *lapic)
{
    lapic_registers_reset(lapic);
    lapic_update(lapic);
}
