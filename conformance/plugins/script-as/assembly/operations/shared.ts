import { Reference } from "@solo-io/proxy-runtime/runtime";
import { Given } from "../given";
import {
  proxy_dequeue_shared_queue,
  proxy_enqueue_shared_queue,
  proxy_get_shared_data,
  proxy_register_shared_queue,
  proxy_resolve_shared_queue,
  proxy_set_shared_data,
} from "../hostcalls";
import { operation } from "../registry";

// key, value, compare-and-swap number
operation("shared_set", (turn) => {
  const status = proxy_set_shared_data(turn.at(0), turn.size(0), turn.at(1), turn.size(1), turn.number(2));
  turn.say("shared_set", status);
});

// key
operation("shared_get", (turn) => {
  const given = new Given();
  const cas = new Reference<u32>();
  const status = proxy_get_shared_data(
    turn.at(0), turn.size(0), given.pointerAt(), given.sizeAt(), cas.ptr(),
  );
  turn.last = cas.data;
  turn.sayValue("shared_get", status, given.taken(status));
});

// name
operation("queue_register", (turn) => {
  const token = new Reference<u32>();
  const status = proxy_register_shared_queue(turn.at(0), turn.size(0), token.ptr());
  turn.last = token.data;
  turn.say("queue_register", status);
});

// VM, name
operation("queue_resolve", (turn) => {
  const token = new Reference<u32>();
  const status = proxy_resolve_shared_queue(
    turn.at(0), turn.size(0), turn.at(1), turn.size(1), token.ptr(),
  );
  turn.last = token.data;
  turn.say("queue_resolve", status);
});

// token, item
operation("enqueue", (turn) => {
  turn.say("enqueue", proxy_enqueue_shared_queue(turn.number(0), turn.at(1), turn.size(1)));
});

// token
operation("dequeue", (turn) => {
  const given = new Given();
  const status = proxy_dequeue_shared_queue(turn.number(0), given.pointerAt(), given.sizeAt());
  turn.sayValue("dequeue", status, given.taken(status));
});
