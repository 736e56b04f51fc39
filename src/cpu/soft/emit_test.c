/*
 * Checks the emitter, but for guest instructions (emit_guest_test.c), against what Zydis, an
 * independent decoder, prints of its code.
 */
#include "cpu/soft/emit.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/test.h"
#include "cpu/soft/emit_zydis.h"

#define ROOM 64

/* Checks the instructions at the start of the buffer against lines of text. */
static bool reads_as(const uint8_t *from, const uint8_t *to, const char *want)
{
    ZydisFormatter formatter;
    ZydisDecoder decoder;
    struct zydis z;
    char got[256] = "";

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_FORCE_SIZE, ZYAN_TRUE);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE,
                              ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_DISP_PADDING,
                              ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_IMM_PADDING, ZYDIS_PADDING_DISABLED);
    for (; from < to; from += z.insn.length) {
        size_t used = strlen(got);

        if (!decode_zydis(&decoder, from, (size_t)(to - from), &z) || used + 80 > sizeof got)
            return false;
        if (used)
            strcpy(got + used, "; ");
        used = strlen(got);
        ZydisFormatterFormatInstruction(&formatter, &z.insn, z.operand,
                                        z.insn.operand_count_visible, got + used, sizeof got - used,
                                        0x1000, NULL);
    }
    if (strcmp(got, want) != 0)
        printf("got  %s\nwant %s\n", got, want);
    return strcmp(got, want) == 0;
}

#define READS_AS(t, call, want)                                                                    \
    do {                                                                                           \
        uint8_t buffer[ROOM];                                                                      \
        struct emit *e = &(struct emit){.at = buffer, .end = buffer + ROOM};                       \
        call;                                                                                      \
        CHECK(t, !e->full);                                                                        \
        CHECK(t, reads_as(buffer, e->at, want));                                                   \
    } while (0)

