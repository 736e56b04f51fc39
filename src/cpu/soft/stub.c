/*
 * Emits and keeps the stubs of stub.h. Source: Intel SDM vol. 2, chapter 2 (encodings).
 */
#include "cpu/soft/stub.h"

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BUFFER_BYTES  ((size_t)4 << 20)
#define STUBS_MAX     16384u
#define BUCKETS       32768u /* power of two, over STUBS_MAX */
#define SCRATCH_BYTES 256u
#define CODE_MAX      SCRATCH_BYTES

struct stub_cache {
    pthread_mutex_t lock;
    uint8_t *write;         /* read-write view */
    const uint8_t *execute; /* read-execute view */
    size_t used;
    bool wide; /* the host has 64-byte registers */
    unsigned count;
    struct stub *stubs;       /* [STUBS_MAX] */
    uint16_t bucket[BUCKETS]; /* index of a stub + 1 */
};

struct code {
    uint8_t byte[CODE_MAX];
    unsigned length;
    bool wide;
};

/* Host registers: RDI holds the frame, RCX is free; vector and MMX registers by role. */
enum { HOST_REG = 1, HOST_VVVV = 2, HOST_RM = 3, HOST_FOURTH = 4 };
#define HOST_MASK(role) ((role) + 1u) /* k2 to k4; k1 is the opmask */

static void emit(struct code *c, const void *bytes, unsigned length)
{
    memcpy(c->byte + c->length, bytes, length);
    c->length += length;
}

#define EMIT(c, ...) emit(c, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* op reg, [rdi + offset] with a 32-bit displacement; the opcode has been emitted. */
static void emit_frame(struct code *c, unsigned reg, size_t offset)
{
    uint32_t displacement = (uint32_t)offset;

    EMIT(c, (uint8_t)(0x87 | reg << 3));
    emit(c, &displacement, 4);
}

#define FRAME(field) offsetof(struct stub_frame, field)

static void emit_pointer(struct code *c, size_t offset) /* mov rcx, [rdi + offset] */
{
    EMIT(c, 0x48, 0x8b);
    emit_frame(c, 1, offset);
}

/* Loads or stores (store: 1) host register `n` at [rcx]. */
static void emit_vector(struct code *c, unsigned n, unsigned bytes, unsigned store)
{
    uint8_t opcode = (uint8_t)(0x10 + store), modrm = (uint8_t)(n << 3 | 1);

    if (bytes == 64)
        EMIT(c, 0x62, 0xf1, 0x7c, 0x48, opcode, modrm);
    else if (bytes == 32)
        EMIT(c, 0xc5, 0xfc, opcode, modrm);
    else
        EMIT(c, 0x0f, opcode, modrm);
}

static void emit_transfer(struct code *c, const struct x86_vector_insn *v,
                          const struct x86_vector_operand *operand, unsigned role, bool store)
{
    unsigned bytes = v->vector_bytes;

    if (operand->class == X86_CLASS_MMX) {
        EMIT(c, 0x0f, (uint8_t)(store ? 0x7f : 0x6f), (uint8_t)(role << 3 | 1));
    } else if (operand->class == X86_CLASS_MASK) {
        EMIT(c, 0xc4, 0xe1, 0xf8, (uint8_t)(store ? 0x91 : 0x90),
             (uint8_t)(HOST_MASK(role) << 3 | 1));
    } else {
        if (v->unit == X86_UNIT_EVEX || (v->unit == X86_UNIT_VEX && store))
            bytes = c->wide ? 64 : 32;
        if (v->unit == X86_UNIT_SSE || v->unit == X86_UNIT_MMX || bytes < 16)
            bytes = 16;
        emit_vector(c, operand == &v->fourth && v->flags & X86_VECTOR_XMM0 ? 0 : role, bytes,
                    store);
    }
}

static bool in_register_file(const struct x86_vector_operand *operand)
{
    return operand->class != X86_CLASS_NONE && operand->class != X86_CLASS_GPR;
}

static void emit_load(struct code *c, const struct x86_vector_insn *v,
                      const struct x86_vector_operand *operand, unsigned role, size_t pointer)
{
    if (!in_register_file(operand) || !(operand->access & X86_OPERAND_READ))
        return;
    emit_pointer(c, pointer);
    emit_transfer(c, v, operand, role, false);
}

