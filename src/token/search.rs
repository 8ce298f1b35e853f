//! The search for an issuer that is not configured: the API server names it when a service account token is mounted; else, or when
//! that fails, EKS does.
//!
//! Whoever names it, its keys are then the union of what the API server and the public discovery document hold, as far as each can
//! be reached: on EKS up to 1.33 the API server leaves rotating keys out, and many nodes have no way to the public document.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::token::config::{IssuerConfig, KeySource, Place};
use crate::token::keyring::{Keyring, LONGEST_BACKOFF, Poll, backoff};
use crate::token::keys::SourceId;
use crate::token::source::{Fetcher, discovery_url};

/// Between attempts that ask EKS, at most: its calls are few for a whole account, and ten thousand nodes that lack the permission
/// must not use them up.
const LONGEST_BACKOFF_OF_EKS: Duration = Duration::from_secs(600);

/// So long a search of an agent that stands by waits for what the agent before it has found, before it asks EKS itself.
const PREDECESSOR: Duration = Duration::from_secs(5);

/// A place that is asked, again and again until one of them answers.
struct Attempts<'a> {
    place: &'a Place,
    failures: u32,
    due: Instant,
    error: String,
}

/// A search for an issuer. Until it has failed or ended, requests wait.
#[derive(Debug)]
pub(super) struct Search {
    keyring: Keyring,
    id: SourceId,
    places: Vec<Place>,
}

impl Search {
    /// Announces a search, if there is any place to ask.
    pub(super) fn announce(keyring: &Keyring, places: Vec<Place>) -> Option<Self> {
        if places.is_empty() {
            return None;
        }
        let label = places.iter().map(Place::label).collect::<Vec<_>>().join(", ");
        let id = keyring.update(|keys, now| keys.add(None, label, now.mono));
        Some(Self { keyring: keyring.clone(), id, places })
    }

    /// Asks until the issuer is found, and has its sources polled from then on.
    pub(super) async fn run(self, fetcher: Arc<Fetcher>) {
        let shutdown = self.keyring.shutting_down();
        let issuer = tokio::select! {
            () = shutdown => return,
            issuer = self.find(&fetcher) => issuer,
        };
        self.found(&issuer, &fetcher);
    }

    /// The issuer by the first place that names it. Each is asked at its own pace, so that one which must be spared does not make
    /// the other late.
    async fn find(&self, fetcher: &Fetcher) -> Arc<str> {
        let begun = self.keyring.now().mono;
        let attempts = |place| Attempts { place, failures: 0, due: begun, error: String::new() };
        let mut all: Vec<Attempts<'_>> = self.places.iter().map(attempts).collect();
        loop {
            for attempts in &mut all {
                if attempts.due > self.keyring.now().mono {
                    continue;
                }
                if let Some(issuer) = self.found_before(attempts.place).await {
                    return issuer;
                }
                match self.ask(attempts.place, fetcher).await {
                    Ok(issuer) => return issuer,
                    Err(error) => attempts.failed(error, self.keyring.now().mono),
                }
            }
            self.failed(&all);
            let due = all.iter().map(|attempts| attempts.due).min().unwrap_or(begun);
            let found = self.keyring.found_before(due).await;
            if let Some(issuer) = found.filter(|issuer| !self.sources_of(issuer).is_empty()) {
                return issuer;
            }
            sleep_until(due).await;
        }
    }

    /// What another agent of this node has found stands in for EKS, which need not be asked twice. The API server is: it may have
    /// become another issuer's, and a call to it costs nothing.
    async fn found_before(&self, place: &Place) -> Option<Arc<str>> {
        if !matches!(place, Place::Eks(_)) {
            return None;
        }
        let found = tokio::select! {
            biased;
            found = self.keyring.found_before(self.keyring.now().mono + PREDECESSOR) => found,
            () = self.keyring.serving() => None,
        };
        found.filter(|issuer| !self.sources_of(issuer).is_empty())
    }

    async fn ask(&self, place: &Place, fetcher: &Fetcher) -> Result<Arc<str>, String> {
        let issuer = fetcher.issuer_at(place).await.map_err(|error| error.to_string())?;
        if self.sources_of(&issuer).is_empty() {
            return Err(format!("no key source is known for issuer {issuer}"));
        }
        Ok(issuer)
    }

    /// Attempts have failed; the search goes on. Status shows the newest errors. The log has the first: each names another request.
    fn failed(&self, all: &[Attempts<'_>]) {
        let error = all.iter().map(|attempts| attempts.error.as_str()).collect::<Vec<_>>().join("; ");
        self.keyring.update(|keys, now| keys.failed(self.id, &error, now.mono));
        if all.iter().all(|attempts| attempts.failures == 1) {
            tracing::warn!(error, "the issuer of tokens is not known yet; the search for it goes on");
        }
    }

    /// The first source takes the place of the search.
    fn found(self, issuer: &Arc<str>, fetcher: &Arc<Fetcher>) {
        let sources = self.sources_of(issuer);
        let Some((first, others)) = sources.split_first() else { return };
        tracing::info!(issuer = &**issuer, "the issuer has been found");
        self.keyring.update(|keys, now| keys.found(self.id, Arc::clone(issuer), first.label(issuer), now.mono));
        let first = Poll { id: self.id, issuer: Arc::clone(issuer), source: first.clone() };
        let others = self.keyring.add(&IssuerConfig { issuer: Arc::clone(issuer), sources: others.to_vec() });
        std::iter::once(first).chain(others).for_each(|poll| self.keyring.spawn(poll, fetcher));
    }

    /// All that may hold keys of `issuer`, whoever named it.
    fn sources_of(&self, issuer: &str) -> Vec<KeySource> {
        let api_server = self.places.iter().find_map(|place| match place {
            Place::ApiServer(server) => Some(KeySource::ApiServer(Arc::clone(server))),
            Place::Eks(_) => None,
        });
        let public = discovery_url(issuer).map(|_| KeySource::Discovery);
        api_server.into_iter().chain(public).collect()
    }
}

impl Attempts<'_> {
    fn failed(&mut self, error: String, now: Instant) {
        self.failures += 1;
        self.due = now + backoff(self.failures, self.place.longest_backoff());
        self.error = error;
    }
}

impl Place {
    fn longest_backoff(&self) -> Duration {
        match self {
            Self::ApiServer(_) => LONGEST_BACKOFF,
            Self::Eks(_) => LONGEST_BACKOFF_OF_EKS,
        }
    }

    /// How status and logs call it.
    fn label(&self) -> String {
        match self {
            Self::ApiServer(server) => KeySource::ApiServer(Arc::clone(server)).label(""),
            Self::Eks(_) => "eks:DescribeCluster".to_owned(),
        }
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
