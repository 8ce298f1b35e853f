//! The directory in which agents that follow each other meet: the seat, and the socket of the one who serves.
//!
//! Whoever may enter it can take a node's credentials along, so nobody but this user may: it is refused unless it is this user's
//! own and closed to all others. Nothing is ever written there: the seat is only locked, and the state only passes through.
//!
//! What stands in there may be removed while agents run. Each holds what it has made, so it can tell whether others find that still.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use tokio::net::{UnixListener, UnixStream};

/// Locked by the one who serves.
const SEAT: &str = "seat";
/// The same before it is renamed; of those who would replace the seat at once, one locks it.
const NEW_SEAT: &str = "seat.new";
/// Where the one who serves is connected to.
const SOCKET: &str = "handover.sock";
/// The same before it is renamed; only who has the seat makes one.
const NEW_SOCKET: &str = "handover.sock.new";
/// Rights of others, in the mode.
const OTHERS: u32 = 0o077;

/// A directory that can be used.
#[derive(Debug, Clone)]
pub struct Directory(PathBuf);

/// The lock of the one who serves. It belongs to the open file description (flock(2)), so it goes with the last copy, and can be
/// passed on without an instant in which it is free.
#[derive(Debug)]
pub struct Seat(File);

/// A file, for as long as anybody holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    device: u64,
    inode: u64,
}

/// The socket of the one who serves.
#[derive(Debug)]
pub struct Publication {
    listener: UnixListener,
    /// Its place in the directory, held so that no other file can be mistaken for it.
    place: File,
}

/// Why a directory is of no use. What an operator can do about it is said with it.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It has to mean the same for every agent.
    #[error("{0} is no absolute path")]
    Relative(PathBuf),
    /// Nobody has made it.
    #[error("{path} is not there; as root: credlet initialize --no-link --handover-dir {path} --handover-owner {own}")]
    Missing {
        /// The directory.
        path: PathBuf,
        /// Whose it has to be.
        own: u32,
    },
    /// It can't be looked at.
    #[error("{0} can't be used: {1}")]
    Unusable(PathBuf, io::Error),
    /// A file, or a link that leads anywhere.
    #[error("{0} is no directory")]
    NoDirectory(PathBuf),
    /// Others may enter it.
    #[error(
        "{path} belongs to uid {owner} with mode {mode:o}: it has to be uid {own}'s own, with mode 700; \
         as root: chown {own} {path} && chmod 700 {path}"
    )]
    Open {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Its rights.
        mode: u32,
        /// Whose it has to be.
        own: u32,
    },
}

impl Directory {
    /// Looks whether `path` can be used; it is neither made nor changed.
    ///
    /// # Errors
    /// [`DirectoryError`] where it can't.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let unusable = |error| DirectoryError::Unusable(path.to_owned(), error);
        if !path.is_absolute() {
            return Err(DirectoryError::Relative(path.to_owned()));
        }
        let own = own_uid();
        let found = path.symlink_metadata().map_err(|error| {
            let missing = error.kind() == io::ErrorKind::NotFound;
            if missing { DirectoryError::Missing { path: path.to_owned(), own } } else { unusable(error) }
        })?;
        if !found.is_dir() {
            return Err(DirectoryError::NoDirectory(path.to_owned()));
        }
        let (owner, mode) = (found.uid(), found.mode() & 0o7777);
        if owner != own || mode & OTHERS != 0 {
            return Err(DirectoryError::Open { path: path.to_owned(), owner, mode, own });
        }
        let directory = Self(path.to_owned());
        directory.file(SEAT).map_err(unusable)?;
        Ok(directory)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Locks the seat if nobody has. Two descriptions exclude each other within one process as well.
    ///
    /// # Errors
    /// When the directory has become unusable.
    pub fn take_seat(&self) -> io::Result<Option<Seat>> {
        locked(self.file(SEAT)?)
    }

    /// Which seat others try.
    ///
    /// # Errors
    /// When there is none, or the directory has become unusable.
    pub fn place(&self) -> io::Result<Place> {
        self.0.join(SEAT).symlink_metadata().map(|found| Place::of(&found))
    }

    /// Locks a seat of its own making, which others try from now on in place of `old`. `None` where another agent has done so, or does
    /// at this moment.
    ///
    /// # Errors
    /// When the directory has become unusable.
    pub fn replace_seat(&self, old: Place) -> io::Result<Option<Seat>> {
        let new = self.0.join(NEW_SEAT);
        let Some(seat) = locked(self.file(NEW_SEAT)?)? else { return Ok(None) };
        if self.place().is_ok_and(|place| place == old) {
            std::fs::rename(new, self.0.join(SEAT))?;
            Ok(Some(seat))
        } else {
            std::fs::remove_file(new)?;
            Ok(None)
        }
    }

    /// Whether it is this one that others try: they may have found none, and made another.
    #[must_use]
    pub fn has(&self, seat: &Seat) -> bool {
        self.leads(SEAT, &seat.0)
    }

    /// Whether it is this one that others connect to.
    #[must_use]
    pub fn shows(&self, publication: &Publication) -> bool {
        self.leads(SOCKET, &publication.place)
    }

    fn leads(&self, name: &str, to: &File) -> bool {
        let there = self.0.join(name).symlink_metadata();
        there.is_ok_and(|there| to.metadata().is_ok_and(|held| Place::of(&held) == Place::of(&there)))
    }

