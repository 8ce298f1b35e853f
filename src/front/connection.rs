//! One connection from accept to close: HTTP/1 by hyper, three time limits, a graceful end.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep_until};

use crate::base::clock::Clock;
use crate::domain::refusal::Reason;
use crate::front::endpoint::Endpoint;
use crate::front::pace::{Overdue, Pace, Paced};

/// The largest head, in bytes. It leaves room for a token that is too long, so that this can be said.
const HEAD_BYTES: usize = 32 * 1024;

/// How a connection ended.
#[derive(Debug)]
enum End {
    Closed(hyper::Result<()>),
    Overdue(Overdue),
}

/// Serves the requests that `peer` sends until either side ends the connection. Once `shutdown` completes, the request under way
/// is answered with `Connection: close`; without one the connection ends at once.
pub(super) async fn serve<T>(io: T, peer: IpAddr, endpoint: Arc<Endpoint>, shutdown: impl Future<Output = ()>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (endpoint, record) = (&*endpoint, &endpoint.record);
    let pace = Pace::new(record.clock.now().mono);
    let io = TokioIo::new(Paced::new(io, pace.clone()));
    let service = service_fn(|request| {
        let start = record.clock.now();
        pace.head_complete(start.mono);
        let (head, _) = hyper::Request::into_parts(request);
        endpoint.answer(head, peer, start)
    });
    let mut http = pin!(protocol().serve_connection(io, service));
    let mut shutdown = pin!(shutdown);
    let mut timer = pin!(sleep_until(pace.due(&record.clock).0));
    let mut closing = false;
    let end = poll_fn(|context| {
        loop {
            if let Poll::Ready(result) = http.as_mut().poll(context) {
                return Poll::Ready(End::Closed(result));
            }
            if closing || shutdown.as_mut().poll(context).is_pending() {
                return poll_overdue(timer.as_mut(), &pace, &record.clock, context).map(End::Overdue);
            }
            closing = true;
            http.as_mut().graceful_shutdown();
        }
    })
    .await;
    if let Some(reason) = end.reason() {
        record.broken(reason);
    }
}

fn protocol() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // A client that has sent its request and then shuts its side is still answered; one that has left costs a failed write.
    builder.half_close(true);
    // Without the second limit a read after a long head makes room for far more than may come: 120 KB a connection.
    builder.header_read_timeout(None).max_header_size(HEAD_BYTES).max_buf_size(HEAD_BYTES);
    builder
}

/// Ready when the stage that the connection is in has lasted too long. The timer may be set for an earlier stage: it is moved
/// forward only when it would be late, and back only when it fires.
fn poll_overdue(mut timer: Pin<&mut Sleep>, pace: &Pace, clock: &Clock, context: &mut Context<'_>) -> Poll<Overdue> {
    let (due, overdue) = pace.due(clock);
    if due < timer.deadline() {
        timer.as_mut().reset(due);
    }
    while timer.as_mut().poll(context).is_ready() {
        if timer.deadline() >= due {
            return Poll::Ready(overdue);
        }
        timer.as_mut().reset(due);
    }
    Poll::Pending
}

