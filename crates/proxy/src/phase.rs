//! How much longer a listener's connections may go on.

/// What connections of a listener are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// As long as they like.
    #[default]
    Serve,
    /// Clients shall use another gateway from now on: answers over HTTP/1 end their connection, and HTTP/2 connections that
    /// stood before get no further stream.
    Leave,
    /// They end with the request at hand.
    Drain,
}

/// Tells of a phase.
pub(crate) type PhaseReceiver = tokio::sync::watch::Receiver<Phase>;

/// Waits until connections must end.
pub(crate) async fn drained(phase: &mut PhaseReceiver) {
    // An error: the listener is gone without a word, as at the end of the process.
    let _ = phase.wait_for(|p| *p == Phase::Drain).await;
}
