//! The budget of calls: who goes first, how fast, and what AWS's word changes.

use super::*;
use crate::base::clock::Clock;
use crate::domain::identity::TokenDigest;

fn budget(per_second: f64) -> UpstreamBudget {
    UpstreamBudget::new(Config { per_second }, Context::new(Clock::System))
}

fn in_secs(seconds: u64) -> Instant {
    Clock::System.now().mono + Duration::from_secs(seconds)
}

async fn use_up(budget: &UpstreamBudget, count: usize) {
    for _ in 0..count {
        budget.permit(Claim::of_node(in_secs(0))).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_and_then_the_rate() {
    let budget = budget(5.0);
    use_up(&budget, 10).await;
    assert_eq!(budget.permit(Claim::of_node(in_secs(0))).await.unwrap_err(), Failure::Throttled { retry_after: None });
    let start = Clock::System.now().mono;
    use_up_waiting(&budget, 10).await;
    let took = Clock::System.now().mono - start;
    assert!((Duration::from_millis(1900)..Duration::from_millis(2300)).contains(&took), "{took:?}");
}

async fn use_up_waiting(budget: &UpstreamBudget, count: usize) {
    for _ in 0..count {
        budget.permit(Claim::of_node(in_secs(60))).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn requests_go_before_renewals_but_one_in_five_is_kept() {
    let budget = budget(1.0);
    use_up(&budget, 2).await;
    let (order, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let lines = [(Urgency::Background, 1), (Urgency::DueSoon, 2), (Urgency::Foreground, 9)];
    for (urgency, count) in lines {
        for _ in 0..count {
            let (budget, order) = (budget.clone(), order.clone());
            tokio::spawn(async move {
                budget.permit(Claim { urgency, ..Claim::of_node(in_secs(600)) }).await.unwrap();
                order.send(urgency).unwrap();
            });
            tokio::task::yield_now().await;
        }
    }
    drop(order);
    let mut got = Vec::new();
    while let Some(urgency) = seen.recv().await {
        got.push(urgency);
    }
    let kept: Vec<usize> = (0..got.len()).filter(|&at| got[at] == Urgency::DueSoon).collect();
    assert!(kept.len() == 2 && kept[1] - kept[0] == 5, "{got:?}");
    assert_eq!(got.last(), Some(&Urgency::Background));
}

#[tokio::test(start_paused = true)]
async fn throttling_closes_halves_and_recovers_by_a_tenth() {
    let budget = budget(10.0);
    budget.throttled(Some(Duration::from_secs(7)));
    budget.throttled(Some(Duration::from_secs(3)));
    assert!((budget.rate() - 5.0).abs() < 1e-9, "two answers of one moment halve once");
    let start = Clock::System.now().mono;
    budget.permit(Claim::of_node(in_secs(60))).await.unwrap();
    let waited = Clock::System.now().mono - start;
    assert!((Duration::from_secs(7)..Duration::from_millis(7300)).contains(&waited), "{waited:?}");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!((budget.rate() - 6.0).abs() < 1e-9);
    tokio::time::advance(Duration::from_secs(120)).await;
    assert!((budget.rate() - 10.0).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_can_not_come_in_time() {
    let budget = budget(1.0);
    use_up(&budget, 2).await;
    let queued = tokio::spawn({
        let budget = budget.clone();
        async move { budget.permit(Claim::of_node(in_secs(10))).await }
    });
    tokio::task::yield_now().await;
    let start = Clock::System.now().mono;
    budget.throttled(Some(Duration::from_secs(60)));
    let throttled = Failure::Throttled { retry_after: Some(Duration::from_secs(60)) };
    assert_eq!(budget.permit(Claim::of_node(in_secs(10))).await.unwrap_err(), throttled);
    assert_eq!(queued.await.unwrap().unwrap_err(), throttled);
    assert_eq!(Clock::System.now().mono, start);
    assert!(budget.permit(Claim::of_node(in_secs(70))).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_at_shutdown() {
    let budget = budget(0.01);
    let tasks = budget.shared.context.tasks.clone();
    use_up(&budget, 1).await;
    let queued = tasks.spawn({
        let budget = budget.clone();
        async move { budget.permit(Claim::of_node(in_secs(10))).await }
    });
    tokio::task::yield_now().await;
    let start = Clock::System.now().mono;
    tasks.shutdown();
    assert_eq!(queued.await.unwrap().unwrap_err(), Failure::Throttled { retry_after: None });
    budget.permit(Claim::of_node(in_secs(10))).await.unwrap_err();
    tasks.drained().await;
    assert_eq!(Clock::System.now().mono, start);
}

#[tokio::test(start_paused = true)]
async fn who_left_the_line_costs_nothing() {
    let budget = budget(1.0);
    use_up(&budget, 2).await;
    for _ in 0..50 {
        budget.permit(Claim::of_node(in_secs(0))).await.unwrap_err();
    }
    let start = Clock::System.now().mono;
    budget.permit(Claim::of_node(in_secs(60))).await.unwrap();
    assert!(Clock::System.now().mono - start < Duration::from_millis(1100));
}

/// Who gets permits of `budget`, in order, when all `claims` wait in line at once: by name and how they wait.
async fn order_of(budget: &UpstreamBudget, claims: impl IntoIterator<Item = (&'static str, Urgency)>) -> Vec<&'static str> {
    let (order, mut seen) = tokio::sync::mpsc::unbounded_channel();
    for (name, urgency) in claims {
        let (budget, order) = (budget.clone(), order.clone());
        let whose = Some(Arc::new(Subject::Delegated(TokenDigest::of(name.as_bytes()))));
        tokio::spawn(async move {
            budget.permit(Claim { whose, urgency, deadline: in_secs(3600) }).await.unwrap();
            order.send(name).unwrap();
        });
        tokio::task::yield_now().await;
    }
    drop(order);
    let mut got = Vec::new();
    while let Some(name) = seen.recv().await {
        got.push(name);
    }
    got
}

fn times(count: usize, name: &'static str, urgency: Urgency) -> impl Iterator<Item = (&'static str, Urgency)> {
    std::iter::repeat_n((name, urgency), count)
}

#[tokio::test(start_paused = true)]
async fn fifty_calls_of_one_pod_delay_another_by_one() {
    for urgency in [Urgency::Foreground, Urgency::DueSoon, Urgency::Background] {
        let budget = budget(5.0);
        use_up(&budget, 10).await;
        let start = Clock::System.now().mono;
        let claims = times(50, "greedy", urgency).chain([("one", urgency), ("other", urgency)]);
        let got = order_of(&budget, claims).await;
        assert_eq!(got[..4], ["greedy", "one", "other", "greedy"], "{urgency:?}");
        assert_eq!(got.len(), 52);
        let took = Clock::System.now().mono - start;
        assert!((Duration::from_millis(10_300)..Duration::from_millis(10_500)).contains(&took), "nothing is wasted: {took:?}");
    }
}

/// As a pod does that asks again and again, whatever the answer.
#[tokio::test(start_paused = true)]
async fn beyond_its_share_an_identity_waits_among_renewals() {
    let budget = budget(5.0);
    use_up(&budget, 10).await;
    let renewals = ["a", "b", "c"].map(|name| (name, Urgency::Background));
    let claims = times(20, "greedy", Urgency::Foreground).chain(renewals).chain([("new", Urgency::Foreground)]);
    let got = order_of(&budget, claims).await;
    let share: [&str; 6] = ["greedy", "new", "greedy", "greedy", "greedy", "greedy"];
    assert_eq!(got[..10], [&share[..], &["greedy", "a", "b", "c"]].concat());
    tokio::time::advance(Duration::from_secs(60)).await;
    let claims = [("a", Urgency::Background), ("greedy", Urgency::Foreground)];
    use_up_waiting(&budget, 10).await;
    assert_eq!(order_of(&budget, claims).await, ["greedy", "a"], "its share is whole again");
}

#[tokio::test(start_paused = true)]
async fn what_gets_no_permit_in_time_is_shed_unless_aws_or_a_shutdown_closed_it() {
    let budget = budget(1.0);
    use_up(&budget, 2).await;
    let sheds = || budget.shared.context.metrics.encode().unwrap().contains("credlet_sheds_total{limit=\"upstream_calls\"} 1");
    budget.permit(Claim::of_node(in_secs(0))).await.unwrap_err();
    assert!(sheds());
    budget.throttled(Some(Duration::from_secs(60)));
    budget.permit(Claim::of_node(in_secs(10))).await.unwrap_err();
    assert!(sheds(), "AWS is no limit of ours");
}
