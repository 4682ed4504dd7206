//! Ctrl-C (and SIGTERM) in the middle of a write: the half-written temporary file goes, the
//! destination stays as it was, the exit code is 130. A command that can end early with what it has
//! is asked to, once.

use std::io::{self, IsTerminal, Write};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use fp8gemm::jit::abandon_writes;

/// Held while files are renamed that belong together, and by an interruption from then on.
static RENAMING: Mutex<()> = Mutex::new(());

/// Whether the command looks at [`STOP`].
static PATIENT: AtomicBool = AtomicBool::new(false);

/// Whether it is to end with what it has.
static STOP: AtomicBool = AtomicBool::new(false);

/// What is told to whoever interrupts; empty for nothing.
static LAST_WORDS: Mutex<String> = Mutex::new(String::new());

/// Installs the handler. Without one (a signal mask of the parent's, say) the system's own answer
/// to Ctrl-C remains.
pub(crate) fn install() {
    let installed = ctrlc::set_handler(|| {
        // The second time, at once.
        if PATIENT.load(Ordering::Relaxed) && !STOP.swap(true, Ordering::Relaxed) {
            return;
        }
        let _renamed = RENAMING.lock().unwrap_or_else(PoisonError::into_inner);
        let _abandoned = abandon_writes();
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

/// Runs the renaming, which no interruption cuts in two.
pub(crate) fn finish<T>(rename: impl FnOnce() -> T) -> T {
    let _renaming = RENAMING.lock().unwrap_or_else(PoisonError::into_inner);
    rename()
}
