//! What agents say to each other, as bytes.
//!
//! ```text
//! frame  = length (u32, big endian: of all that follows) kind (u8) descriptors (u8) body
//! greeting = format (u16, big endian) version's length (u8) version (UTF-8) anything
//! ```
//!
//! Descriptors travel beside the first byte of their frame (`SCM_RIGHTS`, unix(7)). The frames themselves stay as they are for ever,
//! so that agents of any two versions can pass sockets and seat on; whoever adds one to those of the first release sends it only to
//! who has said by its format that it knows it. What may change is the state in [`Part`]s: its format is a number in the greeting, and agents whose numbers
//! differ exchange no state.

use strum::{EnumDiscriminants, FromRepr};
use zeroize::Zeroizing;

use super::machine::Word;

/// The format of the state that this version tells and knows.
pub const FORMAT: u16 = 1;
/// Bytes of one frame at most: the largest part is a key set, of 256 KiB at most.
pub const MAX_FRAME: usize = 1 << 20;
/// Descriptors of one frame at most: two addresses of credentials, two of probes, one of metrics, and room.
pub const MAX_DESCRIPTORS: usize = 16;
/// The length that stands before each frame.
pub const PREFIX: usize = 4;
/// Kind and number of descriptors.
const HEAD: usize = 2;

/// One frame's meaning, and the number that tells it.
#[derive(Debug, Clone, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(name(Kind), vis(), derive(FromRepr))]
#[repr(u8)]
pub enum Message {
    /// The first of who connects.
    Hello(Greeting) = 1,
    /// The answer to it.
    Welcome(Greeting) = 2,
    /// Some of the state.
    Part(Part) = 3,
    /// All of the state has been told.
    End = 4,
    /// The sender would serve.
    Ready = 5,
    /// The receiver shall serve; some loads are still in flight at the sender.
    Go(Body) = 6,
    /// The sender serves.
    Serving = 7,
    /// The sender has let go of the seat.
    Done = 8,
    /// The sender serves still.
    Alive = 9,
}

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The format of the state that it tells and knows.
    pub format: u16,
    /// Its version, for operators.
    pub version: String,
}

/// Bytes that only `app` understands, cleared when they go.
pub type Body = Zeroizing<Vec<u8>>;

/// Some of what an agent knows.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// Of what.
    pub kind: u8,
    /// In its own format.
    pub body: Body,
}

/// Credentials are in there.
impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Part({}, {} bytes)", self.kind, self.body.len())
    }
}

/// A frame and how many descriptors go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it means.
    pub message: Message,
    /// 0 to [`MAX_DESCRIPTORS`].
    pub descriptors: u8,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than any, or too short to be one.
    #[error("a frame of {0} bytes")]
    Length(usize),
    /// Of a later version, or of no agent.
    #[error("a frame of kind {0}, which this version does not know")]
    Kind(u8),
    /// More descriptors than any frame has.
    #[error("a frame with {0} descriptors")]
    Descriptors(u8),
    /// The body is not what the kind says.
    #[error("a frame of kind {0} with a body that makes no sense")]
    Body(u8),
}

impl Frame {
    /// The length that `prefix` announces.
    ///
    /// # Errors
    /// [`WireError::Length`] beyond [`MAX_FRAME`], and below what any frame has.
    pub fn length(prefix: [u8; PREFIX]) -> Result<usize, WireError> {
        let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
        if (HEAD..=MAX_FRAME).contains(&length) { Ok(length) } else { Err(WireError::Length(length)) }
    }

    /// Reads what follows the prefix.
    ///
    /// # Errors
    /// [`WireError`] for anything that no agent of this version writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let &[kind, descriptors, ref body @ ..] = bytes else { return Err(WireError::Length(bytes.len())) };
        if bytes.len() > MAX_FRAME {
            return Err(WireError::Length(bytes.len()));
        }
        if usize::from(descriptors) > MAX_DESCRIPTORS {
            return Err(WireError::Descriptors(descriptors));
        }
        let message = Message::decode(kind, body)?;
        Ok(Self { message, descriptors })
    }

    /// The whole frame, its prefix included.
    ///
    /// # Errors
    /// [`WireError::Length`] where it would be longer than [`MAX_FRAME`].
    pub fn encode(&self) -> Result<Body, WireError> {
        let (kind, body) = self.message.encode();
        let length = HEAD + body.len();
        let prefix = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME).ok_or(WireError::Length(length))?;
        let mut frame = Zeroizing::new(Vec::with_capacity(PREFIX + length));
        frame.extend(prefix.to_be_bytes());
        frame.extend([kind, self.descriptors]);
        frame.extend_from_slice(&body);
        Ok(frame)
    }
}

