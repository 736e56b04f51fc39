/*
 * The translator's memory operands: from an operand to its linear address, and from there through
 * the TLB to a host address. See translate.c and doc/soft.md.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/slots.h"
#include "cpu/soft/translate_internal.h"

bool tr_address(struct translation *tr, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    int64_t displacement = insn->displacement;
    enum host_register base = HOST_NONE, index = HOST_NONE;

    if (insn->base == X86_REG_RIP) {
        displacement += (int64_t)((uintptr_t)tr->block->host & 0xfff) + op->next;
        emit_mov_reg_state(&tr->e, HOST_R10, STATE(code_page));
        base = HOST_R10;
    } else if (insn->base != X86_REG_NONE) {
        base = tr_host_of(insn->base);
        if (tr_is_displaced(insn->base)) {
            emit_mov_reg_state(&tr->e, HOST_R10, GPR(insn->base));
            base = HOST_R10;
        }
    }
    if (insn->index != X86_REG_NONE) {
        index = tr_host_of(insn->index);
        if (tr_is_displaced(insn->index)) {
            emit_mov_reg_state(&tr->e, HOST_R11, GPR(insn->index));
            index = HOST_R11;
        }
    }
    if (!tr_fits32(displacement)) {
        if (base != HOST_NONE || index != HOST_NONE)
            return false;
        emit_mov_reg_imm64(&tr->e, HOST_R10, (uint64_t)displacement);
    } else if (insn->address_size == 4) {
        emit_lea32(&tr->e, HOST_R10, base, index, insn->scale, (int32_t)displacement);
    } else {
        emit_lea(&tr->e, HOST_R10, base, index, insn->scale, (int32_t)displacement);
    }
    if (insn->segment >= X86_FS)
        emit_alu_reg_state(&tr->e, EMIT_ADD, HOST_R10,
                           STATE(seg[0]) + (int32_t)(insn->segment * sizeof(struct x86_segment) +
                                                     offsetof(struct x86_segment, base)));
    return true;
}

/* Out of line: the twin of the operation, or first a look into the TLB. */
static struct cold *miss_add(struct translation *tr, uint8_t *place, const struct check *check)
{
    struct cold *cold = tr_cold_add(tr, place, COLD_OP);

    cold->op = check->op;
    cold->units = tr->units;
    return cold;
}

/* Of those from `first` on, `end` excluded. A program's parts (code, constants, data) begin at
 * round addresses, so that low bits alone would put them together. */
static unsigned slot_by_page(unsigned first, unsigned end, uint64_t page)
{
    return first + (unsigned)((page ^ page >> 5 ^ page >> 10) & (end - first - 1));
}

/* Which slot an operation's memory operand, or its push or pop, goes through. */
static unsigned slot_of(const struct translation *tr, const struct check *check)
{
    const struct soft_op *op = &tr->block->ops[check->op];
    const struct x86_insn *insn = &op->insn;
    uint64_t page = (uint64_t)insn->displacement >> 12;
    uint64_t code = tr->c->rip >> 12; /* the page may be mapped elsewhere, too: a guess */

    /* An array there in a loop waits less for the one slot that its base would have elsewhere. */
    if (!insn->memory || check->stack ||
        (insn->base == X86_RSP && (insn->index == X86_REG_NONE || !tr->loop)))
        return SOFT_SLOT_STACK;
    if (insn->base < 16)
        return insn->base;
    if (insn->base == X86_REG_RIP)
        return slot_by_page(
            SOFT_SLOT_RIP, SOFT_SLOT_ABSOLUTE,
            code + (uint64_t)((tr_page_offset(tr, op->next) + insn->displacement) >> 12));
    if (insn->index != X86_REG_NONE)
        return insn->index;
    return insn->segment == X86_GS ? slot_by_page(SOFT_SLOT_GS, SOFT_SLOTS, page)
                                   : slot_by_page(SOFT_SLOT_ABSOLUTE, SOFT_SLOT_GS, page);
}

