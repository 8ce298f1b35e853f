//! `--pod-watch`: what follows from the deletion of a pod, by an API server that forgets, breaks off, and comes and goes.

use std::time::{Duration, SystemTime};

use credlet::cluster::pods;
use credlet::sim::cloud::{self, Cloud};
use credlet::sim::pod::{NODE, PodSpec};

use crate::harness::api_server::{ApiServer, Health, TOKEN};
use crate::harness::pods::Gone;
use crate::laboratory::{Laboratory, clock};
use crate::world::{config, pod, within};

const SECOND: Duration = Duration::from_secs(1);

const SYNCED: &str = r#"credlet_watch_synced{watch="pods"} 1"#;
const NOT_SYNCED: &str = r#"credlet_watch_synced{watch="pods"} 0"#;

/// An agent that watches pods, and two of them.
struct Scene {
    laboratory: Laboratory,
    server: ApiServer,
    mine: PodSpec,
    other: PodSpec,
}

impl Scene {
    /// With a watch that is up to date.
    async fn new() -> Self {
        let scene = Self::beginning(Health::Well).await;
        scene.shows(SYNCED).await;
        scene
    }

    async fn beginning(health: Health) -> Self {
        let (clock, server, mine, other) = (clock(), ApiServer::start().await.unwrap(), pod("mine"), pod("other"));
        server.set_health(health);
        for pod in [&mine, &other] {
            server.pods().put(&pod.pod_uid);
        }
        let cloud = Cloud::start(cloud::Config { clock: clock.clone(), ..config() }).await.unwrap();
        let issuer = format!("--issuer={}={}", cloud.issuer(), cloud.jwks_url());
        let access = server.access().unwrap();
        let laboratory = Laboratory::with_config(clock, cloud, &[&issuer], |config| {
            config.pod_watch = Some(pods::Config { server: access, node_name: NODE.to_owned() });
        });
        laboratory.become_ready().await;
        Self { laboratory, server, mine, other }
    }

    async fn shows(&self, line: &str) {
        self.laboratory.wait_for(|laboratory| laboratory.shows(line)).await;
    }

