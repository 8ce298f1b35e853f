//! The accept loop of one listener. It ends at shutdown and on no error.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::base::bucket::Bucket;
use crate::base::tasks::Tasks;
use crate::front::caps::Caps;
use crate::front::connection;
use crate::front::endpoint::Endpoint;
use crate::node::source::SourceCheck;
use crate::observe::metrics::Limit;

/// The rest after an error that the next attempt would meet again: no descriptors, no memory.
const PAUSE: Duration = Duration::from_millis(100);

/// What a connection passes before it is served.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub(super) caps: Arc<Caps>,
    pub(super) sources: Arc<SourceCheck>,
}

/// Takes connections from `socket` until shutdown.
pub(super) async fn run(socket: TcpListener, endpoint: Arc<Endpoint>, gate: Gate, tasks: Tasks) {
    let clock = endpoint.record.clock.clone();
    let mut lines = Bucket::once_a_minute(clock.now().mono);
    let mut shutdown = pin!(tasks.shutting_down());
    loop {
        let accepted = tokio::select! {
            // What waits in the kernel's queue at shutdown is still taken.
            biased;
            accepted = socket.accept() => accepted,
            () = &mut shutdown => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(limit) = take(stream, peer, &endpoint, &gate, &tasks) {
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
fn take<T>(stream: T, peer: SocketAddr, endpoint: &Arc<Endpoint>, gate: &Gate, tasks: &Tasks) -> Result<(), Limit>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let slot = gate.caps.admit(peer.ip())?;
    let (endpoint, sources, shutdown) = (Arc::clone(endpoint), Arc::clone(&gate.sources), tasks.shutting_down());
    tasks.spawn(async move {
        match sources.admit(peer).await {
            Ok(()) => connection::serve(stream, peer.ip(), endpoint, shutdown).await,
            Err(reason) => endpoint.record.closed(reason),
        }
        drop(slot);
    });
    Ok(())
}

/// Errors that `accept` passes on from a connection that has died in the queue (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};

    use super::*;
    use crate::front::endpoint::tests::endpoint;
    use crate::node::source;

    /// A socket whose first read panics.
    struct Broken(DuplexStream);

    impl AsyncRead for Broken {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            std::panic::resume_unwind(Box::new("scripted"))
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    #[tokio::test]
    async fn a_connection_that_panics_is_closed_and_frees_its_place() {
        let context = crate::observe::Context::new(crate::base::clock::Clock::System);
        let (endpoint, peer) = (endpoint(context.clock.clone()), "10.0.0.1:1".parse().unwrap());
        let sources = Arc::new(SourceCheck::new(source::Mode::Off, &context));
        let gate = Gate { caps: Caps::new(1, 1, context.metrics.front.connections.clone()), sources };
        let (mut client, far) = tokio::io::duplex(1024);
        take(Broken(far), peer, &endpoint, &gate, &context.tasks).unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        let (mut client, far) = tokio::io::duplex(1024);
        take(far, peer, &endpoint, &gate, &context.tasks).expect("the place is free again");
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
