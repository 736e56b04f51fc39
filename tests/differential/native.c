/*
 * The host CPU as the oracle: loads a whole register state, jumps into generated code, and stores
 * the state again when the code reaches its end or faults.
 *
 * The state lies at a fixed address below 2 GiB, so that it is reached without any register. A
 * fault becomes a signal; its handler notes what happened and resumes at the exit with all
 * registers as they were. A fault of anything but generated code, and a sequence that does not
 * end, end the test: the handler names the seed.
 */
#include "native.h"

#include <cpuid.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "generate.h"

#define CONTEXT_BASE     UINT64_C(0x30000000)
#define SEQUENCE_SECONDS 120 /* it takes far less than one; a host may be busy */

/* At CONTEXT_BASE; the offsets are known to the code below. */
struct context {
    uint64_t gpr[16];   /* 0 */
    uint64_t rflags;    /* 128 */
    uint64_t host_rsp;  /* 136 */
    uint64_t entry;     /* 144 */
    uint64_t mask;      /* 152 */
    int64_t vector;     /* 160 */
    uint64_t address;   /* 168 */
    uint64_t fault_rip; /* 176 */
    uint64_t fault_flags;
    uint64_t fault_code;
    uint64_t seed;                    /* of the sequence that runs */
    bool running;                     /* generated code, or the way there and back */
    _Alignas(64) uint8_t xsave[4096]; /* 256 */
};
_Static_assert(offsetof(struct context, xsave) == 256, "the assembler below knows the layout");

void native_enter(void);
void native_leave(void);
extern const uint8_t native_leave_end[];

#define CTX "0x30000000"
__asm__(".text\n"
        ".global native_enter\n"
        "native_enter:\n"
        "  push %rbx\n  push %rbp\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
        "  mov %rsp, " CTX "+136\n"
        "  mov " CTX "+152, %eax\n  mov " CTX "+156, %edx\n"
        "  xrstor64 " CTX "+256\n"
        "  pushq " CTX "+128\n  popfq\n"
        "  mov " CTX "+0, %rax\n  mov " CTX "+8, %rcx\n  mov " CTX "+16, %rdx\n"
        "  mov " CTX "+24, %rbx\n  mov " CTX "+32, %rsp\n  mov " CTX "+40, %rbp\n"
        "  mov " CTX "+48, %rsi\n  mov " CTX "+56, %rdi\n  mov " CTX "+64, %r8\n"
        "  mov " CTX "+72, %r9\n  mov " CTX "+80, %r10\n  mov " CTX "+88, %r11\n"
        "  mov " CTX "+96, %r12\n  mov " CTX "+104, %r13\n  mov " CTX "+112, %r14\n"
        "  mov " CTX "+120, %r15\n"
        "  jmp *" CTX "+144\n"
        /* Copied to EXIT_BASE: nothing in it may depend on where it lies. */
        ".global native_leave, native_leave_end\n"
        "native_leave:\n"
        "  mov %rax, " CTX "+0\n  mov %rcx, " CTX "+8\n  mov %rdx, " CTX "+16\n"
        "  mov %rbx, " CTX "+24\n  mov %rsp, " CTX "+32\n  mov %rbp, " CTX "+40\n"
        "  mov %rsi, " CTX "+48\n  mov %rdi, " CTX "+56\n  mov %r8, " CTX "+64\n"
        "  mov %r9, " CTX "+72\n  mov %r10, " CTX "+80\n  mov %r11, " CTX "+88\n"
        "  mov %r12, " CTX "+96\n  mov %r13, " CTX "+104\n  mov %r14, " CTX "+112\n"
        "  mov %r15, " CTX "+120\n"
        "  mov " CTX "+136, %rsp\n"
        "  pushfq\n  popq " CTX "+128\n"
        "  cld\n"
        "  mov " CTX "+152, %eax\n  mov " CTX "+156, %edx\n"
        "  xsave64 " CTX "+256\n"
        "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbp\n  pop %rbx\n"
        "  ret\n"
        "native_leave_end:\n");

static struct context *context(void)
{
    return (struct context *)CONTEXT_BASE;
}

static int vector_of(int signal, const siginfo_t *info)
{
    switch (signal) {
    case SIGFPE:
        return info->si_code == FPE_INTDIV ? 0 : 19;
    case SIGILL:
        return 6;
    case SIGSEGV:
        return info->si_code == SI_KERNEL ? 13 : 14;
    default:
        return 17;
    }
}

/* The seed and what is wrong with it, in a way that a signal handler may write. */
static void end_test(const char *what)
{
    char line[128], *at = line + sizeof line;
    uint64_t seed = context()->seed;
    ssize_t written;

    *--at = '\0';
    do
        *--at = (char)('0' + seed % 10);
    while ((seed /= 10) != 0);
    written = write(STDERR_FILENO, "seed ", 5);
    written += write(STDERR_FILENO, at, strlen(at));
    written += write(STDERR_FILENO, what, strlen(what));
    _exit(written < 0 ? 2 : 1);
}