static void emit_loads(struct code *c, const struct x86_vector_insn *v)
{
    emit_load(c, v, &v->reg, HOST_REG, FRAME(reg));
    emit_load(c, v, &v->vvvv, HOST_VVVV, FRAME(vvvv));
    emit_load(c, v, &v->rm, HOST_RM, FRAME(rm));
    emit_load(c, v, &v->fourth, HOST_FOURTH, FRAME(fourth));
    if (v->opmask) { /* kmovq k1, [rcx] */
        emit_pointer(c, FRAME(opmask));
        EMIT(c, 0xc4, 0xe1, 0xf8, 0x90, 0x09);
    }
    if (v->reg.class == X86_CLASS_GPR || v->rm.class == X86_CLASS_GPR ||
        v->flags & X86_VECTOR_RAX_RDX) {
        EMIT(c, 0x48, 0x8b);
        emit_frame(c, 0, FRAME(rax));
    }
    if (v->flags & X86_VECTOR_RAX_RDX) {
        EMIT(c, 0x48, 0x8b);
        emit_frame(c, 2, FRAME(rdx));
    }
}

static void emit_flags(struct code *c) /* lahf; seto al; mov [flags], ax */
{
    EMIT(c, 0x9f, 0x0f, 0x90, 0xc0, 0x66, 0x89);
    emit_frame(c, 0, FRAME(flags));
}

static void emit_results(struct code *c, const struct x86_vector_insn *v)
{
    const struct x86_vector_operand *operands[] = {&v->reg, &v->vvvv, &v->rm, &v->fourth};
    bool rcx = (v->flags & X86_VECTOR_WRITES_RCX) != 0;

    if (rcx || (v->reg.class == X86_CLASS_GPR && v->reg.access & X86_OPERAND_WRITE) ||
        (v->rm.class == X86_CLASS_GPR && v->rm.access & X86_OPERAND_WRITE)) {
        EMIT(c, 0x48, 0x89);
        emit_frame(c, rcx ? 1 : 0, FRAME(rax));
    }
    if (v->flags & X86_VECTOR_FLAGS)
        emit_flags(c);
    for (unsigned role = HOST_REG; role <= HOST_FOURTH; role++) {
        const struct x86_vector_operand *operand = operands[role - 1];

        if (!in_register_file(operand) || !(operand->access & X86_OPERAND_WRITE))
            continue;
        emit_pointer(c, FRAME(out));
        if (v->flags & X86_VECTOR_WRITES_XMM0)
            emit_vector(c, 0, v->unit == X86_UNIT_SSE ? 16 : c->wide ? 64 : 32, 1);
        else
            emit_transfer(c, v, operand, role, true);
    }
}

/* -- the renamed instruction -- */

static unsigned renamed(const struct x86_vector_operand *operand, unsigned role, unsigned digit)
{
    switch (operand->class) {
    case X86_CLASS_VECTOR:
    case X86_CLASS_MMX:
        return role;
    case X86_CLASS_MASK:
        return HOST_MASK(role);
    case X86_CLASS_GPR:
        return 0;
    default:
        return digit;
    }
}

static void emit_prefix(struct code *c, const struct x86_insn *insn,
                        const struct x86_vector_insn *v)
{
    static const uint8_t legacy[] = {0, 0x66, 0xf3, 0xf2};
    uint8_t w = insn->rex & X86_REX_W ? 0x80 : 0;
    uint8_t vvvv = (uint8_t)((~renamed(&v->vvvv, HOST_VVVV, 0) & 15) << 3);

    if (insn->vex == X86_VEX_VEX) {
        EMIT(c, 0xc4, (uint8_t)(0xe0 | insn->map),
             (uint8_t)(w | vvvv | (insn->vector_length & 1) << 2 | insn->pp));
    } else if (insn->vex == X86_VEX_EVEX) {
        EMIT(c, 0x62, (uint8_t)(0xf0 | insn->map), (uint8_t)(w | vvvv | 4 | insn->pp),
             (uint8_t)((insn->evex_p3 & 0xf0) | 8 | (v->opmask ? 1 : 0)));
    } else {
        if (legacy[insn->pp])
            EMIT(c, legacy[insn->pp]);
        if (w)
            EMIT(c, 0x48);
        EMIT(c, 0x0f);
        if (insn->map > 1)
            EMIT(c, (uint8_t)(insn->map == 2 ? 0x38 : 0x3a));
    }
}

