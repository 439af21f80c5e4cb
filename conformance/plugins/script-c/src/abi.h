// The hostcalls as the ABI has them.

#ifndef SCRIPT_ABI_H
#define SCRIPT_ABI_H

#include <stdint.h>

#define HOSTCALL(name) __attribute__((import_module("env"), import_name(#name))) uint32_t name

enum {
    MAP_REQUEST_HEADERS = 0,
    BUFFER_PLUGIN_CONFIGURATION = 7,
    LOG_INFO = 2,
};

HOSTCALL(proxy_log)(uint32_t level, const uint8_t *message, uint32_t size);
HOSTCALL(proxy_get_log_level)(uint32_t *level);
HOSTCALL(proxy_get_current_time_nanoseconds)(uint64_t *time);
HOSTCALL(proxy_set_tick_period_milliseconds)(uint32_t period);
HOSTCALL(proxy_get_status)(uint32_t *code, uint8_t **message, uint32_t *size);
HOSTCALL(proxy_set_effective_context)(uint32_t context);
HOSTCALL(proxy_done)(void);

HOSTCALL(proxy_get_property)(const uint8_t *path, uint32_t path_size, uint8_t **value, uint32_t *size);
HOSTCALL(proxy_set_property)(const uint8_t *path, uint32_t path_size, const uint8_t *value, uint32_t size);

HOSTCALL(proxy_get_buffer_bytes)(uint32_t buffer, uint32_t start, uint32_t max, uint8_t **value, uint32_t *size);
HOSTCALL(proxy_get_buffer_status)(uint32_t buffer, uint32_t *size, uint32_t *flags);
HOSTCALL(proxy_set_buffer_bytes)(uint32_t buffer, uint32_t start, uint32_t max, const uint8_t *value, uint32_t size);

HOSTCALL(proxy_get_header_map_pairs)(uint32_t map, uint8_t **pairs, uint32_t *size);
HOSTCALL(proxy_set_header_map_pairs)(uint32_t map, const uint8_t *pairs, uint32_t size);
HOSTCALL(proxy_get_header_map_value)(uint32_t map, const uint8_t *key, uint32_t key_size, uint8_t **value, uint32_t *size);
HOSTCALL(proxy_add_header_map_value)(uint32_t map, const uint8_t *key, uint32_t key_size, const uint8_t *value,
                                     uint32_t size);
HOSTCALL(proxy_replace_header_map_value)(uint32_t map, const uint8_t *key, uint32_t key_size, const uint8_t *value,
                                         uint32_t size);
HOSTCALL(proxy_remove_header_map_value)(uint32_t map, const uint8_t *key, uint32_t key_size);
HOSTCALL(proxy_get_header_map_size)(uint32_t map, uint32_t *size);

HOSTCALL(proxy_continue_stream)(uint32_t stream);
HOSTCALL(proxy_close_stream)(uint32_t stream);
HOSTCALL(proxy_send_local_response)(uint32_t status, const uint8_t *details, uint32_t details_size, const uint8_t *body,
                                    uint32_t body_size, const uint8_t *headers, uint32_t headers_size, uint32_t grpc_status);

HOSTCALL(proxy_http_call)(const uint8_t *cluster, uint32_t cluster_size, const uint8_t *headers, uint32_t headers_size,
                          const uint8_t *body, uint32_t body_size, const uint8_t *trailers, uint32_t trailers_size,
                          uint32_t timeout, uint32_t *token);
HOSTCALL(proxy_grpc_call)(const uint8_t *cluster, uint32_t cluster_size, const uint8_t *service, uint32_t service_size,
                          const uint8_t *method, uint32_t method_size, const uint8_t *metadata, uint32_t metadata_size,
                          const uint8_t *message, uint32_t message_size, uint32_t timeout, uint32_t *token);
HOSTCALL(proxy_grpc_stream)(const uint8_t *cluster, uint32_t cluster_size, const uint8_t *service, uint32_t service_size,
                            const uint8_t *method, uint32_t method_size, const uint8_t *metadata, uint32_t metadata_size,
                            uint32_t *token);
HOSTCALL(proxy_grpc_send)(uint32_t token, const uint8_t *message, uint32_t size, uint32_t end);
HOSTCALL(proxy_grpc_cancel)(uint32_t token);
HOSTCALL(proxy_grpc_close)(uint32_t token);

HOSTCALL(proxy_set_shared_data)(const uint8_t *key, uint32_t key_size, const uint8_t *value, uint32_t size, uint32_t cas);
HOSTCALL(proxy_get_shared_data)(const uint8_t *key, uint32_t key_size, uint8_t **value, uint32_t *size, uint32_t *cas);
HOSTCALL(proxy_register_shared_queue)(const uint8_t *name, uint32_t size, uint32_t *queue);
HOSTCALL(proxy_resolve_shared_queue)(const uint8_t *vm, uint32_t vm_size, const uint8_t *name, uint32_t size, uint32_t *queue);
HOSTCALL(proxy_enqueue_shared_queue)(uint32_t queue, const uint8_t *value, uint32_t size);
HOSTCALL(proxy_dequeue_shared_queue)(uint32_t queue, uint8_t **value, uint32_t *size);

HOSTCALL(proxy_define_metric)(uint32_t type, const uint8_t *name, uint32_t size, uint32_t *metric);
HOSTCALL(proxy_increment_metric)(uint32_t metric, uint64_t offset);
HOSTCALL(proxy_record_metric)(uint32_t metric, uint64_t value);
HOSTCALL(proxy_get_metric)(uint32_t metric, uint64_t *value);

HOSTCALL(proxy_call_foreign_function)(const uint8_t *name, uint32_t name_size, const uint8_t *argument, uint32_t argument_size,
                                      uint8_t **result, uint32_t *size);

#endif