/* A slot at a fixed page or the stack hits nearly always, any other where a loop walks through a
 * page. Elsewhere each access has another object at hand, and the TLB is asked at once. */
static bool is_slot_likely(const struct translation *tr, unsigned slot)
{
    return tr->loop || slot >= SOFT_SLOT_RIP;
}

#define ARRAY(access) ((int32_t)((access) * sizeof(struct soft_tlb_entry) * SOFT_TLB_ENTRIES))

/* R10 is a linear address ^ the tag of a slot or TLB entry: jumps where the access can't be made by
 * it, that is, the page is another, the access goes on behind it, or it is not aligned to `align`
 * (0: need not be). One that is aligned to its size can't go on behind its page. */
static uint8_t *compare_emit(struct translation *tr, unsigned size, unsigned align)
{
    struct emit *e = &tr->e;
    uint8_t *jump, *place;

    if (align != 0 && align == size) {
        emit_test_reg_imm(e, HOST_R10, -(int32_t)GUEST_PAGE_SIZE | ((int32_t)size - 1));
        return emit_jcc_rel32(e, EMIT_IF_NE);
    }
    emit_alu_reg_imm(e, EMIT_CMP, HOST_R10, (int32_t)(GUEST_PAGE_SIZE - size));
    jump = e->at;
    place = emit_jcc_rel32(e, EMIT_IF_A);
    if (align != 0) { /* not equal is above here: TEST clears CF */
        emit_test_reg_imm8(e, HOST_R10, (uint8_t)(align - 1));
        emit_patch_rel32(emit_jcc_rel32(e, EMIT_IF_NE), jump);
    }
    return place;
}

/* R10 from linear to host address by the TLB, with R11 at its entry; gives the place of the jump on
 * a miss, where R10 is linear ^ the entry's tag. */
static uint8_t *hash_emit(struct translation *tr, enum soft_access access, unsigned size,
                          unsigned align)
{
    struct emit *e = &tr->e;
    uint8_t *miss;

    emit_mov_reg_reg32(e, HOST_R11, HOST_R10);
    emit_shift_imm32(e, EMIT_SHR, HOST_R11, 8);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, (SOFT_TLB_ENTRIES - 1) * 16);
    emit_alu_reg_state(e, EMIT_ADD, HOST_R11, STATE(tlb_now));
    emit_xor_reg_mem(e, HOST_R10, HOST_R11, ARRAY(access));
    miss = compare_emit(tr, size, align);
    emit_add_reg_mem(e, HOST_R10, HOST_R11, ARRAY(access) + 8);
    return miss;
}

uint8_t *tr_tlb_look(struct translation *tr, enum soft_access access, unsigned size)
{
    return hash_emit(tr, access, size, 0);
}

static struct soft_pace *pace_new(struct translation *tr, unsigned slot, uint8_t *place)
{
    struct soft_translator *t = tr->t;
    struct soft_pace *pace;

    if (slot >= SOFT_SLOT_RIP)
        return NULL;
    pace = &t->paces[t->pace_count++];
    *pace = (struct soft_pace){.place = place, .left = SOFT_PACE_MISSES};
    return pace;
}

/* The displacement of a slot's tag from GS. */
static int32_t slot_tag(const struct translation *tr, unsigned access, unsigned slot)
{
    unsigned user = tr->block->mode & SOFT_MODE_USER ? 1 : 0;

    if (slot == SOFT_SLOT_STACK)
        return STATE(stack[0].entry[0][0]) +
               (int32_t)(sizeof(struct soft_tlb_entry) * (user * 2 + access));
    return STATE(slots[0]) +
           (int32_t)(user * sizeof(struct soft_slots) +
                     sizeof(struct soft_tlb_entry) * (access * SOFT_SLOTS + slot));
}

