//! credlet in a real Kubernetes cluster: the keys of a real API server, the tokens of a real kubelet, real admission.
//!
//! `cargo test --test cluster` as root on Debian with Go and Python: the first run makes what the cluster needs (`lab/`, ten
//! minutes) and the image (`tests/image/build`), every run starts one cluster of two nodes, installs the chart on both and leaves
//! nothing behind. AWS is the simulated cloud, one in the network of each node, which trusts the cluster's issuer. What can't be
//! tried fails. One trial takes minutes, the resources of a full node: `cargo test --test cluster -- --ignored`.
//!
//! A new trial is an `async fn(Arc<World>) -> anyhow::Result<()>` in a file beside this one and a line in [`trials`]. It works in
//! a namespace of its own ([`cluster::Cluster::namespace`]), since others run at the same time.

#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "what only other test binaries use")]
mod harness;

// `cfg(test)`, so that clippy takes their functions for tests, which may index what kubectl prints.
#[cfg(test)]
mod agent;
#[cfg(test)]
mod annotations;
#[cfg(test)]
mod cloud;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod fresh_node;
#[cfg(test)]
mod incumbent;
#[cfg(test)]
mod injection;
#[cfg(test)]
mod install;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod pod;
#[cfg(test)]
mod pod_watch;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod process;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod readiness;
#[cfg(test)]
mod release;
#[cfg(test)]
mod resources;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod surge;
#[cfg(test)]
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::{Handle, Runtime};

use crate::world::{Shared, World};

/// No trial takes longer, whatever hangs.
const TRIAL_LIMIT: Duration = Duration::from_secs(240);

/// No trial takes longer of those that run only when they are asked for.
const LONG_LIMIT: Duration = Duration::from_secs(600);

/// Trials mostly wait, so more of them than there are cores.
const TRIALS_AT_ONCE: usize = 4;

fn main() -> anyhow::Result<ExitCode> {
    let runtime = Runtime::new()?;
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TRIALS_AT_ONCE);
    let shared = Shared::default();
    let conclusion =
        libtest_mimic::run(&arguments, trials(&Trials { runtime: runtime.handle().clone(), shared: shared.clone() }));
    runtime.block_on(shared.stop())?;
    Ok(conclusion.exit_code())
}

