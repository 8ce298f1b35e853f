//! A file as the kubelet mounts it from a `ConfigMap`: a symlink through `..data`, which one rename exchanges.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

/// A mounted `ConfigMap` with one file.
#[derive(Debug)]
pub(crate) struct ConfigMap {
    folder: TempDir,
    name: &'static str,
    versions: AtomicUsize,
}

impl ConfigMap {
    /// With `text` as the file `name`.
    pub(crate) fn new(name: &'static str, text: &str) -> anyhow::Result<Self> {
        let map = Self { folder: tempfile::tempdir()?, name, versions: AtomicUsize::new(0) };
        map.flip(text)?;
        symlink(format!("..data/{name}"), map.path())?;
        Ok(map)
    }

    /// The file.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    /// Exchanges its content at once; the old version goes, as the kubelet has it.
    pub(crate) fn flip(&self, text: &str) -> anyhow::Result<()> {
        let version = self.versions.fetch_add(1, Ordering::Relaxed);
        let in_folder = |name: String| self.folder.path().join(name);
        let (new, data, link) = (in_folder(format!("..v{version}")), in_folder("..data".into()), in_folder("..data_tmp".into()));
        fs::create_dir(&new)?;
        fs::write(new.join(self.name), text)?;
        symlink(&new, &link)?;
        fs::rename(&link, &data)?;
        match version.checked_sub(1) {
            Some(old) => Ok(fs::remove_dir_all(in_folder(format!("..v{old}")))?),
            None => Ok(()),
        }
    }
}
