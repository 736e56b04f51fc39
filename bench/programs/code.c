// Code that writes code: small just-in-time compilers and code that changes itself.

#include "program.h"

#include <string.h>
#include <sys/mman.h>

#define PAGE ((uint64_t)4096)

typedef uint64_t function(uint64_t);

static uint8_t *code_get(uint64_t size)
{
    void *code = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (code == MAP_FAILED)
        program_fail("memory for code");
    return code;
}

static function *function_at(uint8_t *code)
{
    union {
        uint8_t *code;
        function *call;
    } both = {code};
    return both.call;
}

static uint8_t *code_bytes(uint8_t *at, const void *bytes, uint64_t len)
{
    memcpy(at, bytes, len);
    return at + len;
}

static uint8_t *code_with_immediate(uint8_t *at, const char *opcode, uint32_t immediate)
{
    return code_bytes(code_bytes(at, opcode, strlen(opcode)), &immediate, sizeof immediate);
}

// A function of `steps` operations on its argument: add, xor, multiply.
static uint8_t *function_write(uint8_t *at, uint64_t seed, unsigned steps)
{
    at = code_bytes(at, "\x48\x89\xf8", 3); // mov rax, rdi
    for (unsigned i = 0; i < steps; i++) {
        uint32_t immediate = (uint32_t)random_next(&seed) >> 1;
        static const char *const opcodes[] = {"\x48\x05", "\x48\x35", "\x48\x69\xc0"};
        at = code_with_immediate(at, opcodes[i % 3], immediate);
    }
    *at++ = 0xc3;
    return at;
}

// A new function in the same place each time, called a few times.
static uint64_t compile_and_call(uint64_t count)
{
    uint8_t *code = code_get(PAGE);
    uint64_t sum = 1;
    for (uint64_t i = 0; i < count; i++) {
        function_write(code, i + 1, 40);
        for (int call = 0; call < 20; call++)
            sum = function_at(code)(sum);
    }
    munmap(code, PAGE);
    return sum;
}

// One function behind the other, as a compiler fills its buffer, all of them called in between.
static uint64_t compile_many(uint64_t count)
{
    enum { FUNCTIONS = 256, ROOM = 512 };
    uint8_t *code = code_get(FUNCTIONS * ROOM);
    uint64_t sum = 1;
    for (uint64_t round = 0; round < count; round++)
        for (uint64_t i = 0; i < FUNCTIONS; i++) {
            function_write(code + i * ROOM, round * FUNCTIONS + i + 1, 60);
            for (uint64_t back = 0; back <= i && back < 16; back++)
                sum = function_at(code + (i - back) * ROOM)(sum);
        }
    munmap(code, FUNCTIONS * ROOM);
    return sum;
}

// A page is never writable and executable at once, as careful compilers have it.
static uint64_t compile_protected(uint64_t count)
{
    uint64_t sum = 1;
    uint8_t *code = code_get(4 * PAGE);
    for (uint64_t i = 0; i < count; i++) {
        if (mprotect(code, 4 * PAGE, PROT_READ | PROT_WRITE) != 0)
            program_fail("mprotect");
        function_write(code + i % 4 * PAGE, i + 1, 100);
        if (mprotect(code, 4 * PAGE, PROT_READ | PROT_EXEC) != 0)
            program_fail("mprotect");
        for (int call = 0; call < 100; call++)
            sum = function_at(code + i % 4 * PAGE)(sum);
    }
    munmap(code, 4 * PAGE);
    return sum;
}

// A loop that changes an immediate of its own in each iteration.
static uint64_t change_itself(uint64_t count)
{
    static const uint8_t loop[] = {
        0x31, 0xc0,                         //     xor eax, eax
        0x48, 0x05, 0x01, 0x00, 0x00, 0x00, // 1:  add rax, 1 (changed)
        0x01, 0x05, 0xf6, 0xff, 0xff, 0xff, //     add [rip - 10], eax: the immediate
        0x81, 0x25, 0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, // and dword [rip - 20], 0xffff
        0x48, 0xff, 0xcf,                                           //     dec rdi
        0x75, 0xe5,                                                 //     jnz 1b
        0xc3,
    };
    uint8_t *code = code_get(PAGE);
    memcpy(code, loop, sizeof loop);
    uint64_t sum = function_at(code)(count);
    munmap(code, PAGE);
    return sum;
}

