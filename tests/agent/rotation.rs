//! Hybrid nodes: another program writes the shared credentials file anew, and no pod notices.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use credlet::domain::credential::Session;
use tempfile::TempDir;

use crate::harness::agent::Agent;
use crate::world::{World, cloud, pod, token};

const SECOND: Duration = Duration::from_secs(1);

/// A node whose credentials are in a file.
struct Hybrid {
    world: World,
    file: PathBuf,
    _folder: TempDir,
}

impl Hybrid {
    /// The node's first credentials live so long.
    async fn start(lifetime: Duration) -> Self {
        let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
        let file = folder.path().join("credentials");
        fs::write(&file, text(&cloud.node_session(lifetime))).unwrap();
        let mut world = World::begin(cloud, |setup| {
            let setup = setup.without_variable("AWS_ACCESS_KEY_ID").without_variable("AWS_SECRET_ACCESS_KEY");
            let setup = setup.variable("AWS_SHARED_CREDENTIALS_FILE", file.display()).variable("AWS_PROFILE", "hybrid");
            setup.flag("rotate-credentials", "true").flag("max-service-qps", "1000")
        })
        .await;
        world.agent.become_ready().await.unwrap();
        Self { world, file, _folder: folder }
    }

    /// The text of a file with new credentials.
    fn new_text(&self) -> String {
        text(&self.world.cloud.node_session(Duration::from_secs(3600)))
    }

    /// The status of the answer to a pod that was never seen before: it takes a call to AWS.
    async fn ask_for_new(&self, name: &str) -> u16 {
        ask(&self.world.agent, &token(&self.world.cloud, &pod(name))).await
    }
}

async fn ask(agent: &Agent, token: &str) -> u16 {
    agent.ask(token).await.unwrap().status
}

fn text(session: &Session) -> String {
    let Session { access_key_id, secret_access_key, session_token, .. } = session;
    let (secret, token) = (secret_access_key.expose(), session_token.expose());
    format!(
        "[default]\naws_access_key_id = AKIAOTHER\naws_secret_access_key = other\n\n[hybrid]\naws_access_key_id = \
         {access_key_id}\naws_secret_access_key = {secret}\naws_session_token = {token}\n"
    )
}

fn replace(file: &Path, text: &str) {
    let aside = file.with_extension("new");
    fs::write(&aside, text).unwrap();
    fs::rename(aside, file).unwrap();
}

#[tokio::test]
async fn no_request_is_lost_while_the_file_changes_breaks_and_is_mended() {
    let (life, hybrid) = (6 * SECOND, Hybrid::start(3600 * SECOND).await);
    assert_eq!(hybrid.ask_for_new("before").await, 200);
    let changes = async {
        replace(&hybrid.file, &text(&hybrid.world.cloud.node_session(life)));
        tokio::time::sleep(SECOND).await;
        let next = hybrid.new_text();
        for length in [next.len() / 2, next.len() - 1, 0] {
            fs::write(&hybrid.file, &next[..length]).unwrap();
            tokio::time::sleep(SECOND / 4).await;
        }
        fs::remove_file(&hybrid.file).unwrap();
        tokio::time::sleep(SECOND / 4).await;
        fs::write(&hybrid.file, next).unwrap();
        tokio::time::sleep(life).await;
        replace(&hybrid.file, &hybrid.new_text());
        tokio::time::sleep(SECOND / 2).await;
    };
    let load = async {
        for number in 0.. {
            let status = hybrid.ask_for_new(&format!("app-{number}")).await;
            assert_eq!(status, 200, "request {number}: {}", hybrid.world.agent.log());
        }
    };
    tokio::select! {
        () = changes => {}
        () = load => {}
    }
    let log = hybrid.world.agent.log();
    let said = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(said("the last good ones stay in force"), 1, "{log}");
    assert_eq!(said("the node has new credentials"), 4, "{log}");
    assert!(hybrid.world.exchanges() > 100, "{}", hybrid.world.exchanges());
    assert_eq!(hybrid.world.agent.status().await.unwrap()["node_credentials"]["source"], "Profile");
}

#[tokio::test]
async fn new_credentials_count_at_once_where_the_old_ones_ended() {
    let hybrid = Hybrid::start(2 * SECOND).await;
    let first = token(&hybrid.world.cloud, &pod("first"));
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(ask(&hybrid.world.agent, &first).await, 503, "they have ended");
    replace(&hybrid.file, &hybrid.new_text());
    assert_eq!(hybrid.ask_for_new("second").await, 200);
    let mut agent = hybrid.world.agent;
    agent.wait_for(async |agent: &mut Agent| Ok(ask(agent, &first).await == 200)).await.unwrap();
}
