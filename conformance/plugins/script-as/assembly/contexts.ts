// The plug-in and its streams. The runtime keeps them by number, and calls them.

import {
  Context,
  FilterDataStatusValues,
  FilterHeadersStatusValues,
  FilterTrailersStatusValues,
  LogLevelValues,
  RootContext,
  log,
} from "@solo-io/proxy-runtime";
import { BufferTypeValues, HeaderMapTypeValues } from "@solo-io/proxy-runtime/runtime";
import { address, decode, encode } from "./bytes";
import { Given } from "./given";
import { proxy_get_buffer_bytes, proxy_get_header_map_value } from "./hostcalls";
import { carryOut } from "./registry";
import { Step, parse, scriptText } from "./script";
import { Turn } from "./turn";

export class ScriptRoot extends RootContext {
  scripts: Map<string, Step[]> = new Map();
  /** Who made a call-out, by token. */
  callers: Map<u32, ScriptStream> = new Map();

  createContext(id: u32): Context {
    return new ScriptStream(id, this);
  }

  // The runtime's own reads the configuration too, but gives its size as the address for the size.
  onConfigure(size: u32): bool {
    const given = new Given();
    const kind = BufferTypeValues.PluginConfiguration;
    const status = proxy_get_buffer_bytes(kind, 0, u32.MAX_VALUE, given.pointerAt(), given.sizeAt());
    const configuration = given.taken(status);
    if (configuration !== null) this.scripts = parse(scriptText(decode(configuration)));
    return true;
  }

  onHttpCallResponse(token: u32, headers: u32, bodySize: u32, trailers: u32): void {
    const hasHeaders = headers > 0 ? "1" : "0";
    const shown = "(" + hasHeaders + "," + bodySize.toString() + "," + trailers.toString() + ")";
    this.answered(token, "http_call_response", shown);
  }

  on_grpc_receive(token: u32, size: u32): void {
    this.answered(token, "grpc_receive", "(" + size.toString() + ")");
  }

  on_grpc_close(token: u32, status: u32): void {
    this.answered(token, "grpc_close", "(" + status.toString() + ")");
  }

  /** The stream that made a call goes on with its script. */
  private answered(token: u32, callback: string, shown: string): void {
    if (this.callers.has(token)) this.callers.get(token).run(callback, shown, true);
  }

  forget(stream: ScriptStream): void {
    const tokens = this.callers.keys();
    for (let i = 0; i < tokens.length; i++) {
      if (this.callers.get(tokens[i]) === stream) this.callers.delete(tokens[i]);
    }
  }
}

export class ScriptStream extends Context {
  private name: string = "";
  private script: Step[] = [];
  private trace: string = "";
  private calls: Map<string, i32> = new Map();

  constructor(id: u32, private root: ScriptRoot) {
    super(id, root);
  }

  onRequestHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    const script = requestHeader("x-script");
    if (this.root.scripts.has(script)) this.script = this.root.scripts.get(script);
    this.name = requestHeader("x-case");
    return this.run("request_headers", shownEnd(end), end);
  }

  onRequestBody(size: usize, end: bool): FilterDataStatusValues {
    return this.run("request_body", shownBody(size, end), end);
  }

  onRequestTrailers(count: u32): FilterTrailersStatusValues {
    return this.run("request_trailers", "(" + count.toString() + ")", true);
  }

  onResponseHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    return this.run("response_headers", shownEnd(end), end);
  }

  onResponseBody(size: usize, end: bool): FilterDataStatusValues {
    return this.run("response_body", shownBody(size, end), end);
  }

  onResponseTrailers(count: u32): FilterTrailersStatusValues {
    return this.run("response_trailers", "(" + count.toString() + ")", true);
  }

  onLog(): void {
    this.run("log", "", true);
    if (this.name.length > 0) log(LogLevelValues.info, "trace " + this.name + ":" + this.trace);
  }

  onDelete(): void {
    this.root.forget(this);
    gc.collect();
  }

  /** The answer to a call-out with this token is for this stream. */
  expect(token: u32): void {
    this.root.callers.set(token, this);
  }

  /** Runs what the script has for a callback; the callback's result. */
  run(callback: string, shown: string, end: bool): u32 {
    const call = this.calls.has(callback) ? this.calls.get(callback) + 1 : 1;
    this.calls.set(callback, call);
    const turn = new Turn(this, callback + shown);
    for (let i = 0; i < this.script.length; i++) {
      const step = this.script[i];
      if (step.isFor(callback, call, end)) carryOut(turn, step);
    }
    this.trace += turn.trace;
    return turn.result;
  }
}

function shownEnd(end: bool): string {
  return end ? "(1)" : "(0)";
}

function shownBody(size: usize, end: bool): string {
  return "(" + size.toString() + (end ? ",1)" : ",0)");
}

/** Empty when the request does not have it. */
function requestHeader(name: string): string {
  const key = encode(name);
  const given = new Given();
  const kind = HeaderMapTypeValues.RequestHeaders;
  const status = proxy_get_header_map_value(kind, address(key), key.length, given.pointerAt(), given.sizeAt());
  const value = given.taken(status);
  if (value === null) return "";
  return decode(value);
}
