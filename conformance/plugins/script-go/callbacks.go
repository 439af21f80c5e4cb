package main

import (
	"fmt"
	"maps"
)

// The buffer that has the plug-in's configuration.
const pluginConfiguration = 7

//go:wasmexport proxy_abi_version_0_2_1
func proxyABIVersion() {}

//go:wasmexport proxy_on_vm_start
func proxyOnVMStart(_, _ uint32) uint32 {
	return 1
}

//go:wasmexport proxy_on_configure
func proxyOnConfigure(_, _ uint32) uint32 {
	_, text := bufferBytes(pluginConfiguration, 0, ^uint32(0))
	scripts = parse(configuration(text))
	return 1
}

//go:wasmexport proxy_on_context_create
func proxyOnContextCreate(context, parent uint32) {
	if parent != 0 {
		streams[context] = &stream{calls: make(map[string]int)}
	}
}

//go:wasmexport proxy_on_request_headers
func proxyOnRequestHeaders(context, _, end uint32) uint32 {
	if s := streams[context]; s != nil {
		_, script := headerValue(0, []byte("x-script"))
		_, run := headerValue(0, []byte("x-case"))
		s.script, s.run = utf8(script), utf8(run)
	}
	return play(context, "request_headers", fmt.Sprintf("(%d)", end), end != 0)
}

//go:wasmexport proxy_on_request_body
func proxyOnRequestBody(context, size, end uint32) uint32 {
	return play(context, "request_body", fmt.Sprintf("(%d,%d)", size, end), end != 0)
}

//go:wasmexport proxy_on_request_trailers
func proxyOnRequestTrailers(context, count uint32) uint32 {
	return play(context, "request_trailers", fmt.Sprintf("(%d)", count), true)
}

//go:wasmexport proxy_on_response_headers
func proxyOnResponseHeaders(context, _, end uint32) uint32 {
	return play(context, "response_headers", fmt.Sprintf("(%d)", end), end != 0)
}

//go:wasmexport proxy_on_response_body
func proxyOnResponseBody(context, size, end uint32) uint32 {
	return play(context, "response_body", fmt.Sprintf("(%d,%d)", size, end), end != 0)
}

//go:wasmexport proxy_on_response_trailers
func proxyOnResponseTrailers(context, count uint32) uint32 {
	return play(context, "response_trailers", fmt.Sprintf("(%d)", count), true)
}

//go:wasmexport proxy_on_http_call_response
func proxyOnHTTPCallResponse(_, token, headers, body, trailers uint32) {
	// How many headers there are differs from proxy to proxy; whether there are any does not.
	answered(token, "http_call_response", fmt.Sprintf("(%d,%d,%d)", min(headers, 1), body, trailers))
}

//go:wasmexport proxy_on_grpc_receive
func proxyOnGRPCReceive(_, token, size uint32) {
	answered(token, "grpc_receive", fmt.Sprintf("(%d)", size))
}

//go:wasmexport proxy_on_grpc_close
func proxyOnGRPCClose(_, token, status uint32) {
	answered(token, "grpc_close", fmt.Sprintf("(%d)", status))
}

//go:wasmexport proxy_on_done
func proxyOnDone(_ uint32) uint32 {
	return 1
}

//go:wasmexport proxy_on_log
func proxyOnLog(context uint32) {
	play(context, "log", "", true)
	if s := streams[context]; s != nil && s.run != "" {
		log(2, []byte("trace "+s.run+":"+s.trace.String()))
	}
}

//go:wasmexport proxy_on_delete
func proxyOnDelete(context uint32) {
	delete(streams, context)
	maps.DeleteFunc(tokens, func(_, stream uint32) bool { return stream == context })
}