/* R10 ^= the slot's tag, and later += its page. R11 chooses between the stack pointer's two. */
static void slot_xor(struct translation *tr, unsigned slot, int32_t tag)
{
    struct emit *e = &tr->e;

    if (slot != SOFT_SLOT_STACK) {
        emit_alu_reg_state(e, EMIT_XOR, HOST_R10, tag);
        return;
    }
    emit_mov_reg_reg32(e, HOST_R11, HOST_R10);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, SOFT_STACK_APART);
    emit_alu_reg_entry(e, EMIT_XOR, HOST_R10, HOST_R11, tag);
}

static void slot_add(struct translation *tr, unsigned slot, int32_t tag)
{
    if (slot != SOFT_SLOT_STACK)
        emit_alu_reg_state(&tr->e, EMIT_ADD, HOST_R10, tag + SOFT_SLOT_PAGE);
    else
        emit_alu_reg_entry(&tr->e, EMIT_ADD, HOST_R10, HOST_R11, tag + SOFT_SLOT_PAGE);
}

void tr_check(struct translation *tr, const struct check *check)
{
    struct emit *e = &tr->e;
    unsigned slot = slot_of(tr, check);
    int32_t tag = slot_tag(tr, check->access, slot);
    uint8_t *place;
    struct cold *cold;

    if (check->maybe) {
        (void)miss_add(tr, hash_emit(tr, check->access, check->size, check->align), check);
        return;
    }
    place = e->at;
    if (is_slot_likely(tr, slot)) {
        slot_xor(tr, slot, tag);
        cold = miss_add(tr, compare_emit(tr, check->size, check->align), check);
        slot_add(tr, slot, tag);
        cold->kind = COLD_SLOT;
        cold->stack = slot == SOFT_SLOT_STACK;
        cold->pace = pace_new(tr, slot, place);
    } else {
        cold = miss_add(tr, hash_emit(tr, check->access, check->size, check->align), check);
        cold->kind = COLD_HASH;
        cold->hashed = true;
    }
    cold->slot = tag;
    cold->access = (uint8_t)check->access;
    cold->size = (uint16_t)check->size;
    cold->align = (uint8_t)check->align;
    cold->hit = e->at;
    if (check->access == SOFT_READ && check->align == 0)
        cold->fill = SOFT_FILL_COPY;
}

bool tr_operand_load(struct translation *tr, unsigned i, unsigned size)
{
    const struct soft_op *op = &tr->block->ops[i];
    const struct check check = {.op = i, .size = size, .access = SOFT_READ};

    if (!op->insn.memory) {
        tr_guest_to(tr, HOST_R10, op->insn.rm);
        return true;
    }
    if (!tr_address(tr, op))
        return false;
    tr_check(tr, &check);
    emit_load(&tr->e, HOST_R10, HOST_R10, 0, size);
    return true;
}

/* -- out of line -- */

/* Vector and x87 operations, which neither read nor write flags where they store. */
static bool may_split(const struct translation *tr, const struct cold *cold)
{
    const struct x86_insn *insn = &tr->block->ops[cold->op].insn;

    return (cold->kind == COLD_SLOT || cold->kind == COLD_HASH) && cold->access == SOFT_WRITE &&
           cold->align == 0 && (insn->op == X86_OP_VECTOR || insn->op == X86_OP_X87);
}

/* The operation on a copy: see leaf_split.c. Ends where it must be interpreted. */
static void split_emit(struct translation *tr, const struct cold *cold)
{
    const struct x86_insn *insn = &tr->block->ops[cold->op].insn;
    const struct emit before = tr->e;
    struct emit_registers regs;
    struct x86_vector_insn v;
    struct tr_renaming r;
    uint8_t *declined;

    if (!x86_vector_describe(insn, tr->c->vm->cpuid->feature, &v))
        return;
    emit_registers_of(insn, &v, &regs);
    if (!tr_rename(insn, &regs, &r))
        return;
    tr_flags_cook(tr, cold->recipe);
    tr_leaf_call(tr, cold->op, soft_leaf_split_begin);
    declined = emit_jcc_rel32(&tr->e, EMIT_IF_E);
    emit_mov_reg_imm64(&tr->e, HOST_R10, (uint64_t)(uintptr_t)tr->c->split.bytes);
    tr_renamed_load(tr, &r);
    if (!emit_insn(&tr->e, insn, &v, &r.rename)) {
        tr->e = before;
        return;
    }
    tr_leaf_call(tr, cold->op, soft_leaf_split_end);
    emit_patch_rel32(emit_jmp_rel32(&tr->e), cold->back);
    emit_patch_rel32(declined, tr->e.at);
}

