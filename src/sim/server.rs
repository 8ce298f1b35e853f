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
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::sim::calls::{Answer, Call, Issued};
use crate::sim::eks;
use crate::sim::eks_auth;
use crate::sim::fault::Fault;
use crate::sim::form::Form;
use crate::sim::issuer;
use crate::sim::jwt;
use crate::sim::random;
use crate::sim::response::{Payload, halved, insert, response};
use crate::sim::role_request::RoleRequest;
use crate::sim::script::{Behaviour, Operation, Protocol};
use crate::sim::sigv4::Signature;
use crate::sim::state::State;
use crate::sim::sts;
use crate::sim::xml;

/// What a connection without a socket holds on its way in each direction.
const DUPLEX_BYTES: usize = 64 * 1024;

/// Pause after an accept that failed, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections for ever.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(socket(stream, state.clone()))),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The client's end of a connection without a socket, served until that is dropped.
pub(super) fn connect(state: &Arc<State>) -> DuplexStream {
    let (client, server) = duplex(DUPLEX_BYTES);
    let state = state.clone();
    drop(tokio::spawn(async move { drop(connection(server, &state).await) }));
    client
}

async fn socket(stream: TcpStream, state: Arc<State>) {
    // Only latency is lost without it.
    let _ = stream.set_nodelay(true);
    if let Some(stream) = connection(stream, &state).await {
        let _ = stream.set_zero_linger();
    }
}

/// Serves a connection; what is to be reset comes back.
async fn connection<S: AsyncRead + AsyncWrite + Unpin>(stream: S, state: &State) -> Option<S> {
    let reset = Notify::new();
    let service = service_fn(|request| exchange(state, &reset, request));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // An error here is the client's: it went away.
        _ = &mut connection => None,
        () = reset.notified() => Some(connection.into_parts().io.into_inner()),
    }
}

/// One request: recorded when it has arrived, and again when it is answered.
async fn exchange(state: &State, reset: &Notify, request: Request<Incoming>) -> Result<Response<Payload>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts, body.collect().await?.to_bytes());
    let Some(operation) = Operation::of(&request) else {
        return Ok(response(404, "text/plain", Bytes::from_static(b"404 page not found\n")));
    };
    let task = Task { state, operation, request, request_id: random::uuid() };
    let place = state.calls.arrived(task.call());
    let mut response = task.perform(reset).await;
    insert(&mut response, "x-amzn-requestid", &task.request_id);
    // By the cloud's own clock, not hyper's: SDKs correct the time of their signatures by it.
    insert(&mut response, "date", &http_date(state.config.clock.now().wall));
    let call = state.calls.answered(place, answered(state, &response));
    if let (Some(log), Some(call)) = (&state.config.log, call) {
        // Whoever read the log may have lost interest.
        let _ = log.send(call);
    }
    Ok(response)
}

/// What the record says of an answer.
fn answered(state: &State, response: &Response<Payload>) -> Answer {
    let seconds = |value: &HeaderValue| value.to_str().ok()?.parse().ok().map(Duration::from_secs);
    Answer {
        status: response.status().as_u16(),
        at: state.config.clock.now().wall,
        retry_after: response.headers().get(RETRY_AFTER).and_then(seconds),
        issued: response.extensions().get().cloned(),
    }
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
        let form = || Form::of(self.request.body());
        let (token, role) = match self.operation {
            Operation::EksAuth => (eks_auth::token_in(self.request.body()), None),
            Operation::AssumeRole => (None, Some(RoleRequest::of(&form()))),
            Operation::AssumeRoleWithWebIdentity => (form().get("WebIdentityToken"), Some(RoleRequest::of(&form()))),
            Operation::DescribeCluster
            | Operation::GetCallerIdentity
            | Operation::OtherSts
            | Operation::Discovery
            | Operation::Jwks => (None, None),
        };
        let (token, subject) = token.map(|token| jwt::peek(&token)).unzip();
        Call {
            operation: self.operation,
            at: self.state.config.clock.now().wall,
            signer: Signature::of(&self.request).ok().map(|signature| signature.access_key_id.to_owned()),
            subject: subject.flatten(),
            token,
            role,
            request_id: self.request_id.clone(),
            answer: None,
        }
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
        let mut document = match self.document(self.scripted_expiry(behaviour)) {
            Ok(document) => document,
            Err(fault) => return self.refusal(&fault),
        };
        alter(&mut document, behaviour);
        let mut response = response(200, self.content_type(), self.rendered(&document).into());
        if let Some(issued) = Issued::of(&document) {
            response.extensions_mut().insert(issued);
        }
        if !self.operation.is_aws() {
            let max_age = format!("public, max-age={}", self.state.config.max_age.as_secs());
            insert(&mut response, "cache-control", &max_age);
        }
        response
    }

    fn document(&self, expires_at: Option<SystemTime>) -> Result<Value, Fault> {
        let (state, request) = (self.state, &self.request);
        match self.operation {
            Operation::EksAuth => eks_auth::assume_role_for_pod_identity(state, request, expires_at),
            Operation::DescribeCluster => eks::describe_cluster(state, request),
            Operation::AssumeRole => sts::assume_role(state, request, expires_at),
            Operation::AssumeRoleWithWebIdentity => sts::assume_role_with_web_identity(state, request, expires_at),
            Operation::GetCallerIdentity => sts::get_caller_identity(state, request),
            Operation::OtherSts => Err(sts::unknown_action(request)),
            Operation::Discovery => Ok(issuer::discovery(state)),
            Operation::Jwks => Ok(issuer::jwks(state)),
        }
    }

    fn rendered(&self, document: &Value) -> String {
        match self.operation.protocol() {
            Protocol::Query => xml::result(self.operation.into(), document, &self.request_id),
            Protocol::RestJson | Protocol::OpenId => document.to_string(),
        }
    }

    fn content_type(&self) -> &'static str {
        match self.operation.protocol() {
            Protocol::Query => "text/xml",
            Protocol::OpenId if self.operation == Operation::Jwks => "application/jwk-set+json",
            Protocol::RestJson | Protocol::OpenId => "application/json",
        }
    }

    fn refusal(&self, fault: &Fault) -> Response<Payload> {
        let mut response = match self.operation.protocol() {
            Protocol::Query => response(fault.status, "text/xml", fault.xml(&self.request_id).into()),
            Protocol::RestJson | Protocol::OpenId => response(fault.status, "application/json", fault.json().to_string().into()),
        };
        if self.operation.protocol() == Protocol::RestJson {
            insert(&mut response, "x-amzn-errortype", &fault.code);
        }
        if let Some(delay) = fault.retry_after {
            insert(&mut response, "retry-after", &delay.as_secs().to_string());
        }
        response
    }

    fn scripted_expiry(&self, behaviour: &Behaviour) -> Option<SystemTime> {
        let Behaviour::ExpiresIn(seconds) = behaviour else { return None };
        let (now, distance) = (self.state.config.clock.now().wall, Duration::from_secs(seconds.unsigned_abs()));
        Some(if *seconds < 0 { now - distance } else { now + distance })
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
