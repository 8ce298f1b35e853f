//! Whatever comes from another agent: a frame that is read is the one that is written back; of the state it tells, each part is
//! taken or refused, and nothing is ever served of it that has ended, or that lives longer than AWS lets anything live.
//!
//! The first byte says what the rest is: `F` a frame; `E`, `L`, `K`, `B`, `P` or `D` what an agent tells of an entry, of its loads
//! under way, of its keys, its budget, its pods' addresses or their departures; the same in lower case, changes of what a good agent
//! tells, three bytes each (place, place, byte).

#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;
use std::time::Duration;

use credlet::base::parcel::Parcel;
use credlet::broker::{Ask, Broker};
use credlet::domain::identity::RawToken;
use credlet::domain::mint::Failure;
use credlet::limits::upstream::{self, UpstreamBudget};
use credlet::node::handover::wire::{Frame, MAX_DESCRIPTORS, MAX_FRAME, PREFIX};
use credlet::observe::Context;
use credlet_fuzz::mint::{Aws, broker};
use credlet_fuzz::{GOOD, run};
use libfuzzer_sys::fuzz_target;

const HOUR: Duration = Duration::from_secs(3600);
/// What is served has more life than this, and less than that (12 hours and what clocks differ by).
const LEAST: Duration = Duration::from_secs(60);
const MOST: Duration = Duration::from_secs(12 * 3600 + 300);

/// What a good agent tells, by the letter of its kind.
static TOLD: LazyLock<[(u8, Vec<u8>); 6]> = LazyLock::new(|| {
    run(async |context| {
        let (serving, loading) = (broker(&context, Aws::Issues), broker(&context, Aws::Hangs));
        let entry =
            ask(&serving, &context).await.map(|_| serving.cache.export().next()).expect("a good token").expect("an entry");
        assert!(ask(&loading, &context).await.is_none(), "nothing has landed");
        let (keys, budget) = (serving.verifier.export(), budget(&context).export());
        let (pins, departures) = (serving.binding.export(), serving.pods.export());
        let flying = loading.cache.in_flight();
        let parcels = [(b'e', entry), (b'l', flying), (b'k', keys), (b'b', budget), (b'p', pins), (b'd', departures)];
        parcels.map(|(kind, parcel)| (kind, parcel.into_bytes().to_vec()))
    })
});

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    if *kind == b'F' {
        return frame(rest);
    }
    let told = TOLD.iter().find(|(letter, _)| letter == kind).map(|(_, told)| changed(told, rest));
    let good = TOLD.iter().any(|(_, bytes)| told.as_ref() == Some(bytes));
    let taken = state(kind.to_ascii_lowercase(), told.unwrap_or_else(|| rest.to_vec()));
    assert!(!good || taken, "what a good agent tells is refused");
});

fn changed(told: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut told = told.to_vec();
    for change in changes.chunks_exact(3) {
        let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % told.len();
        told[place] = change[2];
    }
    told
}

fn frame(bytes: &[u8]) {
    let Ok(frame) = Frame::decode(bytes) else { return };
    assert!(bytes.len() <= MAX_FRAME && usize::from(frame.descriptors) <= MAX_DESCRIPTORS);
    let again = frame.encode().expect("what was read can be written");
    let (prefix, rest) = again.split_first_chunk::<PREFIX>().expect("a length");
    assert!(Frame::length(*prefix) == Ok(rest.len()) && rest.len() <= bytes.len());
    assert_eq!(Frame::decode(rest).as_ref(), Ok(&frame));
}

/// Whether it is taken. What is served after that, at once and for a day, may be served.
fn state(kind: u8, told: Vec<u8>) -> bool {
    let parcel = Parcel::from_bytes(told.into());
    run(async |context| {
        let broker = broker(&context, Aws::Refuses(Failure::Throttled { retry_after: Some(HOUR) }));
        let (taken, expectation) = match kind {
            b'e' => (broker.cache.import(&parcel).is_ok(), None),
            b'l' => broker.cache.expect(&parcel).map_or((false, None), |expectation| (true, Some(expectation))),
            b'k' => (broker.verifier.import(&parcel).is_ok(), None),
            b'b' => (budget(&context).import(&parcel).is_ok(), None),
            b'p' => (broker.binding.import(&parcel).is_ok(), None),
            b'd' => (broker.pods.import(&parcel).is_ok(), None),
            _ => return false,
        };
        for pause in [Duration::ZERO, HOUR, 23 * HOUR] {
            tokio::time::sleep(pause).await;
            if let Some(life) = ask(&broker, &context).await {
                assert!(life > LEAST && life <= MOST, "{life:?}");
            }
        }
        assert!(broker.cache.status().len() <= 2, "more than was told of and asked for");
        assert!(broker.cache.export().all(|parcel| broker.cache.import(&parcel).is_ok()), "it can't tell what it was told");
        drop(expectation);
        taken
    })
}

/// The life of what the good token's pod gets, if it gets any.
async fn ask(broker: &Broker, context: &Context) -> Option<Duration> {
    let at = context.clock.now();
    let ask = Ask { token: RawToken::new(GOOD.as_bytes()), target: None, source: IpAddr::V4(Ipv4Addr::LOCALHOST), at };
    let served = tokio::time::timeout(Duration::from_secs(1), broker.credentials(ask)).await.expect("an answer in time").ok()?;
    Some(context.clock.now().until(served.expires_at))
}

fn budget(context: &Context) -> UpstreamBudget {
    UpstreamBudget::new(upstream::Config { per_second: 5.0 }, context.clone())
}
