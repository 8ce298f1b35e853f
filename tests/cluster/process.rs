//! The first process of a container, as the kernel shows it to the node's root.

use std::fs::{File, read_dir, read_to_string};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use credlet::base::clock::Clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::pod::Pod;

/// Of the kernel's own count of processor time (`USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;

/// From one look at a pod's processes to the next: no start is seen later than it was.
const LOOK: Duration = Duration::from_millis(1);

/// A process that lives.
pub(crate) struct Process {
    folder: PathBuf,
}

/// What a process may do (proc(5), capabilities(7)).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Real, effective, saved and of file access.
    pub(crate) uids: [u32; 4],
    /// Permitted, effective and bounding set.
    pub(crate) capabilities: [u64; 3],
    /// Those that a program would inherit, and those that it would have without asking.
    pub(crate) passed_on: [u64; 2],
    pub(crate) no_new_privileges: bool,
    /// 2: system calls are filtered.
    pub(crate) seccomp: u32,
    pub(crate) root_is_read_only: bool,
}

impl Rights {
    /// Those of a confined process of this uid with these capabilities.
    pub(crate) fn confined(uid: u32, capabilities: u64) -> Self {
        Self {
            uids: [uid; 4],
            capabilities: [capabilities; 3],
            passed_on: [0; 2],
            no_new_privileges: true,
            seccomp: 2,
            root_is_read_only: true,
        }
    }
}

impl Process {
    /// The first one of a container that runs.
    pub(crate) async fn of(pod: &Pod, container: &str) -> anyhow::Result<Self> {
        let object = pod.object().await?;
        let statuses = object["status"]["containerStatuses"].as_array().context("no containers")?;
        let status = statuses.iter().find(|status| status["name"] == container).context("no such container")?;
        let id = status["containerID"].as_str().and_then(|id| id.strip_prefix("containerd://")).context("it does not run")?;
        let processes = read_dir("/proc")?.filter_map(|entry| Some(Self { folder: entry.ok()?.path() }));
        processes.into_iter().find(|process| process.is_first_of(id)).context("no such process")
    }

    /// Kills it as the kernel does that is out of memory, and waits for the program that the kubelet starts in its place. Says when
    /// that was begun, at most a millisecond too early.
    pub(crate) async fn replace(self) -> anyhow::Result<(Self, Instant)> {
        let program = self.read("comm")?;
        let pod = self.pod_cgroup()?;
        kill(self.pid()?, Signal::SIGKILL)?;
        loop {
            let looked = Clock::System.now().mono;
            tokio::time::sleep(LOOK).await;
            let another = |process: &Self| process.folder != self.folder && process.is_first();
            if let Some(process) = processes_below(&pod).find(|process| another(process) && process.runs(&program)) {
                return Ok((process, looked));
            }
        }
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        let name = self.folder.file_name().and_then(|name| name.to_str()).context("no name")?;
        Ok(Pid::from_raw(name.parse()?))
    }

    fn runs(&self, program: &str) -> bool {
        self.read("comm").is_ok_and(|comm| comm == program)
    }

    /// The cgroup of memory of all containers of its pod, which stays when a container goes.
    fn pod_cgroup(&self) -> anyhow::Result<PathBuf> {
        let groups = self.read("cgroup")?;
        let path_of = |controller: &str| groups.lines().find_map(|line| line.split_once(controller).map(|(_, path)| path));
        // Version 1, or version 2 with one hierarchy for all.
        let of_container = match (path_of(":memory:/"), path_of("0::/")) {
            (Some(path), _) => Path::new("/sys/fs/cgroup/memory").join(path),
            (None, path) => Path::new("/sys/fs/cgroup").join(path.context("no cgroup")?),
        };
        Ok(of_container.parent().context("no pod")?.to_owned())
    }

    /// Its network namespace.
    pub(crate) fn network(&self) -> anyhow::Result<File> {
        Ok(File::open(self.folder.join("ns/net"))?)
    }

    pub(crate) fn rights(&self) -> anyhow::Result<Rights> {
        let capabilities = |name: &str| anyhow::Ok(u64::from_str_radix(&self.status(name)?, 16)?);
        let uids: anyhow::Result<Vec<u32>> = self.status("Uid")?.split_whitespace().map(|uid| Ok(uid.parse()?)).collect();
        let uids = uids?;
        Ok(Rights {
            uids: <[u32; 4]>::try_from(uids.as_slice())?,
            capabilities: [capabilities("CapPrm")?, capabilities("CapEff")?, capabilities("CapBnd")?],
            passed_on: [capabilities("CapInh")?, capabilities("CapAmb")?],
            no_new_privileges: self.status("NoNewPrivs")? == "1",
            seccomp: self.status("Seccomp")?.parse()?,
            root_is_read_only: self.mounts()?.iter().any(|(point, options)| point == "/" && options.starts_with("ro")),
        })
    }

    /// Whose its files are: root's when others of its uid may neither trace it nor dump its memory.
    pub(crate) fn owner_of_files(&self) -> anyhow::Result<u32> {
        Ok(self.folder.join("environ").metadata()?.uid())
    }

    /// The soft and the hard limit, named as in `/proc/PID/limits`.
    pub(crate) fn limit(&self, name: &str) -> anyhow::Result<(String, String)> {
        let limits = self.read("limits")?;
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let mut words = line.split_whitespace().map(str::to_owned);
        words.next().zip(words.next()).context("no limits")
    }

    /// Where something is mounted, with the options of the mount.
    pub(crate) fn mounts(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mounts = self.read("mountinfo")?;
        let mounts = mounts.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(4).map(str::to_owned);
            words.next().zip(words.next())
        });
        Ok(mounts.collect())
    }

    /// Memory that it has now, and the most that it had, in KiB.
    pub(crate) fn memory(&self) -> anyhow::Result<(u64, u64)> {
        let kib = |name: &str| anyhow::Ok(self.status(name)?.trim_end_matches(" kB").parse()?);
        anyhow::Ok((kib("VmRSS")?, kib("VmHWM")?))
    }

    /// Processor time that it has used, in seconds.
    pub(crate) fn processor_time(&self) -> anyhow::Result<f64> {
        let stat = self.read("stat")?;
        // Fields are counted from the end of its name, which may contain anything.
        let (_, fields) = stat.rsplit_once(") ").context("no name")?;
        let ticks: Vec<f64> = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        ensure!(ticks.len() == 2, "{stat}");
        Ok(ticks.iter().sum::<f64>() / TICKS_A_SECOND)
    }

    fn is_first_of(&self, container_id: &str) -> bool {
        let is_in_it = self.read("cgroup").is_ok_and(|groups| groups.contains(container_id));
        is_in_it && self.is_first()
    }

    /// Whether it is, in a process namespace of its own.
    fn is_first(&self) -> bool {
        self.status("NSpid").is_ok_and(|pids| pids.ends_with("\t1"))
    }

    fn status(&self, name: &str) -> anyhow::Result<String> {
        let status = self.read("status")?;
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(value.with_context(|| format!("no {name}"))?.trim().to_owned())
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        Ok(read_to_string(self.folder.join(file))?)
    }
}

/// The processes of the cgroups in this one.
fn processes_below(cgroup: &Path) -> impl Iterator<Item = Process> {
    let containers = read_dir(cgroup).into_iter().flatten().flatten();
    let pids = containers.filter_map(|container| read_to_string(container.path().join("cgroup.procs")).ok());
    let pids: Vec<String> = pids.flat_map(|pids| pids.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    pids.into_iter().map(|pid| Process { folder: Path::new("/proc").join(pid) })
}
