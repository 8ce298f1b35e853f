//! From a request's head to its reply: the checks, the broker, the count.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use hyper::http::request::Parts;

use crate::base::clock::Now;
use crate::base::duty::Duty;
use crate::broker::{Ask, Broker, Served};
use crate::domain::refusal::{Reason, Refusal};
use crate::front::nonce::Nonces;
use crate::front::record::Record;
use crate::front::reply::{self, Replies, Reply};
use crate::front::request::{self, Call, Hosts};

/// What one listener serves.
pub(super) struct Endpoint {
    pub(super) hosts: Hosts,
    pub(super) source: Source,
    pub(super) nonces: Arc<Nonces>,
    pub(super) replies: Arc<Replies>,
    pub(super) record: Record,
    pub(super) duty: Duty,
}

/// Who has credentials for what passed the checks.
#[derive(Clone)]
pub(super) enum Source {
    Broker(Arc<Broker>),
    /// Answers by the target's name, for tests of everything around the broker.
    #[cfg(test)]
    Script(fn(&Ask<'_>) -> tests::Step),
}

enum Answer {
    Credential(Served),
    Own,
}

impl Endpoint {
    /// Answers the request of `head`, which came from `peer` and was complete at `start`. Always answers: a panic on the way is
    /// a refusal for this request alone.
    pub(super) async fn answer(&self, head: Parts, peer: IpAddr, start: Now) -> Result<Reply, Infallible> {
        let answer = self.caught(pin!(self.decide(&head, peer, start))).await;
        let reply = match answer {
            Ok(Answer::Credential(served)) => {
                self.record.served(&served, start);
                Replies::document(served.document, head.headers)
            }
            Ok(Answer::Own) => Replies::own(head.headers),
            Err(refusal) => {
                self.record.refused(refusal.reason, start);
                self.replies.refusal(&refusal, head.headers)
            }
        };
        // The client's next connection is the other agent's.
        Ok(if self.duty.is_serving() { reply } else { reply::last(reply) })
    }

    async fn decide(&self, head: &Parts, peer: IpAddr, start: Now) -> Result<Answer, Refusal> {
        match request::check(head, &self.hosts).map_err(|reason| self.refuse(reason))? {
            Call::Credentials { target, token } => {
                let ask = Ask { token, target, source: peer, at: start };
                self.source.credentials(ask).await.map(Answer::Credential)
            }
            Call::Own { nonce } if self.nonces.is_own(nonce) => Ok(Answer::Own),
            Call::Own { .. } => Err(self.refuse(Reason::Path)),
        }
    }

    /// Turns a panic of `work` into a refusal. What it shares with other requests is behind locks that a panic releases, so they
    /// see whole values.
    async fn caught<T>(&self, mut work: Pin<&mut impl Future<Output = Result<T, Refusal>>>) -> Result<T, Refusal> {
        poll_fn(|context| {
            let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
            polled.unwrap_or_else(|_| Poll::Ready(Err(self.refuse(Reason::Internal))))
        })
        .await
    }

    fn refuse(&self, reason: Reason) -> Refusal {
        let refusal = Refusal::from(reason);
        self.record.audit(&refusal);
        refusal
    }
}

impl Source {
    async fn credentials(&self, ask: Ask<'_>) -> Result<Served, Refusal> {
        match self {
            Self::Broker(broker) => broker.credentials(ask).await,
            #[cfg(test)]
            Self::Script(script) => script(&ask).run().await,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::base::clock::Clock;
    use crate::observe::Context;
    use crate::observe::metrics::Outcome;

    /// What a scripted source does next.
    pub(in crate::front) enum Step {
        Serve(Bytes),
        ServeAfter(Duration, Bytes),
        Refuse(Reason),
        Panic,
    }

    impl Step {
        pub(super) async fn run(self) -> Result<Served, Refusal> {
            match self {
                Self::Serve(document) => Ok(served(document, Outcome::Hit)),
                Self::ServeAfter(delay, document) => {
                    tokio::time::sleep(delay).await;
                    Ok(served(document, Outcome::Fresh))
                }
                Self::Refuse(reason) => Err(Refusal::new(reason, "private")),
                Self::Panic => std::panic::resume_unwind(Box::new("scripted")),
            }
        }
    }

    fn served(document: Bytes, outcome: Outcome) -> Served {
        Served { document, outcome, expires_at: Clock::System.now().wall + Duration::from_secs(3600) }
    }

    /// The target's name is the script.
    fn by_name(ask: &Ask<'_>) -> Step {
        match ask.target {
            None => Step::Serve(Bytes::from_static(b"{}")),
            Some("slow") => Step::ServeAfter(Duration::from_millis(300), Bytes::from_static(b"{\"slow\":1}")),
            Some("large") => Step::Serve(Bytes::from(vec![b'x'; 64 << 20])),
            Some("panic") => Step::Panic,
            Some(_) => Step::Refuse(Reason::NoTarget),
        }
    }

    pub(in crate::front) const SCRIPTED: Source = Source::Script(by_name);

    pub(in crate::front) fn record(clock: Clock) -> Record {
        let Context { clock, metrics, audit, sheds, .. } = Context::new(clock);
        Record { clock, metrics, audit, sheds }
    }

    /// Serves the script on 169.254.170.23:80.
    pub(in crate::front) fn endpoint(clock: Clock) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            hosts: Hosts::new(&["169.254.170.23".parse().unwrap()], 80),
            source: SCRIPTED,
            nonces: Arc::new(Nonces::new(clock.clone())),
            replies: Arc::new(Replies::new()),
            record: record(clock),
            duty: Duty::serving(),
        })
    }

    async fn status(endpoint: &Endpoint, path: &str) -> u16 {
        let request = hyper::Request::get(path).header("host", "169.254.170.23").header("authorization", "a".repeat(20));
        let head = request.body(()).unwrap().into_parts().0;
        let start = endpoint.record.clock.now();
        endpoint.answer(head, "10.0.0.1".parse().unwrap(), start).await.unwrap().status().as_u16()
    }

    #[tokio::test(start_paused = true)]
    async fn every_request_is_counted_once_with_its_time() {
        let endpoint = endpoint(Clock::System);
        assert_eq!(status(&endpoint, "/v1/credentials").await, 200);
        assert_eq!(status(&endpoint, "/v1/credentials/slow").await, 200);
        assert_eq!(status(&endpoint, "/v1/credentials/panic").await, 500);
        assert_eq!(status(&endpoint, "/v1/credentials/unknown").await, 403);
        assert_eq!(status(&endpoint, "/").await, 404);
        let nonce = endpoint.nonces.issue();
        assert_eq!(status(&endpoint, &format!("/v1/self/{nonce}")).await, 204);
        let text = endpoint.record.metrics.encode().unwrap();
        for line in [
            "requests_total{outcome=\"hit\"} 1",
            "requests_total{outcome=\"fresh\"} 1",
            "requests_total{outcome=\"error\"} 1",
            "requests_total{outcome=\"refused\"} 2",
            "refusals_total{reason=\"internal\"} 1",
            "refusals_total{reason=\"no_target\"} 1",
            "refusals_total{reason=\"path\"} 1",
            "request_duration_seconds_sum{outcome=\"fresh\"} 0.3\n",
            "served_remaining_seconds_count 2",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_nonce_of_another_process_is_not_found() {
        let endpoint = endpoint(Clock::System);
        assert_eq!(status(&endpoint, &format!("/v1/self/{:032x}", 7)).await, 404);
        assert_eq!(status(&endpoint, "/v1/self/").await, 404);
    }
}
