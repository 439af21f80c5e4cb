import { Given } from "../given";
import { proxy_call_foreign_function } from "../hostcalls";
import { operation } from "../registry";

// name, argument
operation("foreign", (turn) => {
  const given = new Given();
  const status = proxy_call_foreign_function(
    turn.at(0), turn.size(0), turn.at(1), turn.size(1), given.pointerAt(), given.sizeAt(),
  );
  turn.sayValue("foreign." + turn.text(0), status, given.taken(status));
});
