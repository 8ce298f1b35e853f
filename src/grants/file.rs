//! `--policy FILE`: read whole at the start, and read anew whenever it changes.
//!
//! A `ConfigMap`'s volume changes by one rename of a symlink, so the file is looked at and not watched: its metadata tells that it is
//! another one, whatever the file system. A file counts once two looks have found the same metadata, so that one that is being
//! written in place is not read half. One that is faulty or gone changes nothing but what operators see: the policy that was good
//! last stays in force.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use crate::base::readiness::Part;
use crate::domain::credential::rfc3339;
use crate::domain::policy::{MOST_BYTES, Policy};
use crate::observe::Context;

/// Between two looks: two of them are what a change takes to count, and a look costs a microsecond.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// The policy file as it was when it was read.
#[derive(Debug)]
pub struct PolicyFile {
    path: PathBuf,
    cluster: Option<Arc<str>>,
    /// As the last look found it.
    seen: Option<Stamp>,
    /// As it was when it was read.
    read: Option<Stamp>,
    content: Result<String, String>,
    policy: Arc<Policy>,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What status shows of it.
#[derive(Debug, Clone, Serialize)]
pub struct FileStatus {
    /// Its path.
    pub path: PathBuf,
    /// When the policy in force was read, RFC 3339.
    pub loaded_at: Option<String>,
    /// How many rules it has.
    pub rules: usize,
    /// What is wrong with it as it is now; then an earlier one is in force.
    pub faults: Vec<String>,
}

/// Where a policy file's news arrive.
#[derive(Debug)]
pub(super) struct News {
    pub(super) policy: watch::Receiver<Arc<Policy>>,
    pub(super) status: watch::Receiver<FileStatus>,
}

/// Where they come from.
struct Follower {
    policy: watch::Sender<Arc<Policy>>,
    status: watch::Sender<FileStatus>,
    advice: Part,
    context: Context,
}

impl PolicyFile {
    /// Reads the file for an agent of `cluster` (`--cluster-name`).
    ///
    /// # Errors
    /// Every fault, a line each: a node that starts with a policy that nobody wrote would give roles that nobody granted.
    pub fn open(path: &Path, cluster: Option<Arc<str>>) -> Result<Self, Vec<String>> {
        let (stamp, content) = (Stamp::of(path), read(path));
        let policy = Arc::new(parse(&content, cluster.clone())?);
        Ok(Self { path: path.to_owned(), cluster, seen: stamp.clone(), read: stamp, content, policy })
    }

    /// The policy that was read.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Looks at the file now and again until shutdown.
    pub(super) fn follow(self, context: &Context) -> News {
        let loaded_at = rfc3339(context.clock.now().wall);
        let rules = self.policy.rules().len();
        let status = FileStatus { path: self.path.clone(), loaded_at, rules, faults: Vec::new() };
        let (policies, policy) = watch::channel(Arc::clone(&self.policy));
        let (statuses, status) = watch::channel(status);
        context.metrics.policy.loaded.set(context.clock.now().unix());
        let advice = context.readiness.advisory("policy");
        let follower = Follower { policy: policies, status: statuses, advice, context: context.clone() };
        context.tasks.spawn_critical("policy", follower.run(self));
        News { policy, status }
    }

    /// The policy that the file holds, or its faults, if it holds something else than it did when it was read.
    fn look(&mut self) -> Option<Result<Arc<Policy>, Vec<String>>> {
        let earlier = std::mem::replace(&mut self.seen, Stamp::of(&self.path));
        if self.seen == self.read || self.seen != earlier {
            return None;
        }
        let content = read(&self.path);
        if Stamp::of(&self.path) != self.seen {
            // It was written while it was read: what was read is no file that anybody wrote.
            return None;
        }
        self.read.clone_from(&self.seen);
        if content == self.content {
            return None;
        }
        self.content = content;
        Some(parse(&self.content, self.cluster.clone()).map(Arc::new))
    }
}

impl Follower {
    async fn run(self, mut file: PolicyFile) {
        let shutdown = self.context.tasks.shutting_down();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(BETWEEN_LOOKS) => (),
            }
            let look = tokio::task::spawn_blocking(move || (file.look(), file)).await;
            let Ok((news, looked)) = look else { return };
            file = looked;
            match news {
                Some(Ok(policy)) => self.good(policy),
                Some(Err(faults)) => self.bad(faults),
                None => (),
            }
        }
    }

    fn good(&self, policy: Arc<Policy>) {
        let now = self.context.clock.now();
        tracing::info!(path = %self.status.borrow().path.display(), "the policy has changed");
        self.context.metrics.policy.loaded.set(now.unix());
        self.context.metrics.policy.faults.set(0);
        self.advice.ready();
        self.status.send_modify(|status| {
            status.loaded_at = rfc3339(now.wall);
            status.rules = policy.rules().len();
            status.faults.clear();
        });
        self.policy.send_replace(policy);
    }

    fn bad(&self, faults: Vec<String>) {
        for fault in &faults {
            tracing::error!(path = %self.status.borrow().path.display(), fault, "not used; the last good policy stays in force");
        }
        self.context.metrics.policy.faults.set(i64::try_from(faults.len()).unwrap_or(i64::MAX));
        let first = faults.first().map_or("", String::as_str);
        self.advice.pending(format!("{} faults, so the last good policy is in force: {first}", faults.len()));
        self.status.send_modify(|status| status.faults = faults);
    }
}

