/*
 * The VM on the real board, with a CPU engine that plays scripts instead of running code: every
 * kind of exit, sleep and wake-up, INIT and start-up, resets, and each way for a VM to end.
 */
#include "base/test.h"
#include "vm/vm.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "vm/vm_internal.h"

/* ---- the engine ---- */

enum step_kind {
    STEP_END, /* sleeps until kicked, for ever */
    STEP_OUT,
    STEP_IN, /* the value is noted */
    STEP_STORE,
    STEP_LOAD,  /* noted */
    STEP_RDMSR, /* noted; a fault as FAULT */
    STEP_WRMSR, /* whether it faulted is noted */
    STEP_CR8,
    STEP_STI, /* and the step after it, before any interrupt */
    STEP_NAP, /* microseconds */
    STEP_HALT,
    STEP_SHUTDOWN,
    STEP_FAIL,
    STEP_PAUSE,
    STEP_WAIT, /* as code that spins until an interrupt comes */
};

#define FAULT UINT64_C(0xfa017)
#define NOTES 16

struct step {
    enum step_kind kind;
    uint64_t where, value;
};

struct vcpu {
    unsigned index, at;
    bool waiting, pending, kicked, shadow;
    uint64_t tsc_offset;
    struct x86_state state;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

/* What the script of one test is, and what came of it. */
struct script {
    const struct step *step[3][2]; /* [power-on, or the last of them][vCPU] */
    atomic_uint loads[2];          /* state_set calls */
    uint64_t note[2][NOTES];
    unsigned notes[2];
    uint8_t vector[2][NOTES];
    unsigned vectors[2];
    uint64_t start_base[2]; /* CS base at the last state_set */
};

static struct script *script;
static unsigned power_on;

static int fake_probe(struct error *why)
{
    (void)why;
    return 0;
}

static int fake_vm_new(const struct cpu_config *config, struct cpu_vm **out, struct error *err)
{
    (void)config;
    (void)err;
    *out = NULL;
    return 0;
}

static void fake_vm_free(struct cpu_vm *vm)
{
    (void)vm;
}

static int fake_vcpu_new(struct cpu_vm *vm, unsigned index, struct vcpu **out, struct error *err)
{
    struct vcpu *vcpu = aligned_alloc(64, sizeof *vcpu);

    (void)vm;
    if (!vcpu)
        return error_set(err, -ENOMEM, "no memory");
    memset(vcpu, 0, sizeof *vcpu);
    vcpu->index = index;
    pthread_mutex_init(&vcpu->lock, NULL);
    pthread_cond_init(&vcpu->changed, NULL);
    *out = vcpu;
    return 0;
}

static void fake_vcpu_free(struct vcpu *vcpu)
{
    pthread_cond_destroy(&vcpu->changed);
    pthread_mutex_destroy(&vcpu->lock);
    free(vcpu);
}

static void note(struct vcpu *vcpu, uint64_t value)
{
    if (script->notes[vcpu->index] < NOTES)
        script->note[vcpu->index][script->notes[vcpu->index]++] = value;
}

/* The exit before is answered: as an engine would finish the instruction. */
static void step_complete(struct vcpu *vcpu, const struct step *step, const struct cpu_exit *exit)
{
    if (step->kind == STEP_IN)
        note(vcpu, exit->io.value);
    else if (step->kind == STEP_LOAD)
        note(vcpu, exit->mmio.value);
    else if (step->kind == STEP_RDMSR)
        note(vcpu, exit->msr.fault ? FAULT : exit->msr.value);
    else if (step->kind == STEP_WRMSR)
        note(vcpu, exit->msr.fault ? FAULT : 0);
}

static void io_fill(struct cpu_exit *exit, const struct step *step)
{
    exit->kind = CPU_EXIT_IO;
    exit->io.port = (uint16_t)step->where;
    exit->io.size = step->where == 0x604 ? 2 : 1;
    exit->io.write = step->kind == STEP_OUT;
    exit->io.value = (uint32_t)step->value;
}

static void mmio_fill(struct cpu_exit *exit, const struct step *step)
{
    exit->kind = CPU_EXIT_MMIO;
    exit->mmio.gpa = step->where;
    exit->mmio.size = 4;
    exit->mmio.write = step->kind == STEP_STORE;
    exit->mmio.value = step->value;
}

static void msr_fill(struct cpu_exit *exit, const struct step *step)
{
    exit->kind = step->kind == STEP_CR8 ? CPU_EXIT_CR8 : CPU_EXIT_MSR;
    exit->msr.index = (uint32_t)step->where;
    exit->msr.write = step->kind != STEP_RDMSR;
    exit->msr.fault = false;
    exit->msr.value = step->value;
}

/* Plays one step; true when it is an exit. */
static bool step_play(struct vcpu *vcpu, const struct step *step, struct cpu_exit *exit)
{
    switch (step->kind) {
    case STEP_OUT:
    case STEP_IN:
        io_fill(exit, step);
        break;
    case STEP_STORE:
    case STEP_LOAD:
        mmio_fill(exit, step);
        break;
    case STEP_RDMSR:
    case STEP_WRMSR:
    case STEP_CR8:
        msr_fill(exit, step);
        break;
    case STEP_STI:
        vcpu->state.rflags |= X86_RFLAGS_IF;
        vcpu->shadow = true;
        vcpu->at++;
        return false;
    case STEP_NAP:
        pthread_mutex_unlock(&vcpu->lock); /* a kick does not wait */
        usleep((useconds_t)step->where);
        pthread_mutex_lock(&vcpu->lock);
        vcpu->at++;
        return false;
    case STEP_HALT:
        exit->kind = CPU_EXIT_HALT;
        break;
    case STEP_SHUTDOWN:
        exit->kind = CPU_EXIT_SHUTDOWN;
        break;
    case STEP_PAUSE:
        exit->kind = CPU_EXIT_PAUSE;
        break;
    case STEP_FAIL:
        exit->kind = CPU_EXIT_FAILED;
        snprintf(exit->failed, sizeof exit->failed, "the fake engine is tired");
        break;
    case STEP_END:
    case STEP_WAIT:
        while (!vcpu->kicked && !(vcpu->pending && vcpu->state.rflags & X86_RFLAGS_IF))
            pthread_cond_wait(&vcpu->changed, &vcpu->lock);
        return false;
    }
    vcpu->at++;
    vcpu->waiting = true;
    return true;
}

static const struct step *script_of(const struct vcpu *vcpu)
{
    return script->step[power_on < 3 ? power_on : 2][vcpu->index];
}

static void fake_run(struct vcpu *vcpu, struct cpu_exit *exit)
{
    const struct step *steps = script_of(vcpu);
    bool done = false;

    pthread_mutex_lock(&vcpu->lock);
    if (vcpu->waiting)
        step_complete(vcpu, &steps[vcpu->at - 1], exit);
    vcpu->waiting = false;
    while (!done) {
        done = true;
        if (vcpu->kicked) {
            vcpu->kicked = false;
            exit->kind = CPU_EXIT_KICKED;
        } else if (vcpu->pending && vcpu->state.rflags & X86_RFLAGS_IF && !vcpu->shadow) {
            exit->kind = CPU_EXIT_INTERRUPT;
        } else {
            vcpu->shadow = false;
            done = step_play(vcpu, &steps[vcpu->at], exit);
        }
    }
    pthread_mutex_unlock(&vcpu->lock);
}

static void fake_kick(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    vcpu->kicked = true;
    pthread_cond_signal(&vcpu->changed);
    pthread_mutex_unlock(&vcpu->lock);
}

static void fake_interrupt_set(struct vcpu *vcpu, bool pending)
{
    pthread_mutex_lock(&vcpu->lock);
    vcpu->pending = pending;
    pthread_cond_signal(&vcpu->changed);
    pthread_mutex_unlock(&vcpu->lock);
}

static void fake_inject(struct vcpu *vcpu, uint8_t vector, bool nmi)
{
    unsigned i = vcpu->index;
    const struct step *step = &script_of(vcpu)[vcpu->at];

    if (script->vectors[i] < NOTES)
        script->vector[i][script->vectors[i]++] = nmi ? X86_NMI : vector;
    if (step->kind == STEP_WAIT || (nmi && step->kind == STEP_HALT)) /* the NMI came early */
        vcpu->at++;
}

static void fake_state_get(struct vcpu *vcpu, struct x86_state *state)
{
    *state = vcpu->state;
}

static int fake_state_set(struct vcpu *vcpu, const struct x86_state *state, struct error *err)
{
    (void)err;
    vcpu->state = *state;
    vcpu->at = 0;
    vcpu->waiting = vcpu->shadow = false;
    if (vcpu->index == 0)
        power_on = atomic_load(&script->loads[0]);
    atomic_fetch_add(&script->loads[vcpu->index], 1);
    script->start_base[vcpu->index] = state->seg[X86_CS].base;
    return 0;
}

static uint64_t fake_tsc_offset_get(struct vcpu *vcpu)
{
    return vcpu->tsc_offset;
}

static void fake_tsc_offset_set(struct vcpu *vcpu, uint64_t offset)
{
    vcpu->tsc_offset = offset;
}

static const struct cpu_engine fake_engine = {
    .name = "fake",
    .description = "plays scripts",
    .probe = fake_probe,
    .vm_new = fake_vm_new,
    .vm_free = fake_vm_free,
    .vcpu_new = fake_vcpu_new,
    .vcpu_free = fake_vcpu_free,
    .run = fake_run,
    .kick = fake_kick,
    .interrupt_set = fake_interrupt_set,
    .inject = fake_inject,
    .state_get = fake_state_get,
    .state_set = fake_state_set,
    .tsc_offset_get = fake_tsc_offset_get,
    .tsc_offset_set = fake_tsc_offset_set,
};

/* ---- the machine under test ---- */

#define LAPIC_REGISTER(r) (LAPIC_BASE_DEFAULT + (r))
#define LAPIC_EOI         LAPIC_REGISTER(0xb0)
#define LAPIC_SVR         LAPIC_REGISTER(0xf0)
#define LAPIC_ICR_LOW     LAPIC_REGISTER(0x300)
#define LAPIC_ICR_HIGH    LAPIC_REGISTER(0x310)
#define LAPIC_LVT_TIMER   LAPIC_REGISTER(0x320)
#define LAPIC_COUNT       LAPIC_REGISTER(0x380)
#define LAPIC_DIVIDE      LAPIC_REGISTER(0x3e0)

#define POWER_OFF                                                                                  \
    {                                                                                              \
        STEP_OUT, 0x604, 0x2000 | 5 << 10                                                          \
    }

#define SLEEP_S3                                                                                   \
    {                                                                                              \
        STEP_OUT, 0x604, 0x2000 | 1 << 10                                                          \
    }

static const struct step idle[] = {{STEP_END, 0, 0}};

/* A firmware image of 64 KiB, which the fake engine never looks at. */
static bool firmware_make(char *path)
{
    static uint8_t image[65536];
    int fd = mkstemp(path);
    bool good = fd >= 0 && write(fd, image, sizeof image) == (ssize_t)sizeof image;

    if (fd >= 0)
        close(fd);
    return good;
}

static struct vm_config config_for(const char *firmware, unsigned cpus)
{
    return (struct vm_config){
        .engine = &fake_engine,
        .cpus = cpus,
        .memory_bytes = UINT64_C(64) << 20,
        .boot.firmware = firmware,
        .serial_count = 1,
        .serial = {"none"},
        .debug_exit = true,
    };
}

/* Runs `s` on a VM of `cpus`; `change` may alter the configuration. */
static struct vm_result script_run(struct test *t, struct script *s, unsigned cpus,
                                   void (*change)(struct vm_config *))
{
    char firmware[] = "/tmp/freehold-vm-test-XXXXXX";
    struct vm_result result = {0};
    struct error err = {0};
    struct vm_config config = config_for(firmware, cpus);
    struct vm *vm = NULL;

    for (unsigned i = 0; i < 3; i++) {
        for (unsigned cpu = 0; cpu < 2; cpu++) {
            if (!s->step[i][cpu])
                s->step[i][cpu] = idle;
        }
    }
    script = s;
    power_on = 0;
    if (change)
        change(&config);
    if (!CHECK(t, firmware_make(firmware)))
        return result;
    if (CHECK_EQ(t, vm_new(&config, &vm, &err), 0))
        CHECK_EQ(t, vm_run(vm, &result, &err), 0);
    else
        printf("vm_new: %s\n", err.text);
    vm_free(vm);
    unlink(firmware);
    return result;
}

/* ---- ends ---- */

static void test_poweroff(struct test *t)
{
    static const struct step steps[] = {POWER_OFF, {STEP_END, 0, 0}};
    struct script s = {.step = {{steps}}};
    struct vm_result result = script_run(t, &s, 2, NULL);

    CHECK_EQ(t, result.end, VM_END_POWEROFF);
    CHECK_EQ(t, vm_result_status(&result), 0);
    CHECK_EQ(t, result.resets, 0);
    CHECK_STR(t, vm_end_name(result.end), "poweroff");
}

static void test_debug_exit(struct test *t)
{
    static const struct step steps[] = {{STEP_OUT, 0xf4, 3}, {STEP_END, 0, 0}};
    struct script s = {.step = {{steps}}};
    struct vm_result result = script_run(t, &s, 1, NULL);

    CHECK_EQ(t, result.end, VM_END_DEBUG_EXIT);
    CHECK_EQ(t, vm_result_status(&result), 7);
}

static void test_panic(struct test *t)
{
    static const struct step steps[] = {{STEP_OUT, 0x505, 1}, {STEP_END, 0, 0}};
    struct script s = {.step = {{steps}}};
    struct vm_result result = script_run(t, &s, 1, NULL);

    CHECK_EQ(t, result.end, VM_END_PANIC);
    CHECK_EQ(t, vm_result_status(&result), 1);
}

static void test_triple_fault(struct test *t)
{
    static const struct step steps[] = {{STEP_SHUTDOWN, 0, 0}, {STEP_END, 0, 0}};
    struct script s = {.step = {{steps}}};
    struct vm_result result = script_run(t, &s, 1, NULL);

    CHECK_EQ(t, result.end, VM_END_TRIPLE_FAULT);
    CHECK_EQ(t, vm_result_status(&result), 1);
    CHECK(t, strstr(result.text, "vCPU 0 took a triple fault at CS:RIP f000:") != NULL);
    CHECK(t, strstr(result.text, "fff0") != NULL);
    CHECK(t, strstr(result.text, "CR3") != NULL);
}

static void test_engine_failure(struct test *t)
{
    static const struct step steps[] = {{STEP_PAUSE, 0, 0}, {STEP_FAIL, 0, 0}, {STEP_END, 0, 0}};
    struct script s = {.step = {{steps}}};
    struct vm_result result = script_run(t, &s, 1, NULL);

    CHECK_EQ(t, result.end, VM_END_FAILED);
    CHECK_EQ(t, vm_result_status(&result), 1);
    CHECK(t, strstr(result.text, "the fake engine is tired") != NULL);
}

/* ---- resets ---- */

/* Reset by the keyboard controller, then by 0xcf9, then power off. */
static void test_resets(struct test *t)
{
    static const struct step first[] = {{STEP_OUT, 0x64, 0xfe}, {STEP_END, 0, 0}};
    static const struct step second[] = {
        {STEP_OUT, 0xcf9, 2}, {STEP_OUT, 0xcf9, 6}, {STEP_END, 0, 0}};
    static const struct step third[] = {POWER_OFF, {STEP_END, 0, 0}};
    struct script s = {.step = {{first}, {second}, {third}}};
    struct vm_result result = script_run(t, &s, 2, NULL);

    CHECK_EQ(t, result.end, VM_END_POWEROFF);
    CHECK_EQ(t, result.resets, 2);
    CHECK_EQ(t, atomic_load(&s.loads[0]), 3);
    CHECK_EQ(t, atomic_load(&s.loads[1]), 3);
}

/* Sleeps until an alarm of the clock, which may be any second; that is no reset. */
static void test_sleep(struct test *t)
{
    static const struct step first[] = {{STEP_OUT, 0x603, 1 << 2}, {STEP_OUT, 0x70, 1},
                                        {STEP_OUT, 0x71, 0xc0},    {STEP_OUT, 0x70, 3},
                                        {STEP_OUT, 0x71, 0xc0},    {STEP_OUT, 0x70, 5},
                                        {STEP_OUT, 0x71, 0xc0},    {STEP_OUT, 0x70, 11},
                                        {STEP_OUT, 0x71, 0x22},    SLEEP_S3,
                                        {STEP_END, 0, 0}};
    static const struct step second[] = {{STEP_IN, 0x601, 0}, POWER_OFF, {STEP_END, 0, 0}};
    struct script s = {.step = {{first}, {second}}};
    struct vm_result result = script_run(t, &s, 2, NULL);

    CHECK_EQ(t, result.end, VM_END_POWEROFF);
    CHECK_EQ(t, result.resets, 0);
    CHECK_EQ(t, atomic_load(&s.loads[0]), 2);
    CHECK_EQ(t, atomic_load(&s.loads[1]), 2);
    CHECK_EQ(t, s.note[0][0], 0x84); /* WAK_STS, RTC_STS */
}

static void change_no_reboot(struct vm_config *config)
{
    config->no_reboot = true;
}

static void test_no_reboot(struct test *t)
{
    static const struct step steps[] = {{STEP_OUT, 0x64, 0xfe}, {STEP_END, 0, 0}};
    struct script s = {.step = {{steps}}};
    struct vm_result result = script_run(t, &s, 1, change_no_reboot);

    CHECK_EQ(t, result.end, VM_END_RESET);
    CHECK_EQ(t, vm_result_status(&result), 0);
    CHECK_EQ(t, atomic_load(&s.loads[0]), 1);
}

/* ---- interrupts, sleep and wake ---- */

#define LAPIC_ON                                                                                   \
    {                                                                                              \
        STEP_STORE, LAPIC_SVR, 0x1ff                                                               \
    }

/* A halted vCPU is woken by its own LAPIC's timer, and a spinning one is interrupted by it. */
static void test_halt_timer(struct test *t)
{
    static const struct step steps[] = {LAPIC_ON,
                                        {STEP_STORE, LAPIC_DIVIDE, 0xb}, /* by 1 */
                                        {STEP_STORE, LAPIC_LVT_TIMER, 0x40},
                                        {STEP_STORE, LAPIC_COUNT, 2000000},
                                        {STEP_STI, 0, 0},
                                        {STEP_HALT, 0, 0},
                                        {STEP_STORE, LAPIC_EOI, 0},
                                        {STEP_STORE, LAPIC_LVT_TIMER, 0x41},
                                        {STEP_STORE, LAPIC_COUNT, 2000000},
                                        {STEP_WAIT, 0, 0},
                                        POWER_OFF,
                                        {STEP_END, 0, 0}};
    struct script s = {.step = {{steps}}};
    struct vm_result result = script_run(t, &s, 1, NULL);

    CHECK_EQ(t, result.end, VM_END_POWEROFF);
    CHECK(t, result.ran_ns >= 4 * NS_PER_MS);
    CHECK_EQ(t, s.vectors[0], 2);
    CHECK_EQ(t, s.vector[0][0], 0x40);
    CHECK_EQ(t, s.vector[0][1], 0x41);
}

/* INIT and start-up of vCPU 1, which then wakes vCPU 0 by an IPI. */
static void test_startup(struct test *t)
{
    static const struct step boot[] = {LAPIC_ON,
                                       {STEP_STORE, LAPIC_ICR_HIGH, 1 << 24},
                                       {STEP_STORE, LAPIC_ICR_LOW, 0x4500}, /* INIT, assert */
                                       {STEP_STORE, LAPIC_ICR_LOW, 0x4609}, /* start at 9 << 12 */
                                       {STEP_STORE, LAPIC_ICR_LOW, 0x4609},
                                       {STEP_STI, 0, 0},
                                       {STEP_HALT, 0, 0},
                                       POWER_OFF,
                                       {STEP_END, 0, 0}};
    static const struct step other[] = {LAPIC_ON,
                                        {STEP_STORE, LAPIC_ICR_HIGH, 0},
                                        {STEP_STORE, LAPIC_ICR_LOW, 0x4050}, /* fixed, 0x50 */
                                        {STEP_END, 0, 0}};
    struct script s = {.step = {{boot, other}}};
    struct vm_result result = script_run(t, &s, 2, NULL);

    CHECK_EQ(t, result.end, VM_END_POWEROFF);
    CHECK_EQ(t, s.start_base[1], 0x9000);
    CHECK_EQ(t, atomic_load(&s.loads[1]), 3); /* power-on, INIT, start-up (once) */
    CHECK_EQ(t, s.vectors[0], 1);
    CHECK_EQ(t, s.vector[0][0], 0x50);
}

/* With interrupts disabled an interrupt does not end a halt, an NMI does. */
static void test_halt_nmi(struct test *t)
{
    static const struct step boot[] = {LAPIC_ON,
                                       {STEP_STORE, LAPIC_ICR_HIGH, 1 << 24},
                                       {STEP_STORE, LAPIC_ICR_LOW, 0x4500},
                                       {STEP_STORE, LAPIC_ICR_LOW, 0x4609},
                                       {STEP_HALT, 0, 0},
                                       POWER_OFF,
                                       {STEP_END, 0, 0}};
    static const struct step other[] = {LAPIC_ON,
                                        {STEP_STORE, LAPIC_ICR_HIGH, 0},
                                        {STEP_NAP, 3000, 0},
                                        {STEP_STORE, LAPIC_ICR_LOW, 0x4050},
                                        {STEP_NAP, 3000, 0},
                                        {STEP_STORE, LAPIC_ICR_LOW, 0x4400}, /* NMI */
                                        {STEP_END, 0, 0}};
    struct script s = {.step = {{boot, other}}};
    struct vm_result result = script_run(t, &s, 2, NULL);

    CHECK_EQ(t, result.end, VM_END_POWEROFF);
    CHECK_EQ(t, s.vectors[0], 1);
    CHECK_EQ(t, s.vector[0][0], X86_NMI);
}

/* Two NMIs while the vCPU's thread is busy elsewhere are two. */
static void test_two_nmis(struct test *t)
{
    static const struct step boot[] = {LAPIC_ON,
                                       {STEP_STORE, LAPIC_ICR_HIGH, 1 << 24},
                                       {STEP_STORE, LAPIC_ICR_LOW, 0x4500},
                                       {STEP_STORE, LAPIC_ICR_LOW, 0x4609},
                                       {STEP_NAP, 20000, 0},
                                       POWER_OFF,
                                       {STEP_END, 0, 0}};
    static const struct step other[] = {LAPIC_ON,
                                        {STEP_STORE, LAPIC_ICR_HIGH, 0},
                                        {STEP_STORE, LAPIC_ICR_LOW, 0x4400},
                                        {STEP_STORE, LAPIC_ICR_LOW, 0x4400},
                                        {STEP_END, 0, 0}};
    struct script s = {.step = {{boot, other}}};
    struct vm_result result = script_run(t, &s, 2, NULL);

    CHECK_EQ(t, result.end, VM_END_POWEROFF);
    CHECK_EQ(t, s.vectors[0], 2);
    CHECK_EQ(t, s.vector[0][1], X86_NMI);
}

/* ---- accesses ---- */

static void test_accesses(struct test *t)
{
    static const struct step steps[] = {{STEP_IN, 0x80, 0},
                                        {STEP_LOAD, LAPIC_REGISTER(0x30), 0}, /* version */
                                        {STEP_LOAD, 0xd0000000, 0},           /* nobody */
                                        {STEP_STORE, 0xfffffff0, 0x12345678}, /* ROM */
                                        {STEP_CR8, 0, 5},
                                        {STEP_LOAD, LAPIC_REGISTER(0x80), 0}, /* task priority */
                                        {STEP_RDMSR, X86_MSR_APIC_BASE, 0},
                                        {STEP_RDMSR, 0xc0010114, 0}, /* VM_CR */
                                        {STEP_RDMSR, 0x12345, 0},
                                        {STEP_WRMSR, 0x12345, 0},
                                        {STEP_WRMSR, 0x79, 1},
                                        POWER_OFF,
                                        {STEP_END, 0, 0}};
    struct script s = {.step = {{steps}}};
    struct vm_result result = script_run(t, &s, 1, NULL);

    CHECK_EQ(t, result.end, VM_END_POWEROFF);
    CHECK_EQ(t, s.notes[0], 9);
    CHECK_EQ(t, s.note[0][1] & 0xf0, 0x10);
    CHECK_EQ(t, s.note[0][2], UINT32_MAX);
    CHECK_EQ(t, s.note[0][3], 0x50);
    CHECK_EQ(t, s.note[0][4], LAPIC_BASE_DEFAULT | 0x900); /* enabled, boot processor */
    CHECK_EQ(t, s.note[0][5], 0x10);
    CHECK_EQ(t, s.note[0][6], FAULT);
    CHECK_EQ(t, s.note[0][7], FAULT);
    CHECK_EQ(t, s.note[0][8], 0);
}

/* ---- stopping ---- */

static void *stop_later(void *opaque)
{
    usleep(5000);
    vm_stop(opaque);
    return NULL;
}

static void check_stop(struct test *t, const struct step *steps)
{
    char firmware[] = "/tmp/freehold-vm-test-XXXXXX";
    struct script s = {.step = {{steps, idle}, {idle, idle}, {idle, idle}}};
    struct vm_config config = config_for(firmware, 2);
    struct vm_result result = {0};
    struct error err = {0};
    struct vm *vm = NULL;
    pthread_t thread;

    script = &s;
    if (!CHECK(t, firmware_make(firmware)) || !CHECK_EQ(t, vm_new(&config, &vm, &err), 0))
        return;
    CHECK_EQ(t, pthread_create(&thread, NULL, stop_later, vm), 0);
    CHECK_EQ(t, vm_run(vm, &result, &err), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(t, result.end, VM_END_STOPPED);
    CHECK(t, result.ran_ns < NS_PER_SECOND);
    vm_free(vm);

    CHECK_EQ(t, vm_new(&config, &vm, &err), 0);
    vm_stop(vm); /* before it runs */
    CHECK_EQ(t, vm_run(vm, &result, &err), 0);
    CHECK_EQ(t, result.end, VM_END_STOPPED);
    vm_free(vm);
    unlink(firmware);
}

/* One vCPU halts with interrupts disabled, or the machine sleeps; the other waits for its start:
 * both stop at once. */
static void test_stop(struct test *t)
{
    static const struct step halts[] = {{STEP_HALT, 0, 0}, {STEP_END, 0, 0}};
    static const struct step sleeps[] = {SLEEP_S3, {STEP_END, 0, 0}};

    check_stop(t, halts);
    check_stop(t, sleeps);
}

/* ---- what cannot be built ---- */

static void check_refused(struct test *t, const struct vm_config *config, const char *sentence)
{
    struct error err = {0};
    struct vm *vm = NULL;

    CHECK(t, vm_new(config, &vm, &err) < 0);
    CHECK(t, vm == NULL);
    if (!CHECK(t, strstr(err.text, sentence) != NULL))
        printf("said: %s\n", err.text);
}

static void test_refused(struct test *t)
{
    char firmware[] = "/tmp/freehold-vm-test-XXXXXX";
    struct vm_config good = config_for(firmware, 1), config;

    if (!CHECK(t, firmware_make(firmware)))
        return;
    config = good;
    config.cpus = 0;
    check_refused(t, &config, "0 vCPUs");
    config.cpus = PC_VCPUS_MAX + 1;
    check_refused(t, &config, "65 vCPUs");
    config = good;
    config.memory_bytes = UINT64_C(1) << 50;
    check_refused(t, &config, "this host has");
    config.memory_bytes = UINT64_C(1) << 20;
    check_refused(t, &config, "memory");
    config = good;
    config.boot.firmware = "/nonexistent/firmware";
    check_refused(t, &config, "/nonexistent/firmware");
    config = good;
    config.cpu_model = "z80";
    check_refused(t, &config, "z80");
    config = good;
    config.disk_count = 1;
    config.disk[0].path = "/nonexistent/disk";
    check_refused(t, &config, "/nonexistent/disk");
    config = good;
    config.serial[0] = "file:/nonexistent/serial";
    check_refused(t, &config, "/nonexistent/serial");
    unlink(firmware);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_poweroff);
    TEST_RUN(&t, test_debug_exit);
    TEST_RUN(&t, test_panic);
    TEST_RUN(&t, test_triple_fault);
    TEST_RUN(&t, test_engine_failure);
    TEST_RUN(&t, test_resets);
    TEST_RUN(&t, test_sleep);
    TEST_RUN(&t, test_no_reboot);
    TEST_RUN(&t, test_halt_timer);
    TEST_RUN(&t, test_startup);
    TEST_RUN(&t, test_halt_nmi);
    TEST_RUN(&t, test_two_nmis);
    TEST_RUN(&t, test_accesses);
    TEST_RUN(&t, test_stop);
    TEST_RUN(&t, test_refused);
    return test_end(&t);
}
