/*
 * The soft engine's run loop: blocks, events between them, faults, exits; and the engine table.
 *
 * Threads: run() by the vCPU's own; kick() and interrupt_set() by any, which only set bits in
 * `request`. Those are read before each block: no signal, no lock.
 * Priorities of events at a boundary: Intel SDM vol. 3, table 6-2.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/counted.h"
#include "cpu/soft/code.h"
#include "cpu/soft/observe.h"
#include "cpu/soft/paging.h"
#include "cpu/soft/record.h"
#include "cpu/soft/sample.h"
#include "cpu/soft/soft.h"
#include "cpu/soft/soft_engine.h"
#include "cpu/soft/tlb.h"
#include "cpu/soft/translate.h"
#include "cpu/soft/weaknesses.h"

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE 2 /* the kernel lets user code write GS's base */
#endif

/* How often a block is interpreted before it is worth translating, where code changes. */
#define HEAT_ENOUGH    6

#define CODE_BYTES     ((size_t)128 << 20)
#define CODE_BYTES_MIN ((size_t)256 << 10)

/* -- leaving an instruction -- */

_Noreturn static void jump_out(struct soft_vcpu *c, uint8_t reason)
{
    c->jump_reason = reason;
    __builtin_longjmp(c->jump, 1);
}

_Noreturn void soft_raise(struct soft_vcpu *c, uint8_t vector)
{
    c->fault_vector = vector;
    c->fault_has_code = false;
    c->fault_code = 0;
    jump_out(c, SOFT_JUMP_FAULT);
}

_Noreturn void soft_raise_code(struct soft_vcpu *c, uint8_t vector, uint32_t code)
{
    c->fault_vector = vector;
    c->fault_has_code = true;
    c->fault_code = code;
    jump_out(c, SOFT_JUMP_FAULT);
}

_Noreturn void soft_page_fault(struct soft_vcpu *c, uint64_t linear, uint32_t code)
{
    c->cr2 = linear;
    soft_raise_code(c, X86_PF, code);
}

_Noreturn void soft_exit(struct soft_vcpu *c)
{
    jump_out(c, SOFT_JUMP_EXIT);
}

uint64_t soft_io(struct soft_vcpu *c, const struct cpu_exit *request)
{
    if (__builtin_expect(c->record != NULL, 0) && soft_record_replays(c->record))
        return soft_record_replay(c, request);
    if (c->io_next < c->io_done)
        return c->io_log[c->io_next++];
    if (c->io_done == SOFT_IO_LOG)
        return UINT64_MAX; /* no instruction gets here; one that did would find no device */
    *c->exit = *request;
    c->io_waiting = true;
    c->rip = soft_rip_current(c);
    soft_exit(c);
}

/* The VM has completed the exit: its value goes to the log and the instruction runs again. */
static void io_complete(struct soft_vcpu *c)
{
    const struct cpu_exit *exit = c->exit;
    uint64_t value = 0;

    c->io_waiting = false;
    switch (exit->kind) {
    case CPU_EXIT_IO:
        value = exit->io.value;
        break;
    case CPU_EXIT_MMIO:
        value = exit->mmio.value;
        break;
    default:
        value = exit->msr.value;
        c->msr_fault = exit->kind == CPU_EXIT_MSR && exit->msr.fault;
    }
    c->io_log[c->io_done++] = value;
    c->io_next = 0;
    if (c->record)
        soft_record_exit(c->record, exit);
}

uint64_t soft_host_tsc(const struct soft_vcpu *c)
{
    int64_t done = c->fuel_given - c->fuel_cut - (c->fuel - (c->op - c->op_first));

    return counted_tsc(c->counted && counted_is_on() ? (uint64_t)done : 0);
}

/* -- events -- */

static bool is_contributory(uint8_t vector)
{
    return vector == X86_DE || (vector >= X86_TS && vector <= X86_GP);
}

