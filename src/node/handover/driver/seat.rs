//! The driver's part in the directory: its seat, and the socket by which others find it.

use std::io;

use crate::node::handover::directory::Seat;
use crate::node::handover::driver::{Driver, is_of_directory};
use crate::node::handover::machine::Event;

impl Driver {
    pub(super) fn take_seat(&mut self) -> Event {
        self.seat = None;
        self.seated(self.directory.take_seat())
    }

    pub(super) fn replace_seat(&mut self) -> Event {
        let held = self.seat.take().and_then(|seat| seat.place().ok());
        let old = held.or_else(|| self.search.and_then(|search| search.seat));
        let event = self.seated(old.map_or(Ok(None), |old| self.directory.replace_seat(old)));
        if event == Event::Seated {
            self.tell_replaced();
        }
        event
    }

    fn seated(&mut self, taken: io::Result<Option<Seat>>) -> Event {
        match taken {
            Ok(seat) => {
                (self.seat, self.seatless) = (seat, false);
                if self.seat.is_some() { Event::Seated } else { Event::Unseated }
            }
            Err(error) => {
                self.seatless = is_of_directory(&error);
                self.tell_untried(&error);
                Event::Unseated
            }
        }
    }

    pub(super) fn keep_seat(&mut self) {
        if let Some((seat, loads)) = self.offered.take() {
            self.seat = Some(seat);
            self.estate.expect(Some(loads));
            self.expected_of = self.machine.role().server();
        }
    }

    /// Sees to it that others find this agent, and the seat that it has: somebody may have removed either.
    pub(super) fn publish(&mut self) -> Option<Event> {
        if let Err(error) = self.keep_found() {
            self.tell_unfound(&error);
            return None;
        }
        self.advice.ready();
        if self.seat.is_some() {
            return None;
        }
        self.tell_unseated();
        Some(Event::Unseated)
    }

    /// It has no seat afterwards if its own was removed, and another agent has taken the one that is there now.
    fn keep_found(&mut self) -> io::Result<()> {
        if !self.seat.as_ref().is_some_and(|seat| self.directory.has(seat)) {
            // What is held is kept until it is known that there is another one: a successor is still given it.
            self.seat = self.directory.take_seat()?;
        }
        if self.seat.is_some() && !self.publication.as_ref().is_some_and(|publication| self.directory.shows(publication)) {
            self.publication = Some(self.directory.publish()?);
        }
        Ok(())
    }
}
