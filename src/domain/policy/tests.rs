//! What claimants get: by rules, by annotations, by their tokens' audiences.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::domain::refusal::Reason;

const HOUR: Duration = Duration::from_secs(3600);
const CI: &str = "arn:aws:iam::111111111111:role/ci-account-iam-role";
const TARGET: &str = "arn:aws:iam::222222222222:role/target-account-iam-role";

/// The example of the contract, as it stands there.
const EXAMPLE: &str = r#"
rules:                                   # first match wins; names take * globs
  - match: { namespace: default, serviceAccount: s3-sa }
    exchange: pod-identity               # EKS Auth; the association decides the role
  - match: { namespace: ci-namespace, serviceAccount: ci-serviceaccount }
    exchange: web-identity
    role: arn:aws:iam::111111111111:role/ci-account-iam-role
    duration: 1h                         # 1h…12h: less can't keep 20 minutes on what is served, and every role allows 1h
    sessionName: "{namespace}-{serviceAccount}"   # stable; also {pod}, {podUid}, {node}, {cluster}
    targets:
      target-env:                        # GET /v1/credentials/target-env
        chain:                           # each hop: also sourceIdentity, policyArns; tag values and session names are templates
          - role: arn:aws:iam::222222222222:role/target-account-iam-role
            sessionName: xactarget
            externalId: "{cluster}/{namespace}/{serviceAccount}"
            tags: { team: ci }
            transitiveTags: [team]
            duration: 1h                 # a chained session lasts 1 h at most: more is refused when read
            policyArns: []
  - match: { namespace: "team-*", serviceAccount: "*" }
    exchange: pod-identity
    chain: [ { role: "arn:aws:iam::333333333333:role/shared" } ]   # the default role is the end of this chain
"#;

fn policy(text: &str) -> Policy {
    Policy::parse(text, Some("demo".into())).unwrap()
}

fn ci() -> Claimant {
    Claimant::hypothetical("ci-namespace", "ci-serviceaccount")
}

fn hop(role: &str, session_name: &str) -> Hop {
    Hop {
        role: RoleArn::parse(role).unwrap(),
        session_name: session_name.into(),
        duration: HOUR,
        external_id: None,
        source_identity: None,
        tags: Vec::new(),
        transitive_tags: Vec::new(),
        policy_arns: Vec::new(),
    }
}

fn web_identity(role: &str, session_name: &str) -> Exchange {
    let (role, session_name) = (RoleArn::parse(role).unwrap(), session_name.into());
    Exchange::WebIdentity(WebIdentity { role, session_name, duration: HOUR, policy_arns: Vec::new() })
}

fn annotations(pairs: &[(&str, &str)]) -> Result<Annotations, Faults> {
    let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Annotations::parse(&pairs.collect::<BTreeMap<_, _>>())
}

/// Reason and advice of a refusal.
fn refused(grant: Result<Grant, Refusal>) -> (Reason, String) {
    let refusal = grant.unwrap_err();
    (refusal.reason, refusal.advice.unwrap())
}

#[test]
fn the_example_of_the_contract_means_what_it_says() {
    let (policy, sts, eks) = (policy(EXAMPLE), WEB_IDENTITY_AUDIENCE.into(), POD_IDENTITY_AUDIENCE.into());
    let default = policy.case(&ci()).grant(&sts, None, None).unwrap();
    assert_eq!((default.exchange(), default.chain()), (&web_identity(CI, "ci-namespace-ci-serviceaccount"), &[][..]));
    let target = policy.case(&ci()).grant(&sts, Some("target-env"), None).unwrap();
    let expected = Hop {
        external_id: Some("demo/ci-namespace/ci-serviceaccount".into()),
        tags: vec![("team".into(), "ci".into())],
        transitive_tags: vec!["team".into()],
        ..hop(TARGET, "xactarget")
    };
    assert_eq!((target.exchange(), target.chain(), target.target()), (default.exchange(), &[expected][..], Some("target-env")));
    let plain = policy.case(&Claimant::hypothetical("default", "s3-sa")).grant(&eks, None, None).unwrap();
    assert_eq!((plain.exchange(), plain.chain()), (&Exchange::PodIdentity, &[][..]));
    let team = policy.case(&Claimant::hypothetical("team-a", "any")).grant(&eks, None, None).unwrap();
    let shared = hop("arn:aws:iam::333333333333:role/shared", "team-a.any");
    assert_eq!((team.exchange(), team.chain()), (&Exchange::PodIdentity, &[shared][..]));
    assert_eq!(policy.warnings(), []);
}