/* Intel SDM vol. 3, table 6-5: whether a fault during delivery of another becomes #DF. */
static bool is_double(uint8_t first, uint8_t second)
{
    if (first == X86_PF)
        return second == X86_PF || is_contributory(second);
    return is_contributory(first) && is_contributory(second);
}

static void shutdown(struct soft_vcpu *c)
{
    c->delivering = false;
    c->exit->kind = CPU_EXIT_SHUTDOWN;
    soft_exit(c);
}

static void event_start(struct soft_vcpu *c, const struct soft_event *event)
{
    soft_activity_set(&c->counters, SOFT_IN_EVENT);
    c->delivering = true;
    c->delivering_vector = event->vector;
    c->delivering_external = event->kind == SOFT_EVENT_EXTERNAL;
    c->halted = false;
    soft_event_deliver(c, event);
    c->delivering = false;
    c->fuel--;
}

/* Takes the completed operations of a run that was left in the middle off the fuel. */
static void ops_settle(struct soft_vcpu *c)
{
    c->fuel -= c->op - c->op_first;
    c->op_first = c->op;
}

static void op_idle(struct soft_vcpu *c)
{
    c->block_rip = c->rip;
    c->op = &c->idle_op;
    c->op_first = c->op;
}

/* A fault was raised, in an instruction or while an event was delivered. */
static void fault_take(struct soft_vcpu *c)
{
    struct soft_event event = {.kind = SOFT_EVENT_EXCEPTION,
                               .vector = c->fault_vector,
                               .has_code = c->fault_has_code,
                               .code = c->fault_code,
                               .return_rip = soft_rip_current(c)};

    soft_count(&c->counters.fault[c->fault_vector & 31]);
    soft_trace(c, TRACE_FAULT, c->fault_vector | c->fault_code << 8, c->cr2);
    soft_io_commit(c);
    ops_settle(c);
    c->partial = false;
    c->pending_db = 0;
    c->rmw_buffered = false;
    if (c->delivering) {
        if (c->delivering_vector == X86_DF && !c->delivering_external)
            shutdown(c);
        if (!c->delivering_external && is_double(c->delivering_vector, c->fault_vector)) {
            event.vector = X86_DF;
            event.has_code = true;
            event.code = 0;
        }
    }
    c->rip = event.return_rip;
    event_start(c, &event);
}

static void debug_trap(struct soft_vcpu *c, uint64_t bits)
{
    struct soft_event event = {
        .kind = SOFT_EVENT_EXCEPTION, .vector = X86_DB, .return_rip = c->rip};

    c->dr6 = (c->dr6 & ~UINT64_C(0xf)) | bits;
    c->pending_db = 0;
    op_idle(c);
    event.is_trap = true;
    event_start(c, &event);
}

static void external_take(struct soft_vcpu *c, uint8_t vector)
{
    struct soft_event event = {.kind = SOFT_EVENT_EXTERNAL, .vector = vector, .return_rip = c->rip};

    soft_count(&c->counters.interrupt[vector]);
    op_idle(c);
    soft_trace(c, TRACE_INTERRUPT, vector, 0);
    event_start(c, &event);
}

/* Instruction breakpoints at c->rip (Intel SDM vol. 3, 17.2.4); 0: none. */
static uint64_t breakpoints_at(const struct soft_vcpu *c)
{
    uint64_t linear =
        c->code_size == X86_CODE_64 ? c->rip : (c->rip + c->seg[X86_CS].base) & c->address_mask;
    uint64_t hits = 0;

    for (unsigned i = 0; i < 4; i++) {
        if (((c->dr7 >> (2 * i)) & 3) && ((c->dr7 >> (16 + 4 * i)) & 15) == 0 && c->dr[i] == linear)
            hits |= UINT64_C(1) << i;
    }
    return hits;
}

static void breakpoint_fault(struct soft_vcpu *c, uint64_t hits)
{
    c->dr6 = (c->dr6 & ~UINT64_C(0xf)) | hits;
    op_idle(c);
    soft_raise(c, X86_DB);
}

/* -- running -- */

