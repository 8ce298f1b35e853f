//! The table: of which rule, what is wrong, the token, and the reason by which it is refused.

use crate::vectors::forge::{Forger, der};

/// A row.
pub(crate) struct Vector {
    pub(crate) rule: &'static str,
    pub(crate) what: &'static str,
    pub(crate) token: String,
    pub(crate) reason: &'static str,
}

/// The order of P-256 (FIPS 186-5): no r or s is as large.
const ORDER: [u8; 32] = *b"\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51";

/// All rows.
pub(crate) fn table(forger: &Forger) -> Vec<Vector> {
    let groups: [fn(&Forger) -> Vec<Vector>; 13] = [
        shapes, encodings, lengths, algorithms, confusions, members, headers, kids, signatures, times, issuers, subjects,
        payloads,
    ];
    groups.iter().flat_map(|group| group(forger)).collect()
}

fn rows<const N: usize>(
    rule: &'static str,
    reason: &'static str,
    whats: [&'static str; N],
    token: impl Fn(&'static str) -> String,
) -> Vec<Vector> {
    whats.map(|what| Vector { rule, what, token: token(what), reason }).into()
}

fn row(rule: &'static str, what: &'static str, token: String, reason: &'static str) -> Vector {
    Vector { rule, what, token, reason }
}

/// How many parts a token has, and what stands between them.
fn shapes(forger: &Forger) -> Vec<Vector> {
    let shapes = [
        "$H.$P",
        "$H.$P.",
        "$H..$S",
        ".$P.$S",
        "....................",
        "$H.$P.$S.",
        ".$H.$P.$S",
        "$H.$P.$S.$S",
        "$H$P$S",
        "$H,$P,$S",
        "$H%2E$P%2E$S",
        "$H.$P.$S,$H.$P.$S",
        "Bearer Bearer $H.$P.$S",
        "Basic dXNlcjpwYXNzd29yZHBhc3N3b3Jk",
        r#"{"protected":"$H","payload":"$P","signature":"$S"}"#,
        r#"{"payload":"$P","signatures":[{"protected":"$H","signature":"$S"}]}"#,
    ];
    let encrypted = ["$H.$P.$S.$P.$S", "$H..$P.$P.$S"];
    let mut all = rows("RFC 7515 §3.1, §7.1", "token_malformed", shapes, |text| forger.text(text));
    all.extend(rows("RFC 7516 §3.1", "token_malformed", encrypted, |text| forger.text(text)));
    all
}

/// Base64url in ways that are not the one.
fn encodings(forger: &Forger) -> Vec<Vector> {
    const RULE: &str = "RFC 7515 §2, RFC 4648 §3.5, §5";
    let texts = [
        "$H=.$P.$S",
        "$H.$P==.$S",
        "$H.$P.$S=",
        "$H.$P.$S==",
        "$H.$P.A",
        "$H.$P.AAAAA",
        "$H.A.$S",
        "$H.$P.AB",
        "$H.$P. $S",
        "$H .$P.$S",
        "$H.\t$P.$S",
        "$H.$P.$S+",
        "$H.$P/.$S",
        "$H.$P.$S~",
        "$H.$P.$S'--",
        "$H:$P.$S.",
    ];
    let mut all = rows(RULE, "token_malformed", texts, |text| forger.text(text));
    all.push(row(RULE, "spare bits that are not zero", forger.spare_bits(), "token_malformed"));
    all
}

/// More than any token of Kubernetes has.
fn lengths(forger: &Forger) -> Vec<Vector> {
    const RULE: &str = "RFC 8725 §3.11";
    vec![
        row(RULE, "a header over 1 KiB", forger.kid("\"$KILO\""), "token_malformed"),
        row(RULE, "claims over 8 KiB", forger.payload(&format!(r#"{{"x":"{}"}}"#, "$KILO".repeat(8))), "token_malformed"),
        row(RULE, "a signature over 8 KiB", forger.text("$H.$P.$LONG"), "token_malformed"),
        row(RULE, "less than any token has", "e30.e30.AAAA".to_owned(), "token_malformed"),
    ]
}

/// What is none of the three algorithms, each spelled in its own way. The signature holds: only the name is wrong.
fn algorithms(forger: &Forger) -> Vec<Vector> {
    let none = ["none", "None", "NONE", "nOnE", "none ", " none", "", "n\\u006fne", "none\\u0000"];
    let others = [
        "HS256",
        "HS384",
        "HS512",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "ES512",
        "ES256K",
        "EdDSA",
        "Ed25519",
        "ML-DSA-65",
        "RSA-OAEP",
        "dir",
        "A128KW",
        "es256",
        "Es256",
        "ES256 ",
        "ES-256",
        "SHA256withECDSA",
        "*",
    ];
    let named = |alg: &str| forger.header(&format!(r#"{{"alg":"{alg}","kid":"$EC"}}"#));
    let typed = [r#"null"#, "256", "true", r#"["ES256"]"#, r#"{"ES256":1}"#];
    let mut all = rows("RFC 7518 §3.6, RFC 8725 §3.2", "alg", none, named);
    all.extend(rows("RFC 8725 §3.1", "alg", others, named));
    all.extend(rows("RFC 7515 §4.1.1", "header", typed, |alg| forger.header(&format!(r#"{{"alg":{alg},"kid":"$EC"}}"#))));
    all.push(row("RFC 7515 §4.1.1", "no alg", forger.header(r#"{"kid":"$EC"}"#), "header"));
    all.push(row("RFC 7519 §6", "unsecured", forger.text("eyJhbGciOiJub25lIn0.$P."), "token_malformed"));
    all.push(row("RFC 7519 §6", "unsecured, signed by anything", forger.text("eyJhbGciOiJub25lIiwia2lkIjoiayJ9.$P.$S"), "alg"));
    all
}

/// The right key in the wrong role, and the other way round.
fn confusions(forger: &Forger) -> Vec<Vector> {
    const RULE: &str = "RFC 8725 §2.1, §3.1";
    const HS256: &str = r#"{"alg":"HS256","kid":"$RSA"}"#;
    const RS256: &str = r#"{"alg":"RS256","kid":"$RSA"}"#;
    let of_other = forger.header_by_other(r#"{"alg":"ES256","kid":"$EC"}"#);
    let mut all = vec![
        row(RULE, "RS256 for an EC key", forger.header(r#"{"alg":"RS256","kid":"$EC"}"#), "alg"),
        row(RULE, "ES384 for a P-256 key", forger.header(r#"{"alg":"ES384","kid":"$EC"}"#), "alg"),
        row(RULE, "ES256 for an RSA key", forger.by_rsa(r#"{"alg":"ES256","kid":"$RSA"}"#), "alg"),
        row(RULE, "an EC signature for an RSA key", forger.header(RS256), "signature"),
        row(RULE, "an RSA signature for an EC key", forger.by_rsa(r#"{"alg":"ES256","kid":"$EC"}"#), "signature"),
        row("RFC 8725 §3.8", "another issuer's signature for this one's key", of_other, "signature"),
        row("RFC 8725 §3.8", "another issuer's key", forger.by_other(""), "issuer"),
        row("RFC 8725 §3.8", "another issuer's kid", forger.kid("\"$OTHER\""), "signature"),
    ];
    for (key, what) in [("n", "HMAC by the modulus"), ("", "HMAC by the JWK"), ("kid", "HMAC by the name of the key")] {
        all.push(row(RULE, what, forger.hmac(HS256, key), "alg"));
        all.push(row(RULE, what, forger.hmac(RS256, key), "signature"));
    }
    all
}

/// Members that a header of Kubernetes does not have.
fn members(forger: &Forger) -> Vec<Vector> {
    let keys = [
        r#""jku":"$CANARY/keys""#,
        r#""x5u":"$CANARY/chain.pem""#,
        r#""jwk":{"kty":"oct","k":"AAAA"}"#,
        r#""jwk":{}"#,
        r#""x5c":["MIIB"]"#,
        r#""x5c":[]"#,
        r#""x5t":"AAAA""#,
        r##""x5t#S256":"AAAA""##,
        r#""kid_url":"$CANARY""#,
    ];
    let critical = [
        r#""crit":["exp"],"exp":1"#,
        r#""crit":["b64"],"b64":false"#,
        r#""crit":[]"#,
        r#""crit":null"#,
        r#""crit":["http://example.com/UNDEFINED"],"http://example.com/UNDEFINED":true"#,
    ];
    let types = [
        r#""typ":"jwt""#,
        r#""typ":"at+jwt""#,
        r#""typ":"application/jwt""#,
        r#""typ":"secevent+jwt""#,
        r#""typ":"JOSE""#,
        r#""typ":"JWT ""#,
        r#""typ":"""#,
        r#""typ":null"#,
        r#""typ":["JWT"]"#,
        r#""typ":7"#,
    ];
    let foreign = [
        r#""cty":"JWT""#,
        r#""zip":"DEF""#,
        r#""enc":"A128GCM""#,
        r#""epk":{}"#,
        r#""iss":"a""#,
        r#""nonce":"a""#,
        r#""url":"$CANARY""#,
    ];
    let twice = [
        r#""alg":"ES256""#,
        r#""alg":"none""#,
        r#""kid":"$EC""#,
        r#""kid":"x""#,
        r#""\u0061lg":"none""#,
        r#""\u006b\u0069\u0064":"x""#,
        r#""typ":"JWT","typ":"JWT""#,
        r#""ALG":"none""#,
        r#""Kid":"x""#,
        r#""":1"#,
    ];
    let member = |member: &'static str| forger.member(member);
    let mut all = rows("RFC 7515 §4.1.2 to §4.1.8, RFC 8725 §3.10", "header", keys, member);
    all.extend(rows("RFC 7515 §4.1.11, RFC 7797 §6", "header", critical, member));
    all.extend(rows("RFC 8725 §3.11", "header", types, member));
    all.extend(rows("RFC 7516 §4.1, RFC 7519 §5", "header", foreign, member));
    all.extend(rows("RFC 7515 §4", "header", twice, member));
    all.push(row("RFC 7797 §3", "b64 without crit", forger.member(r#""b64":false"#), "header"));
    all
}

/// Headers that are none.
fn headers(forger: &Forger) -> Vec<Vector> {
    let headers = [
        "{}",
        "null",
        "7",
        r#""ES256""#,
        r#"["ES256","$EC"]"#,
        r#"[{"alg":"ES256","kid":"$EC"}]"#,
        r#"{"alg":"ES256"}"#,
        "\u{feff}{\"alg\":\"ES256\",\"kid\":\"$EC\"}",
        r#"{"alg":"ES256","kid":"$EC"}x"#,
        r#"{"alg":"ES256","kid":"$EC"}{}"#,
        "{\"alg\":\"ES256\",\"kid\":\"$EC\"}\0",
        "{\"alg\":\"ES256\",\"kid\":\"\u{1}$EC\"}",
        r#"{"alg":"ES256","kid":"$EC""#,
        r#"{"alg":"ES256","kid":"$EC",}"#,
        r#"{'alg':'ES256','kid':'$EC'}"#,
        r#"{"alg":"ES256",/**/"kid":"$EC"}"#,
        r#"{alg:"ES256",kid:"$EC"}"#,
        r#"{"alg":"ES256","kid":"\ud800"}"#,
        r#"{"alg":"ES256","kid":"$EC","x":[[[[[[[[[]]]]]]]]]}"#,
        "alg=ES256",
    ];
    let typed = ["null", "7", "true", r#"["$EC"]"#, r#"{"$EC":1}"#, "1e400", "[[[[[[[[[]]]]]]]]]"];
    let mut all = rows("RFC 7515 §4, §10.12", "header", headers, |header| forger.header(header));
    all.extend(rows("RFC 7515 §4.1.4", "header", typed, |kid| forger.kid(kid)));
    all
}

/// Names of keys that nobody has, and that must lead nowhere.
fn kids(forger: &Forger) -> Vec<Vector> {
    let kids = [
        r#""""#,
        r#"" ""#,
        r#""$EC ""#,
        r#"" $EC""#,
        r#""$EC\u0000""#,
        r#""$EC\n""#,
        r#""./$EC""#,
        r#""../../../../../../etc/passwd""#,
        r#""/dev/null""#,
        r#""/proc/self/environ""#,
        r#""file:///etc/hostname""#,
        r#""$CANARY/keys""#,
        r#""//169.254.169.254/latest""#,
        r#""' OR '1'='1""#,
        r#""key; cat /etc/passwd |""#,
        r#""${jndi:ldap://127.0.0.1/a}""#,
        r#""%2e%2e%2fkeys""#,
        r#""*""#,
        r#""0""#,
        r#""\u202e$EC""#,
        r#""$EC,$RSA""#,
    ];
    rows("RFC 8725 §3.10", "unknown_kid", kids, |kid| forger.kid(kid))
}

/// Signatures of the right message that are none.
fn signatures(forger: &Forger) -> Vec<Vector> {
    type Change = fn(&[u8]) -> Vec<u8>;
    let of_ec: [(&str, Change); 15] = [
        ("DER", der),
        ("one byte", |_| vec![0]),
        ("all zeros", |_| vec![0; 64]),
        ("all ones", |_| vec![0xff; 64]),
        ("r is zero", |right| [&[0; 32][..], &right[32..]].concat()),
        ("s is zero", |right| [&right[..32], &[0; 32]].concat()),
        ("r is the order", |right| [&ORDER[..], &right[32..]].concat()),
        ("s is the order", |right| [&right[..32], &ORDER].concat()),
        ("r and s change places", |right| [&right[32..], &right[..32]].concat()),
        ("r and s are one", |_| [[&[0; 31][..], &[1]].concat(), [&[0; 31][..], &[1]].concat()].concat()),
        ("a byte too few", |right| right[..63].to_vec()),
        ("a byte too many", |right| [right, &[0]].concat()),
        ("a zero before each number", |right| [&[0][..], &right[..32], &[0], &right[32..]].concat()),
        ("as long as P-384's", |right| [&[0; 16][..], &right[..32], &[0; 16], &right[32..]].concat()),
        ("one bit", |right| [&[right[0] ^ 1][..], &right[1..]].concat()),
    ];
    let of_rsa: [(&str, Change); 7] = [
        ("RSA: a byte too few", |right| right[..255].to_vec()),
        ("RSA: a byte too many", |right| [right, &[0]].concat()),
        ("RSA: a zero in front", |right| [&[0][..], right].concat()),
        ("RSA: all zeros", |right| vec![0; right.len()]),
        ("RSA: one", |right| [vec![0; right.len() - 1], vec![1]].concat()),
        ("RSA: all ones", |right| vec![0xff; right.len()]),
        ("RSA: half", |right| right[..128].to_vec()),
    ];
    const RULE: &str = "RFC 7515 §5.2, RFC 7518 §3.3, §3.4";
    let ec = of_ec.map(|(what, change)| row(RULE, what, forger.signature(change), "signature"));
    let rsa = of_rsa.map(|(what, change)| row(RULE, what, forger.rsa_signature(change), "signature"));
    let mut all: Vec<Vector> = ec.into_iter().chain(rsa).collect();
    let admin = forger.text("$H.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6a3ViZS1zeXN0ZW06YWRtaW4ifQ.$S");
    all.push(row(RULE, "the claims of another", admin, "signature"));
    let typed = forger.member(r#""typ":"JWT""#);
    let retyped = format!("{}{}", typed.split_once('.').unwrap().0, forger.text(".$P.$S"));
    all.push(row(RULE, "another header", retyped, "signature"));
    all
}

/// Times of wrong types, and times that are wrong.
fn times(forger: &Forger) -> Vec<Vector> {
    const RULE: &str = "RFC 7519 §2, §4.1.4 to §4.1.6";
    let wrong = [
        "",
        "null",
        "true",
        r#""9999999999""#,
        r#""""#,
        "[9999999999]",
        "{}",
        "9999999999.0",
        "9999999999.5",
        "1e10",
        "1E10",
        "-1",
        "-0",
        "1e400",
        "253402300800",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "340282366920938463463374607431768211456",
        "NaN",
        "Infinity",
        "0x7fffffff",
        "09999999999",
        "+9999999999",
        "9_999",
        "99999 99999",
    ];
    let mut all = Vec::new();
    for claim in ["/exp", "/nbf", "/iat"] {
        all.extend(rows(RULE, "claims", wrong, |json| forger.claims(&[(claim, json)])));
    }
    let early = "not_yet_valid";
    all.extend([
        row(RULE, "nbf lies ahead", forger.claims(&[("/nbf", "now+600")]), early),
        row(RULE, "iat lies ahead", forger.claims(&[("/iat", "now+600")]), early),
        row(RULE, "nbf lies far ahead", forger.claims(&[("/nbf", "253402300799")]), early),
        row(RULE, "iat lies far ahead", forger.claims(&[("/iat", "253402300799"), ("/exp", "253402300799")]), early),
        row(RULE, "exp has passed", forger.claims(&[("/iat", "now-3600"), ("/nbf", "now-3600"), ("/exp", "now-1")]), "expired"),
        row(RULE, "exp is now", forger.claims(&[("/exp", "now")]), "expired"),
        row(RULE, "exp is the epoch", forger.claims(&[("/exp", "0")]), "expired"),
        row(RULE, "exp is milliseconds", forger.claims(&[("/exp", "1893456000000")]), "claims"),
        row(RULE, "exp never comes", forger.claims(&[("/exp", "253402300799")]), "lifetime"),
        row(RULE, "exp is 50 h away", forger.claims(&[("/exp", "now+180000")]), "lifetime"),
        row(RULE, "iat is the epoch", forger.claims(&[("/iat", "0")]), "lifetime"),
    ]);
    all
}

/// Issuers that look alike, and audiences that are not one and configured.
fn issuers(forger: &Forger) -> Vec<Vector> {
    let alike: [fn(&str) -> String; 12] = [
        |iss| format!("{iss}/"),
        |iss| format!("{iss} "),
        |iss| format!(" {iss}"),
        |iss| format!("{iss}\0"),
        |iss| format!("{iss}#"),
        |iss| format!("{iss}?x"),
        |iss| iss.to_uppercase(),
        |iss| iss.replacen("http", "HTTP", 1),
        |iss| iss.replacen("//", "//user@", 1),
        |iss| iss.replacen('h', "\u{4bb}", 1),
        |iss| iss[..iss.len() - 1].to_owned(),
        |_| String::new(),
    ];
    let own = forger.issuer();
    let one = |iss: String| {
        row("RFC 7519 §4.1.1, RFC 8725 §3.8", "an issuer like this one", forger.claims(&[("/iss", &quoted(&iss))]), "issuer")
    };
    let mut all: Vec<Vector> = alike.iter().map(|change| one(change(own))).collect();
    all.extend(["https://elsewhere.example", "$CANARY", crate::vectors::OTHER].map(|iss| one(iss.to_owned())));
    let typed = ["", "null", "7", "[]", "{}", r#"["https://oidc.example/id/A"]"#];
    all.extend(rows("RFC 7519 §4.1.1", "claims", typed, |json| forger.claims(&[("/iss", json)])));
    let audiences = [
        "[]",
        r#""""#,
        r#"[""]"#,
        r#""https://kubernetes.default.svc""#,
        r#"["https://kubernetes.default.svc"]"#,
        r#"["pods.eks.amazonaws.com","sts.amazonaws.com"]"#,
        r#"["pods.eks.amazonaws.com","x"]"#,
        r#"["x","pods.eks.amazonaws.com"]"#,
        r#"["pods.eks.amazonaws.com","pods.eks.amazonaws.com"]"#,
        r#""pods.eks.amazonaws.com,x""#,
        r#""pods.eks.amazonaws.com ""#,
        r#""PODS.eks.amazonaws.com""#,
        r#""pods.eks.amazonaws.com\u0000""#,
        r#""pods.eks.amazonaws.com.evil.example""#,
        r#""*""#,
    ];
    let of_type = ["", "null", "7", "{}", "[7]", "[null]", r#"[["pods.eks.amazonaws.com"]]"#, r#"{"pods.eks.amazonaws.com":1}"#];
    let audience = |json: &'static str| forger.claims(&[("/aud", json)]);
    all.extend(rows("RFC 7519 §4.1.3, RFC 8725 §3.9", "audience", audiences, audience));
    all.extend(rows("RFC 7519 §4.1.3", "claims", of_type, audience));
    all
}

/// Whose token it says it is.
fn subjects(forger: &Forger) -> Vec<Vector> {
    let subjects = [
        r#""system:serviceaccount:default:admin""#,
        r#""system:serviceaccount:kube-system:app""#,
        r#""system:serviceaccount:default:app ""#,
        r#""system:serviceaccount:default:App""#,
        r#""system:serviceaccount:default:app:x""#,
        r#""serviceaccount:default:app""#,
        r#""system:node:node-1""#,
        r#""system:admin""#,
        r#""""#,
    ];
    let mut all = rows("RFC 7519 §4.1.2", "subject", subjects, |json| forger.claims(&[("/sub", json)]));
    let typed = ["", "null", "7", r#"["system:serviceaccount:default:app"]"#];
    all.extend(rows("RFC 7519 §4.1.2", "claims", typed, |json| forger.claims(&[("/sub", json)])));
    let bound: [(&str, &str, &str); 22] = [
        ("/kubernetes.io", "", "not_pod_bound"),
        ("/kubernetes.io", "null", "claims"),
        ("/kubernetes.io", "{}", "claims"),
        ("/kubernetes.io", r#"["default"]"#, "claims"),
        ("/kubernetes.io/pod", "", "not_pod_bound"),
        ("/kubernetes.io/pod", "null", "claims"),
        ("/kubernetes.io/pod", r#"["app-0","u"]"#, "claims"),
        ("/kubernetes.io/pod/uid", "", "claims"),
        ("/kubernetes.io/pod/uid", r#""""#, "subject"),
        ("/kubernetes.io/pod/uid", r#""a b""#, "subject"),
        ("/kubernetes.io/pod/name", r#""A/../b""#, "subject"),
        ("/kubernetes.io/pod/name", "7", "claims"),
        ("/kubernetes.io/secret", r#"{"name":"s","uid":"u"}"#, "not_pod_bound"),
        ("/kubernetes.io/secret", "null", "not_pod_bound"),
        ("/kubernetes.io/namespace", r#""kube-system""#, "subject"),
        ("/kubernetes.io/namespace", "null", "claims"),
        ("/kubernetes.io/serviceaccount/name", r#""admin""#, "subject"),
        ("/kubernetes.io/serviceaccount/uid", r#""""#, "subject"),
        ("/kubernetes.io/serviceaccount", r#"["app","u"]"#, "claims"),
        ("/kubernetes.io/node", "null", "claims"),
        ("/kubernetes.io/node/name", r#""node-2""#, "wrong_node"),
        ("/kubernetes.io/node/name", r#""node-1/..""#, "subject"),
    ];
    all.extend(
        bound.map(|(pointer, json, reason)| row("KEP-1205, KEP-4193", pointer, forger.claims(&[(pointer, json)]), reason)),
    );
    let nodeless = forger.claims(&[("/kubernetes.io/node", ""), ("/iat", "now+30")]);
    all.push(row("KEP-4193", "no node, though its issuer names nodes by now", nodeless, "wrong_node"));
    all
}

/// Claims that are none, or several.
fn payloads(forger: &Forger) -> Vec<Vector> {
    let payloads = [
        "[]",
        "7",
        "null",
        r#""a""#,
        "{}",
        "{}{}",
        "{",
        "\u{feff}{}",
        "{}\0",
        "exp=1",
        r#"{"x":$DEEP}"#,
        "eyJhbGciOiJub25lIn0.e30.",
        r#"[{"iss":"a"}]"#,
    ];
    let twice = [
        ("{", r#"{"exp":1,"#),
        ("{", r#"{"exp":9999999999,"#),
        ("{", r#"{"\u0065xp":9999999999,"#),
        ("{", r#"{"iss":"a","#),
        ("{", r#"{"aud":["pods.eks.amazonaws.com"],"#),
        ("{", r#"{"sub":"system:serviceaccount:default:app","#),
        ("{", r#"{"s\u0075b":"system:serviceaccount:kube-system:admin","#),
        ("{", r#"{"nbf":1,"#),
        ("{", r#"{"iat":1,"#),
        ("{", r#"{"jti":"a","#),
        ("{", r#"{"kubernetes.io":{},"#),
        (r#""kubernetes.io":{"#, r#""kubernetes.io":{"namespace":"kube-system","#),
        (r#""kubernetes.io":{"#, r#""kubernetes.io":{"pod":{"name":"app-1","uid":"u"},"#),
        (r#""pod":{"#, r#""pod":{"uid":"u","#),
        (r#""serviceaccount":{"#, r#""serviceaccount":{"name":"admin","#),
        (r#""serviceaccount":{"#, r#""serviceaccount":{"n\u0061me":"admin","#),
    ];
    let mut all = rows("RFC 7519 §7.2", "claims", payloads, |payload| forger.payload(payload));
    all.extend(twice.map(|(good, bad)| row("RFC 7519 §4, RFC 8725 §2.4", bad, forger.respelled(good, bad), "claims")));
    let spoiled = [("{", "\u{feff}{"), ("{", "{,"), ("\"exp\"", "exp"), ("\"exp\"", "'exp'"), ("\"aud\":[", "\"aud\":[,")];
    all.extend(spoiled.map(|(good, bad)| row("RFC 7519 §7.2, RFC 8259", bad, forger.respelled(good, bad), "claims")));
    all.extend(rows("RFC 7519 §4.1.7", "claims", ["null", "7", "[]", "{}"], |json| forger.claims(&[("/jti", json)])));
    all
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
