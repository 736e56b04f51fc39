/*
 * The translator's fixed code: entry from C, exits to C, the lookup of indirect targets, and the
 * loading of the vector registers. Emitted once per vCPU, at the beginning of its code cache.
 *
 * None of it may change guest flags that are in the host's, but where a comment says so.
 */
#include <cpuid.h>
#include <stddef.h>
#include <string.h>

#include "cpu/soft/slots.h"
#include "cpu/soft/translate_internal.h"
#include "cpu/soft/vector.h"

#define XCR0_ZMM_HI256 0x40

static void raw(struct emit *e, const void *bytes, size_t length)
{
    if (e->full || (size_t)(e->end - e->at) < length) {
        e->full = true;
        return;
    }
    memcpy(e->at, bytes, length);
    e->at += length;
}

#define RAW(e, ...) raw(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* [gs:displacement] behind an opcode: ModRM, SIB without base, disp32. */
static void gs_operand(struct emit *e, unsigned reg, int32_t displacement)
{
    RAW(e, (uint8_t)((reg & 7) << 3 | 4), 0x25);
    raw(e, &displacement, 4);
}

/* -- vector registers -- */

static void ymm_move(struct emit *e, unsigned n, bool load)
{
    RAW(e, 0x65, 0xc4, (uint8_t)((n & 8 ? 0 : 0x80) | 0x61), 0x7e, load ? 0x6f : 0x7f);
    gs_operand(e, n, STATE(vector.zmm) + (int32_t)(64 * n));
}

/* VMOVDQU: 0 above bit 127. */
static void xmm_load(struct emit *e, unsigned n)
{
    RAW(e, 0x65, 0xc4, (uint8_t)((n & 8 ? 0 : 0x80) | 0x61), 0x7a, 0x6f);
    gs_operand(e, n, STATE(vector.zmm) + (int32_t)(64 * n));
}

static void zmm_move(struct emit *e, unsigned n, bool load)
{
    RAW(e, 0x65, 0x62, (uint8_t)((n & 8 ? 0 : 0x80) | (n & 16 ? 0 : 0x10) | 0x61), 0xfe, 0x48,
        load ? 0x6f : 0x7f);
    gs_operand(e, n, STATE(vector.zmm) + (int32_t)(64 * n));
}

static void opmask_move(struct emit *e, unsigned n, bool load)
{
    RAW(e, 0x65, 0xc4, 0xe1, 0xf8, load ? 0x90 : 0x91);
    gs_operand(e, n, STATE(vector.opmask) + (int32_t)(8 * n));
}

static void vectors_move(struct emit *e, bool wide, bool load)
{
    for (unsigned n = 0; n < (wide ? 32u : 16u); n++) {
        if (wide)
            zmm_move(e, n, load);
        else
            ymm_move(e, n, load);
    }
    for (unsigned n = 0; wide && n < 8; n++)
        opmask_move(e, n, load);
}

static void mxcsr_move(struct emit *e, bool load, int32_t displacement)
{
    RAW(e, 0x65, 0x0f, 0xae);
    gs_operand(e, load ? 2 : 3, displacement);
}

static void vector_load_end(struct soft_translator *t, struct emit *e)
{
    mxcsr_move(e, true, STATE(vector.mxcsr));
    emit_mov_state_imm32(e, STATE(vector_loaded), 1);
    emit_mov_reg_imm64(e, HOST_R10, (uint64_t)(uintptr_t)t->fixed.vector_present);
    emit_mov_state_reg(e, STATE(vector_ready), HOST_R10);
    emit_ret(e);
}

/* Called by translated code; changes R10 alone. */
static void vector_load_emit(struct soft_translator *t, struct emit *e)
{
    mxcsr_move(e, false, STATE(host_mxcsr));
    vectors_move(e, t->wide, true);
    vector_load_end(t, e);
}

#define VZEROUPPER 0xc5, 0xf8, 0x77

/*
 * The same where bits 128 and up of the first 16 registers are 0. The host must know that, too:
 * while it takes them for used, each change between SSE's instructions and AVX's costs it about a
 * hundred cycles.
 */
static void vector_load_low_emit(struct soft_translator *t, struct emit *e)
{
    mxcsr_move(e, false, STATE(host_mxcsr));
    for (unsigned n = 16; t->wide && n < 32; n++)
        zmm_move(e, n, true);
    for (unsigned n = 0; t->wide && n < 8; n++)
        opmask_move(e, n, true);
    RAW(e, VZEROUPPER);
    for (unsigned n = 0; n < 16; n++)
        xmm_load(e, n);
    vector_load_end(t, e);
}

