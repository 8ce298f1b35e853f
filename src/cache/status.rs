//! Entries as operators see them: names, times and the last error; never a secret.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

use crate::base::clock::{Now, unix_seconds};
use crate::cache::Cache;
use crate::cache::entry::Entry;
use crate::cache::key::EntryKey;
use crate::domain::credential::rfc3339;

/// One line of `credlet status`.
#[derive(Debug, Clone, Serialize)]
pub struct EntryStatus {
    /// As verified; absent while AWS has not yet answered for a delegated token.
    pub namespace: Option<String>,
    /// See `namespace`.
    pub service_account: Option<String>,
    /// Absent with delegated verification.
    pub pod_name: Option<String>,
    /// Absent with delegated verification.
    pub pod_uid: Option<String>,
    /// The NAME by which it is asked for; absent for the default role.
    pub target: Option<String>,
    /// How its chain begins.
    pub exchange: &'static str,
    /// The assumed role.
    pub role_arn: Option<String>,
    /// CloudTrail's name for the session.
    pub access_key_id: Option<String>,
    /// RFC 3339.
    pub expires_at: Option<String>,
    /// Seconds; 0 when it is due.
    pub renewal_in_seconds: Option<u64>,
    /// The last failure, if nothing has gone well since.
    pub last_error: Option<String>,
}

impl EntryStatus {
    pub(super) fn of(key: &EntryKey, entry: &Entry, now: Now) -> Self {
        let identity = key.subject.identity();
        let held = entry.held();
        let provenance = held.map(|credential| credential.provenance());
        let named = |verified: Option<&String>, answered: Option<&String>| verified.or(answered).cloned();
        Self {
            namespace: named(identity.map(|who| &who.namespace), provenance.map(|from| &from.namespace)),
            service_account: named(identity.map(|who| &who.service_account), provenance.map(|from| &from.service_account)),
            pod_name: identity.map(|who| who.pod.clone()),
            pod_uid: identity.map(|who| who.pod_uid.clone()),
            target: key.grant.target().map(str::to_owned),
            exchange: key.grant.exchange().into(),
            role_arn: provenance.map(|from| from.role_arn.clone()),
            access_key_id: held.map(|credential| credential.access_key_id().to_owned()),
            expires_at: held.and_then(|credential| rfc3339(credential.expires_at())),
            renewal_in_seconds: entry.renewal_due().map(|due| due.saturating_duration_since(now.mono).as_secs()),
            last_error: entry.last_failure().map(ToString::to_string),
        }
    }
}

/// `credlet_earliest_expiry_timestamp_seconds`: when the first of all credentials ends that are to be renewed before, Unix seconds.
/// Without any there is no sample, so that an alert on it stays silent.
#[derive(Debug)]
pub struct EarliestExpiry(pub Cache);

impl Collector for EarliestExpiry {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(earliest) = self.0.earliest_expiry() else { return Ok(()) };
        let gauge = ConstGauge::new(unix_seconds(earliest));
        let name = "credlet_earliest_expiry_timestamp_seconds";
        let help = "When the first of all held credentials ends";
        gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
    }
}
