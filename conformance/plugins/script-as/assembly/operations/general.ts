import { Reference } from "@solo-io/proxy-runtime/runtime";
import { Given } from "../given";
import {
  proxy_get_current_time_nanoseconds,
  proxy_get_log_level,
  proxy_get_status,
  proxy_log,
  proxy_set_tick_period_milliseconds,
} from "../hostcalls";
import { operation } from "../registry";

/** In September 2020: a clock that shows an earlier time is wrong. */
const PAST: u64 = 1_600_000_000_000_000_000;

// level, text
operation("say", (turn) => {
  turn.say("say", proxy_log(turn.number(0), turn.at(1), turn.size(1)));
});

operation("level", (turn) => {
  const level = new Reference<u32>();
  turn.say("level", proxy_get_log_level(level.ptr()));
});

operation("time", (turn) => {
  const time = new Reference<u64>();
  turn.say("time", proxy_get_current_time_nanoseconds(time.ptr()));
  turn.sayMore(time.data > PAST ? ":true" : ":false");
});

// milliseconds
operation("tick", (turn) => {
  turn.say("tick", proxy_set_tick_period_milliseconds(turn.number(0)));
});

operation("status", (turn) => {
  const code = new Reference<u32>();
  const given = new Given();
  const status = proxy_get_status(code.ptr(), given.pointerAt(), given.sizeAt());
  turn.sayValue("status", status, given.taken(status));
  turn.sayMore("/" + code.data.toString());
});