static const char *const names64[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const names32[] = {"eax", "ecx", "edx",  "ebx",  "esp",  "ebp",  "esi",  "edi",
                                      "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d"};
static const char *const names16[] = {"ax",  "cx",  "dx",   "bx",   "sp",   "bp",   "si",   "di",
                                      "r8w", "r9w", "r10w", "r11w", "r12w", "r13w", "r14w", "r15w"};
static const char *const names8[] = {"al",  "cl",  "dl",   "bl",   "spl",  "bpl",  "sil",  "dil",
                                     "r8b", "r9b", "r10b", "r11b", "r12b", "r13b", "r14b", "r15b"};

/* printf into a buffer of the caller's, as an expression */
#define TEXT(...) (snprintf(text, sizeof text, __VA_ARGS__), text)

static void test_state(struct test *t)
{
    char text[128];

    for (unsigned i = 0; i < 16; i++) {
        enum host_register r = (enum host_register)i;

        READS_AS(t, emit_mov_reg_state(e, r, 0x1234),
                 TEXT("mov %s, qword ptr gs:[0x1234]", names64[i]));
        READS_AS(t, emit_mov_reg_state32(e, r, 0x1234),
                 TEXT("mov %s, dword ptr gs:[0x1234]", names32[i]));
        READS_AS(t, emit_cmovae_reg_state(e, r, 0x1234),
                 TEXT("cmovnb %s, qword ptr gs:[0x1234]", names64[r]));
        READS_AS(t, emit_mov_reg_state16(e, r, 0x1234),
                 TEXT("movzx %s, word ptr gs:[0x1234]", names32[i]));
        READS_AS(t, emit_mov_state_reg(e, 8, r), TEXT("mov qword ptr gs:[0x8], %s", names64[i]));
        READS_AS(t, emit_mov_state_reg32(e, 8, r), TEXT("mov dword ptr gs:[0x8], %s", names32[i]));
        READS_AS(t, emit_mov_state_reg16(e, 8, r), TEXT("mov word ptr gs:[0x8], %s", names16[i]));
    }
    READS_AS(t, emit_mov_state_imm32(e, 0x10, 0x89abcdef), "mov dword ptr gs:[0x10], 0x89ABCDEF");
    READS_AS(t, emit_mov_state_imm64(e, 0x10, -2), "mov qword ptr gs:[0x10], 0xFFFFFFFFFFFFFFFE");
    READS_AS(t, emit_inc_state(e, 0x10), "inc qword ptr gs:[0x10]");
    READS_AS(t, emit_dec_state32(e, 0x10), "dec dword ptr gs:[0x10]");
    READS_AS(t, emit_cmp_state32_imm8(e, 0x10, 0), "cmp dword ptr gs:[0x10], 0x0");
    READS_AS(t, emit_bt_state16(e, 0x10, 8), "bt word ptr gs:[0x10], 0x8");
    READS_AS(t, emit_sub_state_imm8(e, 0x10, 48), "sub qword ptr gs:[0x10], 0x30");
    READS_AS(t, emit_mov_reg_entry(e, HOST_RAX, HOST_R11, 0x10),
             "mov rax, qword ptr gs:[r11+0x10]");
    READS_AS(t, emit_alu_reg_entry(e, EMIT_CMP, HOST_R10, HOST_R11, 0x1000),
             "cmp r10, qword ptr gs:[r11+0x1000]");
    READS_AS(t, emit_jmp_entry(e, HOST_R11, 0x10), "jmp qword ptr gs:[r11+0x10]");
    READS_AS(t, emit_call_entry(e, HOST_RCX, 0x10), "call qword ptr gs:[rcx+0x10]");
    READS_AS(t, emit_jmp_state(e, 0x10), "jmp qword ptr gs:[0x10]");
    READS_AS(t, emit_fldcw_state(e, 0x10), "fldcw word ptr gs:[0x10]");
    READS_AS(t, emit_ldmxcsr_state(e, 0x10), "ldmxcsr dword ptr gs:[0x10]");
    READS_AS(t, emit_stmxcsr_state(e, 0x10), "stmxcsr dword ptr gs:[0x10]");
    READS_AS(t, emit_call_state(e, 0x10), "call qword ptr gs:[0x10]");
    READS_AS(t, emit_mov_reg_state(e, HOST_RAX, -16), "mov rax, qword ptr gs:[0xFFFFFFFFFFFFFFF0]");
}

static void test_vectors(struct test *t)
{
    const struct emit_element first = {.base = HOST_R10, .size = 4},
                              second = {.base = HOST_R10, .size = 8, .at = 1},
                              third = {.base = HOST_R10, .size = 4, .at = 2, .evex = true};

    READS_AS(t, emit_movsxd_reg_state(e, HOST_R10, 0x10), "movsxd r10, dword ptr gs:[0x10]");
    READS_AS(t, emit_vector_state(e, 9, 16, 0x40, true), "vmovdqu xmm9, xmmword ptr gs:[0x40]");
    READS_AS(t, emit_vector_state(e, 1, 32, 0x40, false), "vmovdqu ymmword ptr gs:[0x40], ymm1");
    READS_AS(t, emit_vector_state(e, 31, 16, 0x40, true), "vmovdqu64 xmm31, xmmword ptr gs:[0x40]");
    READS_AS(t, emit_vector_state(e, 2, 64, 0x40, false), "vmovdqu64 zmmword ptr gs:[0x40], zmm2");
    READS_AS(t, emit_element_load(e, 15, &first), "vmovd xmm15, dword ptr [r10]");
    READS_AS(t, emit_element_load(e, 3, &second), "vpinsrq xmm3, xmm3, qword ptr [r10], 0x1");
    READS_AS(t, emit_element_load(e, 17, &third), "vpinsrd xmm17, xmm17, dword ptr [r10], 0x2");
    READS_AS(t, emit_lane_insert(e, 3, 12, &(struct emit_lane){.at = 1, .bytes = 32}),
             "vinserti128 ymm3, ymm3, xmm12, 0x1");
    READS_AS(t, emit_lane_insert(e, 3, 29, &(struct emit_lane){.at = 3, .bytes = 64}),
             "vinserti32x4 zmm3, zmm3, xmm29, 0x3");
    READS_AS(t, emit_vector_clear(e, 12), "vpxor xmm12, xmm12, xmm12");
    READS_AS(t, emit_signs(e, HOST_R11, 9, 4, 32), "vmovmskps r11d, ymm9");
    READS_AS(t, emit_signs(e, HOST_R11, 1, 8, 16), "vmovmskpd r11d, xmm1");
    READS_AS(t, emit_opmask_state(e, 3, 0x40, false), "kmovq qword ptr gs:[0x40], k3");
    READS_AS(t, emit_opmask_state(e, 3, 0x40, true), "kmovq k3, qword ptr gs:[0x40]");
    READS_AS(t, emit_mov_reg_opmask(e, HOST_R11, 5), "kmovw r11d, k5");
    READS_AS(t, emit_opmask_clear(e, 6), "kxorw k6, k6, k6");
}

static void test_moves(struct test *t)
{
    char text[128];

    for (unsigned i = 0; i < 256; i++) {
        enum host_register a = (enum host_register)(i & 15), b = (enum host_register)(i >> 4);

        READS_AS(t, emit_mov_reg_reg(e, a, b), TEXT("mov %s, %s", names64[a], names64[b]));
        READS_AS(t, emit_mov_reg_reg32(e, a, b), TEXT("mov %s, %s", names32[a], names32[b]));
        READS_AS(t, emit_movzx16(e, a, b), TEXT("movzx %s, %s", names32[a], names16[b]));
        READS_AS(t, emit_movzx8(e, a, b), TEXT("movzx %s, %s", names32[a], names8[b]));
    }
    for (unsigned i = 0; i < 16; i++) {
        enum host_register r = (enum host_register)i;

        READS_AS(t, emit_not(e, r), TEXT("not %s", names64[i]));
        READS_AS(t, emit_imul_reg_imm(e, r, 3), TEXT("imul %s, %s, 0x3", names64[i], names64[i]));
        READS_AS(t, emit_test_reg_imm8(e, r, 7), TEXT("test %s, 0x7", names8[i]));
        READS_AS(t, emit_not32(e, r), TEXT("not %s", names32[i]));
        READS_AS(t, emit_divide(e, false, true, r), TEXT("div %s", names64[i]));
        READS_AS(t, emit_divide(e, true, false, r), TEXT("idiv %s", names32[i]));
    }
}

static void check_immediate(struct test *t, enum host_register reg, uint64_t value, unsigned length)
{
    uint8_t buffer[ROOM];
    struct emit e = {.at = buffer, .end = buffer + ROOM};
    char text[128];

    emit_mov_reg_imm64(&e, reg, value);
    CHECK_EQ(t, e.at - buffer, length);
    if (length < 7) /* to 32 bits, which clears the rest */
        CHECK(t, reads_as(buffer, e.at, TEXT("mov %s, 0x%" PRIX64, names32[reg], value)));
    else
        CHECK(t, reads_as(buffer, e.at, TEXT("mov %s, 0x%" PRIX64, names64[reg], value)));
}

static void test_immediates(struct test *t)
{
    for (unsigned i = 0; i < 16; i++) {
        enum host_register r = (enum host_register)i;
        unsigned rex = i >= 8;

        check_immediate(t, r, 0, 5 + rex);
        check_immediate(t, r, 0x7fffffff, 5 + rex);
        check_immediate(t, r, 0xffffffff, 5 + rex);
        check_immediate(t, r, 0x100000000, 10);
        check_immediate(t, r, 0x123456789abcdef0, 10);
        check_immediate(t, r, 0xffffffff7fffffff, 10);
        check_immediate(t, r, 0xffffffff80000000, 7);
        check_immediate(t, r, UINT64_MAX, 7);
    }
}

static const struct {
    enum emit_alu op;
    const char *name;
} alus[] = {{EMIT_ADD, "add"}, {EMIT_OR, "or"},   {EMIT_AND, "and"},
            {EMIT_SUB, "sub"}, {EMIT_XOR, "xor"}, {EMIT_CMP, "cmp"}};

static void test_alu(struct test *t)
{
    char text[128];

    for (unsigned i = 0; i < 256 * 6; i++) {
        enum host_register a = (enum host_register)(i & 15), b = (enum host_register)(i >> 4 & 15);
        enum emit_alu op = alus[i / 256].op;
        const char *name = alus[i / 256].name;

        READS_AS(t, emit_alu_reg_reg(e, op, a, b), TEXT("%s %s, %s", name, names64[a], names64[b]));
        READS_AS(t, emit_alu_reg_reg32(e, op, a, b),
                 TEXT("%s %s, %s", name, names32[a], names32[b]));
    }
    for (unsigned i = 0; i < 16 * 6; i++) {
        enum host_register r = (enum host_register)(i & 15);
        enum emit_alu op = alus[i / 16].op;
        const char *name = alus[i / 16].name, *r64 = names64[i & 15], *r32 = names32[i & 15];

        READS_AS(t, emit_alu_reg_imm(e, op, r, 0x7f), TEXT("%s %s, 0x7F", name, r64));
        READS_AS(t, emit_alu_reg_imm(e, op, r, 0x80), TEXT("%s %s, 0x80", name, r64));
        READS_AS(t, emit_alu_reg_imm(e, op, r, 0x12345678), TEXT("%s %s, 0x12345678", name, r64));
        READS_AS(t, emit_alu_reg_imm32(e, op, r, 0x12345), TEXT("%s %s, 0x12345", name, r32));
        READS_AS(t, emit_alu_reg_imm32(e, op, r, 1), TEXT("%s %s, 0x1", name, r32));
        READS_AS(t, emit_alu_reg_state(e, op, r, 0x40),
                 TEXT("%s %s, qword ptr gs:[0x40]", name, r64));
        READS_AS(t, emit_alu_reg_state32(e, op, r, 0x40),
                 TEXT("%s %s, dword ptr gs:[0x40]", name, r32));
    }
    READS_AS(t, emit_alu_reg_imm(e, EMIT_AND, HOST_R11, -0x1000), "and r11, 0xFFFFFFFFFFFFF000");
    READS_AS(t, emit_alu_reg_imm(e, EMIT_ADD, HOST_RCX, -1), "add rcx, 0xFFFFFFFFFFFFFFFF");
    READS_AS(t, emit_alu_reg_imm32(e, EMIT_ADD, HOST_RCX, -128), "add ecx, 0xFFFFFF80");
    READS_AS(t, emit_test_reg_imm(e, HOST_R10, 7), "test r10, 0x7");
    READS_AS(t, emit_test_reg_imm(e, HOST_RBX, -4081), "test rbx, 0xFFFFFFFFFFFFF00F");
    READS_AS(t, emit_alu_reg_imm32(e, EMIT_SUB, HOST_RCX, -129), "sub ecx, 0xFFFFFF7F");
}

static void test_shifts(struct test *t)
{
    static const struct {
        enum emit_shift op;
        const char *name;
    } shifts[] = {{EMIT_SHL, "shl"}, {EMIT_SHR, "shr"}, {EMIT_SAR, "sar"}};
    char text[128];

    for (unsigned i = 0; i < 16 * 3; i++) {
        enum host_register r = (enum host_register)(i & 15);
        enum emit_shift op = shifts[i / 16].op;
        const char *name = shifts[i / 16].name;

        READS_AS(t, emit_shift_imm(e, op, r, 12), TEXT("%s %s, 0xC", name, names64[i & 15]));
        READS_AS(t, emit_shift_imm(e, op, r, 1), TEXT("%s %s, 0x1", name, names64[i & 15]));
        READS_AS(t, emit_shift_imm(e, op, r, 63), TEXT("%s %s, 0x3F", name, names64[i & 15]));
        READS_AS(t, emit_shift_imm32(e, op, r, 31), TEXT("%s %s, 0x1F", name, names32[i & 15]));
    }
}

/* " + 0x12", " - 0x12" or nothing, as Zydis prints a displacement. */
static const char *disp_text(char *to, size_t size, int32_t disp)
{
    uint32_t amount = disp < 0 ? (uint32_t)0 - (uint32_t)disp : (uint32_t)disp;

    to[0] = 0;
    if (disp)
        snprintf(to, size, "%c0x%" PRIX32, disp < 0 ? '-' : '+', amount);
    return to;
}

static const int32_t disps[] = {0, 8, 127, -128, 128, -129, 0x12345678, INT32_MIN};
#define DISPS (sizeof disps / sizeof *disps)

static void test_memory(struct test *t)
{
    char text[128], disp[32];

    for (unsigned i = 0; i < 256 * DISPS; i++) {
        unsigned r = i & 15, b = i >> 4 & 15;
        enum host_register reg = (enum host_register)r, base = (enum host_register)b;
        int32_t d = disps[i / 256];
        const char *r64 = names64[r], *r32 = names32[r];
        const char *at = disp_text(disp, sizeof disp, d), *b64 = names64[b];

        READS_AS(t, emit_load(e, reg, base, d, 8), TEXT("mov %s, qword ptr [%s%s]", r64, b64, at));
        READS_AS(t, emit_load(e, reg, base, d, 4), TEXT("mov %s, dword ptr [%s%s]", r32, b64, at));
        READS_AS(t, emit_load(e, reg, base, d, 2), TEXT("movzx %s, word ptr [%s%s]", r32, b64, at));
        READS_AS(t, emit_load(e, reg, base, d, 1), TEXT("movzx %s, byte ptr [%s%s]", r32, b64, at));
        READS_AS(t, emit_decrement(e, base), TEXT("dec dword ptr [%s]", b64));
        READS_AS(t, emit_add_reg_mem(e, reg, base, d),
                 TEXT("add %s, qword ptr [%s%s]", r64, b64, at));
        READS_AS(t, emit_xor_reg_mem(e, reg, base, d),
                 TEXT("xor %s, qword ptr [%s%s]", r64, b64, at));
        READS_AS(t, emit_cmp_reg_mem(e, reg, base, d),
                 TEXT("cmp %s, qword ptr [%s%s]", r64, b64, at));
    }
}

static void test_stores(struct test *t)
{
    char text[128], disp[32];

    for (unsigned i = 0; i < 256 * DISPS; i++) {
        unsigned r = i & 15, b = i >> 4 & 15;
        enum host_register reg = (enum host_register)r, base = (enum host_register)b;
        int32_t d = disps[i / 256];
        const char *at = disp_text(disp, sizeof disp, d), *b64 = names64[b];

        READS_AS(t, emit_store(e, reg, base, d, 8),
                 TEXT("mov qword ptr [%s%s], %s", b64, at, names64[r]));
        READS_AS(t, emit_store(e, reg, base, d, 4),
                 TEXT("mov dword ptr [%s%s], %s", b64, at, names32[r]));
        READS_AS(t, emit_store(e, reg, base, d, 2),
                 TEXT("mov word ptr [%s%s], %s", b64, at, names16[r]));
        READS_AS(t, emit_store(e, reg, base, d, 1),
                 TEXT("mov byte ptr [%s%s], %s", b64, at, names8[r]));
    }
}

/* LEA by what it names rather than by text: all bases, indexes, scales and displacements. */
static bool lea_is(const uint8_t *from, const uint8_t *to, const unsigned want[5], int32_t disp)
{
    enum { WIDTH, DST, BASE, INDEX, SCALE };
    ZydisDecoder decoder;
    struct zydis z;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!decode_zydis(&decoder, from, (size_t)(to - from), &z) || z.insn.length != to - from)
        return false;
    const ZydisDecodedOperandMem *mem = &z.operand[1].mem;
    if (z.insn.mnemonic != ZYDIS_MNEMONIC_LEA || z.insn.address_width != 64 ||
        z.operand[0].size != want[WIDTH] || number_of(z.operand[0].reg.value) != want[DST])
        return false;
    if (want[BASE] == HOST_NONE ? mem->base != ZYDIS_REGISTER_NONE
                                : !is_general(mem->base) || number_of(mem->base) != want[BASE])
        return false;
    if (want[INDEX] == HOST_NONE
            ? mem->index != ZYDIS_REGISTER_NONE
            : number_of(mem->index) != want[INDEX] || mem->scale != 1u << want[SCALE])
        return false;
    return mem->disp.value == disp;
}