/* On the way to C, where all else is saved: changes RAX, RCX, RDX, R10 and the flags. */
static void vector_store_emit(struct soft_translator *t, struct emit *e)
{
    uint8_t *skip, *used;

    emit_mov_reg_state32(e, HOST_RAX, STATE(vector_loaded));
    emit_alu_reg_imm32(e, EMIT_CMP, HOST_RAX, 0);
    skip = emit_jcc_rel32(e, EMIT_IF_E);
    vectors_move(e, t->wide, false);
    mxcsr_move(e, false, STATE(vector.mxcsr));
    mxcsr_move(e, true, STATE(host_mxcsr));
    emit_mov_reg_imm64(e, HOST_R10, (uint64_t)(uintptr_t)t->fixed.vector_load);
    if (t->in_use_1) {
        emit_mov_reg_imm64(e, HOST_RCX, 1);
        RAW(e, 0x0f, 0x01, 0xd0); /* XGETBV */
        emit_alu_reg_imm32(e, EMIT_AND, HOST_RAX, X86_XCR0_AVX | XCR0_ZMM_HI256);
        used = emit_jcc_rel32(e, EMIT_IF_NE);
        emit_mov_reg_imm64(e, HOST_R10, (uint64_t)(uintptr_t)t->fixed.vector_load_low);
        emit_patch_rel32(used, e->at);
    }
    emit_mov_state_reg(e, STATE(vector_ready), HOST_R10);
    RAW(e, VZEROUPPER);
    emit_mov_state_imm32(e, STATE(vector_loaded), 0);
    emit_patch_rel32(skip, e->at);
}

void soft_vectors_judge(struct soft_vcpu *c)
{
    const struct soft_translator *t = c->translator;
    uint64_t used = 0;

    c->vector_changed = false;
    for (unsigned n = 0; n < 16; n++) {
        const uint64_t *zmm = (const uint64_t *)(const void *)c->vector.zmm[n];

        for (unsigned i = 2; i < 8; i++)
            used |= zmm[i];
    }
    c->vector_ready = used ? t->fixed.vector_load : t->fixed.vector_load_low;
}

/* -- the x87 unit -- */

#define X87(field) (STATE(vector.fxsave) + FXSAVE_##field)

/* XSAVE64 or XRSTOR64 of the x87 part. Destroys RAX and RDX. */
static void x87_move(struct emit *e, bool load)
{
    emit_mov_reg_imm64(e, HOST_RAX, 1);
    emit_mov_reg_imm64(e, HOST_RDX, 0);
    RAW(e, 0x65, 0x48, 0x0f, 0xae);
    gs_operand(e, load ? 5 : 4, STATE(vector.fxsave));
}

/* Called by translated code; changes R10 alone. */
static void x87_load_emit(struct soft_translator *t, struct emit *e)
{
    emit_mov_state_reg(e, STATE(saved_rax), HOST_RAX);
    emit_mov_state_reg(e, STATE(saved_rcx), HOST_RDX);
    emit_mov_state_imm32(e, STATE(vector.xsave_header), 1);
    x87_move(e, true);
    emit_mov_reg_state(e, HOST_RAX, STATE(saved_rax));
    emit_mov_reg_state(e, HOST_RDX, STATE(saved_rcx));
    emit_mov_reg_state(e, HOST_R10, X87(FIP));
    emit_mov_state_reg(e, STATE(x87_fip), HOST_R10);
    emit_mov_reg_state(e, HOST_R10, X87(FDP));
    emit_mov_state_reg(e, STATE(x87_fdp), HOST_R10);
    emit_mov_state_imm32(e, STATE(x87_loaded), 1);
    emit_mov_reg_imm64(e, HOST_R10, (uint64_t)(uintptr_t)t->fixed.vector_present);
    emit_mov_state_reg(e, STATE(x87_ready), HOST_R10);
    emit_ret(e);
}

/* On the way to C, where registers and flags are saved already. The pointers are
 * the guest's, and FOP, which only unmasked exceptions change, is as it was. C wants an empty stack
 * and the control word of the ABI. */
