//! The way out of the node past a proxy, which only an address off loopback can show.

use std::net::{IpAddr, Ipv4Addr};

use crate::harness::relay::{Authority, Relay};
use crate::node::on_a_node;

#[test]
fn no_proxy_leads_past_the_proxy() {
    on_a_node(async |node| {
        let (authority, loopback) = (Authority::new().unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let host = IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23));
        let target = node.cloud.eks_auth_url().trim_start_matches("http://").parse().unwrap();
        let front = Relay::tls(&authority, host, target).await.unwrap();
        let bundle = authority.bundle().unwrap();
        for (no_proxy, status) in [("169.254.0.0/16", 200), ("169.254.170.23", 200), (".example.com", 503)] {
            let proxy = Relay::proxy(loopback, None).await.unwrap();
            let setup = node.setup().flag("endpoint", format!("https://{}", front.address));
            let setup = setup.variable("AWS_CA_BUNDLE", bundle.path().display()).variable("NO_PROXY", no_proxy);
            let agent = setup.variable("HTTPS_PROXY", format!("http://{}", proxy.address)).start().await.unwrap();
            let answer = node.ask(&agent).await;
            assert_eq!((answer.status, proxy.heads().is_empty()), (status, status == 200), "{no_proxy}: {}", agent.log());
            agent.terminate().unwrap();
            agent.ended().await.unwrap();
        }
    });
}
