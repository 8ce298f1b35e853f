//! The JWS compact serialisation (RFC 7515 §3.1): three parts of canonical unpadded base64url.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::refusal::{Reason, Refusal};

/// Longest header; a service account token's has about 80 bytes, and most of these would be its `kid`.
const HEADER_BYTES: usize = 1_024;
/// Longest payload.
const PAYLOAD_BYTES: usize = 8_192;
/// Longest signature; RSA of 8192 bits has 1,024 bytes, ML-DSA up to 4,627.
const SIGNATURE_BYTES: usize = 8_192;

/// A token in its parts.
#[derive(Debug)]
pub(super) struct Compact<'a> {
    /// The JOSE header, decoded, not parsed.
    pub(super) header: Vec<u8>,
    /// The claims, decoded, not parsed.
    pub(super) payload: Vec<u8>,
    /// What was signed, as received.
    pub(super) signed: &'a str,
    /// The signature, still encoded.
    pub(super) signature: &'a str,
}

impl<'a> Compact<'a> {
    /// Splits and decodes; refuses whatever has a second spelling.
    pub(super) fn split(token: &'a str) -> Result<Self, Refusal> {
        let (signed, signature) = token.rsplit_once('.').ok_or_else(|| malformed("fewer than three parts"))?;
        let (header, payload) = signed.split_once('.').ok_or_else(|| malformed("fewer than three parts"))?;
        let header = decode(header, HEADER_BYTES)?;
        let payload = decode(payload, PAYLOAD_BYTES)?;
        decode(signature, SIGNATURE_BYTES)?;
        Ok(Self { header, payload, signed, signature })
    }
}

fn decode(part: &str, limit_bytes: usize) -> Result<Vec<u8>, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed("a part is not canonical base64url"))?;
    if bytes.is_empty() || bytes.len() > limit_bytes {
        return Err(malformed("a part is empty or too long"));
    }
    Ok(bytes)
}

fn malformed(cause: &str) -> Refusal {
    Refusal::new(Reason::TokenMalformed, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_canonical_parts() {
        let compact = Compact::split("e30.e30.AAAA").unwrap();
        assert_eq!((compact.header.as_slice(), compact.signed, compact.signature), (b"{}".as_slice(), "e30.e30", "AAAA"));
    }

    #[test]
    fn everything_else_is_malformed() {
        let long = "A".repeat(1_370);
        let long = format!("{long}.e30.AAAA");
        for bad in [
            "",
            "e30",
            "e30.e30",
            "e30.e30.",
            ".e30.AAAA",
            "e30..AAAA",
            "..",
            "e30.e30.AAAA.AAAA",
            "e30.e30.AAAA.",
            // Trailing bits set, padding, the other alphabet, an impossible length, white space.
            "e31.e30.AAAA",
            "e30.e31.AAAA",
            "e30.e30.AB",
            "e30=.e30.AAAA",
            "e30.e30.AA==",
            "e30.e30.A+/A",
            "e30.e30.AAAAA",
            "e30.e30.AA AA",
            &long,
        ] {
            assert_eq!(Compact::split(bad).unwrap_err().reason, Reason::TokenMalformed, "{bad}");
        }
    }
}
