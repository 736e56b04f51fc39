// Branches, calls, interpreters and callbacks.

#include "program.h"

#include <setjmp.h>
#include <stdlib.h>

static __attribute__((noinline)) uint64_t fibonacci_of(uint64_t n)
{
    return n < 2 ? n : fibonacci_of(n - 1) + fibonacci_of(n - 2);
}

static uint64_t fibonacci(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum = mix(sum, fibonacci_of(opaque(25)));
    return sum;
}

static __attribute__((noinline)) int tak_of(int x, int y, int z)
{
    return y >= x ? z : tak_of(tak_of(x - 1, y, z), tak_of(y - 1, z, x), tak_of(z - 1, x, y));
}

static uint64_t tak(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum = mix(sum, (uint64_t)tak_of((int)opaque(18), 12, 6));
    return sum;
}

enum { OP_LOAD, OP_ADD, OP_MULTIPLY, OP_XOR, OP_SHIFT, OP_NEXT, OP_ODD, OP_END };

static const uint8_t script[] = {OP_LOAD, OP_MULTIPLY, OP_XOR, OP_ODD,      OP_ADD,  OP_SHIFT,
                                 OP_XOR,  OP_ODD,      OP_ADD, OP_MULTIPLY, OP_NEXT, OP_END};

// A bytecode interpreter around one switch, as many have it.
static uint64_t switch_interpreter(uint64_t count)
{
    uint64_t value = 1, left = count;
    for (unsigned at = 0;; at++) {
        switch (script[at]) {
        case OP_LOAD:
            value += left;
            break;
        case OP_ADD:
            value += 0x1234567;
            break;
        case OP_MULTIPLY:
            value *= 0x9e3779b97f4a7c15;
            break;
        case OP_XOR:
            value ^= value >> 31;
            break;
        case OP_SHIFT:
            value = value << 7 | value >> 57;
            break;
        case OP_NEXT:
            if (--left)
                at = ~0u;
            break;
        case OP_ODD:
            at += value & 1;
            break;
        default:
            return value;
        }
    }
}

// The same with a jump of its own behind each operation, as the fast ones have it.
static uint64_t threaded_interpreter(uint64_t count)
{
    static const void *const labels[] = {&&load,  &&add,  &&multiply, &&xor,
                                         &&shift, &&next, &&odd,      &&end};
    uint64_t value = 1, left = count;
    const uint8_t *at = script;
#define NEXT goto *labels[*at++]
    NEXT;
load:
    value += left;
    NEXT;
add:
    value += 0x1234567;
    NEXT;
multiply:
    value *= 0x9e3779b97f4a7c15;
    NEXT;
    xor : value ^= value >> 31;
    NEXT;
shift:
    value = value << 7 | value >> 57;
    NEXT;
next:
    if (--left)
        at = script;
    NEXT;
odd:
    at += value & 1;
    NEXT;
#undef NEXT
end:
    return value;
}

static int numbers_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t sort_callback(uint64_t count)
{
    enum { LEN = 20000 };
    static uint64_t numbers[LEN];
    uint64_t state = RANDOM_SEED, sum = 0;
    for (uint64_t round = 0; round < count; round++) {
        for (int i = 0; i < LEN; i++)
            numbers[i] = random_next(&state);
        qsort(numbers, LEN, sizeof *numbers, numbers_compare);
        sum = mix(sum, numbers[LEN / 3]);
    }
    return sum;
}

struct shape {
    uint64_t (*area)(const struct shape *);
    uint64_t a, b;
};

static uint64_t area_square(const struct shape *shape)
{
    return shape->a * shape->a;
}

static uint64_t area_oblong(const struct shape *shape)
{
    return shape->a * shape->b;
}

static uint64_t area_triangle(const struct shape *shape)
{
    return shape->a * shape->b / 2;
}

static uint64_t area_none(const struct shape *shape)
{
    (void)shape;
    return 0;
}

// Calls through pointers that change: what C++ and GObject programs do all day.
static uint64_t virtual_calls(uint64_t count)
{
    static uint64_t (*const areas[])(const struct shape *) = {area_square, area_oblong,
                                                              area_triangle, area_none};
    enum { SHAPES = 1000 };
    static struct shape shapes[SHAPES];
    uint64_t state = RANDOM_SEED, sum = 0;
    for (int i = 0; i < SHAPES; i++) {
        uint64_t random = random_next(&state);
        shapes[i] = (struct shape){areas[random & 3], random >> 40, random >> 50};
    }
    for (uint64_t round = 0; round < count; round++)
        for (int i = 0; i < SHAPES; i++)
            sum += shapes[i].area(shapes + i);
    return sum;
}

