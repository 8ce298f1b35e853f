//! Does what the [`Machine`] says, and tells it what happens.

mod hearing;
mod joins;
mod report;
mod seat;
mod speech;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::base::readiness;
use crate::base::repeats::Repeats;
use crate::node::handover::directory::{Directory, Place, Publication, Seat, is_own};
use crate::node::handover::driver::joins::Joins;
use crate::node::handover::driver::report::Line;
use crate::node::handover::link::{Letter, ReadError, STALL};
use crate::node::handover::links::{Links, Post};
use crate::node::handover::machine::{Action, Event, GREETING, Link, Machine, PAUSE, SEARCH, SILENCE};
use crate::node::handover::wire::{Body, Message, Part};
use crate::node::handover::{Estate, Handover, Peer, Shared};
use crate::node::inheritance::Inheritance;
use crate::observe::Context;

/// From one look at what nobody tells to the next: whether successors find this agent, and how long it has waited for another one.
/// As often, those who stand by are told that this agent lives.
const LOOK: Duration = Duration::from_secs(2);
const _: () =
    assert!(SILENCE.as_millis() > 2 * LOOK.as_millis() && SEARCH.as_millis() >= LOOK.as_millis() + GREETING.as_millis());

/// A running handover.
pub(super) struct Driver {
    machine: Machine,
    directory: Directory,
    inheritance: Inheritance,
    estate: Box<dyn Estate>,
    context: Context,
    /// Whether successors can find this agent.
    advice: readiness::Part,
    shared: Shared,
    seat: Option<Seat>,
    /// What came with `Go`, until the machine says what becomes of it.
    offered: Option<(Seat, Body)>,
    /// Whether successors are to find this agent.
    is_public: bool,
    publication: Option<Publication>,
    links: Links,
    /// By whose landings this agent's own loads are spared.
    expected_of: Option<Link>,
    pause_until: Option<Instant>,
    search: Option<Search>,
    joins: Joins,
    /// The one who was connected to last.
    awaited: Option<Peer>,
    next_look: Instant,
    /// Whether anything that the one joined last knew could not be read.
    cold: bool,
    /// Whether there is no seat to take any more: the directory has gone.
    seatless: bool,
    lines: Repeats<Line>,
    inbox: mpsc::Receiver<Post>,
}

/// A search for the one who has the seat.
#[derive(Clone, Copy)]
struct Search {
    until: Instant,
    /// The seat that it has.
    seat: Option<Place>,
}

/// What woke the driver.
enum Wake {
    Event(Event),
    Letter(Link, Result<Letter, ReadError>),
    Stream(io::Result<UnixStream>),
    Landing(Part),
    Look,
    Terminate,
    Ready,
    Leave,
}

impl Driver {
    pub(super) fn new(handover: Handover, inheritance: Inheritance, estate: Box<dyn Estate>, context: Context) -> Self {
        let Handover { directory, seat, shared } = handover;
        let (links, inbox) = Links::new();
        let now = context.clock.now().mono;
        Self {
            machine: Machine::default(),
            directory,
            inheritance,
            estate,
            advice: context.readiness.advisory("handover"),
            context,
            shared,
            seat,
            offered: None,
            is_public: false,
            publication: None,
            links,
            expected_of: None,
            pause_until: None,
            search: None,
            joins: Joins::new(now),
            awaited: None,
            next_look: now + LOOK,
            cold: false,
            seatless: false,
            lines: Repeats::default(),
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
                Wake::Look => {
                    if let Some(event) = self.look() {
                        self.happens(event).await;
                    }
                }
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
            () = tokio::time::sleep_until(at) => timer,
            // Without descriptors to spare it fails at once, each time.
            stream = accepted(self.publication.as_ref()) => Wake::Stream(stream),
        }
    }

    /// Tells the others what there is to tell, and closes all links.
    async fn leave(mut self) {
        self.mirror_landings();
        if tokio::time::timeout(STALL, self.links.finish()).await.is_err() {
            tracing::debug!("another agent takes nothing");
        }
        self.shared.left.cancel();
    }

    /// The first limit that passes, and what that means.
    fn next_timer(&self) -> (Wake, Instant) {
        let late = self.links.first_late().map(|(link, at)| (Event::Late(link), at));
        let pause = self.pause_until.map(|at| (Event::Paused, at));
        let search = self.search.map(|search| (Event::Unanswered, search.until));
        let first = [late, pause, search].into_iter().flatten().min_by_key(|(_, at)| *at);
        let first = first.map(|(event, at)| (Wake::Event(event), at));
        first.filter(|(_, at)| *at < self.next_look).unwrap_or((Wake::Look, self.next_look))
    }

