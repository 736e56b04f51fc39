/*
 * Virtqueues: see queue.h for purpose, threads and trust.
 *
 * The two ring formats differ in how an available chain is found and how a used one is announced;
 * both end in the same chain, and share the walk through indirect tables.
 */
#include "dev/virtio/queue.h"

#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "base/fence.h"
#include "dev/virtio/spec.h"

struct descriptor {
    uint64_t gpa;
    uint32_t length;
    uint16_t flags; /* split: at 12; packed: at 14 */
    uint16_t next;  /* split: at 14; packed: the buffer id, at 12 */
};

/* ---- shared memory ---- */

static uint16_t ring_load(const uint8_t *at)
{
    return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE);
}

static void ring_store(uint8_t *at, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)at, value, __ATOMIC_RELEASE);
}

static int virtq_break(struct virtq *queue, const char *why)
{
    queue->broken = why;
    return -EPROTO;
}

static struct descriptor descriptor_copy(const struct virtq *queue, const uint8_t *from)
{
    uint8_t copy[VIRTQ_DESC_SIZE];
    unsigned flags_at = queue->packed ? 14 : 12;

    memcpy(copy, from, sizeof copy);
    return (struct descriptor){
        .gpa = load_le64(copy),
        .length = load_le32(copy + 8),
        .flags = load_le16(copy + flags_at),
        .next = load_le16(copy + (26 - flags_at)),
    };
}

/* ---- setting up ---- */

void virtq_reset(struct virtq *queue)
{
    struct mem *mem = queue->mem;
    uint16_t size_max = queue->size_max;

    memset(queue, 0, sizeof *queue);
    queue->mem = mem;
    queue->size_max = size_max;
    queue->size = size_max;
    queue->msix_vector = VIRTIO_NO_VECTOR;
}

static uint8_t *area_map(struct virtq *queue, uint64_t gpa, uint64_t length, uint64_t align)
{
    return gpa % align ? NULL : mem_span(queue->mem, gpa, length);
}

/* Areas and alignments: 2.7 and 2.8.10.1. */
static int virtq_map(struct virtq *queue)
{
    uint64_t size = queue->size;

    queue->desc = area_map(queue, queue->desc_gpa, size * VIRTQ_DESC_SIZE, 16);
    if (queue->packed) {
        queue->driver = area_map(queue, queue->driver_gpa, 4, 4);
        queue->device = area_map(queue, queue->device_gpa, 4, 4);
    } else {
        queue->driver = area_map(queue, queue->driver_gpa, 6 + size * 2, 2);
        queue->device = area_map(queue, queue->device_gpa, 6 + size * 8, 4);
    }
    return queue->desc && queue->driver && queue->device ? 0 : -EINVAL;
}

int virtq_start(struct virtq *queue, uint64_t features)
{
    bool power_of_two = (queue->size & (queue->size - 1)) == 0;

    queue->packed = features & VIRTIO_F_RING_PACKED;
    queue->indirect = features & VIRTIO_F_INDIRECT_DESC;
    queue->event_idx = features & VIRTIO_F_EVENT_IDX;
    if (queue->size == 0 || queue->size > queue->size_max || (!queue->packed && !power_of_two))
        return -EINVAL;
    queue->avail_next = queue->used_next = queue->signalled = 0;
    queue->avail_wrap = queue->used_wrap = true;
    queue->signalled_valid = false;
    queue->notify_wanted = true;
    queue->in_flight = 0;
    queue->broken = NULL;
    return virtq_map(queue);
}

/* ---- chains ---- */

static int chain_add_span(struct virtq *queue, struct virtq_chain *chain,
                          const struct descriptor *part, bool in)
{
    unsigned index = chain->out_count + chain->in_count;
    void *host = mem_span(queue->mem, part->gpa, part->length);

    if (!host)
        return virtq_break(queue, "a buffer outside RAM");
    if (index == VIRTQ_SPANS)
        return virtq_break(queue, "a chain of too many buffers");
    chain->iov[index] = (struct iovec){.iov_base = host, .iov_len = part->length};
    chain->gpa[index] = part->gpa;
    if (in) {
        chain->in_count++;
        chain->in_bytes += part->length;
    } else {
        chain->out_count++;
        chain->out_bytes += part->length;
    }
    return 0;
}

