//! Panics: each is counted, and told by its task and place. tokio ends the task that panicked, and the process lives.
//!
//! What a panic says may quote what the code was working on, a token perhaps. So it is told only where it is a literal of the
//! program, which holds no data.

use std::panic::PanicHookInfo;
use std::sync::Arc;

use crate::base::tasks;
use crate::observe::metrics::Metrics;

// With `panic = "abort"` one panic would empty a node.
#[cfg(not(panic = "unwind"))]
compile_error!("credlet is to be built with panic = \"unwind\"");

/// Has every panic of this process reported, in place of what Rust prints.
pub fn watch(metrics: Arc<Metrics>) {
    std::panic::set_hook(Box::new(move |panic| report(&metrics, panic)));
}

/// Counts a panic and writes its line.
pub fn report(metrics: &Metrics, panic: &PanicHookInfo<'_>) {
    let task = tasks::current();
    metrics.panicked(task);
    let place = panic.location().map(tracing::field::display);
    let literal = panic.payload().downcast_ref::<&'static str>();
    tracing::error!(task, place, literal, "a panic, which is a bug of credlet; it ended this task and nothing else");
}
