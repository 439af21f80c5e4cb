#include "raw.h"

#include "abi.h"

// The host checks every pointer that it is given; finding out how is what this is for.
#define POINTER(i) ((void *)(uintptr_t)numbers[i])
#define WORD(i) ((uint32_t)numbers[i])
#define WIDE(i) (numbers[i])
// A pointer and a size.
#define STRING(i) POINTER(i), WORD((i) + 1)

// The compiler compares the arguments with the declaration, but not the arity with the arguments.
#define CALL(function, arity, arguments)                                  \
    _Static_assert((arity) <= RAW_PARAMETERS_MAX, "too many parameters"); \
    if (slice_is(name, #function)) {                                      \
        if (count < (arity)) {                                            \
            return false;                                                 \
        }                                                                 \
        *status = function arguments;                                     \
        return true;                                                      \
    }

bool raw_call(struct slice name, const uint64_t *numbers, size_t count, uint32_t *status)
{
    CALL(proxy_log, 3, (WORD(0), STRING(1)))
    CALL(proxy_get_log_level, 1, (POINTER(0)))
    CALL(proxy_get_current_time_nanoseconds, 1, (POINTER(0)))
    CALL(proxy_set_tick_period_milliseconds, 1, (WORD(0)))
    CALL(proxy_get_status, 3, (POINTER(0), POINTER(1), POINTER(2)))
    CALL(proxy_set_effective_context, 1, (WORD(0)))
    CALL(proxy_done, 0, ())
    CALL(proxy_get_property, 4, (STRING(0), POINTER(2), POINTER(3)))
    CALL(proxy_set_property, 4, (STRING(0), STRING(2)))
    CALL(proxy_get_buffer_bytes, 5, (WORD(0), WORD(1), WORD(2), POINTER(3), POINTER(4)))
    CALL(proxy_get_buffer_status, 3, (WORD(0), POINTER(1), POINTER(2)))
    CALL(proxy_set_buffer_bytes, 5, (WORD(0), WORD(1), WORD(2), STRING(3)))
    CALL(proxy_get_header_map_pairs, 3, (WORD(0), POINTER(1), POINTER(2)))
    CALL(proxy_set_header_map_pairs, 3, (WORD(0), STRING(1)))
    CALL(proxy_get_header_map_value, 5, (WORD(0), STRING(1), POINTER(3), POINTER(4)))
    CALL(proxy_add_header_map_value, 5, (WORD(0), STRING(1), STRING(3)))
    CALL(proxy_replace_header_map_value, 5, (WORD(0), STRING(1), STRING(3)))
    CALL(proxy_remove_header_map_value, 3, (WORD(0), STRING(1)))
    CALL(proxy_get_header_map_size, 2, (WORD(0), POINTER(1)))
    CALL(proxy_continue_stream, 1, (WORD(0)))
    CALL(proxy_close_stream, 1, (WORD(0)))
    CALL(proxy_send_local_response, 8, (WORD(0), STRING(1), STRING(3), STRING(5), WORD(7)))
    CALL(proxy_http_call, 10, (STRING(0), STRING(2), STRING(4), STRING(6), WORD(8), POINTER(9)))
    CALL(proxy_grpc_call, 12, (STRING(0), STRING(2), STRING(4), STRING(6), STRING(8), WORD(10), POINTER(11)))
    CALL(proxy_grpc_stream, 9, (STRING(0), STRING(2), STRING(4), STRING(6), POINTER(8)))
    CALL(proxy_grpc_send, 4, (WORD(0), STRING(1), WORD(3)))
    CALL(proxy_grpc_cancel, 1, (WORD(0)))
    CALL(proxy_grpc_close, 1, (WORD(0)))
    CALL(proxy_set_shared_data, 5, (STRING(0), STRING(2), WORD(4)))
    CALL(proxy_get_shared_data, 5, (STRING(0), POINTER(2), POINTER(3), POINTER(4)))
    CALL(proxy_register_shared_queue, 3, (STRING(0), POINTER(2)))
    CALL(proxy_resolve_shared_queue, 5, (STRING(0), STRING(2), POINTER(4)))
    CALL(proxy_enqueue_shared_queue, 3, (WORD(0), STRING(1)))
    CALL(proxy_dequeue_shared_queue, 3, (WORD(0), POINTER(1), POINTER(2)))
    CALL(proxy_define_metric, 4, (WORD(0), STRING(1), POINTER(3)))
    CALL(proxy_increment_metric, 2, (WORD(0), WIDE(1)))
    CALL(proxy_record_metric, 2, (WORD(0), WIDE(1)))
    CALL(proxy_get_metric, 2, (WORD(0), POINTER(1)))
    CALL(proxy_call_foreign_function, 6, (STRING(0), STRING(2), POINTER(4), POINTER(5)))
    return false;
}
