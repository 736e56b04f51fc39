/*
 * A 16550A serial port (see uart.h). Register and bit names: PC16550D datasheet, section 8.
 *
 * Threads: registers by any vCPU, the back end's callbacks and timers on the loop; all under
 * `lock`, which is never held while the back end is called. Only the loop's thread takes bytes out
 * of the transmit buffer. Trusts nothing that the guest writes or the back end delivers.
 */
#include "dev/legacy/uart.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "mem/bus_bytes.h"

#define UART_PORTS     8
#define UART_FIFO      16u
#define UART_TX_BYTES  4096u
#define UART_CLOCK_HZ  UINT64_C(1843200)
#define UART_CHAR_BITS 10 /* start, eight data, stop: close enough for a timeout */

/* Register offsets; 0 and 1 are the divisor while LCR_DLAB is set. */
enum uart_register { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_RX       0x01u
#define IER_THRE     0x02u
#define IER_LINE     0x04u
#define IER_MODEM    0x08u
#define IIR_NONE     0x01u
#define IIR_MODEM    0x00u
#define IIR_THRE     0x02u
#define IIR_RX       0x04u
#define IIR_LINE     0x06u
#define IIR_TIMEOUT  0x0cu
#define IIR_FIFO     0xc0u
#define FCR_ENABLE   0x01u
#define FCR_RX_RESET 0x02u
#define LCR_DLAB     0x80u
#define MCR_OUT2     0x08u
#define MCR_LOOP     0x10u
#define LSR_DR       0x01u
#define LSR_OE       0x02u
#define LSR_ERRORS   0x1eu
#define LSR_THRE     0x20u
#define LSR_TEMT     0x40u
#define MSR_CTS      0x10u
#define MSR_DSR      0x20u
#define MSR_RI       0x40u
#define MSR_DCD      0x80u

struct uart_state {
    uint8_t ier, fcr, lcr, mcr, scr;
    uint8_t lsr_errors; /* latched until LSR is read */
    uint8_t msr_lines, msr_deltas;
    uint8_t divisor[2];
    uint8_t rx[UART_FIFO];
    uint8_t rx_first, rx_count;
    bool thre_pending;    /* THRE interrupt, until IIR is read or a byte is written */
    bool timeout_pending; /* four character times without a byte taken or received */
};

/* What the port has sent and the back end has yet to take. */
struct uart_tx {
    uint8_t bytes[UART_TX_BYTES];
    unsigned first, count;
};

struct uart {
    pthread_mutex_t lock;
    struct uart_state state;
    struct uart_tx tx;
    bool draining;   /* the loop's thread will look at the transmit buffer */
    bool rx_refused; /* the back end waits for char_backend_input_resume() */
    struct timer drain, timeout;
    struct uart_config config;
};

/* ---- state; `lock` held ---- */

static unsigned rx_capacity(const struct uart *uart)
{
    return uart->state.fcr & FCR_ENABLE ? UART_FIFO : 1;
}

static unsigned rx_trigger(const struct uart *uart)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};

    return uart->state.fcr & FCR_ENABLE ? levels[uart->state.fcr >> 6] : 1;
}

static bool tx_has_room(const struct uart *uart)
{
    return uart->tx.count <= UART_TX_BYTES - UART_FIFO;
}

/* The most urgent interrupt (table "Interrupt control functions"). */
static uint8_t interrupt_identify(const struct uart *uart)
{
    const struct uart_state *state = &uart->state;

    if ((state->ier & IER_LINE) && state->lsr_errors)
        return IIR_LINE;
    if ((state->ier & IER_RX) && state->rx_count >= rx_trigger(uart))
        return IIR_RX;
    if ((state->ier & IER_RX) && state->timeout_pending)
        return IIR_TIMEOUT;
    if ((state->ier & IER_THRE) && state->thre_pending)
        return IIR_THRE;
    if ((state->ier & IER_MODEM) && state->msr_deltas)
        return IIR_MODEM;
    return IIR_NONE;
}

