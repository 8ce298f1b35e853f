//! Bad files, and what a person is told of each: every fault with its line and path.

use super::*;

/// A file, and of each of its faults the line (0: the file as a whole), the path and words of the message.
type Row = (&'static str, &'static [(usize, &'static str, &'static str)]);

fn faults(text: &str, cluster: Option<&str>) -> Vec<Fault> {
    Policy::parse(text, cluster.map(Arc::from)).map_or_else(|faults| faults.0, |policy| panic!("{policy:?} of {text}"))
}

fn check(rows: &[Row]) {
    for (text, expected) in rows {
        let found = faults(text, Some("demo"));
        let told: Vec<(usize, &str)> = found.iter().map(|fault| (fault.line.unwrap_or(0), &*fault.path)).collect();
        let places: Vec<(usize, &str)> = expected.iter().map(|(line, path, _)| (*line, *path)).collect();
        assert_eq!(told, places, "{found:#?}\n{text}");
        for (fault, (.., words)) in found.iter().zip(*expected) {
            assert!(fault.message.contains(words), "{fault}\nlacks: {words}\n{text}");
            assert!(!fault.message.contains('\n') && fault.message.len() < 400, "{fault}");
        }
    }
}

#[test]
fn files_that_are_no_policy() {
    check(&[
        ("", &[(0, "", "empty: write `rules: []`")]),
        ("# nothing\n", &[(0, "", "empty")]),
        ("---\n", &[(0, "", "empty")]),
        ("rules", &[(1, "", "is text, where a map")]),
        ("- match: {}\n", &[(1, "", "is a list, where a map")]),
        ("{}", &[(1, "", "rules is missing")]),
        ("rule: []\n", &[(1, "rule", "did you mean rules?"), (1, "", "rules is missing")]),
        ("version: 1\nrules: []\n", &[(1, "version", "rules may stand here")]),
        ("rules:\n", &[(1, "rules", "is empty: write []")]),
        ("rules: none\n", &[(1, "rules", "is text, where a list")]),
        ("rules:\n  match: {namespace: a, serviceAccount: b}\n", &[(2, "rules", "begin each item with a dash")]),
        ("rules: []\nrules: []\n", &[(2, "rules", "is there in line 1 already")]),
        ("rules: []\n---\nrules: []\n", &[(3, "", "a second document")]),
        (
            "apiVersion: v1\nkind: ConfigMap\ndata:\n  policy.yaml: |\n    rules: []\n",
            &[(1, "", "is a whole \"ConfigMap\" of Kubernetes: the policy is what stands under one of the keys of its data")],
        ),
        ("rules: []\n<<<<<<< HEAD\n=======\n>>>>>>> other\n", &[(2, "", "a merge was left unfinished here")]),
        ("rules: []\n=======\n", &[(2, "", "a merge was left unfinished here")]),
        ("rules: []\n>>>>>>> other\n", &[(2, "", "a merge was left unfinished here")]),
        ("rules:[]\n", &[(1, "", "a space is missing after rules:")]),
        ("%YAML 1.2\n---\nrules: []\n", &[(1, "", "directives")]),
    ]);
}