impl Message {
    /// What the machine makes of it; `None` for what means nothing to it.
    #[must_use]
    pub fn word(&self) -> Option<Word> {
        match self {
            Self::Hello(_) => Some(Word::Hello),
            Self::Welcome(_) => Some(Word::Welcome),
            Self::Part(_) | Self::Alive => None,
            Self::End => Some(Word::End),
            Self::Ready => Some(Word::Ready),
            Self::Go(_) => Some(Word::Go),
            Self::Serving => Some(Word::Serving),
            Self::Done => Some(Word::Done),
        }
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Self, WireError> {
        let known = Kind::from_repr(kind).ok_or(WireError::Kind(kind))?;
        let empty = |message| if body.is_empty() { Some(message) } else { None };
        let message = match known {
            Kind::Hello => Greeting::decode(body).map(Self::Hello),
            Kind::Welcome => Greeting::decode(body).map(Self::Welcome),
            Kind::Part => Part::decode(body).map(Self::Part),
            Kind::End => empty(Self::End),
            Kind::Ready => empty(Self::Ready),
            Kind::Go => Some(Self::Go(Zeroizing::new(body.to_vec()))),
            Kind::Serving => empty(Self::Serving),
            Kind::Done => empty(Self::Done),
            Kind::Alive => empty(Self::Alive),
        };
        message.ok_or(WireError::Body(kind))
    }

    fn encode(&self) -> (u8, Body) {
        let body = match self {
            Self::Hello(greeting) | Self::Welcome(greeting) => greeting.encode(),
            Self::Part(part) => part.encode(),
            Self::Go(loads) => loads.clone(),
            Self::End | Self::Ready | Self::Serving | Self::Done | Self::Alive => Body::default(),
        };
        (Kind::from(self).number(), body)
    }
}

impl Kind {
    #[expect(clippy::as_conversions, reason = "the representation is what travels")]
    fn number(self) -> u8 {
        self as u8
    }
}

impl Greeting {
    /// This process's own.
    #[must_use]
    pub fn own() -> Self {
        Self { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned() }
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let (format, rest) = body.split_first_chunk()?;
        let (length, rest) = rest.split_first()?;
        let version = rest.get(..usize::from(*length))?;
        let version = str::from_utf8(version).ok().filter(|version| version.chars().all(|char| char.is_ascii_graphic()))?;
        Some(Self { format: u16::from_be_bytes(*format), version: version.to_owned() })
    }

    fn encode(&self) -> Body {
        let version = self.version.as_bytes();
        let version = version.get(..version.len().min(usize::from(u8::MAX))).unwrap_or_default();
        let length = u8::try_from(version.len()).unwrap_or(u8::MAX);
        Zeroizing::new([&self.format.to_be_bytes()[..], &[length], version].concat())
    }
}

impl Part {
    fn decode(body: &[u8]) -> Option<Self> {
        let (kind, body) = body.split_first()?;
        Some(Self { kind: *kind, body: Zeroizing::new(body.to_vec()) })
    }

    fn encode(&self) -> Body {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + self.body.len()));
        bytes.push(self.kind);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages() -> impl Strategy<Value = Message> {
        let body = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Zeroizing::new);
        let greeting = || (any::<u16>(), "[!-~]{0,255}").prop_map(|(format, version)| Greeting { format, version });
        prop_oneof![
            greeting().prop_map(Message::Hello),
            greeting().prop_map(Message::Welcome),
            (any::<u8>(), body()).prop_map(|(kind, body)| Message::Part(Part { kind, body })),
            Just(Message::End),
            Just(Message::Ready),
            body().prop_map(Message::Go),
            Just(Message::Serving),
            Just(Message::Done),
            Just(Message::Alive),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in messages(), descriptors in 0..=16_u8) {
            let frame = Frame { message, descriptors };
            let bytes = frame.encode().unwrap();
            let (prefix, rest) = bytes.split_first_chunk().unwrap();
            prop_assert_eq!(Frame::length(*prefix), Ok(rest.len()));
            prop_assert_eq!(Frame::decode(rest), Ok(frame));
        }

        #[test]
        fn anything_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(frame) = Frame::decode(&bytes) {
                let again = frame.encode().unwrap();
                prop_assert_eq!(Frame::decode(&again[PREFIX..]), Ok(frame));
            }
        }
    }

    #[test]
    fn malformed_frames_are_refused() {
        let cases: [(&[u8], WireError); 9] = [
            (&[], WireError::Length(0)),
            (&[4], WireError::Length(1)),
            (&[0, 0], WireError::Kind(0)),
            (&[10, 0], WireError::Kind(10)),
            (&[4, 17], WireError::Descriptors(17)),
            (&[4, 0, 0], WireError::Body(4)),
            (&[3, 0], WireError::Body(3)),
            (&[1, 0, 0, 1, 3, b'1', b'.'], WireError::Body(1)),
            (&[2, 0, 0, 1, 1, b'\n'], WireError::Body(2)),
        ];
        for (bytes, error) in cases {
            assert_eq!(Frame::decode(bytes), Err(error), "{bytes:?}");
        }
        for length in [0, 1, 1 << 20 | 1, u32::MAX] {
            assert!(Frame::length(length.to_be_bytes()).is_err(), "{length}");
        }
    }

    #[test]
    fn a_greeting_may_grow() {
        let bytes = [1, 0, 0, 2, 1, b'9', 1, 2, 3];
        let greeting = Greeting { format: 2, version: "9".into() };
        assert_eq!(Frame::decode(&bytes).unwrap().message, Message::Hello(greeting));
    }

    #[test]
    fn a_frame_too_long_is_not_written_and_a_part_shows_no_bytes() {
        let part = Part { kind: 1, body: Zeroizing::new(vec![b'x'; MAX_FRAME]) };
        assert_eq!(format!("{part:?}"), "Part(1, 1048576 bytes)");
        assert!(Frame { message: Message::Part(part), descriptors: 0 }.encode().is_err());
    }
}
