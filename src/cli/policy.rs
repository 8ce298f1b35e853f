//! `credlet policy`: what a policy file is worth before an agent reads it, and what it means for one service account.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use crate::domain::policy::{
    Annotations, Claimant, Exchange, Fault, Grant, Hop, POD_IDENTITY_AUDIENCE, Policy, Rule, WEB_IDENTITY_AUDIENCE, WebIdentity,
};
use crate::domain::refusal::Refusal;

/// `credlet policy …`.
#[derive(Debug, Args)]
pub(super) struct PolicyFlags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every fault of a policy file, a line each; exit 1 if there are any
    Check(CheckFlags),
    /// What one service account gets: the rule that matches, the chain that results, all targets
    Explain(ExplainFlags),
}

#[derive(Debug, Args)]
struct CheckFlags {
    /// The file; - is standard input
    file: PathBuf,
    /// The --cluster-name of the agents that will read it; without it, what needs one is told but is no fault
    #[arg(long, env = "CREDLET_CLUSTER_NAME", value_name = "NAME")]
    cluster_name: Option<String>,
}

#[derive(Debug, Args)]
struct ExplainFlags {
    /// Namespace of the service account
    #[arg(long)]
    namespace: String,
    /// Name of the service account
    #[arg(long, value_name = "NAME")]
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

pub(super) fn main(flags: &PolicyFlags) -> anyhow::Result<ExitCode> {
    match &flags.command {
        Command::Check(flags) => check(flags),
        Command::Explain(flags) => explain(flags),
    }
}

fn check(CheckFlags { file, cluster_name }: &CheckFlags) -> anyhow::Result<ExitCode> {
    let text = text_of(file).with_context(|| file.display().to_string())?;
    let Some(policy) = read(file, &text, cluster_name.as_deref().unwrap_or("CLUSTER"))? else { return Ok(ExitCode::FAILURE) };
    let without_cluster = cluster_name.is_none().then(|| Policy::parse(&text, None).err()).flatten();
    let needs_cluster = without_cluster.map(|faults| faults.0).unwrap_or_default();
    for warning in policy.warnings().iter().chain(&needs_cluster) {
        writeln!(std::io::stderr(), "{}", told(file, warning))?;
    }
    let targets: usize = policy.rules().iter().map(|rule| rule.targets().count()).sum();
    let rules = policy.rules().len();
    writeln!(std::io::stdout(), "{}: no faults: rules: {rules}, targets: {targets}", file.display())?;
    Ok(ExitCode::SUCCESS)
}

fn explain(flags: &ExplainFlags) -> anyhow::Result<ExitCode> {
    let cluster = &flags.cluster_name;
    let policy = match &flags.file {
        Some(file) => read(file, &text_of(file).with_context(|| file.display().to_string())?, cluster)?,
        None => Some(Policy::without_rules(Some(cluster.as_str().into()))),
    };
    let Some(policy) = policy else { return Ok(ExitCode::FAILURE) };
    let text = explanation(&policy, flags)?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The policy in `file`, which says `text`; `None` when it has faults, which are told.
fn read(file: &Path, text: &str, cluster: &str) -> anyhow::Result<Option<Policy>> {
    let policy = Policy::parse(text, Some(cluster.into()));
    let faults = match policy {
        Ok(policy) => return Ok(Some(policy)),
        Err(faults) => faults,
    };
    for fault in &faults.0 {
        writeln!(std::io::stdout(), "{}", told(file, fault))?;
    }
    Ok(None)
}

fn text_of(file: &Path) -> anyhow::Result<String> {
    if file != Path::new("-") {
        return Ok(std::fs::read_to_string(file)?);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// `FILE:LINE: path: message`, as editors and pipelines find places.
fn told(file: &Path, fault: &Fault) -> String {
    let line = fault.line.map(|line| format!("{line}:")).unwrap_or_default();
    format!("{}:{line} {}", file.display(), fault.what())
}

fn annotation(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("an annotation is KEY=VALUE")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

fn explanation(policy: &Policy, flags: &ExplainFlags) -> anyhow::Result<String> {
    let who = Claimant::hypothetical(&flags.namespace, &flags.service_account);
    let who = who.in_pod(&flags.pod, &flags.pod_uid, &flags.node);
    let annotations = annotations(&flags.annotations)?;
    let case = policy.case(&who);
    let grant = |audience: &Arc<str>, target| case.grant(audience, target, annotations.as_ref());
    let audience = flags.audience.as_deref().map_or_else(|| audience(|audience| grant(audience, None)), Arc::from);
    let mut out = format!("service account: {}/{}\n", flags.namespace, flags.service_account);
    let _ = writeln!(out, "decided by: {}", decider(case.rule(), annotations.is_some()));
    let _ = writeln!(out, "token audience: {audience}");
    section(&mut out, "default role (GET /v1/credentials)", &grant(&audience, None));
    for name in case.rule().into_iter().flat_map(|(_, rule)| rule.targets()) {
        section(&mut out, &format!("target {name} (GET /v1/credentials/{name})"), &grant(&audience, Some(name)));
    }
    Ok(out)
}

/// `None` where the agent would not read any.
fn annotations(pairs: &[(String, String)]) -> anyhow::Result<Option<Annotations>> {
    if pairs.is_empty() {
        return Ok(None);
    }
    match Annotations::parse(&pairs.iter().cloned().collect::<BTreeMap<_, _>>()) {
        Ok(annotations) => Ok(Some(annotations)),
        Err(faults) => bail!("{faults}"),
    }
}

/// The audience that the exchange takes.
fn audience(grant: impl Fn(&Arc<str>) -> Result<Grant, Refusal>) -> Arc<str> {
    let web_identity: Arc<str> = WEB_IDENTITY_AUDIENCE.into();
    let is_web_identity = |grant: &Grant| matches!(grant.exchange(), Exchange::WebIdentity(_));
    if grant(&web_identity).as_ref().is_ok_and(is_web_identity) { web_identity } else { POD_IDENTITY_AUDIENCE.into() }
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
        Exchange::PodIdentity => out.push_str("  1. EKS Auth AssumeRoleForPodIdentity: the association decides the role\n"),
        Exchange::WebIdentity(web) => web_identity(out, web),
    }
    for (number, hop) in (2..).zip(grant.chain()) {
        assume_role(out, number, hop);
    }
}

fn web_identity(out: &mut String, web: &WebIdentity) {
    let _ = writeln!(out, "  1. STS AssumeRoleWithWebIdentity {}", web.role);
    parameter(out, "session name", &web.session_name);
    parameter(out, "duration", &humantime::format_duration(web.duration).to_string());
    parameter(out, "policies", &web.policy_arns.join(", "));
}

fn assume_role(out: &mut String, number: usize, hop: &Hop) {
    let _ = writeln!(out, "  {number}. STS AssumeRole {}", hop.role);
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
        let _ = writeln!(out, "       {name}: {value}");
    }
}
