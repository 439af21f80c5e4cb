// Operations on the stream itself: headers, bodies, replies.

#include <stdlib.h>

#include "abi.h"
#include "operations.h"
#include "pairs.h"

static void set_result(struct turn *turn)
{
    turn->result = number(turn, 0);
}

static void trap(struct turn *turn)
{
    abort();
}

static void get_header(struct turn *turn)
{
    struct slice key = argument(turn, 1);
    struct answer answer = {0};
    answer.status = proxy_get_header_map_value(number(turn, 0), key.data, key.size, &answer.data, &answer.size);
    say_answer(turn, &answer);
    answer_clear(&answer);
}

static void get_pairs(struct turn *turn)
{
    struct answer answer = {0};
    answer.status = proxy_get_header_map_pairs(number(turn, 0), &answer.data, &answer.size);
    say(turn, answer.status);
    struct slice value = answer_value(&answer);
    if (value.data != NULL) {
        bytes_add_byte(&turn->trace, ':');
        pairs_add_listed(&turn->trace, value);
    }
    answer_clear(&answer);
}

static void get_map_size(struct turn *turn)
{
    uint32_t size = 0;
    say(turn, proxy_get_header_map_size(number(turn, 0), &size));
}

static void set_pairs(struct turn *turn)
{
    struct bytes pairs = pairs_encoded(argument(turn, 1));
    say(turn, proxy_set_header_map_pairs(number(turn, 0), pairs.data, pairs.size));
    bytes_clear(&pairs);
}

static void add_header(struct turn *turn)
{
    struct slice key = argument(turn, 1);
    struct slice value = argument(turn, 2);
    say(turn, proxy_add_header_map_value(number(turn, 0), key.data, key.size, value.data, value.size));
}

static void replace_header(struct turn *turn)
{
    struct slice key = argument(turn, 1);
    struct slice value = argument(turn, 2);
    say(turn, proxy_replace_header_map_value(number(turn, 0), key.data, key.size, value.data, value.size));
}

static void remove_header(struct turn *turn)
{
    struct slice key = argument(turn, 1);
    say(turn, proxy_remove_header_map_value(number(turn, 0), key.data, key.size));
}

static void get_body(struct turn *turn)
{
    struct answer answer = {0};
    answer.status =
        proxy_get_buffer_bytes(number(turn, 0), number(turn, 1), number(turn, 2), &answer.data, &answer.size);
    say_answer(turn, &answer);
    answer_clear(&answer);
}

static void get_body_status(struct turn *turn)
{
    uint32_t size = 0;
    uint32_t flags = 0;
    say(turn, proxy_get_buffer_status(number(turn, 0), &size, &flags));
    bytes_add_byte(&turn->trace, ':');
    bytes_add_decimal(&turn->trace, size);
}

static void set_body(struct turn *turn)
{
    struct slice value = argument(turn, 3);
    say(turn, proxy_set_buffer_bytes(number(turn, 0), number(turn, 1), number(turn, 2), value.data, value.size));
}

static void continue_stream(struct turn *turn)
{
    say(turn, proxy_continue_stream(number(turn, 0)));
}

static void close_stream(struct turn *turn)
{
    say(turn, proxy_close_stream(number(turn, 0)));
}

// status, details, body, headers, gRPC status
static void reply(struct turn *turn)
{
    struct slice details = argument(turn, 1);
    struct slice body = argument(turn, 2);
    struct bytes headers = pairs_encoded(argument(turn, 3));
    // All ones leave the gRPC status to the host.
    uint32_t grpc_status = turn->argument_count > 4 ? number(turn, 4) : UINT32_MAX;
    say(turn, proxy_send_local_response(number(turn, 0), details.data, details.size, body.data, body.size, headers.data,
                                        headers.size, grpc_status));
    bytes_clear(&headers);
}

const struct operation http_operations[] = {
    {"return", set_result},
    {"trap", trap},
    {"get", get_header},
    {"pairs", get_pairs},
    {"size", get_map_size},
    {"set_pairs", set_pairs},
    {"add", add_header},
    {"replace", replace_header},
    {"remove", remove_header},
    {"body", get_body},
    {"body_status", get_body_status},
    {"set_body", set_body},
    {"continue", continue_stream},
    {"close", close_stream},
    {"reply", reply},
    {0},
};