/* On a PC OUT2 gates the line, and loopback mode disconnects it. */
static void interrupt_update(struct uart *uart)
{
    bool gate = (uart->state.mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;

    irq_line_set(&uart->config.irq, gate && interrupt_identify(uart) != IIR_NONE);
}

static uint64_t character_ns(const struct uart *uart)
{
    uint64_t divisor = uart->state.divisor[0] | (unsigned)uart->state.divisor[1] << 8;

    if (divisor == 0)
        divisor = 1;
    return muldiv64(divisor * 16 * UART_CHAR_BITS, NS_PER_SECOND, UART_CLOCK_HZ);
}

/* "Character timeout": restarted by each byte that comes or is taken. */
static void timeout_restart(struct uart *uart)
{
    uart->state.timeout_pending = false;
    if ((uart->state.fcr & FCR_ENABLE) && uart->state.rx_count > 0)
        timer_arm(&uart->timeout, clock_monotonic_ns() + 4 * character_ns(uart));
    else
        timer_cancel(&uart->timeout);
}

static void rx_push(struct uart *uart, uint8_t byte)
{
    struct uart_state *state = &uart->state;

    if (state->rx_count >= rx_capacity(uart)) {
        state->lsr_errors |= LSR_OE;
        return;
    }
    state->rx[(state->rx_first + state->rx_count) % UART_FIFO] = byte;
    state->rx_count++;
}

static uint8_t rx_pop(struct uart *uart)
{
    struct uart_state *state = &uart->state;
    uint8_t byte;

    if (state->rx_count == 0)
        return 0;
    byte = state->rx[state->rx_first];
    state->rx_first = (uint8_t)((state->rx_first + 1u) % UART_FIFO);
    state->rx_count--;
    timeout_restart(uart);
    return byte;
}

static void rx_clear(struct uart *uart)
{
    uart->state.rx_first = uart->state.rx_count = 0;
    timeout_restart(uart);
}

/* The loop's thread is woken once for however many bytes follow until it comes. A guest that writes
 * on although LSR says that there is no room loses bytes, as with the chip. */
static void tx_push(struct uart *uart, uint8_t byte)
{
    struct uart_tx *tx = &uart->tx;

    if (!uart->config.backend || tx->count == UART_TX_BYTES)
        return;
    tx->bytes[(tx->first + tx->count) % UART_TX_BYTES] = byte;
    tx->count++;
    if (!uart->draining) {
        uart->draining = true;
        timer_arm(&uart->drain, clock_monotonic_ns());
    }
}

/* ---- transmission, on the loop's thread ---- */

static unsigned tx_copy(struct uart *uart, uint8_t *bytes, unsigned size)
{
    unsigned length;

    pthread_mutex_lock(&uart->lock);
    length = uart->tx.count < size ? uart->tx.count : size;
    for (unsigned i = 0; i < length; i++)
        bytes[i] = uart->tx.bytes[(uart->tx.first + i) % UART_TX_BYTES];
    uart->draining = length > 0;
    pthread_mutex_unlock(&uart->lock);
    return length;
}

static void tx_consume(struct uart *uart, unsigned length)
{
    bool had_room;

    pthread_mutex_lock(&uart->lock);
    had_room = tx_has_room(uart);
    uart->tx.first = (uart->tx.first + length) % UART_TX_BYTES;
    uart->tx.count -= length;
    if (!had_room && tx_has_room(uart))
        uart->state.thre_pending = true;
    interrupt_update(uart);
    pthread_mutex_unlock(&uart->lock);
}

/* Runs until the buffer is empty or the back end full, which then calls again. */
static void tx_drain(void *opaque)
{
    struct uart *uart = opaque;
    uint8_t bytes[512];
    unsigned length, taken;

    do {
        length = tx_copy(uart, bytes, sizeof bytes);
        if (length == 0)
            return;
        taken = (unsigned)char_backend_write(uart->config.backend, bytes, length);
        tx_consume(uart, taken);
    } while (taken == length);
}

/* ---- reception, on the loop's thread ---- */

static size_t rx_input(void *opaque, const uint8_t *bytes, size_t length)
{
    struct uart *uart = opaque;
    size_t taken = 0;

    pthread_mutex_lock(&uart->lock);
    while (taken < length && !(uart->state.mcr & MCR_LOOP) &&
           uart->state.rx_count < rx_capacity(uart))
        rx_push(uart, bytes[taken++]);
    uart->rx_refused = taken < length;
    if (taken > 0)
        timeout_restart(uart);
    interrupt_update(uart);
    pthread_mutex_unlock(&uart->lock);
    return taken;
}

static void timeout_expired(void *opaque)
{
    struct uart *uart = opaque;

    pthread_mutex_lock(&uart->lock);
    /* A byte may have been taken since the timer went off: then this is a little early. */
    uart->state.timeout_pending = uart->state.rx_count > 0;
    interrupt_update(uart);
    pthread_mutex_unlock(&uart->lock);
}

/* Whether the back end is to be asked for more; it is, outside the lock. */
static bool rx_take_refused(struct uart *uart)
{
    bool resume = uart->rx_refused && !(uart->state.mcr & MCR_LOOP) && uart->state.rx_count == 0;

    if (resume)
        uart->rx_refused = false;
    return resume;
}

/* ---- registers; `lock` held ---- */

static uint8_t lsr_read(struct uart *uart)
{
    uint8_t value = uart->state.lsr_errors;

    uart->state.lsr_errors = 0;
    if (uart->state.rx_count > 0)
        value |= LSR_DR;
    if (tx_has_room(uart))
        value |= LSR_THRE | LSR_TEMT;
    return value;
}

static uint8_t iir_read(struct uart *uart)
{
    uint8_t value = interrupt_identify(uart);

    if (value == IIR_THRE)
        uart->state.thre_pending = false;
    return value | (uart->state.fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

/* Loopback: OUT2, OUT1, DTR, RTS appear as DCD, RI, DSR, CTS. Else a terminal is always there. */
static uint8_t msr_lines(const struct uart *uart)
{
    uint8_t mcr = uart->state.mcr;

    if (!(mcr & MCR_LOOP))
        return MSR_DCD | MSR_DSR | MSR_CTS;
    return (uint8_t)((mcr & 0x0c) << 4 | (mcr & 0x01) << 5 | (mcr & 0x02) << 3);
}

static void msr_update(struct uart *uart)
{
    uint8_t lines = msr_lines(uart);
    uint8_t changed = lines ^ uart->state.msr_lines;

    if (!(uart->state.msr_lines & MSR_RI) || (lines & MSR_RI))
        changed &= (uint8_t)~MSR_RI; /* TERI: only the end of a ring counts */
    uart->state.msr_deltas |= changed >> 4;
    uart->state.msr_lines = lines;
}

static uint8_t msr_read(struct uart *uart)
{
    uint8_t value = uart->state.msr_lines | uart->state.msr_deltas;

    uart->state.msr_deltas = 0;
    return value;
}

static uint8_t register_read(struct uart *uart, unsigned reg)
{
    struct uart_state *state = &uart->state;

    if (reg <= REG_IER && (state->lcr & LCR_DLAB))
        return state->divisor[reg];
    switch (reg) {
    case REG_DATA:
        return rx_pop(uart);
    case REG_IER:
        return state->ier;
    case REG_IIR_FCR:
        return iir_read(uart);
    case REG_LCR:
        return state->lcr;
    case REG_MCR:
        return state->mcr;
    case REG_LSR:
        return lsr_read(uart);
    case REG_MSR:
        return msr_read(uart);
    default:
        return state->scr;
    }
}

/* The byte leaves the holding register at once as long as the buffer has room. */
static void data_write(struct uart *uart, uint8_t value)
{
    uart->state.thre_pending = false;
    if (uart->state.mcr & MCR_LOOP) {
        rx_push(uart, value);
        timeout_restart(uart);
    } else {
        interrupt_update(uart); /* the line falls, so that the next interrupt is an edge */
        tx_push(uart, value);
    }
    uart->state.thre_pending = tx_has_room(uart);
}

static void ier_write(struct uart *uart, uint8_t value)
{
    if ((value & IER_THRE) && !(uart->state.ier & IER_THRE))
        uart->state.thre_pending = tx_has_room(uart);
    uart->state.ier = value & 0x0f;
}

static void fcr_write(struct uart *uart, uint8_t value)
{
    bool toggled = (value ^ uart->state.fcr) & FCR_ENABLE;

    uart->state.fcr = value & (FCR_ENABLE | 0xc0);
    if (!(value & FCR_ENABLE))
        uart->state.fcr = 0;
    if (toggled || (value & FCR_RX_RESET))
        rx_clear(uart);
}

static void register_write(struct uart *uart, unsigned reg, uint8_t value)
{
    struct uart_state *state = &uart->state;

    if (reg <= REG_IER && (state->lcr & LCR_DLAB)) {
        state->divisor[reg] = value;
        return;
    }
    switch (reg) {
    case REG_DATA:
        data_write(uart, value);
        break;
    case REG_IER:
        ier_write(uart, value);
        break;
    case REG_IIR_FCR:
        fcr_write(uart, value);
        break;
    case REG_LCR:
        state->lcr = value;
        break;
    case REG_MCR:
        state->mcr = value & 0x1f;
        msr_update(uart);
        break;
    case REG_SCR:
        state->scr = value;
        break;
    default: /* LSR and MSR are for reading */
        break;
    }
}

/* ---- ports ---- */

static uint8_t uart_read8(void *opaque, unsigned reg)
{
    struct uart *uart = opaque;
    uint8_t value;
    bool resume;

    pthread_mutex_lock(&uart->lock);
    value = register_read(uart, reg);
    interrupt_update(uart);
    resume = rx_take_refused(uart);
    pthread_mutex_unlock(&uart->lock);
    if (resume)
        char_backend_input_resume(uart->config.backend);
    return value;
}

static void uart_write8(void *opaque, unsigned reg, uint8_t value)
{
    struct uart *uart = opaque;
    bool resume;

    pthread_mutex_lock(&uart->lock);
    register_write(uart, reg, value);
    interrupt_update(uart);
    resume = rx_take_refused(uart);
    pthread_mutex_unlock(&uart->lock);
    if (resume)
        char_backend_input_resume(uart->config.backend);
}

static uint64_t uart_read(void *uart, uint64_t offset, unsigned size)
{
    return bus_bytes_read(uart, offset, size, uart_read8);
}

static void uart_write(void *uart, uint64_t offset, unsigned size, uint64_t value)
{
    bus_bytes_write(uart, offset, size, value, uart_write8);
}

static const struct bus_ops uart_ops = {.read = uart_read, .write = uart_write};

/* ---- construction ---- */

void uart_reset(struct uart *uart)
{
    bool resume;

    pthread_mutex_lock(&uart->lock);
    uart->state = (struct uart_state){.divisor = {1, 0}}; /* 115200 */
    uart->state.msr_lines = msr_lines(uart);
    timeout_restart(uart);
    interrupt_update(uart);
    resume = rx_take_refused(uart);
    pthread_mutex_unlock(&uart->lock);
    if (resume)
        char_backend_input_resume(uart->config.backend);
}

int uart_new(const struct uart_config *config, struct uart **out)
{
    struct uart *uart = calloc(1, sizeof *uart);
    struct char_client client = {.input = rx_input, .writable = tx_drain, .opaque = uart};
    struct bus_range range = {"uart", config->base, UART_PORTS, &uart_ops, uart};
    int rc;

    if (!uart)
        return -ENOMEM;
    pthread_mutex_init(&uart->lock, NULL);
    uart->config = *config;
    timer_init(&uart->drain, config->loop, tx_drain, uart);
    timer_init(&uart->timeout, config->loop, timeout_expired, uart);
    uart_reset(uart);
    if (config->backend)
        char_backend_attach(config->backend, &client);
    rc = bus_add(config->ports, &range);
    if (rc < 0)
        uart_free(uart);
    else
        *out = uart;
    return rc;
}

void uart_free(struct uart *uart)
{
    if (!uart)
        return;
    bus_remove(uart->config.ports, uart->config.base, uart);
    if (uart->config.backend) {
        tx_drain(uart);
        char_backend_attach(uart->config.backend, NULL);
    }
    timer_cancel(&uart->drain);
    timer_cancel(&uart->timeout);
    pthread_mutex_destroy(&uart->lock);
    free(uart);
}
