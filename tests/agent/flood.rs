//! Many requests over few connections, pipelined, and many connections that never come to a request.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use procfs::process::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::http::connect_from;
use crate::world::{World, within};

/// Sends all `tokens` to `address` on one connection from `source`, and returns the status of each answer.
pub(crate) async fn flood(source: Ipv4Addr, address: SocketAddr, tokens: impl ExactSizeIterator<Item = String>) -> Vec<u16> {
    let (mut reader, mut writer) = connect_from(source, address).await.unwrap().into_split();
    let count = tokens.len();
    let requests = (1..).zip(tokens).map(|(number, token)| {
        let connection = if number == count { "close" } else { "keep-alive" };
        let head = format!("GET /v1/credentials HTTP/1.1\r\nHost: {address}\r\nConnection: {connection}\r\n");
        format!("{head}Authorization: {token}\r\n\r\n").into_bytes()
    });
    let mut answers = Vec::new();
    let send = async {
        for request in requests {
            writer.write_all(&request).await.unwrap();
        }
    };
    let exchange = async { tokio::join!(send, reader.read_to_end(&mut answers)).1 };
    within(Duration::from_secs(120), exchange).await.unwrap();
    statuses(&String::from_utf8(answers).unwrap())
}

fn statuses(answers: &str) -> Vec<u16> {
    answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect()
}

/// The memory that the chart allows an agent (`resources.limits` in daemonset/chart/values.yaml), in KiB.
const CHART_LIMIT: u64 = 256 * 1024;
/// As many connections as an agent takes, from as few addresses as it takes them from: the first of a net of 127/8 and how many
/// there are, and the connections of each.
const SOURCES: [(Ipv4Addr, u8, usize); 2] = [(Ipv4Addr::new(127, 0, 1, 1), 7, 256), (Ipv4Addr::new(127, 0, 2, 1), 128, 2)];

/// The source of each.
fn connections() -> impl Iterator<Item = Ipv4Addr> {
    let sources = SOURCES.iter().flat_map(|(first, count, each)| {
        let [.., net, host] = first.octets();
        (host..host + count).flat_map(move |host| std::iter::repeat_n(Ipv4Addr::new(127, 0, net, host), *each))
    });
    assert_eq!(sources.clone().count(), 2_048);
    sources
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_never_end_do_not_use_up_the_memory() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let world = World::start().await;
    let address = world.agent.address();
    let half = format!("GET /v1/credentials HTTP/1.1\r\nHost: {address}\r\nx: {}", "y".repeat(31_000));
    let mut held = Vec::new();
    for source in connections() {
        let mut connection = connect_from(source, address).await.unwrap();
        connection.write_all(half.as_bytes()).await.unwrap();
        held.push(connection);
    }
    let every = u64::try_from(held.len()).unwrap();
    let ended = async {
        while world.agent.refusals("head_timeout").await.unwrap() < every {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(Duration::from_secs(60), ended).await;
    let process = Process::new(world.agent.pid().unwrap().as_raw()).unwrap();
    let most = process.status().unwrap().vmhwm.unwrap();
    assert!(most < CHART_LIMIT * 9 / 10, "{most} KiB");
}
