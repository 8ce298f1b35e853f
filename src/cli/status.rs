//! `credlet status`: the running agent's status, as a table or as JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use hyper::StatusCode;
use serde_json::Value;

use crate::admin::status::{ask, ask_also_by_port};

/// For an answer: one that takes longer is of an agent that hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is shown of each entry.
const ENTRY_COLUMNS: [&str; 9] = [
    "namespace",
    "service_account",
    "pod_name",
    "target",
    "exchange",
    "role_arn",
    "expires_at",
    "renewal_in_seconds",
    "last_error",
];

/// What `credlet status` can be told.
#[derive(Debug, Args)]
pub(super) struct StatusFlags {
    /// Print the status document as it is
    #[arg(long, conflicts_with = "ready")]
    json: bool,
    /// Print nothing but what is pending, and exit 0 if this agent serves, 1 if it does not
    #[arg(long)]
    ready: bool,
    /// Print nothing but what has ended, and exit 0 if this agent can make progress, 1 if it can't
    #[arg(long, conflicts_with_all = ["json", "ready"])]
    healthy: bool,
    /// The run directory of the agent to ask
    #[arg(long, env = "CREDLET_RUN_DIR", value_name = "DIR", default_value = "/run/credlet")]
    run_dir: PathBuf,
    /// The probe port of that agent, which --healthy asks where the run directory has no socket
    #[arg(long, env = "CREDLET_PROBE_PORT", value_name = "PORT", default_value = "2703")]
    probe_port: u16,
}

pub(super) fn main(flags: &StatusFlags) -> anyhow::Result<ExitCode> {
    let path = match flags {
        StatusFlags { ready: true, .. } => "/readyz",
        StatusFlags { healthy: true, .. } => "/healthz",
        _ => "/status",
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asking = async {
        match flags.healthy {
            true => ask_also_by_port(&flags.run_dir, flags.probe_port, path).await,
            false => ask(&flags.run_dir, path).await,
        }
    };
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await });
    let (status, body) = answer.with_context(|| format!("the agent has not answered for {PATIENCE:?}: it hangs"))??;
    let document: Value = serde_json::from_slice(&body)?;
    let text = match flags {
        StatusFlags { json: true, .. } => format!("{document:#}\n"),
        StatusFlags { ready: true, .. } => pending(&document),
        StatusFlags { healthy: true, .. } => ended(&document),
        _ => table(&document),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn pending(document: &Value) -> String {
    members(&document["pending"]).map(|(part, reason)| format!("{part}: {}\n", text(reason))).collect()
}

fn ended(document: &Value) -> String {
    document["ended"].as_array().into_iter().flatten().map(|task| format!("{}\n", text(task))).collect()
}

/// The document for a terminal: what ails the agent first, then its parts, then its entries.
fn table(document: &Value) -> String {
    let mut out = String::new();
    let ready = if document["ready"] == true { "ready" } else { "NOT READY" };
    let _ = writeln!(
        out,
        "credlet {} ({}), {ready}, up {} s",
        cell(document, "version"),
        cell(document, "commit"),
        cell(document, "uptime_seconds")
    );
    for (heading, list) in [("waits for", "pending"), ("advice", "advice")] {
        for (part, reason) in members(&document[list]) {
            let _ = writeln!(out, "  {heading}: {part}: {}", text(reason));
        }
    }
    handover(&mut out, &document["handover"]);
    section(&mut out, "listeners", &document["listeners"], &["address", "listening", "link", "route", "detail"]);
    let _ = writeln!(out, "\nconnections from outside this node: {}", cell(document, "source_check"));
    let _ = writeln!(out, "tokens from elsewhere than their pod: {}", cell(document, "source_binding"));
    pod_watch(&mut out, &document["pod_watch"]);
    let verification = &document["verification"];
    let _ = writeln!(out, "\ntokens are verified: {}", cell(verification, "verification"));
    section(&mut out, "issuers", &verification["issuers"], &["issuer", "keys", "age_seconds", "error"]);
    grants(&mut out, &document["grants"]);
    let node = &document["node_credentials"];
    let credentials = match node.is_null() {
        true => "none was needed yet".to_owned(),
        false => format!("{}, until {}", cell(node, "source"), cell(node, "expires_at")),
    };
    let _ = writeln!(out, "\nnode credentials: {credentials}");
    let upstream = &document["upstream"];
    let throttled =
        upstream["throttled_for_seconds"].as_u64().map(|left| format!(", throttled for {left} s")).unwrap_or_default();
    let _ = writeln!(out, "calls to AWS: {} a second{throttled}", cell(upstream, "calls_per_second"));
    section(&mut out, "entries", &document["entries"], &ENTRY_COLUMNS);
    out
}

/// The other agents of the node, where there may be any.
fn handover(out: &mut String, handover: &Value) {
    if handover.is_null() {
        return;
    }
    let agent = |peer: &Value| format!("version {}, pid {}", cell(peer, "version"), cell(peer, "pid"));
    let _ = writeln!(out, "\nhandover: {} for {} s", cell(handover, "role"), cell(handover, "for_seconds"));
    if !handover["serving"].is_null() {
        let does = if handover["role"] == "standby" { "stands by for" } else { "waits for" };
        let _ = writeln!(out, "  {does}: {}", agent(&handover["serving"]));
    }
    for peer in handover["standing_by"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "  stands by for this agent: {}", agent(peer));
    }
}

