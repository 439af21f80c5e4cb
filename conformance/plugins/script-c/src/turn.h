// What one callback works with.

#ifndef SCRIPT_TURN_H
#define SCRIPT_TURN_H

#include "answer.h"
#include "bytes.h"

struct turn {
    uint32_t context;
    // The last token, number or size that a hostcall gave, for `$`.
    uint32_t last;
    uint32_t result;
    struct bytes trace;
    // The line that is carried out.
    struct slice operation;
    const struct slice *arguments;
    size_t argument_count;
};

// An argument; the empty string when there is none.
struct slice argument(const struct turn *turn, size_t index);

// An argument that is a number, `$` for the last one that a hostcall gave, or `self`.
uint32_t number(const struct turn *turn, size_t index);

// Adds to the trace what the operation has answered.
void say(struct turn *turn, uint32_t status);
void say_answer(struct turn *turn, const struct answer *answer);

// Adds only the value of an answer, if there is one.
void say_value(struct turn *turn, const struct answer *answer);

#endif
