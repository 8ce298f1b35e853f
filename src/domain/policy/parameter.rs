//! Parameters of STS that take text of the operator's making: which characters and how many (STS API, `AssumeRole`).

use std::ops::RangeInclusive;

use aws_lc_rs::digest::{SHA256, digest};

/// Begins what is put in place of what a name had too much of. No name of Kubernetes has it.
const MARK: char = '=';

/// Hexadecimal digits of the digest.
const DIGITS: usize = 16;

/// A parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parameter {
    /// `RoleSessionName`.
    SessionName,
    /// `SourceIdentity`.
    SourceIdentity,
    /// `ExternalId`.
    ExternalId,
    /// `Tags.member.N.Key`.
    TagKey,
    /// `Tags.member.N.Value`.
    TagValue,
}

impl Parameter {
    /// As the policy's author calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SessionName => "a session name",
            Self::SourceIdentity => "a source identity",
            Self::ExternalId => "an external id",
            Self::TagKey => "a tag's key",
            Self::TagValue => "a tag's value",
        }
    }

    /// How many characters it has.
    pub(super) fn length(self) -> RangeInclusive<usize> {
        match self {
            Self::SessionName | Self::SourceIdentity => 2..=64,
            Self::ExternalId => 2..=1224,
            Self::TagKey => 1..=128,
            Self::TagValue => 0..=256,
        }
    }

    /// Whether it may hold `character`.
    pub(super) fn allows(self, character: char) -> bool {
        match self {
            Self::SessionName | Self::SourceIdentity => is_name(character),
            Self::ExternalId => is_name(character) || matches!(character, ':' | '/'),
            Self::TagKey | Self::TagValue => is_tag(character),
        }
    }

    /// The characters in words.
    fn alphabet(self) -> &'static str {
        match self {
            Self::SessionName | Self::SourceIdentity => "ASCII letters, digits and _+=,.@-",
            Self::ExternalId => "ASCII letters, digits and _+=,.@:/-",
            Self::TagKey | Self::TagValue => "letters, digits, spaces and _.:/=+-@",
        }
    }

    /// Why `text` can't be the parameter, if it can't.
    pub(super) fn check(self, text: &str) -> Result<(), String> {
        self.check_characters(text)?;
        let (length, allowed) = (text.chars().count(), self.length());
        if allowed.contains(&length) {
            return Ok(());
        }
        let (least, most) = allowed.into_inner();
        let characters = if length == 1 { "character" } else { "characters" };
        Err(format!("has {length} {characters}: {} has {least} to {most}", self.name()))
    }

    /// Why `text` can't be a part of the parameter, if it can't.
    pub(super) fn check_characters(self, text: &str) -> Result<(), String> {
        match text.chars().find(|character| !self.allows(*character)) {
            Some(odd) => Err(format!("has {odd:?}: {} has {} only", self.name(), self.alphabet())),
            None => Ok(()),
        }
    }
}

/// Makes `value` fit a session name or source identity. What fits already stays as it is; what does not is cut and ends in a
/// digest of the whole, so that different values stay different. What fits but looks cut is taken for one that does not fit:
/// it might be another value's.
pub(super) fn fit(value: String) -> String {
    if Parameter::SessionName.check(&value).is_ok() && !looks_cut(&value) {
        return value;
    }
    let most = *Parameter::SessionName.length().end() - DIGITS - MARK.len_utf8();
    let kept = value.chars().take(most).map(|character| if is_name(character) { character } else { '-' });
    let digest = digest(&SHA256, value.as_bytes());
    let digits: String = digest.as_ref().iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect();
    kept.chain([MARK]).chain(digits.chars()).collect()
}

fn looks_cut(value: &str) -> bool {
    value.rsplit_once(MARK).is_some_and(|(_, end)| end.len() == DIGITS && end.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// `[\w+=,.@-]`.
fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '+' | '=' | ',' | '.' | '@' | '-')
}

/// `[\p{L}\p{Z}\p{N}_.:/=+\-@]`; combining marks pass too, and STS refuses those itself.
fn is_tag(character: char) -> bool {
    let is_separator = character.is_whitespace() && !character.is_control();
    character.is_alphanumeric() || is_separator || matches!(character, '_' | '.' | ':' | '/' | '=' | '+' | '-' | '@')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_fits_stays_and_what_does_not_ends_in_its_digest() {
        assert_eq!(fit("team-a.builder".into()), "team-a.builder");
        assert_eq!(fit("a".into()), "a=ca978112ca1bbdca");
        let long = fit(format!("{}.{}", "n".repeat(63), "s".repeat(253)));
        assert_eq!((long.len(), &long[..48]), (64, &*format!("{}=", "n".repeat(47))));
        let cut = fit("x".repeat(65));
        assert_ne!(fit(cut.clone()), cut, "a name that looks cut might be another's");
    }

    #[test]
    fn a_tag_holds_letters_of_any_script_and_no_control_character() {
        assert_eq!(Parameter::TagValue.check("Équipe 7: a/b=c+d-e@f_g.h\u{a0}漢"), Ok(()));
        for odd in ["a\tb", "a\nb", "a\0", "a;b", "a*", "😀"] {
            assert!(Parameter::TagValue.check(odd).is_err(), "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_made_fit_fits(value in "\\PC{0,80}") {
            prop_assert_eq!(Parameter::SessionName.check(&fit(value)), Ok(()));
        }

        #[test]
        fn different_values_stay_different(one in "[a-c=]{0,3}[0-9a-f]{14,60}", other in "[a-c=]{0,3}[0-9a-f]{14,60}") {
            prop_assert!(one == other || fit(one) != fit(other));
        }

        #[test]
        fn values_that_differ_only_at_their_ends_stay_different(start in "[a-z.=-]{40,80}", one in "[a-z/é]{0,3}", other in "[a-z/é]{0,3}") {
            prop_assert!(one == other || fit(start.clone() + &one) != fit(start + &other));
        }

        #[test]
        fn a_name_that_was_made_fit_is_nobody_elses(value in "[a-z=]{60,80}") {
            let cut = fit(value.clone());
            prop_assert!(value == cut || fit(cut.clone()) != cut);
        }
    }
}
