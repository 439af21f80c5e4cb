//! A plug-in as a step of a TCP connection's chain.

use smallvec::SmallVec;
use wasmgate_host as host;
use wasmgate_stream::{Direction, NetworkAction, NetworkFilter, StreamData, Then, Verdict};

use super::{Continues, FromHost, PluginFilter, unwrap};

impl Continues for NetworkAction {
    const CONTINUE: Self = Self::Continue;
}

impl From<host::NetworkAction> for FromHost<NetworkAction> {
    fn from(action: host::NetworkAction) -> Self {
        Self(match action {
            host::NetworkAction::Continue => NetworkAction::Continue,
            host::NetworkAction::StopIteration => NetworkAction::Hold,
        })
    }
}

/// A callback without an answer holds nothing.
impl From<()> for FromHost<NetworkAction> {
    fn from((): ()) -> Self {
        Self(NetworkAction::Continue)
    }
}

impl NetworkFilter for PluginFilter {
    fn new_connection(&mut self, data: Box<StreamData>) -> (Box<StreamData>, Verdict<NetworkAction>) {
        let (data, created) = self.create(data);
        if let Err(details) = created {
            let verdict = self.strategy(details, NetworkAction::Hold);
            return (data, verdict);
        }
        unwrap(self.call(data, FromHost(NetworkAction::Hold), host::Vm::on_new_connection))
    }

    fn bytes(
        &mut self,
        direction: Direction,
        data: Box<StreamData>,
        end: bool,
    ) -> (Box<StreamData>, Verdict<NetworkAction>) {
        let size = data.body(direction).map_or(0, bytes::Bytes::len);
        unwrap(self.call(data, FromHost(NetworkAction::Hold), |vm, id, stream| match direction {
            Direction::Request => vm.on_downstream_data(id, stream, size, end),
            Direction::Response => vm.on_upstream_data(id, stream, size, end),
        }))
    }

    fn upstream_closed(&mut self, data: Box<StreamData>) -> (Box<StreamData>, SmallVec<[Then; 1]>) {
        // Envoy does not tell who closed it, either.
        let (data, verdict) = self.call(data, FromHost(NetworkAction::Hold), |vm, id, stream| {
            vm.on_upstream_close(id, stream, host::PeerType::Unknown)
        });
        (data, verdict.then)
    }

    fn downstream_closed(&mut self, data: Box<StreamData>, by_client: bool) -> Box<StreamData> {
        let by = if by_client { host::PeerType::Remote } else { host::PeerType::Local };
        // What it asks for changes nothing any more.
        let stopped = FromHost(NetworkAction::Hold);
        self.call(data, stopped, |vm, id, stream| vm.on_downstream_close(id, stream, by)).0
    }

    fn end_connection(&mut self, data: Box<StreamData>) -> Box<StreamData> {
        self.finish(data, host::Vm::end_connection)
    }
}