static void x87_store_emit(struct soft_translator *t, struct emit *e)
{
    uint8_t *skip, *clean;

    emit_mov_reg_state32(e, HOST_RAX, STATE(x87_loaded));
    emit_alu_reg_imm32(e, EMIT_CMP, HOST_RAX, 0);
    skip = emit_jcc_rel32(e, EMIT_IF_E);
    emit_mov_reg_state(e, HOST_RCX, STATE(x87_fdp));
    emit_mov_reg_state16(e, HOST_RSI, X87(FOP));
    emit_mov_reg_state(e, HOST_R11, STATE(x87_fip));
    x87_move(e, false);
    emit_mov_state_reg(e, X87(FDP), HOST_RCX);
    emit_mov_state_reg16(e, X87(FOP), HOST_RSI);
    emit_mov_state_reg(e, X87(FIP), HOST_R11);
    emit_mov_reg_state16(e, HOST_RAX, X87(FCW));
    emit_mov_reg_state16(e, HOST_RCX, X87(FTW));
    emit_alu_reg_imm32(e, EMIT_XOR, HOST_RAX, 0x37f);
    emit_alu_reg_reg32(e, EMIT_OR, HOST_RAX, HOST_RCX);
    clean = emit_jcc_rel32(e, EMIT_IF_E);
    RAW(e, 0xdb, 0xe3); /* FNINIT */
    emit_patch_rel32(clean, e->at);
    emit_mov_state_imm32(e, STATE(x87_loaded), 0);
    emit_mov_reg_imm64(e, HOST_R10, (uint64_t)(uintptr_t)t->fixed.x87_load);
    emit_mov_state_reg(e, STATE(x87_ready), HOST_R10);
    emit_patch_rel32(skip, e->at);
}

/* -- entry and exits -- */

static const uint8_t kept[] = {HOST_RBX, HOST_RBP, HOST_R12, HOST_R13, HOST_R14, HOST_R15};

static void registers_load(struct emit *e)
{
    for (unsigned n = 0; n < 16; n++) {
        if (n != X86_RSP && !tr_is_displaced(n))
            emit_mov_reg_state(e, (enum host_register)n, GPR(n));
    }
    emit_mov_reg_state(e, HOST_R9, GPR(X86_RSP));
}

/* enter(vCPU in RDI, code in RSI): all guest registers from memory, then jump. */
static void enter_emit(struct emit *e)
{
    for (unsigned i = 0; i < sizeof kept; i++)
        emit_push(e, kept[i]);
    emit_lea(e, HOST_RSP, HOST_RSP, HOST_NONE, 0, -8); /* to 16 bytes, for calls of C */
    emit_mov_state_reg(e, STATE(c_stack), HOST_RSP);
    emit_mov_reg_state(e, HOST_RSP, STATE(return_stack));
    emit_mov_reg_reg(e, HOST_R10, HOST_RSI);
    registers_load(e);
    emit_jmp_reg(e, HOST_R10);
}

/* On C's stack: back to who called enter(). */
static void leave_emit(struct emit *e)
{
    emit_lea(e, HOST_RSP, HOST_RSP, HOST_NONE, 0, 8);
    for (unsigned i = sizeof kept; i > 0; i--)
        emit_pop(e, kept[i - 1]);
    emit_ret(e);
}

/* All of the guest to memory, C's stack, and a call of `service`. R10 is what C is told. `own`:
 * bytes on the return stack that are not frames. */
static void service_emit(struct soft_translator *t, struct emit *e, uintptr_t service, int32_t own)
{
    for (unsigned n = 1; n < 16; n++) {
        if (n != X86_RSP && !tr_is_displaced(n))
            emit_mov_state_reg(e, GPR(n), (enum host_register)n);
    }
    emit_mov_state_reg(e, GPR(X86_RSP), HOST_R9);
    vector_store_emit(t, e);
    x87_store_emit(t, e);
    emit_lea(e, HOST_R10, HOST_RSP, HOST_NONE, 0, own);
    emit_mov_state_reg(e, STATE(return_stack), HOST_R10);
    emit_mov_reg_state(e, HOST_RSP, STATE(c_stack));
    emit_mov_reg_imm64(e, HOST_RDI, (uint64_t)(uintptr_t)t->vcpu);
    emit_mov_reg_imm64(e, HOST_RAX, service);
    emit_call_reg(e, HOST_RAX);
}

static void exit_begin_emit(struct emit *e, bool in_memory)
{
    emit_mov_state_reg(e, STATE(exit_value), HOST_R10);
    emit_mov_state_reg(e, GPR(X86_RAX), HOST_RAX);
    if (!in_memory) {
        emit_lahf_seto(e);
        emit_mov_state_reg16(e, STATE(arith), HOST_RAX);
        emit_mov_state_imm64(e, STATE(flags_site), 0);
    }
}

/* An exit that goes on at another block, with the flags in memory. Everything is a jump: the host
 * finds each call on its own stack of return addresses answered by a return. */
