//! Agents that follow each other, and what becomes of their requests, calls and states when one dies, hangs or is told to end.

use std::net::Ipv4Addr;
use std::time::Duration;

use credlet::node::handover::machine::{SEARCH, SILENCE};
use credlet::sim::script::{Behaviour, Operation};
use nix::sys::signal::Signal;

use crate::handover::{Node, RESUMED, SECOND, becomes, handover, in_order, knows, names, results, signal};
use crate::harness::agent::Agent;
use crate::harness::http;
use crate::world::within;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_knows_where_each_pod_is() {
    let mut node = Node::new().await;
    node.setup = node.setup.flag("source-binding", "enforce");
    let _first = node.start("first").await;
    let (token, address) = (node.token("app"), node.setup.addresses().credentials);
    let ask = async |number| {
        let headers = [("authorization", token.as_str())];
        http::get_from(Ipv4Addr::new(127, 0, 0, number), address, "/v1/credentials", &headers).await.unwrap().status
    };
    for number in 1..=4 {
        assert_eq!(ask(number).await, 200);
    }
    let second = node.start("second").await;
    assert_eq!((ask(5).await, ask(4).await), (403, 200), "a fifth address, by what its predecessor saw: {}", second.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_over_and_nobody_notices() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let askers = node.ask(&["app-0", "app-1", "app-2"]).begun().await;
    let (probes, files) = (node.probe(), node.watch_files());
    let calls = node.exchanges();
    let mut new = node.start("new").await;
    becomes(&mut old, "standby").await;
    let standing = handover(&new).await;
    assert_eq!((&standing["role"], &standing["standing_by"][0]["pid"]), (&"serving".into(), &old.pid().unwrap().as_raw().into()));
    assert_eq!(handover(&old).await["serving"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(new.sample("credlet_handovers_total{result=\"taken\"}").await.unwrap(), 1, "its own metrics port");
    assert_eq!(results(&old, "given"), 1);
    let log = old.log();
    let stands_by: Vec<_> = log.lines().filter(|line| line.contains("stands by for the agent that serves")).collect();
    assert!(matches!(stands_by[..], [line] if line.contains(&format!("\"pid\":{}", new.pid().unwrap()))), "{log}");
    let listener = old.status().await.unwrap()["listeners"][0].clone();
    assert!(listener["bound"] == true && listener["listening"] == false, "{listener}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(handover(&old).await["role"], "standby", "until it is told to end");
    let before = new.all_requests().await.unwrap();
    assert_eq!(old.stop().await.unwrap().code(), Some(0));
    assert!(!old.log().contains("work in flight"), "what waits for later is none: {}", old.log());
    new.wait_for(async |new: &mut Agent| Ok(new.all_requests().await? > before + 100)).await.unwrap();
    assert!(!probes.is_finished(), "probes and metrics have answered all the time");
    assert!(!files.is_finished(), "nothing but logs has been written");
    assert_eq!(names(&node.shared()), ["handover.sock", "seat"]);
    assert!(new.log().contains("another agent has closed its connection"), "{}", new.log());
    assert!(!new.log().contains("\"error\""), "a normal end is none: {}", new.log());
    askers.lost_nothing();
    assert_eq!(node.exchanges(), calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_and_what_is_new_costs_one_call_each() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let gate = std::sync::Arc::default();
    node.cloud.script().next(Operation::EksAuth, [Behaviour::held(&gate)]);
    let (address, slow) = (old.address(), node.token("slow"));
    let asking = move |token: String| {
        tokio::spawn(async move { http::get(address, "/v1/credentials", &[("authorization", &token)]).await.unwrap() })
    };
    let first = asking(slow.clone());
    within(5 * SECOND, node.cloud.reached(Operation::EksAuth, 1)).await;
    let pods: Vec<String> = (0..200).map(|number| format!("new-{number}")).collect();
    let coming: Vec<_> = pods.iter().map(|name| node.token(name)).collect();
    let comers = tokio::spawn(async move {
        for token in coming {
            assert_eq!(asking(token).await.unwrap().status, 200);
        }
    });
    let _new = node.start("new").await;
    becomes(&mut old, "standby").await;
    let second = asking(slow.clone());
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.notify_one();
    let second = second.await.unwrap();
    assert_eq!(second.status, 200, "what the old one fetched is served by the new one: {}", second.body);
    // A client is told to come again when AWS takes longer than it may.
    assert!([200, 503].contains(&first.await.unwrap().status));
    within(30 * SECOND, comers).await.unwrap();
    assert_eq!(node.exchanges(), 1 + pods.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_successors_at_once_follow_each_other() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let askers = node.ask(&["app-0", "app-1"]).begun().await;
    let mut others = [node.spawn("first"), node.spawn("second")];
    // Whoever comes second takes over from the first, and both others find the one who serves.
    let mut roles = Vec::new();
    old.wait_for(async |old: &mut Agent| {
        let [a, b] = &others;
        roles = Vec::new();
        for agent in [&*old, a, b] {
            roles.push(handover(agent).await);
        }
        let of = |role: &str| roles.iter().filter(|handover| handover["role"] == role).count();
        let attached = roles.iter().filter_map(|handover| handover["standing_by"].as_array()).map(Vec::len).max();
        Ok(of("serving") == 1 && of("standby") == 2 && attached == Some(2))
    })
    .await
    .unwrap();
    assert_eq!(roles[0]["role"], "standby", "{roles:?}");
    let given: usize = others.iter().map(|agent| results(agent, "given") + results(agent, "taken")).sum();
    assert!(given == 3 || given == 1, "{given}: twice, or once and the other came to the one that serves");
    askers.lost_nothing();
    assert_eq!(node.exchanges(), 2);
    for agent in &mut others {
        agent.stop().await.unwrap();
    }
    assert!(node.served_after("app-0").await < 2 * SECOND);
    assert_eq!((handover(&old).await["role"].as_str().unwrap(), node.exchanges()), ("serving", 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_dies_afterwards_is_followed_by_its_predecessor_at_once() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    assert!(node.served_after("before").await < SECOND);
    let mut pauses = Vec::new();
    for round in 0..5 {
        let new = node.start(&format!("new-{round}")).await;
        becomes(&mut old, "standby").await;
        assert!(node.served_after("after").await < SECOND);
        knows(&mut old, 2).await;
        signal(&new, Signal::SIGKILL);
        pauses.push(node.served_after("before").await);
        new.ended().await.unwrap();
        becomes(&mut old, "serving").await;
    }
    pauses.sort_unstable();
    println!("serves again after {pauses:?}");
    // Its very end takes a dead process longer where others want the cores too.
    assert!(pauses[2] < RESUMED && pauses[4] < SECOND, "{pauses:?}");
    assert!(node.served_after("after").await < SECOND);
    assert_eq!(node.exchanges(), 2, "what the dead one fetched has gone to the one that lives");
    assert_eq!(results(&old, "resumed"), 5);
}

/// The last one serves, both others stand by for it, and all know the credentials of `app-0`.
async fn three_in_a_row(node: &Node) -> [Agent; 3] {
    let [mut a, mut b, mut c] = [node.start("a").await, node.start("b").await, node.start("c").await];
    c.wait_for(async |c: &mut Agent| Ok(handover(c).await["standing_by"].as_array().map(Vec::len) == Some(2))).await.unwrap();
    assert!(node.served_after("app-0").await < SECOND);
    for agent in [&mut a, &mut b] {
        knows(agent, 1).await;
    }
    [a, b, c]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_in_a_row_and_the_last_one_dies() {
    let node = Node::new().await;
    let [a, b, c] = three_in_a_row(&node).await;
    signal(&c, Signal::SIGKILL);
    let resumed = node.served_after("app-0").await;
    assert!(resumed < SECOND, "{resumed:?}");
    let [_first, mut last] = in_order(a, b).await;
    becomes(&mut last, "standby").await;
    assert_eq!(node.exchanges(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_in_a_row_and_the_last_one_hangs() {
    let node = Node::new().await;
    let [a, b, mut c] = three_in_a_row(&node).await;
    // Both hear nothing from the same moment on.
    signal(&c, Signal::SIGSTOP);
    node.served_after("app-0").await;
    let [mut first, last] = in_order(a, b).await;
    signal(&c, Signal::SIGCONT);
    becomes(&mut c, "standby").await;
    assert!(node.served_after("app-0").await < SECOND);
    first.wait_for(async |first: &mut Agent| Ok(results(first, "resumed") == 1)).await.unwrap();
    assert_eq!((results(&last, "resumed"), results(&c, "resumed")), (0, 0), "{}\n{}", last.log(), c.log());
    assert_eq!(node.exchanges(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_predecessor_that_hangs_is_waited_for() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    assert!(node.served_after("app-0").await < SECOND);
    signal(&old, Signal::SIGSTOP);
    let mut new = node.spawn("new");
    new.wait_for(async |new: &mut Agent| Ok(handover(new).await["role"] == "greeting")).await.unwrap();
    let pending = new.status().await.unwrap()["pending"].clone();
    assert!(pending["duty"].is_string(), "{pending}");
    let waits = "waits for the agent that has the seat";
    new.wait_for(async |new: &mut Agent| Ok(new.log().contains(waits))).await.unwrap();
    let (waiting, pid) = (handover(&new).await, old.pid().unwrap().as_raw());
    assert!(waiting["for_seconds"].as_u64() >= Some(5) && waiting["serving"]["pid"] == pid, "{waiting}");
    let log = new.log();
    let line = log.lines().find(|line| line.contains(waits)).unwrap();
    assert!(line.contains("\"WARN\"") && line.contains(&format!("\"pid\":{pid}")), "{line}");
    signal(&old, Signal::SIGCONT);
    new.become_ready_itself().await.unwrap();
    becomes(&mut old, "standby").await;
    // And one that hangs while another one takes its seat because it has died in the middle.
    signal(&old, Signal::SIGSTOP);
    assert!(node.served_after("app-0").await < SECOND);
    signal(&new, Signal::SIGKILL);
    new.ended().await.unwrap();
    signal(&old, Signal::SIGCONT);
    assert!(node.served_after("app-0").await < SECOND);
    assert_eq!(node.exchanges(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_hangs_afterwards_is_replaced_by_its_predecessor_and_stands_by_when_it_goes_on() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    assert!(node.served_after("before").await < SECOND);
    let mut new = node.start("new").await;
    assert!(node.served_after("after").await < SECOND);
    knows(&mut old, 2).await;
    old.wait_for(async |old: &mut Agent| Ok(handover(old).await["for_seconds"].as_u64() > Some(SILENCE.as_secs())))
        .await
        .unwrap();
    assert_eq!((handover(&old).await["role"].as_str(), results(&old, "resumed")), (Some("standby"), 0), "all is quiet");
    signal(&new, Signal::SIGSTOP);
    let resumed = node.served_after("before").await;
    println!("serves again after {resumed:?}");
    assert!(resumed < SILENCE + SEARCH + 2 * SECOND, "{resumed:?}");
    old.wait_for(async |old: &mut Agent| Ok(old.log().contains("does not answer"))).await.unwrap();
    let log = old.log();
    let line = log.lines().find(|line| line.contains("does not answer")).unwrap();
    assert!(line.contains("\"WARN\"") && line.contains(&format!("\"pid\":{}", new.pid().unwrap())), "{line}");
    let askers = node.ask(&["before", "after"]).begun().await;
    signal(&new, Signal::SIGCONT);
    becomes(&mut new, "standby").await;
    let mut last = node.start("last").await;
    becomes(&mut last, "serving").await;
    becomes(&mut old, "standby").await;
    askers.lost_nothing();
    assert_eq!((results(&old, "resumed"), names(&node.shared())), (1, vec!["handover.sock".to_owned(), "seat".to_owned()]));
    assert_eq!(node.exchanges(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stands_by_or_joins_ends_when_it_is_told_to() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let new = node.start("new").await;
    becomes(&mut old, "standby").await;
    let askers = node.ask(&["app-0"]).begun().await;
    old.terminate().unwrap();
    assert_eq!(old.ended().await.unwrap().code(), Some(0));
    signal(&new, Signal::SIGSTOP);
    let mut third = node.spawn("third");
    becomes(&mut third, "greeting").await;
    third.terminate().unwrap();
    assert_eq!(third.ended().await.unwrap().code(), Some(0));
    signal(&new, Signal::SIGCONT);
    askers.lost_nothing();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_were_handed_over_verify_while_their_source_is_away() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    assert!(node.served_after("app-0").await < SECOND);
    node.cloud.script().always(Operation::Jwks, Behaviour::Reset);
    let _new = node.start("new").await;
    becomes(&mut old, "standby").await;
    old.terminate().unwrap();
    assert_eq!(old.ended().await.unwrap().code(), Some(0));
    for name in ["app-0", "app-1"] {
        assert!(node.served_after(name).await < SECOND, "{name}");
    }
}
