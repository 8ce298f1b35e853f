//! JSON, more strictly than serde reads it: bounded depth, and objects only where objects belong.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Deepest nesting of objects and arrays; a service account token has 3.
const DEPTH: usize = 8;

/// A document that was refused. It quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum JsonError {
    /// More than [`DEPTH`] levels.
    #[error("nested too deeply")]
    Depth,
    /// Not JSON, or not of the shape that is wanted.
    #[error("malformed at column {0}")]
    Shape(usize),
}

/// Reads one object.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, JsonError> {
    if depth(json) > DEPTH {
        return Err(JsonError::Depth);
    }
    let Object(value) = serde_json::from_slice(json).map_err(|error| JsonError::Shape(error.column()))?;
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

/// The deepest nesting in `json`, found without parsing it.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
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
            assert!(matches!(object::<One>(bad.as_bytes()), Err(JsonError::Shape(_))), "{bad}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert_eq!(depth(br#"{"a":[{"b":"[[[\"[[["}]}"#), 3);
        assert_eq!(depth(br#"{"a\\":[]}"#), 2);
        assert_eq!(depth(b"]]]]{"), 1);
        let bomb = [b"{\"a\":".as_slice(), &[b'['; 4_000]].concat();
        assert!(matches!(object::<One>(&bomb), Err(JsonError::Depth)));
    }
}
