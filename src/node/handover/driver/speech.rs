//! What the driver says to other agents, and in what order: whoever is told to serve knows before that all that this agent knows.

use std::os::fd::OwnedFd;
use std::task::{self, Poll, Waker};

use zeroize::Zeroizing;

use crate::node::handover::directory::Seat;
use crate::node::handover::driver::Driver;
use crate::node::handover::driver::report::Line;
use crate::node::handover::machine::{Event, Link, Word};
use crate::node::handover::wire::{Greeting, MAX_FRAME, Message};

impl Driver {
    pub(super) fn say(&mut self, link: Link, word: Word) -> Option<Event> {
        let (message, descriptors) = match word {
            Word::Hello => (Message::Hello(Greeting::own()), self.sockets()),
            Word::Welcome => {
                let has_sockets = self.links.get(link).is_some_and(|open| open.has_sockets);
                let sockets = if has_sockets { Vec::new() } else { self.sockets() };
                (Message::Welcome(Greeting::own()), sockets)
            }
            Word::End => (Message::End, Vec::new()),
            Word::Ready => (Message::Ready, Vec::new()),
            Word::Go => return self.say_go(link),
            Word::Serving => (Message::Serving, Vec::new()),
            Word::Done => (Message::Done, Vec::new()),
        };
        self.links.send(link, message, descriptors);
        None
    }

    /// What has changed or landed is told first, so that the successor knows it or waits for it. Without a seat to give there is
    /// nothing to wait for.
    fn say_go(&mut self, link: Link) -> Option<Event> {
        let Some(Ok(seat)) = self.seat.as_ref().map(Seat::copy) else {
            if let Some(times) = self.line(Line::Ungiven) {
                tracing::warn!(times, "there is no seat to pass on");
            }
            return Some(Event::Broken(link));
        };
        let is_known = self.links.get(link).is_some_and(|open| open.is_known == Some(true));
        let parts = if is_known { self.estate.tell_again() } else { Vec::new() };
        parts.into_iter().for_each(|part| self.links.send(link, Message::Part(part), Vec::new()));
        // A list that no frame holds is left out: those loads may be made twice.
        let loads = if is_known { self.estate.in_flight() } else { Zeroizing::default() };
        let loads = if loads.len() < MAX_FRAME / 2 { loads } else { Zeroizing::default() };
        self.mirror_landings();
        self.links.send(link, Message::Go(loads), vec![seat]);
        None
    }

    fn sockets(&mut self) -> Vec<OwnedFd> {
        self.inheritance.duplicates().unwrap_or_else(|error| {
            if let Some(times) = self.line(Line::Descriptors) {
                tracing::warn!(%error, times, "sockets can't be passed on");
            }
            Vec::new()
        })
    }

    pub(super) fn tell(&mut self, link: Link) {
        let Some(open) = self.links.get_mut(link) else { return };
        open.mirrors = open.is_known == Some(true);
        if open.mirrors {
            for part in self.estate.tell() {
                self.links.send(link, Message::Part(part), Vec::new());
            }
        }
        self.links.send(link, Message::End, Vec::new());
    }

    pub(super) fn mirror_landings(&mut self) {
        while let Poll::Ready(part) = self.estate.poll_landing(&mut task::Context::from_waker(Waker::noop())) {
            self.links.mirror(&part, None);
        }
    }
}
