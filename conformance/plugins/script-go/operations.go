package main

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"time"
	"unsafe"
)

// operation is one line that is being carried out.
type operation struct {
	*turn
	name      string
	arguments [][]byte
}

// perform carries out one line.
func (t *turn) perform(name string, arguments [][]byte) {
	o := operation{t, name, arguments}
	switch name {
	case "return":
		o.result = o.number(0)
	case "trap":
		panic("the script asks for it")

	case "get":
		o.sayValue(headerValue(o.number(0), o.bytes(1)))
	case "pairs":
		status, value := giving(func(address, size *uint32) uint32 {
			return proxyGetHeaderMapPairs(o.number(0), address, size)
		})
		o.say(status)
		if value != nil {
			o.add(":" + listPairs(value))
		}
	case "size":
		var size uint32
		o.say(proxyGetHeaderMapSize(o.number(0), &size))
	case "set_pairs":
		encoded := encodePairs(o.bytes(1))
		o.say(proxySetHeaderMapPairs(o.number(0), unsafe.SliceData(encoded), uint32(len(encoded))))
	case "add":
		o.say(proxyAddHeaderMapValue(o.number(0), o.at(1), o.size(1), o.at(2), o.size(2)))
	case "replace":
		o.say(proxyReplaceHeaderMapValue(o.number(0), o.at(1), o.size(1), o.at(2), o.size(2)))
	case "remove":
		o.say(proxyRemoveHeaderMapValue(o.number(0), o.at(1), o.size(1)))

	case "body":
		o.sayValue(bufferBytes(o.number(0), o.number(1), o.number(2)))
	case "body_status":
		var size, flags uint32
		o.say(proxyGetBufferStatus(o.number(0), &size, &flags))
		o.add(fmt.Sprintf(":%d", size))
	case "set_body":
		o.say(proxySetBufferBytes(o.number(0), o.number(1), o.number(2), o.at(3), o.size(3)))

	case "property":
		o.sayValue(property(o.path(0)))
	case "has_property":
		// Only whether it is there: the value differs from run to run.
		status, value := property(o.path(0))
		o.say(status)
		o.add(fmt.Sprintf(":%t", len(value) > 0))
	case "set_property":
		o.say(proxySetProperty(o.at(0), o.size(0), o.at(1), o.size(1)))

	case "continue":
		o.say(proxyContinueStream(o.number(0)))
	case "close":
		o.say(proxyCloseStream(o.number(0)))
	case "reply":
		// status, details, body, headers, gRPC status
		headers := encodePairs(o.bytes(3))
		grpcStatus := uint32(math.MaxUint32)
		if len(arguments) > 4 {
			grpcStatus = o.number(4)
		}
		o.say(proxySendLocalResponse(o.number(0), o.at(1), o.size(1), o.at(2), o.size(2),
			unsafe.SliceData(headers), uint32(len(headers)), grpcStatus))

	case "say":
		o.say(log(o.number(0), o.bytes(1)))
	case "level":
		var level uint32
		o.say(proxyGetLogLevel(&level))
	case "time":
		var nanoseconds uint64
		o.say(proxyGetCurrentTimeNanoseconds(&nanoseconds))
		o.add(fmt.Sprintf(":%t", nanoseconds > uint64(1_600_000_000*time.Second)))
	case "tick":
		o.say(proxySetTickPeriodMilliseconds(o.number(0)))
	case "effective":
		o.say(proxySetEffectiveContext(o.number(0)))
	case "done":
		o.say(proxyDone())
	case "status":
		var code uint32
		o.sayValue(giving(func(address, size *uint32) uint32 { return proxyGetStatus(&code, address, size) }))
		o.add(fmt.Sprintf("/%d", code))

	case "http_call":
		// cluster, headers, body, timeout
		var token uint32
		headers := encodePairs(o.bytes(1))
		status := proxyHTTPCall(o.at(0), o.size(0), unsafe.SliceData(headers), uint32(len(headers)),
			o.at(2), o.size(2), nil, 0, o.number(3), &token)
		o.called(status, token)
	case "grpc_call":
		// cluster, service, method, message, timeout
		var token uint32
		status := proxyGRPCCall(o.at(0), o.size(0), o.at(1), o.size(1), o.at(2), o.size(2), nil, 0,
			o.at(3), o.size(3), o.number(4), &token)
		o.called(status, token)
	case "grpc_stream":
		// cluster, service, method
		var token uint32
		status := proxyGRPCStream(o.at(0), o.size(0), o.at(1), o.size(1), o.at(2), o.size(2), nil, 0, &token)
		o.called(status, token)
	case "grpc_send":
		o.say(proxyGRPCSend(o.number(0), o.at(1), o.size(1), o.number(2)))
	case "grpc_cancel":
		o.say(proxyGRPCCancel(o.number(0)))
	case "grpc_close":
		o.say(proxyGRPCClose(o.number(0)))

	case "shared_set":
		o.say(proxySetSharedData(o.at(0), o.size(0), o.at(1), o.size(1), o.number(2)))
	case "shared_get":
		var cas uint32
		o.sayValue(giving(func(address, size *uint32) uint32 {
			return proxyGetSharedData(o.at(0), o.size(0), address, size, &cas)
		}))
		o.last = cas
	case "queue_register":
		var queue uint32
		o.say(proxyRegisterSharedQueue(o.at(0), o.size(0), &queue))
		o.last = queue
	case "queue_resolve":
		var queue uint32
		o.say(proxyResolveSharedQueue(o.at(0), o.size(0), o.at(1), o.size(1), &queue))
		o.last = queue
	case "enqueue":
		o.say(proxyEnqueueSharedQueue(o.number(0), o.at(1), o.size(1)))
	case "dequeue":
		o.sayValue(giving(func(address, size *uint32) uint32 {
			return proxyDequeueSharedQueue(o.number(0), address, size)
		}))

	case "metric_define":
		var metric uint32
		o.say(proxyDefineMetric(o.number(0), o.at(1), o.size(1), &metric))
		o.last = metric
	case "metric_increment":
		o.say(proxyIncrementMetric(o.number(0), uint64(int32(o.number(1)))))
	case "metric_record":
		o.say(proxyRecordMetric(o.number(0), uint64(o.number(1))))
	case "metric_get":
		var value uint64
		status := proxyGetMetric(o.number(0), &value)
		o.say(status)
		if status == 0 {
			o.add(fmt.Sprintf(":%d", int64(value)))
		}

	case "foreign":
		o.name += "." + o.text(0)
		o.sayValue(giving(func(address, size *uint32) uint32 {
			return proxyCallForeignFunction(o.at(0), o.size(0), o.at(1), o.size(1), address, size)
		}))
	case "raw":
		// Numbers for everything, pointers included.
		o.name = o.text(0)
		var numbers []uint64
		for i := 1; i < len(arguments); i++ {
			numbers = append(numbers, uint64(integer(o.text(i))))
		}
		if status, found := raw(o.name, numbers); found {
			o.say(status)
		} else {
			o.add(" no-such-function:" + o.name)
		}
	default:
		o.add(" no-such-operation:" + name)
	}
}