/* Adds one descriptor's buffer, in pieces where it crosses from one RAM slot into the next. */
static int chain_add(struct virtq *queue, struct virtq_chain *chain, const struct descriptor *desc)
{
    bool in = desc->flags & VIRTQ_DESC_F_WRITE;
    struct descriptor rest = *desc;
    int rc = 0;

    if (!in && chain->in_count)
        return virtq_break(queue, "a readable buffer after a writable one");
    while (rest.length && rc == 0) { /* an empty buffer adds nothing, and does no harm */
        const struct mem_slot *slot = mem_slot_find(queue->mem, rest.gpa);
        struct descriptor part = rest;

        if (!slot)
            return virtq_break(queue, "a buffer outside RAM");
        if (part.length > slot->size - (rest.gpa - slot->gpa))
            part.length = (uint32_t)(slot->size - (rest.gpa - slot->gpa));
        rc = chain_add_span(queue, chain, &part, in);
        rest.gpa += part.length;
        rest.length -= part.length;
    }
    return rc;
}

static void chain_begin(struct virtq_chain *chain)
{
    chain->out_count = chain->in_count = 0;
    chain->out_bytes = chain->in_bytes = 0;
    chain->slots = 1;
}

/* The table of an indirect descriptor: 2.7.5.3 (chained by `next`) and 2.8.7 (in order). */
static int chain_add_table(struct virtq *queue, struct virtq_chain *chain,
                           const struct descriptor *table)
{
    unsigned count = table->length / VIRTQ_DESC_SIZE, index = 0;

    if (!queue->indirect)
        return virtq_break(queue, "an indirect table that was not negotiated");
    if (table->length % VIRTQ_DESC_SIZE || count == 0 || count > queue->size)
        return virtq_break(queue, "an indirect table of a bad length");
    for (unsigned seen = 0; seen < count; seen++) {
        uint8_t raw[VIRTQ_DESC_SIZE];
        struct descriptor desc;
        int rc;

        if (mem_read(queue->mem, table->gpa + (uint64_t)index * VIRTQ_DESC_SIZE, raw, sizeof raw) <
            0)
            return virtq_break(queue, "an indirect table outside RAM");
        desc = descriptor_copy(queue, raw);
        if (desc.flags & VIRTQ_DESC_F_INDIRECT)
            return virtq_break(queue, "an indirect table inside another");
        rc = chain_add(queue, chain, &desc);
        if (rc < 0)
            return rc;
        if (!queue->packed && !(desc.flags & VIRTQ_DESC_F_NEXT))
            return 0;
        index = queue->packed ? index + 1 : desc.next;
        if (!queue->packed && index >= count)
            return virtq_break(queue, "an index outside an indirect table");
    }
    return queue->packed ? 0 : virtq_break(queue, "a loop in an indirect table");
}

static int chain_add_any(struct virtq *queue, struct virtq_chain *chain,
                         const struct descriptor *desc)
{
    return desc->flags & VIRTQ_DESC_F_INDIRECT ? chain_add_table(queue, chain, desc)
                                               : chain_add(queue, chain, desc);
}

/* ---- split rings ---- */

static int split_walk(struct virtq *queue, struct virtq_chain *chain)
{
    uint16_t index = chain->id;

    for (unsigned seen = 0; seen < queue->size; seen++) {
        struct descriptor desc;
        int rc;

        if (index >= queue->size)
            return virtq_break(queue, "a descriptor index out of range");
        desc = descriptor_copy(queue, queue->desc + (size_t)index * VIRTQ_DESC_SIZE);
        if ((desc.flags & VIRTQ_DESC_F_INDIRECT) && (desc.flags & VIRTQ_DESC_F_NEXT))
            return virtq_break(queue, "a chain that goes on after an indirect table");
        rc = chain_add_any(queue, chain, &desc);
        if (rc < 0)
            return rc;
        if (!(desc.flags & VIRTQ_DESC_F_NEXT))
            return 0;
        index = desc.next;
    }
    return virtq_break(queue, "a loop of descriptors");
}

