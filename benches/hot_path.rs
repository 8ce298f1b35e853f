//! What a request costs without sockets: the proof of its token alone, and the whole of it over a connection in memory, beside
//! hyper that answers with the same bytes.

#[path = "fixture/agent.rs"]
mod agent;
#[path = "fixture/constant.rs"]
mod constant;
#[path = "fixture/parts.rs"]
mod parts;
#[path = "fixture/pods.rs"]
mod pods;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::ensure;
use credlet::base::clock::Clock;
use credlet::domain::identity::RawToken;
use credlet::observe::Context;
use credlet::sim::keys::Algorithm;
use criterion::{Criterion, Throughput};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;

use crate::pods::Pods;

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Tokens that take turns where none may be remembered.
const STRANGERS: usize = 64;

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    verify(&mut criterion, &runtime)?;
    request(&mut criterion, &runtime)?;
    criterion.final_summary();
    Ok(())
}

/// The proof of a token: remembered, and not. A memo for one token forgets each before it comes again.
fn verify(criterion: &mut Criterion, runtime: &Runtime) -> anyhow::Result<()> {
    let mut group = criterion.benchmark_group("verify");
    let context = Context::new(Clock::System);
    for (name, algorithm, memo, tokens) in [
        ("remembered", Algorithm::Rs256, STRANGERS, STRANGERS),
        ("RS256", Algorithm::Rs256, 1, STRANGERS),
        ("ES256", Algorithm::Es256, 1, STRANGERS),
    ] {
        let pods = Pods::new(tokens, algorithm)?;
        let verifier = parts::verifier(&pods.key_set(), memo, &context)?;
        let prove = async |token: &String| verifier.verify(RawToken::new(token.as_bytes()), SOURCE, Clock::System.now()).await;
        for token in &pods.tokens {
            ensure!(runtime.block_on(prove(token)).is_ok(), "a good token is refused");
        }
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let mut tokens = pods.tokens.iter().cycle();
                runtime.block_on(async {
                    let begun = Clock::System.now().mono;
                    for _ in 0..times {
                        let _ = black_box(prove(tokens.next().unwrap_or(&String::new())).await);
                    }
                    Clock::System.now().mono - begun
                })
            });
        });
    }
    group.finish();
    Ok(())
}

/// A served hit over a connection in memory.
fn request(criterion: &mut Criterion, runtime: &Runtime) -> anyhow::Result<()> {
    let mut group = criterion.benchmark_group("request in memory");
    group.throughput(Throughput::Elements(1));
    let pods = Pods::new(1, Algorithm::Rs256)?;
    let request = agent::request(&pods.tokens.concat(), "");
    let context = Context::new(Clock::System);

    let document = parts::credential(Clock::System.now())?.document();
    let (client, server) = tokio::io::duplex(64 * 1024);
    runtime.spawn(constant::serve(server, document));
    let mut client = runtime.block_on(Client::new(client, &request))?;
    group.bench_function("hyper, constant answer", |bencher| {
        bencher.iter_custom(|times| runtime.block_on(client.exchange(&request, times)));
    });

    let (client_end, server) = tokio::io::duplex(64 * 1024);
    let broker = agent::broker(&pods.key_set(), &context)?;
    runtime.spawn(agent::front(&context)?.serve_connection(broker, server, SOURCE));
    client = runtime.block_on(Client::new(client_end, &request))?;
    group.bench_function("credlet, hit", |bencher| {
        bencher.iter_custom(|times| runtime.block_on(client.exchange(&request, times)));
    });
    group.finish();
    Ok(())
}

/// A client that knows how long each answer is.
struct Client {
    io: DuplexStream,
    answer: Vec<u8>,
}

impl Client {
    async fn new(mut io: DuplexStream, request: &[u8]) -> anyhow::Result<Self> {
        io.write_all(request).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            ensure!(io.read_buf(&mut answer).await? > 0, "the connection was closed");
        }
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        Ok(Self { io, answer })
    }

    async fn exchange(&mut self, request: &[u8], times: u64) -> Duration {
        let begun = Clock::System.now().mono;
        for _ in 0..times {
            let sent = self.io.write_all(request).await;
            let received = self.io.read_exact(&mut self.answer).await;
            debug_assert!(sent.is_ok() && received.is_ok(), "the connection was closed");
        }
        Clock::System.now().mono - begun
    }
}
