//! Where connections come from: pods of a routing and of a bridging network and the node's own processes, and neighbours on its
//! other links that route the link-local addresses at it.

use credlet::sim::script::Operation;
use serde_json::json;

use crate::harness::agent::Agent;
use crate::harness::http::{Answer, get_over};
use crate::harness::network::Namespace;
use crate::node::{Node, on_a_node};

const ADDRESSES: [&str; 2] = ["169.254.170.23:80", "[fd00:ec2::23]:80"];

/// What the node's end of a link, and the other end, are known by: with that nobody has to ask.
const NODE_MAC: &str = "ee:ee:ee:ee:ee:ee";
const MAC: &str = "02:00:00:00:09:07";

const OBSERVED: &str = r#"credlet_source_observed_total{finding="foreign"}"#;

impl Node {
    async fn agent(&self, mode: &str) -> Agent {
        self.setup().flag("source-check", mode).start().await.unwrap()
    }

    /// The agent's answer to somebody elsewhere, if it gives one.
    async fn answer_to(&self, there: &Namespace, address: &str) -> anyhow::Result<Answer> {
        let stream = there.connect(address.parse().unwrap()).unwrap();
        get_over(stream, "/v1/credentials", &[("authorization", &self.token())]).await
    }

    /// Whether somebody elsewhere gets credentials over both families. Who does not is closed without an answer.
    async fn serves(&self, there: &Namespace) -> bool {
        let mut served = Vec::new();
        for address in ADDRESSES {
            let answer = self.answer_to(there, address).await;
            served.push(answer.is_ok_and(|answer| answer.status == 200));
        }
        assert!(served[0] == served[1], "by family: {served:?}");
        served[0]
    }

    fn ip(&self, lines: &str) {
        self.network.node.ip(lines).unwrap();
    }

    /// Somebody at the other end of a new link, `eth0` there.
    fn linked(&self, link: &str) -> Namespace {
        let there = Namespace::new().unwrap();
        let path = there.path();
        self.ip(&format!(
            "link add {link} address {NODE_MAC} type veth peer name eth0 address {MAC} netns {path}
             link set {link} up"
        ));
        there.ip("link set eth0 up").unwrap();
        there
    }

    /// Makes a network of both over the node's `link`, and the node the way to the agent's addresses.
    fn share_a_network(&self, link: &str, there: &Namespace) {
        self.ip(&format!(
            "address add 10.9.1.1/24 dev {link}
             address add 2001:db8:9::1/64 dev {link} nodad
             neighbour replace 10.9.1.7 lladdr {MAC} dev {link} nud permanent
             neighbour replace 2001:db8:9::7 lladdr {MAC} dev {link} nud permanent"
        ));
        let lines = format!(
            "address add 10.9.1.7/24 dev eth0
             address add 2001:db8:9::7/64 dev eth0 nodad
             route add 169.254.170.23 via 10.9.1.1
             route add fd00:ec2::23 via 2001:db8:9::1
             neighbour replace 10.9.1.1 lladdr {NODE_MAC} dev eth0 nud permanent
             neighbour replace 2001:db8:9::1 lladdr {NODE_MAC} dev eth0 nud permanent"
        );
        there.ip(&lines).unwrap();
    }

    fn neighbour(&self) -> Namespace {
        let neighbour = self.linked("veth9");
        self.share_a_network("veth9", &neighbour);
        neighbour
    }

    /// A pod behind the bridge `cni0`, as the bridge plugin lays it.
    fn bridged_pod(&self) -> Namespace {
        let pod = self.linked("veth8");
        self.ip(&format!(
            "link add cni0 address {NODE_MAC} type bridge
             link set veth8 address 02:00:00:00:09:08
             link set veth8 master cni0
             link set cni0 up"
        ));
        self.share_a_network("cni0", &pod);
        pod
    }
}

/// How many lines of an agent's log tell of a connection from outside.
fn told(agent: &Agent) -> usize {
    agent.log().lines().filter(|line| line.contains("from outside this node")).count()
}

#[test]
fn pods_and_processes_of_the_node_are_served_while_others_are_closed() {
    on_a_node(async |node| {
        let (routed, bridged) = (node.network.pod(16).unwrap(), node.bridged_pod());
        let agent = node.agent("enforce").await;
        assert!(node.serves(&routed.namespace).await, "{}", agent.log());
        assert!(node.serves(&bridged).await, "{}", agent.log());
        assert!(node.serves(&node.network.node).await, "{}", agent.log());
        assert_eq!((agent.refusals("source_foreign").await.unwrap(), told(&agent)), (0, 0));
        assert_eq!(agent.status().await.unwrap()["source_check"], json!("enforce"));
    });
}

