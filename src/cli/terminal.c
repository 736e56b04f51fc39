/* Keeps the user's terminal usable after a crash. Threads: any; signal handlers. */
#include "cli/terminal.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <termios.h>
#include <unistd.h>

/* Written once before threads start; signal handlers have no argument to carry it. */
static struct termios terminal_state;
static volatile sig_atomic_t terminal_saved;

void terminal_restore(void)
{
    if (terminal_saved)
        tcsetattr(STDIN_FILENO, TCSANOW, &terminal_state);
}

/* SA_RESETHAND has put the default action back, which then kills with the right status and core. */
static void terminal_fatal(int signal_number)
{
    terminal_restore();
    raise(signal_number);
}

void terminal_guard(void)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};
    struct sigaction action = {.sa_handler = terminal_fatal,
                               .sa_flags = (int)(SA_RESETHAND | SA_NODEFER | SA_ONSTACK)};

    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &terminal_state) < 0)
        return;
    terminal_saved = 1;
    for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; i++)
        sigaction(fatal[i], &action, NULL);
}
