/*
 * The I/O APIC (see ioapic.h). Names in comments are the datasheet's (Intel 290566).
 *
 * Threads: any, under `lock`, which is held while a message goes to the LAPICs (they have no lock
 * that leads back here: they call ioapic_eoi() with none held). Trusts nothing that is written.
 */
#include "machine/ioapic.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define IOAPIC_SIZE    UINT64_C(0x1000)
#define IOAPIC_VERSION (0x20u | (IOAPIC_PINS - 1u) << 16)

#define IOAPIC_INDEX   0x00
#define IOAPIC_WINDOW  0x10
#define IOAPIC_EOI     0x40

/* Redirection table entry, 3.2.4. */
#define ENTRY_VECTOR(entry)      ((uint8_t)(entry))
#define ENTRY_MODE(entry)        ((unsigned)((entry) >> 8) & 7u)
#define ENTRY_LOGICAL            (UINT64_C(1) << 11)
#define ENTRY_STATUS             (UINT64_C(1) << 12)
#define ENTRY_ACTIVE_LOW         (UINT64_C(1) << 13)
#define ENTRY_REMOTE_IRR         (UINT64_C(1) << 14)
#define ENTRY_LEVEL              (UINT64_C(1) << 15)
#define ENTRY_MASKED             (UINT64_C(1) << 16)
#define ENTRY_DESTINATION(entry) ((uint32_t)((entry) >> 56))
#define ENTRY_READ_ONLY          (ENTRY_STATUS | ENTRY_REMOTE_IRR)
#define ENTRY_WRITABLE           (UINT64_C(0xff0000000001ffff) & ~ENTRY_READ_ONLY)

#define MODE_LOWEST_PRIORITY     1u

struct ioapic_state {
    uint8_t index; /* IOREGSEL */
    uint8_t id;
    uint32_t lines; /* levels on the pins now, as "asserted" (polarity is the board's matter) */
    uint64_t entry[IOAPIC_PINS];
};

struct ioapic {
    pthread_mutex_t lock;
    struct ioapic_state state;
    struct ioapic_config config;
};

/* ---- delivery; `lock` held ---- */

/* The message that the entry stands for, in the form of SDM vol. 3, 11.11. */
static void ioapic_send(struct ioapic *ioapic, uint64_t entry)
{
    uint64_t address = UINT64_C(0xfee00000) | (uint64_t)ENTRY_DESTINATION(entry) << 12;
    uint32_t data = ENTRY_VECTOR(entry) | ENTRY_MODE(entry) << 8;

    if (entry & ENTRY_LOGICAL)
        address |= 1u << 2;
    if (ENTRY_MODE(entry) == MODE_LOWEST_PRIORITY)
        address |= 1u << 3;
    if (entry & ENTRY_LEVEL)
        data |= 1u << 15 | 1u << 14;
    ioapic->config.target.send(ioapic->config.target.controller, address, data);
}

/* A level-triggered pin that is asserted is sent once, and again after each EOI. */
static void ioapic_level_update(struct ioapic *ioapic, unsigned pin)
{
    uint64_t *entry = &ioapic->state.entry[pin];

    if ((*entry & (ENTRY_MASKED | ENTRY_LEVEL | ENTRY_REMOTE_IRR)) != ENTRY_LEVEL ||
        !(ioapic->state.lines & (1u << pin)))
        return;
    *entry |= ENTRY_REMOTE_IRR;
    ioapic_send(ioapic, *entry);
}

/* An edge on a masked pin is not remembered (3.2.4, "Interrupt mask"). */
void ioapic_set_irq(void *opaque, unsigned pin, bool level)
{
    struct ioapic *ioapic = opaque;
    uint32_t bit;
    bool edge;

    if (pin >= IOAPIC_PINS)
        return;
    bit = 1u << pin;
    pthread_mutex_lock(&ioapic->lock);
    edge = level && !(ioapic->state.lines & bit);
    if (level)
        ioapic->state.lines |= bit;
    else
        ioapic->state.lines &= ~bit;
    if (edge && !(ioapic->state.entry[pin] & (ENTRY_MASKED | ENTRY_LEVEL)))
        ioapic_send(ioapic, ioapic->state.entry[pin]);
    ioapic_level_update(ioapic, pin);
    pthread_mutex_unlock(&ioapic->lock);
}

void ioapic_eoi(void *opaque, uint8_t vector)
{
    struct ioapic *ioapic = opaque;

    pthread_mutex_lock(&ioapic->lock);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *entry = &ioapic->state.entry[pin];

        if (ENTRY_VECTOR(*entry) == vector && (*entry & ENTRY_LEVEL) &&
            (*entry & ENTRY_REMOTE_IRR)) {
            *entry &= ~ENTRY_REMOTE_IRR;
            ioapic_level_update(ioapic, pin);
        }
    }
    pthread_mutex_unlock(&ioapic->lock);
}

