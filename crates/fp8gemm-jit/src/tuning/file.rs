//! The file of a table: read without fail, joined with what others wrote meanwhile, written whole.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::Tuning;
use crate::cache::lock_file;
use crate::destination::check_regular;
use crate::{Destination, JitError};

/// Its name, in the folder of the cache.
pub const FILE: &str = "tuning.json";

impl Tuning {
    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// [`JitError::File`], [`JitError::NotRegular`], and those of [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Option<Self>, JitError> {
        // Before it is opened: that waits for the other end of a pipe.
        if let Ok(metadata) = fs::metadata(path) {
            check_regular(
                "read",
                path,
                &metadata,
                "a tuning table is a regular file, which is replaced when more is known",
            )?;
        }
        match fs::read(path) {
            Ok(json) => Self::parse(&json).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(JitError::File { action: "read", path: path.to_owned(), source }),
        }
    }

    /// Reads a file. One that is damaged, of another schema, or cannot be read counts as none, with a
    /// warning: kernels are then chosen by the cost model. Entries with a pattern that this version does not
    /// know stay, since a later version may have written them, and are a warning: no choice takes them.
    pub fn load(path: &Path) -> Self {
        Self::load_or_why(path).unwrap_or_default()
    }

    /// As [`load`](Self::load), but a file that is ignored is an error: its name, and why it is ignored.
    pub(crate) fn load_or_why(path: &Path) -> Result<Self, String> {
        let tuning = match Self::read(path) {
            Ok(found) => found.unwrap_or_default(),
            Err(error) => {
                let shown = path.display();
                tracing::warn!(path = %shown, %error, "the tuning table is ignored");
                return Err(match error {
                    JitError::Tuning { .. } => format!("{shown} is ignored: {error}"),
                    // It names the file itself.
                    error => error.to_string(),
                });
            }
        };
        let problems = tuning.tables().iter().flat_map(|table| &table.problems);
        let entries = problems.flat_map(|tuned| tuned.ranking.iter().map(move |timed| (&tuned.problem, timed)));
        let mut unknown = entries.filter_map(|(problem, timed)| Some((problem, timed.pattern().err()?)));
        if let Some((problem, error)) = unknown.next() {
            let others = unknown.count();
            tracing::warn!(path = %path.display(), %problem, %error, others, "an entry of the tuning table is ignored");
        }
        Ok(tuning)
    }

    /// Adds what `self` knows to a file, which another process may be doing too: under a lock, from what
    /// is there then, and so that the name never stands for half a file. What is known of the same problem
    /// on the same machine is replaced if `replace`. A damaged file is set aside as `tuning.json.damaged`.
    ///
    /// # Errors
    /// [`JitError::File`], and those of [`Destination::new`]. The file is then as it was.
    pub fn store(&self, path: &Path, replace: bool) -> Result<(), JitError> {
        let (destination, _lock) = locked(path)?;
        let path = destination.path();
        let aside = path.with_extension("json.damaged");
        let (mut all, damaged) = match Self::read(path) {
            Ok(found) => (found.unwrap_or_default(), false),
            Err(JitError::Tuning { reason }) => {
                tracing::warn!(path = %path.display(), reason, aside = %aside.display(), "the tuning table is set aside");
                let failed = |source| JitError::File { action: "set aside", path: path.to_owned(), source };
                fs::rename(path, &aside).map_err(failed)?;
                (Self::default(), true)
            }
            Err(error) => return Err(error),
        };
        all.merge(self, replace);
        destination.replace(|file| file.write_all(&all.to_json())).inspect_err(|_| {
            if damaged {
                let _ = fs::rename(&aside, path);
            }
        })
    }

    /// Tries what [`store`](Self::store) does but the table itself, which stays as it is: minutes of measuring for one
    /// that cannot be written would be in vain. Makes its folder.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub fn probe(path: &Path) -> Result<(), JitError> {
        let (destination, _lock) = locked(path)?;
        destination.probe()
    }
}

/// Where a table is written, in a folder that is there, and the lock for it. Behind links, so that all names of a table
/// have one lock.
fn locked(path: &Path) -> Result<(Destination, File), JitError> {
    let destination = Destination::new(path)?;
    let failed = |action| move |source| JitError::File { action, path: path.to_owned(), source };
    fs::create_dir_all(destination.folder()).map_err(failed("write"))?;
    let lock = lock_file(destination.folder(), "tuning").map_err(failed("lock"))?;
    Ok((destination, lock))
}
