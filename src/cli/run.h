/* `freehold run`: one VM in this process. */
#ifndef FREEHOLD_CLI_RUN_H
#define FREEHOLD_CLI_RUN_H

/* `words` are those after "run", and end with NULL. Returns the process's exit status. */
int run_main(char **words);

#endif
