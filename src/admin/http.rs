//! The small HTTP/1.1 server behind probes, metrics and status: GET, a path, a body.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use tokio::sync::Semaphore;
use tokio_util::net::Listener;

use crate::base::duty::Duty;
use crate::base::readiness::Part;
use crate::base::tasks::Tasks;
use crate::node::inheritance::{Heir, Listening, accept};

/// A request's head must be complete so soon, and an idle connection ends after as long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// After shutdown a request under way is answered within this, or not at all.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// Open connections of one server. Operators need a few; whoever reaches the port must not take the descriptors of pods.
const MAX_CONNECTIONS: usize = 32;
/// Between tries to bind a port that is taken, and after an accept that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// An answer to an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A JSON answer.
    #[must_use]
    pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_string(value).unwrap_or_default();
        Self { status, content_type: "application/json", body }
    }

    /// 404.
    #[must_use]
    pub fn not_found() -> Self {
        Self { status: StatusCode::NOT_FOUND, content_type: "text/plain", body: "not found\n".into() }
    }
}

/// Inherits the heir's socket or binds one, trying again for as long as that fails, and says why through `part` and the log
/// whenever the reason changes. `None` for IPv6 loopback on a node without IPv6.
pub async fn bind(mut heir: Heir, duty: &Duty, part: &Part) -> Option<Listening> {
    let (address, mut told) = (heir.address(), None);
    loop {
        let socket = heir.inherit(duty).await.map_or_else(|| open(address), Ok);
        let error = match socket.and_then(|socket| heir.listen(socket)) {
            Ok(listening) => {
                part.ready();
                return Some(listening);
            }
            Err(error) => error,
        };
        if is_without_ipv6(address, &error) {
            tracing::debug!(%address, %error, "this node has no IPv6: nobody can ask there");
            return None;
        }
        if told.replace(error.kind()) != Some(error.kind()) {
            tracing::warn!(%address, %error, "can't listen; trying again each second");
            part.pending(format!("can't listen on {address}: {error}"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn is_without_ipv6(address: SocketAddr, error: &io::Error) -> bool {
    let absent = matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT));
    absent && address.ip() == Ipv6Addr::LOCALHOST
}

/// Answers requests on `listener` while on `duty`, until shutdown; `answer` sees the path. A connection beyond the 32nd is closed.
pub async fn serve<L, A, F>(mut listener: L, duty: Duty, tasks: Tasks, answer: A)
where
    L: Listener<Io: Send + Unpin + 'static>,
    A: Fn(String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = tasks.shutting_down() => return,
            accepted = accept(&mut listener, &duty) => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                    let connection = connection(stream, duty.clone(), tasks.clone(), answer.clone());
                    tasks.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection<S, A, F>(stream: S, duty: Duty, tasks: Tasks, answer: A)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    A: Fn(String) -> F,
    F: Future<Output = Answer>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let known = request.method() == Method::GET;
        let (answer, duty) = (known.then(|| answer(request.uri().path().to_owned())), &duty);
        async move {
            let answer = match answer {
                Some(answer) => answer.await,
                None => Answer { status: StatusCode::METHOD_NOT_ALLOWED, ..Answer::not_found() },
            };
            Ok::<_, Infallible>(response(answer, duty.is_serving()))
        }
    });
    let mut builder = http1::Builder::new();
    let connection =
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = tasks.shutting_down() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an operator's connection ended early");
    }
}

/// One that is not the last on its connection if that is to be `kept`.
fn response(answer: Answer, kept: bool) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    if !kept {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::base::readiness::Readiness;
    use crate::node::inheritance::Inheritance;

    async fn server() -> (SocketAddr, Tasks) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tasks) = (listener.local_addr().unwrap(), Tasks::default());
        let answer = |_| std::future::ready(Answer { status: StatusCode::OK, ..Answer::not_found() });
        tasks.spawn(serve(listener, Duty::serving(), tasks.clone(), answer));
        (address, tasks)
    }

    /// The first bytes of an answer; none when the connection is closed.
    async fn ask(stream: &mut TcpStream) -> String {
        let mut start = vec![0; 12];
        let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let read = if sent.is_ok() { stream.read(&mut start).await.unwrap_or(0) } else { 0 };
        String::from_utf8(start[..read].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_are_closed_and_those_within_are_answered() {
        let (address, _tasks) = server().await;
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(ask(&mut stream).await, "HTTP/1.1 200");
            held.push(stream);
        }
        assert_eq!(ask(&mut TcpStream::connect(address).await.unwrap()).await, "");
        drop(held);
        while ask(&mut TcpStream::connect(address).await.unwrap()).await.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_stands_by_answers_what_is_open_once_more_and_accepts_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tasks, duty) = (listener.local_addr().unwrap(), Tasks::default(), Duty::serving());
        let answer = |_| std::future::ready(Answer { status: StatusCode::OK, ..Answer::not_found() });
        tasks.spawn(serve(listener, duty.clone(), tasks.clone(), answer));
        let mut open = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(&mut open).await, "HTTP/1.1 200");
        duty.set(false);
        let mut queued = TcpStream::connect(address).await.unwrap();
        let mut rest = Vec::new();
        open.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        open.read_to_end(&mut rest).await.unwrap();
        assert!(String::from_utf8(rest).unwrap().contains("connection: close"));
        tasks.shutdown();
        tasks.drained().await;
        assert_eq!(ask(&mut queued).await, "", "its queue was left to the other agent");
    }

    #[tokio::test]
    async fn half_a_head_does_not_hold_the_drain() {
        let (address, tasks) = server().await;
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        tasks.shutdown();
        tokio::time::timeout(LAST_ANSWER * 2, tasks.drained()).await.unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_is_told_once_and_served_when_free() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, readiness) = (holder.local_addr().unwrap(), Readiness::default());
        let (part, duty, inheritance) = (readiness.advisory("probes"), Duty::serving(), Inheritance::default());
        let log = tempfile::NamedTempFile::new().unwrap();
        let writer = Arc::new(log.reopen().unwrap());
        let _logged = tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(writer).finish());
        tokio::time::pause();
        let patient = tokio::time::timeout(PAUSE * 3, bind(inheritance.heir(address), &duty, &part)).await;
        assert!(patient.is_err() && readiness.advice()["probes"].contains(&address.to_string()));
        let lines = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(lines.lines().count(), 1, "{lines}");
        drop(holder);
        assert!(bind(inheritance.heir(address), &duty, &part).await.is_some());
        assert!(readiness.advice().is_empty());
    }

    #[test]
    fn only_ipv6_loopback_may_be_missing() {
        let [ipv6, ipv4] = ["[::1]:1", "127.0.0.1:1"].map(|address| address.parse().unwrap());
        for errno in [Errno::EADDRNOTAVAIL, Errno::EAFNOSUPPORT] {
            assert!(is_without_ipv6(ipv6, &errno.into()) && !is_without_ipv6(ipv4, &errno.into()));
        }
        assert!(!is_without_ipv6(ipv6, &Errno::EADDRINUSE.into()));
    }
}
