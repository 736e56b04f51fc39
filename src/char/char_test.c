/* Tests of the character back ends, on a real loop: specs, files, sockets, back-pressure. */
#include "char/char.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/test.h"

struct peer {
    struct loop *loop;
    char got[4096];
    size_t length, room;
    unsigned writable;
};

static size_t on_input(void *opaque, const uint8_t *bytes, size_t length)
{
    struct peer *peer = opaque;
    size_t taken = length < peer->room ? length : peer->room;

    memcpy(peer->got + peer->length, bytes, taken);
    peer->length += taken;
    peer->room -= taken;
    return taken;
}

static void on_writable(void *opaque)
{
    ((struct peer *)opaque)->writable++;
}

static void on_timeout(void *loop)
{
    loop_stop(loop);
}

static void run_for_ms(struct test *t, struct loop *loop, unsigned ms)
{
    struct timer timer;

    timer_init(&timer, loop, on_timeout, loop);
    timer_arm(&timer, clock_monotonic_ns() + ms * NS_PER_MS);
    CHECK_EQ(t, loop_run(loop), 0);
    timer_cancel(&timer);
}

static struct char_backend *backend_open(struct test *t, struct peer *peer, const char *spec)
{
    struct char_config config = {.spec = spec, .loop = peer->loop};
    struct char_client client = {on_input, on_writable, peer};
    struct char_backend *backend = NULL;
    struct error err = {0};

    if (CHECK_EQ(t, char_backend_new(&config, &backend, &err), 0))
        char_backend_attach(backend, &client);
    else
        printf("%s\n", err.text);
    return backend;
}

static void check_refused(struct test *t, const char *spec, int code)
{
    struct char_config config = {.spec = spec};
    struct char_backend *backend = NULL;
    struct error err = {0};

    if (!CHECK_EQ(t, loop_new(&config.loop), 0))
        return;
    CHECK_EQ(t, char_backend_new(&config, &backend, &err), code);
    CHECK(t, err.text[0] != '\0' && !strchr(err.text, '\n'));
    CHECK(t, backend == NULL);
    loop_free(config.loop);
}

static void test_refused(struct test *t)
{
    char long_name[200] = "unix:";

    memset(long_name + 5, 'x', sizeof long_name - 6);
    check_refused(t, "", -EINVAL);
    check_refused(t, "stdioo", -EINVAL);
    check_refused(t, "stdio:x", -EINVAL);
    check_refused(t, "file", -EINVAL);
    check_refused(t, "file:", -EINVAL);
    check_refused(t, "unix:", -EINVAL);
    check_refused(t, "file:/nonexistent-directory/x", -ENOENT);
    check_refused(t, "file:/", -EISDIR);
    check_refused(t, "unix:/nonexistent-directory/x", -ENOENT);
    check_refused(t, "unix:/", -EADDRINUSE);
    check_refused(t, long_name, -ENAMETOOLONG);
}

static void test_none(struct test *t)
{
    struct peer peer = {.room = 10};
    struct char_backend *backend;

    if (!CHECK_EQ(t, loop_new(&peer.loop), 0))
        return;
    backend = backend_open(t, &peer, "none");
    CHECK_EQ(t, char_backend_write(backend, (const uint8_t *)"abc", 3), 3);
    run_for_ms(t, peer.loop, 5);
    char_backend_free(backend);
    loop_free(peer.loop);
}

static void test_file(struct test *t)
{
    char directory[] = "/tmp/freehold-char-XXXXXX", path[64], spec[80], text[8] = {0};
    struct peer peer = {.room = 10};
    struct char_backend *backend;
    int fd;

    if (!CHECK(t, mkdtemp(directory) != NULL) || !CHECK_EQ(t, loop_new(&peer.loop), 0))
        return;
    snprintf(path, sizeof path, "%s/log", directory);
    snprintf(spec, sizeof spec, "file:%s", path);
    backend = backend_open(t, &peer, spec);
    CHECK_EQ(t, char_backend_write(backend, (const uint8_t *)"hello", 5), 5);
    char_backend_free(backend);
    fd = open(path, O_RDONLY);
    CHECK_EQ(t, read(fd, text, sizeof text), 5);
    CHECK_STR(t, text, "hello");
    close(fd);
    unlink(path);
    rmdir(directory);
    loop_free(peer.loop);
}

static int unix_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

