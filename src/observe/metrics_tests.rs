//! Names, types and labels as a scrape shows them.

use super::*;

#[test]
fn a_family_is_up_while_each_of_its_addresses_is() {
    let metrics = Metrics::new();
    let [first, second, ipv6] = ["127.0.0.1", "127.0.0.2", "::1"].map(|address| address.parse().unwrap());
    let shown = || {
        let text = metrics.encode().unwrap();
        ["ipv4", "ipv6"].map(|family| text.contains(&format!("credlet_listener_up{{family=\"{family}\"}} 1")))
    };
    for (address, up, expected) in [
        (ipv6, true, [false, true]),
        (first, false, [false, true]),
        (second, true, [false, true]),
        (first, true, [true, true]),
        (second, false, [false, true]),
        (ipv6, false, [false, false]),
    ] {
        metrics.front.listener_up(address, up);
        assert_eq!(shown(), expected, "{address} {up}");
    }
}

#[test]
fn every_name_bears_the_prefix_and_the_process_is_included() {
    let metrics = Metrics::new();
    metrics.requests.finished(Outcome::Hit, Duration::from_micros(200));
    metrics.requests.refused(Reason::Host);
    metrics.upstream.finished(Operation::Jwks, CallResult::Ok, Duration::from_millis(3));
    let text = metrics.encode().unwrap();
    assert!(text.contains("credlet_requests_total{outcome=\"hit\"} 1"), "{text}");
    assert!(text.contains("credlet_refusals_total{reason=\"host\"} 1"));
    assert!(text.contains("credlet_upstream_requests_total{operation=\"jwks\",result=\"ok\"} 1"));
    assert!(text.contains("credlet_build_info{version="));
    assert!(text.contains("process_resident_memory_bytes "));
    assert!(text.ends_with("# EOF\n"));
}