static void test_lea(struct test *t)
{
    uint8_t buffer[ROOM];
    unsigned bad = 0;

    for (unsigned i = 0; i < 17 * 17 * 16 * 4 * DISPS; i++) {
        unsigned want[5] = {i & 1 ? 32 : 64, i / 17 / 17 % 16, i % 17, i / 17 % 17,
                            i / 17 / 17 / 16 % 4};
        int32_t disp = disps[i / 17 / 17 / 16 / 4];
        struct emit e = {.at = buffer, .end = buffer + ROOM};

        if (want[3] == HOST_RSP)
            continue;
        (i & 1 ? emit_lea32 : emit_lea)(&e, (enum host_register)want[1],
                                        (enum host_register)want[2], (enum host_register)want[3],
                                        want[4], disp);
        bad += e.full || !lea_is(buffer, e.at, want, disp);
    }
    CHECK_EQ(t, bad, 0);
}

static void test_jumps(struct test *t)
{
    static const char *const conditions[] = {"o", "no", "b", "nb", "z", "nz", "be", "nbe",
                                             "s", "ns", "p", "np", "l", "nl", "le", "nle"};
    char text[128];

    READS_AS(t, emit_patch_rel32(emit_jmp_rel32(e), buffer + 0x25), "jmp 0x1025");
    READS_AS(t, emit_patch_rel32(emit_call_rel32(e), buffer + 5), "call 0x1005");
    READS_AS(t, emit_patch_rel32(emit_jmp_rel32(e), buffer), "jmp 0x1000");
    for (unsigned i = 0; i < 16; i++)
        READS_AS(t, emit_patch_rel32(emit_jcc_rel32(e, (enum emit_condition)i), buffer + 0x3f),
                 TEXT("j%s 0x103F", conditions[i]));
    READS_AS(t, CHECK(t, emit_patch_rel8(emit_jrcxz_rel8(e), buffer + 0x30)), "jrcxz 0x1030");
    READS_AS(t, CHECK(t, emit_patch_rel8(emit_jrcxz_rel8(e), buffer)), "jrcxz 0x1000");
    READS_AS(t, emit_lahf_seto(e), "lahf; seto al");
    READS_AS(t, emit_restore_flags(e), "add al, 0x7F; sahf");
    READS_AS(t, emit_ret(e), "ret");
    READS_AS(t, emit_push(e, HOST_RBX), "push rbx");
    READS_AS(t, emit_push(e, HOST_R11), "push r11");
    READS_AS(t, emit_pop(e, HOST_R12), "pop r12");
    READS_AS(t, emit_pop(e, HOST_RBP), "pop rbp");
    READS_AS(t, emit_jmp_reg(e, HOST_R10), "jmp r10");
    READS_AS(t, emit_call_reg(e, HOST_RAX), "call rax");
    READS_AS(t, emit_mov_reg_patched64(e, HOST_R11), "mov r11, 0x0");
    READS_AS(t, emit_int3(e), "int3");
}

