//! How far long work is: a bar on a terminal, a line each minute in a log.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// On standard error, and only once the work has taken a while.
pub(crate) struct Progress {
    bar: ProgressBar,
    start: Instant,
    shown: OnceLock<()>,
    /// Minutes after which a line was printed, where there is no terminal.
    logged: AtomicU64,
}

/// Work that ends sooner is not worth a bar.
const PATIENCE: Duration = Duration::from_millis(800);

/// The clock in the bar goes on while a step takes long.
const TICK: Duration = Duration::from_millis(500);

impl Progress {
    pub(crate) fn new(what: &str, steps: u128) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::hidden());
        let template = "{msg} [{bar:30}] {percent:>3} %  {elapsed} elapsed, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        Self { bar, start: Instant::now(), shown: OnceLock::new(), logged: AtomicU64::new(0) }
    }

    /// Says what is being done now.
    pub(crate) fn about(&self, what: String) {
        self.bar.set_message(what);
    }

    /// Counts finished steps (multiply-adds, kernels, cases); from any thread.
    pub(crate) fn advance(&self, steps: u64) {
        self.bar.inc(steps);
        self.show();
    }

    /// Sets how much is done; from any thread.
    pub(crate) fn set(&self, done: u64) {
        self.bar.set_position(done);
        self.show();
    }

    fn show(&self) {
        let elapsed = self.start.elapsed();
        if elapsed < PATIENCE {
            return;
        }
        if io::stderr().is_terminal() {
            self.shown.get_or_init(|| {
                self.bar.set_draw_target(ProgressDrawTarget::stderr());
                self.bar.enable_steady_tick(TICK);
            });
        } else if let Some(line) = self.log_line(elapsed) {
            // Nobody may be reading it any more.
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    /// What a log gets now: nothing within a minute of the last line.
    fn log_line(&self, elapsed: Duration) -> Option<String> {
        let minutes = elapsed.as_secs() / 60;
        let percent = self.bar.position() as f64 * 100.0 / self.bar.length().unwrap_or(0).max(1) as f64;
        let new = self.logged.fetch_max(minutes, Ordering::Relaxed) < minutes;
        new.then(|| format!("{}: {percent:.0} % after {minutes} min", self.bar.message()))
    }

    /// How much is done.
    #[cfg(test)]
    pub(crate) fn position(&self) -> u64 {
        self.bar.position()
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a build log shows nothing of hours of work, or a line for each step.
    #[test]
    fn a_log_gets_a_line_each_minute() {
        let progress = Progress::new("compile", 200);
        let mut lines = Vec::new();
        for second in 0..150 {
            progress.bar.inc(1);
            lines.extend(progress.log_line(Duration::from_secs(second)));
        }
        assert_eq!(lines, ["compile: 30 % after 1 min", "compile: 60 % after 2 min"]);
        assert_eq!(
            Progress::new("nothing to do", 0).log_line(Duration::from_secs(60)).unwrap(),
            "nothing to do: 0 % after 1 min"
        );
    }
}
