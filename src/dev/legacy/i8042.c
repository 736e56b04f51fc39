/*
 * The i8042 keyboard controller with an AT keyboard (see i8042.h).
 *
 * Source: IBM PS/2 Technical Reference, "Keyboard and Auxiliary Device Controller" (commands,
 * status, input and output port) and "101/102-key keyboard" (its commands). The keyboard has no
 * keys that are ever pressed: it answers, so that firmware and drivers find it. Threads: any, under
 * `lock`; `reset` is called after it is released. Trusts nothing that is written: the queue is
 * bounded, what does not fit is lost, as with the keyboard's own.
 */
#include "dev/legacy/i8042.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define PORT_DATA         0x60
#define PORT_COMMAND      0x64
#define PORT_A            0x92

#define STATUS_FULL       0x01u
#define STATUS_SYSTEM     0x04u
#define STATUS_COMMAND    0x08u
#define STATUS_UNLOCKED   0x10u
#define STATUS_AUX        0x20u
#define STATUS_TIMEOUT    0x40u

#define MODE_KEYBOARD_IRQ 0x01u
#define MODE_AUX_IRQ      0x02u
#define MODE_SYSTEM       0x04u
#define MODE_KEYBOARD_OFF 0x10u
#define MODE_AUX_OFF      0x20u
#define MODE_TRANSLATE    0x40u

#define OUTPUT_NO_RESET   0x01u
#define OUTPUT_A20        0x02u
#define OUTPUT_FULL       0x10u
#define OUTPUT_AUX_FULL   0x20u
#define OUTPUT_FIXED      0xc0u

#define PORT_A_RESET      0x01u
#define PORT_A_A20        0x02u

#define KEYBOARD_ACK      0xfau
#define KEYBOARD_RESEND   0xfeu
#define KEYBOARD_PASSED   0xaau
#define KEYBOARD_QUEUE    16u
#define CONTROLLER_BYTES  32

struct i8042_state {
    uint8_t ram[CONTROLLER_BYTES]; /* [0] is the mode ("command byte") */
    uint8_t command;               /* waits for its data byte, 0: none */
    uint8_t output;                /* the output buffer */
    uint8_t output_status;         /* FULL, AUX, TIMEOUT */
    bool wrote_command;            /* the last write was to the command port */
    bool a20;
    uint8_t port_a;
    /* the keyboard */
    uint8_t queue[KEYBOARD_QUEUE];
    uint8_t queue_first, queue_count;
    uint8_t keyboard_command; /* waits for its data byte, 0: none */
    uint8_t last_sent;
    uint8_t scancode_set;
};

struct i8042 {
    pthread_mutex_t lock;
    struct i8042_state state;
    struct i8042_config config;
};

/* ---- output buffer; `lock` held ---- */

static void irq_update(struct i8042 *i8042)
{
    const struct i8042_state *state = &i8042->state;
    bool full = state->output_status & STATUS_FULL, aux = state->output_status & STATUS_AUX;

    irq_line_set(&i8042->config.keyboard_irq, full && !aux && (state->ram[0] & MODE_KEYBOARD_IRQ));
    irq_line_set(&i8042->config.aux_irq, full && aux && (state->ram[0] & MODE_AUX_IRQ));
}

/* The controller's own answer overwrites what is in the buffer. */
static void output_put(struct i8042 *i8042, uint8_t value, uint8_t status)
{
    i8042->state.output = value;
    i8042->state.output_status = status | STATUS_FULL;
}

/* Scan code set 2 to 1, for the few bytes below 0x85 that an idle keyboard sends: the answers to
 * "which set" (1 to 3) and the second half of its identity. */
static uint8_t translate(uint8_t value)
{
    switch (value) {
    case 0x01:
        return 0x43;
    case 0x02:
        return 0x41;
    case 0x03:
        return 0x3f;
    case 0x83:
        return 0x41;
    default:
        return value;
    }
}

