//! What SREs see: metrics, the audit trail, logs. Values are pushed here by the parts that know them; nothing is global but the
//! log sink.

pub mod audit;
mod labels;
pub mod logging;
pub mod metrics;
pub mod panics;
pub mod process;
pub mod sheds;

use std::sync::Arc;

use crate::base::clock::Clock;
use crate::base::duty::Duty;
use crate::base::readiness::Readiness;
use crate::base::tasks::Tasks;
use crate::observe::audit::Audit;
use crate::observe::metrics::Metrics;
use crate::observe::sheds::Sheds;

/// What every working part of the process gets: time, a place to run, and whom to tell. Cloning it copies handles.
#[derive(Debug, Clone)]
pub struct Context {
    /// The clocks.
    pub clock: Clock,
    /// Who runs work.
    pub tasks: Tasks,
    /// Whether this process serves, or another one.
    pub duty: Duty,
    /// Who is told what works and what does not yet.
    pub readiness: Readiness,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    /// Where it is written down who got what.
    pub audit: Arc<Audit>,
    /// Who is told of what limits turn away.
    pub sheds: Arc<Sheds>,
}

impl Context {
    /// Of a process that serves. Nothing runs and nothing has been counted yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let metrics = Arc::new(Metrics::new());
        Self {
            tasks: Tasks::default(),
            duty: Duty::serving(),
            readiness: Readiness::default(),
            sheds: Arc::new(Sheds::new(Arc::clone(&metrics))),
            metrics,
            audit: Arc::new(Audit::new(&clock)),
            clock,
        }
    }
}
