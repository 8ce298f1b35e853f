//! `credlet policy explain`: what one service account gets, as AWS will see it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;

use crate::cli::policy::{read, text_of};
use crate::domain::name::{is_label, is_subdomain};
use crate::domain::policy::{
    Annotations, Claimant, Exchange, Fault, Faults, Grant, Hop, POD_IDENTITY_AUDIENCE, Policy, Rule, WEB_IDENTITY_AUDIENCE,
    WebIdentity,
};
use crate::domain::refusal::Refusal;

#[derive(Debug, Args)]
pub(super) struct ExplainFlags {
    /// Namespace of the service account
    #[arg(long, value_parser = namespace)]
    namespace: String,
    /// Name of the service account
    #[arg(long, value_name = "NAME", value_parser = service_account)]
    service_account: String,
    /// The policy file; - is standard input; without one, what holds without a policy
    #[arg(long, env = "CREDLET_POLICY")]
    file: Option<PathBuf>,
    /// Audience of the token; by default the one that the exchange takes
    #[arg(long)]
    audience: Option<String>,
    /// An annotation of the service account, as with --service-account-roles; repeatable
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = annotation)]
    annotations: Vec<(String, String)>,
    /// What {cluster} stands for
    #[arg(long, env = "CREDLET_CLUSTER_NAME", value_name = "NAME", default_value = "CLUSTER")]
    cluster_name: String,
    /// What {pod} stands for
    #[arg(long, value_name = "NAME", default_value = "POD")]
    pod: String,
    /// What {podUid} stands for
    #[arg(long, value_name = "UID", default_value = "POD-UID")]
    pod_uid: String,
    /// What {node} stands for
    #[arg(long, value_name = "NAME", default_value = "NODE")]
    node: String,
}

