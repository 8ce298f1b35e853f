//! What operators see of the key sets: `/status` and `credlet_jwks_age_seconds`.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::token::config::Standing;
use crate::token::keys::{Keys, Source};

/// The keyring at one moment.
#[derive(Debug, Serialize)]
pub struct KeyringStatus {
    /// Who verifies tokens.
    pub verification: Standing,
    /// In the order of the `issuer` label of metrics.
    pub issuers: Vec<IssuerStatus>,
}

/// One issuer.
#[derive(Debug, Serialize)]
pub struct IssuerStatus {
    /// `iss`; none while it is searched for.
    pub issuer: Option<String>,
    /// Number of keys in force.
    pub keys: usize,
    /// Their names.
    pub kids: Vec<String>,
    /// Since any of its sources last answered.
    pub age_seconds: Option<u64>,
    /// The error of the first source that is in error.
    pub error: Option<String>,
    /// Where its keys are from.
    pub sources: Vec<SourceStatus>,
}

/// One source of an issuer's keys.
#[derive(Debug, Serialize)]
pub struct SourceStatus {
    /// URL or path.
    pub source: String,
    /// Number of keys.
    pub keys: usize,
    /// Since it last answered.
    pub age_seconds: Option<u64>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

impl KeyringStatus {
    pub(super) fn of(keys: &Keys, now: Instant) -> Self {
        let issuers = by_issuer(keys).into_iter().map(|(issuer, sources)| IssuerStatus::of(issuer, &sources, now));
        Self { verification: keys.standing(), issuers: issuers.collect() }
    }
}

impl IssuerStatus {
    fn of(issuer: Option<Arc<str>>, sources: &[&Source], now: Instant) -> Self {
        let mut kids: Vec<String> = sources.iter().flat_map(|source| &source.keys).map(|key| key.kid().to_owned()).collect();
        kids.sort();
        kids.dedup();
        let sources: Vec<_> = sources.iter().map(|source| SourceStatus::of(source, now)).collect();
        Self {
            issuer: issuer.map(|issuer| issuer.to_string()),
            keys: kids.len(),
            kids,
            age_seconds: sources.iter().filter_map(|source| source.age_seconds).min(),
            error: sources.iter().find_map(|source| source.error.clone()),
            sources,
        }
    }
}

impl SourceStatus {
    fn of(source: &Source, now: Instant) -> Self {
        Self {
            source: source.label.clone(),
            keys: source.keys.len(),
            age_seconds: source.succeeded.map(|at| now.saturating_duration_since(at).as_secs()),
            error: source.error.clone(),
        }
    }
}

/// Issuers in the order in which they were added, each with its sources.
fn by_issuer(keys: &Keys) -> Vec<(Option<Arc<str>>, Vec<&Source>)> {
    let mut issuers: Vec<(Option<Arc<str>>, Vec<&Source>)> = Vec::new();
    for source in keys.sources() {
        match issuers.iter_mut().find(|(issuer, _)| *issuer == source.issuer) {
            Some((_, sources)) => sources.push(source),
            None => issuers.push((source.issuer.clone(), vec![source])),
        }
    }
    issuers
}

/// Collects `credlet_jwks_age_seconds`; an issuer whose keys were never had has no value.
#[derive(Debug)]
pub(super) struct JwksAge {
    keys: watch::Receiver<Keys>,
    clock: Clock,
}

impl JwksAge {
    pub(super) fn new(keys: watch::Receiver<Keys>, clock: Clock) -> Self {
        Self { keys, clock }
    }
}

impl Collector for JwksAge {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let status = KeyringStatus::of(&self.keys.borrow(), self.clock.now().mono);
        let help = "Since a source of the issuer's keys last answered";
        let mut family = encoder.encode_descriptor("credlet_jwks_age_seconds", help, None, MetricType::Gauge)?;
        for (index, issuer) in status.issuers.iter().enumerate() {
            if let Some(age) = issuer.age_seconds {
                ConstGauge::new(age).encode(family.encode_family(&[("issuer", index.to_string())])?)?;
            }
        }
        Ok(())
    }
}
