package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// own has the headers that each proxy sets in its own way, and those that choose the script.
var own = []string{
	"x-request-id", "x-forwarded-for", "date", "server", "x-envoy-upstream-service-time", "x-case", "x-script",
}

// encodePairs makes the ABI's pair list of `k=v,k=v`; of a single `!` one that is malformed.
func encodePairs(text []byte) []byte {
	if string(text) == "!" {
		return []byte("\x05\x00\x00\x00\x01\x00\x00\x00")
	}
	var count uint32
	var sizes, data []byte
	for pair := range bytes.SplitSeq(text, []byte(",")) {
		if len(pair) == 0 {
			continue
		}
		key, value, _ := bytes.Cut(pair, []byte("="))
		count++
		for _, part := range [][]byte{key, value} {
			sizes = binary.LittleEndian.AppendUint32(sizes, uint32(len(part)))
			data = append(append(data, part...), 0)
		}
	}
	return slices.Concat(binary.LittleEndian.AppendUint32(nil, count), sizes, data)
}

// listPairs shows the ABI's pair list as `k=v,k=v`, without the proxy's own ones. What the list promises and does not have
// is empty.
func listPairs(encoded []byte) string {
	number := func(at int) int {
		if word := part(encoded, at, 4); word != nil {
			return int(binary.LittleEndian.Uint32(word))
		}
		return 0
	}
	count := number(0)
	at := 4 + count*8
	var out []string
	for i := range count {
		keySize, valueSize := number(4+i*8), number(8+i*8)
		key, value := part(encoded, at, keySize), part(encoded, at+keySize+1, valueSize)
		at += keySize + valueSize + 2
		if !slices.Contains(own, string(key)) {
			out = append(out, escaped(key)+"="+escaped(value))
		}
	}
	return strings.Join(out, ",")
}

// part is a part of a list, nil where it does not reach so far.
func part(list []byte, start, size int) []byte {
	if start+size > len(list) {
		return nil
	}
	return list[start : start+size]
}

// escaped is a value as the trace shows it: what could be mistaken for the trace itself is escaped.
func escaped(value []byte) string {
	const sizeMax = 120
	var out strings.Builder
	for _, b := range value[:min(len(value), sizeMax)] {
		if b > ' ' && b <= '~' && b != '%' {
			out.WriteByte(b)
		} else {
			fmt.Fprintf(&out, "%%%02x", b)
		}
	}
	if len(value) > sizeMax {
		fmt.Fprintf(&out, "…%d", len(value))
	}
	return out.String()
}
