// The trace: what came in and what each hostcall answered.

#ifndef SCRIPT_TRACE_H
#define SCRIPT_TRACE_H

#include "bytes.h"

// Adds ` OPERATION=STATUS`.
void trace_add_status(struct bytes *trace, struct slice operation, uint32_t status);

// Adds a value: what could be mistaken for the trace itself is escaped.
void trace_add_shown(struct bytes *trace, struct slice value);

#endif
