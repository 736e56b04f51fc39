/*
 * Messages between LAPICs: IPIs, MSIs, the board's wires, and the set of all LAPICs (see lapic.h).
 *
 * Section numbers are those of Intel SDM vol. 3. Threads: any; no lock is taken here. Trusts
 * nothing of a message: any value is legal, a destination that nobody has reaches nobody.
 */
#include <errno.h>
#include <stdlib.h>

#include "machine/lapic_internal.h"

#define XAPIC_BROADCAST      0xffu
#define X2APIC_BROADCAST     UINT32_MAX

#define SHORTHAND_NONE       0u
#define SHORTHAND_SELF       1u
#define SHORTHAND_ALL        2u
#define SHORTHAND_ALL_BUT_ME 3u
#define ICR_LOGICAL          (1u << 11)
#define ICR_ASSERT           (1u << 14)
#define ICR_LEVEL            (1u << 15)
#define ICR_SHORTHAND(icr)   (((uint32_t)(icr) >> 18) & 3u)

struct message {
    uint32_t destination;
    bool logical;
    bool broadcast;
    uint8_t vector;
    uint8_t mode;
    bool level;
};

/* ---- who is meant (11.6.2) ---- */

static bool logical_match(const struct lapic *lapic, uint32_t destination)
{
    uint32_t id = lapic->state.id;
    uint32_t ldr = atomic_load_explicit(&lapic->state.ldr, memory_order_relaxed) >> 24;
    uint32_t dfr = atomic_load_explicit(&lapic->state.dfr, memory_order_relaxed) >> 28;

    if (lapic_is_x2apic(lapic))
        return destination >> 16 == id >> 4 && (destination & (1u << (id & 15)));
    if (destination > 0xff)
        return false;
    if (dfr == 0xf)
        return ldr & destination;
    return ldr >> 4 == destination >> 4 && (ldr & destination & 0xf);
}

static bool message_matches(const struct lapic *lapic, const struct message *message)
{
    if (!lapic_enabled(lapic))
        return false;
    if (message->broadcast)
        return true;
    if (message->logical)
        return logical_match(lapic, message->destination);
    return message->destination == lapic_id(lapic);
}

/* ---- delivery ---- */

static void message_deliver(struct lapic *lapic, const struct message *message)
{
    const struct lapic_set_config *config = &lapic->set->config;
    unsigned vcpu = lapic->state.id;

    switch (message->mode) {
    case MODE_FIXED:
    case MODE_LOWEST:
        if (lapic_is_accepting(lapic))
            lapic_post(lapic, message->vector, message->level);
        break;
    case MODE_NMI:
        config->ops->nmi(config->opaque, vcpu);
        break;
    case MODE_INIT:
        config->ops->init(config->opaque, vcpu);
        break;
    case MODE_STARTUP:
        config->ops->startup(config->opaque, vcpu, message->vector);
        break;
    case MODE_EXTINT:
        lapic_post_extint(lapic);
        break;
    default: /* SMI: there is no SMM; 3 is reserved */
        break;
    }
}

/* 11.6.2.4: the one with the lowest processor priority; turns are taken among equals. */
static void deliver_lowest(struct lapic_set *set, const struct message *message)
{
    unsigned count = set->config.count;
    unsigned start = atomic_fetch_add_explicit(&set->rotation, 1, memory_order_relaxed);
    struct lapic *best = NULL;
    uint32_t best_ppr = 0;

    for (unsigned i = 0; i < count; i++) {
        struct lapic *lapic = &set->lapic[(start + i) % count];
        uint32_t ppr = atomic_load_explicit(&lapic->ppr, memory_order_relaxed);

        if (message_matches(lapic, message) && lapic_is_accepting(lapic) &&
            (!best || ppr < best_ppr)) {
            best = lapic;
            best_ppr = ppr;
        }
    }
    if (best)
        message_deliver(best, message);
}

static void message_send(struct lapic_set *set, const struct message *message,
                         const struct lapic *except)
{
    if (message->mode == MODE_LOWEST) {
        deliver_lowest(set, message);
        return;
    }
    /* The usual case. With x2APIC about, no guest can change an ID, so IDs are indices. */
    if (set->config.x2apic && !message->logical && !message->broadcast) {
        if (message->destination < set->config.count &&
            lapic_enabled(&set->lapic[message->destination]))
            message_deliver(&set->lapic[message->destination], message);
        return;
    }
    for (unsigned i = 0; i < set->config.count; i++) {
        if (&set->lapic[i] != except && message_matches(&set->lapic[i], message))
            message_deliver(&set->lapic[i], message);
    }
}

/* ---- interrupt command register (11.6.1) ---- */

static void icr_send_destination(struct lapic *lapic, struct message *message, uint64_t icr)
{
    if (lapic_is_x2apic(lapic)) {
        message->destination = (uint32_t)(icr >> 32);
        message->broadcast = message->destination == X2APIC_BROADCAST;
    } else {
        message->destination = (uint32_t)(icr >> 56);
        message->broadcast = message->destination == XAPIC_BROADCAST;
    }
    message_send(lapic->set, message, NULL);
}