#[test]
fn a_neighbour_gets_no_credentials_while_a_pod_does() {
    on_a_node(async |node| {
        let (pod, neighbour) = (node.network.pod(16).unwrap(), node.neighbour());
        let agent = node.agent("enforce").await;
        for (calls, refusals) in [(0, 2), (2, 4)] {
            for address in ADDRESSES {
                assert!(node.answer_to(&neighbour, address).await.is_err(), "{address}");
            }
            assert_eq!(agent.refusals("source_foreign").await.unwrap(), refusals);
            assert_eq!(node.cloud.count(Operation::EksAuth), calls);
            assert!(node.serves(&pod.namespace).await);
        }
        assert_eq!((agent.sample(OBSERVED).await.unwrap(), agent.sample("credlet_connections").await.unwrap()), (0, 0));
        let log = agent.log();
        assert!(told(&agent) == 1 && log.contains("veth9") && log.contains("10.9.1.7"), "{log}");
    });
}

#[test]
fn a_neighbour_is_served_and_counted_where_sources_are_only_observed() {
    on_a_node(async |node| {
        let (pod, neighbour) = (node.network.pod(16).unwrap(), node.neighbour());
        let mut agent = node.setup().start().await.unwrap();
        assert!(node.serves(&pod.namespace).await);
        assert!(node.serves(&neighbour).await && node.serves(&neighbour).await);
        agent.wait_for(async |agent: &mut Agent| Ok(agent.sample(OBSERVED).await? == 4)).await.unwrap();
        assert_eq!(told(&agent), 1);
        assert_eq!(agent.refusals("source_foreign").await.unwrap(), 0);
        assert_eq!(agent.status().await.unwrap()["source_check"], json!("observe"));
    });
}

#[test]
fn nobody_looks_where_the_check_is_off() {
    on_a_node(async |node| {
        let neighbour = node.neighbour();
        let agent = node.agent("off").await;
        assert!(node.serves(&neighbour).await);
        assert_eq!((agent.sample(OBSERVED).await.unwrap(), told(&agent)), (0, 0));
    });
}

#[test]
fn whoever_is_beyond_the_link_of_a_default_route_is_foreign() {
    on_a_node(async |node| {
        let (uplink, pod, bridged) = (node.network.pod(17).unwrap(), node.network.pod(18).unwrap(), node.bridged_pod());
        node.ip("route add default via 192.0.2.17 dev veth17 onlink\nroute add default via 2001:db8::11 dev veth17");
        node.ip("route add default via 2001:db8:9::7 dev cni0 metric 9");
        let agent = node.agent("enforce").await;
        assert!(!node.serves(&uplink.namespace).await && !node.serves(&bridged).await, "{}", agent.log());
        assert!(node.serves(&pod.namespace).await, "{}", agent.log());
    });
}

#[test]
fn a_bridge_with_a_port_that_leads_elsewhere_is_no_bridge_of_pods() {
    on_a_node(async |node| {
        let bridged = node.bridged_pod();
        node.ip("link add port9 type ifb\nlink set port9 master cni0");
        let agent = node.agent("enforce").await;
        assert!(!node.serves(&bridged).await, "{}", agent.log());
    });
}

/// The subnet of the node's pods is routed over `cilium_host`, a pair of which both ends are here. What Cilium's programs do
/// there, a table for packets from the pair's other end does.
#[test]
fn pods_behind_a_pair_of_the_node_are_its_own_and_those_of_other_nodes_are_not() {
    on_a_node(async |node| {
        node.ip(&format!(
            "link add cilium_host type veth peer name cilium_net address {MAC}
             link set cilium_host up
             link set cilium_net up
             address add 192.0.2.1/32 dev cilium_host
             neighbour replace 192.0.2.16 lladdr {MAC} dev cilium_host nud permanent
             rule add iif cilium_net lookup 100"
        ));
        for (file, value) in [("ip_forward", "1"), ("conf/cilium_net/accept_local", "1"), ("conf/all/rp_filter", "0")] {
            std::fs::write(format!("/proc/sys/net/ipv4/{file}"), value).unwrap();
        }
        let pod = node.network.pod(16).unwrap();
        node.ip("route del 192.0.2.16/32 dev veth16
             route add 192.0.2.16/32 dev veth16 table 100
             route add 192.0.2.0/24 via 192.0.2.1 dev cilium_host src 192.0.2.1");
        let agent = node.agent("enforce").await;
        assert_eq!(node.answer_to(&pod.namespace, ADDRESSES[0]).await.unwrap().status, 200, "{}", agent.log());

        drop(agent);
        node.ip("route del 192.0.2.0/24\nroute add 192.0.2.16/28 via 192.0.2.1 dev cilium_host src 192.0.2.1");
        let agent = node.agent("enforce").await;
        assert!(node.answer_to(&pod.namespace, ADDRESSES[0]).await.is_err(), "{}", agent.log());
        assert_eq!(agent.refusals("source_foreign").await.unwrap(), 1);
    });
}
