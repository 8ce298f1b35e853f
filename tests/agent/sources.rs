//! `--source-check` where every peer is a process of the node. Neighbours need a node with links: `tests/node/source.rs`.

use std::net::Ipv4Addr;

use crate::harness::http::get_from;
use crate::world::{World, pod};

#[tokio::test]
async fn processes_of_the_node_are_served_in_every_mode() {
    for mode in ["off", "observe", "enforce"] {
        let world = World::with(|setup| setup.flag("source-check", mode)).await;
        let token = world.token(&pod("app-0"));
        for source in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 9, 8, 7)] {
            let headers = [("authorization", token.as_str())];
            let answer = get_from(source, world.agent.address(), "/v1/credentials", &headers).await.unwrap();
            assert_eq!(answer.status, 200, "{mode} {source}: {}", world.agent.log());
        }
        for finding in ["foreign", "unknown"] {
            assert_eq!(world.agent.refusals(&format!("source_{finding}")).await.unwrap(), 0);
            let observed = format!("credlet_source_observed_total{{finding=\"{finding}\"}}");
            assert_eq!(world.agent.sample(&observed).await.unwrap(), 0);
        }
        assert_eq!(world.agent.status().await.unwrap()["source_check"], mode);
    }
}
