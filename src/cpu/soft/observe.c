/*
 * What code the translator made: a dump of blocks, guest and host code operation by operation, and
 * the map from which perf(1) knows names for generated code (/tmp/perf-PID.map).
 *
 * The map is written at the end, since code addresses mean something else after each clearing of
 * the cache: it has the blocks made since the last one. Only what is asked for costs anything.
 *
 * Threads: a vCPU's own; the files are shared, a block or a map is written in one piece. Guest code
 * is only printed.
 */
#include "cpu/soft/observe.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/symbols.h"
#include "cpu/soft/translate_internal.h"

/* A block's code in the code cache: its own, and out of line. */
struct mapped {
    uint64_t rip;
    uint32_t offset, bytes, cold_offset, cold_bytes;
};

struct soft_observer {
    const struct cpu_tools *tools;
    struct mapped *mapped; /* since the last clearing */
    size_t count, room;
};

/* "do_syscall_64+0x1c", or the address where no symbol is known. */
static void name_print(const struct soft_observer *o, uint64_t rip, const char *suffix)
{
    uint64_t offset;
    const char *name = symbols_find(o->tools->symbols, rip, &offset);

    if (name)
        fprintf(o->tools->perf_map, "%s+0x%" PRIx64 "%s\n", name, offset, suffix);
    else
        fprintf(o->tools->perf_map, "guest_%" PRIx64 "%s\n", rip, suffix);
}

/* -- perf's map -- */

static void mapped_add(struct soft_observer *o, const struct mapped *mapped)
{
    if (o->count == o->room) {
        size_t room = o->room ? 2 * o->room : 4096;
        struct mapped *more = realloc(o->mapped, room * sizeof *more);

        if (!more)
            return; /* the map misses a block */
        o->mapped = more;
        o->room = room;
    }
    o->mapped[o->count++] = *mapped;
}

struct label {
    const uint8_t *at;
    const char *name;
};

static int label_compare(const void *a, const void *b)
{
    const struct label *left = a, *right = b;

    return (left->at > right->at) - (left->at < right->at);
}

#define FIXED_LABELS 24

/* The parts of the fixed code in the order of their addresses; the last has no name. */
static void fixed_labels(const struct soft_translator *t, struct label label[FIXED_LABELS])
{
    const struct fixed *f = &t->fixed;
    const struct label labels[FIXED_LABELS] = {
        {(const uint8_t *)(uintptr_t)f->enter, "enter"},
        {f->exit[EXIT_RIP][0], "exit_rip"},
        {f->exit[EXIT_RIP][1], "exit_rip_flags"},
        {f->exit[EXIT_LINK][0], "exit_link"},
        {f->exit[EXIT_LINK][1], "exit_link_flags"},
        {f->exit[EXIT_OP][0], "exit_op"},
        {f->exit[EXIT_OP][1], "exit_op_flags"},
        {f->twin[0], "twin"},
        {f->twin[1], "twin_flags"},
        {f->lookup[0], "lookup"},
        {f->lookup[1], "lookup_flags"},
        {f->find[0], "find"},
        {f->find[1], "find_flags"},
        {f->unwind, "unwind"},
        {f->vector_load, "vector_load"},
        {f->vector_present, "vector_present"},
        {f->vector_load_low, "vector_load_low"},
        {f->x87_load, "x87_load"},
        {f->leaf, "leaf"},
        {f->flags_load, "flags_load"},
        {f->pace, "pace"},
        {f->slot[0], "slot_read"},
        {f->slot[1], "slot_write"},
        {t->execute + t->fixed_bytes, NULL},
    };

    memcpy(label, labels, sizeof labels);
    qsort(label, FIXED_LABELS, sizeof *label, label_compare);
}

static void map_print(const struct soft_vcpu *c)
{
    const struct soft_observer *o = c->observer;
    const struct soft_translator *t = c->translator;
    FILE *to = o->tools->perf_map;
    struct label label[FIXED_LABELS];

    fixed_labels(t, label);
    flockfile(to);
    for (unsigned i = 0; i + 1 < FIXED_LABELS; i++)
        fprintf(to, "%" PRIxPTR " %zx freehold_%s\n", (uintptr_t)label[i].at,
                (size_t)(label[i + 1].at - label[i].at), label[i].name);
    for (size_t i = 0; i < o->count; i++) {
        const struct mapped *mapped = &o->mapped[i];

        fprintf(to, "%" PRIxPTR " %x ", (uintptr_t)(t->execute + mapped->offset), mapped->bytes);
        name_print(o, mapped->rip, "");
        if (mapped->cold_bytes == 0)
            continue;
        fprintf(to, "%" PRIxPTR " %x ", (uintptr_t)(t->execute + mapped->cold_offset),
                mapped->cold_bytes);
        name_print(o, mapped->rip, "~");
    }
    fflush(to);
    funlockfile(to);
}