static void test_rel8_reach(struct test *t)
{
    uint8_t buffer[512] = {0};
    struct emit e = {.at = buffer + 200, .end = buffer + sizeof buffer};
    uint8_t *place = emit_jrcxz_rel8(&e);

    CHECK(t, emit_patch_rel8(place, e.at + 127));
    CHECK_EQ(t, *place, 127);
    CHECK(t, emit_patch_rel8(place, e.at - 128));
    CHECK_EQ(t, *place, 0x80);
    CHECK(t, !emit_patch_rel8(place, e.at + 128));
    CHECK(t, !emit_patch_rel8(place, e.at - 129));
}

static void test_nops(struct test *t)
{
    uint8_t buffer[ROOM];
    ZydisDecoder decoder;
    struct zydis z;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (unsigned n = 0; n < 40; n++) {
        struct emit e = {.at = buffer, .end = buffer + ROOM};
        unsigned at = 0;

        emit_nops(&e, n);
        CHECK_EQ(t, e.at - buffer, n);
        for (; at < n; at += z.insn.length) {
            if (!CHECK(t, decode_zydis(&decoder, buffer + at, n - at, &z)) ||
                !CHECK(t, z.insn.mnemonic == ZYDIS_MNEMONIC_NOP))
                break;
        }
        CHECK_EQ(t, at, n);
    }
}

