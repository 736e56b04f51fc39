/*
 * The pair of 8259A interrupt controllers (see pic.h).
 *
 * Names in comments are the datasheet's (Intel 231468). Edge-triggered requests are latched until
 * they are acknowledged, so a device may pulse its line; level-triggered ones follow the line.
 * Threads: any, under `lock`. Trusts: nothing of what the guest writes; every value is legal.
 */
#include "machine/pic.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "mem/bus_bytes.h"

#define PIC_CASCADE_INPUT 2
#define PIC_SPURIOUS      7

/* One 8259A. Bit n of a mask is input n. */
struct pic_chip_state {
    uint8_t irr, imr, isr;
    uint8_t lines;       /* levels on the inputs now */
    uint8_t elcr;        /* 1: level-triggered */
    uint8_t first;       /* the input with the highest priority */
    uint8_t vector_base; /* ICW2 */
    uint8_t next_icw;    /* which ICW the next write to port 1 is; 0: none, it is OCW1 */
    bool single, need_icw4;
    bool auto_eoi, rotate_auto_eoi;
    bool special_mask, special_fully_nested;
    bool read_isr, poll;
};

struct pic_state {
    struct pic_chip_state chip[2]; /* master, slave */
};

struct pic {
    pthread_mutex_t lock;
    struct pic_state state;
    struct pic_config config;
    bool output;
};

/* ---- one chip ---- */

/* Rank (0 is highest) of the most urgent input in `mask`, 8 if empty. */
static unsigned chip_rank(const struct pic_chip_state *chip, uint8_t mask)
{
    unsigned rank = 0;

    while (rank < 8 && !(mask & (1u << ((rank + chip->first) & 7))))
        rank++;
    return rank;
}

/* The input that would be acknowledged now, or -1. Datasheet: "Fully nested mode", "Special mask
 * mode", "Special fully nested mode". */
static int chip_pending(const struct pic_chip_state *chip, bool master)
{
    unsigned rank = chip_rank(chip, chip->irr & (uint8_t)~chip->imr);
    uint8_t in_service = chip->isr;

    if (rank == 8)
        return -1;
    if (chip->special_mask)
        in_service &= (uint8_t)~chip->imr;
    if (chip->special_fully_nested && master)
        in_service &= (uint8_t) ~(1u << PIC_CASCADE_INPUT);
    if (rank >= chip_rank(chip, in_service))
        return -1;
    return (int)((rank + chip->first) & 7);
}

static void chip_set_line(struct pic_chip_state *chip, unsigned input, bool level)
{
    uint8_t bit = (uint8_t)(1u << input);

    if (chip->elcr & bit)
        chip->irr = level ? chip->irr | bit : chip->irr & (uint8_t)~bit;
    else if (level && !(chip->lines & bit))
        chip->irr |= bit;
    chip->lines = level ? chip->lines | bit : chip->lines & (uint8_t)~bit;
}

static void chip_acknowledge(struct pic_chip_state *chip, unsigned input)
{
    uint8_t bit = (uint8_t)(1u << input);

    if (!chip->auto_eoi)
        chip->isr |= bit;
    else if (chip->rotate_auto_eoi)
        chip->first = (input + 1) & 7;
    if (!(chip->elcr & bit))
        chip->irr &= (uint8_t)~bit;
}

static void chip_icw1(struct pic_chip_state *chip, uint8_t value)
{
    chip->imr = chip->isr = 0;
    chip->irr = chip->lines & chip->elcr; /* edge sense is reset: a new edge is needed */
    chip->first = 0;
    chip->auto_eoi = chip->special_fully_nested = false;
    chip->special_mask = chip->read_isr = chip->poll = false;
    chip->single = value & 2;
    chip->need_icw4 = value & 1;
    chip->next_icw = 2;
}

static void chip_nonspecific_eoi(struct pic_chip_state *chip, bool rotate)
{
    uint8_t in_service = chip->isr;
    unsigned rank, input;

    if (chip->special_mask)
        in_service &= (uint8_t)~chip->imr;
    rank = chip_rank(chip, in_service);
    if (rank == 8)
        return;
    input = (rank + chip->first) & 7;
    chip->isr &= (uint8_t) ~(1u << input);
    if (rotate)
        chip->first = (input + 1) & 7;
}