/* Moves the keyboard's next byte into the output buffer if that is free. */
static void output_refill(struct i8042 *i8042)
{
    struct i8042_state *state = &i8042->state;
    uint8_t value;

    if ((state->output_status & STATUS_FULL) || state->queue_count == 0 ||
        (state->ram[0] & MODE_KEYBOARD_OFF))
        return;
    value = state->queue[state->queue_first];
    state->queue_first = (uint8_t)((state->queue_first + 1u) % KEYBOARD_QUEUE);
    state->queue_count--;
    output_put(i8042, state->ram[0] & MODE_TRANSLATE ? translate(value) : value, 0);
}

/* ---- the keyboard; `lock` held ---- */

static void keyboard_send(struct i8042 *i8042, uint8_t value)
{
    struct i8042_state *state = &i8042->state;

    if (state->queue_count == KEYBOARD_QUEUE)
        return;
    state->queue[(state->queue_first + state->queue_count) % KEYBOARD_QUEUE] = value;
    state->queue_count++;
    state->last_sent = value;
}

static void keyboard_parameter(struct i8042 *i8042, uint8_t command, uint8_t value)
{
    keyboard_send(i8042, KEYBOARD_ACK);
    if (command != 0xf0) /* LEDs and typematic rate change nothing that anybody sees */
        return;
    if (value == 0)
        keyboard_send(i8042, i8042->state.scancode_set);
    else if (value <= 3)
        i8042->state.scancode_set = value;
}

static void keyboard_command(struct i8042 *i8042, uint8_t value)
{
    struct i8042_state *state = &i8042->state;

    switch (value) {
    case 0xed: /* LEDs */
    case 0xf0: /* scan code set */
    case 0xf3: /* typematic rate */
        state->keyboard_command = value;
        keyboard_send(i8042, KEYBOARD_ACK);
        break;
    case 0xee: /* echo */
        keyboard_send(i8042, 0xee);
        break;
    case 0xf2: /* identify */
        keyboard_send(i8042, KEYBOARD_ACK);
        keyboard_send(i8042, 0xab);
        keyboard_send(i8042, 0x83);
        break;
    case 0xf4 ... 0xfa: /* enable, disable, defaults, key types: nothing to do without keys */
        keyboard_send(i8042, KEYBOARD_ACK);
        break;
    case 0xfe:
        keyboard_send(i8042, state->last_sent);
        break;
    case 0xff: /* reset and self test */
        state->queue_count = 0;
        state->scancode_set = 2;
        keyboard_send(i8042, KEYBOARD_ACK);
        keyboard_send(i8042, KEYBOARD_PASSED);
        break;
    default:
        keyboard_send(i8042, KEYBOARD_RESEND);
        break;
    }
}

/* A command byte where a parameter was due is taken as a command (101/102-key keyboard). */
static void keyboard_write(struct i8042 *i8042, uint8_t value)
{
    uint8_t command = i8042->state.keyboard_command;

    i8042->state.ram[0] &= (uint8_t)~MODE_KEYBOARD_OFF; /* sending to it enables its interface */
    i8042->state.keyboard_command = 0;
    if (command && value < 0xed)
        keyboard_parameter(i8042, command, value);
    else
        keyboard_command(i8042, value);
}

/* ---- the controller; `lock` held; true: the reset line was pulsed ---- */

static uint8_t output_port_read(const struct i8042 *i8042)
{
    uint8_t status = i8042->state.output_status;
    unsigned value = OUTPUT_FIXED | OUTPUT_NO_RESET;

    if (i8042->state.a20)
        value |= OUTPUT_A20;
    if (status & STATUS_FULL)
        value |= status & STATUS_AUX ? OUTPUT_AUX_FULL : OUTPUT_FULL;
    return (uint8_t)value;
}