static inline void block_run(struct soft_vcpu *c, struct soft_block *block, unsigned count)
{
    const struct soft_op *op = soft_block_ops(c, block);

    soft_activity_set(&c->counters, SOFT_IN_INTERPRETER);
    c->block_rip = c->rip;
    c->op_end = op + count;
    c->op_first = op;
    c->partial = false;
    do {
        c->op = op;
        op->run(c, op);
        op++;
    } while (op < c->op_end);
    c->fuel -= op - c->op_first;
    op--;
    c->op_first = op;
    if (!op->sets_rip) {
        uint64_t rip = c->block_rip + op->next;

        c->rip = c->code_size == X86_CODE_64 ? rip : (uint32_t)rip;
    }
}

/* One instruction with all that may surround it. */
static void step_run(struct soft_vcpu *c)
{
    bool trap = (c->rflags & X86_RFLAGS_TF) != 0;
    bool replay = c->io_done != 0;
    uint64_t bits;

    /* A task switch with the T bit, or SYSRET with TF: before the first instruction there. */
    if (c->pending_db && !replay && !c->shadow_debug) {
        debug_trap(c, c->pending_db);
        return;
    }
    if ((c->dr7 & SOFT_DR7_ENABLED) && !(c->rflags & X86_RFLAGS_RF) && !replay &&
        !c->shadow_debug) {
        bits = breakpoints_at(c);
        if (bits)
            breakpoint_fault(c, bits);
    }
    op_idle(c);
    struct soft_block *block = soft_code_find(c);
    c->under_mov_ss = c->shadow_debug;
    c->shadow = false;
    c->shadow_debug = false;
    c->stepping = true;
    c->rf_kept = false;
    c->trap_dropped = false;
    soft_count(&c->counters.steps);
    block_run(c, block, 1);
    c->stepping = false;
    soft_io_commit(c);
    if (!c->rf_kept && (c->rflags & X86_RFLAGS_RF)) {
        c->rflags &= ~X86_RFLAGS_RF;
        soft_mode_update(c);
    }
    bits = c->pending_db | (trap && !c->trap_dropped ? SOFT_DR6_BS : 0);
    if (bits && !c->shadow_debug)
        debug_trap(c, bits);
}

/* What others have asked for; returns when guest code may go on. */
static void requests_serve(struct soft_vcpu *c)
{
    uint32_t request = atomic_load(&c->request);

    if (request & SOFT_REQUEST_STOP)
        soft_exclusive_yield(c);
    if (request & (SOFT_REQUEST_INVALIDATE | SOFT_REQUEST_TLB | SOFT_REQUEST_CLEAR))
        soft_code_serve(c, request);
    /* Where fuel is counted, events come between whole instructions, and after its end. */
    if (c->counted && (c->partial || c->fuel <= 0))
        return;
    if (c->flags_dead) { /* they are made by the block that comes, and requests stay */
        c->flags_dead = false;
        return;
    }
    if (request & SOFT_REQUEST_KICK) {
        atomic_fetch_and(&c->request, ~SOFT_REQUEST_KICK);
        c->exit->kind = CPU_EXIT_KICKED;
        soft_exit(c);
    }
    if (c->shadow || c->pending_db) /* a trap goes before what comes from outside (table 6-2) */
        return;
    if (c->nmis_pending && !c->nmi_blocked) {
        if (--c->nmis_pending == 0)
            atomic_fetch_and(&c->request, ~SOFT_REQUEST_NMI);
        c->nmi_blocked = true;
        external_take(c, X86_NMI);
    }
    if ((request & SOFT_REQUEST_INTERRUPT) && (c->rflags & X86_RFLAGS_IF)) {
        c->exit->kind = CPU_EXIT_INTERRUPT;
        soft_exit(c);
    }
}

static void injection_take(struct soft_vcpu *c)
{
    c->inject_waiting = false;
    external_take(c, c->inject_vector);
}

static void halted_check(struct soft_vcpu *c)
{
    if (!c->halted)
        return;
    c->exit->kind = CPU_EXIT_HALT;
    soft_exit(c);
}