/* What LAHF and SETO keep is what SAHF and the addition give back, on the host itself. */
static void test_flags(struct test *t)
{
    uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static const uint8_t load[] = {0x57, 0x9d}, store[] = {0x9c, 0x58}; /* push, pop: the flags */

    if (!CHECK(t, code != MAP_FAILED))
        return;
    struct emit e = {.at = code, .end = code + 4096};
    memcpy(e.at, load, sizeof load);
    e.at += sizeof load;
    emit_lahf_seto(&e);
    emit_mov_reg_reg(&e, HOST_RCX, HOST_RAX);
    emit_alu_reg_imm(&e, EMIT_ADD, HOST_RDI, -1); /* other flags */
    emit_mov_reg_reg(&e, HOST_RAX, HOST_RCX);
    emit_restore_flags(&e);
    memcpy(e.at, store, sizeof store);
    e.at += sizeof store;
    emit_ret(&e);
    if (CHECK(t, mprotect(code, 4096, PROT_READ | PROT_EXEC) == 0)) {
        uint64_t (*run)(uint64_t flags) = (uint64_t(*)(uint64_t))(uintptr_t)code;

        for (unsigned i = 0; i < 512; i++) {
            uint64_t want = (i & 0x100 ? 0x800u : 0) | (i & 0xd5);

            CHECK_EQ(t, run(want | 2) & 0x8d5, want);
        }
    }
    munmap(code, 4096);
}

