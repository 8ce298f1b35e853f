//! Secrets are in a running agent's memory only as long as they are served, and for nobody to read but root of the node: not for
//! its own user, not in a core, not on a disk.
//!
//! Each test shows on a process that hides nothing that what it looks for would be found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, FileType};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::agent::Agent;
use crate::harness::config_map::ConfigMap;
use crate::node::{Node, on_a_node};

/// As the chart's user, and with its one right: who has less than another can't look into it whatever that one does.
const AS_USER: [&str; 7] = [
    "/usr/bin/setpriv",
    "--reuid=17023",
    "--regid=17023",
    "--clear-groups",
    "--bounding-set=-all,+net_bind_service",
    "--inh-caps=+net_bind_service",
    "--ambient-caps=+net_bind_service",
];

/// A policy by which the service account of the test's pod has another role than without it.
const OTHER_ROLE: &str = "
rules:
  - match: { namespace: default, serviceAccount: app }
    chain: [ { role: 'arn:aws:iam::222222222222:role/other' } ]
";

const NAMES: [&str; 3] = ["SecretAccessKey", "Token", "bearer token"];

/// Serves a pod, and returns what is secret of that by its name.
async fn served(node: &Node, agent: &Agent) -> BTreeMap<&'static str, String> {
    let token = node.token();
    let document = agent.ask(&token).await.unwrap().json();
    let [key, session] = ["SecretAccessKey", "Token"].map(|name| document[name].as_str().unwrap().to_owned());
    NAMES.into_iter().zip([key, session, token]).collect()
}

fn pid_of(process: &Child) -> Pid {
    Pid::from_raw(process.id().try_into().unwrap())
}

/// All private memory of a process that can be written to, mapping by mapping.
fn memory_of(pid: Pid) -> io::Result<Vec<Vec<u8>>> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let writable = maps.lines().filter_map(|line| line.split_once(" rw")).map(|(range, _)| range.split_once('-').unwrap());
    let mut mappings = Vec::new();
    for (from, to) in writable {
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        memory.read_exact_at(&mut bytes, from)?;
        mappings.push(bytes);
    }
    Ok(mappings)
}

