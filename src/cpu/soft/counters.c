/*
 * The names of the soft engine's counters, and what it puts into the event trace. Threads: see
 * counters.h and trace.h. Nothing here is the guest's but the numbers.
 */
#include "cpu/soft/counters.h"

#include <stdarg.h>
#include <stdio.h>

#include "cpu/soft/soft.h"

_Static_assert(SOFT_COUNTED_PRIVILEGES == SOFT_CHECKED, "SOFT_CHECKED has no misses of its own");

static const char *const activity_names[SOFT_ACTIVITIES] = {
    [SOFT_IN_VM] = "vm_exits",       [SOFT_IN_HALT] = "halted",
    [SOFT_IN_DISPATCH] = "dispatch", [SOFT_IN_TRANSLATED] = "translated",
    [SOFT_IN_TWIN] = "twins",        [SOFT_IN_INTERPRETER] = "interpreter",
    [SOFT_IN_DECODE] = "decode",     [SOFT_IN_TRANSLATION] = "translation",
    [SOFT_IN_WALK] = "page_walks",   [SOFT_IN_EVENT] = "events",
    [SOFT_WAITING] = "waiting",      [SOFT_UNSAMPLED] = "unsampled",
};

static const char *const miss_names[SOFT_COUNTED_PRIVILEGES][SOFT_COUNTED_ACCESSES] = {
    [SOFT_KERNEL] = {"kernel_read", "kernel_write", "kernel_fetch"},
    [SOFT_KERNEL_SMAP] = {"kernel_smap_read", "kernel_smap_write", "kernel_smap_fetch"},
    [SOFT_USER] = {"user_read", "user_write", "user_fetch"},
};

/* Prefix as VEX counts them: none, 66, F3, F2. */
static unsigned prefix_of(const struct x86_insn *insn)
{
    if (insn->vex != X86_VEX_NONE)
        return insn->pp & 3;
    if (insn->prefixes & X86_PREFIX_REP)
        return 2;
    if (insn->prefixes & X86_PREFIX_REPNE)
        return 3;
    return insn->prefixes & X86_PREFIX_66 ? 1 : 0;
}

void soft_count_opcode(struct soft_counters *counters, const struct x86_insn *insn)
{
    unsigned reg = insn->modrm >> 3 & 7;

    if (insn->op == X86_OP_X87)
        soft_count(&counters->twin_x87[insn->opcode & 7][insn->memory ? reg + 8 : reg]);
    else
        soft_count(
            &counters->twin_vector[insn->map % SOFT_COUNTED_MAPS][prefix_of(insn)][insn->opcode]);
}

/* -- the event trace -- */

void soft_trace_add(struct soft_vcpu *c, enum trace_kind kind, uint32_t info, uint64_t detail)
{
    const struct trace_what what = {
        .kind = kind, .info = info, .detail = detail, .rip = c->op ? soft_rip_current(c) : c->rip};

    trace_add(c->trace, &what);
}

/* -- showing them -- */

struct visit {
    cpu_counter_visit *visit;
    void *opaque;
    const char *group;
};

static void show(const struct visit *v, const uint64_t *counter, const char *format, ...)
    PRINTF(3, 4);

static void show(const struct visit *v, const uint64_t *counter, const char *format, ...)
{
    struct cpu_counter shown = {.group = v->group,
                                .value = __atomic_load_n(counter, __ATOMIC_RELAXED)};
    char name[48];
    va_list arguments;

    if (shown.value == 0)
        return;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    shown.name = name;
    v->visit(v->opaque, &shown);
}

static void visit_singles(struct visit *v, const struct soft_counters *counters)
{
#define SOFT_COUNTER_SHOW(field, in_group, its_name)                                               \
    v->group = in_group;                                                                           \
    show(v, &counters->field, "%s", its_name);
    SOFT_COUNTERS(SOFT_COUNTER_SHOW)
#undef SOFT_COUNTER_SHOW
}

static void visit_twins(struct visit *v, const struct soft_counters *counters)
{
    static const char *const prefixes[] = {"", "66 ", "f3 ", "f2 "};

    v->group = "twin";
    for (unsigned op = 0; op < X86_OP_COUNT; op++)
        show(v, &counters->twin[op], "%s", x86_op_name((enum x86_op)op));
    v->group = "leaf";
    for (unsigned op = 0; op < X86_OP_COUNT; op++)
        show(v, &counters->leaf[op], "%s", x86_op_name((enum x86_op)op));
    v->group = "declined";
    for (unsigned op = 0; op < X86_OP_COUNT; op++)
        show(v, &counters->declined[op], "%s", x86_op_name((enum x86_op)op));
    v->group = "twin_x87";
    for (unsigned i = 0; i < 8 * 16; i++)
        show(v, &counters->twin_x87[i / 16][i % 16], "%02x/%u%s", 0xd8 + i / 16, i % 8,
             i & 8 ? " mem" : "");
    v->group = "twin_vector";
    for (unsigned i = 0; i < SOFT_COUNTED_MAPS * 4 * 256; i++)
        show(v, &counters->twin_vector[i / 1024][i / 256 % 4][i % 256], "%smap%u %02x",
             prefixes[i / 256 % 4], i / 1024, i % 256);
}

void soft_counters_visit(const struct soft_counters *counters, cpu_counter_visit *visit,
                         void *opaque)
{
    struct visit v = {.visit = visit, .opaque = opaque};

    visit_singles(&v, counters);
    v.group = "tlb_miss";
    for (unsigned i = 0; i < SOFT_COUNTED_PRIVILEGES * SOFT_COUNTED_ACCESSES; i++)
        show(&v, &counters->tlb_miss[i / SOFT_COUNTED_ACCESSES][i % SOFT_COUNTED_ACCESSES], "%s",
             miss_names[i / SOFT_COUNTED_ACCESSES][i % SOFT_COUNTED_ACCESSES]);
    v.group = "vm_exit";
    for (unsigned i = 0; i < CPU_EXIT_KINDS; i++)
        show(&v, &counters->vm_exit[i], "%s", cpu_exit_name(i));
    v.group = "fault";
    for (unsigned i = 0; i < 32; i++)
        show(&v, &counters->fault[i], "%s", x86_exception_name(i));
    v.group = "interrupt";
    for (unsigned i = 0; i < 256; i++)
        show(&v, &counters->interrupt[i], "0x%02x", i);
    visit_twins(&v, counters);
    v.group = "time_ns";
    for (unsigned i = 0; i < SOFT_ACTIVITIES; i++)
        show(&v, &counters->time_ns[i], "%s", activity_names[i]);
}