#[test]
fn what_yaml_does_to_people() {
    check(&[
        ("rules:\n\t- match: {}\n", &[(2, "", "a tab")]),
        ("rules:\n- match: {namespace: a, serviceAccount: *}\n", &[(2, "", "begins with * in double quotes")]),
        (
            "rules:\n- match:\n    namespace: *-dev\n    serviceAccount: *a\n",
            &[(3, "rules[0].match.namespace", "in quotes"), (4, "rules[0].match.serviceAccount", "aliases")],
        ),
        ("rules: &all\n- match: {namespace: a, serviceAccount: b}\n", &[(1, "rules", "anchors")]),
        ("rules: !!seq []\n", &[(1, "rules", "tags (!name)")]),
        (
            "rules:\n- match: {namespace: no, serviceAccount: 012}\n  exchange: 1e3\n",
            &[
                (2, "rules[0].match.namespace", "is a boolean in YAML, where text is expected: write \"no\" in quotes"),
                (2, "rules[0].match.serviceAccount", "is a number in YAML, where text is expected: write \"012\" in quotes"),
                (3, "rules[0].exchange", "write \"1e3\" in quotes"),
            ],
        ),
        (
            "rules:\n- match: {namespace: y, serviceAccount: N}\n",
            &[
                (2, "rules[0].match.namespace", "is a boolean in some parsers of YAML, where text is expected: write \"y\" in"),
                (2, "rules[0].match.serviceAccount", "in some parsers"),
            ],
        ),
        (
            "rules:\n- match: {namespace: !a, serviceAccount: !!str 5}\n  chain: !b\n  role: !c {d}\n",
            &[
                (2, "rules[0].match.namespace", "tags (!name)"),
                (2, "rules[0].match.serviceAccount", "tags (!name)"),
                (3, "rules[0].chain", "tags (!name)"),
                (4, "rules[0].role", "tags (!name)"),
            ],
        ),
        (
            "rules:\n- match: {namespace: a, serviceAccount: b}\n  <<: {exchange: pod-identity}\n",
            &[(3, "rules[0]", "merge keys")],
        ),
        ("rules:\n- match: {namespace: a, serviceAccount: b\n", &[(2, "", "is not YAML: unclosed bracket")]),
        ("rules:\n- match: [a, b]\n", &[(2, "rules[0].match", "is a list, where a map")]),
        ("rules:\n- a-rule\n", &[(2, "rules[0]", "is text, where a map")]),
        ("rules:\n- match: {namespace: a, serviceAccount: b}\n  ? [x]\n  : y\n", &[(3, "rules[0]", "a key is text")]),
        ("rules: [[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]\n", &[(1, "", "too deeply")]),
        (
            "rules:\n- match: {namespace: a, serviceAccount: b}\n  role: arn:aws:iam::111111111111:role/r\n  sessionName: {namespace}\n",
            &[(4, "rules[0].sessionName", "begins with a brace needs quotes, as in \"{namespace}\"")],
        ),
    ]);
    let large = format!("rules: []\n#{}", "x".repeat(1 << 20));
    assert!(faults(&large, None)[0].message.contains("larger than 1 MiB"));
}

#[test]
fn rules_about_nobody() {
    check(&[
        ("rules:\n- exchange: pod-identity\n", &[(2, "rules[0]", "match is missing")]),
        (
            "rules:\n- match: {namespace: a}\n- match: {serviceAccount: b}\n- match:\n",
            &[
                (2, "rules[0].match", "serviceAccount is missing"),
                (3, "rules[1].match", "namespace is missing"),
                (4, "rules[2].match", "is empty, where a map"),
            ],
        ),
        (
            "rules:\n- match: {namespace: Team-A, serviceAccount: a_b}\n- match: {namespace: a.b, serviceAccount: ''}\n",
            &[
                (2, "rules[0].match.namespace", "can't match: no name of Kubernetes has 'T' here"),
                (2, "rules[0].match.serviceAccount", "has '_' here"),
                (3, "rules[1].match.namespace", "has '.' here"),
                (3, "rules[1].match.serviceAccount", "write \"*\" for any"),
            ],
        ),
        (
            "rules:\n- match: {namespace: a, serviceaccount: b, pod: c}\n",
            &[
                (2, "rules[0].match.serviceaccount", "did you mean serviceAccount?"),
                (2, "rules[0].match.pod", "namespace or serviceAccount may stand here"),
                (2, "rules[0].match", "serviceAccount is missing"),
            ],
        ),
    ]);
}

/// One rule whose further lines are `rest`, the first of them being line 3.
fn rule(rest: &str) -> String {
    format!("rules:\n- match: {{namespace: a, serviceAccount: b}}\n{rest}")
}

/// As [`check`], of [`rule`]s.
fn check_rules(rows: &[Row]) {
    for (rest, expected) in rows {
        let text: &'static str = rule(rest).leak();
        check(&[(text, expected)]);
    }
}

