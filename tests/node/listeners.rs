//! Addresses and ports: what is served, what is waited for, what is fatal.

use std::os::unix::fs::fchown;
use std::time::Duration;

use credlet::base::clock::Clock;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::agent::Agent;
use crate::node::on_a_node;

#[test]
fn both_families_are_served_in_every_spelling_of_host() {
    on_a_node(async |node| {
        let agent = node.setup().start().await.unwrap();
        for host in ["169.254.170.23", "169.254.170.23:80"] {
            assert_eq!(node.ask_at("169.254.170.23:80", host).await.status, 200, "{host}");
        }
        for host in ["[fd00:ec2::23]", "[fd00:ec2::23]:80", "fd00:ec2::23", "[FD00:EC2:0:0:0:0:0:23]"] {
            assert_eq!(node.ask_at("[fd00:ec2::23]:80", host).await.status, 200, "{host}");
        }
        for host in ["127.0.0.1", "localhost", "169.254.170.23:81", "evil.example"] {
            assert_eq!(node.ask_at("169.254.170.23:80", host).await.status, 403, "{host}");
        }
        assert!(TcpStream::connect("127.0.0.1:80").await.is_err(), "nowhere else");
        for family in ["ipv4", "ipv6"] {
            assert_eq!(agent.sample(&format!("credlet_listener_up{{family=\"{family}\"}}")).await.unwrap(), 1);
        }
    });
}

#[test]
fn a_node_without_ipv6_is_served_and_warned() {
    on_a_node(async |node| {
        // This thread's own network namespace is what it shows.
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let agent = node.setup().start().await.unwrap();
        assert_eq!(node.ask(&agent).await.status, 200);
        assert_eq!(agent.sample(r#"credlet_listener_up{family="ipv6"}"#).await.unwrap(), 0);
        let log = agent.log();
        assert!(log.lines().any(|line| line.contains("WARN") && line.contains("fd00:ec2::23")), "{log}");
    });
}

#[test]
fn a_port_that_is_taken_is_named_and_served_once_it_is_free() {
    on_a_node(async |node| {
        let holder = TcpListener::bind("169.254.170.23:80").await.unwrap();
        fchown(&holder, Some(4242), None).unwrap();
        let mut agent = node.setup().spawn().unwrap();
        let detail = agent.pending("listener").await.unwrap();
        assert!(detail.contains("169.254.170.23:80") && detail.contains("uid 4242"), "{detail}");
        assert_eq!(agent.probe("/healthz").await.unwrap().status, 200);
        assert_eq!(agent.probe("/readyz").await.unwrap().status, 503);
        assert_eq!(node.ask_at("[fd00:ec2::23]:80", "[fd00:ec2::23]").await.status, 200, "the other address is served");

        drop(holder);
        let released = Clock::System.now().mono;
        while TcpStream::connect("169.254.170.23:80").await.is_err() {}
        let took = Clock::System.now().mono - released;
        println!("taken over after {took:?}");
        assert!(took <= Duration::from_millis(50), "{took:?}");
        agent.become_ready().await.unwrap();
        assert_eq!(node.ask(&agent).await.status, 200);
    });
}

#[test]
fn whoever_takes_the_port_from_the_one_that_held_it_is_named() {
    on_a_node(async |node| {
        let holder = TcpListener::bind("169.254.170.23:80").await.unwrap();
        let mut agent = node.setup().spawn().unwrap();
        for uid in [4242, 4243] {
            fchown(&holder, Some(uid), None).unwrap();
            let named = async |agent: &mut Agent| Ok(agent.pending("listener").await?.contains(&format!("uid {uid};")));
            agent.wait_for(named).await.unwrap();
        }
        assert_eq!(agent.log().matches("is held by a process of uid 4243").count(), 1, "{}", agent.log());
    });
}

#[test]
fn a_metrics_port_that_is_taken_is_a_warning() {
    on_a_node(async |node| {
        let _holder = TcpListener::bind("0.0.0.0:2705").await.unwrap();
        let agent = node.setup().start().await.unwrap();
        assert_eq!(node.ask(&agent).await.status, 200);
        let answer = agent.probe("/readyz").await.unwrap();
        let advice = answer.json()["advice"].to_string();
        assert!(answer.status == 200 && advice.contains("metrics") && advice.contains("2705"), "{}", answer.body);
        assert!(agent.log().contains("can't listen"), "{}", agent.log());
    });
}

#[test]
fn no_right_to_the_port_is_fatal() {
    on_a_node(async |node| {
        let setpriv = ["/usr/bin/setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"];
        let output = node.setup().under(&setpriv).end().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("no right to bind 169.254.170.23:80: grant the capability NET_BIND_SERVICE"), "{text}");
    });
}

#[test]
fn an_agent_that_ends_leaves_the_port_to_the_next_at_once() {
    on_a_node(async |node| {
        for _ in 0..3 {
            let agent = node.setup().start().await.unwrap();
            assert_eq!(node.ask(&agent).await.status, 200);
            agent.terminate().unwrap();
            assert_eq!(agent.ended().await.unwrap().code(), Some(0));
        }
    });
}
