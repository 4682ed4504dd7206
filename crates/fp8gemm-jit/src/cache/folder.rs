//! The cache's folder: entries that appear whole or not at all, and locks between processes.
//!
//! ```text
//! <key>.cubin    one entry
//! .tmp-...       an entry being written; left over only by a process that was killed
//! locks/<xx>     lock of all keys that start with these two digits; never deleted
//! imported       which entries came by an import (see `imported`); locks/imported is its lock
//! tuning.json    what was tuned (see `tuning`); locks/tuning is its lock
//! ```
//!
//! Locks are 256 files that stay, rather than one for each key: deleting a lock file that another
//! process has just opened would give two holders.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::Key;
use crate::destination;

const SUFFIX: &str = ".cubin";
const TEMPORARY: &str = ".tmp-";
/// A process that writes needs milliseconds; what is older was left by one that was killed.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Compilations take a second at most; who waits longer compiles too, rather than hang behind a stopped process.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    patience: Duration,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, patience: PATIENCE }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn entry(&self, key: &Key) -> PathBuf {
        self.path.join(file_name(key))
    }

    /// The bytes of an entry; `None` if there is none.
    pub(super) fn read(&self, key: &Key) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.entry(key)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until no other process compiles this key, at most for the patience. The lock ends
    /// when the file is dropped, or with the process.
    pub(super) fn lock(&self, key: &Key) -> io::Result<File> {
        lock_for(&self.path, &format!("{:02x}", key.as_bytes()[0]), self.patience)
    }

    /// Puts an entry in place, whole or not at all, even if the machine stops in the middle.
    pub(super) fn publish(&self, key: &Key, bytes: &[u8]) -> io::Result<()> {
        std::fs::create_dir_all(&self.path)?;
        write_whole(&self.path, &self.entry(key), bytes)
    }

    /// Keys of all entries, in order.
    pub(super) fn keys(&self) -> io::Result<Vec<Key>> {
        let mut keys: Vec<_> = self.names()?.iter().filter_map(|name| key_of(name)).collect();
        keys.sort();
        Ok(keys)
    }

    /// Removes an entry; whether there was one.
    pub(super) fn remove(&self, key: &Key) -> io::Result<bool> {
        match std::fs::remove_file(self.entry(key)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes what killed processes left. Best effort: it is only space.
    pub(super) fn sweep(&self) {
        let Ok(names) = self.names() else { return };
        for name in names.iter().filter(|name| name.starts_with(TEMPORARY)) {
            let path = self.path.join(name);
            let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age > ABANDONED) {
                tracing::debug!(path = %path.display(), "removing a file that a killed process left");
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        // Our own names are ASCII; others are none of our business.
        let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
        Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
    }
}

/// Waits until no other process holds the lock of this name in a folder, as [`Folder::lock`] does.
pub(crate) fn lock_file(folder: &Path, name: &str) -> io::Result<File> {
    lock_for(folder, name, PATIENCE)
}

fn lock_for(folder: &Path, name: &str, patience: Duration) -> io::Result<File> {
    let locks = folder.join("locks");
    std::fs::create_dir_all(&locks)?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(locks.join(name))?;
    let begin = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begin.elapsed() < patience => std::thread::sleep(POLL),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another process holds the lock"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// The name of an entry's file, in the folder and in a bundle.
pub(super) fn file_name(key: &Key) -> String {
    format!("{key}{SUFFIX}")
}

/// The key in the name of an entry's file; `None` for every other name.
pub(super) fn key_of(name: &str) -> Option<Key> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

/// Writes a file of the cache's own, in its folder: whole or not at all.
pub(super) fn write_whole(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    destination::put(destination::temporary(folder, TEMPORARY, 0o644)?, path, |file| file.write_all(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder, Key) {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path().join("a/b"));
        (root, folder, Key::new("source", &["-o"], (13, 0)))
    }

    /// Breaks if a stopped process blocks everybody for ever, or a lock does not exclude.
    #[test]
    fn locks_exclude_and_patience_ends() {
        let (_root, mut folder, key) = folder();
        folder.patience = Duration::from_millis(30);
        let held = folder.lock(&key).unwrap();
        let begin = Instant::now();
        assert_eq!(folder.lock(&key).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= folder.patience);
        drop(held);
        folder.lock(&key).unwrap();
    }

    /// Breaks if files of killed processes stay for ever, or those of living ones are removed.
    #[test]
    fn only_old_temporary_files_are_swept() {
        let (_root, folder, key) = folder();
        folder.publish(&key, b"entry").unwrap();
        let old = SystemTime::now() - ABANDONED - Duration::from_secs(60);
        for (name, modified) in [(".tmp-old", old), (".tmp-new", SystemTime::now()), ("foreign", old)] {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(modified).unwrap();
        }
        File::options().write(true).open(folder.entry(&key)).unwrap().set_modified(old).unwrap();
        folder.sweep();
        let mut names = folder.names().unwrap();
        names.sort();
        assert_eq!(names, [".tmp-new".to_owned(), file_name(&key), "foreign".to_owned()]);
    }

    /// Breaks if publishing leaves a temporary file, does not replace, or hides an error.
    #[test]
    fn publishing_replaces_and_leaves_nothing() {
        let (root, folder, key) = folder();
        assert_eq!(folder.read(&key).unwrap(), None);
        assert_eq!(folder.keys().unwrap(), []);
        folder.publish(&key, b"one").unwrap();
        folder.publish(&key, b"two").unwrap();
        assert_eq!(folder.read(&key).unwrap(), Some(b"two".to_vec()));
        assert_eq!(folder.names().unwrap(), [file_name(&key)]);
        assert_eq!(folder.keys().unwrap(), [key]);
        assert!(folder.remove(&key).unwrap());
        assert!(!folder.remove(&key).unwrap());

        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Folder::new(file.join("below")).publish(&key, b"one").is_err());
    }
}
