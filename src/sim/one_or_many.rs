//! JSON that may be one value or a list of them, as IAM's policies and the claim `aud` (RFC 7519 §4.1.3) have it.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// For `deserialize_with`.
pub(super) fn one_or_many<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let values = if let Value::Array(values) = value { values } else { vec![value] };
    values.into_iter().map(|value| serde_json::from_value(value).map_err(D::Error::custom)).collect()
}
