//! The log sink: JSON for machines or text for people, on standard error, with the audit trail always in JSON.

use std::io;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry;

use crate::observe::audit;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Text for a terminal.
    Text,
}

/// What is logged and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The least level that is written; audit lines are written whatever it is.
    pub level: LevelFilter,
    /// How lines look.
    pub format: Format,
}

/// A subscriber that writes to `writer`.
///
/// Foreign crates are held to `warn` whatever the level: below it HTTP libraries print headers, and with them bearer tokens.
/// kube's client is held to nothing: it calls an error what its callers handle, and tell themselves.
pub fn subscriber<W>(config: Config, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Clone + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer.clone());
    let lines = match config.format {
        Format::Json => layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        Format::Text => layer.with_ansi(false).boxed(),
    };
    let trail = tracing_subscriber::fmt::layer().with_writer(writer).json().flatten_event(true);
    let trail = trail.with_current_span(false).with_span_list(false);
    registry().with(lines.with_filter(lines_of(config.level))).with(trail.with_filter(audit_only()))
}

/// Makes `config` the process's log sink, on standard error.
///
/// # Errors
/// When the process has a log sink already.
pub fn init(config: Config) -> Result<(), tracing::subscriber::SetGlobalDefaultError> {
    tracing::subscriber::set_global_default(subscriber(config, io::stderr))
}

fn lines_of(level: LevelFilter) -> Targets {
    let foreign = level.min(LevelFilter::WARN);
    let silent = ["kube_client", audit::TARGET].map(|target| (target, LevelFilter::OFF));
    Targets::new().with_default(foreign).with_target("credlet", level).with_targets(silent)
}

fn audit_only() -> Targets {
    Targets::new().with_target(audit::TARGET, LevelFilter::INFO)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(config: Config, log: impl FnOnce()) -> Vec<String> {
        let sink = Sink::default();
        let writer = sink.clone();
        tracing::subscriber::with_default(subscriber(config, move || writer.clone()), log);
        let bytes = sink.0.lock().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn audit_lines_pass_every_level_and_are_json() {
        let lines = written(Config { level: LevelFilter::ERROR, format: Format::Text }, || {
            tracing::info!(target: "credlet::x", "left out");
            tracing::info!(target: audit::TARGET, outcome = "issued");
        });
        assert_eq!(lines.len(), 1);
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&line["outcome"], &line["target"]), (&"issued".into(), &"audit".into()));
    }

    #[test]
    fn foreign_crates_reach_the_log_with_warnings_only_and_kubes_client_never_does() {
        let lines = written(Config { level: LevelFilter::TRACE, format: Format::Json }, || {
            tracing::info!(target: "hyper::proto", "headers");
            tracing::error!(target: "kube_client::client::builder", "failed");
            tracing::trace!(target: "credlet::x", "own");
        });
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("own"));
    }

    #[test]
    fn spans_of_foreign_crates_add_nothing_to_own_lines() {
        for format in [Format::Json, Format::Text] {
            let lines = written(Config { level: LevelFilter::TRACE, format }, || {
                let _span = tracing::info_span!(target: "aws_smithy_runtime", "invoke", authorization = "canary").entered();
                tracing::info!(target: "credlet::x", "own");
                tracing::info!(target: audit::TARGET, "own");
            });
            assert!(lines.len() == 2 && lines.iter().all(|line| line.contains("own") && !line.contains("canary")), "{lines:?}");
        }
    }
}
