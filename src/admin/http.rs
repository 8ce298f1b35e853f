//! The small HTTP/1.1 server behind probes, metrics and status: GET, a path, a body.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::net::Listener;

use crate::base::readiness::Part;
use crate::base::tasks::Tasks;

/// A request's head must be complete so soon, and an idle connection ends after as long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
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

/// Binds `address`, trying again for as long as it is taken, and meanwhile says so through `part`.
pub async fn bind(address: SocketAddr, part: &Part) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                part.ready();
                return listener;
            }
            Err(error) => {
                tracing::warn!(%address, %error, "can't listen; trying again");
                part.pending(format!("can't listen on {address}: {error}"));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Answers requests on `listener` until shutdown; `answer` sees the path.
pub async fn serve<L, A, F>(mut listener: L, tasks: Tasks, answer: A)
where
    L: Listener<Io: Send + Unpin + 'static>,
    A: Fn(String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            () = tasks.shutting_down() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => drop(tasks.spawn(connection(stream, tasks.clone(), answer.clone()))),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection<S, A, F>(stream: S, tasks: Tasks, answer: A)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    A: Fn(String) -> F,
    F: Future<Output = Answer>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let known = request.method() == Method::GET;
        let answer = known.then(|| answer(request.uri().path().to_owned()));
        async move {
            let answer = match answer {
                Some(answer) => answer.await,
                None => Answer { status: StatusCode::METHOD_NOT_ALLOWED, ..Answer::not_found() },
            };
            Ok::<_, Infallible>(response(answer))
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
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an operator's connection ended early");
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    response
}