/* The data byte of a controller command. */
static bool controller_data(struct i8042 *i8042, uint8_t command, uint8_t value)
{
    struct i8042_state *state = &i8042->state;

    switch (command) {
    case 0x60 ... 0x7f:
        state->ram[command & 0x1f] = value;
        break;
    case 0xd1: /* write output port */
        state->a20 = value & OUTPUT_A20;
        return !(value & OUTPUT_NO_RESET);
    case 0xd2: /* as if the keyboard had sent it */
        output_put(i8042, value, 0);
        break;
    case 0xd3: /* as if the auxiliary device had; there is no such channel, which this shows */
        output_put(i8042, value, 0);
        break;
    case 0xd4: /* to the auxiliary device: nobody answers */
        output_put(i8042, KEYBOARD_RESEND, STATUS_AUX | STATUS_TIMEOUT);
        break;
    default:
        break;
    }
    return false;
}

static void self_test(struct i8042 *i8042)
{
    i8042->state.ram[0] |= MODE_SYSTEM;
    i8042->state.queue_count = 0;
    output_put(i8042, 0x55, 0);
}

static bool controller_command(struct i8042 *i8042, uint8_t value)
{
    struct i8042_state *state = &i8042->state;

    state->command = 0;
    switch (value) {
    case 0x20 ... 0x3f:
        output_put(i8042, state->ram[value & 0x1f], 0);
        break;
    case 0x60 ... 0x7f:
    case 0xd1 ... 0xd4:
        state->command = value;
        break;
    case 0xa7:
        state->ram[0] |= MODE_AUX_OFF;
        break;
    case 0xa8:
        state->ram[0] &= (uint8_t)~MODE_AUX_OFF;
        break;
    case 0xa9: /* test the auxiliary interface: its clock line is stuck, for there is none */
        output_put(i8042, 0x02, 0);
        break;
    case 0xaa:
        self_test(i8042);
        break;
    case 0xab: /* test the keyboard interface: no error */
        output_put(i8042, 0x00, 0);
        break;
    case 0xad:
        state->ram[0] |= MODE_KEYBOARD_OFF;
        break;
    case 0xae:
        state->ram[0] &= (uint8_t)~MODE_KEYBOARD_OFF;
        break;
    case 0xc0: /* input port: keyboard not locked */
        output_put(i8042, 0x80, 0);
        break;
    case 0xd0:
        output_put(i8042, output_port_read(i8042), 0);
        break;
    case 0xdd:
    case 0xdf:
        state->a20 = value == 0xdf;
        break;
    case 0xe0: /* test inputs */
        output_put(i8042, 0x00, 0);
        break;
    case 0xf0 ... 0xff: /* pulse the output port's low bits that are 0 */
        return !(value & OUTPUT_NO_RESET);
    default:
        break;
    }
    return false;
}

static bool data_write(struct i8042 *i8042, uint8_t value)
{
    uint8_t command = i8042->state.command;

    i8042->state.command = 0;
    if (command)
        return controller_data(i8042, command, value);
    keyboard_write(i8042, value);
    return false;
}

/* ---- ports ---- */

static uint64_t data_port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *i8042 = opaque;
    uint8_t value;

    (void)offset;
    (void)size;
    pthread_mutex_lock(&i8042->lock);
    value = i8042->state.output; /* stays readable after it was taken */
    i8042->state.output_status = 0;
    irq_update(i8042); /* the line falls between two bytes */
    output_refill(i8042);
    irq_update(i8042);
    pthread_mutex_unlock(&i8042->lock);
    return value;
}

static uint64_t command_port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *i8042 = opaque;
    const struct i8042_state *state = &i8042->state;
    uint8_t value;

    (void)offset;
    (void)size;
    pthread_mutex_lock(&i8042->lock);
    value = state->output_status | STATUS_UNLOCKED;
    if (state->ram[0] & MODE_SYSTEM)
        value |= STATUS_SYSTEM;
    if (state->wrote_command)
        value |= STATUS_COMMAND;
    pthread_mutex_unlock(&i8042->lock);
    return value;
}