static void chip_ocw2(struct pic_chip_state *chip, uint8_t value)
{
    unsigned input = value & 7;

    switch (value >> 5) {
    case 0:
    case 4:
        chip->rotate_auto_eoi = value >> 5 == 4;
        break;
    case 1:
    case 5:
        chip_nonspecific_eoi(chip, value >> 5 == 5);
        break;
    case 3:
    case 7:
        chip->isr &= (uint8_t) ~(1u << input);
        if (value >> 5 == 7)
            chip->first = (input + 1) & 7;
        break;
    case 6:
        chip->first = (input + 1) & 7;
        break;
    default: /* 2: no operation */
        break;
    }
}

static void chip_ocw3(struct pic_chip_state *chip, uint8_t value)
{
    if (value & 4)
        chip->poll = true;
    if (value & 2)
        chip->read_isr = value & 1;
    if (value & 0x40)
        chip->special_mask = value & 0x20;
}

static void chip_write_data(struct pic_chip_state *chip, uint8_t value)
{
    switch (chip->next_icw) {
    case 2:
        chip->vector_base = value & 0xf8;
        chip->next_icw = chip->single ? (chip->need_icw4 ? 4 : 0) : 3;
        break;
    case 3: /* the cascade is wired for good */
        chip->next_icw = chip->need_icw4 ? 4 : 0;
        break;
    case 4:
        chip->auto_eoi = value & 2;
        chip->special_fully_nested = value & 0x10;
        chip->next_icw = 0;
        break;
    default:
        chip->imr = value;
        break;
    }
}

static void chip_write(struct pic_chip_state *chip, unsigned reg, uint8_t value)
{
    if (reg & 1)
        chip_write_data(chip, value);
    else if (value & 0x10)
        chip_icw1(chip, value);
    else if (value & 0x08)
        chip_ocw3(chip, value);
    else
        chip_ocw2(chip, value);
}

/* "Poll command": the read acknowledges and tells which input it was. */
static uint8_t chip_poll(struct pic_chip_state *chip, bool master)
{
    int input = chip_pending(chip, master);

    chip->poll = false;
    if (input < 0)
        return 0;
    chip_acknowledge(chip, (unsigned)input);
    return (uint8_t)(0x80 | input);
}

static uint8_t chip_read(struct pic_chip_state *chip, unsigned reg, bool master)
{
    if (chip->poll)
        return chip_poll(chip, master);
    if (reg & 1)
        return chip->imr;
    return chip->read_isr ? chip->isr : chip->irr;
}

/* ---- the pair; `lock` held ---- */

/* The slave's INT feeds the master's input 2 as a level, whatever the trigger mode. */
static void pic_update(struct pic *pic)
{
    struct pic_chip_state *master = &pic->state.chip[0];
    uint8_t cascade = 1u << PIC_CASCADE_INPUT;
    bool output;

    if (chip_pending(&pic->state.chip[1], false) >= 0)
        master->irr |= cascade;
    else
        master->irr &= (uint8_t)~cascade;
    output = chip_pending(master, true) >= 0;
    if (output != pic->output) {
        pic->output = output;
        irq_line_set(&pic->config.output, output);
    }
}

void pic_set_irq(void *opaque, unsigned irq, bool level)
{
    struct pic *pic = opaque;

    if (irq >= PIC_INPUTS || irq == PIC_CASCADE_INPUT)
        return;
    pthread_mutex_lock(&pic->lock);
    chip_set_line(&pic->state.chip[irq >> 3], irq & 7, level);
    pic_update(pic);
    pthread_mutex_unlock(&pic->lock);
}

/* An acknowledge that finds no request gives the vector of input 7 without setting its in-service
 * bit (datasheet, "Interrupt sequence"). */
static uint8_t pic_acknowledge_chip(struct pic_chip_state *chip, bool master, int *input)
{
    *input = chip_pending(chip, master);
    if (*input < 0)
        return chip->vector_base | PIC_SPURIOUS;
    chip_acknowledge(chip, (unsigned)*input);
    return (uint8_t)(chip->vector_base | *input);
}

uint8_t pic_acknowledge(void *opaque)
{
    struct pic *pic = opaque;
    uint8_t vector;
    int input;

    pthread_mutex_lock(&pic->lock);
    vector = pic_acknowledge_chip(&pic->state.chip[0], true, &input);
    if (input == PIC_CASCADE_INPUT)
        vector = pic_acknowledge_chip(&pic->state.chip[1], false, &input);
    pic_update(pic);
    pthread_mutex_unlock(&pic->lock);
    return vector;
}

/* ---- ports ---- */