struct unix_fixture {
    char directory[32], path[64], spec[80];
    struct peer peer;
    struct char_backend *backend;
};

static bool unix_up(struct test *t, struct unix_fixture *f)
{
    *f = (struct unix_fixture){.directory = "/tmp/freehold-char-XXXXXX"};
    if (!CHECK(t, mkdtemp(f->directory) != NULL) || !CHECK_EQ(t, loop_new(&f->peer.loop), 0))
        return false;
    snprintf(f->path, sizeof f->path, "%s/serial", f->directory);
    snprintf(f->spec, sizeof f->spec, "unix:%s", f->path);
    f->backend = backend_open(t, &f->peer, f->spec);
    return f->backend;
}

static void unix_down(struct test *t, struct unix_fixture *f)
{
    char_backend_free(f->backend);
    CHECK(t, access(f->path, F_OK) < 0);
    CHECK_EQ(t, rmdir(f->directory), 0);
    loop_free(f->peer.loop);
}

static void test_unix_comes_and_goes(struct test *t)
{
    struct unix_fixture f;
    char text[16] = {0};
    int fd, second;

    if (!unix_up(t, &f))
        return;
    check_refused(t, f.spec, -EADDRINUSE);
    run_for_ms(t, f.peer.loop, 5); /* takes that probe's connection, and loses it */
    CHECK_EQ(t, char_backend_write(f.backend, (const uint8_t *)"lost", 4), 4);
    fd = unix_connect(f.path);
    CHECK(t, fd >= 0);
    f.peer.room = 100;
    CHECK_EQ(t, write(fd, "in", 2), 2);
    run_for_ms(t, f.peer.loop, 10);
    CHECK_STR(t, f.peer.got, "in");
    CHECK_EQ(t, char_backend_write(f.backend, (const uint8_t *)"out", 3), 3);
    CHECK_EQ(t, read(fd, text, sizeof text), 3);
    CHECK_STR(t, text, "out");
    second = unix_connect(f.path); /* waits for its turn */
    CHECK_EQ(t, write(second, "two", 3), 3);
    run_for_ms(t, f.peer.loop, 10);
    CHECK_STR(t, f.peer.got, "in");
    close(fd);
    run_for_ms(t, f.peer.loop, 10);
    CHECK_STR(t, f.peer.got, "intwo");
    close(second);
    CHECK_EQ(t, char_backend_write(f.backend, (const uint8_t *)"gone", 4), 4); /* no SIGPIPE */
    run_for_ms(t, f.peer.loop, 10);
    unix_down(t, &f);
}

static void test_unix_input_waits(struct test *t)
{
    struct unix_fixture f;
    char bytes[1000];
    int fd;

    if (!unix_up(t, &f))
        return;
    fd = unix_connect(f.path);
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)('a' + i % 26);
    CHECK_EQ(t, write(fd, bytes, sizeof bytes), sizeof bytes);
    f.peer.room = 16;
    run_for_ms(t, f.peer.loop, 10);
    CHECK_EQ(t, f.peer.length, 16);
    f.peer.room = 300;
    char_backend_input_resume(f.backend);
    run_for_ms(t, f.peer.loop, 10);
    CHECK_EQ(t, f.peer.length, 316);
    f.peer.room = 2000;
    char_backend_input_resume(f.backend);
    run_for_ms(t, f.peer.loop, 10);
    CHECK_EQ(t, f.peer.length, sizeof bytes);
    CHECK_MEM(t, f.peer.got, bytes, sizeof bytes);
    close(fd);
    run_for_ms(t, f.peer.loop, 10);
    unix_down(t, &f);
}

static void test_unix_output_waits(struct test *t)
{
    static uint8_t block[65536], sink[65536];
    struct unix_fixture f;
    size_t sent = 0, received = 0;
    unsigned rounds = 0;
    int fd;

    if (!unix_up(t, &f))
        return;
    fd = unix_connect(f.path);
    run_for_ms(t, f.peer.loop, 5);
    while (sent % sizeof block == 0 && rounds++ < 100)
        sent += char_backend_write(f.backend, block, sizeof block);
    CHECK(t, rounds < 100); /* a short write in the end */
    run_for_ms(t, f.peer.loop, 5);
    CHECK_EQ(t, f.peer.writable, 0);
    while (received < sent) {
        ssize_t got = read(fd, sink, sizeof sink);

        if (!CHECK(t, got > 0))
            break;
        received += (size_t)got;
    }
    run_for_ms(t, f.peer.loop, 5);
    CHECK_EQ(t, f.peer.writable, 1);
    close(fd);
    run_for_ms(t, f.peer.loop, 5);
    unix_down(t, &f);
}