static void exit_emit(struct soft_translator *t, struct emit *e, enum exit_kind kind,
                      bool in_memory)
{
    static soft_exit_service *const services[EXIT_KINDS] = {
        [EXIT_RIP] = soft_exit_rip, [EXIT_LINK] = soft_exit_link, [EXIT_OP] = soft_exit_op};
    uint8_t *leave;

    t->fixed.exit[kind][in_memory] = to_execute(t, e->at);
    exit_begin_emit(e, in_memory);
    service_emit(t, e, (uintptr_t)services[kind], 0);
    RAW(e, 0x48, 0x85, 0xc0); /* TEST RAX, RAX */
    leave = emit_jcc_rel32(e, EMIT_IF_E);
    emit_mov_reg_state(e, HOST_RSP, STATE(return_stack));
    emit_mov_reg_reg(e, HOST_R10, HOST_RAX);
    registers_load(e);
    emit_jmp_reg(e, HOST_R10);
    emit_patch_rel32(leave, e->at);
    leave_emit(e);
}

/* A twin within a block: called, and returns with the flags in the host's, too. A twin that leaves
 * by longjmp leaves no word of its own on the return stack. */
static void twin_emit(struct soft_translator *t, struct emit *e, bool in_memory)
{
    uint8_t *leave;

    t->fixed.twin[in_memory] = to_execute(t, e->at);
    exit_begin_emit(e, in_memory);
    service_emit(t, e, (uintptr_t)soft_exit_twin, 8);
    RAW(e, 0x84, 0xc0); /* TEST AL, AL */
    leave = emit_jcc_rel32(e, EMIT_IF_E);
    emit_mov_reg_state(e, HOST_RSP, STATE(return_stack));
    emit_lea(e, HOST_RSP, HOST_RSP, HOST_NONE, 0, -8);
    emit_mov_reg_state16(e, HOST_RAX, STATE(arith));
    emit_restore_flags(e);
    registers_load(e);
    emit_ret(e);
    emit_patch_rel32(leave, e->at);
    leave_emit(e);
}

/* -- leaves -- */

/* Calls a C function: the vCPU in RDI, what else it takes is set. RSP is aligned: translated code
 * runs 8 bytes off, as functions begin, and has called here. */
static void c_call(struct emit *e, const struct soft_vcpu *c)
{
    emit_mov_reg_imm64(e, HOST_RDI, (uint64_t)(uintptr_t)c);
    RAW(e, 0x41, 0xff, 0xd3); /* CALL R11 */
    RAW(e, 0x84, 0xc0);       /* TEST AL, AL: NE, it has done its work */
}

/* What C functions may change, but R10 and R11. */
static const uint8_t lost[] = {HOST_RAX, HOST_RCX, HOST_RDX, HOST_RSI, HOST_RDI, HOST_R8};

static void registers_store(struct emit *e)
{
    for (unsigned n = 0; n < 16; n++) {
        if (n != X86_RSP && !tr_is_displaced(n))
            emit_mov_state_reg(e, GPR(n), (enum host_register)n);
    }
    emit_mov_state_reg(e, GPR(X86_RSP), HOST_R9);
}

static void lost_move(struct emit *e, bool load)
{
    for (unsigned i = 0; i < sizeof lost; i++) {
        if (load)
            emit_mov_reg_state(e, lost[i], GPR(lost[i]));
        else
            emit_mov_state_reg(e, GPR(lost[i]), lost[i]);
    }
    if (load)
        emit_mov_reg_state(e, HOST_R9, GPR(X86_RSP));
    else
        emit_mov_state_reg(e, GPR(X86_RSP), HOST_R9);
}

/* Settles recorded flags, if there are any; R10 and R11 stay. Spoils the host's. */
static void settle_emit(struct soft_vcpu *c, struct emit *e)
{
    uint8_t *skip;

    RAW(e, 0x65, 0x48, 0x83, 0x3c, 0x25); /* CMP [gs:flags_site], 0 */
    raw(e, &(int32_t){STATE(flags_site)}, 4);
    RAW(e, 0);
    skip = emit_jcc_rel32(e, EMIT_IF_E);
    registers_store(e);
    RAW(e, 0x41, 0x52, 0x41, 0x53); /* PUSH R10; PUSH R11 */
    emit_mov_reg_imm64(e, HOST_R11, (uint64_t)(uintptr_t)soft_flags_settle);
    c_call(e, c);
    RAW(e, 0x41, 0x5b, 0x41, 0x5a);
    lost_move(e, true);
    emit_patch_rel32(skip, e->at);
}

