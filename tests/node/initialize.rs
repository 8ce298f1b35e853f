//! `credlet initialize`: what it makes, adopts, refuses and takes away; iproute2 says what is there. Links are of the kind `ifb`,
//! for a kernel may lack `dummy`.

use std::os::unix::fs::MetadataExt;
use std::process::Output;

use tokio::process::Command;

use crate::harness::setup::credlet;
use crate::node::{on_a_bare_node, run};

const KIND: &str = "--link-kind=ifb";

/// Whether link, state up, address and route (IPv4), address and route (IPv6) are there.
type Pieces = [bool; 6];

pub(crate) const WHOLE: Pieces = [true; 6];
const NOTHING: Pieces = [false; 6];

const MADE: &str = "\
made: link pod-id-link0
made: link pod-id-link0 up
made: address 169.254.170.23/32 on pod-id-link0
made: main-table route to 169.254.170.23/32 over pod-id-link0
made: address fd00:ec2::23/128 on pod-id-link0
";

/// Runs it to its end.
pub(crate) async fn initialize(arguments: &[&str]) -> Output {
    credlet("initialize").args(arguments).output().await.unwrap()
}

/// Runs it as the kubelet runs a container that has dropped capabilities.
async fn initialize_with(capabilities: &str) -> Output {
    initialize_under(capabilities, &[KIND]).await
}

async fn initialize_under(capabilities: &str, arguments: &[&str]) -> Output {
    let wrapper = [&format!("--bounding-set={capabilities}"), "--inh-caps=-all", "--no-new-privs"];
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(wrapper).args([env!("CARGO_BIN_EXE_credlet"), "initialize"]).args(arguments).output().await.unwrap()
}

pub(crate) fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