fn trials(trials: &Trials) -> Vec<Trial> {
    vec![
        // The longest first.
        trials.beside_others("pod_watch::a_stolen_token_is_refused_soon_after_its_pod_was_deleted", pod_watch::stolen_token),
        trials.beside_others("annotations::a_changed_role_counts_within_a_minute_and_so_does_its_removal", annotations::changes),
        trials.beside_others("policy::a_changed_policy_counts_and_a_faulty_one_does_not", policy::changes),
        trials
            .beside_others("annotations::the_agent_may_read_a_service_account_watch_pods_and_nothing_else", annotations::rights),
        trials.beside_others("annotations::an_injected_pod_gets_the_role_of_its_service_account", annotations::own_role),
        trials.beside_others("annotations::a_target_role_is_reached_through_the_role", annotations::chain),
        trials
            .beside_others("annotations::a_role_that_trusts_anybody_is_its_own_service_accounts_only", annotations::others_role),
        trials.beside_others("proof::a_pod_gets_the_credentials_of_its_service_account", proof::own_credentials),
        trials.beside_others("proof::boto3_in_a_pod_gets_credentials", proof::boto3),
        trials.beside_others("proof::keys_are_those_of_the_api_server", proof::key_source),
        trials.beside_others("proof::a_token_leads_to_its_own_service_account_whoever_presents_it", proof::anothers_token),
        trials.beside_others("proof::other_tokens_are_refused_without_a_call_to_aws", proof::other_tokens),
        trials.beside_others("proof::a_token_is_of_no_use_on_another_node", proof::another_node),
        trials.beside_others("injection::pods_get_what_they_lack_and_keep_what_they_have", injection::table),
        trials.beside_others("injection::a_container_that_another_policy_adds_later_is_served_too", injection::late_sidecar),
        trials.beside_others("injection::an_injected_pod_gets_credentials", injection::running_pod),
        trials.beside_others("injection::examples_are_taken_as_they_are", injection::examples),
        trials.beside_others("injection::both_versions_of_the_policy_are_valid_and_say_the_same", injection::versions),
        trials.beside_others("install::pods_of_both_families_reach_their_own_nodes_agent", install::both_families),
        trials.beside_others("install::a_bad_value_is_refused_and_nothing_is_lost", install::bad_values),
        trials.beside_others("install::the_agents_own_check_finds_a_node_that_can_serve", install::check),
        trials.beside_others("readiness::a_pod_whose_own_process_does_not_serve_is_not_ready", readiness::second_agent),
        trials.on_second_node("install::an_upgrade_changes_what_it_says_and_credentials_go_on", install::upgrade),
        trials.on_second_node("install::uninstall_leaves_the_link_and_cleanup_takes_it", install::uninstall),
        trials.on_second_node("surge::an_upgrade_loses_no_request_and_no_credentials", |world| surge::upgrades(world, 2)),
        trials.on_second_node("surge::a_version_that_does_not_become_ready_leaves_the_old_one_serving", surge::no_good),
        trials.on_second_node("surge::an_old_agent_that_stands_by_serves_when_the_new_one_dies", surge::old_one_stands_by),
        trials.on_second_node("surge::from_a_release_without_handover_the_new_one_waits", surge::first_with_handover),
        trials.alone("crash::a_killed_agent_takes_requests_within_50_ms_of_its_start", |world| crash::killed(world, 3)),
        trials.on_second_node("rights::every_container_has_no_more_than_it_needs", rights::as_installed),
        trials.on_second_node("incumbent::another_image_in_its_daemonset_serves", incumbent::image_swapped),
        trials.on_second_node("incumbent::beside_it_credlet_waits_and_takes_over", incumbent::side_by_side),
        trials.on_second_node("fresh_node::a_pod_waits_for_the_agent_and_its_first_call_succeeds", fresh_node::startup_taint),
        trials.when_asked_for("surge::ten_upgrades_lose_no_request_and_no_credentials", |world| surge::upgrades(world, 10)),
        trials.when_asked_for("surge::an_old_agent_that_stands_by_for_30_s_ends_then", surge::old_one_ends),
        trials
            .when_asked_for("crash::an_agent_killed_twenty_times_takes_requests_within_50_ms", |world| crash::killed(world, 20)),
        trials.when_asked_for("resources::of_the_agent_of_a_full_node", resources::full_node),
        trials.alone("outage::an_api_server_that_is_gone_takes_no_credentials_away", outage::api_server),
    ]
}

/// Makes trials that share one world.
struct Trials {
    runtime: Handle,
    shared: Shared,
}

impl Trials {
    /// A trial that leaves alone what others need.
    fn beside_others<F>(&self, name: &str, body: impl FnOnce(Arc<World>) -> F + Send + 'static) -> Trial
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let shared = self.shared.clone();
        self.trial(name, async move || {
            let (world, _turn) = shared.world().await?;
            tokio::time::timeout(TRIAL_LIMIT, body(world)).await.context("no end")?
        })
    }

    /// A trial that disturbs the cluster: no other runs meanwhile.
    fn alone<F>(&self, name: &str, body: impl FnOnce(Arc<World>) -> F + Send + 'static) -> Trial
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        self.alone_within(TRIAL_LIMIT, name, body)
    }

    /// A trial of minutes: `cargo test --test cluster -- --ignored`.
    fn when_asked_for<F>(&self, name: &str, body: impl FnOnce(Arc<World>) -> F + Send + 'static) -> Trial
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        self.alone_within(LONG_LIMIT, name, body).with_ignored_flag(true)
    }

    fn alone_within<F>(&self, limit: Duration, name: &str, body: impl FnOnce(Arc<World>) -> F + Send + 'static) -> Trial
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let shared = self.shared.clone();
        self.trial(name, async move || {
            let (world, _turn) = shared.world_alone().await?;
            tokio::time::timeout(limit, body(world)).await.context("no end")?
        })
    }

    /// A trial that replaces the agent of the second node, which is put back afterwards.
    fn on_second_node<F>(&self, name: &str, body: impl FnOnce(Arc<World>) -> F + Send + 'static) -> Trial
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        self.alone(name, async move |world| {
            let outcome = body(Arc::clone(&world)).await;
            world.other_agent.install().await.context("the agent of the second node can't be put back")?;
            outcome
        })
    }

    fn trial(&self, name: &str, body: impl AsyncFnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
        let runtime = self.runtime.clone();
        Trial::test(name, move || runtime.block_on(body()).map_err(|error| format!("{error:#}").into()))
    }
}
