//! Words that every other module uses: time, secrets, named tasks, readiness. Nothing here does I/O.

pub mod bucket;
pub mod clock;
pub mod readiness;
pub mod secret;
pub mod tasks;
