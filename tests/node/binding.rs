//! `--source-binding`: a pod's token from its own addresses and from elsewhere, on a routing and on a bridging network.

use std::time::Duration;

use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::pod::PodSpec;

use crate::harness::agent::Agent;
use crate::harness::http::get_over;
use crate::harness::network::Namespace;
use crate::node::{Node, on_a_node};

const IPV4: &str = "169.254.170.23:80";
const IPV6: &str = "[fd00:ec2::23]:80";

/// What the node's bridge is known by: with that nobody has to ask.
const BRIDGE_MAC: &str = "ee:ee:ee:ee:ee:01";

const MISMATCHES: &str = r#"credlet_source_observed_total{finding="mismatch"}"#;

/// A token of a new pod.
fn token_of(node: &Node, pod: &str) -> String {
    node.cloud.keys().token(&PodSpec::new("default", "app", pod), POD_IDENTITY_AUDIENCE, Duration::from_secs(3600))
}

/// The agent's answer to that token from there.
async fn ask(there: &Namespace, address: &str, token: &str) -> u16 {
    let stream = there.connect(address.parse().unwrap()).unwrap();
    get_over(stream, "/v1/credentials", &[("authorization", token)]).await.unwrap().status
}

/// Over both families.
async fn ask_both(there: &Namespace, token: &str) -> [u16; 2] {
    [ask(there, IPV4, token).await, ask(there, IPV6, token).await]
}

async fn agent(node: &Node, mode: &str) -> Agent {
    node.setup().flag("source-binding", mode).start().await.unwrap()
}

async fn refused(agent: &Agent) -> u64 {
    agent.refusals("source_mismatch").await.unwrap()
}

/// The bridge `cni0`, without pods.
fn bridge(node: &Node) {
    let lines = format!(
        "link add cni0 address {BRIDGE_MAC} type bridge
         address add 10.9.1.1/24 dev cni0
         address add 2001:db8:9::1/64 dev cni0 nodad
         link set cni0 up"
    );
    node.network.node.ip(&lines).unwrap();
}

/// A pod behind it, as the bridge plugin lays it.
fn bridged_pod(node: &Node, number: u8) -> Namespace {
    let (there, link, mac) = (Namespace::new().unwrap(), format!("bridged{number}"), format!("02:00:00:00:09:{number:02x}"));
    let lines = format!(
        "link add {link} type veth peer name eth0 address {mac} netns {}
         link set {link} master cni0
         link set {link} up
         neighbour replace 10.9.1.{number} lladdr {mac} dev cni0 nud permanent
         neighbour replace 2001:db8:9::{number} lladdr {mac} dev cni0 nud permanent",
        there.path()
    );
    node.network.node.ip(&lines).unwrap();
    let lines = format!(
        "address add 10.9.1.{number}/24 dev eth0
         address add 2001:db8:9::{number}/64 dev eth0 nodad
         link set eth0 up
         route add 169.254.170.23 via 10.9.1.1
         route add fd00:ec2::23 via 2001:db8:9::1
         neighbour replace 10.9.1.1 lladdr {BRIDGE_MAC} dev eth0 nud permanent
         neighbour replace 2001:db8:9::1 lladdr {BRIDGE_MAC} dev eth0 nud permanent"
    );
    there.ip(&lines).unwrap();
    there
}

#[test]
fn a_stolen_token_is_refused_where_each_pod_has_a_link_of_its_own() {
    on_a_node(async |node| {
        let (pod, thief) = (node.network.pod(16).unwrap(), node.network.pod(17).unwrap());
        let agent = agent(&node, "enforce").await;
        let (token, thiefs) = (token_of(&node, "app-0"), token_of(&node, "thief-0"));
        assert_eq!(ask(&pod.namespace, IPV4, &token).await, 200, "{}", agent.log());
        for (there, expected) in [(&thief.namespace, [403, 403]), (&node.network.node, [403, 403]), (&pod.namespace, [200, 200])]
        {
            assert_eq!(ask_both(there, &token).await, expected, "{}", agent.log());
        }
        assert_eq!(ask_both(&thief.namespace, &thiefs).await, [200, 200], "its own");
        assert_eq!((refused(&agent).await, agent.sample(MISMATCHES).await.unwrap()), (4, 0));
        let log = agent.log();
        let told: Vec<&str> = log.lines().filter(|line| line.contains("comes from elsewhere than its pod")).collect();
        assert!(told.len() == 1 && told[0].contains("app-0") && told[0].contains("192.0.2.17"), "once a minute: {log}");
        assert!(!told[0].contains(&token));
    });
}

