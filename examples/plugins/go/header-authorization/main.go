// Answers 403 unless a request carries "allow: true".
//
// Build: GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o header-authorization.wasm .
package main

import (
	"fmt"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// A reactor never runs main: the plug-in is registered when the package is initialised.
func main() {}

func init() {
	proxywasm.SetVMContext(&vmContext{})
}

type vmContext struct {
	types.DefaultVMContext
}

func (*vmContext) NewPluginContext(uint32) types.PluginContext {
	return &pluginContext{}
}

type pluginContext struct {
	types.DefaultPluginContext
}

func (*pluginContext) NewHttpContext(uint32) types.HttpContext {
	return &httpContext{}
}

type httpContext struct {
	types.DefaultHttpContext
}

func (*httpContext) OnHttpRequestHeaders(int, bool) types.Action {
	// A header that is missing is an empty one.
	allow, _ := proxywasm.GetHttpRequestHeader("allow")
	if allow == "true" {
		return types.ActionContinue
	}
	proxywasm.LogDebug(fmt.Sprintf("request header: 'allow' is %s, only true can passthrough", allow))
	headers := [][2]string{{"Content-Type", "text/plain"}}
	if err := proxywasm.SendHttpResponse(403, headers, []byte("Forbidden by ASM Wasm Plugin"), -1); err != nil {
		proxywasm.LogErrorf("cannot deny: %v", err)
	}
	return types.ActionPause
}