static void time_over(int signal)
{
    (void)signal;
    end_test(context()->running ? ": it does not end on the host\n"
                                : ": it does not end in the engine\n");
}

static void fault_taken(int signal, siginfo_t *info, void *opaque)
{
    ucontext_t *user = opaque;
    struct context *c = context();

    if (!c->running)
        end_test(": the engine itself faults\n");
    c->vector = vector_of(signal, info);
    c->address = c->vector == 14 ? (uint64_t)(uintptr_t)info->si_addr : 0;
    c->fault_code = c->vector == 14 ? (uint64_t)user->uc_mcontext.gregs[REG_ERR] : 0;
    if (c->address >> 63) /* Linux calls its own half present, whether it is or not */
        c->fault_code &= ~UINT64_C(1);
    c->fault_rip = (uint64_t)user->uc_mcontext.gregs[REG_RIP];
    c->fault_flags = (uint64_t)user->uc_mcontext.gregs[REG_EFL];
    user->uc_mcontext.gregs[REG_RIP] = (greg_t)EXIT_BASE;
}

static void *map_fixed(uint64_t at, uint64_t bytes, int protection)
{
    void *got = mmap((void *)at, bytes, protection,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    return got == (void *)at ? got : NULL;
}

/* Memory with a writable view anywhere and another, still without any right, at `at`. */
static uint8_t *map_twice(uint64_t at, uint64_t bytes)
{
    int fd = memfd_create("differential", 0);
    void *seen, *written;

    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        return NULL;
    written = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    seen = mmap((void *)at, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    close(fd);
    return written == MAP_FAILED || seen != (void *)at ? NULL : written;
}

static bool code_map(struct native *native)
{
    const uint64_t bytes = EXIT_BASE + 4096 - CODE_BASE;

    native->code = map_twice(CODE_BASE, bytes);
    if (!native->code || mprotect((void *)CODE_BASE, bytes, PROT_READ | PROT_EXEC) != 0)
        return false;
    memcpy(native->code + (EXIT_BASE - CODE_BASE), (const void *)(uintptr_t)native_leave,
           (size_t)(native_leave_end - (const uint8_t *)(uintptr_t)native_leave));
    return true;
}

/* All present, so that the codes of page faults say what is allowed, not what is there. */
static bool data_map(struct native *native)
{
    native->data = map_twice(DATA_BASE, DATA_BYTES);
    if (!native->data)
        return false;
    memset(native->data, 0, DATA_BYTES);
    for (unsigned i = 0; i < DATA_BYTES / 4096; i++) {
        int protection = i == DATA_READ_ONLY ? PROT_READ : PROT_READ | PROT_WRITE;
        void *page = (void *)(DATA_BASE + 4096 * i);

        if (i != DATA_UNMAPPED &&
            (mprotect(page, 4096, protection) != 0 || madvise(page, 4096, MADV_POPULATE_READ) != 0))
            return false;
    }
    return true;
}

static bool signals_take(void)
{
    static uint8_t stack[65536];
    const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = fault_taken, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    if (sigaltstack(&alternate, NULL) != 0 ||
        sigaction(SIGALRM, &(struct sigaction){.sa_handler = time_over, .sa_flags = SA_ONSTACK},
                  NULL) != 0)
        return false;
    for (unsigned i = 0; i < 4; i++) {
        if (sigaction(signals[i], &action, NULL) != 0)
            return false;
    }
    return true;
}

bool native_init(struct native *native)
{
    uint32_t a, b, c, d;

    if (!map_fixed(CONTEXT_BASE, sizeof(struct context), PROT_READ | PROT_WRITE) ||
        !data_map(native) || !code_map(native) || !signals_take()) {
        perror("setting up the host side");
        return false;
    }
    native->xsave_mask = 3;
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 27))) {
        __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
        native->xsave_mask = a & 0xe7;
    }
    return true;
}

void native_watch(uint64_t seed)
{
    const struct itimerval limit = {.it_value = {.tv_sec = SEQUENCE_SECONDS}};

    context()->seed = seed;
    setitimer(ITIMER_REAL, &limit, NULL);
}

void native_run(struct native *native, struct machine *machine)
{
    struct context *c = context();

    memcpy(c->gpr, machine->gpr, sizeof c->gpr);
    memcpy(c->xsave, machine->xsave, XSAVE_BYTES);
    c->rflags = machine->rflags;
    c->entry = machine->rip;
    c->mask = native->xsave_mask;
    c->vector = -1;
    c->address = 0;
    c->fault_code = 0;
    c->running = true;
    native_enter();
    c->running = false;
    memcpy(machine->gpr, c->gpr, sizeof c->gpr);
    memcpy(machine->xsave, c->xsave, XSAVE_BYTES);
    machine->rflags = c->vector < 0 ? c->rflags : c->fault_flags;
    machine->rip = c->vector < 0 ? EXIT_BASE : c->fault_rip;
    machine->vector = (int)c->vector;
    machine->fault_address = c->address;
    machine->fault_code = (uint32_t)c->fault_code;
}
