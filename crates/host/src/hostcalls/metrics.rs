//! Metrics (spec: proxy-wasm-host §4.6).

use super::{Answer, status};
use crate::abi::{LogLevel, MetricType, Status};
use crate::memory::{Call, read, split, write_u32, write_u64};
use crate::metrics::MetricLookup;
use crate::stream::StreamContext;

pub(crate) fn define<S: StreamContext>(
    mut caller: Call<'_, S>,
    kind: u32,
    name: u32,
    name_len: u32,
    id_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(kind) = MetricType::from_guest(kind) else { return status(Status::BadArgument) };
    let writable = read(memory, id_out, 4).is_some();
    let (Some(name), true) = (read(memory, name, name_len), writable) else {
        return status(Status::InvalidMemoryAccess);
    };
    let name = String::from_utf8_lossy(name);
    let (id, shown) = state.metrics.define(&state.registry, kind, &name);
    if !shown {
        let text = "there are too many metrics, or the name is too long: this one counts and is not shown";
        state.log_once(LogLevel::Error, "metrics", text);
    }
    write_u32(memory, id_out, id);
    status(Status::Ok)
}

pub(crate) fn increment<S: StreamContext>(mut caller: Call<'_, S>, id: u32, offset: u64) -> Answer {
    let state = caller.data_mut();
    status(match state.metrics.get(id) {
        MetricLookup::Found(metric) if metric.increment(offset.cast_signed()) => Status::Ok,
        MetricLookup::Found(_) | MetricLookup::Missing(false) => Status::BadArgument,
        MetricLookup::Missing(true) => Status::NotFound,
    })
}

pub(crate) fn record<S: StreamContext>(mut caller: Call<'_, S>, id: u32, value: u64) -> Answer {
    let state = caller.data_mut();
    status(match state.metrics.get(id) {
        MetricLookup::Found(metric) => {
            metric.record(value);
            Status::Ok
        }
        MetricLookup::Missing(_) => Status::NotFound,
    })
}

pub(crate) fn get<S: StreamContext>(mut caller: Call<'_, S>, id: u32, value_out: u32) -> Answer {
    let (memory, state) = split(&mut caller);
    let value = match state.metrics.get(id) {
        MetricLookup::Found(metric) => metric.get(),
        MetricLookup::Missing(true) => return status(Status::NotFound),
        MetricLookup::Missing(false) => None,
    };
    // A histogram has no single value.
    let Some(value) = value else { return status(Status::BadArgument) };
    status(if write_u64(memory, value_out, value) { Status::Ok } else { Status::InvalidMemoryAccess })
}
