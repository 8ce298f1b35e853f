//! An agent and a peer that speaks the protocol from here, so that it can die, hang or talk nonsense at each step.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::Duration;

use credlet::base::clock::Clock;
use credlet::node::handover::directory::{Publication, Seat};
use credlet::node::handover::link::{Letter, Reader, Writer, halves};
use credlet::node::handover::machine::TAKING;
use credlet::node::handover::wire::{FORMAT, Greeting, Message, Part};
use tokio::net::UnixStream;

use crate::handover::{Node, SECOND, becomes, handover, results};
use crate::harness::agent::Agent;
use crate::harness::http;
use crate::world::within;

fn greeting(format: u16) -> Greeting {
    Greeting { format, version: "0.0.0".into() }
}

/// Another agent, played here.
struct Peer {
    reader: Reader,
    writer: Writer,
}

impl Peer {
    fn over(stream: UnixStream) -> Self {
        let (reader, writer) = halves(stream);
        Self { reader, writer }
    }

    fn say(&self, message: Message, descriptors: Vec<OwnedFd>) {
        self.writer.post(message, descriptors);
    }

    async fn hear(&mut self) -> Letter {
        within(5 * SECOND, self.reader.next()).await.unwrap()
    }

    /// The next letter but parts.
    async fn hear_word(&mut self) -> Letter {
        loop {
            let letter = self.hear().await;
            if letter.message.word().is_some() {
                return letter;
            }
        }
    }

    /// Goes on to where it has the seat, and the other one waits for it to serve.
    async fn take(&mut self) -> Seat {
        assert_eq!(self.hear_word().await.message, Message::End);
        self.say(Message::End, Vec::new());
        self.say(Message::Ready, Vec::new());
        let mut go = self.hear_word().await;
        assert!(matches!(go.message, Message::Go(_)), "{go:?}");
        Seat::inherited(go.descriptors.pop().unwrap())
    }

    /// Has told all, as the one who serves, and hears that the other one would serve.
    async fn meets_a_successor(&mut self) {
        self.say(Message::End, Vec::new());
        assert_eq!(self.hear_word().await.message, Message::End);
        assert_eq!(self.hear_word().await.message, Message::Ready);
    }

    async fn is_closed(&mut self) {
        let end = async { while self.reader.next().await.is_ok() {} };
        within(5 * SECOND, end).await;
    }
}

