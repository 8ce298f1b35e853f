//! The agent as a whole: everything is built here, in the order in which it must be there, and nowhere else.
//!
//! Sockets come first, so that a client that calls early waits in a queue and is not refused; what needs the network comes after
//! them, in the background.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::http;
use crate::admin::metrics;
use crate::admin::probes::Probes;
use crate::admin::status;
use crate::base::clock::Clock;
use crate::base::readiness::Readiness;
use crate::base::tasks::Tasks;
use crate::broker::Broker;
use crate::cache::{Cache, Parts};
use crate::config::Config;
use crate::egress::aws::Aws;
use crate::egress::https::Https;
use crate::exchange::Exchanges;
use crate::front::{self, Front};
use crate::limits::pods::PodRates;
use crate::limits::upstream::UpstreamBudget;
use crate::node::hardening;
use crate::observe::audit::Audit;
use crate::observe::metrics::Metrics;
use crate::token::Verifier;

/// How long a stopping agent finishes what is in flight. An answer takes 900 ms at most; the kubelet waits 30 s by default.
const DRAIN: Duration = Duration::from_secs(5);
