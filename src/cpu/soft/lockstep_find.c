/*
 * Lockstep's search for the block that makes a difference: the run in which it came up is repeated
 * from its beginning, shorter each time, until one instruction less makes none. A run that ends in
 * the middle of a block ends interpreted, so the difference comes with a translated block's last
 * instruction.
 *
 * Memory goes back by the follower's notes of what it overwrote, inputs come from the record for
 * both. What a run depends on besides (links, lookups, TLBs) is not as it was.
 *
 * Threads: the vCPU's own, with the world held.
 */
#include <stdio.h>

#include "base/log.h"
#include "cpu/soft/lockstep.h"

static void trail_clear(struct soft_trail *trail)
{
    trail->blocks = 0;
    trail->store_count = trail->byte_count = 0;
}

void lockstep_start_note(struct lockstep *l)
{
    const struct soft_vcpu *c = &l->lead->soft;

    trail_clear(&l->trail);
    soft_record_trim(&l->record);
    l->start_whole = !c->io_waiting && !c->partial;
    l->start_inject = c->inject_waiting;
    l->start_vector = c->inject_vector;
    l->start_nmis = c->nmis_pending;
    soft_state_get(c, &l->start);
}

static void stores_undo(struct lockstep *l)
{
    struct soft_trail *trail = &l->trail;

    for (size_t i = trail->store_count; i > 0; i--) {
        const struct soft_store *store = &trail->stores[i - 1];
        const uint8_t *old = trail->bytes + store->old;
        uint64_t gpa = lockstep_gpa_of(l, store->host);

        if (mem_write(l->vm->copy, gpa, old, store->length) != 0 ||
            mem_write(l->vm->mem, gpa, old, store->length) != 0)
            log_error("lockstep: memory at %#llx can't be put back", (unsigned long long)gpa);
    }
}

static void vcpu_restart(const struct lockstep *l, struct soft_vcpu *c)
{
    struct error err = {0};

    if (soft_state_set(c, &l->start, &err) != 0)
        log_error("lockstep: %s", err.text);
    atomic_fetch_and(&c->request, ~(SOFT_REQUEST_KICK | SOFT_REQUEST_INTERRUPT));
    c->inject_waiting = l->start_inject;
    c->inject_vector = l->start_vector;
    c->nmis_pending = l->start_nmis;
    if (c->nmis_pending)
        soft_request(c, SOFT_REQUEST_NMI);
    c->fuel_cut = 0;
}

/* Whether the first `count` instructions of the run make a difference. */
static bool repeat(struct lockstep *l, uint64_t count, char text[LOCKSTEP_TEXT])
{
    struct soft_vcpu *lead = &l->lead->soft, *follow = &l->follow->soft;
    struct cpu_exit exit = {0};

    stores_undo(l);
    trail_clear(&l->trail);
    vcpu_restart(l, lead);
    vcpu_restart(l, follow);
    l->record.replaying = true;
    l->record.read = 0;
    lead->fuel = (int64_t)count;
    cpu_engine_soft.run(l->lead, &exit);
    follow->fuel = (int64_t)count - lead->fuel_cut - lead->fuel;
    l->record.read = 0;
    if (follow->fuel > 0)
        cpu_engine_interpreter.run(l->follow, &exit);
    if (follow->fuel != 0 || exit.kind == CPU_EXIT_FAILED) {
        snprintf(text, LOCKSTEP_TEXT, "the interpreter does not come as far");
        return true;
    }
    return lockstep_states_differ(l, text) || lockstep_stores_differ(l, text);
}

bool lockstep_find(struct lockstep *l, char text[LOCKSTEP_TEXT])
{
    uint64_t low = 1, high = l->run;

    if (high == 0 || !repeat(l, high, text))
        return false;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;

        if (repeat(l, middle, text))
            high = middle;
        else
            low = middle + 1;
    }
    if (!repeat(l, high, text) || l->trail.blocks == 0)
        return false;
    l->culprit = l->trail.block[(l->trail.blocks - 1) % SOFT_TRAIL_BLOCKS];
    log_error("lockstep: repeated: instruction %llu of %llu makes the difference, in the block at "
              "%#llx",
              (unsigned long long)high, (unsigned long long)l->run, (unsigned long long)l->culprit);
    return true;
}