pub(super) fn main(flags: &ExplainFlags) -> anyhow::Result<ExitCode> {
    let cluster = &flags.cluster_name;
    let policy = match &flags.file {
        Some(file) => read(file, &text_of(file)?, cluster)?,
        None => Some(Policy::without_rules(Some(cluster.as_str().into()))),
    };
    let Some(policy) = policy else { return Ok(ExitCode::FAILURE) };
    let text = explanation(&policy, flags)?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn annotation(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("an annotation is KEY=VALUE")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

fn namespace(name: &str) -> Result<String, String> {
    let label = "lower case letters, digits and dashes, 63 at most, with a letter or digit at both ends";
    if is_label(name) { Ok(name.to_owned()) } else { Err(format!("no namespace of Kubernetes has this name: {label}")) }
}

fn service_account(name: &str) -> Result<String, String> {
    let subdomain = "lower case letters, digits, dashes and dots, 253 at most, with a letter or digit at both ends of each part";
    if is_subdomain(name) {
        Ok(name.to_owned())
    } else {
        Err(format!("no service account of Kubernetes has this name: {subdomain}"))
    }
}

fn explanation(policy: &Policy, flags: &ExplainFlags) -> anyhow::Result<String> {
    let who = Claimant::hypothetical(&flags.namespace, &flags.service_account);
    let who = who.in_pod(&flags.pod, &flags.pod_uid, &flags.node);
    let (annotations, faults) = annotations(&flags.annotations)?;
    let case = policy.case(&who);
    let grant = |audience: &Arc<str>, target| case.grant(audience, target, annotations.as_ref());
    let audience = flags.audience.as_deref().map_or_else(|| audience(|audience| grant(audience, None)), Arc::from);
    let mut out = format!("service account: {}/{}\n", flags.namespace, flags.service_account);
    let _ = writeln!(out, "decided by: {}", decider(case.rule(), annotations.is_some()));
    let _ = writeln!(out, "token audience: {audience}");
    let default = grant(&audience, None);
    for fault in faults {
        let _ = writeln!(out, "note: the annotation is of no use: {fault}");
    }
    if &*audience != WEB_IDENTITY_AUDIENCE && default.as_ref().is_ok_and(is_web_identity) {
        let _ = writeln!(
            out,
            "note: STS takes a token of this audience only if the role's OIDC provider has {audience} as a client id"
        );
    }
    section(&mut out, "default role (GET /v1/credentials)", &default);
    for name in case.rule().into_iter().flat_map(|(_, rule)| rule.targets()) {
        section(&mut out, &format!("target {name} (GET /v1/credentials/{name})"), &grant(&audience, Some(name)));
    }
    Ok(out)
}

/// `None` where the agent would not read any, and what is wrong with them though it would serve some tokens all the same.
fn annotations(pairs: &[(String, String)]) -> anyhow::Result<(Option<Annotations>, Vec<Fault>)> {
    if pairs.is_empty() {
        return Ok((None, Vec::new()));
    }
    let annotations = pairs.iter().cloned().collect::<BTreeMap<_, _>>();
    let faults = Annotations::faults(&annotations);
    match Annotations::parse(&annotations) {
        Ok(annotations) => Ok((Some(annotations), faults)),
        Err(_) => bail!("{}", Faults(faults)),
    }
}

/// The audience that the exchange takes.
fn audience(grant: impl Fn(&Arc<str>) -> Result<Grant, Refusal>) -> Arc<str> {
    let web_identity: Arc<str> = WEB_IDENTITY_AUDIENCE.into();
    if grant(&web_identity).as_ref().is_ok_and(is_web_identity) { web_identity } else { POD_IDENTITY_AUDIENCE.into() }
}

fn is_web_identity(grant: &Grant) -> bool {
    matches!(grant.exchange(), Exchange::WebIdentity(_))
}

fn decider(rule: Option<(usize, &Rule)>, annotated: bool) -> String {
    match rule {
        Some((index, rule)) => {
            let [namespace, service_account] = rule.patterns();
            format!("rules[{index}] in line {} (namespace {namespace}, service account {service_account})", rule.line())
        }
        None if annotated => "its annotations, since no rule matches".into(),
        None => "the token's audience, since no rule matches".into(),
    }
}

fn section(out: &mut String, heading: &str, grant: &Result<Grant, Refusal>) {
    let _ = writeln!(out, "\n{heading}:");
    let grant = match grant {
        Ok(grant) => grant,
        Err(refusal) => {
            let _ =
                writeln!(out, "  refused ({}): {}", refusal.reason.label(), refusal.advice.as_deref().unwrap_or(&refusal.cause));
            return;
        }
    };
    match grant.exchange() {
        Exchange::PodIdentity => {
            out.push_str("  exchange: EKS Auth AssumeRoleForPodIdentity: the association decides the role\n")
        }
        Exchange::WebIdentity(web) => web_identity(out, web),
    }
    for (number, hop) in (1..).zip(grant.chain()) {
        assume_role(out, number, hop);
    }
}

fn web_identity(out: &mut String, web: &WebIdentity) {
    let _ = writeln!(out, "  exchange: STS AssumeRoleWithWebIdentity {}", web.role);
    parameter(out, "session name", &web.session_name);
    parameter(out, "duration", &humantime::format_duration(web.duration).to_string());
    parameter(out, "policies", &web.policy_arns.join(", "));
}

fn assume_role(out: &mut String, number: usize, hop: &Hop) {
    let _ = writeln!(out, "  hop {number}: STS AssumeRole {}", hop.role);
    let tag = |(key, value): &(String, String)| {
        let transitive = if hop.transitive_tags.contains(key) { " (transitive)" } else { "" };
        format!("{key}={value}{transitive}")
    };
    parameter(out, "session name", &hop.session_name);
    parameter(out, "duration", &humantime::format_duration(hop.duration).to_string());
    parameter(out, "external id", hop.external_id.as_deref().unwrap_or_default());
    parameter(out, "source identity", hop.source_identity.as_deref().unwrap_or_default());
    parameter(out, "tags", &hop.tags.iter().map(tag).collect::<Vec<_>>().join(", "));
    parameter(out, "policies", &hop.policy_arns.join(", "));
}

/// One parameter, if it has a value.
fn parameter(out: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        let _ = writeln!(out, "    {name}: {value}");
    }
}
