/*
 * The decoded operations of the blocks decoded last.
 *
 * Most blocks are translated soon and need theirs no more, so that there is room for few: a ring,
 * whose beginning anew takes the operations of all blocks (soft_block_ops() looks at the round).
 * Those that are wanted once more are decoded again, from the bytes that their block keeps; what
 * cannot be had from these bytes alone is kept with the block.
 *
 * Threads: a vCPU's own. Input: a guest's code, which was decoded once before.
 */
#include "cpu/soft/cache_internal.h"

void soft_ops_begin(struct soft_vcpu *c)
{
    c->cache->ops_used = 0;
    c->decoded_round++;
}

struct soft_op *soft_ops_room(struct soft_vcpu *c)
{
    struct soft_cache *cache = c->cache;

    if (cache->ops_used + SOFT_BLOCK_OPS_MAX > cache->ops_max)
        soft_ops_begin(c);
    return cache->ops + cache->ops_used;
}

struct soft_op *soft_block_decode_again(struct soft_vcpu *c, struct soft_block *block)
{
    const struct soft_window window = {.bytes = block->raw, .available = block->bytes};
    enum soft_activity before = soft_activity_get(&c->counters);
    unsigned offset = 0;

    soft_activity_set(&c->counters, SOFT_IN_DECODE);
    soft_count(&c->counters.decoded_again);
    block->ops = soft_ops_room(c);
    block->decoded_round = c->decoded_round;
    for (unsigned i = 0; i < block->count; i++) {
        /* As the first time: the bytes are the same. */
        (void)soft_op_decode(c, &window, block->mode & 3, offset, &block->ops[i]);
        offset = block->ops[i].next;
    }
    c->cache->ops_used += block->count;
    soft_activity_set(&c->counters, before);
    return block->ops;
}

struct soft_op *soft_ops_keep(struct soft_vcpu *c, const struct soft_op *ops, unsigned count)
{
    struct soft_op *kept = (struct soft_op *)(void *)(c->cache->arena + c->cache->arena_used);

    memcpy(kept, ops, count * sizeof *ops);
    c->cache->arena_used += (count * sizeof *ops + 15) & ~UINT64_C(15);
    return kept;
}

const struct soft_op *soft_op_keep(struct soft_vcpu *c, const struct soft_op *op)
{
    return soft_ops_keep(c, op, 1);
}
