#include "callbacks.h"

static const char *const names[CALLBACKS] = {
    [REQUEST_HEADERS] = "request_headers",
    [REQUEST_BODY] = "request_body",
    [REQUEST_TRAILERS] = "request_trailers",
    [RESPONSE_HEADERS] = "response_headers",
    [RESPONSE_BODY] = "response_body",
    [RESPONSE_TRAILERS] = "response_trailers",
    [HTTP_CALL_RESPONSE] = "http_call_response",
    [GRPC_RECEIVE] = "grpc_receive",
    [GRPC_CLOSE] = "grpc_close",
    [LOG] = "log",
};

const char *callback_name(enum callback callback)
{
    return names[callback];
}

enum callback callback_named(struct slice name)
{
    enum callback callback = 0;
    while (callback < CALLBACKS && !slice_is(name, names[callback])) {
        callback++;
    }
    return callback;
}
