/*
 * Accesses of vector and x87 operations across two pages, as leaves (leaf.h): the operation runs on
 * a copy of the bytes, soft_vcpu.split, and what it stores there is then put where it belongs. Both
 * pages are looked up first; where one of them may fault or is a device's, nothing has happened and
 * the twin does it. Programs that walk through memory at odd places have such accesses in each
 * page, and a twin costs as much as storing and loading all vector registers.
 *
 * Threads: a vCPU's own. Addresses are the guest's.
 */
#include "cpu/soft/leaf.h"

/* Of a part on one page; NULL: the twin must. */
static uint8_t *part_find(struct soft_vcpu *c, uint64_t linear, enum soft_access access,
                          unsigned length)
{
    uint64_t offset = linear & (GUEST_PAGE_SIZE - 1);
    const struct soft_tlb_entry *entry =
        &c->tlb_now->entry[access][(linear >> 12) % SOFT_TLB_ENTRIES];

    if (entry->tag != linear - offset &&
        soft_leaf_fill(c, linear, access | length << 8) != SOFT_FILL_AGAIN)
        return NULL;
    return (uint8_t *)(uintptr_t)(entry->page + offset);
}

static void bytes_copy(uint8_t *to, const uint8_t *from, size_t length)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
}

/* Finds the parts of `size` bytes, and copies what is there. */
static bool parts_find(struct soft_vcpu *c, uint64_t linear, enum soft_access access, unsigned size)
{
    struct soft_split *split = &c->split;
    unsigned offset = (unsigned)linear & (GUEST_PAGE_SIZE - 1);

    if (offset + size <= GUEST_PAGE_SIZE || size > sizeof split->bytes || c->io_done != 0 ||
        c->trail)
        return false;
    split->size[0] = (unsigned)GUEST_PAGE_SIZE - offset;
    split->size[1] = size - split->size[0];
    split->host[0] = part_find(c, linear, access, split->size[0]);
    if (!split->host[0])
        return false;
    split->host[1] = part_find(c, linear + split->size[0], access, split->size[1]);
    if (!split->host[1])
        return false;
    bytes_copy(split->bytes, split->host[0], split->size[0]);
    bytes_copy(split->bytes + split->size[0], split->host[1], split->size[1]);
    return true;
}

enum soft_fill soft_leaf_split_read(struct soft_vcpu *c, uint64_t linear, unsigned size)
{
    if (!parts_find(c, linear, SOFT_READ, size))
        return SOFT_FILL_TWIN;
    c->exit_value = (uintptr_t)c->split.bytes;
    return SOFT_FILL_DIRECT;
}

/* The linear address is that of which soft_leaf_fill() was told last. */
bool soft_leaf_split_begin(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    return parts_find(c, c->exit_value, SOFT_WRITE, c->slot_what >> 8);
}

bool soft_leaf_split_end(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct soft_split *split = &c->split;

    (void)op;
    bytes_copy(split->host[0], split->bytes, split->size[0]);
    bytes_copy(split->host[1], split->bytes + split->size[0], split->size[1]);
    return true;
}
