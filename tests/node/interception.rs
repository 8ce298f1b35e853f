//! Somebody redirects the address: what a Service with the agent's address among its `externalIPs` does on every node. Pods then
//! show their tokens to a stranger, and the agent, which still listens, must say so.

use std::net::SocketAddr;
use std::time::Duration;

use credlet::base::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::node::{on_a_node, run};

/// A kubelet's probe each 5 s, three of which have to fail.
const LIMIT: Duration = Duration::from_secs(15);

/// Answers everybody with what a credentials endpoint might say.
async fn strange(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
        }
    }
}

#[test]
fn an_address_that_leads_elsewhere_makes_the_agent_unready() {
    on_a_node(async |node| {
        let mut agent = node.setup().start().await.unwrap();
        for (iptables, address, elsewhere) in [
            ("iptables", "169.254.170.23", SocketAddr::from(([127, 0, 0, 1], 8080))),
            ("ip6tables", "fd00:ec2::23", SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 8080))),
        ] {
            let stranger = tokio::spawn(strange(TcpListener::bind(elsewhere).await.unwrap()));
            let target = elsewhere.to_string();
            let rule = |change| {
                run(iptables, &["-t", "nat", change, "OUTPUT", "-p", "tcp", "-d", address, "-j", "DNAT", "--to", &target])
            };
            let redirected = Clock::System.now().mono;
            rule("-A");
            let told = agent.pending(&format!("self-probe {}", of(address))).await.unwrap();
            assert!(told.contains("another process answers"), "{told}");
            let took = Clock::System.now().mono - redirected;
            assert!(took < LIMIT, "{took:?}");
            assert_eq!(agent.probe("/readyz").await.unwrap().status, 503);
            assert_eq!(agent.probe("/healthz").await.unwrap().status, 200, "a restart would mend nothing");
            rule("-D");
            agent.become_ready().await.unwrap();
            stranger.abort();
        }
    });
}

/// The address as it is named with its port.
fn of(address: &str) -> String {
    SocketAddr::new(address.parse().unwrap(), 80).to_string()
}
