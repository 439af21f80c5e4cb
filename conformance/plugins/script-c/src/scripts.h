// The scripts of the configuration.
//
// `script NAME` begins a script; every further line is `CALLBACK OPERATION ARGUMENT...`. Arguments are percent-encoded;
// `-` stands for the empty one. `CALLBACK@2` is the second call only, `CALLBACK@end` the one with end of stream.

#ifndef SCRIPT_SCRIPTS_H
#define SCRIPT_SCRIPTS_H

#include "callbacks.h"

// Which calls of its callback a step is for.
enum which { EVERY_CALL, NTH_CALL, LAST_CALL };

// One line of a script.
struct step {
    struct slice script;
    enum callback callback;
    enum which which;
    uint64_t nth;
    struct slice operation;
    // Where its arguments are among those of all steps.
    size_t first_argument;
    size_t argument_count;
};

// The steps of all scripts, in their order. All zeros is none.
struct scripts {
    struct step *steps;
    size_t step_count;
    size_t step_capacity;
    struct slice *arguments;
    size_t argument_count;
    size_t argument_capacity;
    // What the slices point into.
    struct bytes text;
    struct bytes decoded;
};

// Replaces the scripts by those of a configuration: the text itself, or a JSON object with the text in `script`.
void scripts_read(struct scripts *scripts, struct slice configuration);

// The arguments of a step; null when it has none.
const struct slice *step_arguments(const struct scripts *scripts, const struct step *step);

// Whether a step is for this call, the `nth`, of a callback.
bool step_fits(const struct step *step, struct slice script, enum callback callback, uint64_t nth, bool is_end);

#endif