/* Flags from memory, recorded or not, to the host's. */
static void flags_load_emit(struct soft_vcpu *c, struct emit *e)
{
    settle_emit(c, e);
    emit_mov_state_reg(e, STATE(saved_rax), HOST_RAX);
    emit_mov_reg_state16(e, HOST_RAX, STATE(arith));
    emit_restore_flags(e);
    emit_mov_reg_state(e, HOST_RAX, STATE(saved_rax));
    emit_ret(e);
}

/* The leaf in R11 for the operation in R10. */
static void leaf_emit(struct soft_vcpu *c, struct emit *e)
{
    registers_store(e);
    settle_emit(c, e);
    emit_mov_state_reg(e, STATE(op), HOST_R10);
    emit_mov_reg_reg(e, HOST_RSI, HOST_R10);
    c_call(e, c);
    registers_load(e);
    emit_ret(e);
}

/* soft_leaf_fill() for the linear address in R10. B: SOFT_FILL_TWIN, E: SOFT_FILL_AGAIN, R10 is
 * kept; A: SOFT_FILL_DIRECT, R10 is the host address. Only the registers that C functions may
 * change are saved. */
static void fill_emit(struct soft_vcpu *c, struct emit *e)
{
    lost_move(e, false);
    emit_mov_state_reg(e, STATE(exit_value), HOST_R10);
    emit_mov_reg_reg(e, HOST_RSI, HOST_R10);
    emit_mov_reg_state32(e, HOST_RDX, STATE(slot_what));
    emit_mov_reg_imm64(e, HOST_R11, (uint64_t)(uintptr_t)soft_leaf_fill);
    c_call(e, c);
    RAW(e, 0x3c, SOFT_FILL_AGAIN); /* CMP AL */
    lost_move(e, true);
    emit_mov_reg_state(e, HOST_R10, STATE(exit_value));
}

/* PUSH [R11 + displacement]; POP [GS:R11 + displacement] */
static void push_r11(struct emit *e, int32_t displacement)
{
    RAW(e, 0x41, 0xff, 0xb3);
    raw(e, &displacement, 4);
}

static void pop_gs_r11(struct emit *e, int32_t displacement)
{
    RAW(e, 0x65, 0x41, 0x8f, 0x83);
    raw(e, &displacement, 4);
}

/* A store near the last one beside code: returns with its host address as slot_emit() does. */
static void apart_emit(struct soft_vcpu *c, struct emit *e)
{
    uint8_t *before, *behind;

    emit_mov_reg_reg(e, HOST_R11, HOST_R10);
    emit_alu_reg_state(e, EMIT_SUB, HOST_R11, STATE(apart.base));
    emit_alu_reg_state(e, EMIT_CMP, HOST_R11, STATE(slot_limit));
    behind = emit_jcc_rel32(e, EMIT_IF_A);
    emit_alu_reg_state(e, EMIT_CMP, HOST_R10, STATE(apart.from));
    before = emit_jcc_rel32(e, EMIT_IF_B);
    tr_measure(c, e, STATE(counters.leaf_stores_apart));
    emit_alu_reg_state(e, EMIT_ADD, HOST_R10, STATE(apart.host));
    emit_ret(e);
    emit_patch_rel32(behind, e->at);
    emit_patch_rel32(before, e->at);
}

/*
 * An access whose page is not in its slot. R10 is its linear address ^ the slot's tag, R11 the
 * displacement of the tag from GS. Looks into the TLB, which is filled first if need be, and makes
 * its entry the slot's. NE: R10 is the host address. E: the access must be interpreted.
 */
static void slot_emit(struct soft_translator *t, struct emit *e, enum soft_access access)
{
    struct soft_vcpu *c = t->vcpu;
    int32_t array = (int32_t)(access * sizeof(struct soft_tlb_entry) * SOFT_TLB_ENTRIES);
    uint8_t *again, *miss, *direct;

    t->fixed.slot[access] = to_execute(t, e->at);
    RAW(e, 0x65, 0x4d, 0x33, 0x13); /* XOR R10, [GS:R11]: linear */
    emit_mov_state_reg(e, STATE(saved_slot), HOST_R11);
    if (access == SOFT_WRITE)
        apart_emit(c, e);
    tr_measure(c, e, STATE(counters.slot_misses));
    again = e->at;
    emit_mov_reg_reg32(e, HOST_R11, HOST_R10);
    emit_shift_imm32(e, EMIT_SHR, HOST_R11, 8);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, (SOFT_TLB_ENTRIES - 1) * 16);
    emit_alu_reg_state(e, EMIT_ADD, HOST_R11, STATE(tlb_now));
    emit_xor_reg_mem(e, HOST_R10, HOST_R11, array);
    emit_alu_reg_state(e, EMIT_CMP, HOST_R10, STATE(slot_limit));
    miss = emit_jcc_rel32(e, EMIT_IF_A);
    push_r11(e, array);
    push_r11(e, array + 8);
    emit_inc_state(e, STATE(slot_fills));
    emit_add_reg_mem(e, HOST_R10, HOST_R11, array + 8);
    emit_mov_reg_state(e, HOST_R11, STATE(saved_slot));
    emit_mov_state_reg(e, STATE(slot_filled), HOST_R11);
    pop_gs_r11(e, SOFT_SLOT_PAGE);
    pop_gs_r11(e, 0);
    emit_ret(e); /* flags are those of ADD: no host address is 0 */
    emit_patch_rel32(miss, e->at);
    emit_xor_reg_mem(e, HOST_R10, HOST_R11, array);
    fill_emit(c, e);
    emit_patch_rel32(emit_jcc_rel32(e, EMIT_IF_E), again);
    direct = emit_jcc_rel32(e, EMIT_IF_A);
    RAW(e, 0x4d, 0x39, 0xd2); /* CMP R10, R10: E */
    emit_patch_rel32(direct, e->at);
    emit_ret(e);
}

