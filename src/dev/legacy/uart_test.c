/* Tests of the 16550A: FIFO interrupts, timeout, THRE, back-pressure, loopback. */
#include "dev/legacy/uart.h"

#include "base/clock.h"
#include "base/fake_time.h"
#include "base/test.h"

/* A back end under the test's control, in place of lib_char's. */
struct char_backend {
    struct char_client client;
    size_t room, length;
    uint8_t out[16384];
    unsigned resumes;
};

void char_backend_attach(struct char_backend *backend, const struct char_client *client)
{
    backend->client = client ? *client : (struct char_client){0};
}

size_t char_backend_write(struct char_backend *backend, const uint8_t *bytes, size_t length)
{
    size_t taken = length < backend->room ? length : backend->room;

    memcpy(backend->out + backend->length, bytes, taken);
    backend->length += taken;
    backend->room -= taken;
    return taken;
}

void char_backend_input_resume(struct char_backend *backend)
{
    backend->resumes++;
}

struct board {
    struct bus *ports;
    struct uart *uart;
    struct char_backend backend;
    bool irq;
    unsigned edges;
};

static void on_irq(void *opaque, unsigned pin, bool level)
{
    struct board *board = opaque;

    (void)pin;
    board->edges += level && !board->irq;
    board->irq = level;
}

static void out(struct board *board, unsigned reg, uint8_t value)
{
    bus_write(board->ports, 0x3f8 + reg, 1, value);
}

static uint8_t in(struct board *board, unsigned reg)
{
    return (uint8_t)bus_read(board->ports, 0x3f8 + reg, 1);
}

static size_t receive(struct board *board, const char *text)
{
    return board->backend.client.input(board->backend.client.opaque, (const uint8_t *)text,
                                       strlen(text));
}

static bool board_up(struct test *t, struct board *board)
{
    struct uart_config config = {.base = 0x3f8, .irq = {on_irq, board, 4}};

    memset(board, 0, sizeof *board);
    board->backend.room = sizeof board->backend.out;
    fake_time_reset(NS_PER_SECOND, 0);
    if (!CHECK_EQ(t, bus_new(&board->ports), 0))
        return false;
    config.ports = board->ports;
    config.backend = &board->backend;
    if (!CHECK_EQ(t, uart_new(&config, &board->uart), 0))
        return false;
    out(board, 4, 0x0b); /* DTR, RTS, OUT2 */
    return true;
}

static void board_down(struct board *board)
{
    uart_free(board->uart);
    bus_free(board->ports);
}

static void test_registers(struct test *t)
{
    static struct board b;

    if (!board_up(t, &b))
        return;
    CHECK_EQ(t, in(&b, 5), 0x60);
    CHECK_EQ(t, in(&b, 6), 0xb0);
    CHECK_EQ(t, in(&b, 2), 0x01);
    out(&b, 7, 0x5a);
    CHECK_EQ(t, in(&b, 7), 0x5a);
    out(&b, 3, 0x83);
    out(&b, 0, 0x0c);
    out(&b, 1, 0x01);
    CHECK_EQ(t, in(&b, 0), 0x0c);
    CHECK_EQ(t, in(&b, 1), 0x01);
    out(&b, 3, 0x03);
    CHECK_EQ(t, in(&b, 1), 0);
    out(&b, 1, 0xff);
    CHECK_EQ(t, in(&b, 1), 0x0f);
    out(&b, 2, 0x01);
    CHECK_EQ(t, in(&b, 2) & 0xc0, 0xc0);
    CHECK_EQ(t, in(&b, 0), 0); /* nothing there */
    board_down(&b);
}

static void test_transmit(struct test *t)
{
    static struct board b;

    if (!board_up(t, &b))
        return;
    for (const char *c = "hello"; *c; c++)
        out(&b, 0, (uint8_t)*c);
    CHECK_EQ(t, b.backend.length, 0); /* never on the vCPU's thread */
    fake_time_advance(1);
    CHECK_MEM(t, b.backend.out, "hello", 5);
    out(&b, 0, '!');
    uart_free(b.uart); /* writes out the rest */
    CHECK_EQ(t, b.backend.length, 6);
    bus_free(b.ports);
}

static void test_thre_interrupt(struct test *t)
{
    static struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 1, 0x02);
    CHECK(t, b.irq);
    CHECK_EQ(t, in(&b, 2), 0x02);
    CHECK(t, !b.irq); /* reading IIR clears it */
    CHECK_EQ(t, in(&b, 2), 0x01);
    out(&b, 0, 'x');
    CHECK(t, b.irq);
    out(&b, 0, 'y');
    CHECK_EQ(t, b.edges, 3); /* each byte makes a new edge */
    out(&b, 1, 0);
    CHECK(t, !b.irq);
    (void)in(&b, 2);
    out(&b, 1, 0x02); /* enabling it while THRE is set interrupts at once */
    CHECK(t, b.irq);
    out(&b, 4, 0x03); /* OUT2 gates the line */
    CHECK(t, !b.irq);
    board_down(&b);
}