void lapic_icr_send(struct lapic *lapic, uint64_t icr)
{
    struct message message = {
        .logical = icr & ICR_LOGICAL, .vector = (uint8_t)icr, .mode = (icr >> 8) & 7,
        /* an IPI is always sent as an edge (11.6.1, "Trigger mode") */
    };

    if (message.mode <= MODE_LOWEST && message.vector < 16) {
        lapic_post_error(lapic, ESR_SEND_VECTOR);
        return;
    }
    if (message.mode == MODE_INIT && (icr & ICR_LEVEL) && !(icr & ICR_ASSERT))
        return; /* INIT level de-assert: only arbitration IDs of old CPUs would listen */
    switch (ICR_SHORTHAND(icr)) {
    case SHORTHAND_NONE:
        icr_send_destination(lapic, &message, icr);
        break;
    case SHORTHAND_SELF: /* fixed only (table 11-3) */
        if (message.mode == MODE_FIXED)
            message_deliver(lapic, &message);
        break;
    case SHORTHAND_ALL:
        message.broadcast = true;
        message_send(lapic->set, &message, NULL);
        break;
    default: /* SHORTHAND_ALL_BUT_ME */
        message.broadcast = true;
        if (message.mode == MODE_LOWEST)
            message.mode = MODE_FIXED; /* would have to leave the sender out; not a legal use */
        message_send(lapic->set, &message, lapic);
        break;
    }
}

/* ---- the set, and what is wired to it ---- */

/* 11.11.1: address 0xfeeDDxxx, bit 3 redirection hint, bit 2 logical; 11.11.2: the data. */
void lapic_set_deliver_msi(void *opaque, uint64_t address, uint32_t data)
{
    struct message message = {
        .destination = (uint32_t)(address >> 12) & 0xff,
        .logical = address & 4,
        .vector = (uint8_t)data,
        .mode = (data >> 8) & 7,
        .level = (data & 0x8000) && (data & 0x4000),
    };

    if ((address & ~UINT64_C(0xfffff)) != LAPIC_BASE_DEFAULT)
        return;
    message.broadcast = message.destination == XAPIC_BROADCAST;
    message_send(opaque, &message, NULL);
}

void lapic_set_lint0(void *opaque, unsigned pin, bool level)
{
    struct lapic_set *set = opaque;

    (void)pin;
    for (unsigned i = 0; i < set->config.count; i++) {
        struct lapic *lapic = &set->lapic[i];

        if (!atomic_exchange(&lapic->state.lint0, level) && level)
            lapic_lint0_rise(lapic);
    }
}

void lapic_set_lint1(void *opaque, unsigned pin, bool level)
{
    struct lapic_set *set = opaque;

    (void)pin;
    for (unsigned i = 0; level && i < set->config.count; i++) {
        if (lapic_enabled(&set->lapic[i]))
            lapic_lvt_deliver(&set->lapic[i], LVT_LINT1);
    }
}

struct lapic *lapic_set_get(struct lapic_set *set, unsigned vcpu)
{
    return vcpu < set->config.count ? &set->lapic[vcpu] : NULL;
}

void lapic_set_wire(struct lapic_set *set, const struct lapic_chips *chips)
{
    set->chips = *chips;
}

/* After RESET the first vCPU is in "virtual wire" mode, as firmware leaves it (MP specification
 * 1.4, 3.6.2.2): a kernel that is booted without firmware expects the 8259s to work. */
void lapic_set_reset(struct lapic_set *set)
{
    for (unsigned i = 0; i < set->config.count; i++) {
        struct lapic *lapic = &set->lapic[i];
        uint64_t bsp = i == 0 ? APIC_BASE_BSP : 0;

        atomic_store(&lapic->state.apic_base, LAPIC_BASE_DEFAULT | APIC_BASE_ENABLED | bsp);
        atomic_store(&lapic->state.xapic_id, i);
        lapic_registers_reset(lapic);
        if (i == 0) {
            atomic_store(&lapic->state.lvt[LVT_LINT0], MODE_EXTINT << 8);
            atomic_store(&lapic->state.lvt[LVT_LINT1], MODE_NMI << 8);
        }
        lapic_update(lapic);
    }
}

int lapic_set_new(const struct lapic_set_config *config, struct lapic_set **out)
{
    struct lapic_set *set;

    if (config->count == 0 || config->count > 255)
        return -EINVAL;
    set = calloc(1, sizeof *set + config->count * sizeof set->lapic[0]);
    if (!set)
        return -ENOMEM;
    set->config = *config;
    for (unsigned i = 0; i < config->count; i++) {
        set->lapic[i].state.id = i;
        set->lapic[i].set = set;
        lapic_timer_init(&set->lapic[i]);
    }
    lapic_set_reset(set);
    *out = set;
    return 0;
}

void lapic_set_free(struct lapic_set *set)
{
    if (!set)
        return;
    for (unsigned i = 0; i < set->config.count; i++)
        lapic_timer_fini(&set->lapic[i]);
    free(set);
}
