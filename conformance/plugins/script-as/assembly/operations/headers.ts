import { Reference } from "@solo-io/proxy-runtime/runtime";
import { address } from "../bytes";
import { Given } from "../given";
import {
  proxy_add_header_map_value,
  proxy_get_header_map_pairs,
  proxy_get_header_map_size,
  proxy_get_header_map_value,
  proxy_remove_header_map_value,
  proxy_replace_header_map_value,
  proxy_set_header_map_pairs,
} from "../hostcalls";
import { operation } from "../registry";
import { listed, pairs } from "../values";

// map, name
operation("get", (turn) => {
  const given = new Given();
  const status = proxy_get_header_map_value(
    turn.number(0), turn.at(1), turn.size(1), given.pointerAt(), given.sizeAt(),
  );
  turn.sayValue("get", status, given.taken(status));
});

// map
operation("pairs", (turn) => {
  const given = new Given();
  const status = proxy_get_header_map_pairs(turn.number(0), given.pointerAt(), given.sizeAt());
  turn.say("pairs", status);
  const encoded = given.taken(status);
  if (encoded !== null) turn.sayMore(":" + listed(encoded));
});

// map
operation("size", (turn) => {
  const size = new Reference<u32>();
  turn.say("size", proxy_get_header_map_size(turn.number(0), size.ptr()));
});

// map, pairs
operation("set_pairs", (turn) => {
  const encoded = pairs(turn.bytes(1));
  turn.say("set_pairs", proxy_set_header_map_pairs(turn.number(0), address(encoded), encoded.length));
});

// map, name, value
operation("add", (turn) => {
  const status = proxy_add_header_map_value(
    turn.number(0), turn.at(1), turn.size(1), turn.at(2), turn.size(2),
  );
  turn.say("add", status);
});

// map, name, value
operation("replace", (turn) => {
  const status = proxy_replace_header_map_value(
    turn.number(0), turn.at(1), turn.size(1), turn.at(2), turn.size(2),
  );
  turn.say("replace", status);
});

// map, name
operation("remove", (turn) => {
  turn.say("remove", proxy_remove_header_map_value(turn.number(0), turn.at(1), turn.size(1)));
});