/* A turn of the run loop where fuel is counted: at most as many operations as there is fuel for. */
static void counted_run(struct soft_vcpu *c)
{
    if (c->fuel <= 0) {
        c->exit->kind = CPU_EXIT_PAUSE;
        soft_exit(c);
    }
    if (c->step || c->shadow) {
        step_run(c);
        return;
    }
    op_idle(c);
    struct soft_block *block = soft_code_find(c);
    if (c->trail)
        c->trail->block[c->trail->blocks++ % SOFT_TRAIL_BLOCKS] = c->rip;
    if (c->by_block && block->count < c->fuel) {
        c->fuel_cut += c->fuel - block->count;
        c->fuel = block->count;
    }
    if (block->count > c->fuel)
        block_run(c, block, (unsigned)c->fuel);
    else if (soft_translate_block(c, block))
        soft_translated_run(c, block);
    else
        block_run(c, block, block->count);
}

static _Noreturn __attribute__((noinline)) void run_loop(struct soft_vcpu *c)
{
    if (c->io_waiting) {
        io_complete(c);
        step_run(c);
    }
    if (c->inject_waiting)
        injection_take(c);
    for (;;) {
        soft_activity_set(&c->counters, SOFT_IN_DISPATCH);
        if (__builtin_expect(atomic_load_explicit(&c->request, memory_order_relaxed) != 0, 0))
            requests_serve(c);
        if (__builtin_expect(c->halted, 0))
            halted_check(c);
        if (__builtin_expect(c->step | c->shadow | c->counted, 0)) {
            if (c->counted)
                counted_run(c);
            else
                step_run(c);
            continue;
        }
        op_idle(c);
        struct soft_block *block = soft_code_find(c);
        if (soft_translate_block(c, block)) {
            soft_translated_run(c, block);
        } else {
            soft_count(&c->counters.interpreted);
            block_run(c, block, block->count);
        }
    }
}

static __attribute__((noinline)) void run_guarded(struct soft_vcpu *c)
{
    if (__builtin_setjmp(c->jump)) {
        if (c->exclusive)
            soft_exclusive_end(c);
        c->stepping = false;
        if (c->jump_reason == SOFT_JUMP_EXIT) {
            ops_settle(c);
            return;
        }
        fault_take(c);
    }
    run_loop(c);
}

/* Translated code finds the vCPU through GS, which nothing else in the process uses. */
static void gs_base_set(struct soft_vcpu *c)
{
    if (c->vm->has_wrgsbase)
        __asm__ volatile("wrgsbase %0" : : "r"(c));
    else
        syscall(SYS_arch_prctl, ARCH_SET_GS, c);
}

static void exit_trace(struct soft_vcpu *c, const struct cpu_exit *exit)
{
    uint32_t write = 0;
    uint64_t detail = 0;

    switch (exit->kind) {
    case CPU_EXIT_IO:
        write = exit->io.write;
        detail = exit->io.port;
        break;
    case CPU_EXIT_MMIO:
        write = exit->mmio.write;
        detail = exit->mmio.gpa;
        break;
    case CPU_EXIT_MSR:
        write = exit->msr.write;
        detail = exit->msr.index;
        break;
    default:
        break;
    }
    soft_trace(c, TRACE_EXIT, (uint32_t)exit->kind | write << 8, detail);
}

static void soft_run(struct vcpu *vcpu, struct cpu_exit *exit)
{
    struct soft_vcpu *c = &vcpu->soft;

    c->exit = exit;
    if (c->sampler)
        soft_sampler_here(c->sampler);
    soft_activity_set(&c->counters, SOFT_IN_DISPATCH);
    op_idle(c);
    gs_base_set(c);
    soft_code_enter(c);
    run_guarded(c);
    soft_code_leave(c);
    soft_count(&c->counters.vm_exit[exit->kind]);
    if (__builtin_expect(c->trace != NULL, 0))
        exit_trace(c, exit);
    soft_activity_set(&c->counters, exit->kind == CPU_EXIT_HALT ? SOFT_IN_HALT : SOFT_IN_VM);
}

