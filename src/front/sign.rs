//! What is known of one address that is served, told to status, readiness, metrics and log alike.
//!
//! Two know it: the address's own listener, whether it has the socket, and the watch of the node's addresses, whether packets can
//! arrive there. A socket alone says little, since it is bound before the node has the address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use crate::base::duty::Duty;
use crate::base::readiness::Part;
use crate::node::link::presence::{Bearer, Presence, Trouble};
use crate::observe::Context;
use crate::observe::metrics::Metrics;

/// Said of an address while another agent is to serve it.
const STANDS_BY: &str = "this agent stands by";

/// An address as `/status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ListenerStatus {
    /// The address: as bound, else as asked for.
    pub address: SocketAddr,
    /// Whether this process has its socket.
    pub bound: bool,
    /// Whether connections reach it and are taken by this process.
    pub listening: bool,
    /// The link that bears it; `None` for one that is on no link or is not watched.
    pub link: Option<String>,
    /// Whether the main table routes to it over that link; `None` where nobody asks for that.
    pub route: Option<bool>,
    /// What is wrong, if anything is.
    pub detail: String,
}

/// Whether a listener has its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hold {
    /// It has.
    Held,
    /// Not yet, or no more.
    Idle,
    /// Something is in the way.
    Blocked(String),
    /// This node can't have the address.
    Impossible(String),
}

/// How it stands with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// Served.
    Served,
    /// Served, and not everybody finds the way.
    Hampered(String),
    /// Not served, and nothing is wrong: it has only begun, or has ended.
    Idle(String),
    /// Not served, though it has to be.
    Missed(String),
    /// Not served, and the node does without.
    Without(String),
}

/// One address's sign.
#[derive(Debug)]
pub(super) struct Sign {
    required: bool,
    part: Part,
    advice: Part,
    duty: Duty,
    metrics: Arc<Metrics>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    address: SocketAddr,
    hold: Hold,
    presence: Presence,
    verdict: Verdict,
}

impl Sign {
    /// The node can do without an address that is not `required`.
    pub(super) fn new(address: SocketAddr, presence: Presence, required: bool, context: &Context) -> Self {
        let (name, idle) = (format!("listener {address}"), "not bound yet");
        let part = context.readiness.part(name.clone(), idle);
        let known = Known { address, hold: Hold::Idle, presence, verdict: Verdict::Idle(idle.into()) };
        context.metrics.front.listener_up(address.ip(), false);
        Self {
            required,
            part,
            advice: context.readiness.advisory(name),
            duty: context.duty.clone(),
            metrics: Arc::clone(&context.metrics),
            known: Mutex::new(known),
        }
    }

    /// The listener has its socket, at this very address.
    pub(super) fn bound(&self, address: SocketAddr) {
        self.learn(|known| {
            known.address = address;
            known.hold = Hold::Held;
        });
    }

    /// The listener has no socket.
    pub(super) fn unbound(&self, hold: Hold) {
        self.learn(|known| known.hold = hold);
    }

    /// The address was looked for.
    pub(super) fn placed(&self, presence: Presence) {
        self.learn(|known| known.presence = presence);
    }

    /// Whether the address, if the node is to have it, has been seen where it should be.
    pub(super) fn is_in_place(&self) -> bool {
        let known = self.known.lock();
        match known.presence.trouble(known.address.ip()) {
            None => known.presence != Presence::Assumed,
            Some(Trouble::Absent(_)) => !self.required,
            Some(Trouble::Unknown(_) | Trouble::Down(_) | Trouble::Unrouted(_)) => false,
        }
    }

    pub(super) fn status(&self) -> ListenerStatus {
        let known = self.known.lock();
        let (link, route) = match &known.presence {
            Presence::On(Bearer { link, route, .. }) => (Some(link.clone()), *route),
            Presence::Unseen | Presence::Assumed | Presence::Absent { .. } => (None, None),
        };
        let (bound, is_served, serves) = (known.hold == Hold::Held, known.verdict.is_served(), self.duty.is_serving());
        let detail = if is_served && !serves { STANDS_BY } else { known.verdict.detail() }.to_owned();
        ListenerStatus { address: known.address, bound, listening: is_served && serves, link, route, detail }
    }

    fn learn(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock();
        change(&mut known);
        let verdict = Verdict::of(&known.hold, known.address.ip(), &known.presence, self.required);
        if known.verdict != verdict {
            self.tell(known.address, &verdict);
            known.verdict = verdict;
        }
    }