#[test]
fn the_first_rule_that_matches_decides_alone() {
    let policy = policy(
        "rules:
- {match: {namespace: a, serviceAccount: '*'}, role: 'arn:aws:iam::111111111111:role/one'}
- {match: {namespace: '*', serviceAccount: s}, role: 'arn:aws:iam::111111111111:role/two'}
- {match: {namespace: a, serviceAccount: s-*}, role: 'arn:aws:iam::111111111111:role/three'}
",
    );
    let role = |namespace: &str, account: &str| {
        let grant =
            policy.case(&Claimant::hypothetical(namespace, account)).grant(&WEB_IDENTITY_AUDIENCE.into(), None, None).unwrap();
        let Exchange::WebIdentity(web) = grant.exchange() else { panic!("{grant:?}") };
        web.role.name().to_owned()
    };
    assert_eq!([role("a", "s"), role("b", "s"), role("a", "s-1")], ["one", "two", "one"]);
    let never: Vec<String> = policy.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(never, ["line 4: rules[2]: never decides: the rule in line 2 matches all that it could"]);
    let open = |namespace: &str| policy.case(&Claimant::hypothetical(namespace, "x")).is_open(None);
    assert!(!open("a") && open("b"));
}

#[test]
fn what_an_unknown_caller_gets_leads_on_where_anything_may_follow() {
    let (eks, none) = (Arc::from(POD_IDENTITY_AUDIENCE), Policy::without_rules(Some("demo".into())));
    let unruled = |policy: &Policy, annotated| policy.unruled(&eks, annotated).unwrap();
    let leads_on = [unruled(&none, false), unruled(&none, true), unruled(&policy(EXAMPLE), false)].map(|grant| grant.leads_on());
    assert_eq!(leads_on, [false, true, true]);
    let plain = none.case(&ci()).grant(&eks, None, None).unwrap();
    assert_eq!(unruled(&policy(EXAMPLE), true), plain);
}

#[test]
fn a_rule_wins_over_annotations() {
    let annotations = annotations(&[("eks.amazonaws.com/role-arn", TARGET)]).unwrap();
    let grant = policy(EXAMPLE).case(&ci()).grant(&WEB_IDENTITY_AUDIENCE.into(), None, Some(&annotations)).unwrap();
    assert_eq!(grant.exchange(), &web_identity(CI, "ci-namespace-ci-serviceaccount"));
}

#[test]
fn without_a_rule_the_audience_decides_and_names_are_nobodys() {
    let policy = Policy::without_rules(Some("demo".into()));
    let ask = |audience: &str, target| policy.case(&ci()).grant(&audience.into(), target, None);
    assert_eq!(ask(POD_IDENTITY_AUDIENCE, None).unwrap().exchange(), &Exchange::PodIdentity);
    let (reason, advice) = refused(ask(WEB_IDENTITY_AUDIENCE, None));
    assert!(reason == Reason::NoRole && advice.contains("--service-account-roles"), "{advice}");
    let (reason, advice) = refused(ask("https://example.com", None));
    assert!(reason == Reason::NoRole && advice.contains("audience https://example.com"), "{advice}");
    let (reason, advice) = refused(ask(POD_IDENTITY_AUDIENCE, Some("target-env")));
    assert!(reason == Reason::NoTarget && advice.contains("has no targets"), "{advice}");
    let (_, advice) = refused(Policy::without_rules(None).case(&ci()).grant(&POD_IDENTITY_AUDIENCE.into(), None, None));
    assert!(advice.contains("--cluster-name"), "{advice}");
}

