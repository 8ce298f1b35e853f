//! A service of AWS that knows but one answer.

use std::net::Ipv4Addr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// A running service on loopback. Dropping it closes its port.
pub(crate) struct Canned {
    pub(crate) url: String,
    _server: AbortOnDropHandle<()>,
}

impl Canned {
    /// Answers every request with that document.
    pub(crate) async fn start(document: &Value) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (url, body) = (format!("http://{}", listener.local_addr()?), document.to_string());
        let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let server = async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // What is left unread would reset the connection, and with it the answer. A client that left has no need of it.
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        };
        Ok(Self { url, _server: AbortOnDropHandle::new(tokio::spawn(server)) })
    }
}