    /// Listens for successors, in place of whoever did before.
    ///
    /// # Errors
    /// When the directory has become unusable.
    pub fn publish(&self) -> io::Result<Publication> {
        let new = self.0.join(NEW_SOCKET);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (),
        }
        let listener = UnixListener::bind(&new)?;
        let place = (OFlag::O_PATH | OFlag::O_NOFOLLOW).bits();
        let place = OpenOptions::new().read(true).custom_flags(place).open(&new)?;
        std::fs::rename(&new, self.0.join(SOCKET))?;
        Ok(Publication { listener, place })
    }

    /// Connects to the one who serves.
    ///
    /// # Errors
    /// When there is none, or its queue is full.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.0.join(SOCKET)).await
    }

    fn file(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let no_link = OFlag::O_NOFOLLOW.bits();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(no_link).open(self.0.join(name))
    }
}

fn locked(seat: File) -> io::Result<Option<Seat>> {
    match seat.try_lock() {
        Ok(()) => Ok(Some(Seat(seat))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl Place {
    fn of(found: &Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }
}

impl Publication {
    /// The next who connects.
    ///
    /// # Errors
    /// Those of accept(2).
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Seat {
    /// Holds a seat that another process passed on.
    #[must_use]
    pub fn inherited(descriptor: OwnedFd) -> Self {
        Self(File::from(descriptor))
    }

    /// Which one it is: others try it if it is that of the directory.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn place(&self) -> io::Result<Place> {
        self.0.metadata().map(|found| Place::of(&found))
    }

    /// A copy, to be passed on.
    ///
    /// # Errors
    /// Without descriptors to spare.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        Ok(self.0.try_clone()?.into())
    }

    /// Unlocks it for all who hold a copy.
    pub fn free(self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the seat can't be unlocked");
        }
    }
}

/// Whether the process at the other end is this user's own, by what the kernel says of it (`SO_PEERCRED`, unix(7)).
#[must_use]
pub fn is_own(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own_uid())
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn directory() -> (tempfile::TempDir, Directory) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        (folder, directory)
    }

    #[test]
    fn one_has_the_seat_and_passes_it_on_without_letting_go() {
        let (_folder, directory) = directory();
        let first = directory.take_seat().unwrap().unwrap();
        assert!(directory.take_seat().unwrap().is_none());
        let second = Seat::inherited(first.copy().unwrap());
        drop(first);
        assert!(directory.take_seat().unwrap().is_none());
        let kept = second.copy().unwrap();
        second.free();
        let third = directory.take_seat().unwrap();
        assert!(third.is_some(), "freed for all");
        drop(kept);
        assert!(directory.take_seat().unwrap().is_none());
    }

    #[test]
    fn a_seat_that_is_held_can_be_replaced_by_one_at_a_time() {
        let (folder, directory) = directory();
        let held = directory.take_seat().unwrap().unwrap();
        let (old, another) = (directory.place().unwrap(), directory.file(NEW_SEAT).unwrap());
        another.lock().unwrap();
        assert!(directory.replace_seat(old).unwrap().is_none() && directory.has(&held), "another agent does so");
        drop(another);
        let replaced = directory.replace_seat(old).unwrap().unwrap();
        assert!(directory.has(&replaced) && !directory.has(&held));
        assert!(directory.replace_seat(old).unwrap().is_none() && directory.has(&replaced), "another agent has done so");
        drop(held);
        assert!(directory.take_seat().unwrap().is_none(), "the new one is held");
        assert!(!folder.path().join(NEW_SEAT).exists());
    }

    #[tokio::test]
    async fn the_newest_is_connected_to_and_nothing_stale_hinders() {
        let (folder, directory) = directory();
        assert_eq!(directory.connect().await.unwrap_err().kind(), io::ErrorKind::NotFound);
        let first = directory.publish().unwrap();
        let second = directory.publish().unwrap();
        let (connected, accepted) = tokio::join!(directory.connect(), second.accept());
        assert!(is_own(&connected.unwrap()) && is_own(&accepted.unwrap()));
        drop(second);
        assert_eq!(directory.connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        drop(first);
        let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [SOCKET, SEAT]);
    }

    #[tokio::test]
    async fn what_is_removed_or_replaced_is_not_found_any_more() {
        let (folder, directory) = directory();
        let (seat, socket) = (folder.path().join(SEAT), folder.path().join(SOCKET));
        let (held, published) = (directory.take_seat().unwrap().unwrap(), directory.publish().unwrap());
        for replaced in [false, true] {
            assert!(directory.has(&held) && directory.shows(&published));
            let aside = [&seat, &socket].map(|path| (path, path.with_extension("aside")));
            aside.iter().for_each(|(path, aside)| std::fs::rename(path, aside).unwrap());
            let _others = replaced.then(|| (directory.take_seat().unwrap().unwrap(), directory.publish().unwrap()));
            assert!(!directory.has(&held) && !directory.shows(&published), "{replaced}");
            aside.iter().for_each(|(path, aside)| std::fs::rename(aside, path).unwrap());
        }
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| Directory::open(path).unwrap_err().to_string();
        for mode in [0o755, 0o770, 0o701, 0o1777] {
            std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode)).unwrap();
            let error = refused(folder.path());
            assert!(error.contains(&format!("with mode {mode:o}: it has to be")) && error.contains("chmod 700 /"), "{error}");
        }
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        assert!(refused(Path::new("var/run")).contains("no absolute path"));
        assert!(refused(&folder.path().join("missing")).contains("is not there; as root: credlet initialize --no-link"));
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "").unwrap();
        symlink(folder.path(), &link).unwrap();
        assert!(refused(&file).contains("no directory") && refused(&link).contains("no directory"));
        symlink(&file, folder.path().join(SEAT)).unwrap();
        assert!(refused(folder.path()).contains("can't be used"));
    }
}
