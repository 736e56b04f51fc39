/*
 * The life of a VM: building it, power on, reset, its end.
 *
 * Threads: the caller's thread supervises. Whoever wants the VM to end or reset (a device on a
 * vCPU's thread, the I/O thread, the user) notes it once and makes the vCPUs park; the supervisor,
 * which waits for all of them to be parked, then resets the board and lets them go, or ends the VM.
 */
#include "vm/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/counted.h"
#include "base/log.h"
#include "block/block.h"
#include "char/char.h"
#include "machine/memmap.h"
#include "vm/vm_internal.h"

/* ---- ends ---- */

static const struct {
    const char *name;
    const char *text;
    int status;
} vm_ends[VM_END_COUNT] = {
    [VM_END_NONE] = {"running", "still running", 0},
    [VM_END_POWEROFF] = {"poweroff", "the guest powered off", 0},
    [VM_END_SLEEP] = {"sleep", "asleep", 0},
    [VM_END_RESET] = {"reset", "the guest asked for a reset, which --no-reboot makes its end", 0},
    [VM_END_STOPPED] = {"stopped", "stopped by the user", 0},
    [VM_END_DEBUG_EXIT] = {"debug-exit", "the guest left through the debug-exit port", 1},
    [VM_END_PANIC] = {"panic", "the guest reported a panic", 1},
    [VM_END_TRIPLE_FAULT] = {"triple-fault", "a vCPU took a triple fault", 1},
    [VM_END_FAILED] = {"failed", "the VM could not go on", 1},
};

const char *vm_end_name(enum vm_end end)
{
    return vm_ends[end].name;
}

int vm_result_status(const struct vm_result *result)
{
    if (result->end == VM_END_DEBUG_EXIT)
        return (int)((result->debug_value << 1 | 1) & 0xff);
    return vm_ends[result->end].status;
}

static void vm_end_note(struct vm *vm, enum vm_end end, uint32_t value, const char *text)
{
    vm->end = end;
    vm->result.debug_value = value;
    snprintf(vm->result.text, sizeof vm->result.text, "%s", text ? text : vm_ends[end].text);
}

void vm_end_request(struct vm *vm, enum vm_end end, uint32_t value, const char *text)
{
    pthread_mutex_lock(&vm->lock);
    if (end == VM_END_STOPPED)
        vm->stop = true;
    if (vm->end == VM_END_NONE || vm->end == VM_END_SLEEP ||
        (vm->stop && vm->end == VM_END_RESET)) {
        vm_end_note(vm, end, value, text);
        vm->woken = false;
    }
    atomic_store(&vm->pause, true);
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        vcpu_kick(&vm->vcpu[i]);
}

void vm_stop(struct vm *vm)
{
    vm_end_request(vm, VM_END_STOPPED, 0, NULL);
}

void vm_power_button(struct vm *vm)
{
    pc_power_button(vm->pc);
}

/* ---- what the board reports: any thread, device locks held ---- */

static void board_poweroff(void *opaque)
{
    vm_end_request(opaque, VM_END_POWEROFF, 0, NULL);
}

static void board_sleep(void *opaque)
{
    vm_end_request(opaque, VM_END_SLEEP, 0, NULL);
}

