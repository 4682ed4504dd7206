//! The progress bar of a computation on the CPU.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on standard error that appears only once the work has taken a while, and only on a
/// terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    start: Instant,
    shown: OnceLock<()>,
}

/// Work that ends sooner is not worth a bar.
const PATIENCE: Duration = Duration::from_millis(800);

impl Progress {
    pub(crate) fn new(what: &str, macs: u128) -> Self {
        let bar = ProgressBar::with_draw_target(Some(macs as u64), ProgressDrawTarget::hidden());
        let template = "{msg} [{bar:30}] {percent:>3} %  {elapsed} elapsed, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        Self { bar, start: Instant::now(), shown: OnceLock::new() }
    }

    /// Says what is being done now.
    pub(crate) fn about(&self, what: String) {
        self.bar.set_message(what);
    }

    /// Counts finished multiply-adds; from any thread.
    pub(crate) fn advance(&self, macs: u64) {
        self.bar.inc(macs);
        self.show();
    }

    /// Sets how much is done; from any thread.
    pub(crate) fn set(&self, done: u64) {
        self.bar.set_position(done);
        self.show();
    }

    fn show(&self) {
        if self.start.elapsed() > PATIENCE && io::stderr().is_terminal() {
            self.shown.get_or_init(|| self.bar.set_draw_target(ProgressDrawTarget::stderr()));
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
