//! Makes the folder in which successive agents of a node meet the agent's own: 0700, so that nobody else comes near its socket.
//!
//! The kubelet makes a `hostPath` as root's, 0755, and the agent is not root: an init container gives the folder away. It is root
//! with the capability CHOWN and without `DAC_OVERRIDE`, so a folder that it has given away it can't enter any more. Nothing is
//! followed and nothing below is touched: a folder is given away empty, or not at all.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::libc::{O_DIRECTORY, O_NOFOLLOW};
use nix::unistd::geteuid;

/// Of credlet's own, as the image and the chart have it.
pub const AGENT: u32 = 17023;

/// The permissions of the folder.
const PRIVATE: u32 = 0o700;

/// What had to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// It was not there, or it was of whoever runs this.
    Now,
    /// Nothing.
    Before,
}

/// Why a folder is not given away; it is left as it was.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A link may lead anywhere.
    #[error("it is a symbolic link or a file: remove it, or name a folder")]
    NoFolder,
    /// Of neither the agent nor whoever runs this, or once given away and opened to others since.
    #[error("it is of uid {is} with the mode {mode:o}: if nothing needs it, remove it, and it is made anew for uid {wanted}")]
    Foreign {
        /// Its owner.
        is: u32,
        /// Its permissions.
        mode: u32,
        /// Who was to have it.
        wanted: u32,
    },
    /// Something that is not a handover's, or not the agent's.
    #[error("it holds {0}: empty it, or name a folder of the agent's own")]
    Occupied(String),
    /// `EPERM` of chown(2).
    #[error("no right to give it to another uid: grant the capability CHOWN")]
    NoRight,
    /// Any other answer of the kernel.
    #[error("the kernel does not make it the agent's")]
    Kernel(#[from] io::Error),
}

/// Makes the folder at `path`, whose parent must be there, and makes it `owner`'s alone.
///
/// # Errors
/// Says why it is left as it was.
pub fn give(path: &Path, owner: u32) -> Result<Given, FolderError> {
    let made = match DirBuilder::new().mode(PRIVATE).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        made => made.is_ok(),
    };
    let found = fs::symlink_metadata(path)?;
    if is_private(&found, owner) {
        return Ok(if made { Given::Now } else { Given::Before });
    }
    let folder = open(path, &found, owner)?;
    if let Some(held) = fs::read_dir(path)?.next() {
        return Err(FolderError::Occupied(held?.file_name().to_string_lossy().into_owned()));
    }
    // In this order: the mode of another's folder takes one more capability.
    folder.set_permissions(Permissions::from_mode(PRIVATE))?;
    let refused =
        |error: io::Error| if error.kind() == ErrorKind::PermissionDenied { FolderError::NoRight } else { error.into() };
    fchown(&folder, Some(owner), None).map_err(refused)?;
    Ok(Given::Now)
}

/// Whether it is a folder that `owner` and nobody else may enter.
#[must_use]
pub fn is_private(found: &Metadata, owner: u32) -> bool {
    found.is_dir() && found.uid() == owner && permissions(found) == PRIVATE
}

fn permissions(found: &Metadata) -> u32 {
    found.mode() & 0o7777
}

/// Opens it, if it is a folder of whoever runs this.
fn open(path: &Path, found: &Metadata, wanted: u32) -> Result<File, FolderError> {
    if !found.is_dir() {
        return Err(FolderError::NoFolder);
    }
    if found.uid() != geteuid().as_raw() {
        return Err(FolderError::Foreign { is: found.uid(), mode: permissions(found), wanted });
    }
    Ok(OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(path)?)
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, metadata, set_permissions, write};
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    fn place() -> (TempDir, PathBuf, u32) {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("handover");
        (above, path, geteuid().as_raw())
    }

    fn with_mode(path: &Path, mode: u32) {
        create_dir(path).unwrap();
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn it_is_made_once_and_keeps_what_agents_put_there() {
        let (_above, path, owner) = place();
        // What is made is private from its first moment.
        assert_eq!((give(&path, owner).unwrap(), mode(&path)), (Given::Now, 0o700));
        write(path.join("seat"), "").unwrap();
        assert_eq!(give(&path, owner).unwrap(), Given::Before);
        assert!(path.join("seat").exists());
    }

    #[test]
    fn what_the_kubelet_made_is_closed_to_others() {
        let (_above, path, owner) = place();
        with_mode(&path, 0o755);
        assert_eq!((give(&path, owner).unwrap(), mode(&path)), (Given::Now, 0o700));
    }

    #[test]
    fn what_holds_anything_is_left_as_it_is() {
        let (_above, path, owner) = place();
        with_mode(&path, 0o755);
        write(path.join("passwords"), "").unwrap();
        let refused = give(&path, owner).unwrap_err();
        assert!(matches!(&refused, FolderError::Occupied(name) if name == "passwords"), "{refused}");
        assert_eq!(mode(&path), 0o755);
    }

    #[test]
    fn links_and_files_are_not_followed() {
        let (above, path, owner) = place();
        let target = above.path().join("target");
        with_mode(&target, 0o755);
        symlink(&target, &path).unwrap();
        assert!(matches!(give(&path, owner), Err(FolderError::NoFolder)));
        assert_eq!(mode(&target), 0o755);
        let file = above.path().join("file");
        write(&file, "").unwrap();
        assert!(matches!(give(&file, owner), Err(FolderError::NoFolder)));
        let dangling = above.path().join("dangling");
        symlink(above.path().join("nothing"), &dangling).unwrap();
        assert!(matches!(give(&dangling, owner), Err(FolderError::NoFolder)));
    }

    #[test]
    fn a_folder_is_private_to_its_owner_only() {
        let (_above, path, owner) = place();
        with_mode(&path, 0o700);
        let wanted = owner + 1;
        let found = fs::symlink_metadata(&path).unwrap();
        assert!(is_private(&found, owner) && !is_private(&found, wanted));
    }
}
