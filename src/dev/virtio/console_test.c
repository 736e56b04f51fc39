/* The console, driven through PCI as a guest's driver does. */
#include "dev/virtio/devices.h"

#include <stdlib.h>
#include <string.h>

#include "base/test.h"
#include "dev/virtio/testguest.h"

#define DATA (GUEST_BUFFERS + 0x10000)

/* A back end that takes as many bytes as the test says. All counters are atomic. */
struct console_end {
    uint8_t text[16384];
    unsigned length, room, calls, wanted;
};

static size_t console_take(void *opaque, const void *bytes, size_t length)
{
    struct console_end *end = opaque;
    unsigned room = __atomic_load_n(&end->room, __ATOMIC_SEQ_CST);
    unsigned taken = length < room ? (unsigned)length : room;

    if (end->length + taken > sizeof end->text)
        abort();
    memcpy(end->text + end->length, bytes, taken);
    __atomic_fetch_sub(&end->room, taken, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&end->length, taken, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&end->calls, 1, __ATOMIC_SEQ_CST);
    return taken;
}

static void console_wanted(void *opaque)
{
    __atomic_fetch_add(&((struct console_end *)opaque)->wanted, 1, __ATOMIC_SEQ_CST);
}

static unsigned counter_load(const unsigned *counter)
{
    return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}

/* Waits up to two seconds until a counter has this value. */
static bool reaches(const unsigned *counter, unsigned value)
{
    for (unsigned i = 0; i < 2000; i++) {
        if (counter_load(counter) == value)
            return true;
        guest_sleep_ms(1);
    }
    return false;
}

struct console_guest {
    struct guest guest;
    struct virtio_device *console;
    struct guest_device device;
    struct guest_ring rx, tx;
    struct console_end end;
};

static bool console_guest_new(struct test *t, struct console_guest *c)
{
    struct virtio_console_config config = {
        .output = console_take, .input_wanted = console_wanted, .opaque = &c->end};

    memset(c, 0, sizeof *c);
    if (!CHECK_EQ(t, guest_new(&c->guest), 0))
        return false;
    config.mem = c->guest.mem;
    config.loop = c->guest.loop;
    if (!CHECK_EQ(t, virtio_console_new(&config, &c->console, NULL), 0) ||
        !CHECK_EQ(t, virtio_pci_new(c->console, c->guest.root, 0, NULL), 0))
        return false;
    guest_assign(&c->guest);
    return CHECK_EQ(t, guest_probe(&c->guest, 1, &c->device), 0);
}

static void console_start(struct test *t, struct console_guest *c, uint64_t features)
{
    CHECK(t, guest_begin(&c->device, features));
    guest_ring_init(&c->device, 0, 8, &c->rx);
    guest_ring_init(&c->device, 1, 8, &c->tx);
    guest_driver_ok(&c->device);
}

static void console_room(struct console_guest *c, unsigned room)
{
    __atomic_store_n(&c->end.room, room, __ATOMIC_SEQ_CST);
    virtio_console_output_resume(c->console);
}

static void console_post(struct console_guest *c, uint64_t gpa, uint32_t length)
{
    const struct guest_buffer out = {gpa, length, false};

    guest_post(&c->tx, &out, 1);
    guest_kick(&c->tx);
}

/* What the back end does not take stays with the guest's buffers, and none comes back early. */
static void console_output(struct test *t, uint64_t features)
{
    static struct console_guest c;
    uint8_t want[10000];

    if (!console_guest_new(t, &c))
        return;
    console_start(t, &c, features);
    guest_pattern_fill(&c.guest, DATA, 3, sizeof want);
    CHECK_EQ(t, mem_read(c.guest.mem, DATA, want, sizeof want), 0);
    __atomic_store_n(&c.end.room, 3, __ATOMIC_SEQ_CST);
    console_post(&c, DATA, sizeof want);
    console_post(&c, DATA, 5);
    CHECK(t, reaches(&c.end.length, 3));
    guest_kick(&c.tx); /* asks in vain */
    guest_sleep_ms(20);
    CHECK_EQ(t, counter_load(&c.end.calls), 1);
    console_room(&c, 5000);
    CHECK(t, reaches(&c.end.length, 5003));
    if (!c.tx.packed)
        CHECK_EQ(t, guest_load16(&c.guest, c.tx.used + 2), 0);
    console_room(&c, 100000);
    CHECK_EQ(t, guest_wait(&c.tx), 0);
    CHECK_EQ(t, guest_wait(&c.tx), 0);
    CHECK_EQ(t, counter_load(&c.end.length), sizeof want + 5);
    CHECK_MEM(t, c.end.text, want, sizeof want);
    CHECK_MEM(t, c.end.text + sizeof want, want, 5);
    guest_free(&c.guest);
}