/* soft_leaf_pace() for what R11 points to; R10 stays. */
static void pace_emit(struct soft_vcpu *c, struct emit *e)
{
    lost_move(e, false);
    emit_mov_state_reg(e, STATE(exit_value), HOST_R10);
    emit_mov_reg_reg(e, HOST_RSI, HOST_R11);
    emit_mov_reg_imm64(e, HOST_R11, (uint64_t)(uintptr_t)soft_leaf_pace);
    c_call(e, c);
    lost_move(e, true);
    emit_mov_reg_state(e, HOST_R10, STATE(exit_value));
    emit_ret(e);
}

/* -- lookup -- */

/* An instruction on [gs:r11*4 + displacement], R11 = 8 * the low 16 bits of a key. */
static void lookup_operand(struct emit *e, uint8_t rex, uint8_t opcode, uint8_t reg,
                           int32_t displacement)
{
    RAW(e, 0x65, rex, opcode, (uint8_t)((reg & 7) << 3 | 4), 0x9d);
    raw(e, &displacement, 4);
}

/* For the key R10 + salt: R11 as above. No flag is touched. */
static void lookup_index(struct emit *e, int32_t salt)
{
    emit_mov_reg_state(e, HOST_R11, salt);
    emit_lea(e, HOST_R11, HOST_R11, HOST_R10, 0, 0);
    emit_movzx16(e, HOST_R11, HOST_R11);
    RAW(e, 0x4e, 0x8d, 0x1c, 0xdd, 0, 0, 0, 0); /* LEA R11, [R11*8] */
}

/* Then, if there is an entry with that key, to its code. Changes R11 and RCX, which is saved. */
static void lookup_try(struct emit *e, int32_t salt, bool in_memory)
{
    uint8_t *hit, *miss;

    lookup_index(e, salt);
    lookup_operand(e, 0x4e, 0x8b, HOST_R11, LOOKUP(key));
    emit_mov_reg_state(e, HOST_RCX, salt);
    RAW(e, 0x4a, 0x8d, 0x0c, 0x11);       /* LEA RCX, [RCX + R10] */
    RAW(e, 0x48, 0xf7, 0xd1);             /* NOT RCX */
    RAW(e, 0x4a, 0x8d, 0x4c, 0x19, 0x01); /* LEA RCX, [RCX + R11 + 1] */
    hit = emit_jrcxz_rel8(e);
    miss = emit_jmp_rel32(e);
    emit_patch_rel8(hit, e->at);
    lookup_index(e, salt);
    lookup_operand(e, 0x4a, 0x8b, HOST_RCX, LOOKUP(page));
    emit_mov_state_reg(e, STATE(code_page), HOST_RCX);
    emit_mov_reg_state(e, HOST_RCX, STATE(saved_rcx));
    lookup_operand(e, 0x42, 0xff, 4, in_memory ? LOOKUP(code_flags) : LOOKUP(code));
    emit_patch_rel32(miss, e->at);
}

