//! Files that are replaced whole: which names may be written to, and how that is done.
//!
//! The one place for both: bundles and tuning tables here, tensor files in the command line.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::NamedTempFile;

use crate::JitError;

/// Of temporary files in folders that are not the cache's.
const PREFIX: &str = ".fp8gemm-";

/// Temporary files that are being written. The lock is also held while one is renamed, so that [`abandon_writes`] finds
/// it either unfinished or in place.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A file to write that a user has named.
///
/// A link stays a link: what it points to is replaced, or made. A device, pipe or socket never is, nor a folder. Where
/// nothing is, the name must be one that a file can have: not `new/`.
///
/// ```
/// use fp8gemm_jit::{Destination, JitError};
///
/// let folder = tempfile::tempdir().unwrap();
/// let destination = Destination::new(&folder.path().join("out"))?;
/// destination.probe()?;
/// destination.replace(|file| file.write_all(b"all of it"))?;
/// assert_eq!(std::fs::read(destination.path()).unwrap(), b"all of it");
/// assert!(matches!(Destination::new(folder.path()), Err(JitError::NotRegular { .. })));
/// # Ok::<(), JitError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    path: PathBuf,
}

impl Destination {
    /// Follows links, and looks at what is there. Nothing is written.
    ///
    /// # Errors
    /// [`JitError::NotRegular`] for what is there and is no regular file, and for a name that no file can have;
    /// [`JitError::File`] where the system does not tell.
    pub fn new(path: &Path) -> Result<Self, JitError> {
        Ok(Self { path: resolved(path)? })
    }

    /// Where the file is or will be, behind all links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the file.
    pub fn folder(&self) -> &Path {
        folder_of(&self.path)
    }

    /// Makes a file in the folder and removes it: better to learn before the work than after it that the folder is
    /// missing or read-only.
    ///
    /// # Errors
    /// [`JitError::File`].
    pub fn probe(&self) -> Result<(), JitError> {
        self.temporary().map(drop).map_err(self.failed())
    }

    /// Replaces the file, or makes it: all of it or, where an error is returned, nothing. It gets the permissions of a
    /// new file.
    ///
    /// # Errors
    /// [`JitError::File`], with what `fill` or the system says.
    pub fn replace(&self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), JitError> {
        self.temporary().and_then(|file| put(file, &self.path, fill)).map_err(self.failed())
    }

    fn temporary(&self) -> io::Result<NamedTempFile> {
        temporary(self.folder(), PREFIX, 0o666)
    }

    fn failed(&self) -> impl Fn(io::Error) -> JitError {
        |source| JitError::File { action: "write", path: self.path.clone(), source }
    }
}

fn resolved(path: &Path) -> Result<PathBuf, JitError> {
    let failed = |source| JitError::File { action: "write", path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(metadata) => {
            check_regular("write", path, &metadata, "only a regular file is replaced")?;
            fs::canonicalize(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            // A link to what is not there yet. A ring of links is another error, so that this ends.
            Ok(target) => resolved(&folder_of(path).join(target)),
            Err(_) if names_a_file(path) => Ok(path.to_owned()),
            // The system would say so only when the temporary file gets this name: after the work.
            Err(_) => Err(JitError::NotRegular {
                action: "write",
                path: path.to_owned(),
                found: "no name for a file",
                rule: "a new file needs one, which does not end in a separator, `.` or `..`",
            }),
        },
        Err(error) => Err(failed(error)),
    }
}

/// Whether a file can be made under this name: not `new/`, `new/.` or `new/..`, which `Path` takes for `new`, or nearly.
fn names_a_file(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    path.file_name().is_some_and(|name| bytes.ends_with(name.as_encoded_bytes()))
}

/// Refuses what is no regular file; the rule says why it must be one.
pub(crate) fn check_regular(
    action: &'static str,
    path: &Path,
    metadata: &fs::Metadata,
    rule: &'static str,
) -> Result<(), JitError> {
    if metadata.is_file() {
        return Ok(());
    }
    let found = if metadata.is_dir() { "a folder" } else { "a pipe, socket or device" };
    Err(JitError::NotRegular { action, path: path.to_owned(), found, rule })
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A new file with these permissions less the umask; `tempfile` alone would keep it private.
pub(crate) fn temporary(folder: &Path, prefix: &str, mode: u32) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder.tempfile_in(folder)
}

/// Fills a temporary file and gives it a name in its folder, which so never stands for a part of it, even if the machine
/// stops in the middle.
pub(crate) fn put(
    file: NamedTempFile,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let name = file.path().to_owned();
    unfinished().insert(name.clone());
    let filled = write(&file, fill);
    let mut unfinished = unfinished();
    unfinished.remove(&name);
    filled?;
    file.persist(path).map_err(|error| error.error)?;
    drop(unfinished);
    // The rename itself survives a power cut only once the folder is flushed. Where folders cannot be opened (Windows),
    // it is up to the system.
    if let Ok(folder) = File::open(folder_of(path)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

fn write(file: &NamedTempFile, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 20, file.as_file());
    fill(&mut writer)?;
    writer.flush()?;
    drop(writer);
    file.as_file().sync_all()
}

/// Removes the temporary files of all writes that are under way, for a process that is about to end: what they were to
/// replace stays as it was. No write comes to its end, well or not, until the value is dropped.
pub fn abandon_writes() -> Abandoned {
    let mut unfinished = unfinished();
    for path in std::mem::take(&mut *unfinished) {
        let _ = fs::remove_file(path);
    }
    Abandoned { _unfinished: unfinished }
}

/// What [`abandon_writes`] gives: holds up all writes.
#[derive(Debug)]
#[must_use = "writes go on when it is dropped"]
pub struct Abandoned {
    _unfinished: MutexGuard<'static, BTreeSet<PathBuf>>,
}

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "destination_tests.rs"]
mod tests;
