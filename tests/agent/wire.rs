//! HTTP as no SDK speaks it, over raw sockets.

use std::time::Duration;

use credlet::base::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{World, pod, within};

const LIMIT: Duration = Duration::from_secs(15);

/// All that comes back for `bytes` until the agent closes.
pub(crate) async fn exchange(world: &World, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(world.agent.address()).await.unwrap();
    // The agent may answer and close before all has been sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = within(LIMIT, stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

/// A head that asks for `path` with a good token and more lines, each with its line break.
pub(crate) fn head(world: &World, path: &str, token: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {token}\r\n{more}\r\n", world.agent.address())
}

#[tokio::test]
async fn malformed_requests_are_refused_and_counted() {
    let world = World::start().await;
    let token = world.token(&pod("app-0"));
    let get = |more: &str| head(&world, "/v1/credentials", &token, more);
    let host = format!("Host: {}\r\n", world.agent.address());
    let flood: String = (0..100).map(|number| format!("x-{number}: 1\r\n")).collect();
    let close = "Connection: close\r\n";
    let absolute = format!("http://{}/v1/credentials", world.agent.address());
    let too_long = format!("GET /v1/credentials HTTP/1.1\r\n{host}Authorization: {}\r\n{close}\r\n", "a".repeat(16 * 1024 + 1));
    let rows = [
        (get(&flood), "431", "head_too_large", ""),
        (get(&format!("x: {}\r\n", "y".repeat(40_000))), "431", "head_too_large", ""),
        (get("x: a\0b\r\n"), "400", "http_malformed", ""),
        ("\0\0\0\0\r\n\r\n".to_owned(), "400", "http_malformed", ""),
        ("\u{16}\u{3}\u{1}\u{2}".to_owned() + &"\0".repeat(64), "400", "http_malformed", ""),
        (get(&format!("{host}{close}")), "403", "host", "AccessDenied"),
        (get(close).replace(&host, ""), "403", "host", "AccessDenied"),
        (get("Transfer-Encoding: chunked\r\n"), "400", "body", "InvalidRequest"),
        (get("Content-Length: 5\r\n") + "hello", "400", "body", "InvalidRequest"),
        (get("Connection: upgrade\r\nUpgrade: h2c\r\n"), "400", "body", "InvalidRequest"),
        (head(&world, &absolute, &token, close), "403", "proxied", "AccessDenied"),
        (get(close).replacen("GET", "POST", 1), "405", "method", "MethodNotAllowed"),
        (get(close).replacen("GET", "DELETE", 1), "405", "method", "MethodNotAllowed"),
        (too_long, "431", "token_too_large", "InvalidRequest"),
    ];
    for (request, status, reason, code) in rows {
        let before = world.agent.refusals(reason).await.unwrap();
        let text = exchange(&world, request.as_bytes()).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{reason}: {text:?}");
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(body.is_empty() == code.is_empty() && body.contains(code), "{reason}: {body:?}");
        // The agent counts a broken connection when it is done with it, after the client is.
        within(LIMIT, async { while world.agent.refusals(reason).await.unwrap() == before {} }).await;
        assert_eq!(world.agent.refusals(reason).await.unwrap(), before + 1, "{reason}");
    }
    assert_eq!(world.exchanges(), 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let world = World::start().await;
    let token = world.token(&pod("app-0"));
    let get = |path| head(&world, path, &token, "");
    let last = head(&world, "/v1/credentials/none", &token, "Connection: close\r\n");
    let text = exchange(&world, (get("/v1/credentials") + &get("/nowhere") + &get("/v1/credentials") + &last).as_bytes()).await;
    let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "404", "200", "403"]);
    assert_eq!(world.exchanges(), 1);
}

#[tokio::test]
async fn a_head_that_is_not_complete_in_ten_seconds_is_cut_off() {
    let world = World::start().await;
    let mut stream = TcpStream::connect(world.agent.address()).await.unwrap();
    let begun = Clock::System.now().mono;
    stream.write_all(b"GET /v1/credentials HTTP/1.1\r\nHost: ").await.unwrap();
    let mut answer = Vec::new();
    within(LIMIT, stream.read_to_end(&mut answer)).await.unwrap();
    let took = Clock::System.now().mono - begun;
    assert!(answer.is_empty() && (9..13).contains(&took.as_secs()), "{took:?}");
    assert_eq!(world.agent.refusals("head_timeout").await.unwrap(), 1);
}
