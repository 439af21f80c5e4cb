package main

import "strings"

// stream is what is kept of a request.
type stream struct {
	run    string
	script string
	trace  strings.Builder
	// calls counts them by callback.
	calls map[string]int
}

var (
	scripts map[string][]step
	streams = make(map[uint32]*stream)
	// tokens has the stream of each call-out.
	tokens = make(map[uint32]uint32)
)

// turn is what one callback works with.
type turn struct {
	context uint32
	// last is the token, number or size that a hostcall gave last, for `$`.
	last   uint32
	result uint32
	trace  strings.Builder
}

// play runs what the stream's script has for a callback and gives the callback's result.
func play(context uint32, callback, shown string, end bool) uint32 {
	s := streams[context]
	if s == nil {
		return 0
	}
	s.calls[callback]++
	call := s.calls[callback]
	t := turn{context: context}
	t.trace.WriteString(" " + callback + shown)
	for _, step := range scripts[s.script] {
		if step.callback == callback && step.fits(call, end) {
			t.perform(step.operation, step.arguments)
		}
	}
	// Only now: a hostcall may have led to another callback of this stream.
	s.trace.WriteString(t.trace.String())
	return t.result
}

// answered lets the script of the stream that made a call-out go on.
func answered(token uint32, callback, shown string) {
	if context, found := tokens[token]; found {
		play(context, callback, shown, true)
	}
}
