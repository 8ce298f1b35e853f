//! The image swapped on a node, with the very command lines of the EKS Pod Identity Agent's manifests.

use crate::harness::setup::image_paths;
use crate::node::{on_a_node, run};

const MANIFESTS: [&str; 4] = [
    "--port 80 --cluster-name demo --probe-port 2703 -v trace",
    "--port 80 --cluster-name demo --probe-port 2703 --metrics-port 2705",
    "--port 80 --cluster-name demo --probe-port 2703 --metrics-port 2705 --rotate-credentials true",
    "-p 80 -v trace -c demo",
];

#[test]
fn the_same_init_container_makes_the_link() {
    on_a_node(async |node| {
        run("ip", &["address", "delete", "169.254.170.23/32", "dev", "lo"]);
        run("ip", &["address", "delete", "fd00:ec2::23/128", "dev", "lo"]);
        let [runner, agent] = image_paths(node.folder()).unwrap();
        for arguments in ["initialize", "initialize -v trace", "initialize --of-a-later-version=x"] {
            let command = format!("{runner} {agent} {arguments}");
            let words: Vec<_> = command.split(' ').collect();
            // This kernel need not have the link type dummy.
            let output = node.setup().variable("CREDLET_LINK_KIND", "ifb").line(&words).end().await.unwrap();
            assert_eq!(output.status.code(), Some(0), "{arguments}: {output:?}");
            let told = String::from_utf8(output.stderr).unwrap();
            assert_eq!(told.contains("--of-a-later-version is ignored"), arguments.contains("later"), "{told}");
        }
        let agent = node.setup().start().await.unwrap();
        assert_eq!(node.ask(&agent).await.status, 200, "{}", agent.log());
    });
}

#[test]
fn the_same_command_serves() {
    on_a_node(async |node| {
        let home = node.folder().join(".aws");
        let (key, secret) = node.cloud.node_credentials();
        std::fs::create_dir_all(&home).unwrap();
        let profile = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {}\n", secret.expose());
        std::fs::write(home.join("credentials"), profile).unwrap();
        let [runner, agent] = image_paths(node.folder()).unwrap();
        for arguments in MANIFESTS {
            let command = format!("{runner} {agent} server {arguments}");
            let words: Vec<_> = command.split(' ').collect();
            let setup = node.setup().without_flag("cluster-name");
            let setup = setup.without_variable("AWS_ACCESS_KEY_ID").without_variable("AWS_SECRET_ACCESS_KEY");
            let agent = setup.line(&words).start().await.unwrap();
            assert_eq!(node.ask(&agent).await.status, 200, "{arguments}: {}", agent.log());
            agent.terminate().unwrap();
            assert_eq!(agent.ended().await.unwrap().code(), Some(0), "{arguments}");
        }
    });
}
