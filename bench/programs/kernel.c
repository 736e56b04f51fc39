// What the kernel does for programs: system calls, faults, processes, signals, switches.

#include "program.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE ((uint64_t)4096)

static uint64_t getpid_call(uint64_t count)
{
    uint64_t same = 0;
    long pid = syscall(SYS_getpid);
    for (uint64_t i = 0; i < count; i++)
        same += syscall(SYS_getpid) == pid;
    return same;
}

static void pipe_make(int ends[2])
{
    if (pipe(ends) != 0)
        program_fail("pipe");
}

static uint64_t pipe_bytes(uint64_t count)
{
    int ends[2];
    pipe_make(ends);
    char bytes[512] = "x";
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        bytes[i % sizeof bytes] ^= (char)i;
        if (write(ends[1], bytes, sizeof bytes) < 0 || read(ends[0], bytes, sizeof bytes) < 0)
            program_fail("pipe");
        sum = mix(sum, (uint8_t)bytes[i % sizeof bytes]);
    }
    close(ends[0]);
    close(ends[1]);
    return sum;
}

static void wait_for(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        program_fail("child");
}

// Two processes hand one byte to and fro.
static uint64_t process_switch(uint64_t count)
{
    int there[2], back[2];
    pipe_make(there);
    pipe_make(back);
    pid_t child = fork();
    char byte = 1;
    if (child == 0) {
        for (uint64_t i = 0; i < count; i++) {
            if (read(there[0], &byte, 1) != 1)
                _exit(1);
            byte++;
            if (write(back[1], &byte, 1) != 1)
                _exit(1);
        }
        _exit(0);
    }
    for (uint64_t i = 0; i < count; i++)
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
            program_fail("pipe");
    wait_for(child);
    return (uint8_t)byte;
}

static uint64_t fork_exit(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        wait_for(child);
    }
    return count;
}

static uint64_t fork_exec(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            execl("/proc/self/exe", "programs", "nothing", (char *)NULL);
            _exit(1);
        }
        wait_for(child);
    }
    return count;
}

static void *pages_map(uint64_t len)
{
    void *pages = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        program_fail("mmap");
    return pages;
}

static uint64_t page_fault(uint64_t count)
{
    enum { PAGES = 200 };
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *pages = pages_map(PAGES * PAGE);
        // Without this a kernel may answer the first fault with one huge page.
        madvise(pages, PAGES * PAGE, MADV_NOHUGEPAGE);
        for (uint64_t page = 0; page < PAGES; page++)
            sum += ++pages[page * PAGE];
        munmap(pages, PAGES * PAGE);
    }
    return sum;
}

static uint64_t map_unmap(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *pages = pages_map(16 * PAGE);
        sum += ++*pages;
        munmap(pages, 16 * PAGE);
    }
    return sum;
}

static uint64_t protect(uint64_t count)
{
    uint8_t *pages = pages_map(16 * PAGE);
    memset(pages, 1, 16 * PAGE);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        mprotect(pages, 8 * PAGE, PROT_READ);
        sum += pages[i % 16 * PAGE];
        mprotect(pages, 8 * PAGE, PROT_READ | PROT_WRITE);
        pages[i % 16 * PAGE]++;
    }
    munmap(pages, 16 * PAGE);
    return sum;
}

static volatile sig_atomic_t signals;

static void on_signal(int number)
{
    (void)number;
    signals++;
}

static uint64_t signal_self(uint64_t count)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    signals = 0;
    for (uint64_t i = 0; i < count; i++)
        raise(SIGUSR1);
    return (uint64_t)signals;
}

static uint64_t stat_file(uint64_t count)
{
    struct stat found;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += stat("/proc/self/exe", &found) == 0 && S_ISREG(found.st_mode);
    return sum;
}

static uint64_t open_close(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        int file = open("/dev/null", O_RDONLY);
        sum += file >= 0;
        close(file);
    }
    return sum;
}

static uint64_t read_file(uint64_t count)
{
    static uint8_t bytes[64 * 1024];
    int file = open("/proc/self/exe", O_RDONLY);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        sum += (uint64_t)pread(file, bytes, i % 2 ? 1 << 16 : 512, (off_t)(i % 8 * 4096));
        sum = mix(sum, bytes[i % 512]);
    }
    close(file);
    return sum;
}

const struct program kernel_programs[] = {
    {"getpid", getpid_call, 2000000, 1, NULL},
    {"pipe", pipe_bytes, 500000, 1, NULL},
    {"context-switch", process_switch, 80000, 1, NULL},
    {"fork", fork_exit, 4000, 1, NULL},
    {"exec", fork_exec, 250, 1, NULL},
    {"page-fault", page_fault, 400, 1, NULL},
    {"mmap", map_unmap, 30000, 1, NULL},
    {"mprotect", protect, 40000, 1, NULL},
    {"signal", signal_self, 150000, 1, NULL},
    {"stat", stat_file, 200000, 1, NULL},
    {"open", open_close, 250000, 1, NULL},
    {"read", read_file, 150000, 1, NULL},
    {NULL, NULL, 0, 0, NULL},
};
