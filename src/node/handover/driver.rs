//! Does what the [`Machine`] says, and tells it what happens.

mod speech;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::base::bucket::Bucket;
use crate::node::handover::directory::{Directory, Seat, is_own};
use crate::node::handover::link::{Letter, ReadError};
use crate::node::handover::links::{Links, Post};
use crate::node::handover::machine::{Action, Event, Link, Machine, PAUSE, Role};
use crate::node::handover::wire::{Body, FORMAT, Greeting, Message, Part};
use crate::node::handover::{Estate, Handover, Shared};
use crate::node::inheritance::Inheritance;
use crate::observe::Context;
use crate::observe::metrics;

/// Bytes of state that one link may bring before its end: 2,000 entries of 16 KiB and the keys.
const MOST_STATE: usize = 64 << 20;
/// How long a timer sleeps that wakes for nothing.
const NOTHING_DUE: Duration = Duration::from_secs(24 * 3600);

/// A running handover.
pub(super) struct Driver {
    machine: Machine,
    directory: Directory,
    inheritance: Inheritance,
    estate: Box<dyn Estate>,
    context: Context,
    shared: Shared,
    seat: Option<Seat>,
    /// What came with `Go`, until the machine says what becomes of it.
    offered: Option<(Seat, Body)>,
    listener: Option<UnixListener>,
    links: Links,
    /// By whose landings this agent's own loads are spared.
    expected_of: Option<Link>,
    pause_until: Option<Instant>,
    /// Whether anything that a predecessor knew could not be read.
    cold: bool,
    /// Whether there is no seat to take any more: the directory has gone.
    seatless: bool,
    strangers: Bucket,
    complaints: Bucket,
    inbox: mpsc::Receiver<Post>,
}

/// What woke the driver.
enum Wake {
    Event(Event),
    Letter(Link, Result<Letter, ReadError>),
    Stream(io::Result<UnixStream>),
    Landing(Part),
    Terminate,
    Ready,
    Leave,
}

impl Driver {
    pub(super) fn new(handover: Handover, inheritance: Inheritance, estate: Box<dyn Estate>, context: Context) -> Self {
        let Handover { directory, seat, shared } = handover;
        let (links, inbox) = Links::new();
        let once_a_minute = Bucket::once_a_minute(context.clock.now().mono);
        Self {
            machine: Machine::default(),
            directory,
            inheritance,
            estate,
            context,
            shared,
            seat,
            offered: None,
            listener: None,
            links,
            expected_of: None,
            pause_until: None,
            cold: false,
            seatless: false,
            strangers: once_a_minute.clone(),
            complaints: once_a_minute,
            inbox,
        }
    }

    pub(super) async fn run(mut self) {
        // Whatever ends this task, a process that is told to stop waits for it no longer.
        let _over = [&self.shared.ended, &self.shared.left].map(|token| token.clone().drop_guard());
        let first = if self.seat.is_some() { Event::Seated } else { Event::Unseated };
        self.happens(first).await;
        let (mut ready, mut terminating) = (false, false);
        loop {
            match self.wake(ready, terminating).await {
                Wake::Event(event) => self.happens(event).await,
                Wake::Letter(link, letter) => {
                    if let Some(event) = self.read(link, letter) {
                        self.happens(event).await;
                    }
                }
                Wake::Stream(stream) => self.accept(stream).await,
                Wake::Landing(part) => self.links.mirror(&part, None),
                Wake::Ready => {
                    ready = true;
                    self.happens(Event::Ready).await;
                }
                Wake::Leave => return self.leave().await,
                Wake::Terminate => {
                    terminating = true;
                    self.happens(Event::Terminate).await;
                }
            }
        }
    }

    async fn wake(&mut self, ready: bool, terminating: bool) -> Wake {
        let (timer, at) = self.next_timer();
        tokio::select! {
            // A process that hung looks at what has come before it finds others late.
            biased;
            Some((link, letter)) = self.inbox.recv() => Wake::Letter(link, letter),
            part = poll_fn(|context| self.estate.poll_landing(context)) => Wake::Landing(part),
            () = self.shared.terminate.cancelled(), if !terminating => Wake::Terminate,
            () = self.context.readiness.complete(), if !ready => Wake::Ready,
            () = self.shared.leaving.cancelled() => Wake::Leave,
            stream = accepted(self.listener.as_ref()) => Wake::Stream(stream),
            () = tokio::time::sleep_until(at) => Wake::Event(timer),
        }
    }

