/* Tests of the debug ports. */
#include "dev/legacy/debug_exit.h"

#include "base/test.h"

struct seen {
    unsigned exits, lines, panics;
    uint32_t value;
    uint8_t events;
    char text[256];
};

static void on_exit_port(void *opaque, uint32_t value)
{
    struct seen *seen = opaque;

    seen->exits++;
    seen->value = value;
}

static void on_line(void *opaque, const char *text)
{
    struct seen *seen = opaque;

    seen->lines++;
    snprintf(seen->text, sizeof seen->text, "%s", text);
}

static void on_panic(void *opaque, uint8_t events)
{
    struct seen *seen = opaque;

    seen->panics++;
    seen->events = events;
}

static void console(struct bus *bus, const char *text)
{
    for (; *text; text++)
        bus_write(bus, 0x402, 1, (uint8_t)*text);
}

static void test_ports(struct test *t)
{
    struct seen seen = {0};
    struct debug_exit_config config = {
        .exit = on_exit_port, .line = on_line, .panic = on_panic, .opaque = &seen};
    struct debug_exit *ports;

    if (!CHECK_EQ(t, bus_new(&config.ports), 0) || !CHECK_EQ(t, debug_exit_new(&config, &ports), 0))
        return;
    bus_write(config.ports, 0xf4, 1, 3);
    CHECK_EQ(t, seen.value, 3);
    bus_write(config.ports, 0xf4, 4, 0x12345678);
    CHECK_EQ(t, seen.value, 0x12345678);
    CHECK_EQ(t, seen.exits, 2);
    CHECK_EQ(t, bus_read(config.ports, 0x402, 1), 0xe9);
    console(config.ports, "Sea\x1b[2JBIOS\r\n");
    CHECK_EQ(t, seen.lines, 1);
    CHECK_STR(t, seen.text, "Sea?[2JBIOS");
    for (unsigned i = 0; i < 1000; i++)
        console(config.ports, "x");
    CHECK_EQ(t, seen.lines, 1 + 1000 / 160);
    CHECK_EQ(t, bus_read(config.ports, 0x505, 1), 3);
    bus_write(config.ports, 0x505, 1, 0xf8);
    CHECK_EQ(t, seen.panics, 0);
    bus_write(config.ports, 0x505, 1, 1);
    CHECK_EQ(t, seen.panics, 1);
    CHECK_EQ(t, seen.events, 1);
    debug_exit_free(ports);
    CHECK_EQ(t, bus_read(config.ports, 0x402, 1), 0xff);
    bus_free(config.ports);
}

static void test_absent(struct test *t)
{
    struct debug_exit_config config = {0};
    struct debug_exit *ports;

    if (!CHECK_EQ(t, bus_new(&config.ports), 0) || !CHECK_EQ(t, debug_exit_new(&config, &ports), 0))
        return;
    bus_write(config.ports, 0xf4, 1, 3);
    CHECK_EQ(t, bus_read(config.ports, 0x402, 1), 0xff);
    debug_exit_free(ports);
    bus_free(config.ports);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_ports);
    TEST_RUN(&t, test_absent);
    return test_end(&t);
}
