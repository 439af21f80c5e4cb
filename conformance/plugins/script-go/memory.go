package main

import "unsafe"

// handedOut keeps what the host has been given and the plug-in has not taken over yet: the garbage collector does not see
// the host's addresses.
var handedOut = make(map[uint32][]byte)

//go:wasmexport proxy_on_memory_allocate
func proxyOnMemoryAllocate(size uint32) uint32 {
	memory := make([]byte, size)
	address := uint32(uintptr(unsafe.Pointer(unsafe.SliceData(memory))))
	handedOut[address] = memory
	return address
}

// taken takes over what the host has put into memory of ours. It panics at an address that the host was not given.
func taken(address, size uint32) []byte {
	if address == 0 {
		return nil
	}
	memory := handedOut[address]
	delete(handedOut, address)
	return memory[:size]
}

// giving makes a call that gives bytes: its status and them. They are nil when there are none, which is not the same as
// an empty value. The address is a number of 32 bits in the host's eyes, while a pointer has 64 in Go's.
func giving(call func(address, size *uint32) uint32) (uint32, []byte) {
	var address, size uint32
	status := call(&address, &size)
	if status != 0 {
		return status, nil
	}
	return status, taken(address, size)
}

func headerValue(kind uint32, name []byte) (uint32, []byte) {
	return giving(func(address, size *uint32) uint32 {
		return proxyGetHeaderMapValue(kind, unsafe.SliceData(name), uint32(len(name)), address, size)
	})
}

func bufferBytes(kind, start, length uint32) (uint32, []byte) {
	return giving(func(address, size *uint32) uint32 {
		return proxyGetBufferBytes(kind, start, length, address, size)
	})
}

func property(path []byte) (uint32, []byte) {
	return giving(func(address, size *uint32) uint32 {
		return proxyGetProperty(unsafe.SliceData(path), uint32(len(path)), address, size)
	})
}

func log(level uint32, text []byte) uint32 {
	return proxyLog(level, unsafe.SliceData(text), uint32(len(text)))
}
