//! All links of this agent, by number, and what is known of who is at their other ends.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::base::tasks::named;
use crate::node::handover::link::{Letter, ReadError, Reader, Writer, halves};
use crate::node::handover::machine::{Link, SILENCE};
use crate::node::handover::wire::{Message, Part};
use crate::node::handover::{Peer, TASK};

/// Letters read and not looked at yet; a peer that sends more waits.
const UNREAD: usize = 64;

/// What a link has brought.
pub(super) type Post = (Link, Result<Letter, ReadError>);

/// The links that are open. A number comes again only after all others.
pub(super) struct Links {
    open: BTreeMap<Link, Open>,
    next: Link,
    post: mpsc::Sender<Post>,
}

/// One of them.
pub(super) struct Open {
    pub(super) peer: Peer,
    /// Whether its state is of this version's format; `None` before its greeting.
    pub(super) is_known: Option<bool>,
    /// Whether it came with sockets.
    pub(super) has_sockets: bool,
    /// Whether it is told what lands.
    pub(super) mirrors: bool,
    /// Of the state that it tells before its end.
    pub(super) state_bytes: usize,
    late_at: Option<Instant>,
    /// Whether whatever it brings puts that off.
    watched: bool,
    writer: Writer,
    _reader: AbortOnDropHandle<()>,
}

impl Links {
    /// None, and where their letters will come.
    pub(super) fn new() -> (Self, mpsc::Receiver<Post>) {
        let (post, inbox) = mpsc::channel(UNREAD);
        (Self { open: BTreeMap::new(), next: 0, post }, inbox)
    }

    pub(super) fn open(&mut self, stream: UnixStream) -> Link {
        let link = self.next;
        self.next = self.next.wrapping_add(1);
        // 0 is a process of another pid namespace.
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid != 0);
        let (reader, writer) = halves(stream);
        let open = Open {
            peer: Peer { version: None, pid },
            is_known: None,
            has_sockets: false,
            mirrors: false,
            state_bytes: 0,
            late_at: None,
            watched: false,
            writer,
            _reader: AbortOnDropHandle::new(tokio::spawn(named(TASK, read(link, reader, self.post.clone())))),
        };
        self.open.insert(link, open);
        link
    }

    pub(super) fn get(&self, link: Link) -> Option<&Open> {
        self.open.get(&link)
    }

    pub(super) fn get_mut(&mut self, link: Link) -> Option<&mut Open> {
        self.open.get_mut(&link)
    }

    pub(super) fn close(&mut self, link: Link) {
        self.open.remove(&link);
    }

    /// What is awaited of it comes by then, or it is late; without `at` nothing is.
    pub(super) fn limit(&mut self, link: Link, at: Option<Instant>) {
        if let Some(open) = self.open.get_mut(&link) {
            (open.late_at, open.watched) = (at, false);
        }
    }

    /// It is late once it has brought nothing for [`SILENCE`].
    pub(super) fn watch(&mut self, link: Link, now: Instant) {
        if let Some(open) = self.open.get_mut(&link) {
            (open.late_at, open.watched) = (Some(now + SILENCE), true);
        }
    }

    /// It has brought something.
    pub(super) fn heard(&mut self, link: Link, now: Instant) {
        if self.open.get(&link).is_some_and(|open| open.watched) {
            self.watch(link, now);
        }
    }

    /// The one that is late first, and when.
    pub(super) fn first_late(&self) -> Option<(Link, Instant)> {
        let limited = self.open.iter().filter_map(|(link, open)| Some((*link, open.late_at?)));
        limited.min_by_key(|(_, at)| *at)
    }

    pub(super) fn send(&self, link: Link, message: Message, descriptors: Vec<OwnedFd>) {
        if let Some(open) = self.open.get(&link) {
            open.writer.post(message, descriptors);
        }
    }

    /// Tells it to all who are told, but to the one it came from.
    pub(super) fn mirror(&self, part: &Part, from: Option<Link>) {
        for (_, open) in self.open.iter().filter(|(link, open)| open.mirrors && Some(**link) != from) {
            open.writer.post(Message::Part(part.clone()), Vec::new());
        }
    }

    /// Closes all, once all that was posted has been sent or can't be.
    pub(super) async fn finish(self) {
        for (_, open) in self.open {
            open.writer.finish().await;
        }
    }
}

/// Posts what `reader` reads until it can read no more.
async fn read(link: Link, mut reader: Reader, post: mpsc::Sender<Post>) {
    loop {
        let letter = reader.next().await;
        let is_last = letter.is_err();
        if post.send((link, letter)).await.is_err() || is_last {
            return;
        }
    }
}
