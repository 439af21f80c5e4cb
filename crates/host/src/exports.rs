//! The callbacks that a module exports, looked up and type-checked once.

use std::collections::BTreeSet;

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
    sig("proxy_on_redis_call_response", 4, false),
    sig("envoy_on_resolve_dns", 3, false),
    sig("envoy_on_stats_update", 2, false),
    sig("proxy_on_log", 1, false),
    sig("proxy_on_done", 1, true),
    sig("proxy_on_delete", 1, false),
];

/// What is called to start (spec: proxy-wasm-host §1.4).
pub(crate) const START: &[Signature] = &[
    sig("_initialize", 0, false),
    sig("_start", 0, false),
    sig("main", 2, true),
    sig("__main_void", 0, true),
];

/// The headers callbacks have two parameters in 0.1.0 and three since. Modules exist that mix them up, and either can be
/// called.
pub(crate) fn takes_params(signature: &Signature, params: usize) -> bool {
    let either = matches!(signature.name, "proxy_on_request_headers" | "proxy_on_response_headers");
    params == signature.params || (either && params == 2)
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
type Fn4<R> = Option<TypedFunc<(u32, u32, u32, u32), R>>;
type Fn5<R> = Option<TypedFunc<(u32, u32, u32, u32, u32), R>>;

/// The functions of one instance.
pub(crate) struct Exports {
    pub(crate) allocate: Fn1<u32>,
    pub(crate) context_create: Fn2<()>,
    pub(crate) vm_start: Fn2<u32>,
    pub(crate) configure: Fn2<u32>,
    pub(crate) tick: Fn1<()>,
    pub(crate) queue_ready: Fn2<()>,
    pub(crate) foreign_function: Fn3<()>,
    pub(crate) new_connection: Fn1<u32>,
    pub(crate) downstream_data: Fn3<u32>,
    pub(crate) upstream_data: Fn3<u32>,
    pub(crate) downstream_close: Fn2<()>,
    pub(crate) upstream_close: Fn2<()>,
    pub(crate) request_headers: Option<HeadersFn>,
    pub(crate) request_body: Fn3<u32>,
    pub(crate) request_trailers: Fn2<u32>,
    pub(crate) response_headers: Option<HeadersFn>,
    pub(crate) response_body: Fn3<u32>,
    pub(crate) response_trailers: Fn2<u32>,
    pub(crate) http_call_response: Fn5<()>,
    pub(crate) grpc_initial_metadata: Fn3<()>,
    pub(crate) grpc_receive: Fn3<()>,
    pub(crate) grpc_trailing_metadata: Fn3<()>,
    pub(crate) grpc_close: Fn3<()>,
    pub(crate) redis_call_response: Fn4<()>,
    pub(crate) resolve_dns: Fn3<()>,
    pub(crate) log: Fn1<()>,
    pub(crate) done: Fn1<u32>,
    pub(crate) delete: Fn1<()>,
}

/// Whether a plug-in may use a function; an empty list allows all. What tool chains need to start, the allocators and
/// what Envoy has beside the ABI are not subject to it (spec: proxy-wasm-host §1.8).
pub(crate) fn is_allowed(allowed: &BTreeSet<String>, name: &str) -> bool {
    allowed.is_empty() || allowed.contains(name) || name.starts_with("envoy_")
}

impl Exports {
    pub(crate) fn find(
        instance: &Instance,
        mut store: impl AsContextMut,
        allowed: &BTreeSet<String>,
    ) -> Self {
        let mut find = Finder { instance, store: &mut store, allowed };
        Self {
            // The specification prefers the ABI's own allocator. Envoy prefers malloc, which TinyGo pins for ever.
            allocate: typed(instance, find.store, "proxy_on_memory_allocate")
                .or_else(|| typed(instance, find.store, "malloc")),
            context_create: find.get("proxy_on_context_create"),
            vm_start: find.get("proxy_on_vm_start"),
            configure: find.get("proxy_on_configure"),
            tick: find.get("proxy_on_tick"),
            queue_ready: find.get("proxy_on_queue_ready"),
            foreign_function: find.get("proxy_on_foreign_function"),
            new_connection: find.get("proxy_on_new_connection"),
            downstream_data: find.get("proxy_on_downstream_data"),
            upstream_data: find.get("proxy_on_upstream_data"),
            downstream_close: find.get("proxy_on_downstream_connection_close"),
            upstream_close: find.get("proxy_on_upstream_connection_close"),
            request_headers: find.headers("proxy_on_request_headers"),
            request_body: find.get("proxy_on_request_body"),
            request_trailers: find.get("proxy_on_request_trailers"),
            response_headers: find.headers("proxy_on_response_headers"),
            response_body: find.get("proxy_on_response_body"),
            response_trailers: find.get("proxy_on_response_trailers"),
            http_call_response: find.get("proxy_on_http_call_response"),
            grpc_initial_metadata: find.get("proxy_on_grpc_receive_initial_metadata"),
            grpc_receive: find.get("proxy_on_grpc_receive"),
            grpc_trailing_metadata: find.get("proxy_on_grpc_receive_trailing_metadata"),
            grpc_close: find.get("proxy_on_grpc_close"),
            redis_call_response: find.get("proxy_on_redis_call_response"),
            resolve_dns: find.get("envoy_on_resolve_dns"),
            log: find.get("proxy_on_log"),
            done: find.get("proxy_on_done"),
            delete: find.get("proxy_on_delete"),
        }
    }
}

struct Finder<'f, T> {
    instance: &'f Instance,
    store: &'f mut T,
    allowed: &'f BTreeSet<String>,
}

impl<T: AsContextMut> Finder<'_, T> {
    fn get<P: WasmParams, R: WasmResults>(&mut self, name: &str) -> Option<TypedFunc<P, R>> {
        typed(self.instance, self.store, name).filter(|_| is_allowed(self.allowed, name))
    }

    fn headers(&mut self, name: &str) -> Option<HeadersFn> {
        let three = self.get(name).map(HeadersFn::Three);
        three.or_else(|| self.get(name).map(HeadersFn::Two))
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
