/* The record of what comes to a vCPU from outside: see record.h. */
#include "cpu/soft/record.h"

#include <stdio.h>
#include <stdlib.h>

#define INPUTS_MAX ((size_t)1 << 20)

void soft_record_fini(struct soft_record *record)
{
    free(record->inputs);
    *record = (struct soft_record){0};
}

void soft_record_clear(struct soft_record *record)
{
    record->count = record->read = 0;
    record->difference[0] = '\0';
}

void soft_record_trim(struct soft_record *record)
{
    if (record->read == 0)
        return;
    record->count -= record->read;
    memmove(record->inputs, record->inputs + record->read, record->count * sizeof *record->inputs);
    record->read = 0;
}

static void record_put(struct soft_record *record, const struct soft_input *input)
{
    struct soft_input *inputs;
    size_t capacity = record->capacity ? 2 * record->capacity : 256;

    if (record->count == record->capacity) {
        inputs = capacity > INPUTS_MAX
                     ? NULL
                     : reallocarray(record->inputs, capacity, sizeof *record->inputs);
        if (!inputs) {
            snprintf(record->difference, sizeof record->difference,
                     "one instruction has taken more than %zu inputs", record->count);
            return;
        }
        record->inputs = inputs;
        record->capacity = capacity;
    }
    record->inputs[record->count++] = *input;
}

void soft_record_exit(struct soft_record *record, const struct cpu_exit *exit)
{
    const struct soft_input input = {.kind = SOFT_INPUT_EXIT, .exit = *exit};

    record_put(record, &input);
}

static void exit_text(const struct cpu_exit *exit, char *to, size_t bytes)
{
    switch (exit->kind) {
    case CPU_EXIT_IO:
        snprintf(to, bytes, "%s of %u bytes at port %#x, value %#x",
                 exit->io.write ? "write" : "read", exit->io.size, exit->io.port, exit->io.value);
        break;
    case CPU_EXIT_MMIO:
        snprintf(to, bytes, "%s of %u bytes at %#llx, value %#llx",
                 exit->mmio.write ? "write" : "read", exit->mmio.size,
                 (unsigned long long)exit->mmio.gpa, (unsigned long long)exit->mmio.value);
        break;
    default:
        snprintf(to, bytes, "%s of MSR %#x, value %#llx", exit->msr.write ? "write" : "read",
                 exit->msr.index, (unsigned long long)exit->msr.value);
    }
}

/* Whether the recorded exit, but for what a read gave, is the requested one. */
static bool exit_is(const struct cpu_exit *recorded, const struct cpu_exit *request)
{
    if (recorded->kind != request->kind)
        return false;
    switch (request->kind) {
    case CPU_EXIT_IO:
        return recorded->io.port == request->io.port && recorded->io.size == request->io.size &&
               recorded->io.write == request->io.write &&
               (!request->io.write || recorded->io.value == request->io.value);
    case CPU_EXIT_MMIO:
        return recorded->mmio.gpa == request->mmio.gpa &&
               recorded->mmio.size == request->mmio.size &&
               recorded->mmio.write == request->mmio.write &&
               (!request->mmio.write || recorded->mmio.value == request->mmio.value);
    default:
        return recorded->msr.index == request->msr.index &&
               recorded->msr.write == request->msr.write &&
               (!request->msr.write || recorded->msr.value == request->msr.value);
    }
}

static _Noreturn void replay_fail(struct soft_vcpu *c, const char *wanted, const char *recorded)
{
    snprintf(c->record->difference, sizeof c->record->difference, "asked for: %s; recorded: %s",
             wanted, recorded);
    c->exit->kind = CPU_EXIT_FAILED;
    c->rip = soft_rip_current(c);
    soft_exit(c);
}

static const struct soft_input *input_next(struct soft_vcpu *c)
{
    struct soft_record *record = c->record;

    return record->read < record->count ? &record->inputs[record->read++] : NULL;
}

uint64_t soft_record_replay(struct soft_vcpu *c, const struct cpu_exit *request)
{
    const struct soft_input *input = input_next(c);
    char wanted[64], recorded[64] = "nothing";

    if (!input || input->kind != SOFT_INPUT_EXIT || !exit_is(&input->exit, request)) {
        exit_text(request, wanted, sizeof wanted);
        if (input && input->kind == SOFT_INPUT_EXIT)
            exit_text(&input->exit, recorded, sizeof recorded);
        replay_fail(c, wanted, recorded);
    }
    switch (request->kind) {
    case CPU_EXIT_IO:
        return input->exit.io.value;
    case CPU_EXIT_MMIO:
        return input->exit.mmio.value;
    default:
        c->msr_fault = request->kind == CPU_EXIT_MSR && input->exit.msr.fault;
        return input->exit.msr.value;
    }
}

uint64_t soft_record_input(struct soft_vcpu *c, enum soft_input_kind kind, uint64_t value)
{
    static const char *const names[] = {"a device", "the TSC", "a random number",
                                        "a random number"};
    struct soft_input mine = {.kind = kind, .value = value};
    const struct soft_input *input;

    if (!c->record->replaying) {
        record_put(c->record, &mine);
        return value;
    }
    input = input_next(c);
    if (!input || input->kind != kind)
        replay_fail(c, names[kind], input ? names[input->kind] : "nothing");
    return input->value;
}

/* -- the trail -- */

static bool trail_room(struct soft_trail *trail, unsigned length)
{
    if (trail->store_count == trail->store_capacity) {
        size_t capacity = trail->store_capacity ? 2 * trail->store_capacity : 256;
        struct soft_store *stores = reallocarray(trail->stores, capacity, sizeof *stores);

        if (!stores)
            return false;
        trail->stores = stores;
        trail->store_capacity = capacity;
    }
    if (trail->byte_count + length > trail->byte_capacity) {
        size_t capacity = 2 * trail->byte_capacity + GUEST_PAGE_SIZE;
        uint8_t *bytes = realloc(trail->bytes, capacity);

        if (!bytes)
            return false;
        trail->bytes = bytes;
        trail->byte_capacity = capacity;
    }
    return true;
}

void soft_trail_store(struct soft_vcpu *c, const void *host, unsigned length)
{
    struct soft_trail *trail = c->trail;

    if (!trail_room(trail, length)) {
        trail->overflow = true;
        return;
    }
    trail->stores[trail->store_count++] =
        (struct soft_store){.host = host, .length = length, .old = (uint32_t)trail->byte_count};
    memcpy(trail->bytes + trail->byte_count, host, length);
    trail->byte_count += length;
}