static void test_console_output(struct test *t)
{
    console_output(t, VIRTIO_F_EVENT_IDX);
    console_output(t, VIRTIO_F_RING_PACKED);
}

/* A back end that is full for ever holds up no reset, and what was on its way is forgotten. */
static void test_console_reset_while_full(struct test *t)
{
    static struct console_guest c;

    if (!console_guest_new(t, &c))
        return;
    console_start(t, &c, VIRTIO_F_RING_RESET);
    CHECK_EQ(t, mem_write(c.guest.mem, DATA, "old new", 7), 0);
    console_post(&c, DATA, 4);
    CHECK(t, reaches(&c.end.calls, 1));
    guest_write(&c.device, c.device.common + 0x16, 2, 1); /* queue_select, queue_reset */
    guest_write(&c.device, c.device.common + 0x3a, 2, 1);
    CHECK_EQ(t, guest_read(&c.device, c.device.common + 0x3a, 2), 0);
    guest_ring_init(&c.device, 1, 8, &c.tx);
    console_post(&c, DATA, 4);
    guest_sleep_ms(10);
    CHECK(t, guest_reset(&c.device));
    console_start(t, &c, 0);
    console_post(&c, DATA + 4, 3);
    console_room(&c, 100);
    CHECK_EQ(t, guest_wait(&c.tx), 0);
    CHECK_STR(t, (char *)c.end.text, "new");
    guest_free(&c.guest);
}

/* What the guest wrote last is not lost when the VM ends before the I/O thread could send it. */
static void test_console_last_words(struct test *t)
{
    static struct console_guest c;

    if (!console_guest_new(t, &c))
        return;
    console_start(t, &c, 0);
    CHECK_EQ(t, mem_write(c.guest.mem, DATA, "bye", 3), 0);
    console_post(&c, DATA, 3);
    CHECK(t, reaches(&c.end.calls, 1)); /* nothing was taken */
    __atomic_store_n(&c.end.room, 100, __ATOMIC_SEQ_CST);
    guest_free(&c.guest);
    CHECK_STR(t, (char *)c.end.text, "bye");
}

/* Input waits for buffers: each byte is taken once, and asked for again when there is room. */
static void test_console_input(struct test *t)
{
    const struct guest_buffer in = {DATA, 16, true};
    static struct console_guest c;
    char got[17] = "";

    if (!console_guest_new(t, &c))
        return;
    CHECK_EQ(t, virtio_console_input(c.console, "early", 5), 0);
    console_start(t, &c, VIRTIO_F_EVENT_IDX);
    CHECK(t, reaches(&c.end.wanted, 1));
    CHECK_EQ(t, virtio_console_input(c.console, "early", 5), 0);
    guest_post(&c.rx, &in, 1);
    guest_kick(&c.rx);
    CHECK(t, reaches(&c.end.wanted, 2));
    CHECK_EQ(t, virtio_console_input(c.console, "good morning, all of you", 24), 16);
    CHECK_EQ(t, guest_wait(&c.rx), 16);
    CHECK_EQ(t, mem_read(c.guest.mem, DATA, got, 16), 0);
    CHECK_STR(t, got, "good morning, al");
    guest_post(&c.rx, &in, 1);
    guest_kick(&c.rx);
    CHECK(t, reaches(&c.end.wanted, 3));
    CHECK_EQ(t, virtio_console_input(c.console, "l of you", 8), 8);
    CHECK_EQ(t, guest_wait(&c.rx), 8);
    guest_kick(&c.rx); /* nothing was refused: nothing is wanted */
    guest_sleep_ms(10);
    CHECK_EQ(t, counter_load(&c.end.wanted), 3);
    guest_free(&c.guest);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_console_output);
    TEST_RUN(&t, test_console_reset_while_full);
    TEST_RUN(&t, test_console_last_words);
    TEST_RUN(&t, test_console_input);
    return test_end(&t);
}
