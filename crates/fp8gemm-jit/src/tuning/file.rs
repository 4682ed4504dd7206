//! The file of a table: read without fail, joined with what others wrote meanwhile, written whole.

use std::fs::File;
use std::io;
use std::path::Path;

use super::Tuning;
use crate::JitError;
use crate::cache::{lock_file, write_whole};

/// Its name, in the folder of the cache.
pub const FILE: &str = "tuning.json";

impl Tuning {
    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// [`JitError::File`], and those of [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Option<Self>, JitError> {
        match std::fs::read(path) {
            Ok(json) => Self::parse(&json).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(JitError::File { action: "read", path: path.to_owned(), source }),
        }
    }

    /// Reads a file. One that is damaged, of another schema, or cannot be read counts as none, with a
    /// warning: kernels are then chosen by the cost model. Entries with a pattern that this version does not
    /// know stay, since a later version may have written them, and are a warning: no choice takes them.
    pub fn load(path: &Path) -> Self {
        let tuning = Self::read(path)
            .unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "the tuning table is ignored");
                None
            })
            .unwrap_or_default();
        let problems = tuning.tables().iter().flat_map(|table| &table.problems);
        let entries = problems.flat_map(|tuned| tuned.ranking.iter().map(move |timed| (&tuned.problem, timed)));
        let mut unknown = entries.filter_map(|(problem, timed)| Some((problem, timed.pattern().err()?)));
        if let Some((problem, error)) = unknown.next() {
            let others = unknown.count();
            tracing::warn!(path = %path.display(), %problem, %error, others, "an entry of the tuning table is ignored");
        }
        tuning
    }

    /// Adds what `self` knows to a file, which another process may be doing too: under a lock, from what
    /// is there then, and so that the name never stands for half a file. What is known of the same problem
    /// on the same machine is replaced if `replace`. A damaged file is set aside as `tuning.json.damaged`.
    ///
    /// # Errors
    /// [`JitError::File`]. The file is then as it was.
    pub fn store(&self, path: &Path, replace: bool) -> Result<(), JitError> {
        let failed = |action| move |source| JitError::File { action, path: path.to_owned(), source };
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(folder).map_err(failed("write"))?;
        let _lock: File = lock_file(folder, "tuning").map_err(failed("lock"))?;
        let mut all = match Self::read(path) {
            Ok(found) => found.unwrap_or_default(),
            Err(JitError::Tuning { reason }) => {
                let aside = path.with_extension("json.damaged");
                tracing::warn!(path = %path.display(), reason, aside = %aside.display(), "the tuning table is set aside");
                std::fs::rename(path, &aside).map_err(failed("set aside"))?;
                Self::default()
            }
            Err(error) => return Err(error),
        };
        all.merge(self, replace);
        write_whole(folder, path, &all.to_json()).map_err(failed("write"))
    }
}
