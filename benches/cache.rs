//! A hit in the cache, by the number of entries, with two threads that ask at once.

#[path = "fixture/parts.rs"]
mod parts;
#[path = "fixture/pods.rs"]
mod pods;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use credlet::base::clock::Clock;
use credlet::cache::Cache;
use credlet::domain::identity::RawToken;
use credlet::domain::policy::{Claimant, Grant, Policy};
use credlet::observe::Context;
use credlet::sim::keys::Algorithm;
use credlet::token::Caller;
use criterion::{BenchmarkId, Criterion};
use tokio::runtime::Runtime;

use crate::pods::Pods;

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const THREADS: u64 = 2;

/// A cache in which every caller has an entry.
struct Filled {
    cache: Cache,
    callers: Vec<Arc<Caller>>,
    grant: Grant,
}

impl Filled {
    async fn new(entries: usize) -> anyhow::Result<Self> {
        let pods = Pods::new(entries, Algorithm::Es256)?;
        let context = Context::new(Clock::System);
        let verifier = parts::verifier(&pods.key_set(), 1, &context)?;
        let cache = parts::cache(entries, &context);
        let mut filled = Self { cache, callers: Vec::new(), grant: granted()? };
        for token in &pods.tokens {
            let caller = verifier.verify(RawToken::new(token.as_bytes()), SOURCE, Clock::System.now()).await;
            let caller = caller.map_err(|refusal| anyhow!("{refusal:?}"))?;
            filled.cache.credential(&caller, &filled.grant, Clock::System.now()).await?;
            filled.callers.push(caller);
        }
        Ok(filled)
    }

    /// Asks for one caller after the other, and returns how long that took.
    async fn ask(&self, times: u64) -> Duration {
        let asked = Clock::System.now();
        let mut callers = self.callers.iter().cycle();
        for _ in 0..times {
            let caller = callers.next().map(|caller| self.cache.credential(caller, &self.grant, asked));
            if let Some(found) = caller {
                let _ = std::hint::black_box(found.await);
            }
        }
        Clock::System.now().mono - asked.mono
    }

    /// The time of one of `times` hits, which the threads share.
    fn ask_on_threads(&self, runtime: &Runtime, times: u64) -> Duration {
        std::thread::scope(|scope| {
            let ask = || runtime.handle().block_on(self.ask(times.div_ceil(THREADS)));
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).max().unwrap_or_default()
        })
    }
}

fn granted() -> anyhow::Result<Grant> {
    let audience = credlet::domain::policy::POD_IDENTITY_AUDIENCE.into();
    let (policy, who) = (Policy::without_rules(Some("demo".into())), Claimant::hypothetical("default", "s"));
    let granted = policy.case(&who).grant(&audience, None, None);
    granted.map_err(|refusal| anyhow!("{refusal:?}"))
}

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut group = criterion.benchmark_group("cache hit, 2 threads");
    // Filling takes long; `cargo test --benches` only shows that it works.
    let scale = if std::env::args().any(|argument| argument == "--bench") { 1 } else { 100 };
    for entries in [2_000, 20_000].map(|entries| entries / scale) {
        let filled = runtime.block_on(Filled::new(entries))?;
        group.bench_function(BenchmarkId::from_parameter(entries), |bencher| {
            bencher.iter_custom(|times| filled.ask_on_threads(&runtime, times));
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
