//! A JSON Web Key Set (RFC 7517 §5, RFC 7518 §6): every key is checked when it is loaded, so that verifying trusts it.
//!
//! A key of a kind that is not used here is skipped, since newer API servers publish such beside the others.

use std::collections::HashMap;

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use crate::token::compact::Compact;
use crate::token::json::{self, JsonError};

/// Largest document that is fetched or read.
pub(super) const DOCUMENT_BYTES: usize = 256 * 1024;
/// Most keys in one document.
const KEYS: usize = 64;
/// Longest `kid`.
const KID_BYTES: usize = 1_024;
/// Bits of an RSA modulus.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;
/// Least RSA exponent (NIST SP 800-56B §6.2).
const RSA_LEAST_EXPONENT: u64 = 65_537;

/// Why a whole document was refused; the last good one stays in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum JwksError {
    /// Not a key set.
    #[error("it is no key set: {0}")]
    Shape(#[source] JsonError),
    /// Over [`DOCUMENT_BYTES`].
    #[error("it is larger than 256 KiB")]
    TooLarge,
    /// Over [`KEYS`].
    #[error("it has {0} keys, more than 64")]
    TooMany(usize),
    /// An issuer without keys signs nothing: this is a fault of the source, not a removal of all keys.
    #[error("it has no usable key")]
    Empty,
}

/// A public key and the one algorithm that it verifies.
#[derive(Debug, Clone)]
pub(super) struct Key {
    kid: String,
    algorithm: Algorithm,
    decoding: DecodingKey,
    /// Its canonical encoding, by which keys are compared.
    encoded: Box<[u8]>,
    /// The JWK as it was published.
    published: Box<str>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<Algorithm>,
    #[serde(flatten)]
    material: Material,
}

#[derive(Deserialize)]
#[serde(tag = "kty")]
enum Material {
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
    #[serde(rename = "EC")]
    Ec { crv: Curve, x: String, y: String },
}

#[derive(Clone, Copy, Deserialize)]
enum Curve {
    #[serde(rename = "P-256")]
    P256,
    #[serde(rename = "P-384")]
    P384,
}

/// The usable keys of a document, at least one.
pub(super) fn parse(document: &[u8]) -> Result<Vec<Key>, JwksError> {
    if document.len() > DOCUMENT_BYTES {
        return Err(JwksError::TooLarge);
    }
    let Document { keys } = json::object(document).map_err(JwksError::Shape)?;
    if keys.len() > KEYS {
        return Err(JwksError::TooMany(keys.len()));
    }
    let uses = uses_of_kids(&keys);
    let mut keys: Vec<Key> = keys.iter().filter_map(Key::load).collect();
    keys.retain(|key| uses.get(key.kid.as_str()) == Some(&1));
    keys.sort_by(|a, b| a.kid.cmp(&b.kid));
    if keys.is_empty() { Err(JwksError::Empty) } else { Ok(keys) }
}

/// The key set that has these keys.
pub(super) fn document(keys: &[Key]) -> String {
    let published: Vec<&str> = keys.iter().map(|key| &*key.published).collect();
    format!("{{\"keys\":[{}]}}", published.join(","))
}

fn uses_of_kids(keys: &[Value]) -> HashMap<&str, usize> {
    let mut uses = HashMap::new();
    for kid in keys.iter().filter_map(|key| key.get("kid")?.as_str()) {
        *uses.entry(kid).or_default() += 1;
    }
    uses
}

impl Key {
    /// The key, if it is of a kind that is used here and sound.
    fn load(json: &Value) -> Option<Self> {
        let jwk = Jwk::deserialize(json).ok()?;
        if jwk.kid.is_empty() || jwk.kid.len() > KID_BYTES || jwk.usage.is_some_and(|usage| usage != "sig") {
            return None;
        }
        let (algorithm, decoding, encoded) = jwk.material.load()?;
        let agrees = jwk.alg.is_none_or(|alg| alg == algorithm);
        agrees.then(|| Self { kid: jwk.kid, algorithm, decoding, encoded, published: json.to_string().into() })
    }