#[test]
fn a_name_is_good_among_the_callers_own_targets_only() {
    let targets = |names: &[String]| -> String {
        names.iter().map(|name| format!("    {name}: {{chain: [{{role: '{TARGET}'}}]}}\n")).collect()
    };
    let many: Vec<String> = (10..35).map(|number| format!("t{number}")).collect();
    let text = format!(
        "rules:\n- match: {{namespace: a, serviceAccount: s}}\n  role: {CI}\n  targets:\n{}\
         - match: {{namespace: b, serviceAccount: s}}\n  role: {CI}\n  targets:\n{}\
         - match: {{namespace: c, serviceAccount: s}}\n  role: {CI}\n",
        targets(&["z".into(), "b".into(), "m".into()]),
        targets(&many),
    );
    let policy = policy(&text);
    let ask = |namespace: &str, name| {
        policy.case(&Claimant::hypothetical(namespace, "s")).grant(&WEB_IDENTITY_AUDIENCE.into(), Some(name), None)
    };
    assert_eq!(ask("a", "m").unwrap().chain(), [hop(TARGET, "a.s")]);
    let (reason, advice) = refused(ask("a", "t10"));
    assert_eq!((reason, &*advice), (Reason::NoTarget, "This pod's service account has these targets: b, m, z"));
    let (_, advice) = refused(ask("b", "m"));
    assert!(advice.ends_with("t28, t29 and 5 more") && !advice.contains("m,"), "{advice}");
    let (_, advice) = refused(ask("c", "m"));
    assert!(advice.contains("has no targets"), "{advice}");
}

#[test]
fn pod_identity_takes_its_own_tokens_only() {
    let grant =
        policy(EXAMPLE).case(&Claimant::hypothetical("default", "s3-sa")).grant(&WEB_IDENTITY_AUDIENCE.into(), None, None);
    let (reason, advice) = refused(grant);
    assert_eq!(reason, Reason::NoRole);
    assert!(advice.contains("rule in line 3 ") && advice.contains("audience pods.eks.amazonaws.com only"), "{advice}");
}

#[test]
fn a_variable_without_a_value_is_a_refusal_that_names_it() {
    for (text, expected) in
        [("{podUid}", "{podUid}, which is not known where only AWS"), ("{node}", "{node}, which this pod's token")]
    {
        let text = format!("rules:\n- match: {{namespace: a, serviceAccount: s}}\n  role: {CI}\n  sessionName: '{text}'\n");
        let grant = policy(&text).case(&Claimant::hypothetical("a", "s")).grant(&WEB_IDENTITY_AUDIENCE.into(), None, None);
        let (reason, advice) = refused(grant);
        assert!(reason == Reason::NoRole && advice.contains(expected) && advice.contains("line 2"), "{advice}");
    }
}

#[test]
fn what_aws_would_not_take_is_a_refusal_not_a_cut() {
    let text = format!(
        "rules:\n- match: {{namespace: a, serviceAccount: s}}\n  role: {CI}\n  chain: [{{role: '{TARGET}', tags: {{pod: '{{pod}}-{{pod}}'}}}}]\n"
    );
    let who = Claimant { pod: Some("p".repeat(200)), ..Claimant::hypothetical("a", "s") };
    let (reason, advice) = refused(policy(&text).case(&who).grant(&WEB_IDENTITY_AUDIENCE.into(), None, None));
    assert!(reason == Reason::NoRole && advice.contains("a tag's value"), "{advice}");
}

#[test]
fn annotations_lead_from_either_audience() {
    let irsa = ("eks.amazonaws.com/role-arn", CI);
    let target = [("credlet.io/target-role-arn", TARGET), ("credlet.io/external-id", "{cluster}-x")];
    let own = [("credlet.io/session-name", "{serviceAccount}@{namespace}"), ("credlet.io/duration", "2h")];
    let whole = [&[irsa][..], &target, &own].concat();
    let policy = Policy::without_rules(Some("demo".into()));
    let ask = |pairs: &[(&str, &str)], audience: &str| {
        policy.case(&ci()).grant(&audience.into(), None, Some(&annotations(pairs).unwrap()))
    };
    let name = "ci-serviceaccount@ci-namespace";
    let last = Hop { external_id: Some("demo-x".into()), ..hop(TARGET, name) };

    let grant = ask(&whole, WEB_IDENTITY_AUDIENCE).unwrap();
    let Exchange::WebIdentity(web) = web_identity(CI, name) else { unreachable!() };
    let web = Exchange::WebIdentity(WebIdentity { duration: 2 * HOUR, ..web });
    assert_eq!((grant.exchange(), grant.chain()), (&web, std::slice::from_ref(&last)));
    let grant = ask(&whole, POD_IDENTITY_AUDIENCE).unwrap();
    assert_eq!((grant.exchange(), grant.chain()), (&Exchange::PodIdentity, std::slice::from_ref(&last)));
    let grant = ask(&[irsa], POD_IDENTITY_AUDIENCE).unwrap();
    assert_eq!((grant.exchange(), grant.chain()), (&Exchange::PodIdentity, &[][..]));
    let grant = ask(&[irsa], WEB_IDENTITY_AUDIENCE).unwrap();
    assert_eq!(grant.exchange(), &web_identity(CI, "ci-namespace.ci-serviceaccount"));

    for pairs in [&[][..], &target, &[("eks.amazonaws.com/role-arn", "")]] {
        let (reason, advice) = refused(ask(pairs, WEB_IDENTITY_AUDIENCE));
        assert!(reason == Reason::NoRole && advice.contains("with eks.amazonaws.com/role-arn"), "{advice}");
    }
    let (_, advice) = refused(ask(&whole, "other"));
    assert!(advice.contains("audience other"), "{advice}");
}

