/*
 * Lockstep's comparisons and its report: see lockstep.c.
 *
 * Threads: the vCPU's own, while neither engine runs.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "cpu/soft/code.h"
#include "cpu/soft/lockstep.h"
#include "cpu/soft/paging.h"
#include "cpu/x86/flags.h"

#define INSNS_SHOWN  48
#define AHEAD_BYTES  64
#define AHEAD_INSNS  16
#define PTE_PRESENT  UINT64_C(0x1)
#define PTE_ACCESSED UINT64_C(0x20)

/* -- code -- */

/* Code bytes of the follower's, as far as they are mapped; how many. */
static unsigned code_read(struct lockstep *l, uint64_t linear, uint8_t *to, unsigned length)
{
    struct soft_vcpu *c = &l->follow->soft;
    unsigned done = 0;

    while (done < length) {
        struct soft_walk_request request = {.linear = linear + done,
                                            .access = SOFT_FETCH,
                                            .privilege = soft_privilege_now(c),
                                            .leaf = true};
        struct soft_page page = {0};
        unsigned part = (unsigned)(GUEST_PAGE_SIZE - (linear + done) % GUEST_PAGE_SIZE);

        if (part > length - done)
            part = length - done;
        if (!soft_walk(c, &request, &page) || mem_read(l->vm->copy, page.gpa, to + done, part) != 0)
            break;
        done += part;
    }
    return done;
}

/* -- states -- */

struct field {
    const char *name;
    size_t offset;
    unsigned size, count; /* bytes of each element; elements */
};

#define FIELD(member)                                                                              \
    {                                                                                              \
#member, offsetof(struct x86_state, member), sizeof(((struct x86_state *)0)->member), 1    \
    }
#define ARRAY(member)                                                                              \
    {                                                                                              \
#member, offsetof(struct x86_state, member), sizeof(((struct x86_state *)0)->member[0]),   \
            sizeof(((struct x86_state *)0)->member) / sizeof(((struct x86_state *)0)->member[0])   \
    }

/* All but the TSC, which is the host's plus an offset. No field has padding. */
static const struct field fields[] = {
    FIELD(rip),          ARRAY(gpr),
    FIELD(rflags),       ARRAY(seg),
    FIELD(ldtr),         FIELD(tr),
    FIELD(gdtr.base),    FIELD(gdtr.limit),
    FIELD(idtr.base),    FIELD(idtr.limit),
    FIELD(cr0),          FIELD(cr2),
    FIELD(cr3),          FIELD(cr4),
    FIELD(xcr0),         ARRAY(dr),
    FIELD(dr6),          FIELD(dr7),
    FIELD(efer),         FIELD(star),
    FIELD(lstar),        FIELD(cstar),
    FIELD(sfmask),       FIELD(kernel_gs_base),
    FIELD(sysenter_cs),  FIELD(sysenter_esp),
    FIELD(sysenter_eip), FIELD(pat),
    FIELD(tsc_aux),      FIELD(misc_enable),
    FIELD(pkrs),         FIELD(mtrr_def_type),
    ARRAY(mtrr_fixed),   ARRAY(mtrr_base),
    ARRAY(mtrr_mask),    FIELD(halted),
    FIELD(nmi_blocked),  FIELD(interrupt_shadow),
    ARRAY(xsave),
};

static const uint8_t *element_at(const struct x86_state *state, const struct field *field,
                                 unsigned index)
{
    return (const uint8_t *)state + field->offset + (size_t)index * field->size;
}

/* Up to 8 bytes of an element as a number. */
static unsigned long long element_value(const uint8_t *at, unsigned size)
{
    uint64_t value = 0;

    memcpy(&value, at, size < sizeof value ? size : sizeof value);
    return value;
}

