//! What the claims of a pod's token must say, once the signature holds: steps 12 to 14 of token validation, in their order.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::clock::Now;
use crate::domain::identity::Identity;
use crate::domain::name::{is_label, is_subdomain};
use crate::domain::refusal::{Reason, Refusal};
use crate::token::claims::{Claims, Kubernetes, Reference};
use crate::token::json::Object;

/// How far the clocks of the API server and of this node may differ.
const LEEWAY_SECONDS: i64 = 60;
/// Longest lifetime: twice the 24 h of which EKS asks for a pod's token, and an hour.
const LIFETIME_SECONDS: i64 = 49 * 3_600;
/// Longest UID: as long as a name.
const UID_BYTES: usize = 253;

const SEVERAL_AUDIENCES: &str = "The token bears several audiences, and only one that bears a single audience is taken: project \
                                 one with pods.eks.amazonaws.com into the pod, or with sts.amazonaws.com where its role is taken \
                                 by web identity";

/// The rules of this node.
#[derive(Debug)]
pub(super) struct Rules {
    audiences: Vec<Arc<str>>,
    node: Option<String>,
    /// By issuer, `iat` of the first token that bore a node: from then on every token of a pod bears one.
    nodes_since: Mutex<HashMap<Arc<str>, i64>>,
}

impl Rules {
    pub(super) fn new(audiences: Vec<Arc<str>>, node: Option<String>) -> Self {
        Self { audiences, node, nodes_since: Mutex::default() }
    }

    /// Whose claims these are, and for which audience, if they were signed with a key of one of `signers`.
    pub(super) fn check(&self, claims: Claims, signers: &[Arc<str>], now: Now) -> Result<(Identity, Arc<str>), Refusal> {
        let issuer = signers.iter().find(|signer| ***signer == claims.iss);
        let issuer = issuer.ok_or_else(|| Refusal::new(Reason::Issuer, "the key is not of the issuer that the token names"))?;
        let audience = self.audience(&claims)?;
        check_times(&claims, now)?;
        let (iat, identity) = (claims.iat, identity(claims, Arc::clone(issuer))?);
        self.check_node(&identity, iat)?;
        Ok((identity, audience))
    }

    fn audience(&self, claims: &Claims) -> Result<Arc<str>, Refusal> {
        let refused = |cause: &str| Refusal::new(Reason::Audience, cause);
        let only = match claims.aud.as_slice() {
            [] => return Err(refused("the token has no audience")),
            [only] => only,
            [_, _, ..] => return Err(refused("the token has several audiences").advice(SEVERAL_AUDIENCES)),
        };
        let configured = self.audiences.iter().find(|audience| ***audience == **only);
        configured.cloned().ok_or_else(|| refused("the token's audience is not configured"))
    }

    fn check_node(&self, identity: &Identity, iat: i64) -> Result<(), Refusal> {
        let Some(own) = &self.node else { return Ok(()) };
        let mut nodes_since = self.nodes_since.lock();
        let Some(node) = &identity.node else {
            let since = nodes_since.get(&identity.issuer);
            return match since.is_some_and(|since| iat > *since) {
                true => Err(Refusal::new(Reason::WrongNode, "the token names no node, though its issuer does by now")),
                false => Ok(()),
            };
        };
        let since = nodes_since.entry(Arc::clone(&identity.issuer)).or_insert(iat);
        *since = iat.min(*since);
        if node == own { Ok(()) } else { Err(Refusal::new(Reason::WrongNode, "the token is of a pod on another node")) }
    }
}

fn check_times(claims: &Claims, now: Now) -> Result<(), Refusal> {
    let now = now.unix();
    if claims.iat.max(claims.nbf) > now.saturating_add(LEEWAY_SECONDS) {
        return Err(Refusal::new(Reason::NotYetValid, "iat or nbf lies in the future"));
    }
    if claims.exp <= now {
        return Err(Refusal::new(Reason::Expired, "exp has passed"));
    }
    if claims.exp.saturating_sub(claims.iat) > LIFETIME_SECONDS {
        return Err(Refusal::new(Reason::Lifetime, "the token lives longer than 49 h"));
    }
    Ok(())
}

fn identity(claims: Claims, issuer: Arc<str>) -> Result<Identity, Refusal> {
    let not_pod_bound = || Refusal::new(Reason::NotPodBound, "the token is not bound to a pod");
    let Object(Kubernetes { namespace, serviceaccount: Object(account), pod, node, secret }) =
        claims.kubernetes.ok_or_else(not_pod_bound)?;
    let node = node.map(|Object(node)| node.name);
    check_subject(&claims.sub, &namespace, &account)?;
    let Object(pod) = pod.filter(|_| secret.is_none()).ok_or_else(not_pod_bound)?;
    if !is_sound(&pod) || !node.as_deref().is_none_or(is_subdomain) {
        return Err(Refusal::new(Reason::Subject, "the pod or its node has a name or UID that is not one of Kubernetes"));
    }
    Ok(Identity {
        issuer,
        namespace,
        service_account: account.name,
        service_account_uid: account.uid,
        pod: pod.name,
        pod_uid: pod.uid,
        node,
    })
}

