// Hostcalls with numbers for everything, pointers included. The first 4 KiB of memory are theirs: `memoryBase` in
// asconfig.json keeps data out of it.

import * as host from "../hostcalls";
import { operation } from "../registry";
import { Turn } from "../turn";
import { integer } from "../values";

/** The numbers of a line, which begin after the hostcall's name. */
class Numbers {
  constructor(private turn: Turn) {}

  long(index: i32): i64 {
    return integer(this.turn.text(index + 1));
  }

  word(index: i32): u32 {
    return <u32>this.long(index);
  }
}

class Hostcall {
  constructor(public parameters: i32, public call: (n: Numbers) => u32) {}
}

const hostcalls = new Map<string, Hostcall>();

function hostcall(name: string, parameters: i32, call: (n: Numbers) => u32): void {
  hostcalls.set(name, new Hostcall(parameters, call));
}

// name, numbers
operation("raw", (turn) => {
  const name = turn.text(0);
  if (hostcalls.has(name) && turn.has(hostcalls.get(name).parameters)) {
    turn.say(name, hostcalls.get(name).call(new Numbers(turn)));
  } else {
    turn.sayMore(" no-such-function:" + name);
  }
});

hostcall("proxy_log", 3, (n) => host.proxy_log(n.word(0), n.word(1), n.word(2)));
hostcall("proxy_get_log_level", 1, (n) => host.proxy_get_log_level(n.word(0)));
hostcall("proxy_get_current_time_nanoseconds", 1, (n) => host.proxy_get_current_time_nanoseconds(n.word(0)));
hostcall("proxy_set_tick_period_milliseconds", 1, (n) => host.proxy_set_tick_period_milliseconds(n.word(0)));
hostcall("proxy_get_status", 3, (n) => host.proxy_get_status(n.word(0), n.word(1), n.word(2)));
hostcall("proxy_set_effective_context", 1, (n) => host.proxy_set_effective_context(n.word(0)));
hostcall("proxy_done", 0, (n) => host.proxy_done());
hostcall("proxy_get_property", 4, (n) => host.proxy_get_property(n.word(0), n.word(1), n.word(2), n.word(3)));
hostcall("proxy_set_property", 4, (n) => host.proxy_set_property(n.word(0), n.word(1), n.word(2), n.word(3)));
hostcall("proxy_get_buffer_bytes", 5, (n) => host.proxy_get_buffer_bytes(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4),
));
hostcall("proxy_get_buffer_status", 3, (n) => host.proxy_get_buffer_status(n.word(0), n.word(1), n.word(2)));
hostcall("proxy_set_buffer_bytes", 5, (n) => host.proxy_set_buffer_bytes(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4),
));
hostcall("proxy_get_header_map_pairs", 3, (n) => host.proxy_get_header_map_pairs(n.word(0), n.word(1), n.word(2)));
hostcall("proxy_set_header_map_pairs", 3, (n) => host.proxy_set_header_map_pairs(n.word(0), n.word(1), n.word(2)));
hostcall("proxy_get_header_map_value", 5, (n) => host.proxy_get_header_map_value(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4),
));
hostcall("proxy_add_header_map_value", 5, (n) => host.proxy_add_header_map_value(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4),
));
hostcall("proxy_replace_header_map_value", 5, (n) => host.proxy_replace_header_map_value(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4),
));
hostcall("proxy_remove_header_map_value", 3, (n) => host.proxy_remove_header_map_value(
  n.word(0), n.word(1), n.word(2),
));
hostcall("proxy_get_header_map_size", 2, (n) => host.proxy_get_header_map_size(n.word(0), n.word(1)));
hostcall("proxy_continue_stream", 1, (n) => host.proxy_continue_stream(n.word(0)));
hostcall("proxy_close_stream", 1, (n) => host.proxy_close_stream(n.word(0)));
hostcall("proxy_send_local_response", 8, (n) => host.proxy_send_local_response(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4), n.word(5),
  n.word(6), n.word(7),
));
hostcall("proxy_http_call", 10, (n) => host.proxy_http_call(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4), n.word(5),
  n.word(6), n.word(7), n.word(8), n.word(9),
));
hostcall("proxy_grpc_call", 12, (n) => host.proxy_grpc_call(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4), n.word(5),
  n.word(6), n.word(7), n.word(8), n.word(9), n.word(10), n.word(11),
));
hostcall("proxy_grpc_stream", 9, (n) => host.proxy_grpc_stream(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4), n.word(5),
  n.word(6), n.word(7), n.word(8),
));
hostcall("proxy_grpc_send", 4, (n) => host.proxy_grpc_send(n.word(0), n.word(1), n.word(2), n.word(3)));
hostcall("proxy_grpc_cancel", 1, (n) => host.proxy_grpc_cancel(n.word(0)));
hostcall("proxy_grpc_close", 1, (n) => host.proxy_grpc_close(n.word(0)));
hostcall("proxy_set_shared_data", 5, (n) => host.proxy_set_shared_data(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4),
));
hostcall("proxy_get_shared_data", 5, (n) => host.proxy_get_shared_data(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4),
));
hostcall("proxy_register_shared_queue", 3, (n) => host.proxy_register_shared_queue(n.word(0), n.word(1), n.word(2)));
hostcall("proxy_resolve_shared_queue", 5, (n) => host.proxy_resolve_shared_queue(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4),
));
hostcall("proxy_enqueue_shared_queue", 3, (n) => host.proxy_enqueue_shared_queue(n.word(0), n.word(1), n.word(2)));
hostcall("proxy_dequeue_shared_queue", 3, (n) => host.proxy_dequeue_shared_queue(n.word(0), n.word(1), n.word(2)));
hostcall("proxy_define_metric", 4, (n) => host.proxy_define_metric(n.word(0), n.word(1), n.word(2), n.word(3)));
hostcall("proxy_increment_metric", 2, (n) => host.proxy_increment_metric(n.word(0), n.long(1)));
hostcall("proxy_record_metric", 2, (n) => host.proxy_record_metric(n.word(0), n.long(1)));
hostcall("proxy_get_metric", 2, (n) => host.proxy_get_metric(n.word(0), n.word(1)));
hostcall("proxy_call_foreign_function", 6, (n) => host.proxy_call_foreign_function(
  n.word(0), n.word(1), n.word(2), n.word(3), n.word(4), n.word(5),
));