    /// Its name.
    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    /// The one algorithm that it verifies.
    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether it made this token's signature.
    pub(super) fn signed(&self, token: &Compact<'_>) -> bool {
        jsonwebtoken::crypto::verify(token.signature, token.signed.as_bytes(), &self.decoding, self.algorithm).unwrap_or(false)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (&self.kid, self.algorithm, &self.encoded) == (&other.kid, other.algorithm, &other.encoded)
    }
}

impl Material {
    fn load(&self) -> Option<(Algorithm, DecodingKey, Box<[u8]>)> {
        match self {
            Self::Rsa { n, e } => rsa(n, e),
            Self::Ec { crv, x, y } => ec(*crv, x, y),
        }
    }
}

fn rsa(n: &str, e: &str) -> Option<(Algorithm, DecodingKey, Box<[u8]>)> {
    let (n, e) = (integer(n)?, integer(e)?);
    let exponent = e.iter().try_fold(0_u64, |sum, byte| sum.checked_mul(256)?.checked_add(u64::from(*byte)))?;
    if !RSA_BITS.contains(&bits(&n)) || exponent < RSA_LEAST_EXPONENT || exponent.is_multiple_of(2) {
        return None;
    }
    let key = PublicKeyComponents { n: &n, e: &e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).ok()?;
    Some((Algorithm::RS256, DecodingKey::from_rsa_raw_components(&n, &e), key.as_ref().into()))
}

/// Parsing refuses a point that is not on the curve.
fn ec(curve: Curve, x: &str, y: &str) -> Option<(Algorithm, DecodingKey, Box<[u8]>)> {
    let (algorithm, verification, coordinate_bytes) = match curve {
        Curve::P256 => (Algorithm::ES256, &ECDSA_P256_SHA256_FIXED, 32),
        Curve::P384 => (Algorithm::ES384, &ECDSA_P384_SHA384_FIXED, 48),
    };
    let (x, y) = (URL_SAFE_NO_PAD.decode(x).ok()?, URL_SAFE_NO_PAD.decode(y).ok()?);
    if x.len() != coordinate_bytes || y.len() != coordinate_bytes {
        return None;
    }
    let point = [&[4], x.as_slice(), &y].concat();
    ParsedPublicKey::new(verification, &point).ok()?;
    Some((algorithm, DecodingKey::from_ec_der(&point), point.into()))
}

