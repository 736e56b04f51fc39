/*
 * Bits of page-table entries, under short names since tests are full of them. Intel SDM vol. 3,
 * tables 4-14 to 4-20.
 */
#ifndef GUEST_PAGES_H
#define GUEST_PAGES_H

#define P  1ul
#define W  2ul
#define U  4ul
#define A  0x20ul
#define D  0x40ul
#define PS 0x80ul
#define G  0x100ul
#define NX (1ul << 63)

#endif
