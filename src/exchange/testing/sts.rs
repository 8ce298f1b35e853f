//! A fake of EKS Auth and STS in one: it issues whatever role is asked for, answers otherwise where a test says so, and records who
//! asked with which credentials for what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::base::clock::{Clock, unix_seconds};
use crate::domain::credential::{Credential, account_of, rfc3339};
use crate::domain::mint::{Failure, Mint, Order};
use crate::domain::policy::{Exchange, Grant, Hop, POD_IDENTITY_AUDIENCE, RoleArn, WEB_IDENTITY_AUDIENCE, WebIdentity};
use crate::egress::fake::{Answer, Fake, https};
use crate::exchange::testing::{Setup, keys, now, order, verified};

pub(in crate::exchange) const CI: &str = "arn:aws:iam::111111111111:role/ci/ci-account-iam-role";
pub(in crate::exchange) const TARGET: &str = "arn:aws:iam::222222222222:role/target-account-iam-role";
pub(in crate::exchange) const THIRD: &str = "arn:aws:iam::333333333333:role/third";

/// One call as the fake saw it.
#[derive(Debug, Clone)]
pub(in crate::exchange) struct Call {
    /// `AssumeRole` and the like.
    pub(in crate::exchange) action: String,
    /// The form, and from EKS Auth's JSON the token.
    pub(in crate::exchange) parameters: BTreeMap<String, String>,
    /// The access key by which it is signed.
    pub(in crate::exchange) signer: Option<String>,
    pub(in crate::exchange) head: String,
}

impl Call {
    pub(in crate::exchange) fn of(request: &str) -> Self {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let mut parameters: BTreeMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        let action = if head.starts_with("POST /clusters/") {
            parameters = serde_json::from_str(body).unwrap();
            "AssumeRoleForPodIdentity".into()
        } else {
            parameters.remove("Action").unwrap()
        };
        let signer = head.split_once("Credential=").map(|(_, rest)| rest.split('/').next().unwrap().to_owned());
        Self { action, parameters, signer, head: head.to_ascii_lowercase() }
    }

    pub(in crate::exchange) fn get(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    /// The action, who signed it, and the role it asks for, by name.
    pub(in crate::exchange) fn brief(&self) -> String {
        let role = self.get("RoleArn").rsplit('/').next().unwrap();
        [&self.action, self.signer.as_deref().unwrap_or("nobody"), role].join(" ").trim_end().to_owned()
    }
}

/// Exchanges that call the fake.
pub(in crate::exchange) struct Cloud {
    pub(in crate::exchange) setup: Setup,
    fake: Fake,
}

impl Cloud {
    /// Issues what is asked for: access keys are `ASIA1`, `ASIA2` and so on.
    pub(in crate::exchange) async fn willing() -> Self {
        Self::answering(|_, well| well).await
    }

    /// Answers what `respond` makes of a call and of the answer that would be given.
    pub(in crate::exchange) async fn answering(respond: impl Fn(&Call, Answer) -> Answer + Send + Sync + 'static) -> Self {
        let clock = Clock::simulated(now());
        let (fakes_clock, issued) = (clock.clone(), AtomicU32::new(0));
        let fake = Fake::answering(move |request| {
            let call = Call::of(request);
            let serial = issued.fetch_add(1, Ordering::Relaxed) + 1;
            let expiration = |life| rfc3339(fakes_clock.now().wall + Duration::from_secs(life)).unwrap();
            let well = match call.action.as_str() {
                "AssumeRoleForPodIdentity" => pod_identity(serial, unix_seconds(fakes_clock.now().wall) + 6 * 3600),
                _ => answer(&call, serial, &expiration(call.get("DurationSeconds").parse().unwrap())),
            };
            respond(&call, well)
        })
        .await;
        let setup = Setup::at(Some(&fake.url()), https(&[]), keys(), clock);
        Self { setup, fake }
    }

    pub(in crate::exchange) async fn mint(&self, grant: &Grant) -> Result<Credential, Failure> {
        self.setup.exchanges.mint(order_for(grant)).await
    }

    pub(in crate::exchange) fn calls(&self) -> Vec<Call> {
        self.fake.requests().iter().map(|request| Call::of(request)).collect()
    }

    /// All calls so far in brief; none of STS's is signed by the node.
    pub(in crate::exchange) fn briefly(&self) -> Vec<String> {
        let calls = self.calls();
        assert!(calls.iter().all(|call| call.signer.as_deref() != Some("AKIDNODE") || call.action.ends_with("PodIdentity")));
        calls.iter().map(Call::brief).collect()
    }

