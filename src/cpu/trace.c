/*
 * The event trace's file, and showing it. Threads: see trace.h. Input: a trace file may come from
 * anywhere: its header is copied and checked against the file's size, and events are only numbers.
 */
#include "cpu/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "cpu/cpu.h"

#define MAGIC      "FHTRACE1"
#define PAGE_BYTES 4096u
#define VCPUS_MAX  64u

/* The file's first page; then for each vCPU a page with its count of events, and the events. */
struct header {
    char magic[8];
    uint32_t vcpus;
    uint32_t events; /* of each vCPU */
    uint64_t tsc_hz;
    uint64_t tsc_start;
};

struct trace {
    uint8_t *map;
    size_t bytes;
    struct trace_ring ring[];
};

static const char *const kind_names[TRACE_KIND_COUNT] = {
#define KIND_NAME(name, text) [TRACE_##name] = (text),
    TRACE_KINDS(KIND_NAME)
#undef KIND_NAME
};

const char *trace_kind_name(enum trace_kind kind)
{
    return kind < TRACE_KIND_COUNT ? kind_names[kind] : "?";
}

static size_t ring_bytes(uint32_t events)
{
    size_t bytes = PAGE_BYTES + (size_t)events * sizeof(struct trace_event);

    return (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
}

/* -- making it -- */

static int kind_find(const char *name, size_t length)
{
    for (int kind = 0; kind < TRACE_KIND_COUNT; kind++) {
        if (strlen(kind_names[kind]) == length && memcmp(kind_names[kind], name, length) == 0)
            return kind;
    }
    return -1;
}

int trace_kinds_parse(const char *names, uint32_t *kinds, struct error *err)
{
    *kinds = 0;
    while (*names) {
        size_t length = strcspn(names, ":");
        int kind = kind_find(names, length);

        if (kind < 0)
            return error_set(err, -EINVAL,
                             "there is no event \"%.*s\" to trace: there are start, fault, "
                             "interrupt, mode, cr3, flush, invalidate, exit, translate and clear",
                             (int)length, names);
        *kinds |= 1u << kind;
        names += length + (names[length] == ':');
    }
    return *kinds ? 0 : error_set(err, -EINVAL, "no event to trace was given");
}

static uint32_t power_of_two(uint32_t value)
{
    uint32_t power = TRACE_EVENTS_MIN;

    while (power < value)
        power *= 2;
    return power;
}

static int file_map(struct trace *trace, const char *path, struct error *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc;

    if (fd < 0)
        return error_set(err, -errno, "cannot write the trace to %s: %s", path, strerror(errno));
    rc = posix_fallocate(fd, 0, (off_t)trace->bytes);
    if (rc == 0) {
        trace->map = mmap(NULL, trace->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        rc = trace->map == MAP_FAILED ? errno : 0;
    }
    close(fd);
    if (rc != 0)
        return error_set(err, -rc, "cannot write the trace (%zu MiB) to %s: %s",
                         (trace->bytes >> 20) + 1, path, strerror(rc));
    return 0;
}

int trace_new(const struct trace_config *config, struct trace **out, struct error *err)
{
    uint32_t events = power_of_two(config->events);
    struct trace *trace = calloc(1, sizeof *trace + config->vcpus * sizeof trace->ring[0]);
    int rc;

    if (!trace)
        return error_set(err, -ENOMEM, "not enough memory for the trace");
    trace->bytes = PAGE_BYTES + config->vcpus * ring_bytes(events);
    rc = file_map(trace, config->path, err);
    if (rc < 0) {
        free(trace);
        return rc;
    }
    struct header header = {
        .vcpus = config->vcpus, .events = events, .tsc_hz = cpu_tsc_hz(), .tsc_start = __rdtsc()};
    memcpy(header.magic, MAGIC, sizeof header.magic);
    memcpy(trace->map, &header, sizeof header);
    for (unsigned i = 0; i < config->vcpus; i++) {
        uint8_t *at = trace->map + PAGE_BYTES + i * ring_bytes(events);

        trace->ring[i] = (struct trace_ring){.written = (uint64_t *)(void *)at,
                                             .events = (void *)(at + PAGE_BYTES),
                                             .mask = events - 1,
                                             .kinds = config->kinds};
    }
    *out = trace;
    return 0;
}

void trace_free(struct trace *trace)
{
    if (!trace)
        return;
    munmap(trace->map, trace->bytes);
    free(trace);
}

struct trace_ring *trace_ring_get(struct trace *trace, unsigned vcpu)
{
    return &trace->ring[vcpu];
}

/* -- showing it -- */

static void text_mode(FILE *to, uint32_t info)
{
    static const char *const sizes[] = {"16-bit", "32-bit", "64-bit", "?"};

    fprintf(to, "%s%s%s%s code",
            !(info & TRACE_MODE_PROTECTED) ? "real mode, "
            : info & TRACE_MODE_V86        ? "virtual 8086, "
            : info & TRACE_MODE_LONG       ? "long mode, "
                                           : "protected mode, ",
            info & TRACE_MODE_PAGING ? "paging, " : "", "", sizes[info >> 4 & 3]);
}

static void text_exit(FILE *to, const struct trace_event *event)
{
    unsigned kind = event->info & 0xff;

    fputs(cpu_exit_name(kind), to);
    if (kind == CPU_EXIT_IO || kind == CPU_EXIT_MMIO || kind == CPU_EXIT_MSR)
        fprintf(to, " %s 0x%llx", event->info & 0x100 ? "write" : "read",
                (unsigned long long)event->detail);
}

/* What happened, by kind; `info` and `detail` are explained here. */
static void trace_text(FILE *to, const struct trace_event *event)
{
    static const char *const flushes[TRACE_FLUSH_KINDS] = {"all", "local", "page"};
    unsigned long long detail = event->detail;
    uint32_t info = event->info;

    switch (event->kind) {
    case TRACE_START: /* rip */
        fprintf(to, "at 0x%llx", detail);
        break;
    case TRACE_FAULT: /* vector | error code << 8; CR2 */
        fprintf(to, "#%s", x86_exception_name(info & 0xff));
        if ((info & 0xff) == X86_PF)
            fprintf(to, " code 0x%x at 0x%llx", info >> 8, detail);
        else if (info >> 8)
            fprintf(to, " code 0x%x", info >> 8);
        break;
    case TRACE_INTERRUPT: /* vector */
        fprintf(to, "0x%02x", info & 0xff);
        break;
    case TRACE_MODE: /* TRACE_MODE_* */
        text_mode(to, info);
        break;
    case TRACE_CR3: /* its new value */
        fprintf(to, "0x%llx", detail);
        break;
    case TRACE_FLUSH: /* enum trace_flush; linear address */
        fputs(info < TRACE_FLUSH_KINDS ? flushes[info] : "?", to);
        if (info == TRACE_FLUSH_PAGE)
            fprintf(to, " 0x%llx", detail);
        break;
    case TRACE_INVALIDATE: /* the dropped block's length and guest-physical address */
        fprintf(to, "%u bytes at guest-physical 0x%llx", info, detail);
        break;
    case TRACE_EXIT: /* enum cpu_exit_kind, + 0x100: a write; port, address or MSR */
        text_exit(to, event);
        break;
    case TRACE_TRANSLATE: /* guest bytes; where the code lies */
        fprintf(to, "%u bytes to 0x%llx", info, detail);
        break;
    default:
        break;
    }
}

static void event_print(FILE *to, const struct header *header, unsigned vcpu,
                        const struct trace_event *event)
{
    uint64_t ticks = event->tsc > header->tsc_start ? event->tsc - header->tsc_start : 0;

    fprintf(to, "%14.9f  %2u  %016llx  %-10s  ", (double)ticks / (double)header->tsc_hz, vcpu,
            (unsigned long long)event->rip, trace_kind_name((enum trace_kind)event->kind));
    trace_text(to, event);
    fputc('\n', to);
}

/* A file that is being shown. */
struct view {
    const uint8_t *map;
    size_t bytes;
    struct header header;
    uint64_t next[VCPUS_MAX], end[VCPUS_MAX]; /* events of each vCPU: not yet shown */
};

static const uint8_t *view_ring(const struct view *view, unsigned vcpu)
{
    return view->map + PAGE_BYTES + vcpu * ring_bytes(view->header.events);
}

static struct trace_event view_event(const struct view *view, unsigned vcpu, uint64_t n)
{
    struct trace_event event;

    memcpy(&event,
           view_ring(view, vcpu) + PAGE_BYTES +
               (n & (view->header.events - 1)) * sizeof(struct trace_event),
           sizeof event);
    return event;
}

static bool header_good(const struct header *header, size_t bytes)
{
    return memcmp(header->magic, MAGIC, sizeof header->magic) == 0 && header->vcpus > 0 &&
           header->vcpus <= VCPUS_MAX && header->events >= TRACE_EVENTS_MIN &&
           header->events <= TRACE_EVENTS_MAX && (header->events & (header->events - 1)) == 0 &&
           header->tsc_hz > 0 && bytes == PAGE_BYTES + header->vcpus * ring_bytes(header->events);
}

static int view_open(const char *path, struct view *view, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat stat;
    void *map = MAP_FAILED;

    if (fd < 0)
        return error_set(err, -errno, "cannot read the trace %s: %s", path, strerror(errno));
    if (fstat(fd, &stat) == 0 && stat.st_size >= (off_t)PAGE_BYTES)
        map = mmap(NULL, (size_t)stat.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return error_set(err, -EINVAL, "%s is no trace of `freehold run --trace`", path);
    view->map = map;
    view->bytes = (size_t)stat.st_size;
    memcpy(&view->header, map, sizeof view->header);
    if (header_good(&view->header, view->bytes))
        return 0;
    munmap(map, view->bytes);
    return error_set(err, -EINVAL, "%s is no trace of `freehold run --trace`", path);
}

/* The vCPU whose next event is the oldest; `vcpus`: none is left. */
static unsigned view_oldest(const struct view *view)
{
    unsigned oldest = view->header.vcpus;
    uint64_t tsc = 0;

    for (unsigned i = 0; i < view->header.vcpus; i++) {
        struct trace_event event;

        if (view->next[i] == view->end[i])
            continue;
        event = view_event(view, i, view->next[i]);
        if (oldest == view->header.vcpus || event.tsc < tsc) {
            oldest = i;
            tsc = event.tsc;
        }
    }
    return oldest;
}

int trace_print(const char *path, FILE *to, struct error *err)
{
    struct view view = {0};
    uint64_t lost = 0;
    unsigned vcpu;
    int rc = view_open(path, &view, err);

    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < view.header.vcpus; i++) {
        memcpy(&view.end[i], view_ring(&view, i), sizeof view.end[i]);
        if (view.end[i] > view.header.events)
            view.next[i] = view.end[i] - view.header.events;
        lost += view.next[i];
    }
    fprintf(to, "%14s  %2s  %-16s  %-10s  (%llu older events were dropped)\n", "seconds", "CPU",
            "rip", "event", (unsigned long long)lost);
    while ((vcpu = view_oldest(&view)) < view.header.vcpus) {
        struct trace_event event = view_event(&view, vcpu, view.next[vcpu]++);

        event_print(to, &view.header, vcpu, &event);
    }
    munmap((void *)(uintptr_t)view.map, view.bytes);
    return 0;
}