impl Node {
    /// A peer that connects as a successor does.
    async fn successor(&self) -> Peer {
        let mut peer = Peer::over(self.directory().connect().await.unwrap());
        peer.say(Message::Hello(greeting(FORMAT)), Vec::new());
        let welcome = peer.hear().await;
        assert!(matches!(&welcome.message, Message::Welcome(greeting) if greeting.format == FORMAT), "{welcome:?}");
        assert_eq!(welcome.descriptors.len(), 4, "credentials, probes of both families, metrics");
        peer
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_dies_at_any_step_leaves_the_predecessor_serving() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let askers = node.ask(&["app-0", "app-1"]).begun().await;
    let calls = node.exchanges();
    for step in 0..7 {
        let failed = old.sample("credlet_handovers_total{result=\"failed\"}").await.unwrap();
        let mut peer = match step {
            0 => Peer::over(node.directory().connect().await.unwrap()),
            _ => node.successor().await,
        };
        let mut seat = None;
        match step {
            0 | 1 => {}
            2 => assert!(matches!(peer.hear().await.message, Message::Part(_))),
            3 => assert_eq!(peer.hear_word().await.message, Message::End),
            4 => peer.say(Message::Ready, Vec::new()),
            _ => seat = Some(peer.take().await),
        }
        if step == 6 {
            peer.say(Message::Serving, Vec::new());
            assert_eq!(peer.hear_word().await.message, Message::Done);
        }
        drop((peer, seat));
        assert!(node.served_after("app-0").await < SECOND, "step {step}");
        old.wait_for(async |old: &mut Agent| {
            let standing = handover(old).await;
            Ok(standing["role"] == "serving" && standing["standing_by"] == serde_json::json!([]))
        })
        .await
        .unwrap();
        let failed = old.sample("credlet_handovers_total{result=\"failed\"}").await.unwrap() - failed;
        assert_eq!(failed, u64::from([4, 5].contains(&step)), "step {step}");
    }
    assert_eq!((results(&old, "given"), results(&old, "resumed")), (1, 1));
    askers.lost_nothing();
    assert_eq!(node.exchanges(), calls);
    let _new = node.start("new").await;
    becomes(&mut old, "standby").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_hangs_is_not_waited_for() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let askers = node.ask(&["app-0"]).begun().await;
    let mut peer = node.successor().await;
    let _seat = peer.take().await;
    let begun = Clock::System.now().mono;
    assert!(node.served_after("app-0").await < TAKING + SECOND);
    let waited = Clock::System.now().mono - begun;
    assert!(waited > TAKING / 2, "nobody accepted meanwhile: {waited:?}");
    peer.is_closed().await;
    becomes(&mut old, "serving").await;
    askers.lost_nothing();
    // What the hung one holds of the seat locks nobody out.
    let _new = node.start("new").await;
    becomes(&mut old, "standby").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_in_the_middle_finishes_the_handover_first() {
    let node = Node::new().await;
    let old = node.start("old").await;
    assert!(node.served_after("app-0").await < SECOND);
    let mut peer = node.successor().await;
    let seat = peer.take().await;
    old.terminate().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    peer.say(Message::Serving, Vec::new());
    assert_eq!(peer.hear_word().await.message, Message::Done);
    assert_eq!(old.ended().await.unwrap().code(), Some(0));
    drop(seat);

    // One that nobody has asked for hands over to who is there.
    let old = node.start("next").await;
    let mut peer = node.successor().await;
    assert_eq!(peer.hear_word().await.message, Message::End);
    old.terminate().unwrap();
    assert!(matches!(peer.hear_word().await.message, Message::Go(_)));
    // And if that dies, it ends all the same.
    drop(peer);
    assert_eq!(old.ended().await.unwrap().code(), Some(0));
    let _last = node.start("last").await;
}

/// Plays a predecessor that serves nothing: it has the seat, the socket and a listening socket of the credentials' address.
struct Predecessor {
    seat: Seat,
    publication: Publication,
    credentials: TcpListener,
}

impl Predecessor {
    fn of(node: &Node) -> Self {
        let directory = node.directory();
        let seat = directory.take_seat().unwrap().unwrap();
        let credentials = TcpListener::bind(node.setup.addresses().credentials).unwrap();
        Self { seat, publication: directory.publish().unwrap(), credentials }
    }

    /// Greets the next successor, in a format of its own, with its socket.
    async fn greets(&self, format: u16) -> Peer {
        let mut peer = Peer::over(within(10 * SECOND, self.publication.accept()).await.unwrap());
        let hello = peer.hear().await;
        assert!(matches!(hello.message, Message::Hello(_)), "{hello:?}");
        peer.say(Message::Welcome(greeting(format)), vec![self.credentials.try_clone().unwrap().into()]);
        peer
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_not_known_is_left_and_the_sockets_are_taken() {
    let node = Node::new().await;
    let old = Predecessor::of(&node);
    let mut new = node.spawn("new");
    let mut peer = old.greets(FORMAT + 1).await;
    peer.say(Message::Part(Part { kind: 3, body: vec![1, 2, 3].into() }), Vec::new());
    peer.meets_a_successor().await;
    let waiting = tokio::spawn(http::get(new.address(), "/healthz", &[]));
    peer.say(Message::Go(vec![9].into()), vec![old.seat.copy().unwrap()]);
    assert_eq!(peer.hear_word().await.message, Message::Serving);
    let Predecessor { seat, publication, credentials } = old;
    drop((seat, publication, credentials));
    peer.say(Message::Done, Vec::new());
    new.become_ready_itself().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().status, 404, "who waited in the old queue is answered");
    assert_eq!(new.sample("credlet_handovers_total{result=\"cold\"}").await.unwrap(), 1);
    assert!(new.log().contains("of a format that this version does not know"), "{}", new.log());
    assert!(node.served_after("app-0").await < SECOND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_predecessor_that_dies_in_the_middle_is_followed_at_once() {
    for step in 0..4 {
        let node = Node::new().await;
        let old = Predecessor::of(&node);
        let mut new = node.spawn("new");
        let mut peer = old.greets(FORMAT).await;
        if step > 0 {
            let damaged = Part { kind: 3, body: vec![1, 255, 255].into() };
            peer.say(Message::Part(damaged), Vec::new());
        }
        if step > 1 {
            peer.meets_a_successor().await;
        }
        if step > 2 {
            peer.say(Message::Go(Vec::new().into()), vec![old.seat.copy().unwrap()]);
            assert_eq!(peer.hear_word().await.message, Message::Serving);
        }
        drop((peer, old));
        new.become_ready_itself().await.unwrap();
        assert!(node.served_after("app-0").await < SECOND, "step {step}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_predecessor_that_hangs_in_the_middle_is_replaced() {
    let node = Node::new().await;
    let old = Predecessor::of(&node);
    let mut new = node.spawn("new");
    let mut peer = old.greets(FORMAT).await;
    peer.meets_a_successor().await;
    new.become_ready_itself().await.unwrap();
    assert!(node.served_after("app-0").await < SECOND, "from the socket that it was given");
    assert!(!node.directory().has(&old.seat) && !node.directory().shows(&old.publication));
    assert!(new.log().contains("serves in its place") && results(&new, "taken") == 1, "{}", new.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_predecessor_that_hangs_before_it_lets_go_is_replaced_and_nobody_notices() {
    let node = Node::new().await;
    let old = Predecessor::of(&node);
    let mut new = node.spawn("new");
    let mut peer = old.greets(FORMAT).await;
    peer.meets_a_successor().await;
    peer.say(Message::Go(Vec::new().into()), vec![old.seat.copy().unwrap()]);
    assert_eq!(peer.hear_word().await.message, Message::Serving);
    let askers = node.ask(&["app-0"]).begun().await;
    becomes(&mut new, "serving").await;
    peer.is_closed().await;
    assert!(!node.directory().has(&old.seat) && results(&new, "taken") == 1, "{}", new.log());
    askers.lost_nothing();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_that_fail_come_ever_more_seldom_and_the_seat_is_tried_all_the_while() {
    let node = Node::new().await;
    let (old, begun) = (Predecessor::of(&node), Clock::System.now().mono);
    let new = node.spawn("new");
    for _ in 0..8 {
        let mut peer = old.greets(FORMAT).await;
        peer.say(Message::Done, Vec::new());
        peer.is_closed().await;
    }
    let taken = Clock::System.now().mono - begun;
    assert!(taken > 2 * SECOND, "20 ms, and each time twice as long: {taken:?}");
    drop(old);
    assert!(node.served_after("app-0").await < SECOND, "before the next join, which is 2.5 s away");
    for line in ["another agent of this node", "could not be joined"] {
        assert_eq!(new.log().matches(line).count(), 1, "{line}: {}", new.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_agent_says_ends_the_connection_and_nothing_else() {
    let node = Node::new().await;
    let old = node.start("old").await;
    for message in [Message::Ready, Message::Serving, Message::Done, Message::Go(Vec::new().into())] {
        let mut early = Peer::over(node.directory().connect().await.unwrap());
        early.say(message.clone(), Vec::new());
        early.is_closed().await;
        if message != Message::Ready {
            let mut late = node.successor().await;
            late.say(message, Vec::new());
            late.is_closed().await;
        }
    }
    let mut silent = Peer::over(node.directory().connect().await.unwrap());
    silent.is_closed().await;
    assert!(node.served_after("app-0").await < SECOND);
    assert_eq!(handover(&old).await["role"], "serving");
}