    /// The wall clock goes on by so much.
    pub(in crate::exchange) fn later(&self, seconds: i64) {
        self.setup.clock.step(seconds);
    }
}

pub(in crate::exchange) fn order_for(grant: &Grant) -> Order {
    Order { grant: grant.clone(), ..order(verified(), Duration::from_secs(10)) }
}

pub(in crate::exchange) fn web_identity(duration: u64) -> Exchange {
    Exchange::WebIdentity(WebIdentity {
        role: RoleArn::parse(CI).unwrap(),
        session_name: "ci".into(),
        duration: Duration::from_secs(duration),
        policy_arns: Vec::new(),
    })
}

pub(in crate::exchange) fn by_web_identity(chain: Vec<Hop>) -> Grant {
    Grant::for_tests(WEB_IDENTITY_AUDIENCE, web_identity(3600), chain)
}

pub(in crate::exchange) fn by_pod_identity(chain: Vec<Hop>) -> Grant {
    Grant::for_tests(POD_IDENTITY_AUDIENCE, Exchange::PodIdentity, chain)
}

pub(in crate::exchange) fn hop(role: &str) -> Hop {
    Hop {
        role: RoleArn::parse(role).unwrap(),
        session_name: "xactarget".into(),
        duration: Duration::from_secs(3600),
        external_id: None,
        source_identity: None,
        tags: Vec::new(),
        transitive_tags: Vec::new(),
        policy_arns: Vec::new(),
    }
}

fn pod_identity(serial: u32, expiration: i64) -> Answer {
    let mut answer = super::complete();
    answer["credentials"]["accessKeyId"] = json!(format!("ASIA{serial}"));
    answer["credentials"]["expiration"] = json!(expiration);
    Answer::http(200, "x-amzn-requestid: r-1\r\n", &answer.to_string())
}

fn answer(call: &Call, serial: u32, expiration: &str) -> Answer {
    Answer::http(200, &format!("x-amzn-requestid: r-{serial}\r\n"), &document(call, serial, expiration))
}

/// STS's answer to `call`, with members of web identity that `AssumeRole` does not have and that its reader passes over.
pub(in crate::exchange) fn document(call: &Call, serial: u32, expiration: &str) -> String {
    let (action, role) = (&call.action, call.get("RoleArn"));
    let (account, name, session) = (account_of(role).unwrap(), role.rsplit('/').next().unwrap(), call.get("RoleSessionName"));
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>\
         <SubjectFromWebIdentityToken>system:serviceaccount:default:s3-sa</SubjectFromWebIdentityToken>\
         <Audience>sts.amazonaws.com</Audience>\
         <AssumedRoleUser><Arn>arn:aws:sts::{account}:assumed-role/{name}/{session}</Arn>\
         <AssumedRoleId>AROA:{session}</AssumedRoleId></AssumedRoleUser>\
         <Credentials><AccessKeyId>ASIA{serial}</AccessKeyId><SecretAccessKey>secret-{serial}</SecretAccessKey>\
         <SessionToken>token-{serial}</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
         </{action}Result></{action}Response>"
    )
}

/// An error as STS words it.
pub(in crate::exchange) fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>r-1</RequestId></ErrorResponse>"
    );
    Answer::http(status, "x-amzn-requestid: r-1\r\ncontent-type: text/xml\r\n", &body)
}

/// An answer's document with `from` in it replaced.
pub(in crate::exchange) fn altered(answer: Answer, from: &str, to: &str) -> Answer {
    let Answer::Bytes(bytes) = answer else { panic!("not an answer in one piece") };
    let text = String::from_utf8(bytes).unwrap();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(body.contains(from), "{body} has no {from}");
    Answer::http(200, "x-amzn-requestid: r-1\r\n", &body.replace(from, to))
}

/// The same answer, once `gate` lets it through.
pub(in crate::exchange) fn held(answer: Answer, gate: &Arc<tokio::sync::Semaphore>) -> Answer {
    let Answer::Bytes(bytes) = answer else { panic!("not an answer in one piece") };
    Answer::Held(Arc::clone(gate), bytes)
}

/// What a denial advises; empty when it is none.
pub(in crate::exchange) fn advice_of(failure: &Failure) -> &str {
    let Failure::Denied(denial) = failure else { return "" };
    denial.advice.as_deref().unwrap_or("none")
}