/// `Base64urlUInt` (RFC 7518 §2), without the leading zeros that some write.
fn integer(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

/// Length of a big-endian integer without leading zeros.
fn bits(integer: &[u8]) -> usize {
    let spare = integer.first().map_or(0, |byte| usize::try_from(byte.leading_zeros()).unwrap_or(0));
    (integer.len() * 8).saturating_sub(spare)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::token::testing::{document, ec256, ec384, rsa, rsa_other};

    fn kids(keys: &[Value]) -> Result<Vec<String>, JwksError> {
        Ok(parse(&document(keys))?.iter().map(|key| key.kid().to_owned()).collect())
    }

    fn with(mut jwk: Value, member: &str, value: impl Into<Value>) -> Value {
        jwk[member] = value.into();
        jwk
    }

    #[test]
    fn three_kinds_of_keys_each_for_one_algorithm() {
        let keys = parse(&document(&[rsa().jwk("a"), ec256().jwk("b"), ec384().jwk("c")])).unwrap();
        let algorithms: Vec<_> = keys.iter().map(Key::algorithm).collect();
        assert_eq!(algorithms, [Algorithm::RS256, Algorithm::ES256, Algorithm::ES384]);
        let bare = json!({"kty": "RSA", "kid": "a", "n": rsa().jwk("a")["n"], "e": "AQAB"});
        assert_eq!(parse(&document(&[bare])).unwrap(), keys[..1], "alg and use are optional");
    }

    #[test]
    fn unsound_and_foreign_keys_are_skipped() {
        let good = rsa_other().jwk("good");
        let n_bytes = URL_SAFE_NO_PAD.decode(rsa().jwk("a")["n"].as_str().unwrap()).unwrap();
        let n = |bytes: &[u8]| with(rsa().jwk("bad"), "n", URL_SAFE_NO_PAD.encode(bytes));
        let off_curve = with(ec256().jwk("bad"), "y", ec256().jwk("x")["x"].clone());
        for bad in [
            n(&n_bytes[1..]),
            n(&[&[0], &n_bytes[1..]].concat()),
            n(&[n_bytes.as_slice(); 5].concat()),
            n(b""),
            with(rsa().jwk("bad"), "e", "Aw"),
            with(rsa().jwk("bad"), "e", "AQAA"),
            with(rsa().jwk("bad"), "e", "AQ"),
            with(rsa().jwk("bad"), "e", ""),
            with(rsa().jwk("bad"), "e", "AQAB="),
            with(rsa().jwk("bad"), "e", URL_SAFE_NO_PAD.encode([1; 9])),
            with(rsa().jwk("bad"), "n", json!(7)),
            with(rsa().jwk("bad"), "alg", "RS512"),
            with(rsa().jwk("bad"), "alg", "ES256"),
            with(rsa().jwk("bad"), "alg", "HS256"),
            with(rsa().jwk("bad"), "alg", "ML-DSA-65"),
            with(rsa().jwk("bad"), "use", "enc"),
            with(rsa().jwk("bad"), "kty", "EC"),
            with(rsa().jwk("bad"), "kty", "oct"),
            with(rsa().jwk("bad"), "kid", ""),
            with(rsa().jwk("bad"), "kid", json!(null)),
            with(rsa().jwk("bad"), "kid", "k".repeat(1_025)),
            with(ec256().jwk("bad"), "crv", "P-384"),
            with(ec256().jwk("bad"), "crv", "P-521"),
            with(ec256().jwk("bad"), "crv", "secp256k1"),
            with(ec256().jwk("bad"), "x", "AAAA"),
            with(ec256().jwk("bad"), "alg", "ES384"),
            off_curve,
            json!({"kty": "AKP", "alg": "ML-DSA-65", "kid": "bad", "pub": "AAAA"}),
            json!(7),
            json!([]),
        ] {
            assert_eq!(kids(&[bad.clone(), good.clone()]), Ok(vec!["good".to_owned()]), "{bad}");
            assert_eq!(kids(std::slice::from_ref(&bad)), Err(JwksError::Empty));
        }
        let zeros = n(&[&[0, 0], n_bytes.as_slice()].concat());
        assert_eq!(kids(&[zeros]), Ok(vec!["bad".to_owned()]), "leading zeros change no number");
    }

    #[test]
    fn a_kid_that_comes_twice_names_no_key() {
        let keys = [rsa().jwk("twice"), rsa_other().jwk("twice"), ec256().jwk("once")];
        assert_eq!(kids(&keys), Ok(vec!["once".to_owned()]));
        let foreign = json!({"kty": "AKP", "kid": "twice"});
        assert_eq!(kids(&[rsa().jwk("twice"), foreign]), Err(JwksError::Empty), "even if one of them is not usable");
    }

    #[test]
    fn documents_are_refused_whole() {
        assert_eq!(parse(br#"{"keys":[]}"#), Err(JwksError::Empty));
        for bad in
            ["", "<html>502 Bad Gateway</html>", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, r#"{"keys":[],"keys":[]}"#]
        {
            assert!(matches!(parse(bad.as_bytes()), Err(JwksError::Shape(_))), "{bad}");
        }
        let list = json!([[ec256().jwk("a")]]).to_string();
        assert!(matches!(parse(list.as_bytes()), Err(JwksError::Shape(_))), "its members without their names");
        let many: Vec<_> = (0..65).map(|number| ec256().jwk(&number.to_string())).collect();
        assert_eq!(kids(&many), Err(JwksError::TooMany(65)));
        assert_eq!(kids(&many[..64]).unwrap().len(), 64);
        assert_eq!(parse(&vec![b' '; DOCUMENT_BYTES + 1]), Err(JwksError::TooLarge));
    }
}
