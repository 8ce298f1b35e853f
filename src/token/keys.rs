//! Which keys are in force: one value that pollers change and readers borrow, with every rule about it as a pure function of time.

mod transfer;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::refusal::{Reason, Refusal};
use crate::token::compact::Compact;
use crate::token::config::{Mode, Standing};
use crate::token::header::Header;
use crate::token::jwks::Key;
use crate::token::keys::transfer::Inherited;

/// A source is not asked again for the sake of an unknown `kid` before this.
const LEAST_BETWEEN_FETCHES: Duration = Duration::from_secs(30);
/// Keys this young are known to be all that there are.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// A source's first attempt is waited for this long; one that takes longer may never end.
const FIRST_ATTEMPT: Duration = Duration::from_secs(5);
/// Keys are kept this long after their source last answered.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A source's place in [`Keys`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct SourceId(usize);

/// All sources with what they hold.
#[derive(Debug)]
pub(super) struct Keys {
    mode: Mode,
    standing: Standing,
    /// Rises whenever the set of keys changes, so that what was verified under an older one is verified again.
    generation: u64,
    sources: Vec<Source>,
    /// What another agent of this node had of sources that have given nothing here yet.
    inherited: Vec<Inherited>,
    /// The issuer that a search has found, here and at the other agent.
    found: Option<Arc<str>>,
    found_before: Option<Arc<str>>,
}

/// One source of keys.
#[derive(Debug)]
pub(super) struct Source {
    /// Whose keys; `None` while the issuer itself is still searched for.
    pub(super) issuer: Option<Arc<str>>,
    /// How status and logs call the source.
    pub(super) label: String,
    /// The last good set.
    pub(super) keys: Vec<Key>,
    /// When that was had.
    pub(super) succeeded: Option<Instant>,
    /// Why the last attempt failed.
    pub(super) error: Option<String>,
    /// When its first attempt was due.
    added: Instant,
    activity: Activity,
}

/// What a source's poller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Nobody polls it.
    Unpolled,
    /// It is to fetch at once.
    Asked,
    /// It fetches.
    Fetching { since: Instant },
    /// It waits; its last fetch began then.
    Idle { fetched: Instant },
}

/// A signature that holds, and whose it may be.
#[derive(Debug)]
pub(super) struct Proof {
    /// The key set under which it holds.
    pub(super) generation: u64,
    /// Issuers with the key that made it: several when an issuer was renamed but kept its key.
    pub(super) issuers: Vec<Arc<str>>,
}

impl Keys {
    /// No sources yet; [`Keys::decide`] once they have been added.
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            standing: Standing::Waiting,
            generation: 0,
            sources: Vec::new(),
            inherited: Vec::new(),
            found: None,
            found_before: None,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Whether any token can be verified.
    pub(super) fn usable(&self) -> bool {
        self.standing == Standing::Delegated || self.held()
    }

    /// Adds a source that nobody polls: a search for an issuer, or, with [`Keys::succeeded`], a fixed key set.
    pub(super) fn add(&mut self, issuer: Option<Arc<str>>, label: String, added: Instant) -> SourceId {
        let (keys, activity) = (Vec::new(), Activity::Unpolled);
        self.sources.push(Source { issuer, label, keys, succeeded: None, error: None, added, activity });
        let id = SourceId(self.sources.len() - 1);
        self.inherit(id);
        id
    }

    /// A search has found its issuer: its place is now that of the issuer's first source.
    pub(super) fn found(&mut self, id: SourceId, issuer: Arc<str>, label: String, now: Instant) {
        self.found = Some(Arc::clone(&issuer));
        self.change(id, |source| {
            (source.issuer, source.label) = (Some(issuer), label);
            (source.error, source.added) = (None, now);
        });
        self.inherit(id);
    }

    /// A poller is to take the source on.
    pub(super) fn ask(&mut self, id: SourceId) {
        self.change(id, |source| source.activity = Activity::Asked);
    }

    pub(super) fn is_asked(&self, id: SourceId) -> bool {
        self.sources.get(id.0).is_some_and(|source| source.activity == Activity::Asked)
    }

    /// A fetch has begun.
    pub(super) fn began(&mut self, id: SourceId, now: Instant) {
        self.change(id, |source| source.activity = Activity::Fetching { since: now });
    }

    /// A fetch has brought keys. Those that are missing from it are gone at once. Returns whether they changed.
    pub(super) fn succeeded(&mut self, id: SourceId, keys: Vec<Key>, now: Instant) -> bool {
        let changed = self.change(id, |source| {
            source.ended();
            (source.succeeded, source.error) = (Some(now), None);
            source.replace(keys)
        });
        self.generation += u64::from(changed);
        changed
    }

    /// A fetch, or a search, has failed. Returns whether that is news.
    pub(super) fn failed(&mut self, id: SourceId, error: &str, now: Instant) -> bool {
        let (news, dropped) = self.change(id, |source| {
            source.ended();
            let news = source.error.as_deref() != Some(error);
            source.error = Some(error.to_owned());
            let lost = source.succeeded.is_some_and(|at| now.saturating_duration_since(at) >= KEPT);
            (news, lost && source.replace(Vec::new()))
        });
        self.generation += u64::from(dropped);
        news
    }