static void board_wake(void *opaque)
{
    struct vm *vm = opaque;

    pthread_mutex_lock(&vm->lock);
    vm->woken = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

static void board_reset(void *opaque)
{
    vm_end_request(opaque, VM_END_RESET, 0, NULL);
}

static void board_panic(void *opaque)
{
    vm_end_request(opaque, VM_END_PANIC, 0, NULL);
}

static void board_debug_exit(void *opaque, uint32_t value)
{
    vm_end_request(opaque, VM_END_DEBUG_EXIT, value, NULL);
}

/* ---- building ---- */

static int config_check(const struct vm_config *config, struct error *err)
{
    uint64_t host = mem_host_bytes();

    if (config->cpus < 1 || config->cpus > PC_VCPUS_MAX)
        return error_set(err, -EINVAL, "cannot make %u vCPUs: give a number from 1 to %d",
                         config->cpus, PC_VCPUS_MAX);
    if (config->memory_bytes > host)
        return error_set(err, -ENOMEM,
                         "cannot give the guest %llu MiB of memory: this host has %llu MiB; "
                         "ask for less with --memory",
                         (unsigned long long)(config->memory_bytes >> 20),
                         (unsigned long long)(host >> 20));
    return 0;
}

/* The images are looked at before anything is made; pc_new() opens them for good. */
static int images_check(const struct vm *vm, const struct vm_config *config, struct error *err)
{
    struct memmap map;
    struct boot *boot;
    int rc = memmap_build(config->memory_bytes, vm->cpuid.physical_bits, &map, err);

    if (rc < 0)
        return rc;
    rc = boot_open(&config->boot, &map, &boot, err);
    if (rc == 0)
        boot_free(boot);
    return rc;
}

static int cpuid_make(struct vm *vm, const struct vm_config *config, struct error *err)
{
    struct x86_cpuid_config cpuid = {
        .model = config->cpu_model,
        .vcpu_count = config->cpus,
        .tsc_hz = cpu_tsc_hz(),
        .paravirt_clock = true,
    };

    return x86_cpuid_build(&cpuid, &vm->cpuid, err);
}

static int disks_open(struct vm *vm, const struct vm_config *config, struct error *err)
{
    for (unsigned i = 0; i < config->disk_count; i++) {
        const struct vm_disk *disk = &config->disk[i];
        struct block_config block = {
            .path = disk->path, .format = disk->format, .readonly = disk->readonly};
        int rc = block_open(&block, &vm->disk[i], err);

        if (rc < 0)
            return rc;
        vm->disk_count++;
    }
    return 0;
}

static int consoles_open(struct vm *vm, const struct vm_config *config, struct error *err)
{
    struct char_config end = {.loop = vm->loop, .escape = config->escape, .opaque = config->opaque};

    for (unsigned i = 0; i < config->serial_count; i++) {
        int rc;

        end.spec = config->serial[i];
        rc = char_backend_new(&end, &vm->serial[i], err);
        if (rc < 0)
            return rc;
        vm->serial_count++;
    }
    end.spec = config->console;
    return end.spec ? char_backend_new(&end, &vm->console, err) : 0;
}

static int nets_open(struct vm *vm, const struct vm_config *config, struct pc_config *board,
                     struct error *err)
{
    for (unsigned i = 0; i < config->net_count; i++) {
        struct net_user_config net = {
            .hostfwd = config->net[i].hostfwd,
            .hostfwd_count = config->net[i].hostfwd_count,
        };
        int rc = net_user_new(&net, vm->loop, &board->net[i], err);

        if (rc < 0)
            return rc;
        board->net_count++;
    }
    return 0;
}

static void nets_close(struct pc_config *board)
{
    for (unsigned i = 0; i < board->net_count; i++)
        net_port_free(board->net[i]);
}

static void board_config_fill(struct vm *vm, const struct vm_config *config,
                              struct pc_config *board)
{
    *board = (struct pc_config){
        .name = config->name,
        .memory_bytes = config->memory_bytes,
        .vcpu_count = config->cpus,
        .cpuid = &vm->cpuid,
        .loop = vm->loop,
        .boot = config->boot,
        .disk_count = vm->disk_count,
        .debug_exit = config->debug_exit,
        .testdev = config->testdev,
        .events =
            {
                .opaque = vm,
                .poweroff = board_poweroff,
                .sleep = board_sleep,
                .wake = board_wake,
                .reset = board_reset,
                .panic = board_panic,
                .debug_exit = board_debug_exit,
                .lapic = vcpu_lapic_ops,
            },
    };
    for (unsigned i = 0; i < vm->disk_count; i++)
        board->disk[i] = (struct pc_disk){vm->disk[i], config->disk[i].serial};
}

static int board_make(struct vm *vm, const struct vm_config *config, struct error *err)
{
    struct pc_config board;
    int rc;

    board_config_fill(vm, config, &board);
    rc = nets_open(vm, config, &board, err);
    if (rc == 0)
        rc = consoles_open(vm, config, err);
    if (rc < 0) {
        nets_close(&board);
        return rc;
    }
    memcpy(board.serial, vm->serial, sizeof board.serial);
    board.console = vm->console;
    return pc_new(&board, &vm->pc, err);
}

static int cpus_make(struct vm *vm, const struct vm_config *config, struct error *err)
{
    struct cpu_config cpu = {
        .mem = pc_mem(vm->pc),
        .cpuid = &vm->cpuid,
        .vcpu_count = config->cpus,
        .interpret_only = config->interpret_only,
        .lockstep_blocks = config->lockstep_blocks,
        .tools = config->tools,
        .code_bytes = config->code_bytes,
    };
    int rc = vm->engine->vm_new(&cpu, &vm->cpu_vm, err);

    for (unsigned i = 0; rc == 0 && i < vm->vcpu_count; i++) {
        vm->vcpu[i].lapic = pc_lapic(vm->pc, i);
        rc = vm->engine->vcpu_new(vm->cpu_vm, i, &vm->vcpu[i].cpu, err);
    }
    return rc;
}

static int vm_alloc(const struct vm_config *config, struct vm **out)
{
    struct vm *vm = calloc(1, sizeof *vm);

    if (!vm)
        return -ENOMEM;
    vm->vcpu = aligned_alloc(_Alignof(struct vm_vcpu), config->cpus * sizeof *vm->vcpu);
    if (!vm->vcpu) {
        free(vm);
        return -ENOMEM;
    }
    memset(vm->vcpu, 0, config->cpus * sizeof *vm->vcpu);
    vm->vcpu_count = config->cpus;
    for (unsigned i = 0; i < config->cpus; i++) {
        vm->vcpu[i].vm = vm;
        vm->vcpu[i].index = i;
    }
    vm->engine = config->engine;
    vm->no_reboot = config->no_reboot;
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->changed, NULL);
    *out = vm;
    return 0;
}