static void emit_instruction(struct code *c, const struct x86_insn *insn,
                             const struct x86_vector_insn *v)
{
    unsigned digit = insn->modrm >> 3 & 7;

    if (v->unit == X86_UNIT_X87) {
        EMIT(c, insn->opcode, (uint8_t)(insn->memory ? digit << 3 | 7 : insn->modrm));
        return;
    }
    emit_prefix(c, insn, v);
    EMIT(c, insn->opcode);
    if (v->flags & (X86_VECTOR_EMMS | X86_VECTOR_ZERO_UPPER | X86_VECTOR_ZERO_ALL))
        return;
    digit = renamed(&v->reg, HOST_REG, digit);
    if (insn->memory)
        EMIT(c, (uint8_t)(digit << 3 | 7)); /* [rdi]: the frame begins with the memory */
    else
        EMIT(c, (uint8_t)(0xc0 | digit << 3 | renamed(&v->rm, HOST_RM, 0)));
    if (v->flags & X86_VECTOR_FOURTH)
        EMIT(c, (uint8_t)(HOST_FOURTH << 4 | (insn->immediate & 15)));
    else if (v->flags & X86_VECTOR_IMMEDIATE)
        EMIT(c, (uint8_t)insn->immediate);
}

/* -- whole stubs -- */

/* FXRSTOR64 loads MXCSR too: the image is given the host's own first. FNINIT leaves the host's
 * x87 state as the ABI wants it. */
static void emit_x87(struct code *c, const struct x86_insn *insn, const struct x86_vector_insn *v)
{
    emit_pointer(c, FRAME(image));
    EMIT(c, 0x0f, 0xae, 0x59, 24);   /* stmxcsr [rcx + 24] */
    EMIT(c, 0x48, 0x0f, 0xae, 0x09); /* fxrstor64 [rcx] */
    if (v->flags & X86_VECTOR_READS_FLAGS) {
        EMIT(c, 0x0f, 0xb7); /* movzx eax, word [flags]; sahf */
        emit_frame(c, 0, FRAME(flags));
        EMIT(c, 0x9e);
    }
    emit_instruction(c, insn, v);
    if (v->flags & X86_VECTOR_FLAGS)
        emit_flags(c);
    if (v->flags & X86_VECTOR_WRITES_RAX) {
        EMIT(c, 0x48, 0x89);
        emit_frame(c, 0, FRAME(rax));
    }
    EMIT(c, 0x48, 0x0f, 0xae, 0x01); /* fxsave64 [rcx] */
    EMIT(c, 0xdb, 0xe3, 0xc3);       /* fninit; ret */
}

static bool touches_mmx(const struct x86_vector_insn *v)
{
    return v->reg.class == X86_CLASS_MMX || v->rm.class == X86_CLASS_MMX ||
           (v->flags & X86_VECTOR_ENTERS_MMX);
}

static void emit_stub(struct code *c, const struct x86_insn *insn, const struct x86_vector_insn *v)
{
    bool mxcsr = (v->flags & X86_VECTOR_MXCSR) != 0;

    if (v->unit == X86_UNIT_X87) {
        emit_x87(c, insn, v);
        return;
    }
    if (mxcsr) { /* stmxcsr [host_mxcsr]; ldmxcsr [mxcsr] */
        EMIT(c, 0x0f, 0xae);
        emit_frame(c, 3, FRAME(host_mxcsr));
        EMIT(c, 0x0f, 0xae);
        emit_frame(c, 2, FRAME(mxcsr));
    }
    emit_loads(c, v);
    emit_instruction(c, insn, v);
    emit_results(c, v);
    if (mxcsr) {
        EMIT(c, 0x0f, 0xae);
        emit_frame(c, 3, FRAME(mxcsr));
        EMIT(c, 0x0f, 0xae);
        emit_frame(c, 2, FRAME(host_mxcsr));
    }
    if (touches_mmx(v))
        EMIT(c, 0x0f, 0x77);
    if (v->unit >= X86_UNIT_VEX)
        EMIT(c, 0xc5, 0xf8, 0x77);
    EMIT(c, 0xc3);
}

/* Stubs with equal keys are the same code for the same operands. */
static void key_make(const struct x86_insn *insn, const struct x86_vector_insn *v, uint8_t key[16])
{
    struct code c = {.length = 0};

    emit_instruction(&c, insn, v);
    memset(key, 0, 16);
    memcpy(key, c.byte, c.length); /* at most 6 (prefix and opcode) + 2 */
    key[13] = (uint8_t)c.length;
    key[14] = v->unit;
    key[15] = v->memory_bytes;
}

static unsigned key_hash(const uint8_t key[16])
{
    uint64_t a, b;

    memcpy(&a, key, 8);
    memcpy(&b, key + 8, 8);
    a = (a ^ b * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xff51afd7ed558ccd);
    return (unsigned)(a >> 40) & (BUCKETS - 1);
}

