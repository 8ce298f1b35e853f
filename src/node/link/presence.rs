//! Whether the addresses that are served are on this node, and what keeps pods from reaching them: told at once when it changes.

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::readiness::Part;
use crate::node::link::events::{Events, Interest, QUIET};
use crate::node::link::state::Link;
use crate::node::link::view::{View, open};
use crate::node::link::{HOSTS, LinkError, NAME};

/// Between attempts to ask a kernel that did not answer.
const PAUSE: Duration = Duration::from_secs(10);

/// Where an address is, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Nobody has looked yet.
    Unseen,
    /// It needs no look (loopback), or none was ever possible.
    Assumed,
    /// On no link.
    Absent {
        /// Whether the link [`NAME`] is there at least.
        has_link: bool,
    },
    /// On this link.
    On(Bearer),
}

/// The link that bears an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Its name.
    pub link: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether the main table routes to the address over it; `None` on any link but [`NAME`], where nobody asks for that.
    pub route: Option<bool>,
}

/// What is wrong with the place of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It may be there.
    Unknown(String),
    /// It is on no link.
    Absent(String),
    /// It is on a link that is down.
    Down(String),
    /// It is there, but not everybody finds the way.
    Unrouted(String),
}

impl Presence {
    /// What is wrong, for an operator.
    #[must_use]
    pub fn trouble(&self, host: IpAddr) -> Option<Trouble> {
        match self {
            Self::Assumed | Self::On(Bearer { up: true, route: None | Some(true), .. }) => None,
            Self::Unseen => Some(Trouble::Unknown(format!("whether {host} is on this node is not known yet"))),
            Self::Absent { has_link } => Some(Trouble::Absent(absent(host, *has_link))),
            Self::On(Bearer { up: false, link, .. }) => {
                Some(Trouble::Down(format!("the link {link}, which bears {host}, is down")))
            }
            Self::On(Bearer { route: Some(false), link, .. }) => {
                Some(Trouble::Unrouted(format!("the main table has no route to {host} over {link}")))
            }
        }
    }

    fn of(host: IpAddr, view: &View) -> Self {
        let bears = |link: &&Link| view.addresses.iter().any(|at| at.host == host && at.link == link.index && at.usable);
        // Of equals the last: the node's own link.
        match view.others.iter().chain(&view.own).filter(bears).max_by_key(|link| link.up) {
            None => Self::Absent { has_link: view.own.is_some() },
            Some(link) => {
                let route = (link.name == NAME).then(|| view.routes.contains(&host));
                Self::On(Bearer { link: link.name.clone(), up: link.up, route })
            }
        }
    }
}

fn absent(host: IpAddr, has_link: bool) -> String {
    match has_link || !HOSTS.contains(&host) {
        true => format!("{host} is not on this node"),
        false => format!("{host} is not on this node, and there is no link {NAME}: `credlet initialize` makes both"),
    }
}

/// Where each of `hosts` is at this moment.
///
/// # Errors
/// When the kernel does not tell. Call it inside a runtime.
pub async fn look(hosts: &[IpAddr]) -> Result<Vec<Presence>, LinkError> {
    Ok(presences(hosts, &view(hosts).await?))
}

/// Tells `seen` where each of `hosts` is, soon and whenever that changes. Where the kernel does not tell, `part` does: what was seen
/// last stands, and addresses that were never seen are assumed to be there.
pub async fn follow(hosts: &[IpAddr], clock: &Clock, part: &Part, seen: impl FnMut(Vec<Presence>)) -> Infallible {
    Watch { hosts, clock, part, last: None, look: || view(hosts), seen }.follow().await
}

async fn view(hosts: &[IpAddr]) -> Result<View, LinkError> {
    open()?.view(hosts).await
}

fn presences(hosts: &[IpAddr], view: &View) -> Vec<Presence> {
    hosts.iter().map(|host| Presence::of(*host, view)).collect()
}

struct Watch<'a, L, S> {
    hosts: &'a [IpAddr],
    clock: &'a Clock,
    part: &'a Part,
    last: Option<Vec<Presence>>,
    look: L,
    seen: S,
}

