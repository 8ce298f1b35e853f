//! The keys of token issuers: a finding for each source of each issuer.

use std::path::Path;

use tokio::time::Instant;

use crate::checks::{Check, Finding, Outcome};
use crate::config::Config;
use crate::observe::Context;
use crate::token::survey::survey;
use crate::token::{Access, IssuerStatus, KeySource, Mode, SourceStatus};

const REMEDY: &str = "let this node reach it (security group, HTTPS_PROXY, AWS_CA_BUNDLE), or name other keys: --issuer ISS=KEYS";
const FILE_REMEDY: &str = "mount a JWKS (RFC 7517) there that the agent may read, or name other keys: --issuer ISS=KEYS";

/// Asks every source once.
pub(super) async fn check(config: &Config, access: Access, context: &Context, deadline: Instant) -> Vec<Finding> {
    if config.token.mode == Mode::Delegated {
        return vec![Finding::ok(Check::Keys, "none are needed: EKS Auth verifies tokens")];
    }
    let status = survey(&config.token, access, context, deadline).await;
    let found = status.issuers.iter().flat_map(|issuer| issuer.sources.iter().map(move |source| (issuer, source)));
    found.map(|(issuer, source)| finding(issuer, source, config.token.mode, remedy(config, &source.source))).collect()
}

fn remedy(config: &Config, source: &str) -> &'static str {
    let mut sources = config.token.issuers.iter().flat_map(|issuer| &issuer.sources);
    let is_file = sources.any(|known| matches!(known, KeySource::File(path) if path == Path::new(source)));
    if is_file { FILE_REMEDY } else { REMEDY }
}

/// That a source gives no keys is not that bad, as long as tokens of its issuer can be verified by other means.
fn finding(issuer: &IssuerStatus, source: &SourceStatus, mode: Mode, remedy: &str) -> Finding {
    let outcome = if issuer.keys > 0 || mode == Mode::Auto { Outcome::Warning } else { Outcome::Failed };
    let whose = issuer.issuer.as_deref().unwrap_or("the issuer, which is not known yet");
    if source.keys > 0 {
        return Finding::ok(Check::Keys, format!("{} of {whose}, from {}", source.keys, source.source));
    }
    let error = source.error.as_deref().unwrap_or("no answer in time");
    // Errors name their URL as a rule.
    let place = if error.contains(&source.source) { String::new() } else { format!("{}: ", source.source) };
    let until =
        if outcome == Outcome::Warning && issuer.keys == 0 { "; EKS Auth alone verifies tokens until it does" } else { "" };
    let detail = format!("none of {whose}: {place}{error}{until}");
    Finding { outcome, ..Finding::failed(Check::Keys, detail, remedy) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(keys: usize) -> SourceStatus {
        let error = (keys == 0).then(|| "timed out".to_owned());
        SourceStatus { source: "https://a.example/keys".into(), keys, age_seconds: None, error }
    }

    fn issuer(sources: Vec<SourceStatus>) -> IssuerStatus {
        let keys = sources.iter().map(|source| source.keys).sum();
        IssuerStatus { issuer: Some("https://a.example".into()), keys, kids: Vec::new(), age_seconds: None, error: None, sources }
    }

    #[test]
    fn a_source_is_missed_only_where_nothing_else_verifies() {
        let (none, half) = (issuer(vec![source(0)]), issuer(vec![source(0), source(2)]));
        let outcome = |issuer: &IssuerStatus, mode| finding(issuer, &issuer.sources[0], mode, REMEDY);
        assert_eq!(outcome(&none, Mode::Local).outcome, Outcome::Failed);
        assert_eq!(outcome(&half, Mode::Local).outcome, Outcome::Warning);
        let delegated = outcome(&none, Mode::Auto);
        assert!(
            delegated.outcome == Outcome::Warning && delegated.detail.ends_with("EKS Auth alone verifies tokens until it does")
        );
        assert!(!outcome(&half, Mode::Auto).detail.contains("EKS Auth"));
        assert_eq!(finding(&half, &half.sources[1], Mode::Local, REMEDY).outcome, Outcome::Ok);
    }
}
