//! Results on disk: a folder for each study.
//!
//! ```text
//! DIR/<study>/study.json       the whole outcome; what a report is made from
//! DIR/<study>/<table>.csv
//! DIR/<study>/<figure>.svg
//! ```
//!
//! A study's folder appears whole or not at all: it is written under a hidden temporary name beside
//! its destination, then renamed.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Outcome, StudyError};

/// The file that holds the outcome.
pub const FILE: &str = "study.json";

/// Where the results of a study are.
pub fn folder(directory: &Path, study: &str) -> PathBuf {
    directory.join(study)
}

/// Refuses where the study has results.
///
/// # Errors
/// [`StudyError::Exists`].
pub fn check_absent(directory: &Path, study: &str) -> Result<(), StudyError> {
    let path = folder(directory, study);
    // A dangling link is something too.
    if path.symlink_metadata().is_ok() { Err(StudyError::Exists { path }) } else { Ok(()) }
}

/// Refuses where nothing can be written into the folder of results, or the folder cannot be made.
/// Nothing is left behind, the folder neither.
///
/// # Errors
/// [`StudyError::Io`].
pub fn check_writable(directory: &Path) -> Result<(), StudyError> {
    let there = directory.ancestors().find(|path| path.exists());
    hidden(there.unwrap_or(Path::new(".")), ".writable-").map(drop)
}

/// Writes the outcome into its folder; returns the files. With `replace`, earlier results of the
/// study go once the new ones are complete.
///
/// # Errors
/// [`StudyError::Exists`], [`StudyError::Io`], [`StudyError::Table`] for a figure that cannot be drawn.
pub fn write(directory: &Path, outcome: &Outcome, replace: bool) -> Result<Vec<PathBuf>, StudyError> {
    let files = files(outcome)?;
    if !replace {
        check_absent(directory, &outcome.study)?;
    }
    fs::create_dir_all(directory).map_err(StudyError::io(directory))?;
    let new = hidden(directory, &format!(".{}-new-", outcome.study))?;
    for (name, text) in &files {
        let path = new.path().join(name);
        fs::write(&path, text).map_err(StudyError::io(&path))?;
    }
    let destination = folder(directory, &outcome.study);
    // The old folder is moved aside first: a rename does not replace a folder that is not empty.
    let old = hidden(directory, &format!(".{}-old-", outcome.study))?;
    let aside = old.path().join("results");
    let replaced = replace && destination.symlink_metadata().is_ok();
    if replaced {
        fs::rename(&destination, &aside).map_err(StudyError::io(&destination))?;
    }
    if let Err(error) = fs::rename(new.path(), &destination) {
        if replaced {
            let _ = fs::rename(&aside, &destination);
        }
        return Err(StudyError::io(&destination)(error));
    }
    // Renamed: there is nothing left to remove.
    let _ = new.keep();
    tracing::info!(study = outcome.study, folder = %destination.display(), "written");
    Ok(files.iter().map(|(name, _)| destination.join(name)).collect())
}

/// Writes a page made of the outcomes, `report.html`, into the folder of results: the whole text or
/// nothing. With `replace`, an earlier one goes.
///
/// # Errors
/// [`StudyError::Exists`], [`StudyError::Io`].
pub fn write_page(directory: &Path, name: &str, text: &str, replace: bool) -> Result<PathBuf, StudyError> {
    if !replace {
        check_absent(directory, name)?;
    }
    let path = directory.join(name);
    let mut file = ordinary(&format!(".{name}-"), 0o666).tempfile_in(directory).map_err(unnamed(directory))?;
    file.write_all(text.as_bytes()).map_err(StudyError::io(&path))?;
    file.persist(&path).map_err(|error| StudyError::io(&path)(error.error))?;
    Ok(path)
}

/// A hidden temporary folder in the directory.
fn hidden(directory: &Path, prefix: &str) -> Result<TempDir, StudyError> {
    ordinary(prefix, 0o777).tempdir_in(directory).map_err(unnamed(directory))
}

/// The error without the temporary name, which says nothing to whoever reads it.
fn unnamed(directory: &Path) -> impl FnOnce(io::Error) -> StudyError {
    |error| StudyError::io(directory)(error.kind().into())
}

/// Makes temporary files and folders that become results: with the permissions of any new one, less
/// the umask; `tempfile` alone would keep them private.
fn ordinary(prefix: &str, mode: u32) -> tempfile::Builder<'_, '_> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// Names and contents of an outcome's files.
fn files(outcome: &Outcome) -> Result<Vec<(String, String)>, StudyError> {
    let json = |source| StudyError::Json { path: PathBuf::from(FILE), source };
    let mut text = serde_json::to_string_pretty(outcome).map_err(json)?;
    text.push('\n');
    let mut files = vec![(FILE.to_owned(), text)];
    for table in &outcome.tables {
        files.push((format!("{}.csv", table.name()), table.csv()));
    }
    for figure in &outcome.figures {
        let table = outcome
            .table(figure.table())
            .ok_or_else(|| StudyError::table(figure.table(), format!("figure `{}` is of no table", figure.name())))?;
        files.push((format!("{}.svg", figure.name()), figure.svg(table)?));
    }
    Ok(files)
}

/// Reads every outcome in the folder, in the order of the registry, others by name after them.
///
/// # Errors
/// [`StudyError::NoResults`] where there is none, [`StudyError::Io`] and [`StudyError::Json`].
pub fn read(directory: &Path) -> Result<Vec<Outcome>, StudyError> {
    let none = || StudyError::NoResults { path: directory.to_owned() };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(none()),
        entries => entries.map_err(StudyError::io(directory))?,
    };
    let mut outcomes: Vec<Outcome> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StudyError::io(directory))?;
        let path = entry.path().join(FILE);
        if entry.file_name().to_string_lossy().starts_with('.') || !path.is_file() {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(StudyError::io(&path))?;
        outcomes.push(serde_json::from_str(&text).map_err(|source| StudyError::Json { path, source })?);
    }
    if outcomes.is_empty() {
        return Err(none());
    }
    let place = |outcome: &Outcome| crate::studies::ALL.iter().position(|study| study.name == outcome.study);
    outcomes.sort_by_key(|outcome| (place(outcome).unwrap_or(usize::MAX), outcome.study.clone()));
    Ok(outcomes)
}