static const char *const gpr_names[X86_GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                                     "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                                     "r12", "r13", "r14", "r15"};

static void field_name(const struct field *field, unsigned index, char *to, size_t bytes)
{
    if (field->offset == offsetof(struct x86_state, gpr))
        snprintf(to, bytes, "%s", gpr_names[index]);
    else if (field->count > 1)
        snprintf(to, bytes, "%s[%u]", field->name, index);
    else
        snprintf(to, bytes, "%s", field->name);
}

typedef bool difference_visit(void *opaque, const struct field *field, unsigned index);

/* Calls `visit` for each difference until it returns false. */
static void differences_visit(const struct lockstep *l, difference_visit *visit, void *opaque)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const struct field *field = &fields[i];

        if (memcmp(element_at(&l->state[0], field, 0), element_at(&l->state[1], field, 0),
                   (size_t)field->size * field->count) == 0)
            continue;
        for (unsigned n = 0; n < field->count; n++) {
            if (memcmp(element_at(&l->state[0], field, n), element_at(&l->state[1], field, n),
                       field->size) != 0 &&
                !visit(opaque, field, n))
                return;
        }
    }
}

struct first {
    const struct lockstep *l;
    char *text;
};

static bool first_note(void *opaque, const struct field *field, unsigned index)
{
    struct first *first = opaque;
    char name[32];

    field_name(field, index, name, sizeof name);
    snprintf(first->text, LOCKSTEP_TEXT, "%s is %#llx, not %#llx", name,
             element_value(element_at(&first->l->state[0], field, index), field->size),
             element_value(element_at(&first->l->state[1], field, index), field->size));
    return false;
}

/* The flags that code reads before it overwrites them; what it leaves open counts as read. */
static uint16_t flags_read(const uint8_t *bytes, unsigned available)
{
    unsigned read = 0, open = X86_RFLAGS_ARITH;
    struct x86_flags flags;
    struct x86_insn insn;

    for (unsigned i = 0; i < AHEAD_INSNS && (open & ~read) != 0; i++) {
        if (x86_decode(&insn, X86_CODE_64, bytes, available) != X86_DECODE_OK)
            break;
        x86_flags_of(&insn, NULL, &flags);
        read |= flags.read & open;
        open &= ~(unsigned)flags.written;
        if (soft_op_ends_block(&insn))
            break;
        bytes += insn.length;
        available -= insn.length;
    }
    return (uint16_t)(read | open);
}

/* Undefined flags may differ (rotates by an immediate and by CL set OF differently on the host).
 * Where the code ahead overwrites them before it reads them, they become the interpreter's. */
static void dead_flags_forget(struct lockstep *l)
{
    struct soft_vcpu *lead = &l->lead->soft, *follow = &l->follow->soft;
    uint64_t differing = soft_rflags_get(lead) ^ soft_rflags_get(follow);
    uint8_t bytes[AHEAD_BYTES];
    unsigned got;

    if (!(differing & X86_RFLAGS_ARITH) || lead->rip != follow->rip ||
        lead->code_size != X86_CODE_64)
        return;
    got = code_read(l, follow->rip, bytes, sizeof bytes);
    if (!(differing & flags_read(bytes, got)))
        lead->arith = follow->arith;
}

#define PART(from, to)                                                                             \
    (memcmp(&a->from, &b->from,                                                                    \
            offsetof(struct soft_vcpu, to) - offsetof(struct soft_vcpu, from)) == 0)

/* The usual case, without conversion. Equal here means equal; unequal may be padding. */
static bool are_alike(const struct soft_vcpu *a, const struct soft_vcpu *b)
{
    return PART(gpr, arith) && a->arith == b->arith && a->rflags == b->rflags &&
           PART(seg, tsc_offset) && a->tsc_adjust == b->tsc_adjust && a->halted == b->halted &&
           a->nmi_blocked == b->nmi_blocked && a->shadow == b->shadow &&
           memcmp(&a->vector, &b->vector, sizeof a->vector) == 0;
}

