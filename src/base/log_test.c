/* What the log writes to standard error, read back through a pipe. */
#include "base/log.h"
#include "base/test.h"

#include <fcntl.h>
#include <unistd.h>

/* Runs `speak` with standard error going to a pipe; what it wrote lands in `text`. */
static void log_capture(void (*speak)(void), char *text, size_t size)
{
    int ends[2], saved = dup(STDERR_FILENO);
    ssize_t got = -1;

    if (saved < 0 || pipe(ends) < 0) {
        text[0] = '\0';
        return;
    }
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    speak();
    dup2(saved, STDERR_FILENO);
    close(saved);
    got = read(ends[0], text, size - 1);
    text[got < 0 ? 0 : got] = '\0';
    close(ends[0]);
}

static unsigned lines_count(const char *text)
{
    unsigned lines = 0;

    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

static void speak_plain(void)
{
    log_warn("disk %s is slow", "vda");
    log_info("nobody asked");
}

static void speak_hostile(void)
{
    log_error("guest says \x1b[2J\n");
}

static void speak_flood(void)
{
    struct log_limit limit = {0};

    for (int i = 0; i < 1000; i++)
        log_limited(&limit, "flood %d", i);
    limit.window_start_ns = 1; /* as if the second were over */
    log_limited(&limit, "later");
}

static void test_plain(struct test *t)
{
    char text[4096];

    log_capture(speak_plain, text, sizeof text);
    CHECK_STR(t, text, "freehold: warning: disk vda is slow\n");
}

static void test_control_characters(struct test *t)
{
    char text[4096];

    log_capture(speak_hostile, text, sizeof text);
    CHECK_STR(t, text, "freehold: error: guest says ?[2J?\n");
}

static void test_limit(struct test *t)
{
    char text[8192];

    log_capture(speak_flood, text, sizeof text);
    CHECK_EQ(t, lines_count(text), 12);
    CHECK(t, strstr(text, "flood 9\n") && !strstr(text, "flood 10\n"));
    CHECK(t, strstr(text, "990 more messages") != NULL);
    CHECK(t, strstr(text, "later\n") != NULL);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_plain);
    TEST_RUN(&t, test_control_characters);
    TEST_RUN(&t, test_limit);
    return test_end(&t);
}
