/*
 * The terminal is put back whatever happens: the state that standard input's terminal has at
 * terminal_guard() is restored by terminal_restore(), and by fatal signals (SIGSEGV, SIGABRT...).
 * This is about the one controlling terminal of the process, so its state is the process's.
 */
#ifndef FREEHOLD_CLI_TERMINAL_H
#define FREEHOLD_CLI_TERMINAL_H

void terminal_guard(
    void); /* once, before anything changes the terminal; no terminal: does nothing */
void terminal_restore(void); /* async-signal-safe */

#endif
