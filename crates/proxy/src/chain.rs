//! A listener's chain on one worker.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use smallvec::{SmallVec, smallvec};
use wasmgate_plugin::{FailStrategy, PluginFilter, StreamPort, WorkerPlugin};
use wasmgate_stream::{
    DataAction, Direction, Filter, HeadersAction, Interest, LocalReply, NetworkAction, NetworkFilter,
    StreamData, Then, TrailersAction, Verdict,
};

use crate::generation::ChainStep;

/// A step with this worker's VM.
#[derive(Clone, Debug)]
pub(crate) enum WorkerStep {
    Plugin(Rc<WorkerPlugin>),
    /// Denies: the plug-in is not there and may not be left out.
    Deny(Arc<str>),
}

impl WorkerStep {
    /// The steps of a chain. Optional plug-ins that are not there are left out.
    pub(crate) fn chain(
        steps: &[ChainStep],
        worker_plugin: &mut dyn FnMut(&Arc<wasmgate_plugin::PluginVersion>) -> Rc<WorkerPlugin>,
    ) -> Vec<Self> {
        let step = |step: &ChainStep| match step {
            ChainStep::Plugin(version) => Some(Self::Plugin(worker_plugin(version))),
            ChainStep::Unavailable { fail_strategy: FailStrategy::Open, .. } => None,
            ChainStep::Unavailable { name, fail_strategy: FailStrategy::Close | FailStrategy::Reload } => {
                Some(Self::Deny(Arc::clone(name)))
            }
        };
        steps.iter().filter_map(step).collect()
    }

    /// The plug-in of the step, if its VM has failed and has no successor yet.
    pub(crate) fn restarting(&self) -> Option<&WorkerPlugin> {
        match self {
            Self::Plugin(plugin) if !plugin.is_ready() => Some(plugin),
            Self::Plugin(_) | Self::Deny(_) => None,
        }
    }

    /// The step for one stream, at its place in the chain.
    pub(crate) fn filter(&self, port: &Rc<StreamPort>, index: usize) -> ChainFilter {
        match self {
            Self::Plugin(plugin) => {
                ChainFilter::Plugin(PluginFilter::new(Rc::clone(plugin), Rc::clone(port), index))
            }
            Self::Deny(name) => ChainFilter::Deny(Arc::clone(name)),
        }
    }
}

/// A step on one stream.
#[derive(Debug)]
pub(crate) enum ChainFilter {
    Plugin(PluginFilter),
    Deny(Arc<str>),
}

type Data = Box<StreamData>;

impl Filter for ChainFilter {
    fn interest(&self) -> Interest {
        match self {
            Self::Plugin(filter) => filter.interest(),
            Self::Deny(_) => Interest::default(),
        }
    }

    fn request_headers(&mut self, data: Data, end: bool) -> (Data, Verdict<HeadersAction>) {
        match self {
            Self::Plugin(filter) => filter.request_headers(data, end),
            Self::Deny(name) => {
                // spec: wasmplugin-and-routing §1.13
                let details = format!("wasm_module_unavailable{{{name}}}");
                let mut reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "", details, "");
                reply.headers.push((b"retry-after".to_vec(), b"5".to_vec()));
                let then = smallvec![Then::LocalReply(Box::new(reply))];
                (data, Verdict { action: HeadersAction::StopAllAndWatermark, then })
            }
        }
    }

    fn response_headers(&mut self, data: Data, end: bool) -> (Data, Verdict<HeadersAction>) {
        match self {
            Self::Plugin(filter) => filter.response_headers(data, end),
            Self::Deny(_) => (data, Verdict::new(HeadersAction::Continue)),
        }
    }

    fn data(&mut self, direction: Direction, data: Data, end: bool) -> (Data, Verdict<DataAction>) {
        match self {
            Self::Plugin(filter) => filter.data(direction, data, end),
            Self::Deny(_) => (data, Verdict::new(DataAction::Continue)),
        }
    }

    fn trailers(&mut self, direction: Direction, data: Data) -> (Data, Verdict<TrailersAction>) {
        match self {
            Self::Plugin(filter) => filter.trailers(direction, data),
            Self::Deny(_) => (data, Verdict::new(TrailersAction::Continue)),
        }
    }

    fn end(&mut self, data: Data) -> Data {
        match self {
            Self::Plugin(filter) => filter.end(data),
            Self::Deny(_) => data,
        }
    }
}

impl NetworkFilter for ChainFilter {
    fn new_connection(&mut self, data: Data) -> (Data, Verdict<NetworkAction>) {
        match self {
            Self::Plugin(filter) => filter.new_connection(data),
            Self::Deny(_) => {
                (data, Verdict { action: NetworkAction::Hold, then: smallvec![Then::CloseConnection] })
            }
        }
    }

    fn bytes(&mut self, direction: Direction, data: Data, end: bool) -> (Data, Verdict<NetworkAction>) {
        match self {
            Self::Plugin(filter) => filter.bytes(direction, data, end),
            Self::Deny(_) => (data, Verdict::new(NetworkAction::Hold)),
        }
    }

    fn upstream_closed(&mut self, data: Data) -> (Data, SmallVec<[Then; 1]>) {
        match self {
            Self::Plugin(filter) => filter.upstream_closed(data),
            Self::Deny(_) => (data, SmallVec::new()),
        }
    }

    fn downstream_closed(&mut self, data: Data, by_client: bool) -> Data {
        match self {
            Self::Plugin(filter) => filter.downstream_closed(data, by_client),
            Self::Deny(_) => data,
        }
    }

    fn end_connection(&mut self, data: Data) -> Data {
        match self {
            Self::Plugin(filter) => filter.end_connection(data),
            Self::Deny(_) => data,
        }
    }
}