    /// Waits until so many entries of deleted pods have been dropped.
    async fn dropped(&self, count: usize) {
        self.shows(&format!(r#"credlet_cache_evictions_total{{cause="pod_deleted"}} {count}"#)).await;
    }

    async fn ask(&self, pod: &PodSpec) -> u16 {
        self.laboratory.ask_for(pod).await.status
    }

    /// Both pods' answers.
    async fn both(&self) -> (u16, u16) {
        (self.ask(&self.mine).await, self.ask(&self.other).await)
    }

    /// Waits until so many are known to be gone or going.
    async fn knows_of_gone(&self, count: usize) {
        let known = async {
            while self.laboratory.status().await["pod_watch"]["gone"] != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within(15 * SECOND, known).await;
    }

    fn wall(&self) -> SystemTime {
        self.laboratory.context.clock.now().wall
    }

    fn delete(&self) {
        self.server.pods().delete(&self.mine.pod_uid, None);
    }

    /// The API server is gone, and the agent knows.
    async fn loses_server(&self, health: Health) {
        self.server.set_health(health);
        self.server.pods().break_watches();
        self.shows(NOT_SYNCED).await;
    }

    /// It is there again, and so long after that the agent has tried.
    async fn finds_server(&self) {
        self.server.set_health(Health::Well);
        self.laboratory.pass(30 * SECOND).await;
        self.shows(SYNCED).await;
    }
}

#[tokio::test]
async fn credentials_go_with_their_pod_and_its_tokens_a_minute_later() {
    let scene = Scene::new().await;
    assert_eq!(scene.both().await, (200, 200));
    let at = scene.wall() + 30 * SECOND;
    scene.server.pods().terminate(&scene.mine.pod_uid, at);
    scene.server.pods().delete(&scene.mine.pod_uid, Some(at));
    scene.dropped(1).await;
    assert_eq!(scene.laboratory.status().await["entries"].as_array().unwrap().len(), 1);
    scene.laboratory.pass(50 * SECOND).await;
    assert_eq!((scene.both().await, scene.laboratory.exchanges()), ((200, 200), 3), "what was dropped is fetched anew");
    scene.laboratory.pass(12 * SECOND).await;
    let answer = scene.laboratory.ask_for(&scene.mine).await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "InvalidToken"), "{}", answer.body);
    assert!(scene.laboratory.shows(r#"credlet_refusals_total{reason="pod_gone"} 1"#));
    scene.dropped(2).await;
    assert_eq!((scene.both().await, scene.laboratory.exchanges()), ((401, 200), 3));
    assert_eq!(scene.ask(&pod("mine")).await, 200, "a pod of the same name is another one");
    let status = scene.laboratory.status().await["pod_watch"].clone();
    assert_eq!((&status["present"], &status["gone"]), (&1.into(), &1.into()));
}

#[tokio::test]
async fn a_pod_that_ends_slowly_is_served_until_a_minute_after_it_was_to_be_gone() {
    let scene = Scene::new().await;
    assert_eq!(scene.both().await, (200, 200));
    scene.server.pods().terminate(&scene.mine.pod_uid, scene.wall() + 30 * SECOND);
    scene.knows_of_gone(1).await;
    scene.laboratory.pass(85 * SECOND).await;
    assert_eq!((scene.both().await, scene.laboratory.exchanges()), ((200, 200), 2));
    scene.laboratory.pass(8 * SECOND).await;
    scene.dropped(1).await;
    assert_eq!(scene.both().await, (401, 200));
}

#[tokio::test]
async fn nothing_but_metadata_of_this_nodes_pods_is_asked_for() {
    let scene = Scene::new().await;
    let asked = scene.server.pods().asked();
    assert!(asked.len() == 2 && asked.iter().all(|query| query.contains("fieldSelector=spec.nodeName%3Dnode-1")), "{asked:?}");
    assert!(asked[1].contains("watch=true") && asked[1].contains("allowWatchBookmarks=true"), "{asked:?}");
    let requests = scene.server.requests();
    let metadata = requests.iter().all(|request| request.contains("PartialObjectMetadata") && request.ends_with(TOKEN));
    assert!(metadata, "{requests:?}");
}

#[tokio::test]
async fn a_check_tries_list_and_watch() {
    let server = ApiServer::start().await.unwrap();
    let config = pods::Config { server: server.access().unwrap(), node_name: NODE.to_owned() };
    assert_eq!((config.try_once().await, server.pods().asked().len()), (Ok(()), 2));
    server.pods().forget(Gone::Status);
    server.set_health(Health::Away);
    assert!(config.try_once().await.is_err());
}

#[tokio::test]
async fn a_watch_that_breaks_off_goes_on_where_it_was() {
    let scene = Scene::new().await;
    assert_eq!(scene.both().await, (200, 200));
    scene.loses_server(Health::Away).await;
    scene.delete();
    scene.server.set_health(Health::Well);
    scene.dropped(1).await;
    scene.shows(SYNCED).await;
    assert_eq!(scene.server.pods().lists(), 1);
}

#[tokio::test]
async fn a_list_tells_who_went_while_nobody_watched() {
    for gone in [Gone::Status, Gone::Event] {
        let scene = Scene::new().await;
        assert_eq!(scene.both().await, (200, 200));
        scene.loses_server(Health::Away).await;
        scene.delete();
        scene.server.pods().forget(gone);
        scene.server.set_health(Health::Well);
        scene.dropped(1).await;
        scene.shows(SYNCED).await;
        assert_eq!(scene.laboratory.status().await["entries"].as_array().unwrap().len(), 1, "{gone:?}");
        scene.laboratory.pass(62 * SECOND).await;
        assert_eq!((scene.both().await, scene.server.pods().lists()), ((401, 200), 2), "{gone:?}");
    }
}

#[tokio::test]
async fn an_api_server_that_is_away_stops_nobody_and_is_told() {
    let scene = Scene::beginning(Health::Away).await;
    scene.shows(NOT_SYNCED).await;
    assert_eq!(scene.both().await, (200, 200), "before anything is known");
    scene.laboratory.wait_for(|laboratory| laboratory.context.readiness.advice().contains_key("pod watch")).await;
    assert!(scene.laboratory.status().await["pod_watch"]["error"].is_string());
    scene.delete();
    scene.finds_server().await;
    assert_eq!(scene.both().await, (200, 200), "whoever was gone before the first list is not known");
    assert!(scene.laboratory.context.readiness.advice().is_empty());

    scene.loses_server(Health::Silent).await;
    scene.server.pods().delete(&scene.other.pod_uid, None);
    scene.laboratory.pass(600 * SECOND).await;
    assert_eq!(scene.both().await, (200, 200));
    scene.finds_server().await;
    scene.dropped(1).await;
    scene.laboratory.pass(62 * SECOND).await;
    assert_eq!(scene.both().await, (200, 401));
}

#[tokio::test]
async fn a_connection_that_died_unseen_is_given_up() {
    let scene = Scene::new().await;
    scene.server.set_health(Health::Silent);
    scene.laboratory.pass(101 * SECOND).await;
    scene.shows(NOT_SYNCED).await;
    scene.finds_server().await;
    assert_eq!(scene.server.pods().lists(), 1);
}
