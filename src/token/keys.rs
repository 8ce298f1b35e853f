//! Which keys are in force: one value that pollers change and readers borrow, with every rule about it as a pure function of time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::refusal::{Reason, Refusal};
use crate::token::compact::Compact;
use crate::token::config::{Mode, Standing};
use crate::token::header::Header;
use crate::token::jwks::Key;

/// A source is not asked again for the sake of an unknown `kid` before this.
const LEAST_BETWEEN_FETCHES: Duration = Duration::from_secs(30);
/// Keys this young are known to be all that there are.
const FRESH: Duration = Duration::from_secs(5 * 60);
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
        Self { mode, standing: Standing::Waiting, generation: 0, sources: Vec::new() }
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
        self.standing == Standing::Delegated || self.sources.iter().any(|source| !source.keys.is_empty())
    }

    /// Adds a source that nobody polls: a search for an issuer, or, with [`Keys::succeeded`], a fixed key set.
    pub(super) fn add(&mut self, issuer: Option<Arc<str>>, label: String) -> SourceId {
        let activity = Activity::Unpolled;
        self.sources.push(Source { issuer, label, keys: Vec::new(), succeeded: None, error: None, activity });
        SourceId(self.sources.len() - 1)
    }

    /// A search has found its issuer: its place is now that of the issuer's first source.
    pub(super) fn found(&mut self, id: SourceId, issuer: Arc<str>, label: String) {
        self.change(id, |source| (source.issuer, source.label, source.error) = (Some(issuer), label, None));
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

    /// Asks every source that has not been asked for a while again. Returns whether there is one.
    pub(super) fn ask_again(&mut self, now: Instant) -> bool {
        let due = |source: &&mut Source| match source.activity {
            Activity::Idle { fetched } => now.saturating_duration_since(fetched) >= LEAST_BETWEEN_FETCHES,
            Activity::Unpolled | Activity::Asked | Activity::Fetching { .. } => false,
        };
        self.sources.iter_mut().filter(due).map(|source| source.activity = Activity::Asked).count() > 0
    }

    /// Whether no source is about to bring news.
    pub(super) fn settled(&self) -> bool {
        let busy = |source: &Source| matches!(source.activity, Activity::Asked | Activity::Fetching { .. });
        !self.sources.iter().any(busy)
    }

    /// Whether a key that is not here does not exist: each source that holds keys answered lately, and each issuer has one.
    pub(super) fn complete(&self, now: Instant) -> bool {
        let fresh = |source: &Source| {
            let age = source.succeeded.map(|at| now.saturating_duration_since(at));
            source.activity == Activity::Unpolled || age.is_some_and(|age| age < FRESH)
        };
        let holds =
            |issuer: &Option<Arc<str>>| self.sources.iter().any(|source| source.issuer == *issuer && !source.keys.is_empty());
        self.sources.iter().all(|source| holds(&source.issuer) && (source.keys.is_empty() || fresh(source)))
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

    /// Returns whether the keys are others.
    fn replace(&mut self, keys: Vec<Key>) -> bool {
        let changed = self.keys != keys;
        self.keys = keys;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::token::jwks;
    use crate::token::testing::{document, ec256, ec384, payload, rsa, rsa_other};

    fn set(signer: &crate::token::testing::Signer, kid: &str) -> Vec<Key> {
        jwks::parse(&document(&[signer.jwk(kid)])).unwrap()
    }

    fn polled(keys: &mut Keys, issuer: &str) -> SourceId {
        let id = keys.add(Some(issuer.into()), "test".to_owned());
        keys.ask(id);
        id
    }

    fn proof(keys: &Keys, token: &str) -> Result<Vec<String>, Reason> {
        let compact = Compact::split(token).unwrap();
        let header = Header::parse(&compact.header).unwrap();
        let proof = keys.prove(&header, &compact).map_err(|refusal| refusal.reason)?;
        Ok(proof.issuers.iter().map(ToString::to_string).collect())
    }

    fn start() -> Instant {
        Clock::System.now().mono
    }

    #[test]
    fn the_generation_rises_with_every_change_and_no_other_time() {
        let (mut keys, now) = (Keys::new(Mode::Local), start());
        let id = polled(&mut keys, "A");
        for (set, changes, generation) in [
            (set(rsa(), "a"), true, 1),
            (set(rsa(), "a"), false, 1),
            (set(rsa_other(), "a"), true, 2),
            (set(rsa_other(), "b"), true, 3),
        ] {
            keys.began(id, now);
            assert_eq!(keys.succeeded(id, set, now), changes);
            assert_eq!(keys.generation(), generation);
        }
        assert!(!keys.knows("a"), "a removed key is gone at once");
    }

    #[test]
    fn a_failed_source_keeps_its_keys_for_a_day() {
        let (mut keys, now) = (Keys::new(Mode::Auto), start());
        let id = polled(&mut keys, "A");
        keys.succeeded(id, set(rsa(), "a"), now);
        assert!(keys.failed(id, "500", now + KEPT - Duration::from_secs(1)), "the first failure is news");
        assert!(!keys.failed(id, "500", now + KEPT - Duration::from_secs(1)));
        assert!(keys.knows("a") && keys.usable());
        keys.failed(id, "500", now + KEPT);
        assert!(!keys.knows("a") && !keys.usable());
        assert_eq!((keys.generation(), keys.standing()), (2, Standing::Local), "local once is local for ever");
    }

    #[test]
    fn auto_delegates_once_every_first_attempt_has_failed_until_one_answers() {
        let (mut keys, now) = (Keys::new(Mode::Auto), start());
        let (a, b) = (polled(&mut keys, "A"), polled(&mut keys, "B"));
        let search = keys.add(None, "search".to_owned());
        keys.decide();
        for id in [a, b] {
            keys.failed(id, "500", now);
            assert_eq!(keys.standing(), Standing::Waiting);
        }
        keys.failed(search, "500", now);
        assert_eq!(keys.standing(), Standing::Delegated);
        keys.found(search, "C".into(), "found".into());
        assert_eq!(keys.standing(), Standing::Delegated, "nobody has to wait again");
        keys.succeeded(b, set(rsa(), "a"), now);
        assert_eq!(keys.standing(), Standing::Local);
        keys.failed(b, "500", now);
        assert_eq!(keys.standing(), Standing::Local);
    }

    #[test]
    fn modes_without_sources() {
        for (mode, standing) in
            [(Mode::Auto, Standing::Delegated), (Mode::Local, Standing::Waiting), (Mode::Delegated, Standing::Delegated)]
        {
            let mut keys = Keys::new(mode);
            keys.decide();
            assert_eq!(keys.standing(), standing);
        }
    }

    #[test]
    fn sources_are_asked_again_after_half_a_minute() {
        let (mut keys, now) = (Keys::new(Mode::Local), start());
        let id = polled(&mut keys, "A");
        assert!(keys.is_asked(id) && !keys.settled());
        keys.began(id, now);
        assert!(!keys.ask_again(now + FRESH) && !keys.settled(), "a fetch under way is waited for");
        keys.succeeded(id, set(rsa(), "a"), now);
        assert!(keys.settled());
        assert!(!keys.ask_again(now + Duration::from_millis(29_999)));
        assert!(keys.ask_again(now + LEAST_BETWEEN_FETCHES));
        assert!(!keys.ask_again(now + LEAST_BETWEEN_FETCHES), "once");
    }

    #[test]
    fn complete_means_that_every_source_with_keys_answered_lately() {
        let (mut keys, now) = (Keys::new(Mode::Local), start());
        let (public, api_server) = (polled(&mut keys, "A"), polled(&mut keys, "A"));
        assert!(!keys.complete(now));
        keys.succeeded(public, set(rsa(), "a"), now);
        keys.failed(api_server, "403", now);
        assert!(keys.complete(now), "a source that never answered is none");
        assert!(!keys.complete(now + FRESH));
        keys.succeeded(api_server, set(rsa(), "a"), now + FRESH);
        assert!(!keys.complete(now + FRESH), "the other may know more");
        let fixed = keys.add(Some("B".into()), "fixed".to_owned());
        keys.succeeded(public, set(rsa(), "a"), now + FRESH);
        assert!(!keys.complete(now + FRESH));
        keys.succeeded(fixed, set(ec256(), "b"), now);
        assert!(keys.complete(now + FRESH));
    }

    #[test]
    fn each_candidate_key_is_tried() {
        let (mut keys, now) = (Keys::new(Mode::Local), start());
        for (issuer, signer) in [("A", rsa()), ("B", rsa_other()), ("C", rsa()), ("D", ec256())] {
            let id = polled(&mut keys, issuer);
            keys.succeeded(id, set(signer, "k"), now);
        }
        assert_eq!(proof(&keys, &rsa().token("k", &payload())), Ok(vec!["A".to_owned(), "C".to_owned()]));
        assert_eq!(proof(&keys, &rsa_other().token("k", &payload())), Ok(vec!["B".to_owned()]));
        assert_eq!(proof(&keys, &ec256().token("k", &payload())), Ok(vec!["D".to_owned()]));
        assert_eq!(proof(&keys, &ec384().token("k", &payload())), Err(Reason::Alg));
    }
}
