/* A full memory fence. MFENCE by name, since ThreadSanitizer knows no atomic_thread_fence(). */
#ifndef FREEHOLD_BASE_FENCE_H
#define FREEHOLD_BASE_FENCE_H

static inline void memory_fence(void)
{
    __asm__ volatile("mfence" ::: "memory");
}

#endif
