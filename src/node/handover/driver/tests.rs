//! What becomes of an agent whose driver ends by a bug.

use std::os::unix::fs::PermissionsExt;
use std::task::{Context as TaskContext, Poll};

use tokio::sync::mpsc;

use crate::base::clock::Clock;
use crate::base::parcel::Unreadable;
use crate::base::tasks;
use crate::node::handover::directory::Directory;
use crate::node::handover::wire::{Body, Part};
use crate::node::handover::{Estate, Handover};
use crate::node::inheritance::Inheritance;
use crate::observe::Context;

/// Panics at once, and tells in which task.
struct Faulty(mpsc::UnboundedSender<&'static str>);

impl Estate for Faulty {
    fn tell(&self) -> Vec<Part> {
        Vec::new()
    }

    fn tell_again(&self) -> Vec<Part> {
        Vec::new()
    }

    fn poll_landing(&mut self, _context: &mut TaskContext<'_>) -> Poll<Part> {
        self.0.send(tasks::current()).unwrap();
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

#[tokio::test]
async fn a_panic_has_its_name_and_fails_liveness_and_the_agent_serves_until_it_is_told_to_end() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let directory = Directory::open(folder.path()).unwrap();
    let (context, (tell, mut told)) = (Context::new(Clock::System), mpsc::unbounded_channel());
    let handover = Handover::begin(directory.clone(), &context).unwrap();
    let shared = handover.shared();
    handover.run(Inheritance::default(), Box::new(Faulty(tell)), &context);
    assert_eq!(told.recv().await, Some("handover"));
    while context.tasks.ended().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!((context.tasks.ended(), context.duty.is_serving()), (vec!["handover"], true));
    assert!(directory.take_seat().unwrap().is_some(), "who stands by does not wait for this one's end");
    shared.terminate().await;
    shared.leave().await;
}