#[test]
fn text_without_quotes() {
    check_rules(&[
        ("  sessionName: {namespace}-{serviceAccount}\n  role: x\n", &[(3, "", "put text that begins with { in double quotes")]),
        ("  sessionName: {{namespace}}-{{serviceAccount}}\n", &[(3, "", "begins with { in double quotes")]),
        (
            "  role: arn:aws:iam::111111111111:role/r\n  sessionName: {namespace:n}\n",
            &[(4, "rules[0].sessionName", "needs quotes")],
        ),
        ("  sessionName: [a]b\n", &[(3, "", "begins with [ in double quotes")]),
        ("  sessionName: @x\n", &[(3, "", "begins with @ in double quotes")]),
        ("  sessionName: %x\n", &[(3, "", "begins with % in double quotes")]),
        ("  sessionName: `x\n", &[(3, "", "begins with ` in double quotes")]),
        ("  sessionName: *\n", &[(3, "", "begins with * in double quotes")]),
        ("  sessionName: &\n", &[(3, "", "begins with & in double quotes")]),
        ("  sessionName: !<\n", &[(3, "", "begins with ! in double quotes")]),
        ("  policyArns: [{namespace}-x]\n", &[(3, "", "begins with { in double quotes")]),
        ("  policyArns:\n  - {namespace}-x\n", &[(4, "", "begins with { in double quotes")]),
        ("  chain: [{role: x, tags: {a: {pod}-x, b: c}}]\n", &[(3, "", "begins with { in double quotes")]),
        ("  chain: [{sessionName: @x, role: x}]\n", &[(3, "", "begins with @ in double quotes")]),
    ]);
}

#[test]
fn colons_without_a_space() {
    check_rules(&[
        ("  role:arn:aws:iam::111111111111:role/r\n", &[(3, "", "a space is missing after role:")]),
        ("  duration: 1h\n  role:\"arn:aws:iam::111111111111:role/r\"\n", &[(4, "", "a space is missing after role:")]),
        ("  chain:\n  - role:x\n    duration: 1h\n", &[(5, "", "a space is missing after role:")]),
        ("  chain:\n  - role:x\n", &[(4, "rules[0].chain[0]", "a space is missing after role:")]),
        (
            "  chain: [{role:x}]\n",
            &[(3, "rules[0].chain[0].\"role:x\"", "a space is missing after role:"), (3, "rules[0].chain[0]", "role is missing")],
        ),
    ]);
}

#[test]
fn exchanges_that_can_not_be() {
    check_rules(&[
        ("  exchange: irsa\n", &[(3, "rules[0].exchange", "\"irsa\" is not an exchange: pod-identity and web-identity are")]),
        ("  exchange: web-identity\n", &[(2, "rules[0]", "role is missing")]),
        (
            "  exchange: pod-identity\n  role: arn:aws:iam::111111111111:role/r\n  duration: 1h\n  sessionName: x\n  policyArns: []\n",
            &[
                (4, "rules[0].role", "goes with exchange: web-identity only"),
                (5, "rules[0].duration", "goes with"),
                (6, "rules[0].sessionName", "goes with"),
                (7, "rules[0].policyArns", "goes with"),
            ],
        ),
        ("  duration: 1h\n", &[(3, "rules[0].duration", "goes with exchange: web-identity only")]),
        (
            "  roleArn: arn:aws:iam::111111111111:role/r\n  session_name: x\n",
            &[(3, "rules[0].roleArn", "did you mean role?"), (4, "rules[0].session_name", "did you mean sessionName?")],
        ),
        ("  role: arn:aws:iam::111111111111:user/bob\n", &[(3, "rules[0].role", "is the ARN of a user")]),
        (
            "  role: arn:aws:sts::111111111111:assumed-role/r/s\n",
            &[(3, "rules[0].role", "is the ARN of a session: name its role")],
        ),
        ("  role: my-role\n", &[(3, "rules[0].role", "is not an ARN")]),
        (
            "  role: arn:aws:iam::1111:role/r\n  duration: 30m\n  sessionName: '{nmespace}'\n",
            &[
                (3, "rules[0].role", "12 digits"),
                (4, "rules[0].duration", "30m is too short"),
                (5, "rules[0].sessionName", "is not a variable: {namespace}, "),
            ],
        ),
        (
            "  role: arn:aws:iam::111111111111:role/r\n  duration: 13h\n  sessionName: x\n",
            &[
                (4, "rules[0].duration", "13h is too long"),
                (5, "rules[0].sessionName", "has 1 character: a session name has 2 to 64"),
            ],
        ),
        (
            "  role: arn:aws:iam::111111111111:role/r\n  duration: 3600\n  sessionName: 'a b'\n",
            &[
                (
                    4,
                    "rules[0].duration",
                    "\"3600\" is not a duration, in whole seconds and with their unit: 1h, 90m and 3600s are",
                ),
                (5, "rules[0].sessionName", "has ' '"),
            ],
        ),
        ("  role: arn:aws:iam::111111111111:role/r\n  duration: '3600'\n", &[(4, "rules[0].duration", "not a duration")]),
        (
            "  role: arn:aws:iam::111111111111:role/r\n  policyArns:\n  - ReadOnly\n  - arn:aws:iam::222222222222:policy/p\n",
            &[
                (5, "rules[0].policyArns[0]", "is not an ARN"),
                (6, "rules[0].policyArns[1]", "is not of the role's account 111111111111"),
            ],
        ),
        ("  role:\n  chain:\n", &[(3, "rules[0].role", "is empty"), (4, "rules[0].chain", "is empty: write []")]),
    ]);
}

