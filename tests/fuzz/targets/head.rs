//! Whatever comes over a connection, in whatever pieces: each answer is one of the closed set and whole, and nobody gets
//! credentials who did not present a good token for each of them.
//!
//! The first byte is the size of the pieces, in steps of 16 bytes; 0: all at once. `@TOKEN@` stands for the good token.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use credlet::front::{Config, Front};
use credlet::node::inheritance::Inheritance;
use credlet::node::source::Mode;
use credlet::observe::Context;
use credlet_fuzz::mint::{Aws, broker};
use credlet_fuzz::{GOOD, run};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TOKEN: &str = "@TOKEN@";
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A connection that rests is let go after so long.
const LONGEST: Duration = Duration::from_secs(120);

fuzz_target!(|input: &[u8]| {
    let Some((pieces, bytes)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    let tokens = text.matches(TOKEN).count();
    // What is not text goes as it is: no token can be put into it.
    let bytes = if tokens == 0 { bytes.to_vec() } else { text.replace(TOKEN, &GOOD).into_bytes() };
    let said = run(async |context| converse(&context, &bytes, usize::from(*pieces) * 16).await);
    let answers = Answer::all(&said);
    answers.iter().for_each(Answer::is_sound);
    let count = |wanted: fn(&Answer<'_>) -> bool| answers.iter().filter(|answer| wanted(answer)).count();
    assert!(count(|answer| answer.status == 200) <= tokens, "{}", String::from_utf8_lossy(&said));
    assert!(count(|answer| answer.leaves_out) <= text.matches("HEAD").count(), "{}", String::from_utf8_lossy(&said));
});

/// All that the agent says to a client that sends `bytes`, closes its side and listens to the end.
async fn converse(context: &Context, bytes: &[u8], piece: usize) -> Vec<u8> {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (mut listen, mut say) = tokio::io::split(client);
    let begun = context.clock.now().mono;
    let speak = async {
        for piece in bytes.chunks(if piece == 0 { usize::MAX } else { piece }) {
            // An agent that has refused does not listen any more.
            if say.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = say.shutdown().await;
    };
    let mut said = Vec::new();
    let (.., heard) =
        tokio::join!(front(context).serve_connection(broker(context, Aws::Issues), server, LOCALHOST), speak, async {
            listen.read_to_end(&mut said).await
        });
    heard.expect("a connection in memory");
    assert!(context.clock.now().mono - begun < LONGEST, "the connection is held open");
    said
}

fn front(context: &Context) -> Front {
    let config = Config {
        hosts: vec![LOCALHOST],
        port: 0,
        only_local: false,
        source_check: Mode::Off,
        max_connections: 1,
        max_connections_per_source: 1,
    };
    Front::bind(config, &Inheritance::default(), context.clone()).expect("a free port of loopback")
}

/// One answer of a connection.
struct Answer<'a> {
    status: u16,
    head: &'a str,
    body: &'a [u8],
    /// Whether it tells the length of a body and has none, as the answer to HEAD does (RFC 9110 §9.3.2).
    leaves_out: bool,
}

impl<'a> Answer<'a> {
    /// The answers that `said` consists of, to the last byte.
    fn all(mut said: &'a [u8]) -> Vec<Self> {
        let mut answers = Vec::new();
        while !said.is_empty() {
            let (answer, rest) = Self::first(said);
            answers.push(answer);
            said = rest;
        }
        answers
    }

    fn first(said: &'a [u8]) -> (Self, &'a [u8]) {
        let end = said.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        let (head, rest) = said.split_at(end);
        let head = std::str::from_utf8(head).expect("a head is text");
        assert!(head.starts_with("HTTP/1.1 ") || head.starts_with("HTTP/1.0 "), "{head}");
        let status = head[9..12].parse().expect("a status");
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length = length.map_or(0, |length| length.parse().expect("a length"));
        let leaves_out = length > 0 && !rest.starts_with(b"{");
        let (body, rest) = rest.split_at_checked(if leaves_out { 0 } else { length }).expect("a whole body");
        (Self { status, head, body, leaves_out }, rest)
    }

    fn is_sound(&self) {
        let Self { status, head, body, leaves_out } = self;
        match (status, body.is_empty()) {
            (200, false) => assert!(body.starts_with(br#"{"AccessKeyId":"#)),
            (400 | 401 | 403 | 404 | 405 | 431 | 503, false) => is_refusal(body),
            (400 | 403 | 404 | 405 | 431, true) if *leaves_out => (),
            // What hyper itself says of what is no HTTP.
            (400 | 431, true) => (),
            _ => panic!("{head}"),
        }
        assert_eq!(*status == 503, head.contains("retry-after: "), "{head}");
        assert!(body.is_empty() || head.contains("content-type: application/json\r\n"), "{head}");
    }
}

fn is_refusal(body: &[u8]) {
    let document: Value = serde_json::from_slice(body).expect("a refusal is JSON");
    assert!(document["code"].is_string() && document["code"] == document["Code"], "{document}");
    let message = document["message"].as_str().expect("a refusal has a message");
    assert!(!message.is_empty() && !message.contains('\n') && document["Message"] == message, "{document}");
}
