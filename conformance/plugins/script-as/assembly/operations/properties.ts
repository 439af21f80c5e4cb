import { Writer, address } from "../bytes";
import { Given } from "../given";
import { proxy_get_property, proxy_set_property } from "../hostcalls";
import { operation } from "../registry";
import { Turn } from "../turn";

const DOT: u8 = 0x2e;

// path
operation("property", (turn) => {
  const given = new Given();
  const status = property(turn, given);
  turn.sayValue("property", status, given.taken(status));
});

// path. Only whether it is there: the value differs from run to run.
operation("has_property", (turn) => {
  const given = new Given();
  const status = property(turn, given);
  turn.say("has_property", status);
  const value = given.taken(status);
  turn.sayMore(value !== null && value.length > 0 ? ":true" : ":false");
});

/** A path is written with dots; the ABI separates its parts with zeros. */
function property(turn: Turn, given: Given): u32 {
  const written = turn.bytes(0);
  const path = new Writer();
  for (let i = 0; i < written.length; i++) path.byte(written[i] == DOT ? 0 : written[i]);
  const bytes = path.written();
  return proxy_get_property(address(bytes), bytes.length, given.pointerAt(), given.sizeAt());
}

// path, value
operation("set_property", (turn) => {
  turn.say("set_property", proxy_set_property(turn.at(0), turn.size(0), turn.at(1), turn.size(1)));
});
