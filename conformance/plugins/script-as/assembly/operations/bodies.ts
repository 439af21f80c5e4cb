import { Reference } from "@solo-io/proxy-runtime/runtime";
import { Given } from "../given";
import { proxy_get_buffer_bytes, proxy_get_buffer_status, proxy_set_buffer_bytes } from "../hostcalls";
import { operation } from "../registry";

// buffer, start, size
operation("body", (turn) => {
  const given = new Given();
  const status = proxy_get_buffer_bytes(
    turn.number(0), turn.number(1), turn.number(2), given.pointerAt(), given.sizeAt(),
  );
  turn.sayValue("body", status, given.taken(status));
});

operation("body_status", (turn) => {
  const size = new Reference<u32>();
  const flags = new Reference<u32>();
  turn.say("body_status", proxy_get_buffer_status(turn.number(0), size.ptr(), flags.ptr()));
  turn.sayMore(":" + size.data.toString());
});

// buffer, start, size, new bytes
operation("set_body", (turn) => {
  const status = proxy_set_buffer_bytes(
    turn.number(0), turn.number(1), turn.number(2), turn.at(3), turn.size(3),
  );
  turn.say("set_body", status);
});
