import { GrpcStatusValues } from "@solo-io/proxy-runtime";
import { address } from "../bytes";
import {
  proxy_close_stream,
  proxy_continue_stream,
  proxy_done,
  proxy_send_local_response,
  proxy_set_effective_context,
} from "../hostcalls";
import { operation } from "../registry";
import { pairs } from "../values";

// what the callback returns
operation("return", (turn) => {
  turn.result = turn.number(0);
});

operation("trap", (turn) => {
  unreachable();
});

// direction
operation("continue", (turn) => {
  turn.say("continue", proxy_continue_stream(turn.number(0)));
});

// direction
operation("close", (turn) => {
  turn.say("close", proxy_close_stream(turn.number(0)));
});

// status, details, body, headers, gRPC status
operation("reply", (turn) => {
  const headers = pairs(turn.bytes(3));
  const grpcStatus = turn.has(4) ? turn.number(4) : <u32>GrpcStatusValues.InvalidCode;
  const status = proxy_send_local_response(
    turn.number(0),
    turn.at(1), turn.size(1),
    turn.at(2), turn.size(2),
    address(headers), headers.length,
    grpcStatus,
  );
  turn.say("reply", status);
});

// context
operation("effective", (turn) => {
  turn.say("effective", proxy_set_effective_context(turn.number(0)));
});

operation("done", (turn) => {
  turn.say("done", proxy_done());
});
