//! What SREs see: metrics, the audit trail, logs. Values are pushed here by the parts that know them; nothing is global but the
//! log sink.

pub mod audit;
pub mod logging;
pub mod metrics;
pub mod process;
