// The callbacks that a script can use.

#ifndef SCRIPT_CALLBACKS_H
#define SCRIPT_CALLBACKS_H

#include "bytes.h"

enum callback {
    REQUEST_HEADERS,
    REQUEST_BODY,
    REQUEST_TRAILERS,
    RESPONSE_HEADERS,
    RESPONSE_BODY,
    RESPONSE_TRAILERS,
    HTTP_CALL_RESPONSE,
    GRPC_RECEIVE,
    GRPC_CLOSE,
    LOG,
    CALLBACKS,
};

// Its name, in scripts and in the trace.
const char *callback_name(enum callback callback);

// The callback of a name; `CALLBACKS` when there is none.
enum callback callback_named(struct slice name);

#endif
