import { Reference } from "@solo-io/proxy-runtime/runtime";
import {
  proxy_define_metric,
  proxy_get_metric,
  proxy_increment_metric,
  proxy_record_metric,
} from "../hostcalls";
import { operation } from "../registry";

// kind, name
operation("metric_define", (turn) => {
  const metric = new Reference<u32>();
  const status = proxy_define_metric(turn.number(0), turn.at(1), turn.size(1), metric.ptr());
  turn.last = metric.data;
  turn.say("metric_define", status);
});

// metric, offset
operation("metric_increment", (turn) => {
  const offset = <i64>(<i32>turn.number(1));
  turn.say("metric_increment", proxy_increment_metric(turn.number(0), offset));
});

// metric, value
operation("metric_record", (turn) => {
  turn.say("metric_record", proxy_record_metric(turn.number(0), turn.number(1)));
});

// metric
operation("metric_get", (turn) => {
  const value = new Reference<i64>();
  const status = proxy_get_metric(turn.number(0), value.ptr());
  turn.say("metric_get", status);
  if (status == 0) turn.sayMore(":" + value.data.toString());
});
