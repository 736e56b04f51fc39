// The benchmark's agent: `programs` obeys lines on standard input; `programs NAME [COUNT]` runs one
// program (for perf); `programs list` tells of all: group, name, count, divisor.
//
// A line is "NAME COUNT" for one of its own programs or "!COMMAND" for the shell. Each runs in a
// process of its own; what it gave is told in one line: "bench: CHECKSUM SECONDS CPU-SECONDS", or
// "bench: no" if the CPU lacks what it needs, or "bench: failed". A command's checksum is that of
// its standard output.

#include "program.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const struct {
    const char *name;
    const struct program *programs;
} groups[] = {
    {"integer", integer_programs}, {"branches", branch_programs}, {"float", float_programs},
    {"vectors", vector_programs},  {"memory", memory_programs},   {"code", code_programs},
    {"kernel", kernel_programs},   {"scaling", thread_programs},
};

enum { LINE_MAX_BYTES = 4000 }; // what a terminal takes, too

struct outcome {
    uint64_t sum;
    double seconds;
};

_Noreturn void program_fail(const char *what)
{
    fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
    _exit(1);
}

void *memory_get(uint64_t size_bytes)
{
    void *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        program_fail("memory");
    return memory;
}

void memory_put(void *memory, uint64_t size_bytes)
{
    munmap(memory, size_bytes);
}

uint64_t mix_bytes(uint64_t sum, const void *bytes, uint64_t size)
{
    const uint8_t *byte = bytes;
    for (uint64_t i = 0; i < size; i++)
        sum = mix(sum, byte[i]);
    return sum;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static const struct program *program_find(const char *name)
{
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (const struct program *program = groups[g].programs; program->name; program++)
            if (strcmp(program->name, name) == 0)
                return program;
    return NULL;
}

static void programs_list(void)
{
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (const struct program *program = groups[g].programs; program->name; program++)
            printf("%s|%s|%" PRIu64 "|%u\n", groups[g].name, program->name, program->count,
                   program->divisor);
}

static struct outcome program_measure(const struct program *program, uint64_t count)
{
    double begun = seconds_now();
    uint64_t sum = program->run(count);
    return (struct outcome){sum, seconds_now() - begun};
}

// The shell's standard input is empty, its standard error is ours.
static struct outcome command_measure(const char *command)
{
    char line[LINE_MAX_BYTES + 32];
    // The last line tells the status, so that it is in the checksum.
    snprintf(line, sizeof line, "(%s) </dev/null; echo $?", command);
    struct outcome outcome = {0, 0};
    double begun = seconds_now();
    FILE *output = popen(line, "re");
    if (!output)
        program_fail("popen");
    char bytes[4096];
    size_t got;
    while ((got = fread(bytes, 1, sizeof bytes, output)) > 0)
        outcome.sum = mix_bytes(outcome.sum, bytes, got);
    pclose(output);
    outcome.seconds = seconds_now() - begun;
    return outcome;
}

static struct outcome line_measure(const char *line)
{
    if (line[0] == '!')
        return command_measure(line + 1);
    char name[64];
    uint64_t count;
    if (sscanf(line, "%63s %" SCNu64, name, &count) != 2 || !program_find(name)) {
        errno = EINVAL;
        program_fail(line);
    }
    return program_measure(program_find(name), count);
}

static bool line_possible(const char *line)
{
    char name[64] = "";
    sscanf(line, "%63s", name);
    const struct program *program = program_find(name);
    return !program || !program->possible || program->possible();
}

static double rusage_seconds(const struct rusage *usage)
{
    return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
           (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) * 1e-6;
}

// Runs a line in a child, and tells what it gave.
static void line_obey(const char *line)
{
    if (!line_possible(line)) {
        printf("bench: no\n");
        return;
    }
    struct outcome *outcome =
        mmap(NULL, sizeof *outcome, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (outcome == MAP_FAILED)
        program_fail("memory");
    pid_t child = fork();
    if (child == 0) {
        *outcome = line_measure(line);
        _exit(0);
    }
    struct rusage usage;
    int status;
    if (child < 0 || wait4(child, &status, 0, &usage) != child || status != 0)
        printf("bench: failed\n");
    else
        printf("bench: %016" PRIx64 " %.6f %.6f\n", outcome->sum, outcome->seconds,
               rusage_seconds(&usage));
    munmap(outcome, sizeof *outcome);
}

static int lines_obey(void)
{
    char line[LINE_MAX_BYTES];
    printf("bench: ready\n");
    while (fflush(stdout) == 0 && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        line_obey(line);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return lines_obey();
    if (strcmp(argv[1], "list") == 0) {
        programs_list();
        return 0;
    }
    if (strcmp(argv[1], "nothing") == 0) // what the program "exec" executes
        return 0;
    const struct program *program = program_find(argv[1]);
    if (!program) {
        fprintf(stderr, "usage: programs [list | NAME [COUNT]]\n");
        return 2;
    }
    if (program->possible && !program->possible()) {
        fprintf(stderr, "this CPU can't run %s\n", program->name);
        return 1;
    }
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : program->count;
    struct outcome outcome = program_measure(program, count);
    printf("%s %016" PRIx64 " %.6f\n", program->name, outcome.sum, outcome.seconds);
    return 0;
}