    fn look(&mut self) -> Option<Event> {
        self.next_look = self.context.clock.now().mono + LOOK;
        self.tell_waiting();
        self.machine.peers().iter().for_each(|link| self.links.send(*link, Message::Alive, Vec::new()));
        if self.is_public { self.publish() } else { None }
    }

    /// Has the machine look at `event`, and at all that follows from it at once.
    async fn happens(&mut self, event: Event) {
        let before = self.machine.role();
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
        }
        self.limit_search(event);
        self.tell_role(before);
    }

    /// While the machine searches there is a limit, and after it another one. It does not count the time in which no join may begin.
    fn limit_search(&mut self, event: Event) {
        let running = self.search.take().filter(|_| event != Event::Unanswered);
        if self.machine.searches() {
            let until = self.joins.next(self.context.clock.now().mono) + SEARCH;
            self.search = running.or_else(|| Some(Search { until, seat: self.directory.place().ok() }));
        }
    }

    /// Does it, and returns what comes of it at once.
    async fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::TakeSeat => return Some(self.take_seat()),
            Action::ReplaceSeat => return Some(self.replace_seat()),
            Action::FreeSeat => self.seat.take().into_iter().for_each(Seat::free),
            Action::KeepSeat => self.keep_seat(),
            Action::LeaveSeat => self.seat = None,
            Action::Pause => self.pause_until = Some(self.context.clock.now().mono + PAUSE),
            Action::Connect => return Some(self.connect().await),
            Action::Publish => {
                self.is_public = true;
                return self.publish();
            }
            Action::Unpublish => {
                (self.is_public, self.publication) = (false, None);
                self.advice.ready();
            }
            Action::Serve => self.context.duty.set(true),
            Action::Rest if self.machine.has_served() => self.context.duty.relieve(),
            Action::Rest => self.context.duty.set(false),
            Action::Say(link, word) => return self.say(link, word),
            Action::Tell(link) => self.tell(link),
            Action::Await(link, limit) => self.links.limit(link, Some(self.context.clock.now().mono + limit)),
            Action::Watch(link) => self.links.watch(link, self.context.clock.now().mono),
            Action::Relax(link) => self.links.limit(link, None),
            Action::Close(link) => self.close(link),
            Action::Count(result) => self.count(result),
            Action::End => self.shared.ended.cancel(),
        }
        None
    }

    async fn connect(&mut self) -> Event {
        let now = self.context.clock.now().mono;
        let may_join = self.joins.may_begin(now);
        // Without a seat there is nothing else by which to know whether somebody serves.
        if !may_join && !self.seatless {
            return Event::Refused;
        }
        match self.directory.connect().await {
            Ok(_) if !may_join => Event::Refused,
            Ok(stream) => {
                self.joins.begun(now);
                self.join(stream)
            }
            Err(error) if self.seatless && is_of_nobody(&error) => {
                self.tell_seatless(&error);
                Event::Seated
            }
            Err(error) => {
                tracing::debug!(%error, "nobody to take over from answers");
                self.awaited = None;
                Event::Refused
            }
        }
    }

    fn join(&mut self, stream: UnixStream) -> Event {
        if !is_own(&stream) {
            self.refuse_stranger();
            return Event::Refused;
        }
        let link = self.links.open(stream);
        self.cold = false;
        self.awaited = self.links.get(link).map(|open| open.peer.clone());
        Event::Connected(link)
    }

    async fn accept(&mut self, stream: io::Result<UnixStream>) {
        match stream {
            Ok(stream) if is_own(&stream) => {
                let link = self.links.open(stream);
                self.happens(Event::Accepted(link)).await;
            }
            Ok(_) => self.refuse_stranger(),
            Err(error) => {
                if let Some(times) = self.line(Line::Accept) {
                    tracing::warn!(%error, times, "a successor can't be let in");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn close(&mut self, link: Link) {
        self.links.close(link);
        if self.expected_of == Some(link) {
            self.expected_of = None;
            self.estate.expect(None);
        }
    }
}

/// Whether it says that there is no directory to be used any more; a lack of descriptors, for one, passes.
fn is_of_directory(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), NotFound | PermissionDenied | NotADirectory | ReadOnlyFilesystem)
}

/// Whether it says that nobody can be there to be connected to; one that hangs has a full queue, and is.
fn is_of_nobody(error: &io::Error) -> bool {
    is_of_directory(error) || error.kind() == io::ErrorKind::ConnectionRefused
}

/// The next connection; never, where nobody listens.
async fn accepted(publication: Option<&Publication>) -> io::Result<UnixStream> {
    match publication {
        Some(publication) => publication.accept().await,
        None => std::future::pending().await,
    }
}