#[test]
fn a_stolen_token_is_served_and_counted_where_it_is_only_observed() {
    on_a_node(async |node| {
        let (pod, thief) = (node.network.pod(16).unwrap(), node.network.pod(17).unwrap());
        let mut agent = node.setup().start().await.unwrap();
        let token = token_of(&node, "app-0");
        assert_eq!(ask_both(&pod.namespace, &token).await, [200, 200]);
        assert_eq!(ask_both(&thief.namespace, &token).await, [200, 200]);
        agent.wait_for(async |agent: &mut Agent| Ok(agent.sample(MISMATCHES).await? == 2)).await.unwrap();
        assert_eq!(refused(&agent).await, 0);
        assert_eq!(agent.status().await.unwrap()["source_binding"], "observe");
    });
}

#[test]
fn a_pod_may_have_four_addresses() {
    on_a_node(async |node| {
        let pod = node.network.pod(16).unwrap();
        let agent = agent(&node, "enforce").await;
        let token = token_of(&node, "app-0");
        assert_eq!(ask_both(&pod.namespace, &token).await, [200, 200]);
        for (number, expected) in [(116, 200), (117, 200), (118, 403)] {
            let address = format!("192.0.2.{number}");
            node.network.node.ip(&format!("route add {address}/32 dev veth16\nneighbour replace {address} lladdr 02:00:00:00:00:10 dev veth16 nud permanent")).unwrap();
            let lines =
                format!("address add {address}/32 dev eth0\nroute replace default via 169.254.1.1 dev eth0 src {address}");
            pod.namespace.ip(&lines).unwrap();
            assert_eq!(ask(&pod.namespace, IPV4, &token).await, expected, "{address}: {}", agent.log());
        }
        assert_eq!((ask(&pod.namespace, IPV6, &token).await, refused(&agent).await), (200, 1));
    });
}

#[test]
fn a_pod_of_the_nodes_own_network_is_the_nodes() {
    on_a_node(async |node| {
        let thief = node.network.pod(17).unwrap();
        let agent = agent(&node, "enforce").await;
        let (token, neighbours) = (token_of(&node, "host-0"), token_of(&node, "host-1"));
        for token in [&token, &neighbours] {
            assert_eq!(ask_both(&node.network.node, token).await, [200, 200], "they share the node's addresses");
        }
        assert_eq!(ask_both(&thief.namespace, &token).await, [403, 403], "{}", agent.log());
    });
}

#[test]
fn behind_a_bridge_a_pod_has_one_address_of_each_family() {
    on_a_node(async |node| {
        bridge(&node);
        let (pod, thief) = (bridged_pod(&node, 7), bridged_pod(&node, 8));
        let agent = agent(&node, "enforce").await;
        let token = token_of(&node, "app-0");
        assert_eq!(ask(&pod, IPV4, &token).await, 200, "{}", agent.log());
        assert_eq!(ask(&thief, IPV4, &token).await, 403, "{}", agent.log());
        assert_eq!(ask_both(&pod, &token).await, [200, 200], "{}", agent.log());
        assert_eq!(ask_both(&thief, &token).await, [403, 403], "{}", agent.log());
        assert_eq!(ask_both(&node.network.node, &token).await, [403, 403], "{}", agent.log());
        // What a bridge can't prevent: the thief takes the pod's address.
        drop(pod);
        let lines = "address flush dev eth0\naddress add 10.9.1.7/24 dev eth0\nroute add 169.254.170.23 via 10.9.1.1";
        thief.ip(lines).unwrap();
        node.network.node.ip("neighbour replace 10.9.1.7 lladdr 02:00:00:00:09:08 dev cni0 nud permanent").unwrap();
        assert_eq!(ask(&thief, IPV4, &token).await, 200, "documented");
    });
}