/* R10 is the linear address ^ the slot's tag. Ends where the access must be interpreted. */
static void slot_look(struct translation *tr, const struct cold *cold)
{
    struct emit *e = &tr->e;
    uint8_t *misaligned = NULL;

    if (cold->align != 0) { /* tags have no offset */
        emit_test_reg_imm8(e, HOST_R10, cold->align - 1);
        misaligned = emit_jcc_rel32(e, EMIT_IF_NE);
    }
    emit_mov_state_imm32(e, STATE(slot_limit), (uint32_t)GUEST_PAGE_SIZE - cold->size);
    emit_mov_state_imm32(e, STATE(slot_what),
                         cold->access | (uint32_t)cold->size << 8 | cold->fill);
    if (cold->stack)
        emit_lea(e, HOST_R11, HOST_R11, HOST_NONE, 0, cold->slot);
    else
        emit_mov_reg_imm64(e, HOST_R11, (uint64_t)cold->slot);
    emit_patch_rel32(emit_call_rel32(e), to_write(tr->t, tr->t->fixed.slot[cold->access]));
    emit_patch_rel32(emit_jcc_rel32(e, EMIT_IF_NE), cold->hit);
    if (may_split(tr, cold))
        split_emit(tr, cold);
    if (misaligned)
        emit_patch_rel32(misaligned, e->at);
}

/* R10 from what a miss in the TLB has left there to what slot_look() wants. */
static void hash_missed(struct translation *tr, const struct cold *cold)
{
    emit_xor_reg_mem(&tr->e, HOST_R10, HOST_R11, ARRAY(cold->access));
    emit_alu_reg_state(&tr->e, EMIT_XOR, HOST_R10, cold->slot);
}

/*
 * An access in a loop that misses its slot all the time (a list, a tree, a table) had better ask
 * the TLB at once: its misses are counted, and if they follow each other fast, the access's code
 * becomes a jump to the look into the TLB that is emitted here.
 */
static void pace_emit(struct translation *tr, const struct cold *cold)
{
    struct emit *e = &tr->e;
    uint8_t *counted, *over, *missed, *look;

    emit_mov_reg_imm64(e, HOST_R11, (uint64_t)(uintptr_t)&cold->pace->left);
    emit_decrement(e, HOST_R11);
    over = emit_jcc_rel32(e, EMIT_IF_E);
    counted = emit_jmp_rel32(e);
    emit_patch_rel32(over, e->at);
    emit_mov_reg_imm64(e, HOST_R11, (uint64_t)(uintptr_t)cold->pace);
    emit_patch_rel32(emit_call_rel32(e), to_write(tr->t, tr->t->fixed.pace));
    look = emit_jmp_rel32(e);
    cold->pace->hash = e->at;
    missed = hash_emit(tr, (enum soft_access)cold->access, cold->size, cold->align);
    emit_patch_rel32(emit_jmp_rel32(e), cold->hit);
    emit_patch_rel32(missed, e->at);
    hash_missed(tr, cold);
    emit_patch_rel32(counted, e->at);
    emit_patch_rel32(look, e->at);
}

