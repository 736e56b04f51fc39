/*
 * Errors that a user reads.
 *
 * A function that can fail returns 0 or a negative errno. Where the failure will be shown to a
 * person it also takes a `struct error *` (last parameter), and fills it with one sentence: what
 * was being done, to what, why it failed, what to do. Threads: an error belongs to its caller.
 */
#ifndef FREEHOLD_BASE_ERROR_H
#define FREEHOLD_BASE_ERROR_H

#define MUST_CHECK   __attribute__((warn_unused_result))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))

struct error {
    int code; /* negative errno, 0 while nothing has failed */
    char text[512];
};

/* Records the sentence and returns `code` (a negative errno), so that `return error_set(...)` reads
 * well. `err` may be NULL: then only the code is passed on. */
int error_set(struct error *err, int code, const char *format, ...) PRINTF(3, 4);

#endif
