//! What the driver makes of what other agents say.

use std::os::fd::OwnedFd;

use crate::node::handover::directory::Seat;
use crate::node::handover::driver::Driver;
use crate::node::handover::driver::report::Line;
use crate::node::handover::link::{Letter, ReadError};
use crate::node::handover::machine::{Event, Link, Role};
use crate::node::handover::wire::{FORMAT, Greeting, Message, Part};

/// Bytes of state that one link may bring before its end: 2,000 entries of 16 KiB and the keys.
const MOST_STATE: usize = 64 << 20;

impl Driver {
    /// What the machine has to know of a letter; what it need not is dealt with here.
    pub(super) fn read(&mut self, link: Link, letter: Result<Letter, ReadError>) -> Option<Event> {
        self.links.get(link)?;
        self.links.heard(link, self.context.clock.now().mono);
        match letter {
            Ok(Letter { message, descriptors }) => self.understand(link, message, descriptors),
            Err(error) => {
                self.tell_end(link, &error);
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
            Message::End | Message::Ready | Message::Serving | Message::Done | Message::Alive => {}
        }
        word.map(|word| Event::Heard(link, word))
    }

    fn meet(&mut self, link: Link, greeting: Greeting, sockets: Vec<OwnedFd>) {
        let Some(open) = self.links.get_mut(link) else { return };
        let is_known = greeting.format == FORMAT;
        open.is_known = Some(is_known);
        open.has_sockets = !sockets.is_empty();
        open.peer.version = Some(greeting.version);
        let peer = open.peer.clone();
        self.tell_meeting(&peer, sockets.len());
        if !is_known {
            self.cold = true;
            if let Some(times) = self.line(Line::Format) {
                let format = greeting.format;
                tracing::warn!(format, times, "what the other agent knows is of a format that this version does not know");
            }
        }
        if !sockets.is_empty() {
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
            if let Some(times) = self.line(Line::Excess) {
                tracing::warn!(times, "the other agent tells more than any can know");
            }
            return Some(Event::Broken(link));
        }
        self.links.mirror(&part, Some(link));
        let kind = part.kind;
        if let Err(error) = self.estate.learn(part) {
            self.cold = true;
            if let Some(times) = self.line(Line::Unreadable) {
                tracing::warn!(kind, %error, times, "some of what the other agent knows can't be read and is left");
            }
        }
        None
    }
}