/// The watch of this node's pods, if there is one.
fn pod_watch(out: &mut String, watch: &Value) {
    if watch.is_null() {
        return;
    }
    let (present, gone, error) = (cell(watch, "present"), cell(watch, "gone"), &watch["error"]);
    let state = if error.is_null() { "up to date".to_owned() } else { format!("not up to date: {}", text(error)) };
    let _ = writeln!(out, "pods of this node: {present}, gone: {gone}, {state}");
}

/// The policy file and the service accounts, as far as they count.
fn grants(out: &mut String, grants: &Value) {
    let (policy, accounts) = (&grants["policy"], &grants["service_accounts"]);
    if !policy.is_null() {
        let (path, rules, since) = (cell(policy, "path"), cell(policy, "rules"), cell(policy, "loaded_at"));
        let _ = writeln!(out, "\npolicy: {path}, rules: {rules}, in force since {since}");
    }
    for fault in policy["faults"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "  NOT USED as it is now: {}", text(fault));
    }
    if !accounts.is_null() {
        let (known, oldest, error) = (cell(accounts, "known"), cell(accounts, "oldest_seconds"), cell(accounts, "error"));
        let _ = writeln!(out, "\nservice accounts: {known} known, the oldest answer in use {oldest} s old, error: {error}");
    }
}

/// A list of objects as aligned columns.
fn section(out: &mut String, name: &str, rows: &Value, columns: &[&str]) {
    let rows: Vec<&Value> = rows.as_array().into_iter().flatten().collect();
    let _ = writeln!(out, "\n{name}: {}", rows.len());
    if rows.is_empty() {
        return;
    }
    let heading = columns.iter().map(|column| column.to_uppercase()).collect();
    let lines: Vec<Vec<String>> =
        std::iter::once(heading).chain(rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect())).collect();
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>().join("  ");
        let _ = writeln!(out, "  {}", cells.trim_end());
    }
}

fn members(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

fn cell(row: &Value, column: &str) -> String {
    text(&row[column])
}

fn text(value: &Value) -> String {
    if value.is_null() {
        return "-".into();
    }
    // One row stays one line, whatever an error says.
    value.as_str().map_or_else(|| value.to_string(), |text| text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_tells_what_ails_first_and_aligns_entries() {
        let document = json!({
            "version": "1", "commit": "c", "uptime_seconds": 5, "ready": false, "pending": {"keys": "no answer"}, "advice": {},
            "entries": [{"namespace": "long-namespace", "service_account": "s"}, {"namespace": "n", "service_account": "t"}],
        });
        let table = table(&document);
        assert!(table.starts_with("credlet 1 (c), NOT READY, up 5 s\n  waits for: keys: no answer\n"), "{table}");
        assert!(table.contains("  long-namespace  s  ") && table.contains("  n               t  "), "{table}");
        assert_eq!(pending(&document), "keys: no answer\n");
    }

    #[test]
    fn the_table_tells_of_other_agents_where_there_may_be_any() {
        let peers = json!([{"version": "2", "pid": 7}, {"version": "3", "pid": null}]);
        let table_of = |role, serving| {
            let handover = json!({"role": role, "for_seconds": 9, "serving": serving, "standing_by": peers});
            table(&json!({ "handover": handover }))
        };
        let table = table_of("serving", Value::Null);
        let expected = "\nhandover: serving for 9 s\n  stands by for this agent: version 2, pid 7\n  stands by for this agent: version 3, pid -\n";
        assert!(table.contains(expected), "{table}");
        assert!(table_of("standby", json!({"version": "2", "pid": 7})).contains("\n  stands by for: version 2, pid 7\n"));
        assert!(table_of("seeking", json!({"pid": 7})).contains("\nhandover: seeking for 9 s\n  waits for: version -, pid 7\n"));
        assert!(!super::table(&json!({})).contains("handover"));
    }

    #[test]
    fn the_table_tells_of_policy_and_service_accounts_where_they_count() {
        let policy = json!({"path": "/p.yaml", "loaded_at": "then", "rules": 2, "faults": ["line 1: x", "line 2: y"]});
        let accounts = json!({"known": 3, "oldest_seconds": 61, "error": null});
        let table = table(&json!({ "grants": { "policy": policy, "service_accounts": accounts } }));
        assert!(
            table.contains("\npolicy: /p.yaml, rules: 2, in force since then\n  NOT USED as it is now: line 1: x\n"),
            "{table}"
        );
        assert!(table.contains("\nservice accounts: 3 known, the oldest answer in use 61 s old, error: -\n"), "{table}");
        assert!(!super::table(&json!({})).contains("policy"));
    }
}
