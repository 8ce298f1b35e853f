//! The directory in which successive agents meet, if there is to be one.

use crate::checks::{Check, Finding};
use crate::config::Config;
use crate::node::handover::directory::Directory;

const REMEDY: &str = "mend it: without it the node is without credentials for a moment at each upgrade, and all are fetched anew";

/// Looks at it as the server does, which serves without it.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let Some(path) = &config.handover_dir else { return Vec::new() };
    vec![match Directory::open(path) {
        Ok(_) => Finding::ok(Check::Handover, format!("{} is this agent's own", path.display())),
        Err(error) => Finding::warning(Check::Handover, error.to_string(), REMEDY),
    }]
}
