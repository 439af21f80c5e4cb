import { Reference } from "@solo-io/proxy-runtime/runtime";
import { NOTHING, address } from "../bytes";
import {
  proxy_grpc_call,
  proxy_grpc_cancel,
  proxy_grpc_close,
  proxy_grpc_send,
  proxy_grpc_stream,
  proxy_http_call,
} from "../hostcalls";
import { operation } from "../registry";
import { Turn } from "../turn";
import { pairs } from "../values";

// cluster, headers, body, timeout
operation("http_call", (turn) => {
  const headers = pairs(turn.bytes(1));
  const token = new Reference<u32>();
  const status = proxy_http_call(
    turn.at(0), turn.size(0),
    address(headers), headers.length,
    turn.at(2), turn.size(2),
    address(NOTHING), 0,
    turn.number(3),
    token.ptr(),
  );
  called(turn, "http_call", status, token.data);
});

// cluster, service, method, message, timeout
operation("grpc_call", (turn) => {
  const token = new Reference<u32>();
  const status = proxy_grpc_call(
    turn.at(0), turn.size(0),
    turn.at(1), turn.size(1),
    turn.at(2), turn.size(2),
    address(NOTHING), 0,
    turn.at(3), turn.size(3),
    turn.number(4),
    token.ptr(),
  );
  called(turn, "grpc_call", status, token.data);
});

// cluster, service, method
operation("grpc_stream", (turn) => {
  const token = new Reference<u32>();
  const status = proxy_grpc_stream(
    turn.at(0), turn.size(0),
    turn.at(1), turn.size(1),
    turn.at(2), turn.size(2),
    address(NOTHING), 0,
    token.ptr(),
  );
  called(turn, "grpc_stream", status, token.data);
});

/** A call-out has been started, or not. */
function called(turn: Turn, name: string, status: u32, token: u32): void {
  turn.say(name, status);
  if (status != 0) return;
  turn.last = token;
  turn.stream.expect(token);
}

// token, message, end of stream
operation("grpc_send", (turn) => {
  turn.say("grpc_send", proxy_grpc_send(turn.number(0), turn.at(1), turn.size(1), turn.number(2)));
});

// token
operation("grpc_cancel", (turn) => {
  turn.say("grpc_cancel", proxy_grpc_cancel(turn.number(0)));
});

// token
operation("grpc_close", (turn) => {
  turn.say("grpc_close", proxy_grpc_close(turn.number(0)));
});
