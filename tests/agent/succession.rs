//! Agents follow each other and nobody notices; `benches/handover.rs` is the long run of it.

use crate::harness::succession::Succession;

const HANDOVERS: usize = 10;
const REQUESTS: usize = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_handovers_under_load_lose_no_request_and_cost_no_call() {
    let mut succession = Succession::start(16).await.unwrap();
    for handovers in 1..=HANDOVERS {
        succession.wait_for_requests(REQUESTS * handovers / (HANDOVERS + 1)).await.unwrap();
        succession.hand_over().await.unwrap();
    }
    succession.wait_for_requests(REQUESTS).await.unwrap();
    succession.stop().unwrap().is_without_loss(REQUESTS).unwrap();
}
