//! The accept loop of one listener. It rests while this process stands by, and ends at shutdown and on no error.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::base::bucket::Bucket;
use crate::base::clock::Clock;
use crate::front::caps::Caps;
use crate::front::connection;
use crate::front::endpoint::Endpoint;
use crate::node::inheritance::{Listening, accept};
use crate::node::source::SourceCheck;
use crate::observe::Context;
use crate::observe::metrics::Limit;

/// The rest after an error that the next attempt would meet again: no descriptors, no memory.
const PAUSE: Duration = Duration::from_millis(100);

/// How long an agent that stands by waits at shutdown for its idle connections to bring one more request: it is answered, and told
/// to close, so that no client meets a connection that goes away under its hands. Nobody waits for this end, since the other
/// agent serves.
pub(super) const LINGER: Duration = Duration::from_secs(4);

/// Log lines of one kind a second: one a minute.
const LINES_PER_SECOND: f64 = 1.0 / 60.0;

/// What a connection passes before it is served.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub(super) caps: Arc<Caps>,
    pub(super) sources: Arc<SourceCheck>,
}

/// Takes connections from `socket` while this process serves, until shutdown.
pub(super) async fn run(mut socket: Listening, endpoint: Arc<Endpoint>, gate: Gate, context: Context) {
    let mut log = Log::new(endpoint.record.clock.clone());
    let mut shutdown = pin!(context.tasks.shutting_down());
    loop {
        let accepted = tokio::select! {
            // What waits in the kernel's queue at shutdown is still taken.
            biased;
            accepted = accept(&mut socket, &context.duty) => accepted,
            () = &mut shutdown => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(limit) = take(stream, peer, &endpoint, &gate, &context) {
                    endpoint.record.capped(limit);
                    log.capped(peer.ip(), limit);
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                log.failed(&error);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Starts to serve a connection, or closes it if a cap says so.
fn take(stream: TcpStream, peer: SocketAddr, endpoint: &Arc<Endpoint>, gate: &Gate, context: &Context) -> Result<(), Limit> {
    let slot = gate.caps.admit(peer.ip())?;
    let (endpoint, sources, end) = (Arc::clone(endpoint), Arc::clone(&gate.sources), end(context));
    context.tasks.spawn(async move {
        match sources.admit(peer).await {
            Ok(()) => connection::serve(stream, peer.ip(), endpoint, end).await,
            Err(reason) => endpoint.record.closed(reason),
        }
        drop(slot);
    });
    Ok(())
}

/// Completes when connections are to end.
fn end(Context { tasks, duty, .. }: &Context) -> impl Future<Output = ()> + Send + use<> {
    let (shutdown, duty) = (tasks.shutting_down(), duty.clone());
    async move {
        shutdown.await;
        if !duty.is_serving() {
            tokio::time::sleep(LINGER).await;
        }
    }
}

/// Errors that `accept` passes on from a connection that has died in the queue (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// At most one line a minute of each kind, whatever happens.
struct Log {
    clock: Clock,
    capped: Bucket,
    failed: Bucket,
}

impl Log {
    fn new(clock: Clock) -> Self {
        let bucket = Bucket::new(LINES_PER_SECOND, 1.0, clock.now().mono);
        Self { clock, capped: bucket.clone(), failed: bucket }
    }

    fn capped(&mut self, peer: IpAddr, limit: Limit) {
        if self.capped.take(self.clock.now().mono) {
            let limit: &'static str = limit.into();
            tracing::warn!(%peer, limit, "too many open connections, new ones are closed");
        }
    }

    fn failed(&mut self, error: &io::Error) {
        if self.failed.take(self.clock.now().mono) {
            tracing::error!(%error, "can't accept connections, trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_the_process_make_the_loop_pause() {
        let of = |errno: nix::errno::Errno| is_of_one_connection(&errno.into());
        assert!(of(nix::errno::Errno::ECONNABORTED) && of(nix::errno::Errno::EINTR));
        assert!(!of(nix::errno::Errno::EMFILE) && !of(nix::errno::Errno::ENOBUFS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_writes_one_line_a_minute() {
        let mut log = Log::new(Clock::System);
        let mut admitted = || log.failed.take(Clock::System.now().mono);
        assert!(admitted() && !admitted());
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(admitted() && !admitted());
    }
}
