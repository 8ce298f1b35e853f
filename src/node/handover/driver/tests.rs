//! What becomes of an agent whose driver ends by a bug, and what the driver looks at first.

use std::os::unix::fs::PermissionsExt;
use std::task::{Context as TaskContext, Poll};

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{Driver, PAUSE, Wake};
use crate::base::clock::Clock;
use crate::base::parcel::Unreadable;
use crate::base::tasks;
use crate::node::handover::directory::Directory;
use crate::node::handover::machine::Event;
use crate::node::handover::wire::{Body, Part};
use crate::node::handover::{Estate, Handover};
use crate::node::inheritance::Inheritance;
use crate::observe::Context;

/// Has nothing; one that tells in which task it is looked at panics then.
struct Nothing(Option<mpsc::UnboundedSender<&'static str>>);

impl Estate for Nothing {
    fn tell(&self) -> Vec<Part> {
        Vec::new()
    }

    fn tell_again(&self) -> Vec<Part> {
        Vec::new()
    }

    fn poll_landing(&mut self, _context: &mut TaskContext<'_>) -> Poll<Part> {
        let Some(tell) = &self.0 else { return Poll::Pending };
        tell.send(tasks::current()).unwrap();
        std::panic::resume_unwind(Box::new("test"))
    }

    fn learn(&mut self, _part: Part) -> Result<(), Unreadable> {
        Ok(())
    }

    fn in_flight(&self) -> Body {
        Body::default()
    }

    fn expect(&mut self, _loads: Option<Body>) {}
}

fn directory() -> (TempDir, Directory) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let directory = Directory::open(folder.path()).unwrap();
    (folder, directory)
}

#[tokio::test]
async fn a_panic_has_its_name_and_fails_liveness_and_the_agent_serves_until_it_is_told_to_end() {
    let (_folder, directory) = directory();
    let (context, (tell, mut told)) = (Context::new(Clock::System), mpsc::unbounded_channel());
    let handover = Handover::begin(directory.clone(), &context).unwrap();
    let shared = handover.shared();
    handover.run(Inheritance::default(), Box::new(Nothing(Some(tell))), &context);
    assert_eq!(told.recv().await, Some("handover"));
    while context.tasks.ended().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!((context.tasks.ended(), context.duty.is_serving()), (vec!["handover"], true));
    assert!(directory.take_seat().unwrap().is_some(), "who stands by does not wait for this one's end");
    shared.terminate().await;
    shared.leave().await;
}

#[tokio::test]
async fn a_limit_that_has_passed_does_not_wait_for_those_who_connect() {
    let (_folder, directory) = directory();
    let context = Context::new(Clock::System);
    let handover = Handover::begin(directory.clone(), &context).unwrap();
    let mut driver = Driver::new(handover, Inheritance::default(), Box::new(Nothing(None)), context.clone());
    driver.publish();
    let _connected = directory.connect().await.unwrap();
    driver.pause_until = Some(context.clock.now().mono - PAUSE);
    assert!(matches!(driver.wake(true, false).await, Wake::Event(Event::Paused)));
    driver.pause_until = None;
    assert!(matches!(driver.wake(true, false).await, Wake::Stream(Ok(_))));
}
