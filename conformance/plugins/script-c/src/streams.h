// The streams there are, and the calls that they have made.

#ifndef SCRIPT_STREAMS_H
#define SCRIPT_STREAMS_H

#include "callbacks.h"

struct stream {
    uint32_t context;
    // The headers `x-case` and `x-script`.
    struct bytes case_name;
    struct bytes script;
    struct bytes trace;
    uint32_t calls[CALLBACKS];
};

void stream_create(uint32_t context);

// Null: there is no such stream. A hostcall may create streams, after which this is somewhere else.
struct stream *stream_find(uint32_t context);

// Forgets a stream and its tokens.
void stream_delete(uint32_t context);

// Notes which stream has started a call-out.
void token_add(uint32_t token, uint32_t context);

// False: no stream here has started it.
bool token_find(uint32_t token, uint32_t *context);

#endif
