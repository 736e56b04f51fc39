/*
 * Instructions in the making: random operands, encoding, and the groups to choose from. Shared by
 * the files of the generator alone; generate.h is what the test sees.
 *
 * All state is in struct generator and comes from its seed. Threads: none.
 */
#ifndef FREEHOLD_TESTS_DIFFERENTIAL_ENCODE_H
#define FREEHOLD_TESTS_DIFFERENTIAL_ENCODE_H

#include "generate.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R14 = 14, R15 = 15 };

#define NO_INDEX 4

/* Where a memory operand is: from R15, RSP or the pointer register; absolute; from RIP. */
enum address { BASE_R15, BASE_RSP, ABSOLUTE, RIP_RELATIVE, BASE_POINTER };

/* One instruction. */
struct encoding {
    uint8_t prefix66, prefix_f, lock; /* 0 or the byte; prefix_f: F2 or F3 */
    bool wide;                        /* REX.W */
    bool byte_registers;              /* REX is forced so that SPL to DIL are meant */
    uint8_t map;                      /* 0, 1 (0F), 2 (0F38), 3 (0F3A) */
    uint8_t opcode;
    uint8_t reg, rm;
    bool memory;
    uint8_t index, scale; /* memory: R14, which is small, or what is just now, or NO_INDEX */
    uint8_t base;         /* memory, BASE_POINTER: the register */
    uint8_t kind;         /* memory: enum address */
    int32_t displacement; /* from DATA_MIDDLE, which R15 holds; from the base else */
    uint8_t vex;          /* 0: legacy; else VEX */
    uint8_t vvvv, pp, l;
    bool short_address;
    unsigned immediate_bytes;
    uint64_t immediate;
};

unsigned below(struct generator *g, unsigned limit);
bool one_in(struct generator *g, unsigned n);
uint64_t interesting(struct generator *g);
/* A register that may be written; one that may be read. */
uint8_t free_register(struct generator *g);
uint8_t any_register(struct generator *g);
bool is_reserved(const struct generator *g, uint8_t number);

void put(struct generator *g, uint64_t value, unsigned bytes);
/* MOV reg, imm64 */
void put_pointer(struct generator *g, uint8_t reg, uint64_t value);
void emit(struct generator *g, const struct encoding *e);

/* From DATA_MIDDLE, around a page's end, so that about half of the accesses meet it. */
int32_t choose_edge(struct generator *g);
/* Makes RM a random memory operand, aligned to `align` where that is not 1. */
void choose_memory(struct generator *g, struct encoding *e, unsigned align);
/* Operand size: 0 byte, 1 word, 2 dword, 3 qword. */
unsigned choose_size(struct generator *g, struct encoding *e);
/* Byte operands may be any but SPL, which would move the stack, and AH to BH of what is kept: 4 to
 * 7 mean the former with REX, the latter without, which is not known yet. */
void fix_byte_register(struct generator *g, uint8_t *number);
void choose_operands(struct generator *g, struct encoding *e, bool writes_rm);
void set_immediate(struct generator *g, struct encoding *e, unsigned size);

/* One instruction, or a few that belong together, of any group (integer_code.c, vector_code.c). */
void generate_integer(struct generator *g);
void generate_vector(struct generator *g);
/* One that sets arithmetic flags, all of them defined. */
void generate_flags(struct generator *g);
/* A whole loop (loop_code.c). */
void generate_loop(struct generator *g);

#endif