static void port_write(struct i8042 *i8042, uint8_t value, bool command)
{
    bool reset;

    pthread_mutex_lock(&i8042->lock);
    i8042->state.wrote_command = command;
    if (command)
        reset = controller_command(i8042, value);
    else
        reset = data_write(i8042, value);
    output_refill(i8042);
    irq_update(i8042);
    pthread_mutex_unlock(&i8042->lock);
    if (reset)
        i8042->config.reset(i8042->config.opaque);
}

static void data_port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    port_write(opaque, (uint8_t)value, false);
}

static void command_port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    port_write(opaque, (uint8_t)value, true);
}

/* System control port A: A20 and a reset when bit 0 rises. */
static uint64_t port_a_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *i8042 = opaque;
    unsigned value;

    (void)offset;
    (void)size;
    pthread_mutex_lock(&i8042->lock);
    value = i8042->state.port_a | (i8042->state.a20 ? PORT_A_A20 : 0u);
    pthread_mutex_unlock(&i8042->lock);
    return value;
}

static void port_a_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8042 *i8042 = opaque;
    bool reset;

    (void)offset;
    (void)size;
    pthread_mutex_lock(&i8042->lock);
    reset = (value & PORT_A_RESET) && !(i8042->state.port_a & PORT_A_RESET);
    i8042->state.port_a = value & PORT_A_RESET;
    i8042->state.a20 = value & PORT_A_A20;
    pthread_mutex_unlock(&i8042->lock);
    if (reset)
        i8042->config.reset(i8042->config.opaque);
}

static const struct bus_ops data_ops = {.read = data_port_read, .write = data_port_write};
static const struct bus_ops command_ops = {.read = command_port_read, .write = command_port_write};
static const struct bus_ops port_a_ops = {.read = port_a_read, .write = port_a_write};

static const struct bus_range i8042_ranges[] = {
    {.name = "i8042-data", .base = PORT_DATA, .size = 1, .ops = &data_ops},
    {.name = "i8042-command", .base = PORT_COMMAND, .size = 1, .ops = &command_ops},
    {.name = "port-a", .base = PORT_A, .size = 1, .ops = &port_a_ops},
};
#define I8042_RANGES (sizeof i8042_ranges / sizeof i8042_ranges[0])

/* ---- construction ---- */

/* As the power-on self test leaves it: both interfaces off, no interrupts, translating. */
void i8042_reset(struct i8042 *i8042)
{
    pthread_mutex_lock(&i8042->lock);
    i8042->state = (struct i8042_state){
        .ram = {MODE_SYSTEM | MODE_KEYBOARD_OFF | MODE_AUX_OFF | MODE_TRANSLATE},
        .a20 = true,
        .scancode_set = 2,
    };
    irq_update(i8042);
    pthread_mutex_unlock(&i8042->lock);
}

int i8042_new(const struct i8042_config *config, struct i8042 **out)
{
    struct i8042 *i8042 = calloc(1, sizeof *i8042);
    int rc = 0;

    if (!i8042)
        return -ENOMEM;
    pthread_mutex_init(&i8042->lock, NULL);
    i8042->config = *config;
    i8042_reset(i8042);
    for (unsigned i = 0; rc == 0 && i < I8042_RANGES; i++) {
        struct bus_range range = i8042_ranges[i];

        range.device = i8042;
        rc = bus_add(config->ports, &range);
    }
    if (rc < 0)
        i8042_free(i8042);
    else
        *out = i8042;
    return rc;
}

void i8042_free(struct i8042 *i8042)
{
    if (!i8042)
        return;
    for (unsigned i = 0; i < I8042_RANGES; i++)
        bus_remove(i8042->config.ports, i8042_ranges[i].base, i8042);
    pthread_mutex_destroy(&i8042->lock);
    free(i8042);
}
