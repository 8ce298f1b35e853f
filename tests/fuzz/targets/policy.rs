//! Whatever is written into a policy file: it is refused with faults that lead somewhere, or all that it ever grants is what STS
//! takes, to roles that are written in it, by the first rule that is about the claimant.

#![no_main]

use std::sync::Arc;
use std::time::Duration;

use credlet::domain::policy::{
    Claimant, Exchange, Faults, Grant, Hop, POD_IDENTITY_AUDIENCE, Policy, Rule, WEB_IDENTITY_AUDIENCE,
};
use libfuzzer_sys::fuzz_target;

const HOUR: Duration = Duration::from_secs(3600);
/// More than this would be many faults of one kind.
const RULES: usize = 64;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Policy::parse(text, Some("demo".into())) {
        Ok(policy) => grants(&policy, text),
        Err(faults) => lead_somewhere(&faults, text),
    }
    // Without a cluster's name a file can only be refused for more.
    let nameless = Policy::parse(text, None);
    assert!(nameless.is_err() || Policy::parse(text, Some("demo".into())).is_ok());
});

fn lead_somewhere(Faults(faults): &Faults, text: &str) {
    // A line ends at a line feed, a carriage return, or both; the end of the file is a line too.
    let lines = text.matches(['\n', '\r']).count() + 1;
    assert!(!faults.is_empty());
    // The one about the file as a whole comes last: how many more there are.
    assert!(faults.is_sorted_by_key(|fault| fault.line.unwrap_or(usize::MAX)), "{faults:?}");
    for fault in faults {
        assert!(fault.line.is_none_or(|line| (1..=lines).contains(&line)), "{fault:?}");
        assert!(!fault.message.is_empty() && !fault.to_string().contains(['\n', '\r']), "{fault:?}");
    }
}

fn grants(policy: &Policy, text: &str) {
    let _ = policy.warnings();
    for rule in policy.rules().iter().take(RULES) {
        for filling in ["", "a", "a-0"] {
            let [namespace, account] = rule.patterns().map(|pattern| pattern.replace('*', filling));
            let who = Claimant::hypothetical(&namespace, &account);
            ask(policy, &who, text);
            ask(policy, &who.in_pod("app-0", "0b6bfad1-0000-4000-8000-000000000000", "node-1"), text);
        }
    }
    ask(policy, &Claimant::hypothetical("nobody-s", "account"), text);
}

fn ask(policy: &Policy, who: &Claimant, text: &str) {
    let about = |rule: &Rule| {
        let [namespace, account] = rule.patterns();
        matches(namespace.as_bytes(), who.namespace().as_bytes()) && matches(account.as_bytes(), who.service_account().as_bytes())
    };
    let case = policy.case(who);
    let expected = policy.rules().iter().position(about);
    assert_eq!(case.rule().map(|(index, _)| index), expected);
    let targets = case.rule().into_iter().flat_map(|(_, rule)| rule.targets().map(Some)).chain([None, Some("no-such")]);
    for target in targets {
        for audience in [POD_IDENTITY_AUDIENCE, WEB_IDENTITY_AUDIENCE, "other"] {
            let Ok(grant) = case.grant(&Arc::from(audience), target, None) else { continue };
            assert!(
                target != Some("no-such") || case.rule().is_some_and(|(_, rule)| rule.targets().any(|name| name == "no-such"))
            );
            assert_eq!((&**grant.audience(), grant.target()), (audience, target));
            is_callable(&grant, text);
        }
    }
}

/// The definition of an asterisk, word for word; patterns are short.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for piece in pattern {
        let before = reached.clone();
        for end in 0..=name.len() {
            let passed = end.checked_sub(1);
            reached[end] = match piece {
                b'*' => before[end] || passed.is_some_and(|at| reached[at]),
                one => passed.is_some_and(|at| before[at] && name[at] == *one),
            };
        }
    }
    reached[name.len()]
}

/// What STS takes (STS API, `AssumeRole`, `AssumeRoleWithWebIdentity`), and what credlet promises to ask for.
fn is_callable(grant: &Grant, text: &str) {
    if let Exchange::WebIdentity(web) = grant.exchange() {
        is_role(web.role.as_str(), text);
        is_name(&web.session_name);
        assert!((HOUR..=12 * HOUR).contains(&web.duration), "{web:?}");
        web.policy_arns.iter().for_each(|arn| is_written(arn, text));
    }
    for hop in grant.chain() {
        is_role(hop.role.as_str(), text);
        is_name(&hop.session_name);
        hop.source_identity.iter().for_each(|name| is_name(name));
        assert!((HOUR * 3 / 4..=HOUR).contains(&hop.duration), "{hop:?}");
        assert!(hop.external_id.as_ref().is_none_or(|id| (2..=1_224).contains(&id.len())), "{hop:?}");
        assert!(hop.policy_arns.len() <= 10, "{hop:?}");
        hop.policy_arns.iter().for_each(|arn| is_written(arn, text));
        are_tags(hop);
    }
}

fn are_tags(hop: &Hop) {
    let characters = |text: &str| text.chars().count();
    assert!(hop.tags.len() <= 50, "{hop:?}");
    for (key, value) in &hop.tags {
        assert!((1..=128).contains(&characters(key)) && characters(value) <= 256, "{hop:?}");
        assert_eq!(hop.tags.iter().filter(|(other, _)| other.to_lowercase() == key.to_lowercase()).count(), 1, "{hop:?}");
    }
    assert!(hop.transitive_tags.iter().all(|name| hop.tags.iter().any(|(key, _)| key == name)), "{hop:?}");
}

fn is_name(name: &str) {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    assert!((2..=64).contains(&name.len()) && name.bytes().all(known), "{name}");
}

/// `arn:PARTITION:iam::ACCOUNT:role/NAME`.
fn is_role(arn: &str, text: &str) {
    let fields: Vec<&str> = arn.splitn(6, ':').collect();
    let [_, _, "iam", "", account, resource] = fields[..] else { panic!("{arn}") };
    assert!(account.len() == 12 && resource.starts_with("role/") && arn.bytes().all(|byte| byte.is_ascii_graphic()), "{arn}");
    is_written(arn, text);
}

/// Only the operator names a role: it stands in the file, unless that writes it with escapes.
fn is_written(arn: &str, text: &str) {
    assert!(text.contains('\\') || text.contains(arn), "{arn}");
}
