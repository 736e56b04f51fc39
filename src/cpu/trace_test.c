/* Checks the trace's ring, its file's text and what is made of files that are none. */
#include "cpu/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/test.h"
#include "cpu/cpu.h"
#include "cpu/x86/decode.h"

struct file {
    char path[64];
};

static struct file file_new(void)
{
    struct file file = {"trace_test.XXXXXX"};
    int fd = mkstemp(file.path);

    if (fd >= 0)
        close(fd);
    return file;
}

static void add(struct trace *trace, unsigned vcpu, enum trace_kind kind, uint32_t info,
                uint64_t detail)
{
    const struct trace_what what = {.kind = kind, .info = info, .rip = 0x1000, .detail = detail};

    trace_add(trace_ring_get(trace, vcpu), &what);
}

/* What trace_print() makes of the file, without times; to be freed. */
static char *text_of(const char *path, struct error *err)
{
    char *text = NULL, *at, *to;
    size_t length;
    FILE *file = open_memstream(&text, &length);

    if (trace_print(path, file, err) < 0)
        fputs("failed", file);
    fclose(file);
    for (at = to = text; *at;) { /* each line but the first begins with the time */
        char *end = strchr(at, '\n');
        size_t rest;

        if (!end)
            break;
        if (at != text && end - at > 14)
            at += 14;
        rest = (size_t)(end + 1 - at);
        memmove(to, at, rest);
        to += rest;
        at = end + 1;
    }
    if (to != text)
        *to = '\0';
    return text;
}

static void test_text(struct test *t)
{
    struct file file = file_new();
    struct trace_config config = {
        .path = file.path, .vcpus = 2, .events = 100, .kinds = UINT32_MAX};
    struct error err = {0};
    struct trace *trace;
    char *text;

    if (!CHECK_EQ(t, trace_new(&config, &trace, &err), 0))
        return;
    add(trace, 0, TRACE_START, 0, 0xfff0);
    add(trace, 1, TRACE_MODE, TRACE_MODE_PROTECTED | X86_CODE_32 << 4, 0);
    add(trace, 0, TRACE_FAULT, X86_PF | 6 << 8, 0xdead000);
    add(trace, 0, TRACE_FAULT, X86_GP, 0xdead000);
    add(trace, 1, TRACE_INTERRUPT, 0xec, 0);
    add(trace, 0, TRACE_CR3, 0, 0x1234000);
    add(trace, 0, TRACE_FLUSH, TRACE_FLUSH_PAGE, 0x7000);
    add(trace, 0, TRACE_EXIT, CPU_EXIT_IO | 0x100, 0x3f8);
    trace_free(trace);
    text = text_of(file.path, &err);
    CHECK_STR(t, text,
              "       seconds  CPU  rip               event       (0 older events were dropped)\n"
              "   0  0000000000001000  start       at 0xfff0\n"
              "   1  0000000000001000  mode        protected mode, 32-bit code\n"
              "   0  0000000000001000  fault       #PF code 0x6 at 0xdead000\n"
              "   0  0000000000001000  fault       #GP\n"
              "   1  0000000000001000  interrupt   0xec\n"
              "   0  0000000000001000  cr3         0x1234000\n"
              "   0  0000000000001000  flush       page 0x7000\n"
              "   0  0000000000001000  exit        io write 0x3f8\n");
    free(text);
    unlink(file.path);
}

/* The ring keeps the newest, and only the kinds that were asked for. */
static void test_ring(struct test *t)
{
    struct file file = file_new();
    struct trace_config config = {.path = file.path, .vcpus = 1, .events = 17};
    struct error err = {0};
    struct trace *trace;
    char *text;

    CHECK_EQ(t, trace_kinds_parse("interrupt:cr3", &config.kinds, &err), 0);
    if (!CHECK_EQ(t, trace_new(&config, &trace, &err), 0))
        return;
    for (unsigned i = 0; i < 100; i++) {
        add(trace, 0, TRACE_INTERRUPT, i, 0);
        add(trace, 0, TRACE_FAULT, X86_GP, 0);
    }
    CHECK_EQ(t, *trace_ring_get(trace, 0)->written, 100);
    trace_free(trace);
    text = text_of(file.path, &err);
    CHECK(t, strstr(text,
                    "(68 older events were dropped)\n   0  0000000000001000  interrupt   0x44\n") !=
                 NULL);
    CHECK(t, strstr(text, "0x63\n") != NULL);
    CHECK(t, strstr(text, "fault") == NULL);
    free(text);
    unlink(file.path);
}

