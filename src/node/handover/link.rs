//! A connection between two agents: frames in order, and descriptors beside them.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::TASK;
use super::wire::{Frame, MAX_DESCRIPTORS, Message, PREFIX, WireError};
use crate::base::tasks::named;

/// A peer that takes nothing for so long hangs.
pub const STALL: Duration = Duration::from_secs(2);

/// A message and the descriptors that go with it.
#[derive(Debug)]
pub struct Letter {
    /// What is said.
    pub message: Message,
    /// At most [`MAX_DESCRIPTORS`].
    pub descriptors: Vec<OwnedFd>,
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The other end has closed it, or has gone.
    #[error("the other agent has closed the connection")]
    Closed,
    /// The kernel says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other end is no agent, or of a version that speaks otherwise.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// More or fewer descriptors than their frames say.
    #[error("descriptors that no frame announces")]
    Descriptors,
}

/// The receiving half.
#[derive(Debug)]
pub struct Reader {
    stream: Arc<UnixStream>,
    descriptors: VecDeque<OwnedFd>,
}

/// The sending half.
#[derive(Debug)]
pub struct Writer {
    outbox: mpsc::UnboundedSender<Letter>,
    task: JoinHandle<()>,
}

/// The two halves of a connection.
#[must_use]
pub fn halves(stream: UnixStream) -> (Reader, Writer) {
    let stream = Arc::new(stream);
    let (outbox, letters) = mpsc::unbounded_channel();
    let task = tokio::spawn(named(TASK, write(Arc::clone(&stream), letters)));
    (Reader { stream, descriptors: VecDeque::new() }, Writer { outbox, task })
}

impl Writer {
    /// Sends it after all that has been posted before. What can't be sent any more is found out by reading.
    pub fn post(&self, message: Message, descriptors: Vec<OwnedFd>) {
        let _ = self.outbox.send(Letter { message, descriptors });
    }

    /// Completes once all that was posted has been sent, or can't be.
    pub async fn finish(self) {
        drop(self.outbox);
        let _ = self.task.await;
    }
}

/// Sends what is posted until nobody posts any more. One that can't be sent ends the connection, which the reader notices.
async fn write(stream: Arc<UnixStream>, mut letters: mpsc::UnboundedReceiver<Letter>) {
    while let Some(letter) = letters.recv().await {
        match tokio::time::timeout(STALL, send(&stream, letter)).await {
            Ok(Ok(())) => {}
            // What the other end sent before it went is still read, and that nothing more comes is seen there.
            Ok(Err(error)) => {
                let _ = SockRef::from(&*stream).shutdown(std::net::Shutdown::Write);
                return tracing::debug!(%error, "the other agent is told nothing more");
            }
            Err(_) => {
                let _ = SockRef::from(&*stream).shutdown(std::net::Shutdown::Both);
                return tracing::debug!("the other agent takes nothing");
            }
        }
    }
}

async fn send(stream: &UnixStream, Letter { message, descriptors }: Letter) -> io::Result<()> {
    let count = u8::try_from(descriptors.len()).unwrap_or(u8::MAX);
    let bytes = Frame { message, descriptors: count }.encode().map_err(io::Error::other)?;
    let mut beside: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let sent = stream.async_io(Interest::WRITABLE, || send_some(stream, rest, &beside)).await?;
        beside.clear();
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}

fn send_some(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one frame"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

impl Reader {
    /// The next message.
    ///
    /// # Errors
    /// [`ReadError`] when there will be none.
    pub async fn next(&mut self) -> Result<Letter, ReadError> {
        let mut prefix = [0; PREFIX];
        self.fill(&mut prefix).await?;
        let mut frame = Zeroizing::new(vec![0; Frame::length(prefix)?]);
        self.fill(&mut frame).await?;
        let Frame { message, descriptors } = Frame::decode(&frame)?;
        let count = usize::from(descriptors);
        if self.descriptors.len() != count {
            return Err(ReadError::Descriptors);
        }
        Ok(Letter { message, descriptors: self.descriptors.drain(..).collect() })
    }

    async fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), ReadError> {
        let Self { stream, descriptors } = self;
        while !buffer.is_empty() {
            let read = match stream.async_io(Interest::READABLE, || receive_some(stream, buffer, descriptors)).await {
                // So the kernel says that it was closed with something left unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                read => read?,
            };
            if read == 0 {
                return Err(ReadError::Closed);
            }
            if descriptors.len() > MAX_DESCRIPTORS {
                return Err(ReadError::Descriptors);
            }
            buffer = buffer.get_mut(read..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Nothing that is run by this process inherits what is received: the kernel marks it at once.
fn receive_some(stream: &UnixStream, buffer: &mut [u8], descriptors: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(arrived) = message {
            descriptors.extend(arrived);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("more descriptors than any frame has"));
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::super::wire::Part;
    use super::*;

    fn pipe() -> OwnedFd {
        std::io::pipe().unwrap().0.into()
    }

    #[tokio::test]
    async fn messages_arrive_in_order_with_their_own_descriptors() {
        let (near, far) = UnixStream::pair().unwrap();
        let (reading, writer) = halves(near);
        let (mut reader, _far) = halves(far);
        let part = |size: usize| Message::Part(Part { kind: 7, body: Zeroizing::new(vec![b'x'; size]) });
        let letters = [(part(900_000), 0), (Message::Ready, 2), (part(3), 0), (Message::Done, 16), (Message::End, 0)];
        for (message, count) in letters.clone() {
            writer.post(message, (0..count).map(|_| pipe()).collect());
        }
        for (message, count) in letters {
            let letter = reader.next().await.unwrap();
            assert!(letter.message == message && letter.descriptors.len() == count, "{letter:?}");
        }
        drop(reading);
        writer.finish().await;
        assert!(matches!(reader.next().await, Err(ReadError::Closed)));
    }

    #[tokio::test]
    async fn what_no_agent_sends_ends_the_connection() {
        for bytes in [&[0, 0, 0, 1, 4][..], &[0, 0, 0, 2, 99, 0], &[0, 0, 0, 2, 4, 1], &[255; 8], &[0, 0, 0, 9, 1]] {
            let (mut near, far) = UnixStream::pair().unwrap();
            let (mut reader, _outbox) = halves(far);
            near.write_all(bytes).await.unwrap();
            drop(near);
            assert!(reader.next().await.is_err(), "{bytes:?}");
        }
        let (near, far) = UnixStream::pair().unwrap();
        let (mut reader, _outbox) = halves(far);
        let unannounced = pipe();
        let bytes = [0, 0, 0, 2, 4, 0];
        assert_eq!(send_some(&near, &bytes, &[unannounced.as_fd()]).unwrap(), bytes.len());
        assert!(matches!(reader.next().await, Err(ReadError::Descriptors)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_let_go() {
        let (near, _far) = UnixStream::pair().unwrap();
        let (mut reader, writer) = halves(near);
        let part = Part { kind: 0, body: Zeroizing::new(vec![0; 1_000_000]) };
        writer.post(Message::Part(part), Vec::new());
        assert!(reader.next().await.is_err());
        writer.finish().await;
    }
}