/* -- the dump -- */

static void bytes_print(FILE *to, char kind, uint64_t at, const uint8_t *bytes, size_t count)
{
    if (count == 0)
        return;
    fprintf(to, "%c %" PRIx64, kind, at);
    for (size_t i = 0; i < count; i++)
        fprintf(to, " %02x", bytes[i]);
    fputc('\n', to);
}

static void code_print(const struct translation *tr, FILE *to, char kind, const uint8_t *from,
                       const uint8_t *end)
{
    bytes_print(to, kind, (uintptr_t)to_execute(tr->t, from), from, (size_t)(end - from));
}

static void labels_print(const struct soft_vcpu *c, FILE *to)
{
    struct label label[FIXED_LABELS];

    fixed_labels(c->translator, label);
    flockfile(to);
    for (unsigned i = 0; i + 1 < FIXED_LABELS; i++)
        fprintf(to, "label %" PRIxPTR " %s\n", (uintptr_t)label[i].at, label[i].name);
    funlockfile(to);
}

/* Where the code out of line begins, and each piece of it; behind the last: the block's end. */
static const uint8_t *cold_at(const struct translation *tr, unsigned i)
{
    return i < tr->cold_count ? tr->cold[i].at : tr->e.at;
}

/* Guest code (g), host code (h), and host code out of line (c), of one operation. */
static void op_print(const struct translation *tr, FILE *to, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    const uint8_t *end = i + 1 < tr->block->count ? tr->op_at[i + 1] : tr->body_end;

    bytes_print(to, 'g', tr->c->rip + op->offset, op->insn.bytes, op->insn.length);
    code_print(tr, to, 'h', tr->op_at[i], end);
    for (unsigned k = 0; k < tr->cold_count; k++) {
        const struct cold *cold = &tr->cold[k];
        bool is_of_op = cold->kind != COLD_LINK;

        if (is_of_op ? cold->op == i : i + 1 == tr->block->count)
            code_print(tr, to, 'c', cold->at, cold_at(tr, k + 1));
    }
}

static bool dump_wanted(const struct translation *tr)
{
    const struct cpu_tools *tools = tr->c->observer->tools;
    uint64_t rip = tr->c->rip;

    for (unsigned i = 0; i < tools->dump_at_count; i++) {
        if (tools->dump_at[i] - rip < tr->block->bytes)
            return true;
    }
    return tools->dump_at_count == 0;
}

static void dump_print(const struct translation *tr)
{
    const struct soft_block *block = tr->block;
    const struct cpu_tools *tools = tr->c->observer->tools;
    FILE *to = tools->dump;
    uint64_t offset = 0;
    const char *name = symbols_find(tools->symbols, tr->c->rip, &offset);

    flockfile(to);
    fprintf(to, "block %" PRIx64 " gpa %" PRIx64 " vcpu %u guest %u host %zu", tr->c->rip,
            block->gpa, tr->c->index, block->bytes, (size_t)(tr->body_end - tr->body));
    if (name)
        fprintf(to, " %s+0x%" PRIx64, name, offset);
    fputc('\n', to);
    code_print(tr, to, 'f', tr->body, tr->op_at[0]);
    for (unsigned i = 0; i < block->count; i++)
        op_print(tr, to, i);
    funlockfile(to);
}

/* -- what the engine calls -- */

int soft_observer_new(struct soft_vcpu *c)
{
    const struct cpu_tools *tools = &c->vm->tools;

    if (!tools->dump && !tools->perf_map)
        return 0;
    c->observer = calloc(1, sizeof *c->observer);
    if (!c->observer)
        return -ENOMEM;
    c->observer->tools = tools;
    if (tools->dump)
        labels_print(c, tools->dump);
    return 0;
}

void soft_observe_block(const struct translation *tr)
{
    struct soft_observer *o = tr->c->observer;
    const struct mapped mapped = {.rip = tr->c->rip,
                                  .offset = (uint32_t)(tr->body - tr->t->write),
                                  .bytes = (uint32_t)(tr->body_end - tr->body),
                                  .cold_offset = (uint32_t)(tr->cold_begin - tr->t->write),
                                  .cold_bytes = (uint32_t)(tr->e.at - tr->cold_begin)};

    if (o->tools->perf_map)
        mapped_add(o, &mapped);
    if (o->tools->dump && dump_wanted(tr))
        dump_print(tr);
}

void soft_observe_clear(struct soft_vcpu *c)
{
    if (c->observer)
        c->observer->count = 0;
}

void soft_observer_free(struct soft_vcpu *c)
{
    struct soft_observer *o = c->observer;

    if (!o)
        return;
    if (o->tools->perf_map && c->translator)
        map_print(c);
    free(o->mapped);
    free(o);
    c->observer = NULL;
}
