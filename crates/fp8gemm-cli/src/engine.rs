//! Which engine computes, and the progress bar while it does.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fp8gemm::sim::{Gemm, Matrix};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::{Engine, EngineArgs};
use crate::error::CliError;
use crate::probe;
use crate::text::duration;

/// What was chosen; for now there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Chosen {
    Twin,
}

/// The engine to use.
///
/// # Errors
/// [`CliError::Missing`] for the GPU: no machine is enough for this version.
pub(crate) fn choose(args: EngineArgs) -> Result<Chosen, CliError> {
    match args.engine {
        Engine::Twin => Ok(Chosen::Twin),
        Engine::Auto => {
            tracing::info!("engine auto: the CPU twin");
            Ok(Chosen::Twin)
        }
        Engine::Hopper => {
            let machine = match probe::driver() {
                Ok(driver) => match driver.devices.get(args.device as usize) {
                    Some(device) => format!("GPU {} is {}", args.device, device.name),
                    None => format!("there is no GPU {}", args.device),
                },
                Err(why) => why.to_string(),
            };
            let reason = format!("this version has no GPU kernels, only the CPU model (--engine twin); {machine}");
            Err(CliError::Missing { engine: "hopper", reason })
        }
    }
}

/// Computes D; says how long it took.
pub(crate) fn run(gemm: &Gemm<'_>, what: &str) -> Result<(Matrix, Duration), CliError> {
    let progress = Progress::new(what, gemm.problem().macs());
    let start = Instant::now();
    let d = gemm.run_with(&|macs| progress.advance(macs))?;
    let time = start.elapsed();
    progress.finish();
    tracing::info!(what, time = %duration(time), "computed");
    Ok((d, time))
}

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

    /// Counts finished multiply-adds; from any thread.
    pub(crate) fn advance(&self, macs: u64) {
        self.bar.inc(macs);
        if self.start.elapsed() > PATIENCE && io::stderr().is_terminal() {
            self.shown.get_or_init(|| self.bar.set_draw_target(ProgressDrawTarget::stderr()));
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