/* ---- registers; `lock` held ---- */

static uint32_t ioapic_register_read(const struct ioapic_state *state)
{
    unsigned index = state->index;

    switch (index) {
    case 0:
    case 2: /* arbitration ID: loaded with the ID */
        return (uint32_t)state->id << 24;
    case 1:
        return IOAPIC_VERSION;
    default:
        if (index < 0x10 || index >= 0x10 + 2 * IOAPIC_PINS)
            return 0;
        return (uint32_t)(state->entry[(index - 0x10) / 2] >> (index & 1 ? 32 : 0));
    }
}

static void ioapic_entry_write(struct ioapic *ioapic, unsigned index, uint32_t value)
{
    unsigned pin = (index - 0x10) / 2;
    uint64_t *entry = &ioapic->state.entry[pin];
    uint64_t wanted;

    if (index & 1)
        wanted = (*entry & UINT32_MAX) | (uint64_t)value << 32;
    else
        wanted = (*entry & ~(uint64_t)UINT32_MAX) | value;
    *entry = (wanted & ENTRY_WRITABLE) | (*entry & ENTRY_READ_ONLY);
    /* An edge-triggered entry has no remote IRR; going through edge mode is how a driver clears a
     * stuck one on chips without the EOI register. */
    if (!(*entry & ENTRY_LEVEL))
        *entry &= ~ENTRY_REMOTE_IRR;
    ioapic_level_update(ioapic, pin);
}

static void ioapic_register_write(struct ioapic *ioapic, uint32_t value)
{
    unsigned index = ioapic->state.index;

    if (index == 0)
        ioapic->state.id = (value >> 24) & 0xf;
    else if (index >= 0x10 && index < 0x10 + 2 * IOAPIC_PINS)
        ioapic_entry_write(ioapic, index, value);
}

static uint64_t ioapic_read(void *opaque, uint64_t offset, unsigned size)
{
    struct ioapic *ioapic = opaque;
    uint32_t value = 0;

    pthread_mutex_lock(&ioapic->lock);
    if (offset == IOAPIC_INDEX)
        value = ioapic->state.index;
    else if (offset == IOAPIC_WINDOW)
        value = ioapic_register_read(&ioapic->state);
    pthread_mutex_unlock(&ioapic->lock);
    return size >= 4 ? value : value & ((1u << (8 * size)) - 1);
}

static void ioapic_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct ioapic *ioapic = opaque;

    if (offset == IOAPIC_EOI) {
        ioapic_eoi(ioapic, (uint8_t)value);
        return;
    }
    pthread_mutex_lock(&ioapic->lock);
    if (offset == IOAPIC_INDEX)
        ioapic->state.index = (uint8_t)value;
    else if (offset == IOAPIC_WINDOW && size >= 4) /* the window takes 32-bit writes only */
        ioapic_register_write(ioapic, (uint32_t)value);
    pthread_mutex_unlock(&ioapic->lock);
}

static const struct bus_ops ioapic_ops = {.read = ioapic_read, .write = ioapic_write};

/* ---- construction ---- */

void ioapic_reset(struct ioapic *ioapic)
{
    pthread_mutex_lock(&ioapic->lock);
    ioapic->state.index = 0;
    ioapic->state.id = 0;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        ioapic->state.entry[pin] = ENTRY_MASKED;
    pthread_mutex_unlock(&ioapic->lock);
}

int ioapic_new(const struct ioapic_config *config, struct ioapic **out)
{
    struct ioapic *ioapic = calloc(1, sizeof *ioapic);
    struct bus_range range = {
        .name = "ioapic",
        .base = config->base,
        .size = IOAPIC_SIZE,
        .ops = &ioapic_ops,
        .device = ioapic,
    };
    int rc;

    if (!ioapic)
        return -ENOMEM;
    pthread_mutex_init(&ioapic->lock, NULL);
    ioapic->config = *config;
    ioapic_reset(ioapic);
    rc = bus_add(config->mmio, &range);
    if (rc < 0)
        ioapic_free(ioapic);
    else
        *out = ioapic;
    return rc;
}

void ioapic_free(struct ioapic *ioapic)
{
    if (!ioapic)
        return;
    bus_remove(ioapic->config.mmio, ioapic->config.base, ioapic);
    pthread_mutex_destroy(&ioapic->lock);
    free(ioapic);
}