/* The rip in R10 is in no table: a leaf looks where C would, or C does. Flags go to memory. */
static void find_emit(struct soft_translator *t, struct emit *e)
{
    uint8_t *unknown;

    t->fixed.find[0] = to_execute(t, e->at);
    emit_mov_state_reg(e, STATE(saved_rax), HOST_RAX);
    emit_lahf_seto(e);
    emit_mov_state_reg16(e, STATE(arith), HOST_RAX);
    emit_mov_state_imm64(e, STATE(flags_site), 0);
    emit_mov_reg_state(e, HOST_RAX, STATE(saved_rax));
    t->fixed.find[1] = to_execute(t, e->at);
    emit_mov_state_reg(e, STATE(exit_value), HOST_R10);
    lost_move(e, false);
    emit_mov_reg_imm64(e, HOST_R11, (uint64_t)(uintptr_t)soft_leaf_target);
    emit_lea(e, HOST_RSP, HOST_RSP, HOST_NONE, 0, -8); /* it was not called, but jumped to */
    c_call(e, t->vcpu);
    emit_lea(e, HOST_RSP, HOST_RSP, HOST_NONE, 0, 8);
    lost_move(e, true);
    emit_mov_reg_state(e, HOST_R10, STATE(exit_value));
    unknown = emit_jcc_rel32(e, EMIT_IF_E);
    RAW(e, 0x65, 0xff); /* JMP [gs:found] */
    gs_operand(e, 4, STATE(found));
    emit_patch_rel32(unknown, e->at);
    emit_patch_rel32(emit_jmp_rel32(e), to_write(t, t->fixed.exit[EXIT_RIP][1]));
}

/* R10 is the rip to go to, and stays: code that was dropped since expects it there. */
static void lookup_emit(struct soft_translator *t, struct emit *e, bool in_memory)
{
    uint8_t *quiet;

    t->fixed.lookup[in_memory] = to_execute(t, e->at);
    tr_measure(t->vcpu, e, STATE(counters.lookups));
    emit_mov_state_reg(e, STATE(saved_rcx), HOST_RCX);
    emit_mov_reg_state32(e, HOST_RCX, STATE(request));
    quiet = emit_jrcxz_rel8(e);
    emit_mov_reg_state(e, HOST_RCX, STATE(saved_rcx));
    emit_patch_rel32(emit_jmp_rel32(e), to_write(t, t->fixed.exit[EXIT_RIP][in_memory]));
    emit_patch_rel8(quiet, e->at);
    lookup_try(e, STATE(salt), in_memory);
    lookup_try(e, STATE(salt_global), in_memory);
    emit_mov_reg_state(e, HOST_RCX, STATE(saved_rcx));
    emit_patch_rel32(emit_jmp_rel32(e), to_write(t, t->fixed.find[in_memory]));
}

/* A link has failed: to the lookup, but now and then to the leaf that links it anew. So links that
 * fail often, as those of a process that has ended, are the first to get another target. */
static void missed_emit(struct soft_translator *t, struct emit *e, bool in_memory)
{
    uint8_t *over;

    t->fixed.missed[in_memory] = to_execute(t, e->at);
    if (in_memory) {
        emit_dec_state32(e, STATE(link_patience));
        emit_patch_rel32(emit_jcc_rel32(e, EMIT_IF_NE), to_write(t, t->fixed.lookup[1]));
    } else {
        emit_mov_state_reg(e, STATE(saved_rcx), HOST_RCX);
        emit_mov_reg_state32(e, HOST_RCX, STATE(link_patience));
        emit_lea(e, HOST_RCX, HOST_RCX, HOST_NONE, 0, -1);
        emit_mov_state_reg32(e, STATE(link_patience), HOST_RCX);
        over = emit_jrcxz_rel8(e);
        emit_mov_reg_state(e, HOST_RCX, STATE(saved_rcx));
        emit_patch_rel32(emit_jmp_rel32(e), to_write(t, t->fixed.lookup[0]));
        emit_patch_rel8(over, e->at);
        emit_mov_reg_state(e, HOST_RCX, STATE(saved_rcx));
    }
    emit_patch_rel32(emit_jmp_rel32(e), to_write(t, t->fixed.find[in_memory]));
}

/* A return whose frame is not the last one: to R10, whose key is in R11; flags are in memory. What
 * lies above its own frame was left by calls that did not return (longjmp and the like). Where none
 * of the next few is its own (another stack, a changed return address), all are kept. */
static void unwind_emit(struct soft_translator *t, struct emit *e)
{
    t->fixed.unwind = to_execute(t, e->at);
    for (int32_t i = 1; i < FRAMES_UNWOUND; i++) {
        uint8_t *other;

        emit_cmp_reg_mem(e, HOST_R11, HOST_RSP, FRAME_BYTES * i + 8);
        other = emit_jcc_rel32(e, EMIT_IF_NE);
        emit_lea(e, HOST_RSP, HOST_RSP, HOST_NONE, 0, FRAME_BYTES * i);
        emit_ret(e);
        emit_patch_rel32(other, e->at);
    }
    emit_patch_rel32(emit_jmp_rel32(e), to_write(t, t->fixed.lookup[1]));
}