fn check_subject(sub: &str, namespace: &str, account: &Reference) -> Result<(), Refusal> {
    if sub != format!("system:serviceaccount:{namespace}:{}", account.name) {
        return Err(Refusal::new(Reason::Subject, "sub disagrees with the other claims"));
    }
    if !is_label(namespace) || !is_sound(account) {
        return Err(Refusal::new(Reason::Subject, "the service account has a name or UID that is not one of Kubernetes"));
    }
    Ok(())
}

fn is_sound(reference: &Reference) -> bool {
    let Reference { name, uid } = reference;
    let is_uid = !uid.is_empty() && uid.len() <= UID_BYTES && uid.bytes().all(|byte| byte.is_ascii_graphic());
    is_uid && is_subdomain(name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::base::clock::{Clock, from_unix_seconds};
    use crate::token::testing::{AUDIENCE, ISSUED_AT, ISSUER, NODE, payload, payload_with};

    const WEB_IDENTITY: &str = "sts.amazonaws.com";

    fn rules(node: Option<&str>) -> Rules {
        Rules::new(vec![AUDIENCE.into(), WEB_IDENTITY.into()], node.map(str::to_owned))
    }

    fn at(seconds: i64) -> Now {
        Now { wall: from_unix_seconds(seconds).unwrap(), mono: Clock::System.now().mono }
    }

    fn check_at(rules: &Rules, claims: &Value, seconds: i64) -> Result<(Identity, Arc<str>), Reason> {
        let claims = Claims::parse(claims.to_string().as_bytes()).unwrap();
        rules.check(claims, &["https://other.example".into(), ISSUER.into()], at(seconds)).map_err(|refusal| refusal.reason)
    }

    fn check(claims: &Value) -> Result<(Identity, Arc<str>), Reason> {
        check_at(&rules(Some(NODE)), claims, ISSUED_AT + 10)
    }

    fn reason(pointer: &str, value: impl Into<Value>) -> Option<Reason> {
        check(&payload_with(pointer, value)).err()
    }

    #[test]
    fn a_good_token_gives_its_identity() {
        let (identity, audience) = check(&payload()).unwrap();
        assert_eq!((&*identity.issuer, &*audience), (ISSUER, AUDIENCE));
        assert_eq!((identity.namespace.as_str(), identity.service_account.as_str()), ("default", "s3-sa"));
        assert_eq!((identity.service_account_uid.as_str(), identity.pod_uid.as_str()), ("s-1", "p-1"));
        assert_eq!((identity.pod.as_str(), identity.node.as_deref()), ("app-0", Some(NODE)));
    }

    #[test]
    fn the_issuer_is_one_whose_key_signed() {
        for other in ["https://third.example", "", &format!("{ISSUER}/"), &ISSUER.to_uppercase()] {
            assert_eq!(reason("/iss", other), Some(Reason::Issuer), "{other}");
        }
        assert_eq!(reason("/iss", "https://other.example"), None, "an issuer that was renamed but kept its key");
    }

    #[test]
    fn exactly_one_configured_audience() {
        assert_eq!(reason("/aud", WEB_IDENTITY), None, "a bare string");
        assert_eq!(reason("/aud", json!([WEB_IDENTITY])), None);
        for wrong in [
            json!([]),
            json!(""),
            json!([AUDIENCE, WEB_IDENTITY]),
            json!([AUDIENCE, AUDIENCE]),
            json!([AUDIENCE, "https://kubernetes.default.svc"]),
            json!("https://kubernetes.default.svc"),
            json!(["PODS.eks.amazonaws.com"]),
            json!("pods.eks.amazonaws.com "),
        ] {
            let claims = Claims::parse(payload_with("/aud", wrong.clone()).to_string().as_bytes()).unwrap();
            let several = wrong.as_array().is_some_and(|audiences| audiences.len() > 1);
            let refusal = rules(Some(NODE)).check(claims, &[ISSUER.into()], at(ISSUED_AT + 10)).unwrap_err();
            assert_eq!(refusal.reason, Reason::Audience, "{wrong}");
            assert_eq!(refusal.advice.is_some_and(|advice| advice.contains("a single audience")), several, "{wrong}");
        }
    }

    #[test]
    fn times() {
        let now = ISSUED_AT + 10;
        for (pointer, value, expected) in [
            ("/iat", now + 60, None),
            ("/iat", now + 61, Some(Reason::NotYetValid)),
            ("/nbf", now + 60, None),
            ("/nbf", now + 61, Some(Reason::NotYetValid)),
            ("/exp", now + 1, None),
            ("/exp", now, Some(Reason::Expired)),
            ("/exp", 0, Some(Reason::Expired)),
            ("/exp", ISSUED_AT + LIFETIME_SECONDS, None),
            ("/exp", ISSUED_AT + LIFETIME_SECONDS + 1, Some(Reason::Lifetime)),
            ("/exp", 253_402_300_799, Some(Reason::Lifetime)),
        ] {
            assert_eq!(reason(pointer, value), expected, "{pointer} {value}");
        }
    }

    #[test]
    fn subject_and_names() {
        for (pointer, value) in [
            ("/sub", "system:serviceaccount:default:other"),
            ("/sub", "system:serviceaccount:kube-system:s3-sa"),
            ("/sub", "system:node:s3-sa"),
            ("/sub", ""),
            ("/kubernetes.io/namespace", "kube-system"),
            ("/kubernetes.io/serviceaccount/name", "other"),
            ("/kubernetes.io/serviceaccount/uid", ""),
            ("/kubernetes.io/pod/uid", ""),
            ("/kubernetes.io/pod/uid", "p 1"),
            ("/kubernetes.io/pod/name", "App"),
            ("/kubernetes.io/pod/name", "a..b"),
            ("/kubernetes.io/pod/name", "a/b"),
            ("/kubernetes.io/pod/name", ""),
            ("/kubernetes.io/node/name", "-n"),
            ("/kubernetes.io/node/name", "n\n"),
        ] {
            assert_eq!(reason(pointer, value), Some(Reason::Subject), "{pointer} {value:?}");
        }
    }

    #[test]
    fn names_that_agree_but_are_none_of_kubernetes() {
        for (namespace, account) in
            [("De", "sa"), ("a.b", "sa"), ("", "sa"), ("a", "s:a"), ("a:b", "c"), ("a", "sa-"), ("a", "s_a")]
        {
            let mut claims = payload_with("/kubernetes.io/namespace", namespace);
            claims["kubernetes.io"]["serviceaccount"]["name"] = account.into();
            claims["sub"] = format!("system:serviceaccount:{namespace}:{account}").into();
            assert_eq!(check(&claims).err(), Some(Reason::Subject), "{namespace} {account}");
        }
        assert!(is_label(&"a".repeat(63)) && !is_label(&"a".repeat(64)));
        assert!(is_subdomain(&"a".repeat(253)) && !is_subdomain(&"a".repeat(254)));
    }

    #[test]
    fn bound_to_a_pod_and_nothing_else() {
        assert_eq!(reason("/kubernetes.io", Value::Null), Some(Reason::NotPodBound));
        assert_eq!(reason("/kubernetes.io/pod", Value::Null), Some(Reason::NotPodBound));
        assert_eq!(reason("/kubernetes.io/secret", json!({"name": "s", "uid": "u"})), Some(Reason::NotPodBound));
        let json = payload().to_string().replace(r#""namespace":"#, r#""secret":null,"namespace":"#);
        assert_eq!(check(&serde_json::from_str(&json).unwrap()).err(), Some(Reason::NotPodBound), "even null");
        assert_eq!(reason("/kubernetes.io/warnafter", 7), None);
    }

    #[test]
    fn a_token_of_another_node() {
        let elsewhere = payload_with("/kubernetes.io/node/name", "other");
        assert_eq!(check(&elsewhere).err(), Some(Reason::WrongNode));
        assert!(check_at(&rules(None), &elsewhere, ISSUED_AT).is_ok(), "this node does not know its name");
    }

    #[test]
    fn a_token_without_node_is_of_before_the_first_with_one() {
        let rules = rules(Some(NODE));
        let without = |iat: i64| {
            let mut claims = payload_with("/kubernetes.io/node", Value::Null);
            claims["iat"] = iat.into();
            claims
        };
        let now = ISSUED_AT + 50;
        assert!(check_at(&rules, &without(now), now).is_ok(), "no token has borne a node yet");
        assert!(check_at(&rules, &payload(), now).is_ok());
        assert!(check_at(&rules, &without(ISSUED_AT), now).is_ok());
        assert_eq!(check_at(&rules, &without(ISSUED_AT + 1), now).err(), Some(Reason::WrongNode));
        let mut other = without(ISSUED_AT + 1);
        other["iss"] = "https://other.example".into();
        assert!(check_at(&rules, &other, now).is_ok(), "issuers are told apart");
    }

    #[test]
    fn faults_are_named_in_the_order_of_the_checks() {
        let mut claims = payload();
        let spoil: [(&str, Value, Reason); 8] = [
            ("/kubernetes.io/node/name", "other".into(), Reason::WrongNode),
            ("/kubernetes.io/secret", json!({}), Reason::NotPodBound),
            ("/sub", "x".into(), Reason::Subject),
            ("/exp", (ISSUED_AT + 200_000).into(), Reason::Lifetime),
            ("/exp", 1.into(), Reason::Expired),
            ("/nbf", (ISSUED_AT + 100).into(), Reason::NotYetValid),
            ("/aud", "x".into(), Reason::Audience),
            ("/iss", "x".into(), Reason::Issuer),
        ];
        for (pointer, value, expected) in spoil {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            claims.pointer_mut(parent).unwrap()[name] = value;
            assert_eq!(check(&claims).err(), Some(expected));
        }
    }
}
