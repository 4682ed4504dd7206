//! Ctrl-C (and SIGTERM) in the middle of a write: the half-written temporary file goes, the
//! destination stays as it was, the exit code is 130. A command that can end early with what it has
//! is asked to, once.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The temporary file being written, if any. The lock is also held while it is renamed, so that an
/// interruption finds it either unfinished or in place.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Whether the command looks at [`STOP`].
static PATIENT: AtomicBool = AtomicBool::new(false);

/// Whether it is to end with what it has.
static STOP: AtomicBool = AtomicBool::new(false);

/// What is told to whoever interrupts; empty for nothing.
static LAST_WORDS: Mutex<String> = Mutex::new(String::new());

fn unfinished() -> MutexGuard<'static, Option<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Installs the handler. Without one (a signal mask of the parent's, say) the system's own answer
/// to Ctrl-C remains.
pub(crate) fn install() {
    let installed = ctrlc::set_handler(|| {
        // The second time, at once.
        if PATIENT.load(Ordering::Relaxed) && !STOP.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(path) = unfinished().take() {
            let _ = fs::remove_file(path);
        }
        let words = LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner);
        if !words.is_empty() {
            let mut stderr = io::stderr().lock();
            // A progress bar may be on the line.
            let line = if stderr.is_terminal() { "\n" } else { "" };
            let _ = writeln!(stderr, "{line}{words}");
        }
        process::exit(130);
    });
    if let Err(error) = installed {
        tracing::debug!(%error, "no handler for Ctrl-C");
    }
}

/// From now on the first interruption only sets what is returned: the command ends soon by itself.
pub(crate) fn asks() -> &'static AtomicBool {
    PATIENT.store(true, Ordering::Relaxed);
    &STOP
}

/// What an interruption prints before the end, from now on. Words about what is written belong into
/// the closure of [`finish`]: an interruption that waited for it would print the earlier ones.
pub(crate) fn last_words(text: String) {
    *LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner) = text;
}

/// Names the temporary file that an interruption must remove.
pub(crate) fn started(path: &Path) {
    *unfinished() = Some(path.to_owned());
}

/// Runs the renaming, which no interruption cuts in two and after which there is nothing to remove.
pub(crate) fn finish<T>(rename: impl FnOnce() -> T) -> T {
    let mut unfinished = unfinished();
    let result = rename();
    *unfinished = None;
    result
}
