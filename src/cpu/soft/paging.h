/* Page walks and TLB fills: see paging.c. Only inside src/cpu/soft/. */
#ifndef FREEHOLD_CPU_SOFT_PAGING_H
#define FREEHOLD_CPU_SOFT_PAGING_H

#include "cpu/soft/soft.h"

struct soft_walk_request {
    uint64_t linear;
    enum soft_access access;
    enum soft_privilege privilege; /* not SOFT_CHECKED */
    bool cache;                    /* fill the TLB */
    bool leaf;                     /* take no lock, but decline */
};

struct soft_page {
    uint64_t gpa;
    unsigned shift;      /* log2 of the page's size, 0 without paging */
    bool writable;       /* a store would succeed without changing the tables */
    bool global;         /* stays in the TLB when CR3 is loaded */
    uint32_t fault_code; /* when the walk failed */
    bool declined;       /* ... or needs a lock */
};

/* Where an address leads. */
struct soft_target {
    uint64_t gpa;
    uint8_t *host; /* NULL: memory-mapped I/O or nothing */
    bool rom;
    bool global;
    bool code; /* the page holds decoded code: stores go through soft_code_* */
};

/* Walks and sets accessed and dirty bits; false: a page fault with page->fault_code, or declined.
 */
MUST_CHECK bool soft_walk(struct soft_vcpu *c, const struct soft_walk_request *request,
                          struct soft_page *page);
/* The same, raising what must be raised. */
void soft_translate(struct soft_vcpu *c, const struct soft_walk_request *request,
                    struct soft_target *target);
/* How accesses of the running code are judged (the real one behind SOFT_CHECKED). */
enum soft_privilege soft_privilege_now(const struct soft_vcpu *c);
/* Host pointer to a guest-physical byte, up to the end of its page; NULL: no RAM or ROM. */
uint8_t *soft_host(struct soft_vcpu *c, uint64_t gpa, bool *rom);

#endif
