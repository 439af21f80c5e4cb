// What a script can ask for.

#ifndef SCRIPT_OPERATIONS_H
#define SCRIPT_OPERATIONS_H

#include "turn.h"

struct operation {
    const char *name;
    void (*run)(struct turn *turn);
};

// Each ends with an operation without a name.
extern const struct operation http_operations[];
extern const struct operation call_operations[];
extern const struct operation shared_operations[];
extern const struct operation general_operations[];

// Carries out the line that the turn is at.
void operation_run(struct turn *turn);

#endif
