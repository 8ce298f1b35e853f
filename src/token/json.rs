//! JSON, more strictly than serde reads it: bounded depth, objects only where objects belong, and nothing that only some readers
//! take (half of a surrogate pair, a number beyond all range), not even in members that are ignored.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Deepest nesting of objects and arrays; a service account token has 3.
const DEPTH: usize = 8;

/// A document that was refused. It quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum JsonError {
    /// More than [`DEPTH`] levels.
    #[error("nested too deeply")]
    Depth,
    /// Not JSON, or not of the shape that is wanted.
    #[error("malformed at line {0}, column {1}")]
    Shape(usize, usize),
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        Self::Shape(error.line(), error.column())
    }
}

/// Reads one object: as a whole, since serde skips what it ignores half read, and then for what is wanted of it.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, JsonError> {
    let Depth(depth) = serde_json::from_slice(json)?;
    if depth > DEPTH {
        return Err(JsonError::Depth);
    }
    let Object(value) = serde_json::from_slice(json)?;
    Ok(value)
}

/// A JSON object. A derived struct by itself also reads an array, as its members in order.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// A member that may be absent but not null: `#[serde(default, deserialize_with = "json::present")]`.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// How many objects and arrays contain the innermost of a document, itself counted; `serde_json` reads no more than 127. Every key,
/// string and number is read for it, of members that come twice as well, and nothing is kept.
struct Depth(usize);

impl<'de> Deserialize<'de> for Depth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DepthVisitor)
    }
}

struct DepthVisitor;

impl<'de> Visitor<'de> for DepthVisitor {
    type Value = Depth;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Depth, E> {
        Ok(Depth(0))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Depth, E> {
        Ok(Depth(0))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Depth, E> {
        Ok(Depth(0))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Depth, E> {
        Ok(Depth(0))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Depth, E> {
        Ok(Depth(0))
    }

    fn visit_str<E>(self, _: &str) -> Result<Depth, E> {
        Ok(Depth(0))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Depth, A::Error> {
        let mut deepest = 0;
        while let Some(Depth(depth)) = items.next_element()? {
            deepest = deepest.max(depth);
        }
        Ok(Depth(deepest + 1))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Depth, A::Error> {
        let mut deepest = 0;
        while let Some((Depth(_), Depth(depth))) = members.next_entry()? {
            deepest = deepest.max(depth);
        }
        Ok(Depth(deepest + 1))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct One {
        #[serde(default, deserialize_with = "present")]
        member: Option<u64>,
    }

    #[test]
    fn objects_only() {
        assert_eq!(object::<One>(b" {\"member\":7} ").unwrap().member, Some(7));
        assert_eq!(object::<One>(b"{}").unwrap().member, None);
        for bad in ["[7]", "7", "null", "", "{", "{}{}", r#"{"member":null}"#, r#"{"member":7,"member":7}"#, "{\"member\":7}\0"] {
            assert!(matches!(object::<One>(bad.as_bytes()), Err(JsonError::Shape(..))), "{bad}");
        }
    }

    #[test]
    fn what_is_ignored_is_sound_too() {
        let with = |ignored: &str| format!(r#"{{"new":{ignored}}}"#);
        for good in [r#""\ud83d\ude00""#, "1e308", "[{\"x\":[null,-0.5]}]"] {
            assert_eq!(object::<One>(with(good).as_bytes()).unwrap().member, None, "{good}");
        }
        for bad in
            [r#""\ud800""#, r#""\udc00\ud800""#, r#"{"\ud800":7}"#, r#""\ud800","new":7"#, "1e309", "\"\u{0}\"", "07", "[7,]"]
        {
            assert!(matches!(object::<One>(with(bad).as_bytes()), Err(JsonError::Shape(..))), "{bad}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        let of = |json: &str| serde_json::from_str::<Depth>(json).unwrap().0;
        assert_eq!(of(r#"{"a":[{"b":"[[[\"[[["}]}"#), 3);
        assert_eq!(of(r#"{"a\\":[]}"#), 2);
        assert_eq!(of(r#"[{},[[]],{"a":[]}]"#), 3);
        assert_eq!(of(r#"{"a":[[[]]],"a":1}"#), 4, "a member that comes twice hides nothing");
        assert_eq!(of("7"), 0);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels: usize| format!("{{\"a\":{}7{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert!(object::<One>(nested(DEPTH).as_bytes()).is_ok());
        for levels in [DEPTH + 1, 127] {
            assert_eq!(object::<One>(nested(levels).as_bytes()).unwrap_err(), JsonError::Depth);
        }
        let bomb = [b"{\"a\":".as_slice(), &[b'['; 4_000]].concat();
        for bad in [nested(128).as_bytes(), &bomb, b"]]]]{"] {
            assert!(matches!(object::<One>(bad), Err(JsonError::Shape(..))), "no deeper than serde_json reads");
        }
    }
}