    fn tell(&self, address: SocketAddr, verdict: &Verdict) {
        self.metrics.front.listener_up(address.ip(), verdict.is_served());
        match verdict {
            Verdict::Served => tracing::info!(%address, "listening"),
            Verdict::Idle(detail) => tracing::debug!(%address, "{detail}"),
            Verdict::Hampered(detail) | Verdict::Missed(detail) | Verdict::Without(detail) => {
                tracing::warn!(%address, "{detail}");
            }
        }
        match verdict {
            Verdict::Idle(detail) | Verdict::Missed(detail) => self.part.pending(detail),
            Verdict::Served | Verdict::Hampered(_) | Verdict::Without(_) => self.part.ready(),
        }
        match verdict {
            Verdict::Hampered(detail) | Verdict::Without(detail) => self.advice.pending(detail),
            Verdict::Served | Verdict::Idle(_) | Verdict::Missed(_) => self.advice.ready(),
        }
    }
}

impl Verdict {
    fn of(hold: &Hold, host: IpAddr, presence: &Presence, required: bool) -> Self {
        let unserved = if required { Self::Missed } else { Self::Without };
        match (hold, presence.trouble(host)) {
            (Hold::Idle, _) => Self::Idle("closed".into()),
            (Hold::Blocked(detail), _) => Self::Missed(detail.clone()),
            (Hold::Impossible(detail), _) => unserved(detail.clone()),
            (Hold::Held, None) => Self::Served,
            (Hold::Held, Some(Trouble::Unknown(detail))) => Self::Idle(detail),
            (Hold::Held, Some(Trouble::Absent(detail) | Trouble::Down(detail))) => unserved(detail),
            (Hold::Held, Some(Trouble::Unrouted(detail))) => Self::Hampered(detail),
        }
    }

    fn is_served(&self) -> bool {
        matches!(self, Self::Served | Self::Hampered(_))
    }

    fn detail(&self) -> &str {
        match self {
            Self::Served => "",
            Self::Hampered(detail) | Self::Idle(detail) | Self::Missed(detail) | Self::Without(detail) => detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    const IPV4: &str = "169.254.170.23:80";
    const IPV6: &str = "[fd00:ec2::23]:80";

    fn on(up: bool, route: Option<bool>) -> Presence {
        Presence::On(Bearer { link: "pod-id-link0".into(), up, route })
    }

    /// Listening, pending, advice, in place: of a sign whose socket is there.
    fn shown(address: &str, required: bool, presence: Presence) -> [bool; 4] {
        let (context, address) = (Context::new(Clock::System), address.parse().unwrap());
        let sign = Sign::new(address, Presence::Unseen, required, &context);
        sign.bound(address);
        sign.placed(presence);
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let up = context.metrics.encode().unwrap().contains(&format!("credlet_listener_up{{family=\"{family}\"}} 1"));
        let status = sign.status();
        assert_eq!((up, status.detail.is_empty()), (status.listening, status.listening && context.readiness.advice().is_empty()));
        [status.listening, !context.readiness.pending().is_empty(), !context.readiness.advice().is_empty(), sign.is_in_place()]
    }

    #[test]
    fn a_socket_alone_serves_nobody() {
        for (presence, ipv4, ipv6) in [
            (on(true, Some(true)), [true, false, false, true], [true, false, false, true]),
            (on(true, None), [true, false, false, true], [true, false, false, true]),
            (Presence::Assumed, [true, false, false, false], [true, false, false, false]),
            (on(true, Some(false)), [true, false, true, false], [true, false, true, false]),
            (on(false, Some(false)), [false, true, false, false], [false, false, true, false]),
            (Presence::Absent { has_link: true }, [false, true, false, false], [false, false, true, true]),
            (Presence::Absent { has_link: false }, [false, true, false, false], [false, false, true, true]),
            (Presence::Unseen, [false, true, false, false], [false, true, false, false]),
        ] {
            assert_eq!(shown(IPV4, true, presence.clone()), ipv4, "{presence:?}");
            assert_eq!(shown(IPV6, false, presence.clone()), ipv6, "{presence:?}");
            assert_eq!(shown(IPV6, true, presence.clone()), ipv4, "{presence:?}, and only IPv6 is served");
        }
    }

    #[test]
    fn who_stands_by_takes_nothing_though_it_has_the_socket() {
        let (context, address) = (Context::new(Clock::System), IPV4.parse().unwrap());
        let sign = Sign::new(address, on(true, None), true, &context);
        sign.bound(address);
        for serves in [true, false, true] {
            context.duty.set(serves);
            let status = sign.status();
            assert!(status.bound && status.listening == serves && status.detail.is_empty() == serves, "{status:?}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_waited_for_whatever_the_family() {
        let context = Context::new(Clock::System);
        let sign = Sign::new(IPV6.parse().unwrap(), on(true, None), false, &context);
        sign.unbound(Hold::Blocked("taken".into()));
        assert!(context.readiness.pending().values().eq(["taken"]) && !sign.status().listening);
        sign.unbound(Hold::Impossible("no IPv6".into()));
        assert!(context.readiness.pending().is_empty() && context.readiness.advice().values().eq(["no IPv6"]));
    }
}