static int vm_build(struct vm *vm, const struct vm_config *config, struct error *err)
{
    int rc;

    if (config->engine->counts_time)
        counted_start(cpu_tsc_hz());
    rc = cpuid_make(vm, config, err);

    if (rc == 0)
        rc = images_check(vm, config, err);
    if (rc == 0)
        rc = disks_open(vm, config, err);
    if (rc < 0)
        return rc;
    rc = loop_new(&vm->loop);
    if (rc < 0)
        return error_set(err, rc, "cannot make an event loop: %s", strerror(-rc));
    rc = board_make(vm, config, err);
    return rc < 0 ? rc : cpus_make(vm, config, err);
}

int vm_new(const struct vm_config *config, struct vm **out, struct error *err)
{
    struct vm *vm;
    int rc = config_check(config, err);

    if (rc < 0)
        return rc;
    rc = vm_alloc(config, &vm);
    if (rc < 0)
        return error_set(err, rc, "no memory to make a VM");
    rc = vm_build(vm, config, err);
    if (rc < 0) {
        vm_free(vm);
        return rc;
    }
    *out = vm;
    return 0;
}

static void cpus_free(struct vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        struct vcpu *cpu = vm->vcpu[i].cpu;

        vm->vcpu[i].cpu = NULL; /* the board's last words reach nobody */
        if (cpu)
            vm->engine->vcpu_free(cpu);
    }
    if (vm->cpu_vm)
        vm->engine->vm_free(vm->cpu_vm);
}

void vm_free(struct vm *vm)
{
    if (!vm)
        return;
    cpus_free(vm);
    if (vm->pc)
        pc_free(vm->pc);
    for (unsigned i = 0; i < vm->serial_count; i++)
        char_backend_free(vm->serial[i]);
    char_backend_free(vm->console);
    for (unsigned i = 0; i < vm->disk_count; i++)
        block_close(vm->disk[i]);
    loop_free(vm->loop);
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->lock);
    free(vm->vcpu);
    free(vm);
}

struct loop *vm_loop(struct vm *vm)
{
    return vm->loop;
}

const char *vm_cpu_model(const struct vm *vm)
{
    return vm->cpuid.model;
}

void vm_counters(struct vm *vm, unsigned vcpu, cpu_counter_visit *visit, void *opaque)
{
    vm->engine->counters(vm->vcpu[vcpu].cpu, visit, opaque);
}

/* ---- running ---- */

static void *io_main(void *opaque)
{
    struct vm *vm = opaque;
    int rc = loop_run(vm->loop);

    if (rc < 0) {
        char text[128];

        snprintf(text, sizeof text, "the I/O thread failed: %s", strerror(-rc));
        vm_end_request(vm, VM_END_FAILED, 0, text);
    }
    return NULL;
}

static int thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *opaque)
{
    int rc = pthread_create(thread, NULL, main, opaque);

    if (rc == 0)
        pthread_setname_np(*thread, name);
    return -rc;
}

