//! The callbacks that a module exports, looked up and type-checked once.

use wasmtime::{AsContextMut, Instance, TypedFunc, WasmParams, WasmResults};

/// Which callbacks a module exports: a proxy need not prepare what nobody will look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Callbacks {
    /// `proxy_on_request_headers`
    pub request_headers: bool,
    /// `proxy_on_request_body`
    pub request_body: bool,
    /// `proxy_on_request_trailers`
    pub request_trailers: bool,
    /// `proxy_on_response_headers`
    pub response_headers: bool,
    /// `proxy_on_response_body`
    pub response_body: bool,
    /// `proxy_on_response_trailers`
    pub response_trailers: bool,
    /// Any of `proxy_on_log`, `proxy_on_done`, `proxy_on_delete`
    pub end: bool,
}

/// The type of an export that the ABI fixes: name, parameters (all `i32`), whether there is a result.
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    pub(crate) params: usize,
    pub(crate) result: bool,
}

const fn sig(name: &'static str, params: usize, result: bool) -> Signature {
    Signature { name, params, result }
}

/// Every callback of every version (spec: proxy-wasm-host §5). The headers callbacks have one parameter less in
/// 0.1.0, see [`headers_params`].
pub(crate) const SIGNATURES: &[Signature] = &[
    sig("proxy_on_memory_allocate", 1, true),
    sig("malloc", 1, true),
    sig("proxy_on_context_create", 2, false),
    sig("proxy_on_vm_start", 2, true),
    sig("proxy_validate_configuration", 2, true),
    sig("proxy_on_configure", 2, true),
    sig("proxy_on_tick", 1, false),
    sig("proxy_on_queue_ready", 2, false),
    sig("proxy_on_foreign_function", 3, false),
    sig("proxy_on_new_connection", 1, true),
    sig("proxy_on_downstream_data", 3, true),
    sig("proxy_on_upstream_data", 3, true),
    sig("proxy_on_downstream_connection_close", 2, false),
    sig("proxy_on_upstream_connection_close", 2, false),
    sig("proxy_on_request_headers", 3, true),
    sig("proxy_on_request_body", 3, true),
    sig("proxy_on_request_trailers", 2, true),
    sig("proxy_on_request_metadata", 2, true),
    sig("proxy_on_response_headers", 3, true),
    sig("proxy_on_response_body", 3, true),
    sig("proxy_on_response_trailers", 2, true),
    sig("proxy_on_response_metadata", 2, true),
    sig("proxy_on_http_call_response", 5, false),
    sig("proxy_on_grpc_receive_initial_metadata", 3, false),
    sig("proxy_on_grpc_receive", 3, false),
    sig("proxy_on_grpc_receive_trailing_metadata", 3, false),
    sig("proxy_on_grpc_close", 3, false),
    sig("proxy_on_log", 1, false),
    sig("proxy_on_done", 1, true),
    sig("proxy_on_delete", 1, false),
];

/// Number of parameters of the two headers callbacks.
pub(crate) fn headers_params(abi: crate::AbiVersion) -> usize {
    if abi == crate::AbiVersion::V0_1_0 { 2 } else { 3 }
}

/// A headers callback of either shape.
#[derive(Clone)]
pub(crate) enum HeadersFn {
    /// 0.1.0: context, number of headers.
    Two(TypedFunc<(u32, u32), u32>),
    /// Since 0.2.0: also whether the stream ends with the headers.
    Three(TypedFunc<(u32, u32, u32), u32>),
}

type Fn1<R> = Option<TypedFunc<u32, R>>;
type Fn2<R> = Option<TypedFunc<(u32, u32), R>>;
type Fn3<R> = Option<TypedFunc<(u32, u32, u32), R>>;

/// The functions of one instance.
pub(crate) struct Exports {
    pub(crate) allocate: Fn1<u32>,
    pub(crate) context_create: Fn2<()>,
    pub(crate) vm_start: Fn2<u32>,
    pub(crate) configure: Fn2<u32>,
    pub(crate) request_headers: Option<HeadersFn>,
    pub(crate) request_body: Fn3<u32>,
    pub(crate) request_trailers: Fn2<u32>,
    pub(crate) response_headers: Option<HeadersFn>,
    pub(crate) response_body: Fn3<u32>,
    pub(crate) response_trailers: Fn2<u32>,
    pub(crate) log: Fn1<()>,
    pub(crate) done: Fn1<u32>,
    pub(crate) delete: Fn1<()>,
}

impl Exports {
    pub(crate) fn find(instance: &Instance, mut store: impl AsContextMut, abi: crate::AbiVersion) -> Self {
        let store = &mut store;
        let headers = |store: &mut _, name| {
            if headers_params(abi) == 2 {
                typed(instance, store, name).map(HeadersFn::Two)
            } else {
                typed(instance, store, name).map(HeadersFn::Three)
            }
        };
        Self {
            // The specification prefers the ABI's own allocator. Envoy prefers malloc, which TinyGo pins for ever.
            allocate: typed(instance, store, "proxy_on_memory_allocate")
                .or_else(|| typed(instance, store, "malloc")),
            context_create: typed(instance, store, "proxy_on_context_create"),
            vm_start: typed(instance, store, "proxy_on_vm_start"),
            configure: typed(instance, store, "proxy_on_configure"),
            request_headers: headers(store, "proxy_on_request_headers"),
            request_body: typed(instance, store, "proxy_on_request_body"),
            request_trailers: typed(instance, store, "proxy_on_request_trailers"),
            response_headers: headers(store, "proxy_on_response_headers"),
            response_body: typed(instance, store, "proxy_on_response_body"),
            response_trailers: typed(instance, store, "proxy_on_response_trailers"),
            log: typed(instance, store, "proxy_on_log"),
            done: typed(instance, store, "proxy_on_done"),
            delete: typed(instance, store, "proxy_on_delete"),
        }
    }
}

/// An export of a type that [`crate::module`] has already checked; absent ones are `None`.
pub(crate) fn typed<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    store: &mut impl AsContextMut,
    name: &str,
) -> Option<TypedFunc<P, R>> {
    instance.get_typed_func(store, name).ok()
}