static int split_pop(struct virtq *queue, struct virtq_chain *chain)
{
    uint16_t avail = ring_load(queue->driver + 2);
    uint16_t pending = (uint16_t)(avail - queue->avail_next);
    unsigned slot = queue->avail_next & (queue->size - 1u);

    if (pending == 0)
        return 0;
    if (pending > queue->size)
        return virtq_break(queue, "an available index too far ahead");
    chain->id = ring_load(queue->driver + 4 + slot * 2);
    if (split_walk(queue, chain) < 0)
        return -EPROTO;
    queue->avail_next++;
    return 1;
}

static void split_push(struct virtq *queue, const struct virtq_used *used, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned slot = (uint16_t)(queue->used_next + i) & (queue->size - 1u);
        uint8_t *element = queue->device + 4 + slot * 8;

        store_le32(element, used[i].id);
        store_le32(element + 4, used[i].written);
    }
    queue->used_next = (uint16_t)(queue->used_next + count);
    ring_store(queue->device + 2, queue->used_next);
}

/* ---- packed rings ---- */

static bool packed_is_available(uint16_t flags, bool wrap)
{
    bool avail = flags & VIRTQ_DESC_F_AVAIL, used = flags & VIRTQ_DESC_F_USED;

    return avail == wrap && used != wrap; /* 2.8.1 */
}

static void packed_step(uint16_t *slot, bool *wrap, unsigned by, uint16_t size)
{
    unsigned next = *slot + by;

    if (next >= size) {
        next -= size;
        *wrap = !*wrap;
    }
    *slot = (uint16_t)next;
}

static int packed_pop(struct virtq *queue, struct virtq_chain *chain)
{
    uint16_t slot = queue->avail_next;
    bool wrap = queue->avail_wrap;

    if (!packed_is_available(ring_load(queue->desc + slot * VIRTQ_DESC_SIZE + 14), wrap))
        return 0;
    for (unsigned seen = 1; seen <= queue->size; seen++) {
        struct descriptor desc =
            descriptor_copy(queue, queue->desc + (size_t)slot * VIRTQ_DESC_SIZE);

        if ((desc.flags & VIRTQ_DESC_F_INDIRECT) && (seen > 1 || (desc.flags & VIRTQ_DESC_F_NEXT)))
            return virtq_break(queue, "an indirect table inside a chain");
        if (chain_add_any(queue, chain, &desc) < 0)
            return -EPROTO;
        packed_step(&slot, &wrap, 1, queue->size);
        if (!(desc.flags & VIRTQ_DESC_F_NEXT)) {
            chain->id = desc.next;
            chain->slots = (uint16_t)seen;
            queue->avail_next = slot;
            queue->avail_wrap = wrap;
            return 1;
        }
    }
    return virtq_break(queue, "a chain longer than its ring");
}

/* The first element's flags are written last: they make the whole batch visible. */
static void packed_push(struct virtq *queue, const struct virtq_used *used, unsigned count)
{
    uint8_t *first = NULL;
    uint16_t first_flags = 0;

    for (unsigned i = 0; i < count; i++) {
        uint8_t *element = queue->desc + (size_t)queue->used_next * VIRTQ_DESC_SIZE;
        uint16_t flags = queue->used_wrap ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0;

        if (used[i].written)
            flags |= VIRTQ_DESC_F_WRITE;
        store_le32(element + 8, used[i].written);
        store_le16(element + 12, used[i].id);
        if (first) {
            ring_store(element + 14, flags);
        } else {
            first = element;
            first_flags = flags;
        }
        packed_step(&queue->used_next, &queue->used_wrap, used[i].slots, queue->size);
    }
    if (first)
        ring_store(first + 14, first_flags);
}