    /// Tells the others what there is to tell, and closes all links.
    async fn leave(mut self) {
        self.mirror_landings();
        self.links.finish().await;
        self.shared.left.cancel();
    }

    /// The first limit that passes, and what that means.
    fn next_timer(&self) -> (Event, Instant) {
        let pause = self.pause_until.map(|at| (Event::Paused, at));
        let late = self.links.first_late().map(|(link, at)| (Event::Late(link), at));
        let first = late.into_iter().chain(pause).min_by_key(|(_, at)| *at);
        first.unwrap_or_else(|| (Event::Paused, self.context.clock.now().mono + NOTHING_DUE))
    }

    /// Has the machine look at `event`, and at all that follows from it at once.
    async fn happens(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if event == Event::Paused && self.pause_until.take().is_none() {
                continue;
            }
            for action in self.machine.step(event) {
                tracing::trace!(?event, ?action, "handover");
                events.extend(self.act(action).await);
            }
            self.offered = None;
            self.tell_status();
        }
    }

    /// Does it, and returns what comes of it at once.
    async fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::TakeSeat => return Some(self.take_seat()),
            Action::FreeSeat => self.seat.take().into_iter().for_each(Seat::free),
            Action::KeepSeat => self.keep_seat(),
            Action::LeaveSeat => self.seat = None,
            Action::Pause => self.pause_until = Some(self.context.clock.now().mono + PAUSE),
            Action::Connect => return Some(self.connect().await),
            Action::Publish => self.publish(),
            Action::Unpublish => self.listener = None,
            Action::Serve => self.context.duty.set(true),
            Action::Rest if self.machine.has_served() => self.context.duty.relieve(),
            Action::Rest => self.context.duty.set(false),
            Action::Say(link, word) => return self.say(link, word),
            Action::Tell(link) => self.tell(link),
            Action::Await(link, limit) => self.links.limit(link, Some(self.context.clock.now().mono + limit)),
            Action::Relax(link) => self.links.limit(link, None),
            Action::Close(link) => self.close(link),
            Action::Count(result) => self.count(result),
            Action::End => self.shared.ended.cancel(),
        }
        None
    }

    fn take_seat(&mut self) -> Event {
        self.seat = None;
        match self.directory.take_seat() {
            Ok(seat) => {
                self.seat = seat;
                if self.seat.is_some() { Event::Seated } else { Event::Unseated }
            }
            Err(error) => {
                self.seatless = is_of_directory(&error);
                if self.complaints.take(self.context.clock.now().mono) {
                    tracing::warn!(%error, "the seat can't be tried");
                }
                Event::Unseated
            }
        }
    }

    fn keep_seat(&mut self) {
        if let Some((seat, loads)) = self.offered.take() {
            self.seat = Some(seat);
            self.estate.expect(Some(loads));
            self.expected_of = self.machine.role().server();
        }
    }

    async fn connect(&mut self) -> Event {
        match self.directory.connect().await {
            Ok(stream) if is_own(&stream) => Event::Connected(self.links.open(stream)),
            Ok(_) => {
                self.refuse_stranger();
                Event::Refused
            }
            Err(error) if self.seatless => {
                tracing::warn!(%error, "the handover directory has become unusable: this agent serves without it");
                Event::Seated
            }
            Err(error) => {
                tracing::debug!(%error, "nobody to take over from answers");
                Event::Refused
            }
        }
    }

    async fn accept(&mut self, stream: io::Result<UnixStream>) {
        match stream {
            Ok(stream) if is_own(&stream) => {
                let link = self.links.open(stream);
                self.happens(Event::Accepted(link)).await;
            }
            Ok(_) => self.refuse_stranger(),
            Err(error) => {
                tracing::warn!(%error, "a successor can't be let in");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn refuse_stranger(&mut self) {
        if self.strangers.take(self.context.clock.now().mono) {
            tracing::warn!("a process of another user at the handover socket is refused");
        }
    }

    fn publish(&mut self) {
        if self.listener.is_none() {
            let listener = self.directory.publish();
            self.listener =
                listener.inspect_err(|error| tracing::warn!(%error, "no successor can take over from this agent")).ok();
        }
    }

    fn close(&mut self, link: Link) {
        self.links.close(link);
        if self.expected_of == Some(link) {
            self.expected_of = None;
            self.estate.expect(None);
        }
    }

    fn count(&self, result: metrics::Handover) {
        let is_cold = self.cold && result == metrics::Handover::Taken;
        let result = if is_cold { metrics::Handover::Cold } else { result };
        let label: &'static str = result.into();
        tracing::info!(result = label, "handover");
        self.context.metrics.handovers.ended(result);
    }

    /// What the machine has to know of a letter; what it need not is dealt with here.
    fn read(&mut self, link: Link, letter: Result<Letter, ReadError>) -> Option<Event> {
        self.links.get(link)?;
        match letter {
            Ok(Letter { message, descriptors }) => self.understand(link, message, descriptors),
            Err(error) => {
                tracing::info!(%error, "the connection to another agent has ended");
                Some(Event::Broken(link))
            }
        }
    }

    fn understand(&mut self, link: Link, message: Message, mut descriptors: Vec<OwnedFd>) -> Option<Event> {
        let word = message.word();
        match message {
            Message::Part(part) => return self.learn(link, part),
            Message::Hello(greeting) | Message::Welcome(greeting) => self.meet(link, greeting, descriptors),
            Message::Go(loads) => match descriptors.pop() {
                Some(seat) => self.offered = Some((Seat::inherited(seat), loads)),
                None => return Some(Event::Broken(link)),
            },
            Message::End | Message::Ready | Message::Serving | Message::Done => {}
        }
        word.map(|word| Event::Heard(link, word))
    }

    fn meet(&mut self, link: Link, greeting: Greeting, sockets: Vec<OwnedFd>) {
        let Some(open) = self.links.get_mut(link) else { return };
        let is_known = greeting.format == FORMAT;
        open.is_known = Some(is_known);
        open.has_sockets = !sockets.is_empty();
        tracing::info!(version = greeting.version, pid = open.peer.pid, sockets = sockets.len(), "another agent of this node");
        if !is_known {
            self.cold = true;
            tracing::warn!(format = greeting.format, "what the other agent knows is of a format that this version does not know");
        }
        open.peer.version = Some(greeting.version);
        if open.has_sockets {
            self.inheritance.receive(sockets);
        }
    }

    fn learn(&mut self, link: Link, part: Part) -> Option<Event> {
        let open = self.links.get_mut(link)?;
        if open.is_known != Some(true) {
            return None;
        }
        let arriving = matches!(self.machine.role(), Role::Learning(server) if server == link);
        open.state_bytes = if arriving { open.state_bytes.saturating_add(part.body.len()) } else { 0 };
        if open.state_bytes > MOST_STATE {
            tracing::warn!("the other agent tells more than any can know");
            return Some(Event::Broken(link));
        }
        self.links.mirror(&part, Some(link));
        let kind = part.kind;
        if let Err(error) = self.estate.learn(part) {
            self.cold = true;
            tracing::warn!(kind, %error, "some of what the other agent knows can't be read and is left");
        }
        None
    }

    fn tell_status(&self) {
        let peer = |link: &Link| self.links.get(*link).map(|open| open.peer.clone());
        let role = self.machine.role();
        let (serving, standing_by) = (role.server().as_ref().and_then(peer), self.machine.peers().iter().filter_map(peer));
        self.shared.stands(role, self.context.clock.now().mono, serving, standing_by.collect());
    }
}

/// Whether it says that there is no directory to be used any more; a lack of descriptors, for one, passes.
fn is_of_directory(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), NotFound | PermissionDenied | NotADirectory | ReadOnlyFilesystem)
}

/// The next connection; never, where nobody listens.
async fn accepted(listener: Option<&UnixListener>) -> io::Result<UnixStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}
