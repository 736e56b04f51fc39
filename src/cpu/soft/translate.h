/*
 * The translator: blocks of 64-bit code to host code. Only inside src/cpu/soft/. See translate.c.
 */
#ifndef FREEHOLD_CPU_SOFT_TRANSLATE_H
#define FREEHOLD_CPU_SOFT_TRANSLATE_H

#include "cpu/soft/code.h"

MUST_CHECK int soft_translator_new(struct soft_vcpu *c);
void soft_translator_free(struct soft_vcpu *c);
/* The memory of translated code and what goes with it. Gives how many parts there are. */
#define SOFT_TRANSLATOR_PARTS 5
unsigned soft_translator_parts(const struct soft_vcpu *c,
                               struct soft_part parts[SOFT_TRANSLATOR_PARTS]);

/* Translates `block` unless it is cold, not 64-bit, or translated already; false: interpret it. */
bool soft_translate_block(struct soft_vcpu *c, struct soft_block *block);

/* The same for its other code, soft_block.code_alone, once it is translated. */
bool soft_translate_alone(struct soft_vcpu *c, struct soft_block *block);

/* Runs translated code from `block` at c->rip until something needs the run loop. Sets c->rip. */
void soft_translated_run(struct soft_vcpu *c, struct soft_block *block);

/* A block is dropped: nothing may enter its code any more. It comes back: it may again. Links to
 * one that has done so stay, and lead on to C; until another block takes its place. */
void soft_translation_drop(struct soft_vcpu *c, struct soft_block *block);
void soft_translation_revive(struct soft_vcpu *c, struct soft_block *block);
void soft_translation_forget(struct soft_block *block);
/* All blocks are gone. */
void soft_translator_clear(struct soft_vcpu *c);

#endif