#[test]
fn chains_that_aws_would_refuse() {
    check_rules(&[
        ("  chain:\n  - sessionName: xy\n", &[(4, "rules[0].chain[0]", "role is missing")]),
        (
            "  chain:\n  - role: arn:aws:iam::111111111111:role/r\n    duration: 2h\n  - role: arn:aws:iam::111111111111:role/r\n    duration: 15m\n",
            &[
                (5, "rules[0].chain[0].duration", "a chained session lasts 1h at most"),
                (7, "rules[0].chain[1].duration", "can't keep 20 minutes on what is served"),
            ],
        ),
        (
            "  chain:\n  - role: arn:aws:iam::111111111111:role/r\n    externalId: 12345\n    sourceIdentity: a/b\n    externalid: x\n",
            &[
                (5, "rules[0].chain[0].externalId", "write \"12345\" in quotes"),
                (6, "rules[0].chain[0].sourceIdentity", "has '/'"),
                (7, "rules[0].chain[0].externalid", "did you mean externalId?"),
            ],
        ),
        (
            "  chain:\n  - role: arn:aws:iam::111111111111:role/r\n    tags: {Kubernetes-Namespace: x, aws:x: z, 'a*': b, c: 'd;', e: 1, E: f}\n",
            &[
                (5, "rules[0].chain[0].tags.Kubernetes-Namespace", "is inherited"),
                (5, "rules[0].chain[0].tags.\"aws:x\"", "begins with aws:"),
                (5, "rules[0].chain[0].tags.\"a*\"", "has '*'"),
                (5, "rules[0].chain[0].tags.c", "has ';'"),
                (5, "rules[0].chain[0].tags.e", "is a number"),
                (5, "rules[0].chain[0].tags.E", "is the same key as \"e\""),
            ],
        ),
        (
            "  role: arn:aws:iam::111111111111:role/r\n  chain:\n  - role: arn:aws:iam::111111111111:role/r\n    tags: {team: x}\n    \
             transitiveTags: [team, Team, team]\n  - role: arn:aws:iam::111111111111:role/r\n    tags: {TEAM: x}\n",
            &[
                (7, "rules[0].chain[0].transitiveTags[1]", "\"Team\" is none of this hop's tags"),
                (7, "rules[0].chain[0].transitiveTags[2]", "is there already"),
                (9, "rules[0].chain[1].tags.TEAM", "is inherited"),
            ],
        ),
        (
            "  chain:\n  - {role: 'arn:aws:iam::111111111111:role/r', sourceIdentity: '{pod}'}\n  - role: arn:aws:iam::111111111111:role/r\n  \
             - {role: 'arn:aws:iam::111111111111:role/r', sourceIdentity: '{pod}'}\n  - {role: 'arn:aws:iam::111111111111:role/r', sourceIdentity: other}\n",
            &[(7, "rules[0].chain[3].sourceIdentity", "differs from that of an earlier hop")],
        ),
        (
            "  role: arn:aws:iam::111111111111:role/r\n  chain:\n  - role: arn:aws-cn:iam::111111111111:role/r\n",
            &[(5, "rules[0].chain[0].role", "is of partition aws-cn, and no session of aws can")],
        ),
        ("  chain: {role: x}\n", &[(3, "rules[0].chain", "begin each item with a dash")]),
    ]);
}