/* -- the engine's other operations -- */

static void soft_kick(struct vcpu *vcpu)
{
    soft_request(&vcpu->soft, SOFT_REQUEST_KICK);
}

static void soft_interrupt_set(struct vcpu *vcpu, bool pending)
{
    if (pending)
        soft_request(&vcpu->soft, SOFT_REQUEST_INTERRUPT);
    else
        atomic_fetch_and(&vcpu->soft.request, ~SOFT_REQUEST_INTERRUPT);
}

static void soft_inject(struct vcpu *vcpu, uint8_t vector, bool nmi)
{
    struct soft_vcpu *c = &vcpu->soft;

    if (nmi) {
        /* SDM vol. 3, 6.7.1: one NMI waits while another is handled, more are lost. Without one in
         * handling a processor would have begun with the first before the second came. */
        if (c->nmis_pending < (c->nmi_blocked ? 1 : 2))
            c->nmis_pending++;
        c->halted = c->halted && c->nmi_blocked;
        soft_request(c, SOFT_REQUEST_NMI);
        return;
    }
    c->inject_waiting = true;
    c->inject_vector = vector;
}

static int soft_probe_host(struct error *why)
{
    (void)why;
    return 0;
}

static void soft_vm_free(struct cpu_vm *vm)
{
    if (!vm)
        return;
    soft_vector_fini(&vm->soft);
    soft_code_free(&vm->soft);
    free(vm->soft.vcpu);
    free(vm);
}

static int soft_vm_new(const struct cpu_config *config, struct cpu_vm **out, struct error *err)
{
    struct cpu_vm *vm = calloc(1, sizeof *vm);
    int result = -ENOMEM;

    if (!vm)
        return error_set(err, -ENOMEM, "not enough memory for the soft engine");
    vm->soft.mem = config->mem;
    vm->soft.cpuid = config->cpuid;
    vm->soft.arch_capabilities = soft_arch_capabilities(SOFT_WEAKNESSES_DIRECTORY);
    vm->soft.vcpu_count = config->vcpu_count;
    vm->soft.has_wrgsbase = (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) != 0;
    vm->soft.translate = !config->interpret_only;
    if (config->tools)
        vm->soft.tools = *config->tools;
    vm->soft.translate_after = config->translate_at_once ? 0 : HEAT_ENOUGH;
    vm->soft.code_bytes = config->code_bytes ? config->code_bytes : CODE_BYTES;
    if (vm->soft.code_bytes < CODE_BYTES_MIN)
        vm->soft.code_bytes = CODE_BYTES_MIN;
    vm->soft.vcpu = calloc(config->vcpu_count, sizeof(struct soft_vcpu *));
    if (vm->soft.vcpu)
        result = soft_code_new(config->mem, &vm->soft);
    if (result != 0) {
        error_set(err, result, "not enough memory for the soft engine's tables");
        goto out_vm;
    }
    result = soft_vector_init(&vm->soft, err);
    if (result != 0)
        goto out_vm;
    *out = vm;
    return 0;
out_vm:
    soft_vm_free(vm);
    return result;
}

static void soft_vcpu_free(struct vcpu *vcpu)
{
    struct soft_vcpu *c;

    if (!vcpu)
        return;
    c = &vcpu->soft;
    if (c->vm && c->vm->vcpu[c->index] == c)
        c->vm->vcpu[c->index] = NULL;
    soft_sampler_free(c->sampler);
    soft_observer_free(c);
    soft_translator_free(c);
    soft_cache_free(c);
    soft_tlbs_free(c);
    munmap(vcpu, sizeof *vcpu);
}

