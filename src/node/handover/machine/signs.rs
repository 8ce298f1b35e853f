//! What happens to an agent, what it says, and what it does about either.

use std::time::Duration;

use crate::observe::metrics::Handover;

/// A connection to another agent, by the number that the driver gave it.
pub type Link = u32;

/// What an agent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// The first word of who connects.
    Hello,
    /// The answer of who serves.
    Welcome,
    /// All that was known has been told.
    End,
    /// The one who stands by would serve.
    Ready,
    /// It shall.
    Go,
    /// It does.
    Serving,
    /// The seat is its own.
    Done,
}

/// What happens to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The seat was free and is held now.
    Seated,
    /// Another agent holds the seat; told as well to one that serves and had lost its own.
    Unseated,
    /// The pause is over.
    Paused,
    /// Somebody serves: this is the link to it.
    Connected(Link),
    /// Nobody answers, or joins have failed of late and the next one is put off.
    Refused,
    /// Somebody connected.
    Accepted(Link),
    /// A word arrived.
    Heard(Link, Word),
    /// The link has ended.
    Broken(Link),
    /// The limit of [`Action::Await`] has passed, or that of [`Action::Watch`].
    Late(Link),
    /// For [`super::SEARCH`] an agent that [searches](super::Machine::searches) has had neither the seat nor an answer.
    Unanswered,
    /// All parts of this process are ready to serve.
    Ready,
    /// SIGTERM.
    Terminate,
}

/// What an agent does about it, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Lock the seat afresh, without what was held of it: [`Event::Seated`] or [`Event::Unseated`] before anything else.
    TakeSeat,
    /// Make another seat in place of the one that it has, or searches for, and lock it, unless another agent has made one: likewise.
    ReplaceSeat,
    /// Unlock the seat for all who hold it: one that a broken link may still carry is worth nothing.
    FreeSeat,
    /// Hold the seat that came with [`Word::Go`], and wait for the loads that it names.
    KeepSeat,
    /// Close what is held of the seat; others may hold it on.
    LeaveSeat,
    /// [`Event::Paused`] after [`super::PAUSE`].
    Pause,
    /// Connect to the one who serves: [`Event::Connected`] or [`Event::Refused`].
    Connect,
    /// Be the one who is connected to, if not already.
    Publish,
    /// Be it no more.
    Unpublish,
    /// Accept and renew.
    Serve,
    /// Do neither.
    Rest,
    /// Say it, with the sockets or the seat that go with it.
    Say(Link, Word),
    /// Tell all that is known, then [`Word::End`], and every landing from now on.
    Tell(Link),
    /// [`Event::Late`] after so long, in place of an earlier limit.
    Await(Link, Duration),
    /// [`Event::Late`] once nothing has come over it for [`super::SILENCE`], in place of an earlier limit.
    Watch(Link),
    /// There is no limit any more.
    Relax(Link),
    /// Close the link.
    Close(Link),
    /// Count it.
    Count(Handover),
    /// Drain and end the process.
    End,
}