bool lockstep_states_differ(struct lockstep *l, char text[LOCKSTEP_TEXT])
{
    struct first first = {l, text};

    text[0] = '\0';
    if (are_alike(&l->lead->soft, &l->follow->soft))
        return false;
    dead_flags_forget(l);
    soft_state_get(&l->lead->soft, &l->state[0]);
    soft_state_get(&l->follow->soft, &l->state[1]);
    differences_visit(l, first_note, &first);
    return text[0] != '\0';
}

/* -- memory -- */

uint64_t lockstep_gpa_of(const struct lockstep *l, const uint8_t *host)
{
    for (unsigned i = 0; i < mem_slot_count(l->vm->copy); i++) {
        const struct mem_slot *slot = mem_slot_get(l->vm->copy, i);

        if (host >= slot->host && host < slot->host + slot->size)
            return slot->gpa + (uint64_t)(host - slot->host);
    }
    return UINT64_MAX;
}

/* Whether two runs of bytes at the same place in a page differ by more than the accessed bits of
 * present entries of page tables. */
static bool bytes_differ(const uint8_t *a, const uint8_t *b, size_t length)
{
    if (memcmp(a, b, length) == 0)
        return false;
    if ((uintptr_t)a % 8 != 0 || length % 8 != 0)
        return true;
    for (size_t i = 0; i < length; i += 8) {
        uint64_t x, y;

        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y && ((x ^ y) != PTE_ACCESSED || !(x & PTE_PRESENT)))
            return true;
    }
    return false;
}

/* What the interpreter has stored must lie in the leader's memory, too. */
bool lockstep_stores_differ(struct lockstep *l, char text[LOCKSTEP_TEXT])
{
    if (l->trail.overflow) {
        snprintf(text, LOCKSTEP_TEXT, "there is no memory to note the interpreter's stores");
        return true;
    }
    for (size_t i = 0; i < l->trail.store_count; i++) {
        const struct soft_store *store = &l->trail.stores[i];
        uint64_t gpa = lockstep_gpa_of(l, store->host);
        const uint8_t *lead = mem_span(l->vm->mem, gpa, store->length);

        if (lead && bytes_differ(lead, store->host, store->length)) {
            snprintf(text, LOCKSTEP_TEXT,
                     "memory at %#llx, stored to by the interpreter, is %#llx, not %#llx",
                     (unsigned long long)gpa, element_value(lead, store->length),
                     element_value(store->host, store->length));
            return true;
        }
    }
    return false;
}

/* The address + 1 of the first page that differs, 0: none. Pages that neither side has ever touched
 * are left untouched. */
static uint64_t slot_compare(const struct lockstep *l, const struct mem_slot *slot)
{
    const struct mem_slot *copy = mem_slot_find(l->vm->copy, slot->gpa);
    const uint64_t end = slot->gpa + slot->size;
    uint64_t lead = slot->gpa, follow = slot->gpa;

    if (slot->kind != MEM_RAM)
        return 0;
    for (uint64_t at = slot->gpa; at < end; at += GUEST_PAGE_SIZE) {
        lead = at > lead ? at : lead;
        follow = at > follow ? at : follow;
        lead = mem_touched_find(l->vm->mem, lead, end);
        follow = mem_touched_find(l->vm->copy, follow, end);
        at = lead < follow ? lead : follow;
        if (at < end && bytes_differ(slot->host + (at - slot->gpa), copy->host + (at - slot->gpa),
                                     GUEST_PAGE_SIZE))
            return at + 1;
    }
    return 0;
}

/* Only a page that differs twice counts: before, a device may have been writing to it. */
bool lockstep_memory_differs(struct lockstep *l, char text[LOCKSTEP_TEXT])
{
    uint64_t before = l->memory_suspected;

    l->memory_suspected = 0;
    for (unsigned i = 0; i < mem_slot_count(l->vm->mem) && !l->memory_suspected; i++)
        l->memory_suspected = slot_compare(l, mem_slot_get(l->vm->mem, i));
    if (!l->memory_suspected || l->memory_suspected != before)
        return false;
    snprintf(text, LOCKSTEP_TEXT, "the page at %#llx differs, where nothing was stored lately",
             (unsigned long long)l->memory_suspected - 1);
    return true;
}

