//! What one agent of a node tells the next, as bytes: from memory to memory, and cleared when they have been read.
//!
//! Types that hold secrets can't be serialised, so that nothing prints them by accident. A part of the process packs what it knows
//! into its own parcels and opens them again; nobody else can read them.

use std::fmt;

use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// One value of one part of the process: a byte that tells its version, then the value in postcard's wire format
/// (postcard.jamesmunns.com), without names.
#[derive(Clone)]
pub struct Parcel(Zeroizing<Vec<u8>>);

/// Why a parcel can't be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Another version of the agent packed it.
    #[error("it is of version {0:?}, which is not known here")]
    Version(Option<u8>),
    /// It holds something else than its version says.
    #[error("it is damaged")]
    Damaged,
}

impl Parcel {
    /// Packs `value`. A value that can't be written, such as a time before 1970, leaves a parcel that can't be opened.
    #[must_use]
    pub fn pack(version: u8, value: &impl Serialize) -> Self {
        // Sized in advance, so that the buffer does not grow and leave uncleared copies of secrets behind.
        let size = postcard::serialize_with_flavor(value, Size::default()).unwrap_or_default();
        let mut bytes = Zeroizing::new(vec![version; size + 1]);
        let written = bytes.get_mut(1..).is_some_and(|rest| postcard::to_slice(value, rest).is_ok());
        if !written {
            bytes.clear();
        }
        Self(bytes)
    }

    /// The value, which may borrow from the parcel.
    ///
    /// # Errors
    /// [`Unreadable`] unless it was packed as `version`.
    pub fn open<'p, T: Deserialize<'p>>(&'p self, version: u8) -> Result<T, Unreadable> {
        match self.0.split_first() {
            Some((found, rest)) if *found == version => match postcard::take_from_bytes(rest) {
                Ok((value, [])) => Ok(value),
                _ => Err(Unreadable::Damaged),
            },
            other => Err(Unreadable::Version(other.map(|(found, _)| *found))),
        }
    }

    /// As it came.
    #[must_use]
    pub fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// As it goes.
    #[must_use]
    pub fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parcel({} bytes)", self.0.len())
    }
}

/// Shared text, for serde's `with`.
pub mod text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    /// Reads it.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        <&str>::deserialize(deserializer).map(Arc::from)
    }
}

/// Shared text that may be absent, for serde's `with`.
pub mod optional_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes the text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(text: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
        text.as_deref().serialize(serializer)
    }

    /// Reads it.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<str>>, D::Error> {
        Option::<&str>::deserialize(deserializer).map(|text| text.map(Arc::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_version_that_was_packed_opens_it() {
        let parcel = Parcel::pack(3, &("hunter2", 7_u32));
        assert_eq!(parcel.open::<(&str, u32)>(3), Ok(("hunter2", 7)));
        assert_eq!(parcel.open::<(&str, u32)>(4), Err(Unreadable::Version(Some(3))));
        assert_eq!(parcel.open::<&str>(3), Err(Unreadable::Damaged), "something is left over");
        assert_eq!(parcel.open::<(&str, u32, u64)>(3), Err(Unreadable::Damaged));
        let empty = Parcel::from_bytes(Zeroizing::default());
        assert_eq!(empty.open::<u8>(3), Err(Unreadable::Version(None)));
        assert_eq!(format!("{parcel:?}"), "Parcel(10 bytes)");
    }
}
