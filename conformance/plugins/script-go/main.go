// An interpreter: carries out the hostcalls that its configuration lists for each callback, and logs what each answered.
//
// The configuration is text. `script NAME` begins a script; every further line is `CALLBACK OPERATION ARGUMENT...`. A
// request chooses its script with the header `x-script`. Arguments are percent-encoded; `-` stands for the empty one.
// `CALLBACK@2` is the second call only, `CALLBACK@end` the one with end of stream. The hostcalls are called as the ABI has
// them, without an SDK between: an SDK would stop at a status that it does not expect.
//
// Build: GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o script.wasm .
package main

// A reactor never runs main.
func main() {}
