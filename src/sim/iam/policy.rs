//! Trust policies: who may assume a role, in IAM's own JSON. What is not simulated is refused when a policy is read and never
//! ignored, so that a test can't pass by a line that means nothing here.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html>

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::sim::iam::arn::{account_of_root, is_aws_principal, is_provider};
use crate::sim::iam::condition::{Condition, Context, Operator};
use crate::sim::jwt::TokenClaims;
use crate::sim::one_or_many::one_or_many;
use crate::sim::sessions::Identity;

/// The service that assumes roles for pods.
pub(in crate::sim) const POD_IDENTITY_SERVICE: &str = "pods.eks.amazonaws.com";

/// What a trust policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, strum::IntoStaticStr)]
pub(in crate::sim) enum Action {
    #[serde(rename = "sts:AssumeRole")]
    #[strum(serialize = "sts:AssumeRole")]
    AssumeRole,
    #[serde(rename = "sts:AssumeRoleWithWebIdentity")]
    #[strum(serialize = "sts:AssumeRoleWithWebIdentity")]
    AssumeRoleWithWebIdentity,
    #[serde(rename = "sts:SetSourceIdentity")]
    #[strum(serialize = "sts:SetSourceIdentity")]
    SetSourceIdentity,
    #[serde(rename = "sts:TagSession")]
    #[strum(serialize = "sts:TagSession")]
    TagSession,
}

/// Who asks for a role.
#[derive(Debug, Clone, Copy)]
pub(in crate::sim) enum Asker<'a> {
    /// Who signed.
    Aws(&'a Identity),
    /// The bearer of a token that was verified by the provider of this ARN.
    Federated { provider: &'a str, token: &'a TokenClaims },
    /// A service of AWS.
    Service(&'static str),
}

/// How far a trust policy goes. A later one goes further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sim) enum Trust {
    /// No statement allows it, or one denies it.
    None,
    /// It allows the asker's account, which then decides.
    Account,
    /// It names the asker.
    Named,
}

#[derive(Debug)]
pub(in crate::sim) struct TrustPolicy {
    statements: Vec<Statement>,
}

