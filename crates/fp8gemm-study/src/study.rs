//! A [`Study`] as the registry knows it, and the [`Settings`] it runs under.

use core::fmt;
use std::sync::Arc;

use crate::{Outcome, StudyError};

/// One entry of the registry ([`crate::studies::ALL`]).
#[derive(Clone, Copy, Debug)]
pub struct Study {
    /// Its name on the command line and of its folder: lower case and hyphens.
    pub name: &'static str,
    /// A line that names the subject.
    pub title: &'static str,
    /// The question it answers.
    pub question: &'static str,
    /// What is computed at full size, in short: sizes, distributions, policies.
    pub takes: &'static str,
    /// The function.
    pub run: fn(&Settings) -> Result<Outcome, StudyError>,
}

/// How a study is run. The same settings give the same outcome.
#[derive(Clone)]
pub struct Settings {
    /// Seed of every sample. Figures quoted in the documentation are of [`Settings::SEED`].
    pub seed: u64,
    /// Smaller sizes, a few seconds at most, with fixed results of their own.
    pub quick: bool,
    progress: Option<Arc<Progress>>,
}

type Progress = dyn Fn(f64) + Send + Sync;

impl Settings {
    /// The seed unless another is set.
    pub const SEED: u64 = 1;

    /// Full size, the usual seed.
    pub fn full() -> Self {
        Self { seed: Self::SEED, quick: false, progress: None }
    }

    /// The smaller sizes.
    pub fn quick() -> Self {
        Self { quick: true, ..Self::full() }
    }

    /// Calls `progress` with the share that is done, 0 to 1, while a study runs.
    #[must_use]
    pub fn on_progress(self, progress: impl Fn(f64) + Send + Sync + 'static) -> Self {
        Self { progress: Some(Arc::new(progress)), ..self }
    }

    /// The first when quick, else the second: `settings.size(64, 192)`.
    pub fn size<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// A study says that `done` of `total` steps are done.
    pub fn progress(&self, done: usize, total: usize) {
        if let Some(progress) = &self.progress {
            progress(done as f64 / total.max(1) as f64);
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::full()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("seed", &self.seed).field("quick", &self.quick).finish_non_exhaustive()
    }
}
