// Operations that call other services.

#include "abi.h"
#include "operations.h"
#include "pairs.h"
#include "streams.h"

// A call-out has been started, or not.
static void say_call(struct turn *turn, uint32_t status, uint32_t token)
{
    say(turn, status);
    if (status == 0) {
        turn->last = token;
        token_add(token, turn->context);
    }
}

// cluster, headers, body, timeout
static void http_call(struct turn *turn)
{
    struct slice cluster = argument(turn, 0);
    struct bytes headers = pairs_encoded(argument(turn, 1));
    struct slice body = argument(turn, 2);
    struct slice trailers = slice_of("");
    uint32_t token = 0;
    uint32_t status = proxy_http_call(cluster.data, cluster.size, headers.data, headers.size, body.data, body.size,
                                      trailers.data, trailers.size, number(turn, 3), &token);
    bytes_clear(&headers);
    say_call(turn, status, token);
}

// cluster, service, method, message, timeout
static void grpc_call(struct turn *turn)
{
    struct slice cluster = argument(turn, 0);
    struct slice service = argument(turn, 1);
    struct slice method = argument(turn, 2);
    struct slice metadata = slice_of("");
    struct slice message = argument(turn, 3);
    uint32_t token = 0;
    uint32_t status = proxy_grpc_call(cluster.data, cluster.size, service.data, service.size, method.data, method.size,
                                      metadata.data, metadata.size, message.data, message.size, number(turn, 4), &token);
    say_call(turn, status, token);
}

// cluster, service, method
static void grpc_stream(struct turn *turn)
{
    struct slice cluster = argument(turn, 0);
    struct slice service = argument(turn, 1);
    struct slice method = argument(turn, 2);
    struct slice metadata = slice_of("");
    uint32_t token = 0;
    uint32_t status = proxy_grpc_stream(cluster.data, cluster.size, service.data, service.size, method.data, method.size,
                                        metadata.data, metadata.size, &token);
    say_call(turn, status, token);
}

static void grpc_send(struct turn *turn)
{
    struct slice message = argument(turn, 1);
    say(turn, proxy_grpc_send(number(turn, 0), message.data, message.size, number(turn, 2)));
}

static void grpc_cancel(struct turn *turn)
{
    say(turn, proxy_grpc_cancel(number(turn, 0)));
}

static void grpc_close(struct turn *turn)
{
    say(turn, proxy_grpc_close(number(turn, 0)));
}

const struct operation call_operations[] = {
    {"http_call", http_call},
    {"grpc_call", grpc_call},
    {"grpc_stream", grpc_stream},
    {"grpc_send", grpc_send},
    {"grpc_cancel", grpc_cancel},
    {"grpc_close", grpc_close},
    {0},
};
