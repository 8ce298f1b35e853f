//! Isolation between two pods in networks of their own: one does all it can, the other notices nothing (R8).
//!
//! The figure that is promised is asserted of a release build: `cargo test --release --test node abuse -- --nocapture`.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::harness::abuse::{Place, policy, prove, tokens};
use crate::harness::network::Pod;
use crate::node::on_a_node;

#[test]
fn a_pod_notices_nothing_of_what_its_neighbour_does() {
    on_a_node(async |node| {
        let path = policy(&node.cloud, node.folder()).unwrap();
        let agent = node.setup().flag("policy", path.display()).start().await.unwrap();
        let place = |number, token| {
            let pod: Pod = node.network.pod(number).unwrap();
            let enter = Arc::new(move || pod.namespace.enter());
            Place { enter, from: Ipv4Addr::UNSPECIFIED, agent: agent.address(), token }
        };
        let [of_abuser, of_neighbour] = tokens(&node.cloud);
        let (abuser, neighbour) = (place(16, of_abuser), place(17, of_neighbour));
        prove(&agent, &node.cloud, [&abuser, &neighbour]).await.unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    });
}