#[test]
fn faulty_annotations_are_told_all_and_by_name() {
    let faults = annotations(&[
        ("eks.amazonaws.com/role-arn", "ignored"),
        ("eks.amazonaws.com/token-expiration", "not ours"),
        ("credlet.io/target-role-arn", "arn:aws:iam::1:role/r"),
        ("credlet.io/external-id", "a b"),
        ("credlet.io/sessionname", "x"),
        ("credlet.io/session-name", "{pot}"),
        ("credlet.io/duration", "13h"),
    ]);
    let faults = faults.unwrap_err();
    let keys: HashSet<&str> = faults.0.iter().filter_map(|fault| fault.path.strip_prefix("credlet.io/")).collect();
    assert_eq!(keys, HashSet::from(["target-role-arn", "external-id", "sessionname", "session-name", "duration"]));
    assert_eq!(faults.0.len(), 5, "{faults}");
    assert!(
        faults.to_string().contains("credlet.io/sessionname: is not known: did you mean credlet.io/session-name?"),
        "{faults}"
    );
    let refusal = faulty(&faults);
    assert!(refusal.cause.matches("credlet.io/").count() >= 5 && !refusal.cause.contains('\n'), "{}", refusal.cause);
    let (reason, advice) = refused(Err(refusal));
    assert!(reason == Reason::NoRole && advice.contains(" credlet.io/") && advice.ends_with("(and 4 more)"), "{advice}");

    let lonely =
        annotations(&[("credlet.io/external-id", "ab"), ("credlet.io/duration", "1h"), ("credlet.io/session-name", "ab")]);
    assert_eq!(lonely.unwrap_err().0.len(), 3);
}

#[test]
fn the_annotation_of_irsa_matters_only_where_it_is_needed() {
    let odd = annotations(&[("eks.amazonaws.com/role-arn", "arn:aws:iam::ACCOUNT_ID:role/from-a-chart")]).unwrap();
    let policy = Policy::without_rules(Some("demo".into()));
    assert!(policy.case(&ci()).grant(&POD_IDENTITY_AUDIENCE.into(), None, Some(&odd)).is_ok());
    let (reason, advice) = refused(policy.case(&ci()).grant(&WEB_IDENTITY_AUDIENCE.into(), None, Some(&odd)));
    assert!(
        reason == Reason::NoRole && advice.contains("eks.amazonaws.com/role-arn: \"ACCOUNT_ID\" is not an account"),
        "{advice}"
    );
}

#[test]
fn ten_thousand_rules_are_read_and_the_last_one_found() {
    let rule = |number| format!("- {{match: {{namespace: 'team-{number}-*', serviceAccount: '*'}}}}\n");
    let text: String = std::iter::once("rules:\n".to_owned()).chain((0..10_000).map(rule)).collect();
    let policy = policy(&text);
    assert_eq!(
        policy.case(&Claimant::hypothetical("team-9999-x", "s")).rule().map(|(index, rule)| (index, rule.line())),
        Some((9999, 10_001))
    );
    let audience: Arc<str> = POD_IDENTITY_AUDIENCE.into();
    assert!(policy.case(&Claimant::hypothetical("team-9999-x", "s")).grant(&audience, None, None).is_ok());
    let faults = Policy::parse(&(text + &rule(10_000)), None).unwrap_err();
    assert_eq!(faults.to_string(), "line 2: rules: has 10001 rules: 10000 are read at most");
}