/// How often each secret stands in the agent's memory.
fn copies(agent: &Agent, secrets: &BTreeMap<&'static str, String>) -> BTreeMap<&'static str, usize> {
    let memory = memory_of(agent.pid().unwrap()).unwrap();
    let count = |secret: &String| memory.iter().map(|mapping| occurrences(mapping, secret)).sum();
    secrets.iter().map(|(name, secret)| (*name, count(secret))).collect()
}

fn occurrences(bytes: &[u8], wanted: &str) -> usize {
    String::from_utf8_lossy(bytes).matches(wanted).count()
}

/// Waits until each secret stands in memory so often: a connection and a load end after the answer that they brought.
async fn settled(agent: &mut Agent, secrets: &BTreeMap<&'static str, String>, expected: [usize; 3]) {
    let expected: BTreeMap<_, _> = NAMES.into_iter().zip(expected).filter(|(name, _)| secrets.contains_key(name)).collect();
    let mut found = BTreeMap::new();
    let waited = agent.wait_for(async |agent: &mut Agent| {
        found = copies(agent, secrets);
        Ok(found == expected)
    });
    let waited = waited.await;
    assert!(waited.is_ok(), "copies in memory: {found:?} in place of {expected:?}");
}

#[test]
fn memory_holds_what_is_served_once_and_nothing_that_has_been_dropped() {
    on_a_node(async |node| {
        let policy = ConfigMap::new("policy.yaml", "rules: []").unwrap();
        let mut agent = node.setup().flag("policy", policy.path().display()).start().await.unwrap();
        let secrets = served(&node, &agent).await;
        settled(&mut agent, &secrets, [1, 1, 1]).await;
        policy.flip(OTHER_ROLE).unwrap();
        agent.wait_for(async |agent: &mut Agent| Ok(agent.sample("credlet_cache_entries").await? == 0)).await.unwrap();
        // The token is good until it expires: it stays among those that are known.
        settled(&mut agent, &secrets, [0, 0, 1]).await;
    });
}

/// The one that stands by holds the same, since it goes on with that if the other one dies, and drops it when the other one does.
#[test]
fn both_agents_of_a_handover_hold_what_is_served_once_and_nothing_that_has_been_dropped() {
    on_a_node(async |node| {
        let policy = ConfigMap::new("policy.yaml", "rules: []").unwrap();
        let setup = node.setup().flag("policy", policy.path().display()).with_handover().unwrap();
        let mut old = setup.start().await.unwrap();
        let handed_on = served(&node, &old).await;
        let mut new = setup.follow("next").await.unwrap();
        let document = new.ask(&handed_on["bearer token"]).await.unwrap().json();
        assert_eq!(document["Token"], handed_on["Token"]);
        let mut mirrored = served(&node, &new).await;
        for agent in [&mut old, &mut new] {
            settled(agent, &handed_on, [1, 1, 1]).await;
            settled(agent, &mirrored, [1, 1, 1]).await;
        }
        policy.flip(OTHER_ROLE).unwrap();
        // Each knows the tokens that it was shown until they expire; what it was only told of goes some time after its entry.
        settled(&mut old, &handed_on, [0, 0, 1]).await;
        for secrets in [&handed_on, &mirrored] {
            settled(&mut new, secrets, [0, 0, 1]).await;
        }
        mirrored.remove("bearer token");
        settled(&mut old, &mirrored, [0, 0, 0]).await;
    });
}

/// Runs "$@" in the folder "$0", with cores as large as may be.
const WITH_CORES: &str = r#"ulimit -c "$(ulimit -Hc)" && cd "$0" && exec "$@""#;

fn as_user(program: &str) -> Command {
    let mut command = Command::new(AS_USER[0]);
    command.args(&AS_USER[1..]).arg(program);
    command
}

/// How a process ends that hides nothing, and sleeps in `folder` until it gets the signal.
fn open_process_after(signal: Signal, folder: &Path) -> ExitStatus {
    let mut sleeper = Command::new("/bin/sh").args(["-c", WITH_CORES]).arg(folder).args(["sleep", "60"]).spawn().unwrap();
    let name = format!("/proc/{}/comm", sleeper.id());
    while fs::read_to_string(&name).unwrap() != "sleep\n" {}
    kill(pid_of(&sleeper), signal).unwrap();
    sleeper.wait().unwrap()
}

#[test]
fn a_crash_leaves_no_core() {
    on_a_node(async |node| {
        for signal in [Signal::SIGABRT, Signal::SIGILL] {
            let folder = tempfile::tempdir().unwrap();
            assert!(open_process_after(signal, folder.path()).core_dumped(), "a process that does not forbid it leaves a core");
            let folder = tempfile::tempdir().unwrap();
            let wrapper = ["/bin/sh", "-c", WITH_CORES, folder.path().to_str().unwrap()];
            let agent = node.setup().under(&wrapper).start().await.unwrap();
            served(&node, &agent).await;
            kill(agent.pid().unwrap(), signal).unwrap();
            let status = agent.ended().await.unwrap();
            let ended_by = status.signal().map(|number| Signal::try_from(number).unwrap());
            assert_eq!((ended_by, status.core_dumped()), (Some(signal), false), "{status}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no file of another kind either");
        }
    });
}

/// What the agent's own user reads of a process's file below `/proc`.
fn read_as_user(pid: Pid, file: &str) -> Output {
    as_user("/usr/bin/head").args(["-c", "1"]).arg(format!("/proc/{pid}/{file}")).output().unwrap()
}

#[test]
fn only_root_reads_memory_and_environment() {
    on_a_node(async |node| {
        fs::set_permissions(node.folder(), PermissionsExt::from_mode(0o777)).unwrap();
        let agent = node.setup().under(&AS_USER).start().await.unwrap();
        let secrets = served(&node, &agent).await;
        let mut open = as_user("/bin/sleep").arg("60").spawn().unwrap();
        assert!((0..1000).any(|_| read_as_user(pid_of(&open), "environ").status.success()), "another process of it is readable");
        open.kill().unwrap();
        open.wait().unwrap();
        for file in ["environ", "mem", "maps", "fd/0", "root/etc/passwd"] {
            let read = read_as_user(agent.pid().unwrap(), file);
            assert!(String::from_utf8_lossy(&read.stderr).contains("Permission denied"), "/proc/PID/{file}: {read:?}");
        }
        let environment = fs::read(format!("/proc/{}/environ", agent.pid().unwrap())).unwrap();
        let own = node.cloud.node_credentials().1.expose();
        assert_eq!(occurrences(&environment, own), 1, "what the operator put there stays there");
        assert!(secrets.values().all(|secret| occurrences(&environment, secret) == 0));
    });
}

/// Makes every file system read-only but a new one at "$0", then runs "$@".
const READ_ONLY: &str = r#"
while read -r _ _ _ _ mount _; do mount -o remount,bind,ro "$mount" 2>/dev/null || true; done </proc/self/mountinfo
mount -t tmpfs tmpfs "$0" && ! touch /tmp/written && exec "$@""#;

#[test]
fn nothing_is_written_to_a_disk() {
    on_a_node(async |node| {
        let run_dir = node.folder().join("run");
        fs::create_dir(&run_dir).unwrap();
        let wrapper = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", READ_ONLY, run_dir.to_str().unwrap()];
        let agent = node.setup().under(&wrapper).start().await.unwrap();
        served(&node, &agent).await;
        let pid = agent.pid().unwrap();
        let found = kinds_below(&PathBuf::from(format!("/proc/{pid}/root{}", run_dir.display())));
        assert!(!found.is_empty() && found.values().all(FileType::is_socket), "{found:?}");
        assert_eq!(files_open_for_writing(pid), BTreeSet::from([node.folder().join("agent.log")]), "and not by another way");
    });
}

/// Everything below a folder that is no folder.
fn kinds_below(folder: &Path) -> BTreeMap<PathBuf, FileType> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let kinds = entries.map(|entry| (entry.path(), entry.file_type().unwrap()));
    kinds.flat_map(|(path, kind)| if kind.is_dir() { kinds_below(&path) } else { [(path, kind)].into() }).collect()
}

/// Regular files that a process may write to.
fn files_open_for_writing(pid: Pid) -> BTreeSet<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|descriptor| Some(descriptor.ok()?.path()));
    let regular = descriptors.filter(|path| fs::metadata(path).is_ok_and(|metadata| metadata.is_file()));
    let writable = regular.filter(|path| fs::symlink_metadata(path).is_ok_and(|link| link.permissions().mode() & 0o200 != 0));
    writable.map(|path| fs::read_link(path).unwrap()).collect()
}
