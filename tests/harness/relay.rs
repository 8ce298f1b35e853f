//! Servers between a client and a cloud: one that passes everything on, one that speaks TLS for it, and a proxy.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use url::{Position, Url};

/// Longer heads are none.
const HEAD_BYTES: usize = 64 * 1024;

/// A certificate authority that nobody trusts unless told to.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A file that holds its certificate.
    pub(crate) fn bundle(&self) -> anyhow::Result<NamedTempFile> {
        let mut file = NamedTempFile::new()?;
        file.write_all(self.pem.as_bytes())?;
        Ok(file)
    }

    fn acceptor(&self, host: IpAddr) -> anyhow::Result<TlsAcceptor> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([host.to_string()])?.signed_by(&key, &self.issuer)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_no_client_auth().with_single_cert(vec![certificate.into()], key.into())?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// A running relay. Dropping it closes its port.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _server: AbortOnDropHandle<()>,
}

impl Relay {
    /// Passes what comes to `host` on to `target`.
    pub(crate) async fn plain(host: IpAddr, target: SocketAddr) -> anyhow::Result<Self> {
        Self::start(host, move |stream, _| async move { pass_on(stream, TcpStream::connect(target).await?).await }).await
    }

    /// Takes TLS on `host`, with a certificate of `authority`, and passes what is in it to `target`.
    pub(crate) async fn tls(authority: &Authority, host: IpAddr, target: SocketAddr) -> anyhow::Result<Self> {
        Self::tls_for(authority, host, host, target).await
    }

    /// The same with a certificate for `name`, as whoever reaches it through a proxy expects.
    pub(crate) async fn tls_for(authority: &Authority, host: IpAddr, name: IpAddr, target: SocketAddr) -> anyhow::Result<Self> {
        let acceptor = authority.acceptor(name)?;
        Self::start(host, move |stream, heads| {
            let acceptor = acceptor.clone();
            async move {
                let mut stream = acceptor.accept(stream).await?;
                let head = read_head(&mut stream, &heads).await?;
                let mut target = TcpStream::connect(target).await?;
                target.write_all(&head).await?;
                pass_on(stream, target).await
            }
        })
        .await
    }

    /// An HTTP proxy on `host` that leads every tunnel to `target`, whatever was asked for; without one it opens none.
    pub(crate) async fn proxy(host: IpAddr, target: Option<SocketAddr>) -> anyhow::Result<Self> {
        Self::start(host, move |mut stream, heads| async move {
            read_head(&mut stream, &heads).await?;
            let Some(target) = target else {
                return Ok(stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await?);
            };
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            pass_on(stream, TcpStream::connect(target).await?).await
        })
        .await
    }

    /// An HTTP proxy on `host` that passes a plain request on to where it asks to go, and names itself in it (RFC 9110 §7.6.3).
    pub(crate) async fn forward_proxy(host: IpAddr) -> anyhow::Result<Self> {
        Self::start(host, move |mut stream, heads| async move {
            let head = read_head(&mut stream, &heads).await?;
            let (authority, head) = in_origin_form(&String::from_utf8(head)?)?;
            let mut target = TcpStream::connect(authority).await?;
            target.write_all(head.as_bytes()).await?;
            pass_on(stream, target).await
        })
        .await
    }

    /// The request heads that it has seen.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().clone()
    }

    async fn start<H, F>(host: IpAddr, handle: H) -> anyhow::Result<Self>
    where
        H: Fn(TcpStream, Arc<Mutex<Vec<String>>>) -> F + Send + 'static,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind((host, 0)).await?;
        let (address, heads) = (listener.local_addr()?, Arc::default());
        let seen = Arc::clone(&heads);
        let server = async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that fails is the client's to notice.
                drop(tokio::spawn(handle(stream, Arc::clone(&seen))));
            }
        };
        Ok(Self { address, heads, _server: AbortOnDropHandle::new(tokio::spawn(server)) })
    }
}

/// The bytes up to the end of a request's head, noted down.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, heads: &Mutex<Vec<String>>) -> anyhow::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
        ensure!(head.len() < HEAD_BYTES, "no head");
    }
    heads.lock().push(String::from_utf8_lossy(&head).into_owned());
    Ok(head)
}

/// To whom a request to a proxy goes, and its head as it goes there, which is the last of its connection (RFC 9112 §3.2).
fn in_origin_form(head: &str) -> anyhow::Result<(String, String)> {
    let (line, headers) = head.split_once("\r\n").context("no head")?;
    let (method, uri) = line.strip_suffix(" HTTP/1.1").and_then(|line| line.split_once(' ')).context("no request line")?;
    let uri = Url::parse(uri)?;
    let authority = format!("{}:{}", uri.host().context("no host")?, uri.port_or_known_default().context("no port")?);
    let is_hop = |line: &str| line.to_ascii_lowercase().trim_start_matches("proxy-").starts_with("connection:");
    let headers: Vec<_> = headers.split("\r\n").filter(|line| !is_hop(line)).collect();
    let head = format!(
        "{method} {} HTTP/1.1\r\nvia: 1.1 proxy\r\nconnection: close\r\n{}",
        &uri[Position::BeforePath..],
        headers.join("\r\n")
    );
    Ok((authority, head))
}

async fn pass_on<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, mut target: TcpStream) -> anyhow::Result<()> {
    copy_bidirectional(&mut stream, &mut target).await?;
    Ok(())
}
