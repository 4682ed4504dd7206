//! What is under test.

mod external;
#[cfg(feature = "hopper")]
mod hopper;
mod twin;

pub use external::External;
#[cfg(feature = "hopper")]
pub use hopper::HopperSubject;
#[cfg(feature = "hopper")]
pub(crate) use hopper::has_kernel;
pub use twin::TwinPath;

use std::sync::Arc;

use fp8gemm_problem::Problem;

use crate::{Alignment, Buffers, DifftestError, Prepare};

/// Something that computes D. The runner lays out memory, looks at every byte of it afterwards, and
/// compares D with the twin.
///
/// ```
/// use fp8gemm_difftest::{Buffers, DifftestError, Generator, Menu, Only, Options, Subject, run};
/// use fp8gemm_problem::Problem;
///
/// /// Writes nothing at all.
/// struct Idle;
///
/// impl Subject for Idle {
///     fn name(&self) -> String {
///         "idle".to_owned()
///     }
///
///     fn run(&mut self, _: &Problem, _: usize, _: &mut Buffers) -> Result<(), DifftestError> {
///         Ok(())
///     }
/// }
///
/// let generator = Generator::new(0, Menu::twin(), Only::default());
/// let summary = run(&generator, &mut [Box::new(Idle)], &Options::cases(1), &mut |_| {})?;
/// assert_eq!(summary.findings.len(), 1);
/// # Ok::<(), DifftestError>(())
/// ```
pub trait Subject {
    /// Its name in reports.
    fn name(&self) -> String;

    /// What it asks of addresses and strides; nothing unless said otherwise.
    fn alignment(&self, problem: &Problem) -> Alignment {
        let _ = problem;
        Alignment::NONE
    }

    /// The ways in which it computes a problem, all of which must give the same bits; at least one.
    ///
    /// # Errors
    /// [`DifftestError::Unsupported`] where it does not compute the problem: no finding, the case is
    /// counted as passed over.
    fn configurations(&mut self, problem: &Problem) -> Result<Vec<String>, DifftestError> {
        let _ = problem;
        Ok(vec![self.name()])
    }

    /// What can be done for a problem before its turn, on other threads; nothing unless said otherwise.
    fn preparer(&self) -> Option<Arc<dyn Prepare>> {
        None
    }

    /// Computes D into `buffers.d`, in the way of that number of [`configurations`](Self::configurations).
    ///
    /// # Errors
    /// [`DifftestError::Unsupported`] where only now it turns out that it does not compute the problem;
    /// anything else is reported as a finding: a subject that fails gives no D.
    fn run(&mut self, problem: &Problem, configuration: usize, buffers: &mut Buffers) -> Result<(), DifftestError>;
}
