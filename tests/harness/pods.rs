//! The pods of an API server: a list, and watches from a version on, which break and forget as those of a real one do.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use credlet::domain::credential::rfc3339;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Response;
use hyper::body::{Bytes, Frame};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How a version that is forgotten is refused; API servers do both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Gone {
    /// By the answer's status.
    #[default]
    Status,
    /// By an event of the watch.
    Event,
}

/// All pods of one node.
#[derive(Default)]
pub(crate) struct Pods {
    state: Arc<Mutex<State>>,
    news: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// Metadata by UID.
    there: BTreeMap<String, Value>,
    /// Each as a line of a watch; its version is its number, from 1.
    events: Vec<String>,
    /// How many of them are forgotten.
    forgotten: usize,
    gone: Gone,
    /// Watches of an earlier one are broken.
    generation: usize,
    asked: Vec<String>,
}

impl Pods {
    /// Makes the pod with this UID.
    pub(crate) fn put(&self, uid: &str) {
        self.change("ADDED", uid, None);
    }

    /// Begins the deletion of a pod that is to be gone `at`.
    pub(crate) fn terminate(&self, uid: &str, at: SystemTime) {
        self.change("MODIFIED", uid, Some(at));
    }

    /// Ends a pod, which was to be gone `at`, if anybody said so.
    pub(crate) fn delete(&self, uid: &str, at: Option<SystemTime>) {
        self.change("DELETED", uid, at);
    }

    /// Forgets all versions so far, and how: who watches from one of them has to list anew.
    pub(crate) fn forget(&self, gone: Gone) {
        let mut state = self.state.lock();
        // One that nobody has seen, so that the newest version that anybody has is forgotten too.
        state.events.push(String::new());
        (state.forgotten, state.gone) = (state.events.len(), gone);
    }

    /// Breaks all watches.
    pub(crate) fn break_watches(&self) {
        self.state.lock().generation += 1;
        self.news.send_replace(());
    }

    /// The query of each list and watch so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().asked.clone()
    }

    /// How many of them were lists.
    pub(crate) fn lists(&self) -> usize {
        self.asked().iter().filter(|query| !query.contains("watch=true")).count()
    }

    fn change(&self, kind: &str, uid: &str, at: Option<SystemTime>) {
        let mut state = self.state.lock();
        let version = (state.events.len() + 1).to_string();
        let metadata = json!({ "uid": uid, "resourceVersion": version, "deletionTimestamp": at.and_then(rfc3339) });
        match kind {
            "DELETED" => state.there.remove(uid),
            _ => state.there.insert(uid.to_owned(), metadata.clone()),
        };
        let event = json!({ "type": kind, "object": object(&metadata) });
        state.events.push(format!("{event}\n"));
        self.news.send_replace(());
    }

    /// Answers a list or a watch.
    pub(crate) fn answer(&self, query: &str) -> io::Result<Response<Body>> {
        let mut state = self.state.lock();
        state.asked.push(query.to_owned());
        let (status, body) = match query.contains("watch=true").then(|| version(query)) {
            None => (200, whole(&state.list())),
            Some(from) if from >= state.forgotten => (200, self.watch(from, state.generation)),
            Some(_) if state.gone == Gone::Status => (410, whole(&expired())),
            Some(_) => (200, whole(&json!({ "type": "ERROR", "object": expired() }))),
        };
        Response::builder().status(status).header("content-type", "application/json").body(body).map_err(io::Error::other)
    }

    /// All events after `from`, as they come.
    fn watch(&self, from: usize, generation: usize) -> Body {
        let start = (Arc::clone(&self.state), self.news.subscribe(), from);
        let events = stream::unfold(start, move |(state, mut news, at)| async move {
            loop {
                let event = state.lock().after(at, generation)?;
                if let Some(event) = event {
                    return Some((Ok(Frame::data(Bytes::from(event))), (state, news, at + 1)));
                }
                news.changed().await.ok()?;
            }
        });
        StreamBody::new(events).boxed_unsync()
    }
}

impl State {
    /// The event after version `at`, if there is one; `None` if the watch has been broken.
    fn after(&self, at: usize, generation: usize) -> Option<Option<String>> {
        (self.generation == generation).then(|| self.events.get(at).cloned())
    }

    fn list(&self) -> Value {
        let items: Vec<Value> = self.there.values().map(object).collect();
        let metadata = json!({ "resourceVersion": self.events.len().to_string() });
        json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items })
    }
}

fn object(metadata: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
}

fn expired() -> Value {
    json!({ "kind": "Status", "status": "Failure", "reason": "Expired", "message": "too old resource version", "code": 410 })
}

fn version(query: &str) -> usize {
    let of = |part: &str| part.strip_prefix("resourceVersion=")?.parse().ok();
    query.split('&').find_map(of).unwrap_or_default()
}

fn whole(document: &Value) -> Body {
    Full::<Bytes>::from(format!("{document}\n")).boxed_unsync()
}