static uint8_t pic_port_read(struct pic *pic, unsigned index, unsigned reg)
{
    uint8_t value;

    pthread_mutex_lock(&pic->lock);
    value = chip_read(&pic->state.chip[index], reg, index == 0);
    pic_update(pic);
    pthread_mutex_unlock(&pic->lock);
    return value;
}

static void pic_port_write(struct pic *pic, unsigned index, unsigned reg, uint8_t value)
{
    pthread_mutex_lock(&pic->lock);
    chip_write(&pic->state.chip[index], reg, value);
    pic_update(pic);
    pthread_mutex_unlock(&pic->lock);
}

static uint8_t master_read8(void *pic, unsigned reg)
{
    return pic_port_read(pic, 0, reg);
}

static void master_write8(void *pic, unsigned reg, uint8_t value)
{
    pic_port_write(pic, 0, reg, value);
}

static uint8_t slave_read8(void *pic, unsigned reg)
{
    return pic_port_read(pic, 1, reg);
}

static void slave_write8(void *pic, unsigned reg, uint8_t value)
{
    pic_port_write(pic, 1, reg, value);
}

static uint8_t elcr_read8(void *opaque, unsigned reg)
{
    struct pic *pic = opaque;
    uint8_t value;

    pthread_mutex_lock(&pic->lock);
    value = pic->state.chip[reg & 1].elcr;
    pthread_mutex_unlock(&pic->lock);
    return value;
}

/* IRQ 0, 1, 2, 8 and 13 cannot be level-triggered (PIIX4, 7.1.3). */
static void elcr_write8(void *opaque, unsigned reg, uint8_t value)
{
    static const uint8_t writable[2] = {0xf8, 0xde};
    struct pic *pic = opaque;
    struct pic_chip_state *chip = &pic->state.chip[reg & 1];

    pthread_mutex_lock(&pic->lock);
    chip->elcr = value & writable[reg & 1];
    chip->irr = (uint8_t)((chip->irr & ~chip->elcr) | (chip->lines & chip->elcr));
    pic_update(pic);
    pthread_mutex_unlock(&pic->lock);
}

#define PIC_PORT_OPS(name)                                                                         \
    static uint64_t name##_read(void *pic, uint64_t offset, unsigned size)                         \
    {                                                                                              \
        return bus_bytes_read(pic, offset, size, name##_read8);                                    \
    }                                                                                              \
    static void name##_write(void *pic, uint64_t offset, unsigned size, uint64_t value)            \
    {                                                                                              \
        bus_bytes_write(pic, offset, size, value, name##_write8);                                  \
    }                                                                                              \
    static const struct bus_ops name##_ops = {.read = name##_read, .write = name##_write}

PIC_PORT_OPS(master);
PIC_PORT_OPS(slave);
PIC_PORT_OPS(elcr);

static const struct bus_range pic_ranges[] = {
    {.name = "pic-master", .base = 0x20, .size = 2, .ops = &master_ops},
    {.name = "pic-slave", .base = 0xa0, .size = 2, .ops = &slave_ops},
    {.name = "pic-elcr", .base = 0x4d0, .size = 2, .ops = &elcr_ops},
};
#define PIC_RANGES (sizeof pic_ranges / sizeof pic_ranges[0])

/* ---- construction ---- */

void pic_reset(struct pic *pic)
{
    pthread_mutex_lock(&pic->lock);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t lines = pic->state.chip[i].lines; /* the devices' outputs stay as they are */

        pic->state.chip[i] = (struct pic_chip_state){.lines = lines};
    }
    pic_update(pic);
    pthread_mutex_unlock(&pic->lock);
}

int pic_new(const struct pic_config *config, struct pic **out)
{
    struct pic *pic = calloc(1, sizeof *pic);
    int rc = 0;

    if (!pic)
        return -ENOMEM;
    pthread_mutex_init(&pic->lock, NULL);
    pic->config = *config;
    for (unsigned i = 0; rc == 0 && i < PIC_RANGES; i++) {
        struct bus_range range = pic_ranges[i];

        range.device = pic;
        rc = bus_add(config->ports, &range);
    }
    if (rc < 0)
        pic_free(pic);
    else
        *out = pic;
    return rc;
}

void pic_free(struct pic *pic)
{
    if (!pic)
        return;
    for (unsigned i = 0; i < PIC_RANGES; i++)
        bus_remove(pic->config.ports, pic_ranges[i].base, pic);
    pthread_mutex_destroy(&pic->lock);
    free(pic);
}