impl End {
    /// The rule that the client broke, if it broke one. A client that just leaves breaks none.
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Overdue(Overdue::Head) => Some(Reason::HeadTimeout),
            Self::Closed(Err(error)) if error.is_parse_too_large() => Some(Reason::HeadTooLarge),
            Self::Closed(Err(error)) if error.is_parse() => Some(Reason::HttpMalformed),
            Self::Overdue(Overdue::Idle | Overdue::Answer) | Self::Closed(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::JoinHandle;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::front::endpoint::tests::endpoint;

    const TOKEN: &str = "aaaaaaaaaaaa.bbbbbbbbbbbb.cccc_-cccccccc";

    struct Client {
        io: DuplexStream,
        endpoint: Arc<Endpoint>,
        shutdown: CancellationToken,
        server: JoinHandle<()>,
    }

    fn client() -> Client {
        let (io, far) = tokio::io::duplex(64 * 1024);
        let (endpoint, shutdown) = (endpoint(Clock::System), CancellationToken::new());
        let peer = "10.0.0.1".parse().unwrap();
        let server = tokio::spawn(serve(far, peer, Arc::clone(&endpoint), shutdown.clone().cancelled_owned()));
        Client { io, endpoint, shutdown, server }
    }

    fn get(path: &str, more: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: 169.254.170.23\r\nAuthorization: {TOKEN}\r\n{more}\r\n")
    }

    impl Client {
        async fn send(&mut self, bytes: impl AsRef<[u8]>) {
            self.io.write_all(bytes.as_ref()).await.unwrap();
        }

        /// Head and body of one answer, which has a Content-Length.
        async fn answer(&mut self) -> (String, Vec<u8>) {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.io.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            self.io.read_exact(&mut body).await.unwrap();
            (head, body)
        }

        /// All that comes until the server closes.
        async fn rest(&mut self) -> String {
            let mut text = Vec::new();
            self.io.read_to_end(&mut text).await.unwrap();
            String::from_utf8(text).unwrap()
        }

        fn count(&self, line: &str) -> bool {
            self.endpoint.record.metrics.encode().unwrap().contains(line)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_gets_its_document_and_keeps_the_connection() {
        let mut client = client();
        for _ in 0..3 {
            client.send(get("/v1/credentials", "")).await;
            let (head, body) = client.answer().await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert!(head.contains("content-type: application/json\r\n") && head.contains("cache-control: no-store\r\n"));
            assert!(!head.contains("connection:") && head.contains("content-length: 2\r\n"), "{head}");
            assert_eq!(body, b"{}");
        }
        assert!(client.count("requests_total{outcome=\"hit\"} 3"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_in_pieces_and_pipelined_requests_are_answered_in_order() {
        let mut client = client();
        for byte in get("/v1/credentials", "").into_bytes() {
            client.send([byte]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(client.answer().await.0.starts_with("HTTP/1.1 200"));
        client.send(get("/v1/credentials/slow", "") + &get("/v1/credentials", "") + &get("/nowhere", "")).await;
        assert_eq!(client.answer().await.1, b"{\"slow\":1}");
        assert_eq!(client.answer().await.1, b"{}");
        assert!(client.answer().await.0.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_headers_gets_a_bare_431() {
        let many: String = (0..100).map(|n| format!("x-{n}: 1\r\n")).collect();
        let big = format!("x: {}\r\n", "y".repeat(40_000));
        for flood in [get("/v1/credentials", &many), get("/v1/credentials", &big), get("/", &big.repeat(3))] {
            let mut client = client();
            let _ = client.io.write_all(flood.as_bytes()).await;
            let text = client.rest().await;
            assert!(text.starts_with("HTTP/1.1 431 ") && text.ends_with("\r\n\r\n"), "{text}");
            client.server.await.unwrap();
            let metrics = client.endpoint.record.metrics.encode().unwrap();
            assert!(metrics.contains("refusals_total{reason=\"head_too_large\"} 1"), "{metrics}");
            assert!(metrics.contains("requests_total{outcome=\"refused\"} 1"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heads_up_to_the_limit_pass_and_too_long_a_token_is_named() {
        let mut client = client();
        client.send(get("/v1/credentials", &format!("x: {}\r\n", "y".repeat(31_000)))).await;
        assert!(client.answer().await.0.starts_with("HTTP/1.1 200"));
        let long = get("/v1/credentials", "").replace(TOKEN, &"a".repeat(16_385));
        client.send(long).await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with("HTTP/1.1 431"), "{head}");
        assert!(String::from_utf8(body).unwrap().starts_with(r#"{"code":"InvalidRequest","message":"The Authorization"#));
        client.send(get("/v1/credentials", "").replace(TOKEN, &"a".repeat(16_384))).await;
        assert!(client.answer().await.0.starts_with("HTTP/1.1 200"), "the connection goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_http_gets_a_bare_400_or_nothing() {
        let nul = get("/v1/credentials", "x: a\0b\r\n");
        let both = get("/v1/credentials", "Content-Length: 1\r\nContent-Length: 2\r\n");
        let smuggled = get("/v1/credentials", "Transfer-Encoding: chunked, x\r\n");
        for bytes in [
            nul.as_str(),
            "\0\r\n\r\n",
            "\x16\x03\x01\x02\0",
            "GET / HTTP/9\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &both,
            &smuggled,
        ] {
            let mut client = client();
            client.send(bytes).await;
            let text = client.rest().await;
            let bare = text.starts_with("HTTP/1.1 400 ") && text.ends_with("\r\n\r\n");
            assert!(bare || (text.is_empty() && bytes.starts_with("PRI")), "{bytes:?} {text:?}");
            client.server.await.unwrap();
            assert!(client.endpoint.record.metrics.encode().unwrap().contains("reason=\"http_malformed\"} 1"), "{bytes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_refused_and_ends_the_connection() {
        let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
        for more in ["Content-Length: 5\r\n", chunked, "Connection: upgrade\r\nUpgrade: h2c\r\n"] {
            let mut client = client();
            client.send(get("/v1/credentials", more)).await;
            let text = client.rest().await;
            assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("connection: close\r\n"), "{text}");
            assert!(text.contains("Send a plain GET"));
            assert!(client.count("refusals_total{reason=\"body\"} 1") && client.count("requests_total{outcome=\"refused\"} 1"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_raw_head_that_sdks_never_send_is_refused() {
        let host = "Host: 169.254.170.23\r\n";
        let cases = [
            (get("/v1/credentials", host), "host"),
            (get("http://169.254.170.23/v1/credentials", ""), "proxied"),
            (get("/v1/credentials", "Authorization: x\r\n"), "token_missing"),
            (get("/v1/credentials", "SEC-FETCH-MODE: cors\r\n"), "browser"),
            (get("/v1/credentials", "").replace("GET", "POST"), "method"),
            (get("/v1/credentials", "").replace("Host: 169.254.170.23", "Host: evil.example"), "host"),
            (get("/v1/credentials", "").replace(host, "").replace("HTTP/1.1", "HTTP/1.0"), "host"),
        ];
        for (text, reason) in cases {
            let mut client = client();
            client.send(&text).await;
            client.answer().await;
            assert!(client.count(&format!("refusals_total{{reason=\"{reason}\"}} 1")), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_cut_off_ten_seconds_after_its_first_byte() {
        let mut client = client();
        tokio::time::sleep(Duration::from_secs(70)).await;
        let begun = client.endpoint.record.clock.now().mono;
        client.send("GET /v1").await;
        tokio::time::sleep(Duration::from_secs(9)).await;
        client.send("/cred").await;
        assert_eq!(client.rest().await, "");
        assert_eq!(client.endpoint.record.clock.now().mono - begun, Duration::from_secs(10));
        client.server.await.unwrap();
        assert!(client.endpoint.record.metrics.encode().unwrap().contains("refusals_total{reason=\"head_timeout\"} 1"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_lives_for_a_minute_and_not_for_ever() {
        let mut client = client();
        for _ in 0..3 {
            client.send(get("/v1/credentials", "")).await;
            assert!(client.answer().await.0.starts_with("HTTP/1.1 200"));
            tokio::time::sleep(Duration::from_secs(61)).await;
        }
        assert_eq!(client.rest().await, "");
        assert!(!client.count("refused\"} 1"), "to rest is no offence");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_let_go() {
        let mut client = client();
        client.send(get("/v1/credentials/large", "")).await;
        let begun = client.endpoint.record.clock.now().mono;
        (&mut client.server).await.unwrap();
        assert_eq!(client.endpoint.record.clock.now().mono - begun, Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_shuts_its_side_is_still_answered() {
        let mut client = client();
        client.send(get("/v1/credentials/slow", "")).await;
        client.io.shutdown().await.unwrap();
        assert!(client.rest().await.ends_with("{\"slow\":1}"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_costs_one_request() {
        let mut client = client();
        client.send(get("/v1/credentials/panic", "")).await;
        assert!(client.answer().await.0.starts_with("HTTP/1.1 500"));
        client.send(get("/v1/credentials", "")).await;
        assert!(client.answer().await.0.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_finishes_what_is_under_way_and_closes_what_rests() {
        let mut busy = client();
        busy.send(get("/v1/credentials/slow", "")).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        busy.shutdown.cancel();
        let text = busy.rest().await;
        assert!(text.contains("connection: close\r\n") && text.ends_with("{\"slow\":1}"), "{text}");

        let mut rests = client();
        rests.send(get("/v1/credentials", "")).await;
        rests.answer().await;
        let before = Clock::System.now().mono;
        rests.shutdown.cancel();
        assert_eq!(rests.rest().await, "");
        assert_eq!(Clock::System.now().mono, before);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_has_arrived_at_shutdown_is_answered() {
        let mut client = client();
        client.send(get("/v1/credentials", "")).await;
        client.answer().await;
        client.send(get("/v1/credentials", "")).await;
        client.shutdown.cancel();
        assert!(client.rest().await.ends_with("{}"));
    }
}
