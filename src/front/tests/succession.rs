//! Two agents on the same sockets: whoever connects is answered by the one on duty, and nobody notices the change.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinSet;

use super::*;
use crate::base::duty::Duty;
use crate::front::accept::LINGER;

/// A client that keeps its connection for as long as it may.
struct Keeping {
    stream: TcpStream,
    kept: bool,
}

impl Keeping {
    async fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { stream: TcpStream::connect(address).await?, kept: true })
    }

    /// Whether another request may follow.
    fn is_kept(&self) -> bool {
        self.kept
    }

    /// One answer, whose body is `{}`.
    async fn ask(&mut self) -> io::Result<String> {
        let (address, token) = (self.stream.peer_addr()?, "a".repeat(40));
        let head = format!("GET /v1/credentials HTTP/1.1\r\nHost: {address}\r\nAuthorization: {token}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n{}") {
            answer.push(self.stream.read_u8().await?);
        }
        let answer = String::from_utf8(answer).unwrap();
        self.kept = !answer.contains("connection: close");
        Ok(answer)
    }

    /// Whether the server ends the connection.
    async fn is_ended(&mut self) -> bool {
        self.stream.read(&mut [0]).await.is_ok_and(|read| read == 0)
    }
}

/// One agent's front.
struct Agent {
    context: Context,
    inheritance: Inheritance,
    listeners: Listeners,
}

/// An agent on `port`, which serves or stands by.
fn agent(port: u16, duty: Duty) -> Agent {
    let (context, inheritance) = (Context { duty, ..context() }, Inheritance::default());
    let config = Config { max_connections: 1000, max_connections_per_source: 1000, ..config(&["127.0.0.1"], port) };
    let front = Front::bind(config, &inheritance, context.clone()).unwrap();
    let listeners = front.listeners();
    front.serve_from(SCRIPTED);
    Agent { context, inheritance, listeners }
}

impl Agent {
    fn answers(&self) -> u64 {
        let text = self.context.metrics.encode().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("credlet_requests_total{outcome=\"hit\"} "));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

/// An agent that serves, one that stands by with its sockets, and where both are.
async fn pair() -> (Agent, Agent, SocketAddr) {
    let old = agent(0, Duty::serving());
    let address = old.listeners.addresses()[0];
    let new = agent(address.port(), Duty::standby());
    let is_bound = || new.listeners.statuses()[0].bound;
    assert!(!is_bound(), "what another one holds is not bound");
    new.inheritance.receive(old.inheritance.duplicates().unwrap());
    while !is_bound() {
        tokio::task::yield_now().await;
    }
    assert!(new.listeners.addresses().is_empty(), "nor listened on while it stands by");
    assert!(new.context.readiness.pending().is_empty());
    (old, new, address)
}

#[tokio::test]
async fn the_queue_goes_to_the_one_on_duty_and_open_connections_end_with_an_answer() {
    let (old, new, address) = pair().await;
    let mut open = Keeping::connect(address).await.unwrap();
    assert!(open.ask().await.unwrap().contains("200 OK") && open.is_kept());
    old.context.duty.set(false);
    let queued = tokio::spawn(fetch(address));
    assert!(open.ask().await.unwrap().contains("connection: close"));
    assert_eq!((old.answers(), new.answers(), queued.is_finished()), (2, 0, false));
    new.context.duty.set(true);
    assert!(queued.await.unwrap().unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!((old.answers(), new.answers()), (2, 1));

    new.context.duty.set(false);
    old.context.duty.set(true);
    assert!(fetch(address).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!((old.answers(), new.answers()), (3, 1), "the one that stood by serves again");
}

#[tokio::test]
async fn who_stands_by_ends_after_a_last_answer_to_those_who_ask() {
    let (old, new, address) = pair().await;
    let [mut asks, mut rests] = [Keeping::connect(address).await.unwrap(), Keeping::connect(address).await.unwrap()];
    assert!(asks.ask().await.is_ok() && rests.ask().await.is_ok());
    old.context.duty.set(false);
    let queued = tokio::spawn(fetch(address));
    tokio::task::yield_now().await;
    let begun = Clock::System.now().mono;
    old.context.tasks.shutdown();
    assert!(asks.ask().await.unwrap().contains("connection: close"));
    tokio::time::pause();
    assert!(rests.is_ended().await);
    assert!(Clock::System.now().mono - begun >= LINGER);
    old.context.tasks.drained().await;
    tokio::time::resume();
    new.context.duty.set(true);
    assert!(queued.await.unwrap().unwrap().starts_with("HTTP/1.1 200"), "the queue was the other one's");
    assert_eq!(old.answers(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_duty_changes_hands() {
    const CHANGES: usize = 20;
    const BETWEEN: usize = 50;
    let (old, new, address) = pair().await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for keeps in [true, true, true, false] {
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        clients.spawn(async move {
            let mut connection = Keeping::connect(address).await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                if !keeps || !connection.is_kept() {
                    connection = Keeping::connect(address).await.unwrap();
                }
                assert!(connection.ask().await.unwrap().contains("200 OK"));
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for change in 1..=CHANGES {
        let (from, to) = if change % 2 == 1 { (&old, &new) } else { (&new, &old) };
        while answered.load(Ordering::Relaxed) < change * BETWEEN {
            assert!(clients.try_join_next().is_none(), "a client has failed");
            tokio::task::yield_now().await;
        }
        from.context.duty.set(false);
        to.context.duty.set(true);
    }
    new.context.tasks.shutdown();
    new.context.tasks.drained().await;
    stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert!(old.answers() > 0 && new.answers() > 0);
    let total = usize::try_from(old.answers() + new.answers()).unwrap();
    assert_eq!(total, answered.load(Ordering::Relaxed));
}