/* -- the report -- */

static bool difference_print(void *opaque, const struct field *field, unsigned index)
{
    const struct lockstep *l = opaque;
    char name[32];

    field_name(field, index, name, sizeof name);
    log_error("lockstep:   %-12s translator %016llx interpreter %016llx", name,
              element_value(element_at(&l->state[0], field, index), field->size),
              element_value(element_at(&l->state[1], field, index), field->size));
    return true;
}

static void registers_print(const struct lockstep *l)
{
    for (unsigned who = 0; who < 2; who++) {
        const struct x86_state *s = &l->state[who];

        log_error("lockstep: %s: rip %016llx rflags %08llx cs %04x cr3 %llx",
                  who ? "interpreter" : "translator", (unsigned long long)s->rip,
                  (unsigned long long)s->rflags, s->seg[X86_CS].selector,
                  (unsigned long long)s->cr3);
        for (unsigned n = 0; n < X86_GPR_COUNT; n += 4)
            log_error("lockstep:   %-3s %016llx %-3s %016llx %-3s %016llx %-3s %016llx",
                      gpr_names[n], (unsigned long long)s->gpr[n], gpr_names[n + 1],
                      (unsigned long long)s->gpr[n + 1], gpr_names[n + 2],
                      (unsigned long long)s->gpr[n + 2], gpr_names[n + 3],
                      (unsigned long long)s->gpr[n + 3]);
    }
}

static void insn_print(uint64_t rip, const struct x86_insn *insn)
{
    char bytes[3 * X86_INSN_BYTES_MAX + 1] = "";

    for (unsigned i = 0; i < insn->length; i++)
        snprintf(bytes + 3 * (size_t)i, 4, "%02x ", insn->bytes[i]);
    log_error("lockstep:   %016llx: %-45s %s", (unsigned long long)rip, bytes,
              x86_op_name((enum x86_op)insn->op));
}

/* From a block's beginning to its first jump. */
static void block_print(struct lockstep *l, uint64_t rip)
{
    const struct soft_vcpu *c = &l->follow->soft;
    uint64_t base = c->code_size == X86_CODE_64 ? 0 : c->seg[X86_CS].base;

    log_error("lockstep: block at %#llx:", (unsigned long long)rip);
    for (unsigned i = 0; i < INSNS_SHOWN; i++) {
        uint8_t bytes[X86_INSN_BYTES_MAX];
        unsigned got = code_read(l, rip + base, bytes, sizeof bytes);
        struct x86_insn insn;

        if (x86_decode(&insn, (enum x86_code_size)c->code_size, bytes, got) != X86_DECODE_OK)
            return;
        memcpy(insn.bytes, bytes, insn.length);
        insn_print(rip, &insn);
        if (soft_op_ends_block(&insn))
            return;
        rip += insn.length;
    }
}

void lockstep_report(struct lockstep *l, const char *difference, unsigned blocks)
{
    const struct soft_trail *trail = &l->trail;
    uint64_t first = trail->blocks > blocks ? trail->blocks - blocks : 0;

    log_error("lockstep: after %llu instructions: %s", (unsigned long long)l->retired, difference);
    soft_state_get(&l->lead->soft, &l->state[0]);
    soft_state_get(&l->follow->soft, &l->state[1]);
    registers_print(l);
    log_error("lockstep: what differs:");
    differences_visit(l, difference_print, l);
    if (blocks > 1)
        log_error("lockstep: the interpreter ran %llu blocks since they were equal; the last:",
                  (unsigned long long)trail->blocks);
    for (uint64_t i = first; i < trail->blocks; i++)
        block_print(l, trail->block[i % SOFT_TRAIL_BLOCKS]);
}
