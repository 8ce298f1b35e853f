//! Makes tokens that are wrong in one thing and right in all others: whoever takes one has not looked at that thing.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::keys::{Algorithm, Keys};
use serde_json::{Value, json};

use crate::world::pod;

const HOUR: Duration = Duration::from_secs(3600);

/// Somebody who has the keys of the issuers, and signs whatever he likes.
pub(crate) struct Forger {
    own: Keys,
    other: Keys,
    ec: String,
    rsa: String,
    /// A URL at which somebody listens.
    canary: String,
    claims: Value,
}

impl Forger {
    /// `own` is the issuer of the good tokens, with a P-256 key; an RSA key is published beside it. `other` is accepted too.
    pub(crate) fn new(own: &Keys, other: &Keys, canary: &str) -> Self {
        let (own, other, ec) = (own.clone(), other.clone(), own.kid());
        let rsa = own.generate(Algorithm::Rs256);
        own.publish(&rsa);
        let claims = json!(own.claims(&pod("app-0"), POD_IDENTITY_AUDIENCE, HOUR));
        Self { own, other, ec, rsa, canary: canary.to_owned(), claims }
    }

    /// A good token by each key.
    pub(crate) fn good(&self) -> [String; 3] {
        let mut of_other = self.claims.clone();
        of_other["iss"] = json!(self.other.claims(&pod("app-0"), "", HOUR).iss);
        [self.with_claims(&self.claims), self.by_rsa(&self.header_of("RS256", &self.rsa)), self.by_other(&of_other.to_string())]
    }

    /// The `iss` of the good token.
    pub(crate) fn issuer(&self) -> &str {
        self.claims["iss"].as_str().unwrap()
    }

    /// A header with these members and no others.
    fn header_of(&self, alg: &str, kid: &str) -> String {
        json!({ "alg": alg, "kid": kid }).to_string()
    }

    /// The names of keys in their places, and long texts.
    fn filled(&self, text: &str) -> String {
        let text = text.replace("$EC", &self.ec).replace("$RSA", &self.rsa).replace("$OTHER", &self.other.kid());
        let text = text.replace("$CANARY", &self.canary).replace("$KILO", &"k".repeat(1_024));
        text.replace("$LONG", &"A".repeat(10_928)).replace("$DEEP", &"[".repeat(4_000))
    }

    /// Good claims under this header, signed over both by the P-256 key.
    pub(crate) fn header(&self, header: &str) -> String {
        self.own.sign(&self.filled(header), &self.claims.to_string())
    }

