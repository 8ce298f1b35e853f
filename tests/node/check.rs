//! `credlet check` on a node: addresses, the right to port 80, whoever holds it.

use std::os::unix::fs::fchown;
use std::process::Output;

use tokio::net::TcpListener;

use crate::node::{Node, on_a_node, run};

/// What a check of this node prints, and its exit code.
async fn check(node: &Node, wrapper: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, .. } = node.setup().command_of("check").under(wrapper).end().await.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap())
}

/// The lines that begin so.
fn lines<'t>(text: &'t str, begin: &str) -> Vec<&'t str> {
    text.lines().filter(|line| line.starts_with(begin)).collect()
}

#[test]
fn a_node_with_its_addresses_can_serve() {
    on_a_node(async |node| {
        let (code, text) = check(&node, &[]).await;
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(lines(&text, "ok       link").len(), 2, "{text}");
        assert!(text.contains("169.254.170.23:80 is free") && text.contains("[fd00:ec2::23]:80 is free"), "{text}");
        let _agent = node.setup().start().await.unwrap();
        let (code, text) = check(&node, &[]).await;
        assert_eq!((code, text.matches("is held by the agent that runs here").count()), (Some(0), 2), "{text}");
    });
}

#[test]
fn no_right_to_the_port() {
    on_a_node(async |node| {
        let setpriv = ["/usr/bin/setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"];
        let (code, text) = check(&node, &setpriv).await;
        let failed = lines(&text, "failed");
        assert!(code == Some(1) && failed.len() == 1, "{text}");
        assert!(
            failed[0].contains("no right to bind 169.254.170.23:80. Remedy: grant the capability NET_BIND_SERVICE"),
            "{text}"
        );
    });
}

#[test]
fn no_link_and_what_is_wrong_with_it() {
    on_a_node(async |node| {
        run("ip", &["address", "delete", "fd00:ec2::23/128", "dev", "lo"]);
        let (code, text) = check(&node, &[]).await;
        assert!(code == Some(0) && lines(&text, "warning  link").len() == 1, "IPv6 can be done without: {text}");
        run("ip", &["address", "delete", "169.254.170.23/32", "dev", "lo"]);
        let (code, text) = check(&node, &[]).await;
        let failed = lines(&text, "failed");
        assert!(code == Some(1) && failed.len() == 1, "{text}");
        let told = "169.254.170.23 is not on this node, and there is no link pod-id-link0. Remedy: run `credlet initialize`";
        assert!(failed[0].contains(told), "{text}");

        // This kernel need not have the link type dummy.
        run("ip", &["link", "add", "pod-id-link0", "type", "ifb"]);
        run("ip", &["address", "add", "169.254.170.23/32", "dev", "pod-id-link0"]);
        let (code, text) = check(&node, &[]).await;
        assert!(
            code == Some(1) && lines(&text, "failed   link")[0].contains("is down. Remedy: run `credlet initialize`"),
            "{text}"
        );
        run("ip", &["link", "set", "pod-id-link0", "up"]);
        let (code, text) = check(&node, &[]).await;
        let unrouted = lines(&text, "warning  link").iter().any(|line| line.contains("no route to 169.254.170.23"));
        assert!(code == Some(0) && unrouted, "{text}");
        run("ip", &["route", "add", "169.254.170.23/32", "dev", "pod-id-link0"]);
        let (_, text) = check(&node, &[]).await;
        assert!(text.contains("169.254.170.23 is on pod-id-link0, which is up and routed"), "{text}");
    });
}

#[test]
fn an_agent_without_its_address_holds_its_port_all_the_same() {
    on_a_node(async |node| {
        let mut agent = node.setup().start().await.unwrap();
        run("ip", &["address", "delete", "169.254.170.23/32", "dev", "lo"]);
        agent.pending("listener").await.unwrap();
        let (code, text) = check(&node, &[]).await;
        assert!(code == Some(1) && text.contains("169.254.170.23:80 is held by the agent that runs here"), "{text}");
        assert_eq!(lines(&text, "failed   link").len(), 1, "{text}");
        assert!(lines(&text, "warning  agent")[0].contains("is not ready: listener 169.254.170.23:80"), "{text}");
    });
}

#[test]
fn a_port_that_another_process_holds() {
    on_a_node(async |node| {
        let holder = TcpListener::bind("169.254.170.23:80").await.unwrap();
        fchown(&holder, Some(4242), None).unwrap();
        let (code, text) = check(&node, &[]).await;
        let failed = lines(&text, "failed");
        assert!(code == Some(1) && failed.len() == 1, "{text}");
        assert!(failed[0].contains("169.254.170.23:80 is held by another process, of uid 4242. Remedy: end it"), "{text}");
    });
}

#[test]
fn ipv6_switched_off_needs_nothing_where_pods_use_ipv4() {
    on_a_node(async |node| {
        // This thread's own network namespace is what it shows.
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let (code, text) = check(&node, &[]).await;
        assert_eq!(code, Some(0), "{text}");
        let told = "fd00:ec2::23 is not there: IPv6 is off on this node. Remedy: nothing to do if pods use IPv4";
        let warnings = lines(&text, "warning  link");
        assert!(warnings.len() == 1 && warnings[0].contains(told), "{text}");
    });
}
