//! Servers for tests that answer with exactly the bytes they are given: plain, under TLS, and as a proxy.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::egress::https::Https;

/// What a fake does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Sends these bytes and closes.
    Bytes(Vec<u8>),
    /// Sends these bytes, then spaces, one every 10 ms.
    Drip(Vec<u8>),
    /// Sends nothing and keeps the connection open.
    Hang,
    /// Resets the connection.
    Reset,
    /// Sends these bytes once there is a permit, and closes.
    Held(Arc<Semaphore>, Vec<u8>),
}

impl Answer {
    /// A complete answer.
    pub(crate) fn http(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Bytes(format!("HTTP/1.1 {status} x\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes())
    }
}

/// A server on loopback and the requests that it saw.
#[derive(Debug, Clone)]
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// Answers over plain HTTP.
    pub(crate) async fn plain(answer: Answer) -> Self {
        Self::answering(move |_| answer.clone()).await
    }

    /// Answers over plain HTTP, each request as `respond` says.
    pub(crate) async fn answering(respond: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let respond = Arc::new(respond);
        Self::start(move |connection, requests| {
            let respond = Arc::clone(&respond);
            async move { serve(connection, &*respond, requests).await }
        })
        .await
    }

    /// Answers under TLS with a certificate of `authority` for `host`.
    pub(crate) async fn tls(authority: &Authority, host: &str, answer: Answer) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(authority.server_config(host)));
        Self::start(move |connection, requests| {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            async move {
                if let Ok(stream) = acceptor.accept(connection).await {
                    serve(stream, |_: &str| answer, requests).await;
                }
            }
        })
        .await
    }

    /// Tunnels every CONNECT to `target`, whatever it asks for.
    pub(crate) async fn proxy(target: SocketAddr) -> Self {
        Self::start(move |mut connection, requests| async move {
            let head = read_request(&mut connection).await;
            requests.lock().push(head);
            connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut target = TcpStream::connect(target).await.unwrap();
            let _ = copy_bidirectional(&mut connection, &mut target).await;
        })
        .await
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Head and body of each request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }

    async fn start<S, F>(serve: S) -> Self
    where
        S: Fn(TcpStream, Arc<Mutex<Vec<String>>>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let requests = Arc::clone(&fake.requests);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, Arc::clone(&requests)));
            }
        });
        fake
    }
}

/// What [`serve`] needs of a connection.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {
    fn reset(&self);
}

impl Connection for TcpStream {
    fn reset(&self) {
        socket2::SockRef::from(self).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl Connection for tokio_rustls::server::TlsStream<TcpStream> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }
}

async fn serve(mut connection: impl Connection, respond: impl FnOnce(&str) -> Answer, requests: Arc<Mutex<Vec<String>>>) {
    let request = read_request(&mut connection).await;
    let answer = respond(&request);
    requests.lock().push(request);
    match answer {
        Answer::Bytes(bytes) => send(&mut connection, &bytes).await,
        Answer::Held(gate, bytes) => {
            let _permit = gate.acquire().await;
            send(&mut connection, &bytes).await;
        }
        Answer::Drip(bytes) => {
            let mut alive = connection.write_all(&bytes).await.is_ok();
            while alive {
                tokio::time::sleep(Duration::from_millis(10)).await;
                alive = connection.write_all(b" ").await.is_ok();
            }
        }
        Answer::Hang => std::future::pending().await,
        Answer::Reset => connection.reset(),
    }
}

async fn send(connection: &mut impl Connection, bytes: &[u8]) {
    let _ = connection.write_all(bytes).await;
    let _ = connection.shutdown().await;
}

/// Reads a head and as much body as it announces.
async fn read_request(connection: &mut (impl AsyncRead + Unpin)) -> String {
    let mut seen = Vec::new();
    while !is_complete(&String::from_utf8_lossy(&seen)) && connection.read_buf(&mut seen).await.is_ok_and(|read| read > 0) {}
    String::from_utf8_lossy(&seen).into_owned()
}

fn is_complete(seen: &str) -> bool {
    let Some((head, body)) = seen.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

/// A certificate authority that nobody trusts unless told to.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A file that holds its certificate.
    pub(crate) fn bundle(&self) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(self.pem.as_bytes()).unwrap();
        file
    }

    fn server_config(&self, host: &str) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        config.with_no_client_auth().with_single_cert(vec![certificate.into()], key.into()).unwrap()
    }
}

/// The way out in an environment of these variables.
pub(crate) fn https(variables: &[(&str, &str)]) -> Https {
    Https::new(&|name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())).unwrap()
}