    /// Asks again, for the sake of an unknown key, each source that counts and has not been asked for a while. Returns whether
    /// there is one.
    pub(super) fn ask_again(&mut self, now: Instant) -> bool {
        let held = self.held();
        let due = |source: &&mut Source| match source.activity {
            Activity::Idle { fetched } => {
                now.saturating_duration_since(fetched) >= LEAST_BETWEEN_FETCHES && source.counts(held, now)
            }
            Activity::Unpolled | Activity::Asked | Activity::Fetching { .. } => false,
        };
        self.sources.iter_mut().filter(due).map(|source| source.activity = Activity::Asked).count() > 0
    }

    /// Whether no source that counts is about to bring news.
    pub(super) fn settled(&self, now: Instant) -> bool {
        !self.counting(now).any(|source| matches!(source.activity, Activity::Asked | Activity::Fetching { .. }))
    }

    /// Whether a key that is not here does not exist: each source that counts gave its keys lately. Only then is an unknown key a
    /// refusal for good; until then it is "not available, ask again", and never a way in. A source that never gave keys does not
    /// count once another did, and one that stopped to give them counts for as long as its last keys are kept, 24 hours.
    pub(super) fn complete(&self, now: Instant) -> bool {
        self.held() && self.counting(now).all(|source| source.is_current(now))
    }

    /// Whether each source has been asked once.
    pub(super) fn attempted(&self) -> bool {
        self.sources.iter().all(|source| source.succeeded.is_some() || source.error.is_some())
    }

    /// Whether any source holds keys.
    fn held(&self) -> bool {
        self.sources.iter().any(|source| !source.keys.is_empty())
    }

    fn counting(&self, now: Instant) -> impl Iterator<Item = &Source> {
        let held = self.held();
        self.sources.iter().filter(move |source| source.counts(held, now))
    }

    pub(super) fn knows(&self, kid: &str) -> bool {
        self.named(kid).next().is_some()
    }

    /// Steps 10 and 11 of token validation, for a known `kid`.
    pub(super) fn prove(&self, header: &Header, token: &Compact<'_>) -> Result<Proof, Refusal> {
        let mut fitting = self.named(&header.kid).filter(|(key, _)| key.algorithm() == header.algorithm).peekable();
        if fitting.peek().is_none() {
            return Err(Refusal::new(Reason::Alg, "the key is for another algorithm"));
        }
        let issuers: Vec<_> = fitting.filter(|(key, _)| key.signed(token)).filter_map(|(_, issuer)| issuer.cloned()).collect();
        if issuers.is_empty() {
            return Err(Refusal::new(Reason::Signature, "the signature is not of the key that the header names"));
        }
        Ok(Proof { generation: self.generation, issuers })
    }

    /// Keys of that name, each once an issuer.
    fn named<'a>(&'a self, kid: &str) -> impl Iterator<Item = (&'a Key, Option<&'a Arc<str>>)> {
        let mut named: Vec<(&Key, Option<&Arc<str>>)> = Vec::new();
        for source in &self.sources {
            for key in source.keys.iter().filter(|key| key.kid() == kid) {
                let candidate = (key, source.issuer.as_ref());
                if !named.contains(&candidate) {
                    named.push(candidate);
                }
            }
        }
        named.into_iter()
    }

    /// Changes one source, and how tokens are verified if that follows from it.
    fn change<T: Default>(&mut self, id: SourceId, change: impl FnOnce(&mut Source) -> T) -> T {
        let result = self.sources.get_mut(id.0).map(change).unwrap_or_default();
        self.decide();
        result
    }

    /// How tokens are verified from now on: delegated only until there are keys for the first time.
    pub(super) fn decide(&mut self) {
        let loaded = self.sources.iter().any(|source| source.succeeded.is_some());
        let hopeless = self.sources.iter().all(|source| source.error.is_some());
        self.standing = match (self.mode, self.standing) {
            (Mode::Delegated, _) => Standing::Delegated,
            _ if loaded => Standing::Local,
            (Mode::Auto, Standing::Delegated) => Standing::Delegated,
            (Mode::Auto, _) if hopeless => Standing::Delegated,
            _ => Standing::Waiting,
        };
    }
}

impl Source {
    /// Its fetch, if there was one, is over.
    fn ended(&mut self) {
        if let Activity::Fetching { since } = self.activity {
            self.activity = Activity::Idle { fetched: since };
        }
    }

    /// Whether an unknown key may be one of this source's. Once others hold keys (`held`), one that holds none and has had its
    /// chance is a source in name only: whoever names an unknown key must not wait for it.
    fn counts(&self, held: bool, now: Instant) -> bool {
        let first_attempt = self.succeeded.is_none() && self.error.is_none();
        let young = now.saturating_duration_since(self.added) < FIRST_ATTEMPT;
        !held || !self.keys.is_empty() || (first_attempt && young)
    }

    /// Whether its keys are all that it has: they are young, or fixed.
    fn is_current(&self, now: Instant) -> bool {
        let age = self.succeeded.map(|at| now.saturating_duration_since(at));
        age.is_some_and(|age| age < FRESH || self.activity == Activity::Unpolled)
    }

    /// Returns whether the keys are others.
    fn replace(&mut self, keys: Vec<Key>) -> bool {
        let changed = self.keys != keys;
        self.keys = keys;
        changed
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