/* ---- both ---- */

int virtq_pop(struct virtq *queue, struct virtq_chain *chain)
{
    int rc;

    if (queue->broken)
        return -EPROTO;
    chain_begin(chain);
    /* Nothing of a buffer changes before its request is seen: see lockstep.c. */
    mem_change_begin(queue->mem);
    rc = queue->packed ? packed_pop(queue, chain) : split_pop(queue, chain);
    mem_change_end(queue->mem);
    if (rc != 1)
        return rc;
    /* A driver that reuses slots before it got them back must not pile up work in our hands. */
    if (queue->in_flight + chain->slots > queue->size)
        return virtq_break(queue, "more buffers in flight than the ring holds");
    queue->in_flight += chain->slots;
    return 1;
}

bool virtq_available(struct virtq *queue)
{
    if (queue->broken)
        return false;
    if (!queue->packed)
        return ring_load(queue->driver + 2) != queue->avail_next;
    return packed_is_available(ring_load(queue->desc + queue->avail_next * VIRTQ_DESC_SIZE + 14),
                               queue->avail_wrap);
}

struct virtq_mark virtq_mark(const struct virtq *queue)
{
    return (struct virtq_mark){queue->avail_next, queue->avail_wrap, queue->in_flight};
}

void virtq_rewind(struct virtq *queue, const struct virtq_mark *mark)
{
    queue->avail_next = mark->avail_next;
    queue->avail_wrap = mark->avail_wrap;
    queue->in_flight = mark->in_flight;
}

void virtq_push(struct virtq *queue, const struct virtq_used *used, unsigned count)
{
    mem_change_begin(queue->mem);
    if (queue->packed)
        packed_push(queue, used, count);
    else
        split_push(queue, used, count);
    for (unsigned i = 0; i < count; i++)
        queue->in_flight -= used[i].slots;
    /* A ring in a page that also holds code is a guest's folly; the engine must still know. */
    if (queue->packed)
        mem_written(queue->mem, queue->desc_gpa, (uint64_t)queue->size * VIRTQ_DESC_SIZE);
    else
        mem_written(queue->mem, queue->device_gpa, 6 + (uint64_t)queue->size * 8);
    mem_change_end(queue->mem);
}

