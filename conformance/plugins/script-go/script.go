package main

import (
	"encoding/json"
	"strconv"
	"strings"
)

// step is one line of a script.
type step struct {
	callback string
	// fits tells whether the line is for the callback's call of this number, which may be the one with end of stream.
	fits      func(call int, end bool) bool
	operation string
	arguments [][]byte
}

// parse reads all scripts of a configuration.
func parse(text string) map[string][]step {
	scripts := make(map[string][]step)
	current := ""
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		first, rest := words[0], words[1:]
		operation := ""
		if len(rest) > 0 {
			operation, rest = rest[0], rest[1:]
		}
		if first == "script" {
			current = operation
			continue
		}
		callback, which, _ := strings.Cut(first, "@")
		line := step{callback: callback, fits: fitting(which), operation: operation}
		for _, word := range rest {
			line.arguments = append(line.arguments, decode(word))
		}
		scripts[current] = append(scripts[current], line)
	}
	return scripts
}

// fitting gives the calls that the word after a callback's `@` means. What is neither `end` nor a number means every call.
func fitting(which string) func(call int, end bool) bool {
	if which == "end" {
		return func(_ int, end bool) bool { return end }
	}
	if wanted, err := strconv.ParseUint(which, 10, 32); err == nil {
		return func(call int, _ bool) bool { return uint64(call) == wanted }
	}
	return func(int, bool) bool { return true }
}

// decode undoes the percent-encoding of an argument. The empty one is not nil: to a host, a null pointer may be no value at
// all instead of an empty one.
func decode(word string) []byte {
	out := []byte{}
	if word == "-" {
		return out
	}
	for i := 0; i < len(word); i++ {
		if word[i] != '%' {
			out = append(out, word[i])
			continue
		}
		hex := word[i+1 : min(i+3, len(word))]
		value, err := strconv.ParseUint(hex, 16, 8)
		if err != nil {
			value = '?'
		}
		out = append(out, byte(value))
		i += len(hex)
	}
	return out
}

// configuration is the text itself, or what a JSON object has in `script`.
func configuration(text []byte) string {
	var object struct {
		Script string `json:"script"`
	}
	if err := json.Unmarshal(text, &object); err != nil {
		return utf8(text)
	}
	return object.Script
}

// utf8 is text in which every byte that is not UTF-8 is a replacement character: what is logged must be UTF-8.
func utf8(text []byte) string {
	return string([]rune(string(text)))
}