#[test]
fn targets_that_nobody_could_ask_for() {
    check_rules(&[
        ("  targets: [a]\n", &[(3, "rules[0].targets", "leave the dashes out")]),
        (
            "  targets:\n    a b: {chain: [{role: 'arn:aws:iam::111111111111:role/r'}]}\n    ..: {chain: [{role: 'arn:aws:iam::111111111111:role/r'}]}\n",
            &[
                (4, "rules[0].targets.\"a b\"", "no name for a target"),
                (5, "rules[0].targets...", "clients take it out of the path"),
            ],
        ),
        (
            "  targets:\n    one: {}\n    two: {chain: []}\n    three: {role: x}\n    four:\n",
            &[
                (4, "rules[0].targets.one", "chain is missing"),
                (5, "rules[0].targets.two.chain", "a target is the end of a chain"),
                (6, "rules[0].targets.three.role", "chain may stand here"),
                (6, "rules[0].targets.three", "chain is missing"),
                (7, "rules[0].targets.four", "is empty, where a map"),
            ],
        ),
        (
            "  targets:\n    one: {chain: [{role: 'arn:aws:iam::111111111111:role/r'}]}\n    one: {chain: []}\n    1: {chain: []}\n",
            &[(5, "rules[0].targets.one", "is there in line 4 already"), (6, "rules[0].targets", "write \"1\" in quotes")],
        ),
        (
            "  targets:\n    env:\n      chain:\n      - role: arn:aws:iam::111111111111:role/r\n        duration: 3h\n",
            &[(7, "rules[0].targets.env.chain[0].duration", "3h is too long")],
        ),
    ]);
}

#[test]
fn what_needs_the_clusters_name_is_a_fault_without_one() {
    let text = rule(
        "  exchange: pod-identity
- match: {namespace: c, serviceAccount: d}
- match: {namespace: e, serviceAccount: f}
  role: arn:aws:iam::111111111111:role/r
  sessionName: '{cluster}'
",
    );
    let told: Vec<(Option<usize>, String)> = faults(&text, None).into_iter().map(|fault| (fault.line, fault.path)).collect();
    let expected = [(3, "rules[0].exchange"), (4, "rules[1]"), (7, "rules[2].sessionName")];
    assert_eq!(told, expected.map(|(line, path)| (Some(line), path.to_owned())));
    assert!(Policy::parse(&text, Some("demo".into())).is_ok());
}

#[test]
fn limits_of_one_call() {
    let many = |count: usize, item: fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(", ");
    let hop = |rest: String| rule(&format!("  chain: [{{role: 'arn:aws:iam::111111111111:role/r', {rest}}}]\n"));
    let tags = |count| hop(format!("tags: {{{}}}", many(count, |number| format!("k{number}: v"))));
    let policies = |count| hop(format!("policyArns: [{}]", many(count, |number| format!("'arn:aws:iam::aws:policy/p{number}'"))));
    let long = |count| {
        let item = |number: usize| format!("'arn:aws:iam::aws:policy/{}/p{number}'", "x".repeat(500));
        hop(format!("policyArns: [{}]", many(count, item)))
    };
    let ok = |text: &str| Policy::parse(text, Some("demo".into())).is_ok();
    assert!(ok(&tags(50)) && ok(&policies(10)) && ok(&long(3)));
    for (text, words) in [(tags(51), "51 tags"), (policies(11), "11 policies"), (long(4), "characters in all")] {
        let found = faults(&text, Some("demo"));
        assert!(found.len() == 1 && found[0].message.contains(words), "{found:?}");
    }
}

#[test]
fn a_hundred_faults_are_enough() {
    let text: String = std::iter::once("rules:\n").chain(std::iter::repeat_n("- x\n", 250)).collect();
    let found = faults(&text, None);
    assert_eq!((found.len(), &*found[100].message), (101, "and 150 more"));
}

#[test]
fn a_byte_order_mark_json_and_windows_line_ends_are_fine() {
    for text in ["\u{feff}rules: []\n", "{\"rules\": []}", "rules: []\r\n", "---\nrules: []\n...\n"] {
        assert!(Policy::parse(text, None).is_ok(), "{text:?}");
    }
    let found = faults("rules:\r\n- x\r\n", None);
    assert_eq!(found[0].line, Some(2));
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_file_is_too_odd_to_be_read_or_refused(text in "(rules:\n|- |match|: |\\{|\\}|\\[|\\]|\n|  |\\*|&a|!|\"|'|#|%|\t|é|role|chain|, ){0,40}") {
            if let Err(faults) = Policy::parse(&text, None) {
                prop_assert!(!faults.0.is_empty());
            }
        }

        #[test]
        fn no_bytes_are_too_odd_either(text in "\\PC{0,60}") {
            let _ = Policy::parse(&text, None);
        }
    }
}
