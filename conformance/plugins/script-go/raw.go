package main

import (
	"reflect"
	"unsafe"
)

// hostcalls has them by name.
var hostcalls = map[string]any{
	"proxy_log":                          proxyLog,
	"proxy_get_log_level":                proxyGetLogLevel,
	"proxy_get_current_time_nanoseconds": proxyGetCurrentTimeNanoseconds,
	"proxy_set_tick_period_milliseconds": proxySetTickPeriodMilliseconds,
	"proxy_get_status":                   proxyGetStatus,
	"proxy_set_effective_context":        proxySetEffectiveContext,
	"proxy_done":                         proxyDone,
	"proxy_get_property":                 proxyGetProperty,
	"proxy_set_property":                 proxySetProperty,
	"proxy_get_buffer_bytes":             proxyGetBufferBytes,
	"proxy_get_buffer_status":            proxyGetBufferStatus,
	"proxy_set_buffer_bytes":             proxySetBufferBytes,
	"proxy_get_header_map_pairs":         proxyGetHeaderMapPairs,
	"proxy_set_header_map_pairs":         proxySetHeaderMapPairs,
	"proxy_get_header_map_value":         proxyGetHeaderMapValue,
	"proxy_add_header_map_value":         proxyAddHeaderMapValue,
	"proxy_replace_header_map_value":     proxyReplaceHeaderMapValue,
	"proxy_remove_header_map_value":      proxyRemoveHeaderMapValue,
	"proxy_get_header_map_size":          proxyGetHeaderMapSize,
	"proxy_continue_stream":              proxyContinueStream,
	"proxy_close_stream":                 proxyCloseStream,
	"proxy_send_local_response":          proxySendLocalResponse,
	"proxy_http_call":                    proxyHTTPCall,
	"proxy_grpc_call":                    proxyGRPCCall,
	"proxy_grpc_stream":                  proxyGRPCStream,
	"proxy_grpc_send":                    proxyGRPCSend,
	"proxy_grpc_cancel":                  proxyGRPCCancel,
	"proxy_grpc_close":                   proxyGRPCClose,
	"proxy_set_shared_data":              proxySetSharedData,
	"proxy_get_shared_data":              proxyGetSharedData,
	"proxy_register_shared_queue":        proxyRegisterSharedQueue,
	"proxy_resolve_shared_queue":         proxyResolveSharedQueue,
	"proxy_enqueue_shared_queue":         proxyEnqueueSharedQueue,
	"proxy_dequeue_shared_queue":         proxyDequeueSharedQueue,
	"proxy_define_metric":                proxyDefineMetric,
	"proxy_increment_metric":             proxyIncrementMetric,
	"proxy_record_metric":                proxyRecordMetric,
	"proxy_get_metric":                   proxyGetMetric,
	"proxy_call_foreign_function":        proxyCallForeignFunction,
}

// raw calls a hostcall with numbers for all of its parameters, pointers included: the host checks every pointer that it is
// given, and finding out how is what this is for. It is false when there is no hostcall of this name and arity.
func raw(name string, numbers []uint64) (uint32, bool) {
	hostcall, found := hostcalls[name]
	if !found {
		return 0, false
	}
	function := reflect.ValueOf(hostcall)
	parameters := make([]reflect.Value, function.Type().NumIn())
	if len(numbers) < len(parameters) {
		return 0, false
	}
	for i := range parameters {
		parameters[i] = parameter(function.Type().In(i), numbers[i])
	}
	return uint32(function.Call(parameters)[0].Uint()), true
}

// parameter makes a number what a hostcall takes. Go's garbage collector minds only pointers into its own heap, which begins
// far above the addresses that scripts use, and ends far below the negative ones.
func parameter(kind reflect.Type, number uint64) reflect.Value {
	if kind.Kind() == reflect.Pointer {
		return reflect.NewAt(kind.Elem(), unsafe.Add(unsafe.Pointer(nil), uint32(number)))
	}
	return reflect.ValueOf(number).Convert(kind)
}
