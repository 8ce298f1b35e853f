//! The HTTP side: takes requests, records them, behaves as scripted, and writes answers in each service's protocol.
//!
//! Connections live in a set that the accept loop owns: whoever drops the loop drops every connection and every call that hangs.
//! A panic ends its connection alone, which closes, so that the client sees an error and does not wait.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::sim::calls::Call;
use crate::sim::eks_auth;
use crate::sim::fault::Fault;
use crate::sim::issuer;
use crate::sim::jwt;
use crate::sim::random;
use crate::sim::response::{Payload, halved, insert, response};
use crate::sim::script::{Behaviour, Operation};
use crate::sim::state::State;
use crate::sim::sts;

/// Pause after an accept that failed, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections for ever.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, state.clone()))),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    // Only latency is lost without it.
    let _ = stream.set_nodelay(true);
    let reset = Notify::new();
    let service = service_fn(|request| exchange(&state, &reset, request));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // An error here is the client's: it went away.
        _ = &mut connection => {}
        () = reset.notified() => {
            let stream = connection.into_parts().io.into_inner();
            let _ = stream.set_zero_linger();
        }
    }
}

/// One request: recorded when it has arrived, and again when it is answered.
async fn exchange(state: &State, reset: &Notify, request: Request<Incoming>) -> Result<Response<Payload>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts, body.collect().await?.to_bytes());
    let Some(operation) = Operation::of(request.method(), request.uri().path()) else {
        return Ok(response(404, "text/plain", Bytes::from_static(b"404 page not found\n")));
    };
    let task = Task { state, operation, request, request_id: random::uuid() };
    let place = state.calls.arrived(task.call());
    let mut response = task.perform(reset).await;
    insert(&mut response, "x-amzn-requestid", &task.request_id);
    // By the cloud's own clock, not hyper's: SDKs correct the time of their signatures by it.
    insert(&mut response, "date", &http_date(state.config.clock.now().wall));
    let call = state.calls.answered(place, response.status().as_u16());
    if let (Some(log), Some(call)) = (&state.config.log, call) {
        // Whoever read the log may have lost interest.
        let _ = log.send(call);
    }
    Ok(response)
}

/// RFC 9110 §5.6.7.
fn http_date(time: SystemTime) -> String {
    DateTime::from(time).fmt(Format::HttpDate).unwrap_or_default()
}

/// A request and what it asks.
struct Task<'a> {
    state: &'a State,
    operation: Operation,
    request: Request<Bytes>,
    request_id: String,
}

impl Task<'_> {
    fn call(&self) -> Call {
        let (token, subject) = match self.operation {
            Operation::EksAuth => eks_auth::token_in(self.request.body()).map(|token| jwt::peek(&token)).unzip(),
            Operation::Sts => (None, Some(sts::access_key_of(&self.request))),
            Operation::Discovery | Operation::Jwks => (None, None),
        };
        let at = self.state.config.clock.now().wall;
        let (operation, request_id) = (self.operation, self.request_id.clone());
        Call { operation, at, subject: subject.flatten(), token, request_id, status: None }
    }

    async fn perform(&self, reset: &Notify) -> Response<Payload> {
        let latency = self.state.conditions.lock().latency;
        // A sleep of zero would still take a tick of a millisecond.
        if self.operation.is_aws() && !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        self.behave(self.state.behaviour(self.operation), reset).await
    }

    async fn behave(&self, behaviour: Behaviour, reset: &Notify) -> Response<Payload> {
        match behaviour {
            Behaviour::Delay(delay, then) => {
                tokio::time::sleep(delay).await;
                Box::pin(self.behave(*then, reset)).await
            }
            Behaviour::Held(gate, then) => {
                gate.notified().await;
                Box::pin(self.behave(*then, reset)).await
            }
            Behaviour::Hang => pending().await,
            Behaviour::Reset => {
                reset.notify_one();
                pending().await
            }
            Behaviour::Body { status, content_type, bytes } => response(status, content_type, bytes),
            Behaviour::Error(fault) => self.refusal(&fault),
            Behaviour::HalfBody => halved(self.answer(&Behaviour::Answer)),
            Behaviour::Answer | Behaviour::ExpiresIn(_) | Behaviour::With(..) | Behaviour::Without(_) => self.answer(&behaviour),
        }
    }

    /// The honest answer, altered as `behaviour` says.
    fn answer(&self, behaviour: &Behaviour) -> Response<Payload> {
        let mut document = match self.document(self.expiry(behaviour)) {
            Ok(document) => document,
            Err(fault) => return self.refusal(&fault),
        };
        if let Document::Json(json) = &mut document {
            alter(json, behaviour);
        }
        let mut response = response(200, self.content_type(), document.into_bytes());
        if !self.operation.is_aws() {
            let max_age = format!("public, max-age={}", self.state.config.max_age.as_secs());
            insert(&mut response, "cache-control", &max_age);
        }
        response
    }

    fn document(&self, expires_at: SystemTime) -> Result<Document, Fault> {
        match self.operation {
            Operation::EksAuth => eks_auth::assume_role(self.state, &self.request, expires_at).map(Document::Json),
            Operation::Sts => sts::answer(self.state, &self.request, &self.request_id).map(Document::Xml),
            Operation::Discovery => Ok(Document::Json(issuer::discovery(self.state))),
            Operation::Jwks => Ok(Document::Json(issuer::jwks(self.state))),
        }
    }

    fn content_type(&self) -> &'static str {
        match self.operation {
            Operation::EksAuth | Operation::Discovery => "application/json",
            Operation::Jwks => "application/jwk-set+json",
            Operation::Sts => "text/xml",
        }
    }

    fn refusal(&self, fault: &Fault) -> Response<Payload> {
        let mut response = match self.operation {
            Operation::Sts => response(fault.status, "text/xml", fault.xml(&self.request_id).into()),
            Operation::EksAuth | Operation::Discovery | Operation::Jwks => {
                response(fault.status, "application/json", fault.json().to_string().into())
            }
        };
        if self.operation == Operation::EksAuth {
            insert(&mut response, "x-amzn-errortype", &fault.code);
        }
        if let Some(delay) = fault.retry_after {
            insert(&mut response, "retry-after", &delay.as_secs().to_string());
        }
        response
    }

    fn expiry(&self, behaviour: &Behaviour) -> SystemTime {
        let now = self.state.config.clock.now().wall;
        let Behaviour::ExpiresIn(seconds) = behaviour else { return now + self.state.conditions.lock().lifetime };
        let distance = Duration::from_secs(seconds.unsigned_abs());
        if *seconds < 0 { now - distance } else { now + distance }
    }
}

fn alter(json: &mut Value, behaviour: &Behaviour) {
    if let Behaviour::With(pointer, value) = behaviour {
        json.pointer_mut(pointer).into_iter().for_each(|member| *member = value.clone());
    }
    if let Behaviour::Without(pointer) = behaviour
        && let Some((parent, name)) = pointer.rsplit_once('/')
        && let Some(Value::Object(members)) = json.pointer_mut(parent)
    {
        members.remove(name);
    }
}

enum Document {
    Json(Value),
    Xml(String),
}

impl Document {
    fn into_bytes(self) -> Bytes {
        match self {
            Self::Json(json) => json.to_string().into(),
            Self::Xml(text) => text.into(),
        }
    }
}