static void test_back_pressure(struct test *t)
{
    static struct board b;
    unsigned sent = 0;

    if (!board_up(t, &b))
        return;
    b.backend.room = 100;
    out(&b, 1, 0x02);
    while ((in(&b, 5) & 0x20) && sent < 100000) {
        out(&b, 0, (uint8_t)sent++);
        fake_time_advance(1);
    }
    CHECK(t, sent > 4000 && sent < 5000);
    CHECK_EQ(t, in(&b, 5) & 0x60, 0);
    CHECK_EQ(t, b.backend.length, 100);
    CHECK(t, !b.irq);
    b.backend.room = 10000;
    b.backend.client.writable(b.backend.client.opaque);
    CHECK_EQ(t, b.backend.length, sent);
    for (unsigned i = 0; i < sent; i++) {
        if (b.backend.out[i] != (uint8_t)i) {
            CHECK_EQ(t, b.backend.out[i], (uint8_t)i);
            break;
        }
    }
    CHECK(t, b.irq);
    CHECK_EQ(t, in(&b, 5), 0x60);
    b.backend.room = 0;
    for (unsigned i = 0; i < 10000; i++) /* a guest that does not look loses bytes, no more */
        out(&b, 0, 'z');
    board_down(&b);
}

static void test_receive_16450(struct test *t)
{
    static struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 1, 0x01);
    CHECK_EQ(t, receive(&b, "ab"), 1);
    CHECK(t, b.irq);
    CHECK_EQ(t, in(&b, 2), 0x04);
    CHECK_EQ(t, in(&b, 5), 0x61);
    CHECK_EQ(t, b.backend.resumes, 0);
    CHECK_EQ(t, in(&b, 0), 'a');
    CHECK(t, !b.irq);
    CHECK_EQ(t, b.backend.resumes, 1);
    CHECK_EQ(t, receive(&b, "b"), 1);
    CHECK_EQ(t, in(&b, 0), 'b');
    CHECK_EQ(t, b.backend.resumes, 1);
    board_down(&b);
}

static void test_receive_fifo(struct test *t)
{
    static struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 2, 0x81); /* trigger at 8 */
    out(&b, 1, 0x01);
    CHECK_EQ(t, receive(&b, "1234567"), 7);
    CHECK(t, !b.irq);
    CHECK_EQ(t, receive(&b, "8"), 1);
    CHECK_EQ(t, in(&b, 2), 0xc4);
    CHECK_EQ(t, in(&b, 0), '1');
    CHECK(t, !b.irq); /* below the trigger */
    fake_time_advance(4 * 86805 - 100);
    CHECK(t, !b.irq);
    fake_time_advance(200);
    CHECK(t, b.irq); /* four characters' time at 115200 */
    CHECK_EQ(t, in(&b, 2), 0xcc);
    CHECK_EQ(t, in(&b, 0), '2');
    CHECK(t, !b.irq);
    fake_time_advance(NS_PER_MS);
    CHECK(t, b.irq);
    for (unsigned i = 0; i < 6; i++)
        CHECK_EQ(t, in(&b, 0), '3' + i);
    CHECK(t, !b.irq);
    CHECK_EQ(t, in(&b, 5) & 1, 0);
    fake_time_advance(NS_PER_MS);
    CHECK(t, !b.irq);
    CHECK_EQ(t, receive(&b, "0123456789abcdefXYZ"), 16);
    out(&b, 2, 0x83); /* FIFO reset */
    CHECK_EQ(t, in(&b, 5) & 1, 0);
    CHECK_EQ(t, b.backend.resumes, 1);
    board_down(&b);
}

static void test_loopback(struct test *t)
{
    static struct board b;

    if (!board_up(t, &b))
        return;
    out(&b, 1, 0x0d);
    (void)in(&b, 6);
    out(&b, 4, 0x1a);             /* loopback, OUT2, RTS */
    CHECK_EQ(t, in(&b, 6), 0x92); /* DCD and CTS stay, DSR fell */
    CHECK_EQ(t, in(&b, 6), 0x90);
    out(&b, 4, 0x1e);
    CHECK_EQ(t, in(&b, 6), 0xd0); /* RI rose: no delta */
    out(&b, 4, 0x1a);
    CHECK_EQ(t, in(&b, 6), 0x94); /* and fell: TERI */
    out(&b, 0, 'q');
    CHECK_EQ(t, receive(&b, "line"), 0); /* the wire is disconnected */
    out(&b, 0, 'r');
    CHECK_EQ(t, in(&b, 2), 0x06); /* overrun */
    CHECK_EQ(t, in(&b, 5), 0x63);
    CHECK_EQ(t, in(&b, 5), 0x61);
    CHECK_EQ(t, in(&b, 0), 'q');
    CHECK(t, !b.irq);
    out(&b, 4, 0x0b);
    CHECK_EQ(t, b.backend.resumes, 1);
    fake_time_advance(1);
    CHECK_EQ(t, b.backend.length, 0);
    board_down(&b);
}

static void test_nothing_connected(struct test *t)
{
    struct uart_config config = {.base = 0x2f8};
    struct uart *uart;

    if (!CHECK_EQ(t, bus_new(&config.ports), 0) || !CHECK_EQ(t, uart_new(&config, &uart), 0))
        return;
    for (unsigned i = 0; i < 10000; i++)
        bus_write(config.ports, 0x2f8, 1, 'x');
    CHECK_EQ(t, bus_read(config.ports, 0x2fd, 1), 0x60);
    uart_free(uart);
    bus_free(config.ports);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_registers);
    TEST_RUN(&t, test_transmit);
    TEST_RUN(&t, test_thre_interrupt);
    TEST_RUN(&t, test_back_pressure);
    TEST_RUN(&t, test_receive_16450);
    TEST_RUN(&t, test_receive_fifo);
    TEST_RUN(&t, test_loopback);
    TEST_RUN(&t, test_nothing_connected);
    return test_end(&t);
}