/* Instructions that C carries out element by element have no code. */
static bool needs_code(const struct x86_vector_insn *v)
{
    return (v->memory == X86_MEMORY_PLAIN || v->memory == X86_MEMORY_BY_SIGN ||
            v->memory == X86_MEMORY_BY_OPMASK || v->memory == X86_MEMORY_COMPRESSED) &&
           !(v->flags & (X86_VECTOR_EMMS | X86_VECTOR_ZERO_UPPER | X86_VECTOR_ZERO_ALL));
}

static void stub_place(const struct stub_cache *cache, struct stub *stub, size_t at,
                       const struct code *c)
{
    memcpy(cache->write + at, c->byte, c->length);
    stub->run = (void (*)(struct stub_frame *))(uintptr_t)(cache->execute + at);
}

static struct stub *stub_add(struct stub_cache *cache, const struct x86_insn *insn,
                             const struct x86_vector_insn *vector)
{
    struct code c = {.length = 0, .wide = cache->wide};
    struct stub *stub = &cache->stubs[cache->count];

    if (cache->count == STUBS_MAX)
        return NULL;
    stub->vector = *vector;
    stub->run = NULL;
    if (needs_code(vector)) {
        emit_stub(&c, insn, vector);
        if (cache->used + c.length > BUFFER_BYTES)
            return NULL;
        stub_place(cache, stub, cache->used, &c);
        cache->used += (c.length + 15u) & ~15u;
    }
    cache->count++;
    return stub;
}

const struct stub *stub_get(struct stub_cache *cache, const struct x86_insn *insn,
                            const struct x86_vector_insn *vector)
{
    struct stub *stub = NULL;
    uint8_t key[16];
    unsigned at;

    key_make(insn, vector, key);
    at = key_hash(key);
    pthread_mutex_lock(&cache->lock);
    for (; cache->bucket[at]; at = (at + 1) & (BUCKETS - 1)) {
        stub = &cache->stubs[cache->bucket[at] - 1];
        if (memcmp(stub->key, key, sizeof key) == 0)
            goto out_unlock;
    }
    stub = stub_add(cache, insn, vector);
    if (stub) {
        memcpy(stub->key, key, sizeof key);
        cache->bucket[at] = (uint16_t)cache->count;
    }
out_unlock:
    pthread_mutex_unlock(&cache->lock);
    return stub;
}

void stub_scratch(struct stub_cache *cache, unsigned vcpu, const struct x86_insn *insn,
                  const struct x86_vector_insn *vector, struct stub *out)
{
    struct code c = {.length = 0, .wide = cache->wide};
    unsigned eax, ebx, ecx, edx;

    out->vector = *vector;
    out->run = NULL;
    if (!needs_code(vector))
        return;
    emit_stub(&c, insn, vector);
    stub_place(cache, out, (size_t)vcpu * SCRATCH_BYTES, &c);
    /* Code changed through another linear address: SDM vol. 3, 12.6 wants a serialising
     * instruction. */
    __cpuid(0, eax, ebx, ecx, edx);
}

static int buffer_map(struct stub_cache *cache)
{
    int fd = memfd_create("stubs", MFD_CLOEXEC);
    void *write = MAP_FAILED, *execute = MAP_FAILED;

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)BUFFER_BYTES) == 0) {
        write = mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        execute = mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    int code = errno;
    close(fd);
    cache->write = write == MAP_FAILED ? NULL : write;
    cache->execute = execute == MAP_FAILED ? NULL : execute;
    return cache->write && cache->execute ? 0 : -code;
}

int stub_cache_new(unsigned vcpu_count, struct stub_cache **out, struct error *err)
{
    struct stub_cache *cache = calloc(1, sizeof *cache);
    int rc;

    if (!cache)
        return error_set(err, -ENOMEM, "cannot set up vector instructions: out of memory");
    pthread_mutex_init(&cache->lock, NULL);
    cache->wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    cache->used = (size_t)vcpu_count * SCRATCH_BYTES;
    cache->stubs = calloc(STUBS_MAX, sizeof *cache->stubs);
    rc = cache->stubs ? buffer_map(cache) : -ENOMEM;
    if (rc == 0 && cache->used > BUFFER_BYTES / 2)
        rc = -E2BIG;
    if (rc != 0) {
        stub_cache_free(cache);
        return error_set(err, rc, "cannot set up vector instructions: executable memory: %s",
                         strerror(-rc));
    }
    *out = cache;
    return 0;
}

void stub_cache_free(struct stub_cache *cache)
{
    if (!cache)
        return;
    if (cache->write)
        munmap(cache->write, BUFFER_BYTES);
    if (cache->execute)
        munmap((void *)(uintptr_t)cache->execute, BUFFER_BYTES);
    free(cache->stubs);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}