static uint64_t queens_of(uint32_t all, uint32_t columns, uint32_t left, uint32_t right)
{
    if (columns == all)
        return 1;
    uint64_t solutions = 0;
    for (uint32_t free = all & ~(columns | left | right); free; free &= free - 1) {
        uint32_t bit = free & -free;
        solutions += queens_of(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    return solutions;
}

static uint64_t queens(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum = mix(sum, queens_of((uint32_t)opaque((1u << 10) - 1), 0, 0, 0));
    return sum;
}

// A loop with one instruction across two pages, which happens to many a loop by chance.
static uint64_t page_edge(uint64_t count)
{
    uint64_t sum = 0;
    __asm__ volatile("jmp 2f\n"
                     ".p2align 12\n"
                     ".fill 4096 - 8, 1, 0x90\n"
                     "1: add %1, %0\n" // 3 bytes
                     "rol $1, %0\n"    // 3 bytes
                     "2: dec %1\n"     // its last byte is in the next page
                     "jnz 1b\n"
                     : "+r"(sum), "+r"(count)
                     :
                     : "cc");
    return sum;
}

struct node {
    struct node *child[2];
    uint64_t key;
};

static uint64_t tree_walk(const struct node *node, uint64_t sum)
{
    if (!node)
        return sum;
    return tree_walk(node->child[1], mix(tree_walk(node->child[0], sum), node->key));
}

static uint64_t tree(uint64_t count)
{
    enum { NODES = 10000 };
    static struct node nodes[NODES];
    uint64_t state = RANDOM_SEED, sum = 0;
    for (uint64_t round = 0; round < count; round++) {
        struct node *root = NULL;
        for (int i = 0; i < NODES; i++) {
            nodes[i] = (struct node){{NULL, NULL}, random_next(&state)};
            struct node **link = &root;
            while (*link)
                link = &(*link)->child[nodes[i].key > (*link)->key];
            *link = nodes + i;
        }
        sum = tree_walk(root, sum);
    }
    return sum;
}

// Counts words, numbers and the rest in text, character by character.
static uint64_t lexer(uint64_t count)
{
    enum { LEN = 1 << 16 };
    static char text[LEN];
    static const char letters[] = "etaoin shrdlu  0123 (x) [y];\n";
    uint64_t state = RANDOM_SEED, words = 0, digits = 0, others = 0;
    for (int i = 0; i < LEN; i++)
        text[i] = letters[(random_next(&state) >> 32) % (sizeof letters - 1)];
    for (uint64_t round = 0; round < count; round++) {
        enum { BETWEEN, WORD, NUMBER } in = BETWEEN;
        for (int i = 0; i < LEN; i++) {
            char c = text[i];
            if (c >= 'a' && c <= 'z') {
                words += in != WORD;
                in = WORD;
            } else if (c >= '0' && c <= '9') {
                digits += in != WORD;
                in = in == WORD ? WORD : NUMBER;
            } else {
                others += c != ' ';
                in = BETWEEN;
            }
        }
    }
    return mix(mix(words, digits), others);
}

static jmp_buf jump_target;

static __attribute__((noinline)) uint64_t jump_from(uint64_t depth, int value)
{
    if (value && depth == 0)
        longjmp(jump_target, value);
    return depth ? jump_from(depth - 1, value) + depth : 0;
}

static uint64_t long_jumps(uint64_t count)
{
    volatile uint64_t sum = 0;
    for (volatile uint64_t i = 0; i < count; i++) {
        int value = setjmp(jump_target);
        if (value == 0)
            jump_from(i & 7, (int)(i & 0xff) + 1);
        sum = mix(sum, (uint64_t)value);
    }
    return sum;
}

const struct program branch_programs[] = {
    {"fibonacci", fibonacci, 1000, 1, NULL},
    {"tak", tak, 2000, 1, NULL},
    {"switch-interpreter", switch_interpreter, 10000000, 1, NULL},
    {"threaded-interpreter", threaded_interpreter, 12000000, 1, NULL},
    {"sort-callback", sort_callback, 120, 1, NULL},
    {"virtual-calls", virtual_calls, 100000, 1, NULL},
    {"page-edge", page_edge, 100000000, 1, NULL},
    {"queens", queens, 800, 1, NULL},
    {"tree", tree, 250, 1, NULL},
    {"lexer", lexer, 500, 1, NULL},
    {"long-jumps", long_jumps, 30000000, 1, NULL},
    {NULL, NULL, 0, 0, NULL},
};