/* 2.7.10: has the index gone past `event` on its way from `old` to `now`? */
static bool event_crossed(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

static bool split_interrupt_wanted(struct virtq *queue)
{
    if (!queue->event_idx)
        return !(ring_load(queue->driver) & VIRTQ_AVAIL_F_NO_INTERRUPT);
    if (!queue->signalled_valid)
        return true;
    return event_crossed(ring_load(queue->driver + 4 + queue->size * 2u), queue->used_next,
                         queue->signalled);
}

/* 2.8.14: the event's slot carries the wrap counter of its round in bit 15. Slots of the previous
 * round count as `size` lower. */
static bool packed_interrupt_wanted(struct virtq *queue)
{
    uint16_t flags = ring_load(queue->driver + 2) & 3u;
    uint16_t event = ring_load(queue->driver);
    uint16_t slot = event & 0x7fff;
    uint16_t old = queue->signalled;

    if (flags != VIRTQ_EVENT_DESC || !queue->event_idx)
        return flags != VIRTQ_EVENT_DISABLE;
    if (!queue->signalled_valid)
        return true;
    if ((bool)(event >> 15) != queue->used_wrap)
        slot = (uint16_t)(slot - queue->size);
    if (queue->signalled_wrap != queue->used_wrap)
        old = (uint16_t)(old - queue->size);
    return event_crossed(slot, queue->used_next, old);
}

bool virtq_interrupt_wanted(struct virtq *queue)
{
    bool wanted;

    /* What we pushed must be visible before we look whether the driver sleeps (2.7.10.1). */
    memory_fence();
    wanted = queue->packed ? packed_interrupt_wanted(queue) : split_interrupt_wanted(queue);
    queue->signalled = queue->used_next;
    queue->signalled_wrap = queue->used_wrap;
    queue->signalled_valid = true;
    return wanted;
}

static void split_notify_set(struct virtq *queue, bool wanted)
{
    if (!queue->event_idx)
        ring_store(queue->device, (uint16_t)(wanted ? 0 : VIRTQ_USED_F_NO_NOTIFY));
    else if (wanted)
        ring_store(queue->device + 4 + queue->size * 8u, queue->avail_next);
    /* With event indices, silence is an old index: nothing to write. */
}

static void packed_notify_set(struct virtq *queue, bool wanted)
{
    uint16_t slot = (uint16_t)(queue->avail_next | (queue->avail_wrap ? 0x8000u : 0));

    if (!wanted) {
        ring_store(queue->device + 2, VIRTQ_EVENT_DISABLE);
        return;
    }
    ring_store(queue->device, slot);
    ring_store(queue->device + 2, queue->event_idx ? VIRTQ_EVENT_DESC : VIRTQ_EVENT_ENABLE);
}

static void virtq_notify_set(struct virtq *queue, bool wanted)
{
    mem_change_begin(queue->mem);
    if (queue->packed)
        packed_notify_set(queue, wanted);
    else
        split_notify_set(queue, wanted);
    mem_written(queue->mem, queue->device_gpa, queue->packed ? 4 : 6 + (uint64_t)queue->size * 8);
    mem_change_end(queue->mem);
    queue->notify_wanted = wanted;
}

bool virtq_notify_enable(struct virtq *queue)
{
    virtq_notify_set(queue, true);
    memory_fence();
    return virtq_available(queue);
}

void virtq_notify_disable(struct virtq *queue)
{
    if (queue->notify_wanted)
        virtq_notify_set(queue, false);
}

/* ---- the chains' content ---- */

struct span_walk {
    const struct iovec *iov;
    unsigned count;
    uint64_t offset;
};

/* The next piece of at most `length` bytes; 0 at the end. */
static size_t span_next(struct span_walk *walk, size_t length, uint8_t **at)
{
    while (walk->count && walk->offset >= walk->iov->iov_len) {
        walk->offset -= walk->iov->iov_len;
        walk->iov++;
        walk->count--;
    }
    if (!walk->count)
        return 0;
    *at = (uint8_t *)walk->iov->iov_base + walk->offset;
    if (length > walk->iov->iov_len - walk->offset)
        length = walk->iov->iov_len - walk->offset;
    walk->offset += length;
    return length;
}

size_t virtq_chain_read(const struct virtq_chain *chain, uint64_t offset, void *to, size_t length)
{
    struct span_walk walk = {chain->iov, chain->out_count, offset};
    size_t done = 0, piece;
    uint8_t *at;

    while (done < length && (piece = span_next(&walk, length - done, &at)) > 0) {
        memcpy((uint8_t *)to + done, at, piece);
        done += piece;
    }
    return done;
}

size_t virtq_chain_write(struct mem *mem, const struct virtq_chain *chain, uint64_t offset,
                         const void *from, size_t length)
{
    struct span_walk walk = {chain->iov + chain->out_count, chain->in_count, offset};
    size_t done = 0, piece;
    uint8_t *at;

    mem_change_begin(mem);
    while (done < length && (piece = span_next(&walk, length - done, &at)) > 0) {
        size_t index = (size_t)(walk.iov - chain->iov);

        memcpy(at, (const uint8_t *)from + done, piece);
        mem_written(mem, chain->gpa[index] + (walk.offset - piece), piece);
        done += piece;
    }
    mem_change_end(mem);
    return done;
}

void virtq_chain_written(struct mem *mem, const struct virtq_chain *chain, uint64_t length)
{
    for (unsigned i = 0; i < chain->in_count && length; i++) {
        unsigned index = chain->out_count + i;
        uint64_t piece = chain->iov[index].iov_len;

        if (piece > length)
            piece = length;
        mem_written(mem, chain->gpa[index], piece);
        length -= piece;
    }
}
