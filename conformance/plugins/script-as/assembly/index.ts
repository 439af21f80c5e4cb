// An interpreter: carries out the hostcalls that its configuration lists for each callback, and logs what each answered.
//
// The configuration is text. `script NAME` begins a script; every further line is `CALLBACK OPERATION ARGUMENT…`. A
// request chooses its script with the header `x-script`. Arguments are percent-encoded; `-` stands for the empty one.
// `CALLBACK@2` is the second call only, `CALLBACK@end` the one with end of stream.
//
// The life cycle is that of @solo-io/proxy-runtime: its exports, contexts and allocator. The hostcalls are called without
// it, because its wrappers stop at a status that they do not expect. It is built without assertions: with them asc 0.14
// never lets go of a context that the runtime has looked up.

import { registerRootContext } from "@solo-io/proxy-runtime";
import { ScriptRoot } from "./contexts";
import "./operations/bodies";
import "./operations/calls";
import "./operations/foreign";
import "./operations/general";
import "./operations/headers";
import "./operations/metrics";
import "./operations/properties";
import "./operations/raw";
import "./operations/shared";
import "./operations/streams";

export { free, malloc } from "@solo-io/proxy-runtime/malloc";
export {
  proxy_on_configure,
  proxy_on_context_create,
  proxy_on_delete,
  proxy_on_done,
  proxy_on_grpc_close,
  proxy_on_grpc_receive,
  proxy_on_http_call_response,
  proxy_on_log,
  proxy_on_request_body,
  proxy_on_request_headers,
  proxy_on_request_trailers,
  proxy_on_response_body,
  proxy_on_response_headers,
  proxy_on_response_trailers,
  proxy_on_vm_start,
} from "@solo-io/proxy-runtime/exports";

// By hand, in place of the runtime's marker of 0.2.0: only with this version does Envoy have proxy_get_log_level.
export function proxy_abi_version_0_2_1(): void {}

// Garbage is collected when a stream ends. By itself the collector runs in the middle of an allocation; when that is the
// one for its own list of candidates, asc 0.14 frees them twice.
gc.auto = false;

registerRootContext((id) => new ScriptRoot(id), "");