// add adds to the trace.
func (o *operation) add(text string) {
	o.trace.WriteString(text)
}

func (o *operation) say(status uint32) {
	o.add(fmt.Sprintf(" %s=%d", o.name, status))
}

func (o *operation) sayValue(status uint32, value []byte) {
	o.say(status)
	if value != nil {
		o.add(":" + escaped(value))
	}
}

// called notes that a call-out has been started, or not.
func (o *operation) called(status, token uint32) {
	o.say(status)
	if status == 0 {
		o.last = token
		tokens[token] = o.context
	}
}

// bytes is an argument; one that is not there is empty.
func (o *operation) bytes(i int) []byte {
	if i < len(o.arguments) {
		return o.arguments[i]
	}
	return []byte{}
}

func (o *operation) at(i int) *byte {
	return unsafe.SliceData(o.bytes(i))
}

func (o *operation) size(i int) uint32 {
	return uint32(len(o.bytes(i)))
}

func (o *operation) text(i int) string {
	return utf8(o.bytes(i))
}

// path is an argument as a property's path, between whose parts the ABI has zero bytes.
func (o *operation) path(i int) []byte {
	return bytes.ReplaceAll(o.bytes(i), []byte("."), []byte{0})
}

// number is an argument as a number: `$` is the last one that a hostcall gave, `self` the stream's own.
func (o *operation) number(i int) uint32 {
	switch text := o.text(i); text {
	case "$":
		return o.last
	case "self":
		return o.context
	default:
		return uint32(integer(text))
	}
}

// integer is 0 for what is none.
func integer(text string) int64 {
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return value
}