#[derive(Debug)]
struct Statement {
    effect: Effect,
    principals: Principals,
    actions: Vec<Action>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Principals {
    #[serde(rename = "AWS", default, deserialize_with = "one_or_many")]
    aws: Vec<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    federated: Vec<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    service: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Document {
    version: String,
    #[serde(rename = "Id")]
    _id: Option<String>,
    #[serde(deserialize_with = "one_or_many")]
    statement: Vec<StatementDocument>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct StatementDocument {
    #[serde(rename = "Sid")]
    _sid: Option<String>,
    effect: Effect,
    principal: Principals,
    #[serde(deserialize_with = "one_or_many")]
    action: Vec<Action>,
    #[serde(default)]
    condition: BTreeMap<Operator, BTreeMap<String, Values>>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Values {
    #[serde(deserialize_with = "one_or_many")]
    list: Vec<String>,
}

impl TrustPolicy {
    pub(in crate::sim) fn parse(json: &str) -> Result<Self, String> {
        let document: Document = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if document.version != "2012-10-17" {
            return Err(format!("version {} is not simulated", document.version));
        }
        let statements = document.statement.into_iter().map(Statement::new).collect::<Result<_, _>>()?;
        Ok(Self { statements })
    }

    /// How far `asker` is trusted with `action`: one that denies outweighs all that allow.
    pub(in crate::sim) fn trust(&self, action: Action, asker: Asker<'_>, context: &Context) -> Trust {
        let matching =
            || self.statements.iter().filter_map(|statement| Some((statement, statement.applies(action, asker, context)?)));
        if matching().any(|(statement, _)| statement.effect == Effect::Deny) {
            return Trust::None;
        }
        matching().map(|(_, trust)| trust).max().unwrap_or(Trust::None)
    }
}

impl Statement {
    fn new(document: StatementDocument) -> Result<Self, String> {
        document.principal.check()?;
        let lines =
            document.condition.into_iter().flat_map(|(operator, keys)| keys.into_iter().map(move |line| (operator, line)));
        let conditions = lines.map(|(operator, (key, values))| Condition::new(operator, &key, values.list));
        Ok(Self {
            effect: document.effect,
            principals: document.principal,
            actions: document.action,
            conditions: conditions.collect::<Result<_, _>>()?,
        })
    }

    /// How far it names the asker, if it is about this.
    fn applies(&self, action: Action, asker: Asker<'_>, context: &Context) -> Option<Trust> {
        let applies = self.actions.contains(&action) && self.conditions.iter().all(|condition| condition.holds(context));
        if applies { self.principals.name(asker) } else { None }
    }
}

impl Principals {
    fn check(&self) -> Result<(), String> {
        let aws = self.aws.iter().filter(|principal| !is_aws_principal(principal));
        let federated = self.federated.iter().filter(|principal| !is_provider(principal));
        let service = self.service.iter().filter(|principal| *principal != POD_IDENTITY_SERVICE);
        let unknown = aws.chain(federated).chain(service).next();
        unknown.map_or(Ok(()), |principal| Err(format!("the principal {principal:?} is not simulated")))
    }

    fn name(&self, asker: Asker<'_>) -> Option<Trust> {
        let named = |list: &[String], name: &str| list.iter().any(|principal| principal == name).then_some(Trust::Named);
        match asker {
            Asker::Service(name) => named(&self.service, name),
            Asker::Federated { provider, .. } => named(&self.federated, provider),
            Asker::Aws(identity) => {
                let is_role = || identity.role_arn.as_deref().and_then(|arn| named(&self.aws, arn));
                let of_account = |principal: &String| account_of_root(principal) == Some(identity.account());
                let is_account = || self.aws.iter().any(of_account).then_some(Trust::Account);
                named(&self.aws, &identity.arn).or_else(is_role).or_else(is_account)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(principal: &Value, action: &Value, condition: &Value) -> String {
        let statement = json!({ "Effect": "Allow", "Principal": principal, "Action": action, "Condition": condition });
        json!({ "Version": "2012-10-17", "Statement": statement }).to_string()
    }

    #[test]
    fn what_is_not_simulated_is_refused() {
        let (root, assume, none) = (json!({ "AWS": "arn:aws:iam::111111111111:root" }), json!("sts:AssumeRole"), json!({}));
        assert!(TrustPolicy::parse(&policy(&root, &assume, &none)).is_ok());
        let refused = [
            (policy(&json!("*"), &assume, &none), "invalid type"),
            (policy(&json!({ "AWS": "*" }), &assume, &none), "principal \"*\""),
            (policy(&json!({ "Service": "ec2.amazonaws.com" }), &assume, &none), "principal \"ec2.amazonaws.com\""),
            (policy(&json!({ "Federated": "accounts.google.com" }), &assume, &none), "principal \"accounts.google.com\""),
            (policy(&json!({ "CanonicalUser": "x" }), &assume, &none), "unknown field `CanonicalUser`"),
            (policy(&root, &json!("sts:*"), &none), "unknown variant `sts:*`"),
            (policy(&root, &assume, &json!({ "Bool": { "aws:MultiFactorAuthPresent": "true" } })), "unknown variant `Bool`"),
            (policy(&root, &assume, &json!({ "StringEquals": { "aws:SourceIp": "::1" } })), "key \"aws:SourceIp\""),
            (policy(&root, &assume, &json!({ "StringEquals": { "sts:ExternalId": "${aws:username}" } })), "policy variables"),
            (json!({ "Version": "2008-10-17", "Statement": [] }).to_string(), "version 2008-10-17"),
            (
                json!({ "Version": "2012-10-17", "Statement": [{ "NotPrincipal": root }] }).to_string(),
                "unknown field `NotPrincipal`",
            ),
            ("{".to_owned(), "EOF"),
        ];
        for (json, why) in refused {
            let fault = TrustPolicy::parse(&json).unwrap_err();
            assert!(fault.contains(why), "{fault}");
        }
    }

    #[test]
    fn a_deny_outweighs_and_a_name_goes_further_than_an_account() {
        let user = Identity::user("arn:aws:iam::111111111111:user/node", "AIDA");
        let context = Context::default();
        let trust = |statements: &[Value]| {
            let policy = json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
            TrustPolicy::parse(&policy).unwrap().trust(Action::AssumeRole, Asker::Aws(&user), &context)
        };
        let line =
            |effect: &str, arn: &str| json!({ "Effect": effect, "Principal": { "AWS": [arn] }, "Action": ["sts:AssumeRole"] });
        let (root, name) = ("arn:aws:iam::111111111111:root", "arn:aws:iam::111111111111:user/node");
        assert_eq!(trust(&[]), Trust::None);
        assert_eq!(trust(&[line("Allow", "arn:aws:iam::222222222222:root")]), Trust::None);
        assert_eq!(trust(&[line("Allow", root)]), Trust::Account);
        assert_eq!(trust(&[line("Allow", root), line("Allow", name)]), Trust::Named);
        assert_eq!(trust(&[line("Allow", name), line("Deny", root)]), Trust::None);
    }
}