    /// The same with this JSON for the `kid`.
    pub(crate) fn kid(&self, kid: &str) -> String {
        self.header(&format!(r#"{{"alg":"ES256","kid":{kid}}}"#))
    }

    /// The same with a member more.
    pub(crate) fn member(&self, member: &str) -> String {
        self.header(&format!(r#"{{"alg":"ES256","kid":"$EC",{member}}}"#))
    }

    /// Claims of this text.
    pub(crate) fn payload(&self, payload: &str) -> String {
        self.own.sign(&self.own.header(), &self.filled(payload))
    }

    /// Good claims in which this text is another.
    pub(crate) fn respelled(&self, good: &str, bad: &str) -> String {
        let claims = self.claims.to_string();
        assert!(claims.contains(good), "{good} is not in {claims}");
        self.payload(&claims.replacen(good, bad, 1))
    }

    /// Good claims but for these: each a pointer (RFC 6901) and the JSON that is there, `""` for nothing. `now` and a number of
    /// seconds make a time.
    pub(crate) fn claims(&self, changes: &[(&str, &str)]) -> String {
        let mut claims = self.claims.clone();
        let raw: Vec<String> = changes.iter().map(|(_, json)| self.filled(&self.time(json))).collect();
        for ((pointer, json), number) in changes.iter().zip(0..) {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            let members = claims.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            members.remove(name);
            if !json.is_empty() {
                members.insert(name.to_owned(), json!(format!("$RAW{number}$")));
            }
        }
        // As text, so that what is no JSON, or no number of serde_json's, stays as it is.
        let text = raw
            .iter()
            .zip(0..)
            .fold(claims.to_string(), |text, (json, number)| text.replace(&format!("\"$RAW{number}$\""), json));
        self.own.sign(&self.own.header(), &text)
    }

    fn time(&self, json: &str) -> String {
        let now = self.claims["iat"].as_i64().unwrap();
        json.strip_prefix("now").map_or_else(|| json.to_owned(), |more| (now + more.parse::<i64>().unwrap_or(0)).to_string())
    }

    fn with_claims(&self, claims: &Value) -> String {
        self.own.sign(&self.own.header(), &claims.to_string())
    }

    /// The good token in other words: `$H`, `$P` and `$S` are its parts.
    pub(crate) fn text(&self, text: &str) -> String {
        let good = self.with_claims(&self.claims);
        let parts: Vec<&str> = good.split('.').collect();
        self.filled(&text.replace("$H", parts[0]).replace("$P", parts[1]).replace("$S", parts[2]))
    }

    /// The good token with another signature, made of r and s of the right one.
    pub(crate) fn signature(&self, other: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let good = self.with_claims(&self.claims);
        let (message, signature) = good.rsplit_once('.').unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(other(&URL_SAFE_NO_PAD.decode(signature).unwrap())))
    }

    /// The good token whose last character has bits that mean nothing.
    pub(crate) fn spare_bits(&self) -> String {
        let mut good = self.with_claims(&self.claims);
        // 64 bytes end in a character of which four bits are spare: A, Q, g or w.
        let last = good.pop().unwrap();
        good.push(char::from(u8::try_from(last).unwrap() + 1));
        good
    }

    /// The good token of the RSA key under this header, its signature changed.
    pub(crate) fn rsa_signature(&self, other: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let token = self.by_rsa(&self.header_of("RS256", &self.rsa));
        let (message, signature) = token.rsplit_once('.').unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(other(&URL_SAFE_NO_PAD.decode(signature).unwrap())))
    }

    /// Good claims under this header, signed by the RSA key.
    pub(crate) fn by_rsa(&self, header: &str) -> String {
        self.own.sign_with(&self.rsa);
        let token = self.own.sign(&self.filled(header), &self.claims.to_string());
        self.own.sign_with(&self.ec);
        token
    }

    /// These claims, `""` for the good ones, signed by the other issuer's key.
    pub(crate) fn by_other(&self, claims: &str) -> String {
        let claims = if claims.is_empty() { self.claims.to_string() } else { claims.to_owned() };
        self.other.sign(&self.other.header(), &claims)
    }

    /// Good claims under this header, signed by the other issuer's key.
    pub(crate) fn header_by_other(&self, header: &str) -> String {
        self.other.sign(&self.filled(header), &self.claims.to_string())
    }

    /// Good claims under this header, with an HMAC by what everybody knows: a public key, as some text of it.
    pub(crate) fn hmac(&self, header: &str, key: &str) -> String {
        let message = self.header(header);
        let message = message.rsplit_once('.').unwrap().0;
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.public_text(key).as_bytes()), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn public_text(&self, name: &str) -> String {
        let set = self.own.jwks();
        let key = set["keys"].as_array().unwrap().iter().find(|key| key["kid"] == *self.rsa).unwrap();
        if name.is_empty() { key.to_string() } else { key[name].as_str().unwrap().to_owned() }
    }
}

/// An ECDSA signature as X9.62 has it and JWS has not (RFC 7518 §3.4): a DER sequence of two integers.
pub(crate) fn der(signature: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let padded = [&[0][..], bytes].concat();
        let spare = padded.windows(2).take_while(|pair| pair[0] == 0 && pair[1] < 0x80).count();
        let bytes = &padded[spare..];
        [&[2, u8::try_from(bytes.len()).unwrap()][..], bytes].concat()
    };
    let (r, s) = signature.split_at(signature.len() / 2);
    let body = [integer(r), integer(s)].concat();
    [&[0x30, u8::try_from(body.len()).unwrap()][..], &*body].concat()
}
