// Hostcalls by their names.

#ifndef SCRIPT_RAW_H
#define SCRIPT_RAW_H

#include "bytes.h"

enum { RAW_PARAMETERS_MAX = 12 };

// Calls a function with numbers for all of its parameters. False: there is none of this name and arity.
bool raw_call(struct slice name, const uint64_t *numbers, size_t count, uint32_t *status);

#endif
