//! Foreign functions: named functions beyond the ABI's own (spec: proxy-wasm-host §13).

mod expression;
mod signature;
mod zlib;

use std::collections::BTreeMap;

use crate::abi::Status;
use crate::hostcalls::control;
use crate::proto;
use crate::state::VmState;
use crate::stream::{FilterStateOutcome, StreamContext};

pub(crate) use expression::Expressions;

/// What foreign functions remember in a VM.
#[derive(Default)]
pub(crate) struct ForeignState {
    expressions: Expressions,
    /// Declared properties by name; `true`: may be written once.
    declared: BTreeMap<Vec<u8>, bool>,
}

impl ForeignState {
    /// Whether a property was declared to be written only once.
    pub(crate) fn is_read_only(&self, name: &[u8]) -> bool {
        self.declared.get(name).copied().unwrap_or(false)
    }
}

/// A function's result, or the status that says why there is none.
pub(crate) type Outcome = Result<Vec<u8>, Status>;

/// Calls a function by name.
pub(crate) fn call<S: StreamContext>(state: &mut VmState<S>, name: &[u8], arguments: &[u8]) -> Outcome {
    if arguments.len() > state.limits.foreign_argument_bytes_max {
        return Err(Status::BadArgument);
    }
    match name {
        b"compress" => zlib::compress(arguments),
        b"uncompress" => zlib::uncompress(arguments, state.limits.uncompress_bytes_max),
        b"verify_signature" => signature::verify(arguments),
        b"sign" => signature::sign(arguments),
        b"expr_create" => {
            let limits = state.limits;
            state.foreign.expressions.create(arguments, &limits)
        }
        b"expr_evaluate" => expression::evaluate(state, arguments),
        b"expr_delete" => state.foreign.expressions.delete(arguments),
        b"declare_property" => declare_property(state, arguments),
        b"set_envoy_filter_state" => set_filter_state(state, arguments),
        b"clear_route_cache" => {
            if let Some(stream) = state.target_mut() {
                stream.clear_route_cache();
            }
            Ok(Vec::new())
        }
        b"inject_encoded_data_to_filter_chain" | b"inject_encoded_data_to_filter_chain_on_header" => {
            inject(state, arguments)
        }
        // The worker's own fairness between streams makes it unnecessary (Higress).
        b"set_global_max_requests_per_io_cycle" => Ok(Vec::new()),
        _ => Err(Status::NotFound),
    }
}

/// `1: string name, 2: bool readonly, 3: WasmType type, 4: bytes schema, 5: LifeSpan span`. Type and schema only matter to
/// reads into a value, which is bytes here; every value lives as long as its stream.
fn declare_property<S>(state: &mut VmState<S>, arguments: &[u8]) -> Outcome {
    /// Declared names of one VM.
    const DECLARED_MAX: usize = 1000;
    let fields = proto::fields(arguments).ok_or(Status::BadArgument)?;
    let name = proto::bytes(&fields, 1);
    let name_bytes_max = state.limits.property_path_bytes_max;
    let declared = &mut state.foreign.declared;
    if declared.contains_key(name) || declared.len() >= DECLARED_MAX || name.len() > name_bytes_max {
        return Err(Status::BadArgument);
    }
    declared.insert(name.to_vec(), proto::number(&fields, 2) != 0);
    Ok(Vec::new())
}

/// `1: string path, 2: string value, 3: LifeSpan span`
fn set_filter_state<S: StreamContext>(state: &mut VmState<S>, arguments: &[u8]) -> Outcome {
    let fields = proto::fields(arguments).ok_or(Status::BadArgument)?;
    let Some(stream) = state.target_mut() else { return Err(Status::NotFound) };
    match stream.set_filter_state(proto::bytes(&fields, 1), proto::bytes(&fields, 2)) {
        FilterStateOutcome::Done => Ok(Vec::new()),
        FilterStateOutcome::UnknownKey => Err(Status::NotFound),
        FilterStateOutcome::BadValue => Err(Status::BadArgument),
    }
}

/// `1: string body, 2: bool endstream`
fn inject<S>(state: &mut VmState<S>, arguments: &[u8]) -> Outcome {
    let fields = proto::fields(arguments).ok_or(Status::BadArgument)?;
    control::inject(state, proto::bytes(&fields, 1), proto::number(&fields, 2) != 0);
    Ok(Vec::new())
}
