//! Named tasks with one shutdown signal.
//!
//! A panic ends one task, never the process. A critical task that ends, however, leaves a process that looks alive and does
//! nothing: its name is kept, and the liveness probe reports it so that the kubelet starts a new one.
//!
//! Each task knows its name while it runs, so that a panic can be told by it.

use std::future::Future;
use std::panic::Location;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

tokio::task_local! {
    static NAME: &'static str;
}

/// The name of the task that runs on this thread; `other` if none of ours does.
#[must_use]
pub fn current() -> &'static str {
    NAME.try_with(|name| *name).unwrap_or("other")
}

/// `future` as the work of a task of this name.
pub fn named<F: Future>(name: &'static str, future: F) -> impl Future<Output = F::Output> {
    NAME.scope(name, future)
}

/// The process's tasks.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    ended: Arc<Mutex<Vec<&'static str>>>,
}

impl Tasks {
    /// Runs work of bounded length: a flight, a connection. It is named by the file that begins it.
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn(named(name_of(Location::caller()), future))
    }

    /// Runs work that must go on until [`Tasks::shutdown`]; its end before that fails liveness.
    pub fn spawn_critical<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(self.critical(name, future));
    }

    /// The same for work that goes on while all other tasks finish: [`Tasks::drained`] does not wait for it.
    pub fn spawn_lasting<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        drop(tokio::spawn(self.critical(name, future)));
    }

    fn critical<F: Future<Output = ()>>(&self, name: &'static str, future: F) -> impl Future<Output = ()> + use<F> {
        let guard = EndGuard { name, tasks: self.clone() };
        named(name, async move {
            let _guard = guard;
            future.await;
        })
    }

    /// Tells every task to finish.
    pub fn shutdown(&self) {
        self.shutdown.cancel();
        self.tracker.close();
    }

    /// Whether the process is on its way out.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// Completes once [`Tasks::shutdown`] was called.
    pub fn shutting_down(&self) -> WaitForCancellationFutureOwned {
        self.shutdown.clone().cancelled_owned()
    }

    /// Completes once all tasks have ended after [`Tasks::shutdown`].
    pub async fn drained(&self) {
        self.tracker.wait().await;
    }

    /// Names of critical tasks that ended though nobody asked them to.
    #[must_use]
    pub fn ended(&self) -> Vec<&'static str> {
        self.ended.lock().clone()
    }
}

/// `src/cache/flight.rs` begins `cache/flight`.
fn name_of(place: &'static Location<'static>) -> &'static str {
    let file = place.file();
    let file = file.strip_prefix("src/").unwrap_or(file);
    file.strip_suffix(".rs").unwrap_or(file)
}

/// Notices the end of a critical task by return, panic or abort alike.
struct EndGuard {
    name: &'static str,
    tasks: Tasks,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if !self.tasks.is_shutting_down() {
            tracing::error!(task = self.name, "a task that must never end has ended; the liveness probe now fails");
            self.tasks.ended.lock().push(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_critical_task_that_panics_is_reported() {
        let tasks = Tasks::default();
        tasks.spawn_critical("keys", async { std::panic::resume_unwind(Box::new("test")) });
        tasks.spawn_critical("accept", tasks.shutting_down());
        tasks.spawn_lasting("handover", std::future::pending());
        while tasks.ended().is_empty() {
            tokio::task::yield_now().await;
        }
        tasks.shutdown();
        tasks.drained().await;
        assert_eq!(tasks.ended(), ["keys"], "an end after shutdown is no fault");
    }

    #[tokio::test]
    async fn a_task_knows_its_name() {
        let tasks = Tasks::default();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let [named, unnamed] = [tell.clone(), tell].map(|tell| async move { tell.send(current()).unwrap() });
        tasks.spawn_critical("keys", named);
        assert_eq!(told.recv().await, Some("keys"));
        tasks.spawn(unnamed).await.unwrap();
        assert_eq!(told.recv().await, Some("base/tasks"));
        assert_eq!(current(), "other");
    }
}
