//! News of links, addresses and routes, as the kernel multicasts them to whoever listens. Needs no capability.
//!
//! News only say when to look: what is there is always read anew, so that news that the kernel had to drop (`ENOBUFS`) are made up
//! for by one more look. A look may err, since the kernel tells in pieces what changes meanwhile (`NLM_F_DUMP_INTR`), and on a quiet
//! link no news would ever correct it: so there is another look after a while without any.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{BoxStream, StreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage as News;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::base::bucket::Bucket;
use crate::base::clock::Clock;
use crate::node::link::state::Link;
use crate::node::link::view::{address, destination};
use crate::node::link::{LinkError, NAME};

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// From a look to the next without news.
pub(super) const QUIET: Duration = Duration::from_secs(60);

/// How many looks a second, and how many at once: a link may flap, and another program may undo each time what is done.
const PER_SECOND: f64 = 2.0;
const AT_ONCE: f64 = 20.0;

/// What is missing of a token may be too little to be a time.
const TICK: Duration = Duration::from_millis(1);

/// A subscription, ended when dropped.
pub(super) struct Events {
    news: BoxStream<'static, NetlinkMessage<News>>,
    clock: Clock,
    looks: Bucket,
    _connection: AbortOnDropHandle<()>,
}

/// Which news call for another look: a node's pods make many others.
#[derive(Debug, Default)]
pub(super) struct Interest {
    hosts: Vec<IpAddr>,
    /// The links that bear them, beside [`NAME`].
    links: Vec<u32>,
}

impl Events {
    /// Subscribes; what happens from now on is told. Call it inside a runtime.
    pub(super) fn subscribe(clock: &Clock) -> Result<Self, LinkError> {
        let opened = new_multicast_connection(&GROUPS);
        let (connection, _, news) = opened.map_err(|source| LinkError::Kernel { asked: "subscribe to netlink news", source })?;
        Ok(Self::new(news.map(|(message, _)| message).boxed(), tokio::spawn(connection), clock.clone()))
    }

    fn new(news: BoxStream<'static, NetlinkMessage<News>>, connection: JoinHandle<()>, clock: Clock) -> Self {
        let looks = Bucket::new(PER_SECOND, AT_ONCE, clock.now().mono);
        Self { news, clock, looks, _connection: AbortOnDropHandle::new(connection) }
    }

    /// Waits until it is time for another look: at news of `interest`, or after `quiet` without.
    pub(super) async fn next(&mut self, interest: &Interest, quiet: Duration) -> Result<(), LinkError> {
        timeout(quiet, self.hear(interest)).await.unwrap_or(Ok(()))?;
        while !self.looks.take(self.clock.now().mono) {
            sleep_until(self.looks.next(self.clock.now().mono) + TICK).await;
        }
        while self.news.next().now_or_never().flatten().is_some() {}
        Ok(())
    }

    async fn hear(&mut self, interest: &Interest) -> Result<(), LinkError> {
        loop {
            let Some(news) = self.news.next().await else {
                let source = std::io::ErrorKind::BrokenPipe.into();
                return Err(LinkError::Kernel { asked: "listen to netlink news", source });
            };
            if interest.is_met_by(&news) {
                return Ok(());
            }
        }
    }
}

impl Interest {
    /// News of `hosts`, and of the `links` that were seen.
    pub(super) fn new<'l>(hosts: &[IpAddr], links: impl IntoIterator<Item = &'l Link>) -> Self {
        Self { hosts: hosts.to_owned(), links: links.into_iter().map(|link| link.index).collect() }
    }

    fn is_met_by(&self, news: &NetlinkMessage<News>) -> bool {
        if let NetlinkPayload::InnerMessage(news) = &news.payload {
            return self.is_of(news);
        }
        matches!(news.payload, NetlinkPayload::Overrun(_))
    }

    fn is_of(&self, news: &News) -> bool {
        if let News::NewLink(link) | News::DelLink(link) = news {
            return self.links.contains(&link.header.index) || is_own(link);
        }
        if let News::NewAddress(message) | News::DelAddress(message) = news {
            let host = address(message).map(|address| address.host);
            return self.links.contains(&message.header.index) || host.is_some_and(|host| self.hosts.contains(&host));
        }
        if let News::NewRoute(route) | News::DelRoute(route) = news {
            return destination(route).is_some_and(|host| self.hosts.contains(&host));
        }
        false
    }
}

fn is_own(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::IfName(name) if name == NAME))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
    use rtnetlink::packet_route::route::RouteMessage;
    use rtnetlink::{LinkUnspec, RouteMessageBuilder};

    use super::*;
    use crate::node::link::HOSTS;

    fn interest() -> Interest {
        let own = Link { index: 7, name: NAME.into(), kind: None, up: true };
        Interest::new(&HOSTS, [&own])
    }

    fn address_news(link: u32, host: &str) -> News {
        let mut message = AddressMessage::default();
        message.header.index = link;
        message.attributes.push(AddressAttribute::Address(host.parse().unwrap()));
        News::DelAddress(message)
    }

    fn route(host: &str, prefix: u8) -> RouteMessage {
        RouteMessageBuilder::<IpAddr>::new().destination_prefix(host.parse().unwrap(), prefix).unwrap().build()
    }

    #[test]
    fn only_news_of_ours_call_for_a_look() {
        let mut local = route("169.254.170.23", 32);
        local.header.table = 255;
        for (news, met) in [
            (News::NewLink(LinkUnspec::new_with_name(NAME).build()), true),
            (News::DelLink(LinkUnspec::new_with_index(7).build()), true),
            (News::NewLink(LinkUnspec::new_with_index(8).name("veth0").build()), false),
            (address_news(8, "169.254.170.23"), true),
            (address_news(7, "fe80::1"), true),
            (address_news(8, "192.0.2.10"), false),
            (News::DelRoute(route("fd00:ec2::23", 128)), true),
            (News::DelRoute(route("169.254.0.0", 16)), false),
            (News::DelRoute(route("192.0.2.10", 32)), false),
            (News::DelRoute(local), false),
        ] {
            assert_eq!(interest().is_met_by(&NetlinkMessage::from(news.clone())), met, "{news:?}");
        }
    }

    #[test]
    fn lost_news_call_for_a_look() {
        assert!(interest().is_met_by(&lost()));
    }

    fn lost() -> NetlinkMessage<News> {
        NetlinkMessage::new(rtnetlink::packet_core::NetlinkHeader::default(), NetlinkPayload::Overrun(Vec::new()))
    }

    fn events(news: BoxStream<'static, NetlinkMessage<News>>) -> Events {
        Events::new(news, tokio::spawn(std::future::pending()), Clock::System)
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_link_is_looked_at_again() {
        let mut events = events(futures_util::stream::pending().boxed());
        let begin = Clock::System.now().mono;
        events.next(&interest(), QUIET).await.unwrap();
        assert_eq!(Clock::System.now().mono.duration_since(begin).as_secs(), QUIET.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_restless_link_is_looked_at_at_a_bearable_rate() {
        let ticks = futures_util::stream::repeat(()).then(|()| async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            lost()
        });
        let mut events = events(ticks.boxed());
        let mut looks = 0;
        let restless = async {
            loop {
                events.next(&interest(), QUIET).await.unwrap();
                looks += 1;
            }
        };
        assert!(timeout(Duration::from_secs(10), restless).await.is_err());
        assert!((30..=40).contains(&looks), "{looks}");
    }
}