/*
 * Called by a call for which return_limit is too high: there is no room for a frame, so that the
 * return stack begins anew, or somebody has made a request (soft_request()). NE: there is one. All
 * registers stay; flags are in memory. return_limit is lowered before the request is read, and
 * raised after it is made: one of the two sees the other.
 */
static void frames_emit(struct soft_translator *t, struct emit *e)
{
    uint8_t *pending, *room;

    t->fixed.frames = to_execute(t, e->at);
    emit_mov_state_reg(e, STATE(saved_rax), HOST_R10);
    emit_mov_reg_state(e, HOST_R10, STATE(return_floor));
    emit_mov_state_reg(e, STATE(return_limit), HOST_R10);
    emit_mov_reg_state(e, HOST_R10, STATE(saved_rax));
    RAW(e, 0x0f, 0xae, 0xf0); /* MFENCE */
    emit_cmp_state32_imm8(e, STATE(request), 0);
    pending = emit_jcc_rel32(e, EMIT_IF_NE);
    emit_alu_reg_state(e, EMIT_CMP, HOST_RSP, STATE(return_floor));
    room = emit_jcc_rel32(e, EMIT_IF_AE);
    RAW(e, 0x65, 0x8f); /* POP [gs:saved_rax] */
    gs_operand(e, 0, STATE(saved_rax));
    emit_mov_reg_state(e, HOST_RSP, STATE(return_base));
    RAW(e, 0x65, 0xff); /* PUSH [gs:saved_rax] */
    gs_operand(e, 6, STATE(saved_rax));
    emit_patch_rel32(room, e->at);
    RAW(e, 0x48, 0x39, 0xe4); /* CMP RSP, RSP */
    emit_ret(e);
    emit_patch_rel32(pending, e->at);
    RAW(e, 0x65, 0x48, 0xc7); /* MOV [gs:return_limit], -1 */
    gs_operand(e, 0, STATE(return_limit));
    RAW(e, 0xff, 0xff, 0xff, 0xff);
    RAW(e, 0x48, 0x85, 0xe4); /* TEST RSP, RSP */
    emit_ret(e);
}

/* CPUID.(EAX=0DH,ECX=1):EAX[2]: XGETBV with ECX = 1 (SDM vol. 1, 13.2). */
static bool host_tells_in_use(void)
{
    uint32_t a = 0, b, c, d;

    return __get_cpuid_count(13, 1, &a, &b, &c, &d) && (a & 4);
}

bool soft_fixed_emit(struct soft_translator *t, struct soft_vcpu *c)
{
    struct emit e = {.at = t->write, .end = t->write + FIXED_BYTES_MAX};
    const ptrdiff_t apart = t->execute - t->write;

    t->in_use_1 = host_tells_in_use();
    t->fixed.enter = (void (*)(struct soft_vcpu *, const uint8_t *))(uintptr_t)(e.at + apart);
    enter_emit(&e);
    t->fixed.vector_present = e.at + apart;
    emit_ret(&e);
    t->fixed.vector_load = e.at + apart;
    vector_load_emit(t, &e);
    t->fixed.vector_load_low = e.at + apart;
    vector_load_low_emit(t, &e);
    t->fixed.x87_load = to_execute(t, e.at);
    x87_load_emit(t, &e);
    for (unsigned in_memory = 0; in_memory < 2; in_memory++) {
        for (unsigned kind = 0; kind < EXIT_KINDS; kind++)
            exit_emit(t, &e, (enum exit_kind)kind, in_memory);
        twin_emit(t, &e, in_memory);
    }
    t->fixed.flags_load = e.at + apart;
    flags_load_emit(c, &e);
    t->fixed.leaf = e.at + apart;
    leaf_emit(c, &e);
    for (unsigned access = SOFT_READ; access <= SOFT_WRITE; access++) {
        slot_emit(t, &e, (enum soft_access)access);
    }
    t->fixed.pace = e.at + apart;
    pace_emit(c, &e);
    find_emit(t, &e);
    for (unsigned in_memory = 0; in_memory < 2; in_memory++)
        lookup_emit(t, &e, in_memory);
    for (unsigned in_memory = 0; in_memory < 2; in_memory++)
        missed_emit(t, &e, in_memory);
    unwind_emit(t, &e);
    frames_emit(t, &e);
    t->fixed_bytes = ((size_t)(e.at - t->write) + 63) & ~(size_t)63;
    t->used = t->fixed_bytes;
    t->cold_from = t->bytes / 2; /* either half could hold all there may be */
    t->cold_used = t->cold_from;
    return !e.full;
}