static int threads_start(struct vm *vm, struct error *err)
{
    char name[16];
    int rc = thread_start(&vm->io_thread, "io", io_main, vm);

    vm->io_started = rc == 0;
    for (unsigned i = 0; rc == 0 && i < vm->vcpu_count; i++) {
        snprintf(name, sizeof name, "vcpu%u", i);
        rc = thread_start(&vm->vcpu[i].thread, name, vcpu_main, &vm->vcpu[i]);
        if (rc == 0)
            vm->threads_started++;
    }
    if (rc < 0)
        return error_set(err, rc, "cannot start the threads of %u vCPUs: %s", vm->vcpu_count,
                         strerror(-rc));
    return 0;
}

static void threads_join(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->quit = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    for (unsigned i = 0; i < vm->threads_started; i++)
        pthread_join(vm->vcpu[i].thread, NULL);
    if (vm->io_started) {
        loop_stop(vm->loop);
        pthread_join(vm->io_thread, NULL);
    }
}

static void vm_wait_parked(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    while (vm->parked < vm->vcpu_count)
        pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
}

/* Whether the VM is to be powered on (again), at once or when it is woken; that uses up a request
 * to reset or sleep. */
static bool vm_wants_power(struct vm *vm, bool *resume)
{
    bool wants;

    pthread_mutex_lock(&vm->lock);
    while (vm->end == VM_END_SLEEP && !vm->woken)
        pthread_cond_wait(&vm->changed, &vm->lock);
    *resume = vm->end == VM_END_SLEEP;
    wants = !vm->stop &&
            (vm->end == VM_END_NONE || *resume || (vm->end == VM_END_RESET && !vm->no_reboot));
    if (wants) {
        vm->result.resets += vm->end == VM_END_RESET;
        vm->end = VM_END_NONE;
    }
    pthread_mutex_unlock(&vm->lock);
    return wants;
}

/* Where the board has done firmware's work for the first vCPU, all have the same MTRRs, as firmware
 * must leave them (Intel SDM vol. 3, 11.11.8); INIT does not change them. */
static void mtrrs_copy(struct x86_state *to, const struct x86_state *from)
{
    if (to == from)
        return;
    to->mtrr_def_type = from->mtrr_def_type;
    memcpy(to->mtrr_fixed, from->mtrr_fixed, sizeof to->mtrr_fixed);
    memcpy(to->mtrr_base, from->mtrr_base, sizeof to->mtrr_base);
    memcpy(to->mtrr_mask, from->mtrr_mask, sizeof to->mtrr_mask);
}

/* RESET of everything, or of all but RAM; no vCPU runs. */
static int vm_reset(struct vm *vm, bool resume, struct error *err)
{
    int rc;

    for (unsigned i = 0; i < vm->vcpu_count; i++)
        vm->engine->interrupt_set(vm->vcpu[i].cpu, false);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        struct vm_vcpu *vcpu = &vm->vcpu[i];

        x86_state_reset(&vcpu->state, true, vm->cpuid.signature);
        vcpu->activity = i == 0 ? VCPU_RUNNING : VCPU_WAIT_STARTUP;
    }
    rc = resume ? pc_resume(vm->pc, &vm->vcpu[0].state, err)
                : pc_reset(vm->pc, &vm->vcpu[0].state, err);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        mtrrs_copy(&vm->vcpu[i].state, &vm->vcpu[0].state);
        atomic_store(&vm->vcpu[i].requests, 0);
    }
    if (!resume)
        vm->tsc_offset = -tsc_read_host();
    return rc;
}

/* Lets the vCPUs go, unless somebody has asked for the end meanwhile. */
static void vm_release(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    if (vm->end == VM_END_NONE && !vm->stop) {
        atomic_store(&vm->pause, false);
        vm->parked = 0;
        vm->generation++;
        pthread_cond_broadcast(&vm->changed);
    }
    pthread_mutex_unlock(&vm->lock);
}

static void vm_supervise(struct vm *vm)
{
    struct error err = {0};
    bool resume;

    vm_wait_parked(vm);
    while (vm_wants_power(vm, &resume)) {
        if (vm_reset(vm, resume, &err) < 0)
            vm_end_request(vm, VM_END_FAILED, 0, err.text);
        vm_release(vm);
        vm_wait_parked(vm);
    }
}

int vm_run(struct vm *vm, struct vm_result *result, struct error *err)
{
    uint64_t start_ns = counted_host_ns();
    int rc = threads_start(vm, err);

    if (rc == 0)
        vm_supervise(vm);
    threads_join(vm);
    vm->result.end = vm->end;
    vm->result.ran_ns = counted_host_ns() - start_ns;
    *result = vm->result;
    return rc;
}