// A call whose target is changed now and then: the inline caches of dynamic languages.
static uint64_t change_calls(uint64_t count)
{
    enum { TARGETS = 8, ROOM = 128 };
    uint8_t *code = code_get(PAGE), *caller = code + TARGETS * ROOM;
    for (uint64_t i = 0; i < TARGETS; i++)
        function_write(code + i * ROOM, i + 1, 6);
    uint64_t sum = 1;
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *target = code + i % TARGETS * ROOM;
        uint8_t *end = code_with_immediate(caller, "\xe8", (uint32_t)(target - (caller + 5)));
        *end = 0xc3;
        for (int call = 0; call < 50; call++)
            sum = function_at(caller)(sum);
    }
    munmap(code, PAGE);
    return sum;
}

// Code and the data that it changes in one page, as old linkers and some compilers lay them out.
static uint64_t data_beside_code(uint64_t count)
{
    uint8_t *code = code_get(PAGE), *at = code;
    at = code_bytes(at, "\x31\xc0", 2); //    xor eax, eax
    uint8_t *loop = at;
    at = code_with_immediate(at, "\x48\x05", 12345); // 1: add rax, 12345
    at = code_with_immediate(at, "\x48\x89\x05",     //    mov [code + 2048], rax
                             (uint32_t)(code + 2048 - (at + 7)));
    at = code_with_immediate(at, "\x48\x33\x05", //    xor rax, [code + 2048 + 8]
                             (uint32_t)(code + 2048 + 8 - (at + 7)));
    at = code_bytes(at, "\x48\xff\xcf\x75", 4); //    dec rdi; jnz 1b
    at = code_bytes(at, &(int8_t){(int8_t)(loop - (at + 1))}, 1);
    *at = 0xc3;
    memcpy(code + 2048 + 8, &(uint64_t){0x5555}, 8);
    uint64_t sum = function_at(code)(count);
    munmap(code, PAGE);
    return sum;
}

// Brackets, plus, minus and arrows, compiled to machine code, which then runs for a while.
static void tape_compile(const char *source, uint8_t *at)
{
    uint8_t *open[16];
    int depth = 0;
    at = code_bytes(at, "\x48\x89\xf8", 3); // mov rax, rdi
    for (; *source; source++) {
        switch (*source) {
        case '+':
            at = code_bytes(at, "\xfe\x00", 2);
            break; // inc byte [rax]
        case '-':
            at = code_bytes(at, "\xfe\x08", 2);
            break; // dec byte [rax]
        case '>':
            at = code_bytes(at, "\x48\xff\xc0", 3);
            break; // inc rax
        case '<':
            at = code_bytes(at, "\x48\xff\xc8", 3);
            break; // dec rax
        case '[':  // cmp byte [rax], 0; je ]
            at = code_bytes(at, "\x80\x38\x00\x0f\x84\x00\x00\x00\x00", 9);
            open[depth++] = at;
            break;
        default: // ']': cmp byte [rax], 0; jne [
            at = code_bytes(at, "\x80\x38\x00", 3);
            at = code_with_immediate(at, "\x0f\x85", (uint32_t)(open[--depth] - (at + 6)));
            memcpy(open[depth] - 4, &(int32_t){(int32_t)(at - open[depth])}, 4);
        }
    }
    code_bytes(at, "\x0f\xb6\x00\xc3", 4); // movzx eax, byte [rax]; ret
}

static uint64_t compile_tape(uint64_t count)
{
    static const char source[] = "++++[>++++++++[>++++++++[>+++>++<<-]<-]<-]>>>-[>+<-]>+";
    uint8_t *code = code_get(PAGE), tape[64];
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        memset(tape, 0, sizeof tape);
        tape_compile(source, code);
        tape[4] = (uint8_t)i;
        sum = mix(sum, function_at(code)((uint64_t)(uintptr_t)tape) + tape[3]);
    }
    munmap(code, PAGE);
    return sum;
}

const struct program code_programs[] = {
    {"compile-and-call", compile_and_call, 150000, 20, NULL},
    {"compile-many", compile_many, 800, 20, NULL},
    {"compile-protected", compile_protected, 20000, 4, NULL},
    {"change-itself", change_itself, 500000, 20, NULL},
    {"change-calls", change_calls, 500000, 20, NULL},
    {"data-beside-code", data_beside_code, 300000000, 100, NULL},
    {"compile-tape", compile_tape, 120000, 20, NULL},
    {NULL, NULL, 0, 0, NULL},
};
