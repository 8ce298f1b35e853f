//! The addresses as a running agent sees them: it listens before they come, tells when they go, and serves when they are back.

use crate::harness::agent::Agent;
use crate::initialize::{initialize, ip};
use crate::link::{KIND, listening_socket, only};
use crate::node::on_a_bare_node;

pub(crate) async fn up(agent: &Agent) -> u64 {
    agent.sample("credlet_link_up").await.unwrap()
}

/// The listener on the address of IPv4, as the status has it.
async fn listener(agent: &Agent) -> serde_json::Value {
    agent.status().await.unwrap()["listeners"][0].clone()
}

#[test]
fn an_agent_listens_before_the_address_comes() {
    on_a_bare_node(async |node| {
        let mut agent = node.setup().spawn().unwrap();
        let detail = agent.pending("listener 169.254.170.23:80").await.unwrap();
        let told = ["169.254.170.23 is not on this node", "pod-id-link0", "credlet initialize"];
        let known = async |agent: &mut Agent| {
            let detail = agent.pending("listener 169.254.170.23:80").await?;
            Ok(told.iter().all(|told| detail.contains(told)))
        };
        agent.wait_for(known).await.unwrap_or_else(|error| panic!("{detail}: {error:#}"));
        assert_eq!(up(&agent).await, 0);
        assert_eq!(agent.probe("/healthz").await.unwrap().status, 200);
        assert!(listening_socket().is_some());

        assert_eq!(initialize(&[KIND]).await.status.code(), Some(0));
        agent.become_ready().await.unwrap();
        assert_eq!(node.ask(&agent).await.status, 200);
        assert_eq!(node.ask_at("[fd00:ec2::23]:80", "[fd00:ec2::23]").await.status, 200);
        assert_eq!(up(&agent).await, 1);
        let listener = listener(&agent).await;
        assert!(listener["link"] == "pod-id-link0" && listener["route"] == true && listener["listening"] == true, "{listener}");
    });
}

#[test]
fn an_agent_tells_that_the_link_is_gone_and_serves_when_it_is_back() {
    on_a_bare_node(async |node| {
        assert_eq!(initialize(&[KIND]).await.status.code(), Some(0));
        let dropped = only("net_bind_service");
        let mut agent = node.setup().under(&dropped.each_ref().map(String::as_str)).start().await.unwrap();
        assert_eq!((node.ask(&agent).await.status, up(&agent).await), (200, 1));
        for command in ["link delete pod-id-link0", "link set pod-id-link0 down"] {
            ip(command);
            let detail = agent.pending("listener 169.254.170.23:80").await.unwrap();
            assert!(detail.contains("pod-id-link0"), "{detail}");
            assert_eq!((agent.probe("/readyz").await.unwrap().status, up(&agent).await), (503, 0));
            assert_eq!(agent.sample(r#"credlet_listener_up{family="ipv4"}"#).await.unwrap(), 0);
            let listener = listener(&agent).await;
            assert!(listener["listening"] == false && listener["detail"] == detail, "{listener}");
            assert!(agent.log().lines().any(|line| line.contains("WARN") && line.contains(&detail)), "{}", agent.log());

            assert_eq!(initialize(&[KIND]).await.status.code(), Some(0));
            agent.become_ready().await.unwrap();
            assert_eq!((node.ask(&agent).await.status, up(&agent).await), (200, 1));
        }
    });
}

#[test]
fn a_route_that_is_gone_and_an_ipv6_address_that_is_gone_are_advice() {
    on_a_bare_node(async |node| {
        assert_eq!(initialize(&[KIND]).await.status.code(), Some(0));
        let mut agent = node.setup().start().await.unwrap();
        for (command, told, link_up, ipv6_up) in [
            ("route delete 169.254.170.23/32 dev pod-id-link0", "no route to 169.254.170.23 over pod-id-link0", 0, 1),
            ("address delete fd00:ec2::23/128 dev pod-id-link0", "fd00:ec2::23 is not on this node", 1, 0),
        ] {
            ip(command);
            let advised = async |agent: &mut Agent| Ok(agent.probe("/readyz").await?.json()["advice"].to_string().contains(told));
            agent.wait_for(advised).await.unwrap();
            assert_eq!((agent.probe("/readyz").await.unwrap().status, up(&agent).await), (200, link_up));
            assert_eq!(agent.sample(r#"credlet_listener_up{family="ipv6"}"#).await.unwrap(), ipv6_up);
            assert_eq!(node.ask(&agent).await.status, 200);
            assert_eq!(initialize(&[KIND]).await.status.code(), Some(0));
            let calm = async |agent: &mut Agent| Ok(agent.probe("/readyz").await?.json()["advice"] == serde_json::json!({}));
            agent.wait_for(calm).await.unwrap();
            assert_eq!(up(&agent).await, 1);
        }
    });
}