static void test_full(struct test *t)
{
    uint8_t buffer[16];
    struct emit e = {.at = buffer, .end = buffer + 9};

    memset(buffer, 0x55, sizeof buffer);
    emit_jmp_rel32(&e);
    CHECK(t, !e.full);
    CHECK(t, emit_jmp_rel32(&e) == NULL);
    CHECK(t, e.full);
    emit_ret(&e); /* would fit, but nothing follows a gap */
    CHECK(t, e.at == buffer + 5);
    for (unsigned i = 5; i < sizeof buffer; i++)
        CHECK_EQ(t, buffer[i], 0x55);
    emit_patch_rel32(NULL, buffer);
    CHECK(t, emit_patch_rel8(NULL, buffer));
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_state);
    TEST_RUN(&t, test_vectors);
    TEST_RUN(&t, test_moves);
    TEST_RUN(&t, test_immediates);
    TEST_RUN(&t, test_alu);
    TEST_RUN(&t, test_shifts);
    TEST_RUN(&t, test_memory);
    TEST_RUN(&t, test_stores);
    TEST_RUN(&t, test_lea);
    TEST_RUN(&t, test_jumps);
    TEST_RUN(&t, test_rel8_reach);
    TEST_RUN(&t, test_nops);
    TEST_RUN(&t, test_flags);
    TEST_RUN(&t, test_full);
    return test_end(&t);
}
