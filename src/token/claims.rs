//! The claims of a service account token, by type only (Kubernetes KEP-1205, KEP-4193); what they must say is in
//! [`crate::token::rules`].
//!
//! A member of the wrong type is refused, never read as absent (CVE-2026-25537). Members that are not known are ignored: newer
//! API servers add some.

use serde::de::{Error, IgnoredAny};
use serde::{Deserialize, Deserializer};

use crate::domain::refusal::{Reason, Refusal};
use crate::token::json::{self, Object};

/// The last second of the year 9999, where RFC 3339 ends.
const LATEST: u64 = 253_402_300_799;

/// A payload of the right shape.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) sub: String,
    pub(super) aud: Audience,
    #[serde(deserialize_with = "numeric_date")]
    pub(super) exp: i64,
    #[serde(deserialize_with = "numeric_date")]
    pub(super) nbf: i64,
    #[serde(deserialize_with = "numeric_date")]
    pub(super) iat: i64,
    #[serde(default, deserialize_with = "json::present")]
    pub(super) jti: Option<String>,
    #[serde(default, rename = "kubernetes.io", deserialize_with = "json::present")]
    pub(super) kubernetes: Option<Object<Kubernetes>>,
}

/// `aud`: an array, or a bare string (RFC 7519 §4.1.3).
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Many(Vec<String>),
}

/// `kubernetes.io`.
#[derive(Debug, Deserialize)]
pub(super) struct Kubernetes {
    pub(super) namespace: String,
    pub(super) serviceaccount: Object<Reference>,
    #[serde(default, deserialize_with = "json::present")]
    pub(super) pod: Option<Object<Reference>>,
    #[serde(default, deserialize_with = "json::present")]
    pub(super) node: Option<Object<Node>>,
    #[serde(default, deserialize_with = "json::present")]
    pub(super) secret: Option<IgnoredAny>,
}

/// An object of the cluster.
#[derive(Debug, Deserialize)]
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) uid: String,
}

/// The pod's node. Its UID is left out when the API server does not know the node yet.
#[derive(Debug, Deserialize)]
pub(super) struct Node {
    pub(super) name: String,
}

impl Claims {
    /// Step 12 of token validation, without the issuer.
    pub(super) fn parse(json: &[u8]) -> Result<Self, Refusal> {
        json::object(json).map_err(|error| Refusal::new(Reason::Claims, error.to_string()))
    }
}

impl Audience {
    /// All of them.
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(audience) => std::slice::from_ref(audience),
            Self::Many(audiences) => audiences,
        }
    }
}

/// Whole seconds since the Unix epoch. RFC 7519 §2 allows fractions; Kubernetes writes none.
fn numeric_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let seconds = u64::deserialize(deserializer).ok().filter(|seconds| *seconds <= LATEST);
    seconds.and_then(|seconds| i64::try_from(seconds).ok()).ok_or_else(|| D::Error::custom("not a time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::testing::payload;

    fn refused(json: &str) -> bool {
        Claims::parse(json.as_bytes()).is_err_and(|refusal| refusal.reason == Reason::Claims)
    }

    #[test]
    fn times_are_whole_positive_seconds() {
        for claim in ["exp", "nbf", "iat"] {
            for wrong in [
                r#""7""#,
                "7.0",
                "7.5",
                "1e3",
                "-1",
                "-0",
                "1e400",
                "18446744073709551615",
                "18446744073709551616",
                "253402300800",
                "9223372036854775807",
                "null",
                "true",
                "[7]",
                "{}",
                "+7",
                "07",
                "0x7",
                "NaN",
            ] {
                let json = payload().to_string();
                let right = format!(r#""{claim}":{}"#, payload()[claim]);
                let json = json.replace(&right, &format!(r#""{claim}":{wrong}"#));
                assert!(refused(&json), "{claim} {wrong}");
            }
        }
    }

    #[test]
    fn members_are_typed_single_and_present() {
        let json = payload().to_string();
        assert!(!refused(&json));
        for (pointer, wrongs) in [
            ("/iss", vec!["7", "null", "[]"]),
            ("/sub", vec!["7", "null", "{}"]),
            ("/aud", vec!["7", "null", "[7]", "[[\"a\"]]", "{}", "[null]"]),
            ("/jti", vec!["7", "null", "[]"]),
            ("/kubernetes.io", vec!["7", "null", "[]", r#"["default",["s3-sa","u"]]"#, "{}"]),
            ("/kubernetes.io/namespace", vec!["7", "null"]),
            ("/kubernetes.io/serviceaccount", vec!["7", "null", r#"["s3-sa","u"]"#, "{}", r#"{"name":"a"}"#]),
            ("/kubernetes.io/pod", vec!["7", "null", r#"["p","u"]"#, r#"{"uid":"u"}"#, r#"{"name":"a","name":"b","uid":"u"}"#]),
            ("/kubernetes.io/node", vec!["7", "null", r#"["n"]"#, "{}", r#"{"name":7}"#]),
        ] {
            for wrong in wrongs {
                let mut claims = payload();
                *claims.pointer_mut(pointer).unwrap() = "REPLACE".into();
                assert!(refused(&claims.to_string().replace("\"REPLACE\"", wrong)), "{pointer} {wrong}");
            }
        }
        for claim in ["iss", "sub", "aud", "exp", "nbf", "iat"] {
            let mut claims = payload();
            claims.as_object_mut().unwrap().remove(claim);
            assert!(refused(&claims.to_string()), "{claim} is absent");
        }
    }

    #[test]
    fn no_known_member_comes_twice() {
        let json = payload().to_string();
        for (before, twice) in [
            ("{", r#"{"exp":1,"#),
            ("{", r#"{"\u0065xp":1,"#),
            ("{", r#"{"iss":"a","#),
            ("{", r#"{"aud":"a","#),
            ("{", r#"{"kubernetes.io":{},"#),
            (r#""kubernetes.io":{"#, r#""kubernetes.io":{"namespace":"kube-system","#),
            (r#""pod":{"#, r#""pod":{"name":"other","#),
        ] {
            let doubled = json.replacen(before, twice, 1);
            assert_ne!(doubled, json);
            assert!(refused(&doubled), "{doubled}");
        }
        assert!(!refused(&json.replacen('{', r#"{"new":1,"new":{"x":[1.5]},"#, 1)), "members that are not known are ignored");
    }

    #[test]
    fn bombs_and_other_documents() {
        let deep = payload().to_string().replacen('{', &format!(r#"{{"x":{}{},"#, "[".repeat(9), "]".repeat(9)), 1);
        for bad in [deep.as_str(), "", "[]", "\"x\"", "{}", "{}}"] {
            assert!(refused(bad), "{bad}");
        }
    }
}
