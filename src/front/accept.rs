//! The accept loop of one listener. It rests while this process stands by, and ends at shutdown and on no error.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::base::bucket::Bucket;
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

/// What a connection passes before it is served.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub(super) caps: Arc<Caps>,
    pub(super) sources: Arc<SourceCheck>,
}

/// Takes connections from `socket` while this process serves, until shutdown.
pub(super) async fn run(mut socket: Listening, endpoint: Arc<Endpoint>, gate: Gate, context: Context) {
    let clock = endpoint.record.clock.clone();
    let mut lines = Bucket::once_a_minute(clock.now().mono);
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
                    endpoint.record.capped(limit, peer.ip());
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if lines.take(clock.now().mono) {
                    tracing::error!(%error, "can't accept connections, trying again");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Starts to serve a connection, or closes it if a cap says so.
fn take<T>(stream: T, peer: SocketAddr, endpoint: &Arc<Endpoint>, gate: &Gate, context: &Context) -> Result<(), Limit>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{self, Poll};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};

    use super::*;
    use crate::base::clock::Clock;
    use crate::front::endpoint::tests::endpoint;
    use crate::node::source;

    /// A socket whose first read panics.
    struct Broken(DuplexStream);

    impl AsyncRead for Broken {
        fn poll_read(self: Pin<&mut Self>, _: &mut task::Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            std::panic::resume_unwind(Box::new("scripted"))
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut task::Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    #[tokio::test]
    async fn a_connection_that_panics_is_closed_and_frees_its_place() {
        let context = Context::new(Clock::System);
        let (endpoint, peer) = (endpoint(context.clock.clone()), "10.0.0.1:1".parse().unwrap());
        let sources = Arc::new(SourceCheck::new(source::Mode::Off, &context));
        let gate = Gate { caps: Caps::new(1, 1, context.metrics.front.connections.clone()), sources };
        let (mut client, far) = tokio::io::duplex(1024);
        take(Broken(far), peer, &endpoint, &gate, &context).unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        let (mut client, far) = tokio::io::duplex(1024);
        take(far, peer, &endpoint, &gate, &context).expect("the place is free again");
        client.write_all(b"GET / HTTP/1.1\r\nHost: 169.254.170.23\r\n\r\n").await.unwrap();
        let mut start = [0; 12];
        client.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 404");
    }

    #[test]
    fn only_errors_of_the_process_make_the_loop_pause() {
        let of = |errno: nix::errno::Errno| is_of_one_connection(&errno.into());
        assert!(of(nix::errno::Errno::ECONNABORTED) && of(nix::errno::Errno::EINTR));
        assert!(!of(nix::errno::Errno::EMFILE) && !of(nix::errno::Errno::ENOBUFS));
    }
}
