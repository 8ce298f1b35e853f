//! The first process of a container, as the kernel shows it to the node's root.

use std::fs::{read_dir, read_to_string};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::pod::Pod;

/// Of the kernel's own count of processor time (`USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;

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
        // In the container's own process namespace.
        is_in_it && self.status("NSpid").is_ok_and(|pids| pids.ends_with("\t1"))
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