/// What iproute2 shows; nothing where it finds nothing.
fn shown(arguments: &str) -> String {
    let output = std::process::Command::new("ip").args(arguments.split(' ')).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn pieces() -> Pieces {
    let link = shown("-o link show pod-id-link0");
    let address = |family: &str| shown(&format!("-o -{family} address show dev pod-id-link0"));
    let route = |family: &str, host: &str| shown(&format!("-{family} route show table main {host}")).contains("pod-id-link0");
    [
        !link.is_empty(),
        link.contains("UP"),
        address("4").contains("169.254.170.23/32"),
        route("4", "169.254.170.23"),
        address("6").lines().any(|line| line.contains("fd00:ec2::23/128") && !line.contains("tentative")),
        route("6", "fd00:ec2::23"),
    ]
}

fn texts(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn succeeds(arguments: &[&str]) -> String {
    let (code, stdout, stderr) = texts(initialize(arguments).await);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    stdout
}

#[test]
fn the_link_is_made_once() {
    on_a_bare_node(async |_| {
        let stdout = succeeds(&[KIND]).await;
        assert!(stdout.starts_with(MADE) && stdout.lines().count() == WHOLE.len(), "{stdout}");
        assert_eq!(pieces(), WHOLE);
        let all = || ["-d link show", "-4 address show", "route show", "-6 route show"].map(shown);
        let before = all();
        let stdout = succeeds(&[KIND]).await;
        assert!(stdout.lines().all(|line| line.starts_with("there already: ")), "{stdout}");
        assert_eq!(all(), before);
    });
}

#[test]
fn the_other_spellings_and_the_incumbents_arguments_work() {
    on_a_bare_node(async |_| {
        let mut command = credlet("init");
        let output = command.args(["-v", "trace"]).env("CREDLET_LINK_KIND", "ifb").output().await.unwrap();
        assert_eq!(texts(output).0, Some(0));
        assert_eq!(pieces(), WHOLE);
    });
}

#[test]
fn what_is_there_is_adopted_and_what_lacks_is_added() {
    let link = ["link add pod-id-link0 type ifb"];
    let addresses = ["address add 169.254.170.23/32 dev pod-id-link0", "address add fd00:ec2::23/128 dev pod-id-link0"];
    let up = ["link set pod-id-link0 up"];
    let routes = ["route add 169.254.170.23/32 dev pod-id-link0"];
    let unroutes = ["-6 route delete fd00:ec2::23/128 dev pod-id-link0"];
    let down = ["link set pod-id-link0 down"];
    let cases: [&[&[&str]]; 5] = [
        &[&link],
        &[&link, &addresses],
        &[&link, &addresses, &up, &unroutes],
        &[&link, &addresses, &up, &routes, &down],
        &[&link, &up],
    ];
    for case in cases {
        let commands: Vec<&str> = case.concat();
        on_a_bare_node(async move |_| {
            commands.iter().for_each(|command| ip(command));
            assert_ne!(pieces(), WHOLE, "{commands:?}");
            let stdout = succeeds(&[KIND]).await;
            assert!(stdout.contains("made: ") && stdout.starts_with("there already: link pod-id-link0\n"), "{stdout}");
            assert_eq!(pieces(), WHOLE, "{commands:?}");
        });
    }
}

#[test]
fn a_node_that_the_incumbent_left_needs_nothing() {
    on_a_bare_node(async |_| {
        ip("link add pod-id-link0 type ifb");
        ip("address add 169.254.170.23/32 dev pod-id-link0");
        ip("address add fd00:ec2::23/128 dev pod-id-link0");
        ip("link set pod-id-link0 up");
        ip("route add 169.254.170.23/32 dev pod-id-link0 scope global");
        let (code, stdout, stderr) = texts(initialize_in_place().await);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.lines().all(|line| line.starts_with("there already: ")), "{stdout}");
    });
}

/// Looking needs no capability, and there is nothing else to do.
async fn initialize_in_place() -> Output {
    initialize_with("-all").await
}

#[test]
fn somebody_elses_link_is_left_alone() {
    on_a_bare_node(async |_| {
        ip("link add pod-id-link0 type bridge");
        let before = shown("-d link show pod-id-link0");
        for arguments in [&[KIND][..], &["--link-kind=dummy"], &[KIND, "--remove"], &[KIND, "--watch"]] {
            let (code, stdout, stderr) = texts(initialize(arguments).await);
            assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
            let remedies = ["of the kind bridge", "ip link delete pod-id-link0", "--link-kind bridge"];
            assert!(remedies.iter().all(|remedy| stderr.contains(remedy)) || arguments.contains(&"--watch"), "{stderr}");
            assert_eq!(shown("-d link show pod-id-link0"), before);
        }
        succeeds(&["--link-kind=bridge"]).await;
        assert_eq!(pieces(), WHOLE);
    });
}

#[test]
fn an_address_in_another_form_is_replaced() {
    on_a_bare_node(async |_| {
        ip("link add pod-id-link0 type ifb");
        ip("link set pod-id-link0 up");
        ip("address add 169.254.170.23/16 dev pod-id-link0");
        ip("address add fd00:ec2::23/64 dev pod-id-link0 nodad");
        assert!(shown("route show").contains("169.254.0.0/16"), "which would swallow the metadata service");
        let (code, stdout, stderr) = texts(initialize(&[KIND]).await);
        assert_eq!((code, stderr.lines().count()), (Some(0), 2), "{stderr}");
        assert!(stderr.contains("removed: address 169.254.170.23/16") && stderr.contains("removed: address fd00:ec2::23/64"));
        assert!(stdout.contains("made: address 169.254.170.23/32") && stdout.contains("made: address fd00:ec2::23/128"));
        assert_eq!((pieces(), shown("route show").contains("169.254.0.0/16")), (WHOLE, false));
        ip("address add 169.254.170.23/16 dev pod-id-link0");
        let (code, stdout, stderr) = texts(initialize(&[KIND]).await);
        assert!(code == Some(0) && stderr.contains("removed: address 169.254.170.23/16"), "{stderr}");
        assert!(stdout.contains("there already: address 169.254.170.23/32"), "{stdout}");
        assert_eq!((pieces(), shown("route show").contains("169.254.0.0/16")), (WHOLE, false));
    });
}

#[test]
fn an_address_that_waits_for_duplicates_is_replaced() {
    on_a_bare_node(async |_| {
        // A bridge without ports has no carrier, so that the kernel never gets to look for duplicates.
        ip("link add pod-id-link0 type bridge");
        ip("link set pod-id-link0 up");
        ip("address add fd00:ec2::23/128 dev pod-id-link0");
        assert!(shown("-6 address show dev pod-id-link0").contains("tentative"));
        let (code, _, stderr) = texts(initialize(&["--link-kind=bridge"]).await);
        assert!(code == Some(0) && stderr.contains("removed: address fd00:ec2::23/128"), "{stderr}");
        assert_eq!(pieces(), WHOLE);
    });
}

#[test]
fn faults_of_the_command_line_stop_it() {
    on_a_bare_node(async |_| {
        for fault in ["--verbosity=bogus", "--log-format=bogus"] {
            for arguments in [&[KIND, fault][..], &[KIND, fault, "--remove"], &[KIND, fault, "--watch"]] {
                let (code, stdout, stderr) = texts(initialize(arguments).await);
                assert!(code == Some(64) && stdout.is_empty() && stderr.contains("bogus"), "{stderr}");
            }
        }
        assert_eq!(pieces(), NOTHING);
    });
}

#[test]
fn a_route_that_leads_elsewhere_is_a_warning() {
    on_a_bare_node(async |node| {
        ip("link add other0 type ifb");
        ip("link set other0 up");
        ip("route add 169.254.170.23/32 dev other0 scope link");
        let (code, _, stderr) = texts(initialize(&[KIND]).await);
        assert!(code == Some(0) && stderr.lines().count() == 1, "{stderr}");
        let told = "main-table route to 169.254.170.23/32 over pod-id-link0 is left out: the main table has another route";
        assert!(stderr.contains("warning") && stderr.contains(told), "{stderr}");
        assert_eq!(pieces(), [true, true, true, false, true, true]);
        let agent = node.setup().start().await.unwrap();
        assert_eq!(node.ask(&agent).await.status, 200);
    });
}

#[test]
fn a_node_without_ipv6_is_warned_and_serves_ipv4() {
    on_a_bare_node(async |node| {
        for scope in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
        }
        let (code, stdout, stderr) = texts(initialize(&[KIND]).await);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(
            stderr.contains("warning: address fd00:ec2::23/128 on pod-id-link0 is left out") && stderr.contains("disable_ipv6"),
            "{stderr}"
        );
        assert_eq!((pieces(), stdout.lines().count()), ([true, true, true, true, false, false], 4));
        let agent = node.setup().start().await.unwrap();
        assert_eq!(node.ask(&agent).await.status, 200);
        assert_eq!(agent.sample("credlet_link_up").await.unwrap(), 1);
        assert_eq!(agent.sample(r#"credlet_listener_up{family="ipv6"}"#).await.unwrap(), 0);
    });
}

#[test]
fn the_link_is_taken_away_once() {
    on_a_bare_node(async |_| {
        succeeds(&[KIND]).await;
        assert_eq!(succeeds(&[KIND, "--remove"]).await, "removed: link pod-id-link0\n");
        assert_eq!(pieces(), NOTHING);
        assert_eq!(succeeds(&[KIND, "--remove"]).await, "not there: link pod-id-link0\n");
    });
}

#[test]
fn it_needs_net_admin_and_nothing_else() {
    on_a_bare_node(async |_| {
        let (code, _, stderr) = texts(initialize_with("-net_admin").await);
        assert!(code == Some(1) && stderr.contains("NET_ADMIN"), "{stderr}");
        assert_eq!(pieces(), NOTHING);
        let (code, _, stderr) = texts(initialize_with("-all,+net_admin").await);
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(pieces(), WHOLE);
    });
}

#[test]
fn a_kernel_without_dummy_links_is_told_apart() {
    on_a_bare_node(async |_| {
        let probe = Command::new("ip").args(["link", "add", "probe0", "type", "dummy"]).output().await.unwrap();
        let (code, _, stderr) = texts(initialize(&[]).await);
        if probe.status.success() {
            assert_eq!((code, pieces()), (Some(0), WHOLE), "{stderr}");
        } else {
            assert!(code == Some(1) && stderr.contains("kind dummy") && stderr.contains("--link-kind"), "{stderr}");
            assert_eq!(pieces(), NOTHING);
        }
    });
}

/// The folder for handovers where a kubelet would have made it, and its owner and mode.
fn folder_of(node: &crate::node::Node) -> (String, impl Fn() -> (u32, u32)) {
    let path = node.folder().join("handover");
    std::fs::create_dir(&path).unwrap();
    let text = path.display().to_string();
    (text, move || {
        let found = std::fs::metadata(&path).unwrap();
        (found.uid(), found.mode() & 0o7777)
    })
}

#[test]
fn the_handover_folder_becomes_the_agents_own_once() {
    on_a_bare_node(async |node| {
        let (folder, owner_and_mode) = folder_of(&node);
        let told = [KIND, "--handover-dir", &folder];
        for made in ["made", "there already"] {
            // Of all capabilities that root has: nothing to enter the folder with, once it is another's.
            let (code, stdout, stderr) = texts(initialize_under("-all,+net_admin,+chown", &told).await);
            assert_eq!((code, stderr.as_str()), (Some(0), ""));
            assert!(stdout.starts_with(&format!("{made}: folder {folder} of uid 17023\n")), "{stdout}");
            assert_eq!((owner_and_mode(), pieces()), ((17023, 0o700), WHOLE));
        }
    });
}

#[test]
fn a_handover_folder_of_an_agent_that_is_root_takes_no_capability() {
    on_a_bare_node(async |node| {
        let (folder, owner_and_mode) = folder_of(&node);
        let told = ["--no-link", "--handover-dir", &folder, "--handover-owner=0"];
        let (code, stdout, stderr) = texts(initialize_under("-all", &told).await);
        assert_eq!((code, stdout, stderr), (Some(0), format!("made: folder {folder} of uid 0\n"), String::new()));
        assert_eq!((owner_and_mode(), pieces()), ((0, 0o700), NOTHING));
    });
}

#[test]
fn a_handover_folder_that_can_not_be_had_is_a_warning() {
    on_a_bare_node(async |node| {
        let (folder, owner_and_mode) = folder_of(&node);
        let told = [KIND, "--handover-dir", &folder];
        let (code, _, stderr) = texts(initialize_under("-all,+net_admin", &told).await);
        let warning = format!("credlet: warning: folder {folder} of uid 17023 is left out, agents will not hand over: ");
        assert!(code == Some(0) && stderr.starts_with(&warning) && stderr.contains("capability CHOWN"), "{stderr}");
        assert_eq!(owner_and_mode().0, 0);
        std::fs::write(format!("{folder}/file"), "").unwrap();
        let (code, _, stderr) = texts(initialize(&told).await);
        assert!(code == Some(0) && stderr.starts_with(&warning) && stderr.contains("it holds file"), "{stderr}");
        std::os::unix::fs::chown(&folder, Some(4711), None).unwrap();
        let (code, _, stderr) = texts(initialize(&told).await);
        assert!(code == Some(0) && stderr.starts_with(&warning) && stderr.contains("of uid 4711 with the mode 700"), "{stderr}");
        assert_eq!((owner_and_mode(), pieces()), ((4711, 0o700), WHOLE));
    });
}

#[test]
fn the_handover_folder_is_made_and_nothing_else_is_done_with_it() {
    on_a_bare_node(async |_| {
        for other in ["--remove", "--watch"] {
            let (code, _, stderr) = texts(initialize(&[KIND, "--handover-dir=/nowhere", other]).await);
            assert!(code == Some(64) && stderr.contains("--handover-dir"), "{stderr}");
        }
        let (code, _, stderr) = texts(initialize(&["--no-link"]).await);
        assert!(code == Some(64) && stderr.contains("--handover-dir"), "{stderr}");
        assert_eq!(pieces(), NOTHING);
    });
}
