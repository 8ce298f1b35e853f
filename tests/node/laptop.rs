//! A laptop: `credlet dev --profile` on the address that pods know, for whoever shares its network namespace.

use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use credlet::base::clock::{Clock, from_unix_seconds};
use credlet::domain::credential::rfc3339;
use credlet::sim::script::{Behaviour, Operation};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::harness::laptop::Laptop;
use crate::harness::setup::REGION;
use crate::node::{Node, on_a_node, run};

const FLAGS: [&str; 3] = ["--profile=me", "--bind-hosts=169.254.170.23", "--port=80"];

/// A session that STS gives to the keys of the profile.
fn session() -> Behaviour {
    let end = rfc3339(from_unix_seconds(Clock::System.now().unix() + 3600).unwrap()).unwrap();
    let xml = format!(
        "<GetSessionTokenResponse><GetSessionTokenResult><Credentials><AccessKeyId>ASIALAPTOP</AccessKeyId><SecretAccessKey>s\
         </SecretAccessKey><SessionToken>t</SessionToken><Expiration>{end}</Expiration></Credentials></GetSessionTokenResult>\
         </GetSessionTokenResponse>"
    );
    Behaviour::Body { status: 200, content_type: "text/xml", bytes: xml.into() }
}

/// `credlet dev` on that node, with the keys of a profile.
async fn laptop(node: &Node) -> Laptop {
    let home = node.folder();
    let (access_key_id, secret) = node.cloud.node_credentials();
    let profile = format!("[me]\naws_access_key_id = {access_key_id}\naws_secret_access_key = {}\n", secret.expose());
    std::fs::create_dir_all(home.join(".aws")).unwrap();
    std::fs::write(home.join(".aws/credentials"), profile).unwrap();
    node.cloud.script().next(Operation::OtherSts, [session(), session()]);
    let shell = [("AWS_REGION", REGION), ("AWS_ENDPOINT_URL_STS", node.cloud.sts_url())];
    Laptop::start(home, &FLAGS, &shell).await.unwrap()
}

/// What an application without any AWS configuration of its own gets, by curl, in this very namespace.
async fn curl(laptop: &Laptop, header: &str) -> (String, String) {
    let uri = laptop.exported("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let arguments = ["--silent", "--noproxy", "*", "--max-time", "5", "--write-out", "\n%{http_code}", "--header", header, &uri];
    let output = Command::new("curl").args(arguments).output().await.unwrap();
    let (body, status) = std::str::from_utf8(&output.stdout).unwrap().rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

/// Which of `addresses` of this namespace another one reaches that is linked to it and sends it their packets.
fn neighbour(addresses: [SocketAddr; 2]) -> [bool; 2] {
    let (thread_sender, thread) = mpsc::channel();
    let (linked, link) = mpsc::channel();
    let neighbour = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace, which needs root");
        thread_sender.send(gettid()).unwrap();
        link.recv().unwrap();
        run("ip", &["address", "add", "192.0.2.2/24", "dev", "eth0"]);
        run("ip", &["link", "set", "eth0", "up"]);
        run("ip", &["route", "add", "169.254.170.23/32", "via", "192.0.2.1"]);
        addresses.map(|address| TcpStream::connect_timeout(&address, Duration::from_secs(3)).is_ok())
    });
    let namespace = thread.recv().unwrap().to_string();
    run("ip", &["link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
    run("ip", &["address", "add", "192.0.2.1/24", "dev", "veth0"]);
    run("ip", &["link", "set", "veth0", "up"]);
    linked.send(()).unwrap();
    neighbour.join().unwrap()
}

#[test]
fn an_application_that_shares_the_network_is_a_pod() {
    on_a_node(async |node| {
        let laptop = laptop(&node).await;
        let uri = laptop.exported("AWS_CONTAINER_CREDENTIALS_FULL_URI");
        assert_eq!(uri, "http://169.254.170.23:80/v1/credentials");
        let token = std::fs::read_to_string(laptop.exported("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")).unwrap();
        let (status, body) = curl(&laptop, &format!("Authorization: {token}")).await;
        assert!(status == "200" && body.contains("ASIALAPTOP"), "{status} {body}");
        assert_eq!(curl(&laptop, "X-Nothing: 1").await.0, "400");
    });
}

#[test]
fn a_neighbour_does_not_reach_it() {
    on_a_node(async |node| {
        let laptop = laptop(&node).await;
        let control = TcpListener::bind("169.254.170.23:8080").await.unwrap();
        let reached = neighbour([laptop.address().unwrap(), control.local_addr().unwrap()]);
        assert_eq!(reached, [false, true], "only what is not bound to the loopback link");
        assert_eq!(laptop.ask().await.unwrap().status, 200);
    });
}
