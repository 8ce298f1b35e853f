//! The JOSE header: the one part that is read before the signature is verified, and therefore read most strictly.
//!
//! `jku`, `jwk`, `x5u`, `x5c` and `crit` are refused by being unknown. `kid` is opaque: a name to compare, never a path or URL.

use jsonwebtoken::Algorithm;
use serde::Deserialize;

use crate::domain::refusal::{Reason, Refusal};
use crate::token::json;

/// Which key is said to have signed, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// One of the algorithms that are allowed.
    pub(super) algorithm: Algorithm,
    /// The name of the key; at most as long as the header.
    pub(super) kid: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    alg: String,
    kid: String,
    #[serde(default)]
    #[expect(dead_code, reason = "its type says what it may be")]
    typ: Typ,
}

#[derive(Default, Deserialize)]
enum Typ {
    #[default]
    #[serde(rename = "JWT")]
    Jwt,
}

impl Header {
    /// Step 9 of token validation.
    pub(super) fn parse(json: &[u8]) -> Result<Self, Refusal> {
        let Members { alg, kid, .. } = json::object(json).map_err(|error| Refusal::new(Reason::Header, error.to_string()))?;
        let algorithm = algorithm(&alg).ok_or_else(|| Refusal::new(Reason::Alg, "the algorithm is not one of the allowed"))?;
        Ok(Self { algorithm, kid })
    }
}

/// What managed clusters sign with. HMAC and `none` are no signatures of an issuer.
fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "RS256" => Some(Algorithm::RS256),
        "ES256" => Some(Algorithm::ES256),
        "ES384" => Some(Algorithm::ES384),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alg_kid_and_typ_only() {
        let ok = Header { algorithm: Algorithm::ES256, kid: "../../k".into() };
        assert_eq!(Header::parse(br#"{"alg":"ES256","kid":"../../k","typ":"JWT"}"#).unwrap(), ok);
        assert_eq!(Header::parse(br#"{"kid":"../../k","alg":"ES256"}"#).unwrap(), ok);
    }

    #[test]
    fn each_fault_has_its_reason() {
        let members = |more: &str| format!(r#"{{"alg":"RS256","kid":"k",{more}}}"#);
        let mut faults: Vec<String> = [
            r#"["RS256","k","JWT"]"#,
            r#"{"alg":"RS256"}"#,
            r#"{"kid":"k"}"#,
            r#"{"alg":7,"kid":"k"}"#,
            r#"{"alg":"RS256","kid":7}"#,
            r#"{"alg":"RS256","kid":null}"#,
            r#"{"alg":null,"kid":"k"}"#,
            r#"{"alg":"RS256","kid":"k"}x"#,
            "{}",
            "null",
            "",
            "\u{feff}{}",
        ]
        .map(str::to_owned)
        .into();
        faults.extend(
            [
                r#""jku":"https://evil.example""#,
                r#""jwk":{}"#,
                r#""x5u":"https://evil.example""#,
                r#""x5c":[]"#,
                r#""crit":["exp"]"#,
                r#""b64":false"#,
                r#""typ":"jwt""#,
                r#""typ":"at+jwt""#,
                r#""typ":null"#,
                r#""typ":7"#,
                r#""alg":"RS256""#,
                r#""kid":"k""#,
                r#""\u0061lg":"none""#,
                r#""Alg":"none""#,
            ]
            .map(members),
        );
        for fault in faults {
            assert_eq!(Header::parse(fault.as_bytes()).unwrap_err().reason, Reason::Header, "{fault}");
        }
        for alg in
            ["none", "None", "", "HS256", "HS384", "HS512", "RS384", "RS512", "PS256", "ES512", "EdDSA", "rs256", "ML-DSA-65"]
        {
            let json = format!(r#"{{"alg":"{alg}","kid":"k"}}"#);
            assert_eq!(Header::parse(json.as_bytes()).unwrap_err().reason, Reason::Alg, "{alg}");
        }
    }

    #[test]
    fn causes_quote_nothing() {
        let refusal = Header::parse(br#"{"alg":"RS256","kid":"k","canary":1}"#).unwrap_err();
        assert!(!refusal.cause.contains("canary"), "{}", refusal.cause);
    }
}