impl Stamp {
    /// Through symlinks; `None` when there is no file.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// The whole file in one reading.
fn read(path: &Path) -> Result<String, String> {
    // To open anything else may wait for ever: a pipe for its writer.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err("is no regular file".to_owned());
    }
    File::open(path).map_err(unreadable).and_then(text_of)
}

/// What `source` says, if that may be a policy file.
///
/// # Errors
/// When it can't be read, is larger than any policy, or no UTF-8.
pub fn text_of(source: impl Read) -> Result<String, String> {
    let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    source.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > MOST_BYTES {
        return Err("is larger than 1 MiB, which is all that a ConfigMap holds".to_owned());
    }
    let is_utf_16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    let encoding = if is_utf_16 { "UTF-16" } else { "perhaps Latin-1 or Windows-1252" };
    String::from_utf8(bytes).map_err(|_| format!("is not UTF-8 text, but {encoding}: save it as UTF-8"))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(error: io::Error) -> String {
    format!("can't be read: {error}")
}

fn parse(content: &Result<String, String>, cluster: Option<Arc<str>>) -> Result<Policy, Vec<String>> {
    let text = content.as_ref().map_err(|fault| vec![fault.clone()])?;
    Policy::parse(text, cluster).map_err(|faults| faults.to_string().lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const GOOD: &str = "rules: [{ match: { namespace: default, serviceAccount: app }, exchange: pod-identity }]";
    const BAD: &str = "rules: 7";

    struct Folder(TempDir);

    impl Folder {
        fn with(text: &str) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            folder.replace(text);
            folder
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("policy.yaml")
        }

        /// By one rename, as a `ConfigMap`'s volume changes.
        fn replace(&self, text: &str) {
            let new = self.0.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, self.path()).unwrap();
        }

        fn open(&self) -> PolicyFile {
            PolicyFile::open(&self.path(), Some("demo".into())).unwrap()
        }
    }

    /// What so many looks tell: whether the file was good.
    fn told(file: &mut PolicyFile, looks: usize) -> Vec<bool> {
        (0..looks).filter_map(|_| file.look()).map(|news| news.is_ok()).collect()
    }

    #[test]
    fn a_file_that_is_missing_faulty_binary_or_huge_is_told_at_the_start() {
        let folder = Folder::with(BAD);
        let open = |path: &Path| PolicyFile::open(path, None).map(|_| ()).unwrap_err();
        assert!(open(&folder.path())[0].starts_with("line 1: "));
        assert!(open(&folder.0.path().join("nowhere"))[0].starts_with("can't be read: "));
        for (content, fault) in [(vec![0xff; 10], "UTF-8"), (vec![b' '; 1024 * 1024 + 1], "1 MiB")] {
            fs::write(folder.path(), content).unwrap();
            assert!(open(&folder.path())[0].contains(fault), "{:?}", open(&folder.path()));
        }
    }

    #[test]
    fn a_change_counts_once_two_looks_agree_and_is_told_once() {
        let folder = Folder::with(GOOD);
        let mut file = folder.open();
        assert_eq!(told(&mut file, 3), [false; 0]);
        folder.replace(&format!("{GOOD} # changed"));
        assert_eq!(told(&mut file, 1), [false; 0], "it may still be being written");
        assert_eq!(told(&mut file, 4), [true]);
        folder.replace(&format!("{GOOD} # changed"));
        assert_eq!(told(&mut file, 4), [false; 0], "the same text is no news");
    }

    #[test]
    fn a_file_that_is_bad_or_gone_is_told_once_and_so_is_its_return() {
        let folder = Folder::with(GOOD);
        let mut file = folder.open();
        folder.replace(BAD);
        assert_eq!(told(&mut file, 4), [false]);
        fs::remove_file(folder.path()).unwrap();
        assert_eq!(told(&mut file, 4), [false]);
        folder.replace(GOOD);
        assert_eq!(told(&mut file, 4), [true]);
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = Folder::with(GOOD);
        let mut file = folder.open();
        fs::remove_file(folder.path()).unwrap();
        nix::unistd::mkfifo(&folder.path(), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(told(&mut file, 4), [false]);
        folder.replace(GOOD);
        assert_eq!(told(&mut file, 4), [true]);
    }
}