bool soft_leaf_pace(struct soft_vcpu *c, struct soft_pace *pace)
{
    const uint64_t fast = 150; /* cycles between misses: more than they cost */
    uint64_t now = __builtin_ia32_rdtsc();
    int32_t distance = (int32_t)(pace->hash - (pace->place + 5));

    (void)c;
    pace->left = SOFT_PACE_MISSES;
    if (pace->tsc != 0 && now - pace->tsc < SOFT_PACE_MISSES * fast) {
        pace->place[0] = 0xe9;
        __builtin_memcpy(pace->place + 1, &distance, sizeof distance);
    }
    pace->tsc = now;
    return true;
}

/* A store in a loop may be one beside code each time: what slot_emit() does, without the way there.
 * R10 stays where it is not. */
static void apart_emit(struct translation *tr, const struct cold *cold)
{
    struct emit *e = &tr->e;
    uint8_t *before, *behind;

    emit_alu_reg_state(e, EMIT_XOR, HOST_R10, cold->slot);
    emit_mov_reg_reg(e, HOST_R11, HOST_R10);
    emit_alu_reg_state(e, EMIT_SUB, HOST_R11, STATE(apart.base));
    emit_alu_reg_imm(e, EMIT_CMP, HOST_R11, (int32_t)(GUEST_PAGE_SIZE - cold->size));
    behind = emit_jcc_rel32(e, EMIT_IF_A);
    emit_alu_reg_state(e, EMIT_CMP, HOST_R10, STATE(apart.from));
    before = emit_jcc_rel32(e, EMIT_IF_B);
    emit_alu_reg_state(e, EMIT_ADD, HOST_R10, STATE(apart.host));
    emit_patch_rel32(emit_jmp_rel32(e), cold->hit);
    emit_patch_rel32(behind, e->at);
    emit_patch_rel32(before, e->at);
    emit_alu_reg_state(e, EMIT_XOR, HOST_R10, cold->slot);
}

/* What lies across two pages of the stack goes one by one: gives the place of that jump. */
static uint8_t *across_look(struct translation *tr, const struct cold *cold)
{
    struct emit *e = &tr->e;

    uint8_t *place;

    emit_mov_state_reg(e, STATE(saved_slot), HOST_R11);
    emit_mov_reg_reg32(e, HOST_R11, HOST_R10);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, (int32_t)GUEST_PAGE_SIZE - 1);
    emit_alu_reg_imm32(e, EMIT_CMP, HOST_R11, (int32_t)(GUEST_PAGE_SIZE - cold->size));
    place = emit_jcc_rel32(e, EMIT_IF_A);
    emit_mov_reg_state(e, HOST_R11, STATE(saved_slot));
    return place;
}

void tr_check_cold(struct translation *tr, const struct cold *cold)
{
    bool several = cold->stack && (cold->kind == COLD_RUN || cold->kind == COLD_SHARED);
    uint8_t *across = several ? across_look(tr, cold) : NULL;

    if (cold->kind == COLD_SLOT && cold->access == SOFT_WRITE && tr->loop && !cold->stack)
        apart_emit(tr, cold);
    if (cold->hashed)
        hash_missed(tr, cold);
    else if (cold->pace)
        pace_emit(tr, cold);
    slot_look(tr, cold);
    emit_patch_rel32(across, tr->e.at);
}

/* -- loops -- */

#define LOOP_BYTES     128
#define LOOP_BYTES_JMP 1024 /* back to where an interpreter fetches its next operation, perhaps */

bool tr_is_loop(const struct translation *tr)
{
    const struct soft_op *last = &tr->block->ops[tr->block->count - 1];
    int32_t begin = tr_page_offset(tr, 0), target;

    /* An interpreter's operation: each jump that the host mispredicts waits for these accesses. */
    if (last->insn.op == X86_OP_JMP_IND)
        return !last->insn.memory || last->insn.base != X86_REG_RIP;
    if (last->insn.op != X86_OP_JCC && last->insn.op != X86_OP_JMP && last->insn.op != X86_OP_LOOP)
        return false;
    return tr_branch_offset(tr, last, &target) && target <= begin &&
           target >= begin - (last->insn.op == X86_OP_JMP ? LOOP_BYTES_JMP : LOOP_BYTES);
}
