//! `/metrics`.

use std::sync::Arc;

use hyper::StatusCode;

use crate::admin::http::Answer;
use crate::observe::metrics::Metrics;

/// `OpenMetrics` 1.0.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers Prometheus.
#[must_use]
pub fn answer(metrics: &Arc<Metrics>, path: &str) -> Answer {
    if path != "/metrics" {
        return Answer::not_found();
    }
    match metrics.encode() {
        Ok(body) => Answer { status: StatusCode::OK, content_type: CONTENT_TYPE, body },
        Err(_) => Answer { status: StatusCode::INTERNAL_SERVER_ERROR, ..Answer::not_found() },
    }
}
