/*
 * What a vCPU of the soft engine counts, and what it is doing now. Only inside src/cpu/soft/.
 *
 * Only slow paths count: translated code that stays in translated code costs nothing, unless the
 * VM's tools `measure`; then it also counts the blocks it runs, the lookups of indirect targets and
 * the accesses whose page was in no slot, and time is sampled. The vCPU's thread is the only one
 * that writes (but for `time_ns`, the sampler's), any may read: relaxed atomics without a locked
 * instruction.
 */
#ifndef FREEHOLD_CPU_SOFT_COUNTERS_H
#define FREEHOLD_CPU_SOFT_COUNTERS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "cpu/cpu.h"
#include "cpu/x86/decode.h"

/* Where a vCPU's time goes; see sample.c. In the order of soft_activity_names. */
enum soft_activity {
    SOFT_IN_VM, /* outside run(): the VM handles an exit */
    SOFT_IN_HALT,
    SOFT_IN_DISPATCH, /* between blocks: finding, linking, requests */
    SOFT_IN_TRANSLATED,
    SOFT_IN_TWIN,
    SOFT_IN_INTERPRETER,
    SOFT_IN_DECODE,
    SOFT_IN_TRANSLATION,
    SOFT_IN_WALK,
    SOFT_IN_EVENT,  /* a fault or an interrupt on its way through the IDT */
    SOFT_WAITING,   /* wants to run, but the host runs others */
    SOFT_UNSAMPLED, /* ran and halted again between two samples */
    SOFT_ACTIVITIES
};

/* Single counters: field, group, name. */
/* clang-format off */
#define SOFT_COUNTERS(X)                                                                           \
    X(decoded, "decode", "blocks")                                                                 \
    X(decoded_uncached, "decode", "uncached")                                                      \
    X(decoded_bytes, "decode", "guest_bytes")                                                      \
    X(decoded_again, "decode", "again")                                                            \
    X(translated, "translation", "blocks")                                                         \
    X(translated_guest, "translation", "guest_bytes")                                              \
    X(translated_host, "translation", "host_bytes")                                                \
    X(translated_cold, "translation", "host_bytes_out_of_line")                                    \
    X(translated_not, "translation", "failed")                                                     \
    X(cache_clears, "cache", "clears")                                                             \
    X(code_pages, "cache", "pages_marked")                                                         \
    X(interpreted, "interpreter", "blocks")                                                        \
    X(steps, "interpreter", "steps")                                                               \
    X(blocks_run, "translated", "blocks")                                                          \
    X(lookups, "translated", "lookups")                                                            \
    X(slot_misses, "translated", "slot_misses")                                                    \
    X(entries, "translated", "entries")                                                            \
    X(exit_twin, "exit", "twin")                                                                   \
    X(exit_declined, "exit", "declined")                                                           \
    X(exit_tlb, "exit", "tlb")                                                                     \
    X(exit_link, "exit", "link")                                                                   \
    X(exit_lookup, "exit", "lookup")                                                               \
    X(exit_poll, "exit", "poll")                                                                   \
    X(linked, "link", "patched")                                                                   \
    X(leaf_targets, "link", "leaf_targets")                                                        \
    X(leaf_fills, "paging", "leaf_fills")                                                          \
    X(leaf_stores_apart, "paging", "stores_beside_code")                                           \
    X(walks, "paging", "walks")                                                                    \
    X(crossings, "paging", "accesses_across_pages")                                                \
    X(flush_all, "tlb_flush", "all")                                                               \
    X(flush_local, "tlb_flush", "local")                                                           \
    X(flush_none, "tlb_flush", "none")                                                             \
    X(flush_page, "tlb_flush", "page")                                                             \
    X(flush_writes, "tlb_flush", "writes")                                                         \
    X(code_stores, "invalidation", "stores")                                                       \
    X(code_notes_vcpu, "invalidation", "notes_of_vcpus")                                           \
    X(code_notes_device, "invalidation", "notes_of_devices")                                       \
    X(dropped, "invalidation", "blocks")                                                           \
    X(revived, "invalidation", "blocks_come_back")
/* clang-format on */

#define SOFT_COUNTED_PRIVILEGES 3 /* enum soft_privilege without SOFT_CHECKED */
#define SOFT_COUNTED_ACCESSES   3 /* enum soft_access */
#define SOFT_COUNTED_MAPS       7 /* x86_insn.map */

struct soft_counters {
#define SOFT_COUNTER_FIELD(field, group, name) uint64_t field;
    SOFT_COUNTERS(SOFT_COUNTER_FIELD)
#undef SOFT_COUNTER_FIELD
    uint64_t tlb_miss[SOFT_COUNTED_PRIVILEGES][SOFT_COUNTED_ACCESSES];
    uint64_t fault[32]; /* as raised, before they may become #DF */
    uint64_t interrupt[256];
    uint64_t vm_exit[CPU_EXIT_KINDS];
    uint64_t twin[X86_OP_COUNT];                     /* that exit_twin ran */
    uint64_t leaf[X86_OP_COUNT];                     /* calls from translated code */
    uint64_t declined[X86_OP_COUNT];                 /* that exit_declined ran */
    uint64_t twin_x87[8][16];                        /* D8 to DF; ModRM.reg, + 8: in memory */
    uint64_t twin_vector[SOFT_COUNTED_MAPS][4][256]; /* map; prefix none, 66, F3, F2; opcode */
    uint64_t time_ns[SOFT_ACTIVITIES];               /* sample.c */
    uint8_t activity;                                /* enum soft_activity, now */
};

static inline void soft_count_add(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static inline void soft_count(uint64_t *counter)
{
    soft_count_add(counter, 1);
}

/* The running twin, by operation; vector and x87 instructions also by opcode. */
void soft_count_opcode(struct soft_counters *counters, const struct x86_insn *insn);
static inline void soft_count_twin(struct soft_counters *counters, const struct x86_insn *insn)
{
    soft_count(&counters->twin[insn->op]);
    if (insn->op == X86_OP_X87 || insn->op == X86_OP_VECTOR)
        soft_count_opcode(counters, insn);
}

static inline void soft_activity_set(struct soft_counters *counters, enum soft_activity activity)
{
    __atomic_store_n(&counters->activity, (uint8_t)activity, __ATOMIC_RELAXED);
}

static inline enum soft_activity soft_activity_get(const struct soft_counters *counters)
{
    return (enum soft_activity)__atomic_load_n(&counters->activity, __ATOMIC_RELAXED);
}

/* All that are not 0, group by group. Any thread. */
void soft_counters_visit(const struct soft_counters *counters, cpu_counter_visit *visit,
                         void *opaque);

#endif
