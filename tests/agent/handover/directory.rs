//! The directory in which agents meet: what others do to it, and who is let in.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::handover::{Node, SECOND, becomes, handover, in_order, results, signal};
use crate::harness::agent::Agent;
use crate::world::within;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_removes_from_the_directory_is_made_again() {
    let node = Node::new().await;
    let (socket, seat, obstacle) = ["handover.sock", "seat", "handover.sock.new"].map(|name| node.shared().join(name)).into();
    std::fs::create_dir(&obstacle).unwrap();
    let mut agent = node.start("old").await;
    assert!(agent.log().contains("no successor can take over from this agent"), "{}", agent.log());
    let advice = async |agent: &Agent| agent.status().await.unwrap()["advice"]["handover"].clone();
    let told = advice(&agent).await;
    assert!(told.as_str().is_some_and(|told| told.contains(node.shared().to_str().unwrap())), "{told}");
    std::fs::remove_dir(&obstacle).unwrap();
    agent.wait_for(async |agent: &mut Agent| Ok(advice(agent).await.is_null())).await.unwrap();
    node.is_found().await;
    std::fs::remove_file(&socket).unwrap();
    node.is_found().await;
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "").unwrap();
    node.is_found().await;
    [&socket, &seat].into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
    node.is_found().await;
    assert!(node.directory().take_seat().unwrap().is_none(), "the one that others try now is locked as well");
    let _new = node.start("new").await;
    becomes(&mut agent, "standby").await;
}

/// Somebody removes the directory, and it is there again, with nothing in it, `meanwhile` has happened.
async fn without(directory: &Path, meanwhile: impl Future<Output = ()>) {
    std::fs::remove_dir_all(directory).unwrap();
    meanwhile.await;
    std::fs::create_dir(directory).unwrap();
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o700)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_its_seat_joins_the_one_that_has_taken_a_new_one() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let askers = node.ask(&["app-0", "app-1"]).begun().await;
    // It has just looked, so the next agent comes before it looks again.
    std::fs::remove_file(node.shared().join("handover.sock")).unwrap();
    node.is_found().await;
    without(&node.shared(), async {}).await;
    let mut new = node.start("new").await;
    becomes(&mut old, "standby").await;
    becomes(&mut new, "serving").await;
    assert!(old.log().contains("this agent's seat was removed") && results(&old, "given") == 0, "{}", old.log());
    old.terminate().unwrap();
    assert_eq!(old.ended().await.unwrap().code(), Some(0));
    assert!(node.served_after("app-2").await < SECOND);
    askers.lost_nothing();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_serve_without_a_directory_are_one_when_it_comes_back() {
    let node = Node::new().await;
    let [mut a, mut b, mut c] = [node.start("a").await, node.start("b").await, node.start("c").await];
    c.wait_for(async |c: &mut Agent| Ok(handover(c).await["standing_by"].as_array().map(Vec::len) == Some(2))).await.unwrap();
    let askers = node.ask(&["app-0"]).begun().await;
    without(&node.shared(), async {
        c.terminate().unwrap();
        c.ended().await.unwrap();
        // Neither can know of the other.
        becomes(&mut a, "serving").await;
        becomes(&mut b, "serving").await;
    })
    .await;
    let [mut first, _second] = in_order(a, b).await;
    let mut last = node.start("last").await;
    becomes(&mut first, "standby").await;
    becomes(&mut last, "serving").await;
    askers.lost_nothing();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_cannot_be_used_is_a_warning() {
    let node = Node::new().await;
    std::fs::set_permissions(node.shared(), PermissionsExt::from_mode(0o755)).unwrap();
    for (name, directory) in [("open", node.shared()), ("relative", "here".into()), ("missing", node.shared().join("missing"))] {
        let mut agent = node.setup_of(name).flag("handover-dir", directory.display()).spawn().unwrap();
        agent.become_ready_itself().await.unwrap();
        let status = agent.status().await.unwrap();
        assert!(status["advice"]["handover"].is_string() && status["handover"].is_null(), "{status}");
        assert!(agent.log().contains("no handover"), "{}", agent.log());
        agent.stop().await.unwrap();
    }
    assert!(std::fs::read_dir(node.shared()).unwrap().next().is_none(), "nothing is made in there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_other_users_are_let_nowhere() {
    let node = Node::new().await;
    let socket = node.shared().join("handover.sock");
    let open = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    let stranger = |script: &str| {
        let mut python = tokio::process::Command::new("python3");
        python.args(["-c", script]).arg(&socket).uid(65_534).gid(65_534).stdout(Stdio::piped()).kill_on_drop(true);
        python.spawn().unwrap()
    };
    let old = node.start("old").await;
    // As if the directory had become open afterwards.
    [node.folder.path(), &node.shared(), &socket].into_iter().for_each(open);
    let connect = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\ns.settimeout(5)\n\
                   print('heard', len(s.recv(9)))";
    let output = within(20 * SECOND, stranger(connect).wait_with_output()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "heard 0\n");
    assert!(old.log().contains("of another user"), "{}", old.log());
    signal(&old, Signal::SIGKILL);
    old.ended().await.unwrap();

    std::fs::remove_file(&socket).unwrap();
    let listen = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\ns.settimeout(10)\n\
                  c = s.accept()[0]\nc.settimeout(5)\nprint('heard', len(c.recv(9)))";
    let listening = stranger(listen);
    within(10 * SECOND, async {
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    std::fs::set_permissions(node.shared(), PermissionsExt::from_mode(0o700)).unwrap();
    let _seat = node.directory().take_seat().unwrap().unwrap();
    let new = node.spawn("new");
    let output = within(20 * SECOND, listening.wait_with_output()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "heard 0\n", "{}", new.log());
    assert!(new.log().contains("of another user"), "{}", new.log());
}