static void test_kinds(struct test *t)
{
    struct error err = {0};
    uint32_t kinds;

    CHECK_EQ(t, trace_kinds_parse("fault", &kinds, &err), 0);
    CHECK_EQ(t, kinds, 1u << TRACE_FAULT);
    CHECK_EQ(t, trace_kinds_parse("fault:nothing", &kinds, &err), -EINVAL);
    CHECK(t, strstr(err.text, "no event \"nothing\"") != NULL);
    CHECK_EQ(t, trace_kinds_parse("", &kinds, &err), -EINVAL);
    for (unsigned kind = 0; kind < TRACE_KIND_COUNT; kind++) {
        CHECK_EQ(t, trace_kinds_parse(trace_kind_name((enum trace_kind)kind), &kinds, &err), 0);
        CHECK_EQ(t, kinds, 1u << kind);
    }
}

static bool is_refused(const char *path)
{
    struct error err = {0};

    return trace_print(path, stdout, &err) < 0 && err.text[0] != '\0';
}

/* Damages a good file at `offset`; whether it is then refused. */
static bool is_refused_with(const char *path, long offset, const void *bytes, size_t length)
{
    struct trace_config config = {.path = path, .vcpus = 1, .events = 16, .kinds = UINT32_MAX};
    struct error err = {0};
    struct trace *trace;
    FILE *file;

    if (trace_new(&config, &trace, &err) < 0)
        return false;
    trace_free(trace);
    file = fopen(path, "r+");
    if (!file)
        return false;
    fseek(file, offset, SEEK_SET);
    fwrite(bytes, 1, length, file);
    fclose(file);
    return is_refused(path);
}

static void test_bad_files(struct test *t)
{
    static const uint32_t many = 0x80000000, none = 0, odd = 17;
    static const uint64_t stopped = 0;
    struct trace_config config = {.path = "/nowhere/at/all", .vcpus = 1, .events = 16};
    struct file file = file_new();
    struct error err = {0};
    struct trace *trace;

    CHECK_EQ(t, trace_new(&config, &trace, &err), -ENOENT);
    CHECK(t, is_refused("/nowhere/at/all"));
    CHECK(t, is_refused("/dev/null"));
    CHECK(t, is_refused(file.path)); /* empty */
    CHECK(t, is_refused_with(file.path, 0, "X", 1));
    CHECK(t, is_refused_with(file.path, 8, &many, 4)); /* vCPUs */
    CHECK(t, is_refused_with(file.path, 8, &none, 4));
    CHECK(t, is_refused_with(file.path, 12, &many, 4)); /* events */
    CHECK(t, is_refused_with(file.path, 12, &none, 4));
    CHECK(t, is_refused_with(file.path, 12, &odd, 4));
    CHECK(t, is_refused_with(file.path, 16, &stopped, 8)); /* the TSC's frequency */
    CHECK(t, is_refused_with(file.path, 12288, "X", 1));   /* one byte too long */
    unlink(file.path);
}

/* Any numbers in the events and their count give lines, not trouble. */
static void test_bad_events(struct test *t)
{
    struct file file = file_new();
    struct trace_config config = {.path = file.path, .vcpus = 1, .events = 16, .kinds = UINT32_MAX};
    struct error err = {0};
    struct trace *trace;
    char *text;

    if (!CHECK_EQ(t, trace_new(&config, &trace, &err), 0))
        return;
    memset(trace_ring_get(trace, 0)->events, 0xff, 16 * sizeof(struct trace_event));
    *trace_ring_get(trace, 0)->written = UINT64_MAX;
    for (unsigned kind = 0; kind < TRACE_KIND_COUNT; kind++)
        trace_ring_get(trace, 0)->events[kind].kind = (uint16_t)kind;
    trace_free(trace);
    text = text_of(file.path, &err);
    CHECK(t, strncmp(text, "failed", 6) != 0);
    free(text);
    unlink(file.path);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_text);
    TEST_RUN(&t, test_ring);
    TEST_RUN(&t, test_kinds);
    TEST_RUN(&t, test_bad_files);
    TEST_RUN(&t, test_bad_events);
    return test_end(&t);
}
