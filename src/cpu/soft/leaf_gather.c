/*
 * Gathers and scatters as a leaf (leaf.h).
 *
 * Translated code has stored index and mask, and what is to be written or scattered, to
 * soft_vcpu.vector, and loads the results from there. All enabled elements are looked up before any
 * is moved: where one of them may fault, or is a device's, nothing has happened and the twin does
 * all. So an element is never moved twice.
 * Threads: a vCPU's own. Indices, masks and addresses are the guest's.
 */
#include "cpu/soft/leaf.h"
#include "cpu/soft/stub.h"

#define ELEMENTS_MAX 16

struct gather {
    struct soft_vcpu *c;
    const struct soft_op *op;
    const struct x86_vector_insn *v;
    uint64_t base; /* all but the index */
    unsigned scale;
    const uint8_t *index, *mask;
    uint8_t *reg;
    uint8_t *host[ELEMENTS_MAX]; /* NULL: not enabled */
};

static uint64_t element_linear(const struct gather *g, unsigned i)
{
    const struct x86_insn *insn = &g->op->insn;
    uint64_t index;

    if (g->v->index_bytes == 4)
        index = (uint64_t)(int64_t) * (const int32_t *)(const void *)(g->index + 4 * i);
    else
        index = *(const uint64_t *)(const void *)(g->index + 8 * i);
    index = g->base + (index << g->scale);
    if (insn->address_size == 4)
        index = (uint32_t)index;
    return insn->segment >= X86_FS ? index + g->c->seg[insn->segment].base : index;
}

/* NULL: the twin must. */
static uint8_t *element_find(const struct gather *g, unsigned i, enum soft_access access)
{
    struct soft_vcpu *c = g->c;
    uint64_t linear = element_linear(g, i), offset = linear & (GUEST_PAGE_SIZE - 1);
    const struct soft_tlb_entry *entry =
        &c->tlb_now->entry[access][(linear >> 12) % SOFT_TLB_ENTRIES];

    if (offset + g->v->element > GUEST_PAGE_SIZE)
        return NULL;
    if (entry->tag != linear - offset &&
        soft_leaf_fill(c, linear, access | (uint32_t)g->v->element << 8) != SOFT_FILL_AGAIN)
        return NULL;
    return (uint8_t *)(uintptr_t)(entry->page + offset);
}

static bool is_enabled(const struct gather *g, unsigned i)
{
    if (g->v->unit == X86_UNIT_EVEX)
        return *(const uint64_t *)(const void *)g->mask >> i & 1;
    return g->mask[(i + 1) * g->v->element - 1] >> 7;
}

static bool elements_find(struct gather *g, unsigned count)
{
    bool scatter = g->v->memory == X86_MEMORY_SCATTER;

    for (unsigned i = 0; i < count; i++) {
        g->host[i] = NULL;
        if (!is_enabled(g, i))
            continue;
        g->host[i] = element_find(g, i, scatter ? SOFT_WRITE : SOFT_READ);
        if (!g->host[i])
            return false;
    }
    return true;
}

/* Elements that overlap are written in their order (SDM vol. 2, VPSCATTERDD). */
static void elements_move(const struct gather *g, unsigned count)
{
    bool scatter = g->v->memory == X86_MEMORY_SCATTER;

    for (unsigned i = 0; i < count; i++) {
        uint8_t *own = g->reg + i * g->v->element;
        uint8_t *to = scatter ? g->host[i] : own;
        const uint8_t *from = scatter ? own : g->host[i];

        if (!g->host[i])
            continue;
        if (g->v->element == 4)
            *(volatile uint32_t *)(void *)to = *(const volatile uint32_t *)(const void *)from;
        else
            *(volatile uint64_t *)(void *)to = *(const volatile uint64_t *)(const void *)from;
    }
}

bool soft_leaf_gather(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    const struct stub *stub = op->stub;
    struct gather g = {.c = c, .op = op};
    unsigned wider, count;

    if (!stub || c->io_done != 0 || c->trail)
        return false;
    g.v = &stub->vector;
    wider = g.v->element > g.v->index_bytes ? g.v->element : g.v->index_bytes;
    count = g.v->vector_bytes / wider;
    g.base = (uint64_t)insn->displacement + (insn->base == X86_REG_NONE ? 0 : c->gpr[insn->base]);
    g.scale = insn->bytes[insn->modrm_offset + 1] >> 6;
    g.index = c->vector.zmm[x86_vector_index(insn)];
    g.reg = c->vector.zmm[op->extra & 31];
    g.mask = g.v->unit == X86_UNIT_EVEX ? (const uint8_t *)&c->vector.opmask[insn->evex_p3 & 7]
                                        : c->vector.zmm[op->extra >> 5 & 31];
    if (!elements_find(&g, count))
        return false;
    elements_move(&g, count);
    /* A vector of less than 16 bytes: what is behind it is loaded, too. */
    if (g.v->memory == X86_MEMORY_GATHER && count * g.v->element == 8)
        *(uint64_t *)(void *)(g.reg + 8) = 0;
    return true;
}
