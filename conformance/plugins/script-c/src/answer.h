// What a hostcall that gives bytes has answered.

#ifndef SCRIPT_ANSWER_H
#define SCRIPT_ANSWER_H

#include "bytes.h"

// Begins as all zeros, and the hostcall fills it in.
struct answer {
    uint32_t status;
    uint8_t *data;
    uint32_t size;
};

// The value, a slice of nothing when there is none.
struct slice answer_value(const struct answer *answer);

// Gives back the memory, which the host got from `malloc`.
void answer_clear(struct answer *answer);

#endif
