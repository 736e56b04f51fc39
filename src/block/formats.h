/* The formats' tables, one per file; block.c lists them. */
#ifndef FREEHOLD_BLOCK_FORMATS_H
#define FREEHOLD_BLOCK_FORMATS_H

#include "block/block.h"

extern const struct block_ops block_raw_ops;

#endif