static int soft_vcpu_new(struct cpu_vm *vm, unsigned index, struct vcpu **out, struct error *err)
{
    struct vcpu *vcpu = mmap(NULL, sizeof *vcpu, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct soft_vcpu *c;

    if (vcpu == MAP_FAILED)
        return error_set(err, -ENOMEM, "not enough memory for vCPU %u", index);
    c = &vcpu->soft;
    c->index = index;
    c->vm = &vm->soft;
    c->counted = vm->soft.counted;
    if (vm->soft.tools.trace)
        c->trace = trace_ring_get(vm->soft.tools.trace, index);
    if (!soft_tlbs_new(c) || soft_cache_new(c) != 0) {
        soft_vcpu_free(vcpu);
        return error_set(err, -ENOMEM, "not enough memory for vCPU %u", index);
    }
    c->idle_op.insn.segment = X86_DS;
    if (vm->soft.translate && soft_translator_new(c) != 0) {
        soft_vcpu_free(vcpu);
        return error_set(err, -ENOMEM,
                         "this host allows vCPU %u no code cache (memfd, executable mappings)",
                         index);
    }
    if (vm->soft.tools.measure && soft_sampler_new(&c->counters, &c->sampler) != 0) {
        soft_vcpu_free(vcpu);
        return error_set(err, -EAGAIN, "this host allows vCPU %u no thread that samples it", index);
    }
    if (c->translator && soft_observer_new(c) != 0) {
        soft_vcpu_free(vcpu);
        return error_set(err, -ENOMEM, "not enough memory for vCPU %u", index);
    }
    vm->soft.vcpu[index] = c;
    *out = vcpu;
    return 0;
}

static void soft_state_get_op(struct vcpu *vcpu, struct x86_state *state)
{
    soft_state_get(&vcpu->soft, state);
}

static int soft_state_set_op(struct vcpu *vcpu, const struct x86_state *state, struct error *err)
{
    return soft_state_set(&vcpu->soft, state, err);
}

static uint64_t soft_tsc_offset_get(struct vcpu *vcpu)
{
    return vcpu->soft.tsc_offset;
}

static void soft_tsc_offset_set(struct vcpu *vcpu, uint64_t offset)
{
    vcpu->soft.tsc_offset = offset;
}

static void soft_counters_op(struct vcpu *vcpu, cpu_counter_visit *visit, void *opaque)
{
    soft_counters_visit(&vcpu->soft.counters, visit, opaque);
}

static int interpreter_vm_new(const struct cpu_config *config, struct cpu_vm **out,
                              struct error *err)
{
    struct cpu_config interpreted = *config;

    interpreted.interpret_only = true;
    return soft_vm_new(&interpreted, out, err);
}

static int translator_vm_new(const struct cpu_config *config, struct cpu_vm **out,
                             struct error *err)
{
    struct cpu_config translated = *config;

    translated.translate_at_once = true;
    return soft_vm_new(&translated, out, err);
}

/* All that the forms of the engine share. */
#define SOFT_OPERATIONS                                                                            \
    .probe = soft_probe_host, .vm_free = soft_vm_free, .vcpu_new = soft_vcpu_new,                  \
    .vcpu_free = soft_vcpu_free, .run = soft_run, .kick = soft_kick,                               \
    .interrupt_set = soft_interrupt_set, .inject = soft_inject, .state_get = soft_state_get_op,    \
    .state_set = soft_state_set_op, .tsc_offset_get = soft_tsc_offset_get,                         \
    .tsc_offset_set = soft_tsc_offset_set, .counters = soft_counters_op

const struct cpu_engine cpu_engine_soft = {
    .name = "soft",
    .description = "software execution, no hardware virtualization needed",
    .vm_new = soft_vm_new,
    SOFT_OPERATIONS,
};

const struct cpu_engine cpu_engine_interpreter = {
    .name = "interpreter",
    .description = "the soft engine without its translator: slow, the reference for it",
    .vm_new = interpreter_vm_new,
    SOFT_OPERATIONS,
};

const struct cpu_engine cpu_engine_translator = {
    .name = "translator",
    .description = "the soft engine that translates what runs once, too: slow, for tests",
    .vm_new = translator_vm_new,
    SOFT_OPERATIONS,
};
