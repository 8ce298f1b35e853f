//! A plain HTTP/1.1 GET, without any SDK, proxy or kept connection between.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// The credentials document, or what came in place of it.
    pub(crate) fn document(self) -> Result<String, String> {
        if self.status == 200 { Ok(self.body) } else { Err(format!("{} {}", self.status, self.body)) }
    }

    /// The body as JSON; `null` if it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The `code` of an error, or nothing.
    pub(crate) fn code(&self) -> String {
        self.json().get("code").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// A header's value, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// No answer takes longer.
const LIMIT: Duration = Duration::from_secs(15);

/// Asks `address` for `path`; `headers` may name another `Host` than the address.
pub(crate) async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    get_over(stream, path, headers).await
}

/// The same from `source`, which may be any address of 127.0.0.0/8: what is limited by source sees another one.
pub(crate) async fn get_from(
    source: Ipv4Addr,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> anyhow::Result<Answer> {
    get_over(connect_from(source, address).await?, path, headers).await
}

/// A connection to `address` from `source`.
pub(crate) async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    Ok(socket.connect(address).await?)
}

/// The same over a connection that is there.
pub(crate) async fn get_over(stream: TcpStream, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let host = stream.peer_addr()?.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let names_host = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    let own = [("host", host.as_str())];
    let headers = own.iter().filter(|_| !names_host).chain(headers);
    let request = headers.fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
    let request = request.body(Empty::<Bytes>::new())?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await.context("no answer")?.into_parts();
        let body = body.collect().await.context("half an answer")?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        anyhow::Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    };
    let (_, answer) = tokio::time::timeout(LIMIT, async { tokio::join!(connection, exchange) }).await.context("no answer")?;
    answer
}