/* Standard input and output are pipes here; both ends are put back afterwards. */
static void test_stdio(struct test *t)
{
    struct peer peer = {.room = 100};
    struct char_backend *backend;
    int in[2], out[2], saved[2] = {dup(0), dup(1)};
    char text[16] = {0};

    fflush(stdout);
    if (!CHECK_EQ(t, pipe(in), 0) || !CHECK_EQ(t, pipe(out), 0) ||
        !CHECK_EQ(t, loop_new(&peer.loop), 0))
        return;
    dup2(in[0], 0);
    dup2(out[1], 1);
    backend = backend_open(t, &peer, "stdio");
    dup2(saved[0], 0);
    dup2(saved[1], 1);
    CHECK_EQ(t, write(in[1], "\1x", 2), 2); /* no terminal: Ctrl-A is a byte like others */
    run_for_ms(t, peer.loop, 10);
    CHECK_STR(t, peer.got, "\1x");
    CHECK_EQ(t, char_backend_write(backend, (const uint8_t *)"prompt", 6), 6);
    CHECK_EQ(t, read(out[0], text, sizeof text), 6);
    CHECK_STR(t, text, "prompt");
    CHECK_EQ(t, fcntl(out[1], F_GETFL) & O_NONBLOCK, 0); /* the shell's own is left alone */
    close(in[1]);                                        /* end of input is no error */
    run_for_ms(t, peer.loop, 10);
    CHECK_EQ(t, char_backend_write(backend, (const uint8_t *)"more", 4), 4);
    char_backend_free(backend);
    close(in[0]);
    close(out[0]);
    close(out[1]);
    close(saved[0]);
    close(saved[1]);
    loop_free(peer.loop);
}

static void on_escape(void *opaque, uint8_t key)
{
    char *keys = opaque;

    keys[strlen(keys)] = (char)key;
}

/* A terminal becomes raw and is put back; Ctrl-A is the escape key. */
static void test_terminal(struct test *t)
{
    char keys[8] = {0};
    struct peer peer = {.room = 100};
    struct char_config config = {.spec = "stdio", .escape = on_escape, .opaque = keys};
    struct char_client client = {on_input, on_writable, &peer};
    struct char_backend *backend;
    struct termios before, during, after;
    int saved = dup(0), master = posix_openpt(O_RDWR | O_NOCTTY), slave;

    if (!CHECK(t, master >= 0) || !CHECK_EQ(t, grantpt(master), 0) ||
        !CHECK_EQ(t, unlockpt(master), 0) || !CHECK_EQ(t, loop_new(&peer.loop), 0))
        return;
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    CHECK_EQ(t, tcgetattr(slave, &before), 0);
    dup2(slave, 0);
    config.loop = peer.loop;
    CHECK_EQ(t, char_backend_new(&config, &backend, NULL), 0);
    dup2(saved, 0);
    char_backend_attach(backend, &client);
    CHECK_EQ(t, tcgetattr(slave, &during), 0);
    CHECK_EQ(t, during.c_lflag & (ICANON | ECHO | ISIG), 0);
    CHECK_EQ(t, write(master, "a\3\1hb\1", 6), 6);
    run_for_ms(t, peer.loop, 10);
    CHECK_EQ(t, write(master, "xc\1\1d", 5), 5); /* the sequence may be torn apart */
    run_for_ms(t, peer.loop, 10);
    CHECK_STR(t, peer.got, "a\3bc\1d");
    CHECK_STR(t, keys, "hx");
    char_backend_free(backend);
    CHECK_EQ(t, tcgetattr(slave, &after), 0);
    CHECK_EQ(t, after.c_lflag, before.c_lflag);
    close(saved);
    close(slave);
    close(master);
    loop_free(peer.loop);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_refused);
    TEST_RUN(&t, test_none);
    TEST_RUN(&t, test_file);
    TEST_RUN(&t, test_unix_comes_and_goes);
    TEST_RUN(&t, test_unix_input_waits);
    TEST_RUN(&t, test_unix_output_waits);
    TEST_RUN(&t, test_stdio);
    TEST_RUN(&t, test_terminal);
    return test_end(&t);
}