impl<L, F, S> Watch<'_, L, S>
where
    L: FnMut() -> F,
    F: Future<Output = Result<View, LinkError>>,
    S: FnMut(Vec<Presence>),
{
    async fn follow(mut self) -> Infallible {
        loop {
            let Err(error) = self.tell().await;
            let error = anyhow::Error::new(error);
            tracing::warn!("this node's addresses can't be watched; trying again every {} s: {error:#}", PAUSE.as_secs());
            self.part.pending(format!("can't be watched: {error:#}"));
            if self.last.is_none() {
                (self.seen)(vec![Presence::Assumed; self.hosts.len()]);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn tell(&mut self) -> Result<Infallible, LinkError> {
        let mut events = Events::subscribe(self.clock)?;
        loop {
            let view = self.look_well().await?;
            let presences = presences(self.hosts, &view);
            self.part.ready();
            (self.seen)(presences.clone());
            self.last = Some(presences);
            events.next(&Interest::new(self.hosts, view.own.iter().chain(&view.others)), QUIET).await?;
        }
    }

    /// Looks twice before it believes that something is gone: the kernel tells in pieces what changes meanwhile, and may skip one.
    async fn look_well(&mut self) -> Result<View, LinkError> {
        let view = (self.look)().await?;
        if self.misses(&presences(self.hosts, &view)) { (self.look)().await } else { Ok(view) }
    }

    /// Whether an address is in trouble that was not.
    fn misses(&self, now: &[Presence]) -> bool {
        let well = |host: &IpAddr, presence: &Presence| presence.trouble(*host).is_none();
        let last = self.last.iter().flatten();
        self.hosts.iter().zip(last).zip(now).any(|((host, last), now)| well(host, last) && !well(host, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::readiness::Readiness;
    use crate::node::link::view::Address;

    fn link(index: u32, name: &str, up: bool) -> Link {
        Link { index, name: name.into(), kind: None, up }
    }

    fn at(index: u32, usable: bool) -> Vec<Address> {
        vec![Address { host: HOSTS[0], link: index, prefix: 32, usable }]
    }

    #[test]
    fn each_trouble_is_told_from_the_others() {
        let trouble = |view: &View| Presence::of(HOSTS[0], view).trouble(HOSTS[0]);
        let whole = View { own: Some(link(7, NAME, true)), addresses: at(7, true), routes: vec![HOSTS[0]], ..View::default() };
        assert_eq!(trouble(&whole), None);
        let unrouted = View { routes: Vec::new(), ..whole.clone() };
        assert!(matches!(trouble(&unrouted), Some(Trouble::Unrouted(text)) if text.contains("169.254.170.23")));
        let down = View { own: Some(link(7, NAME, false)), ..whole.clone() };
        assert!(matches!(trouble(&down), Some(Trouble::Down(text)) if text.contains(NAME)));
        for gone in [View { addresses: Vec::new(), ..whole.clone() }, View { addresses: at(7, false), ..whole }] {
            assert!(matches!(trouble(&gone), Some(Trouble::Absent(text)) if !text.contains("initialize")));
        }
        assert!(matches!(trouble(&View::default()), Some(Trouble::Absent(text)) if text.contains("initialize")));
    }

    #[test]
    fn another_link_needs_no_route_and_one_that_is_up_counts() {
        let both = View {
            own: Some(link(7, NAME, false)),
            others: vec![link(1, "lo", true)],
            addresses: [at(7, true), at(1, true)].concat(),
            ..View::default()
        };
        let on_lo = Presence::On(Bearer { link: "lo".into(), up: true, route: None });
        assert_eq!(Presence::of(HOSTS[0], &both), on_lo);
        assert_eq!(on_lo.trouble(HOSTS[0]), None);
        let both_up = View { own: Some(link(7, NAME, true)), ..both.clone() };
        assert_eq!(Presence::of(HOSTS[0], &both_up), Presence::On(Bearer { link: NAME.into(), up: true, route: Some(false) }));
        assert_eq!(Presence::of(HOSTS[1], &both), Presence::Absent { has_link: true });
    }

    /// What is told of the first address while the looks are these, the last of them for ever.
    async fn told(looks: Vec<Result<View, ()>>) -> Vec<Presence> {
        let part = Readiness::default().advisory("addresses");
        let (mut looks, mut told) = (looks.into_iter(), Vec::new());
        let fault = || LinkError::Kernel { asked: "look", source: std::io::ErrorKind::Other.into() };
        let look = || {
            let look = looks.next().map(|look| look.map_err(|()| fault()));
            async move {
                match look {
                    Some(look) => look,
                    None => std::future::pending().await,
                }
            }
        };
        let seen = |presences: Vec<Presence>| told.extend(presences);
        let watch = Watch { hosts: &HOSTS[..1], clock: &Clock::System, part: &part, last: None, look, seen };
        assert!(tokio::time::timeout(Duration::from_secs(3600), watch.follow()).await.is_err());
        told
    }

    fn whole() -> View {
        View { own: Some(link(7, NAME, true)), addresses: at(7, true), routes: vec![HOSTS[0]], ..View::default() }
    }

    const GONE: Presence = Presence::Absent { has_link: false };

    #[tokio::test(start_paused = true)]
    async fn one_wrong_look_is_not_believed_and_a_quiet_link_is_looked_at_again() {
        let there = Presence::of(HOSTS[0], &whole());
        assert_eq!(told(vec![Ok(whole()), Ok(View::default()), Ok(whole())]).await, [there.clone(), there.clone()]);
        assert_eq!(told(vec![Ok(View::default()), Ok(whole())]).await, [GONE, there.clone()]);
        assert_eq!(told(vec![Ok(whole()), Ok(View::default()), Ok(View::default())]).await, [there, GONE]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_last_stands_while_nobody_can_look() {
        let there = Presence::of(HOSTS[0], &whole());
        assert_eq!(told(vec![Ok(View::default()), Err(()), Err(()), Ok(whole())]).await, [GONE, there.clone()]);
        assert_eq!(told(vec![Err(()), Ok(whole())]).await, [Presence::Assumed, there]);
    }
}
