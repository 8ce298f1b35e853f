//! Identifiers in the alphabets that AWS and Kubernetes use: random ones, and such as follow from a name.

use rand::RngExt;

use crate::domain::identity::TokenDigest;

/// Of access keys and unique ids: base 32.
pub(super) const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Of secrets: base 64.
pub(super) const MIXED: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `length` characters of `alphabet`.
pub(super) fn text(alphabet: &[u8], length: usize) -> String {
    let mut rng = rand::rng();
    let pick = || alphabet.get(rng.random_range(0..alphabet.len())).copied().map_or('A', char::from);
    std::iter::repeat_with(pick).take(length).collect()
}

/// A version 4 UUID (RFC 9562 §5.4).
pub(super) fn uuid() -> String {
    let bits: u128 = rand::random();
    let version = bits & !(0xf << 76) | (0x4 << 76);
    let variant = version & !(0x3 << 62) | (0x2 << 62);
    let hex = format!("{variant:032x}");
    let part = |range| hex.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

/// 17 characters after `prefix` that are always the same for a name.
pub(super) fn stable_id(prefix: &str, name: &str) -> String {
    format!("{prefix}{}0", TokenDigest::of(name.as_bytes()).fingerprint())
}

/// Whether something that happens at `rate` (0 to 1) happens this time.
pub(super) fn happens(rate: f64) -> bool {
    rand::random::<f64>() < rate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_look_right_and_differ() {
        let id = uuid();
        let at = |index| id.chars().nth(index).unwrap();
        assert_eq!((id.len(), at(8), at(14)), (36, '-', '4'), "{id}");
        assert!("89ab".contains(at(19)), "{id}");
        assert_ne!(id, uuid());
        assert!(text(UPPER, 16).bytes().all(|byte| UPPER.contains(&byte)));
        assert!(happens(1.0) && !happens(0.0));
    }
}
