//! A case that is kept, on everything that a subject has for it.

use fp8gemm_sim::Matrix;
use rayon::prelude::*;

use crate::check::{Fault, check};
use crate::{Case, DifftestError, Subject};

/// What a subject did with a kept case.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Replayed {
    /// Configurations that computed it, each twice.
    pub configurations: usize,
    /// The first configuration that is wrong, and how.
    pub fault: Option<(String, Fault)>,
}

/// [`check`](crate::check()) in every configuration of the subject, until one is wrong.
///
/// # Errors
/// [`DifftestError::Unsupported`] if it computes the problem in none of them; [`DifftestError::Sim`] if the
/// case is not legal.
///
/// ```
/// use fp8gemm_difftest::{Generator, Menu, Only, TwinPath, replay};
/// use fp8gemm_sim::Path;
///
/// let case = Generator::new(0, Menu::kernels(), Only::default()).case(3)?;
/// let expected = case.twin(Path::Generic)?;
/// let replayed = replay(&mut TwinPath::new(Path::best()), &case, &expected)?;
/// assert!(replayed.fault.is_none() && replayed.configurations == 1);
/// # Ok::<(), fp8gemm_difftest::DifftestError>(())
/// ```
pub fn replay(subject: &mut dyn Subject, case: &Case, expected: &Matrix) -> Result<Replayed, DifftestError> {
    let names = subject.configurations(&case.problem)?;
    if let Some(preparer) = subject.preparer() {
        (0..names.len()).into_par_iter().for_each(|number| preparer.prepare(&case.problem, number));
    }
    let mut replayed = Replayed { configurations: 0, fault: None };
    let mut unsupported = None;
    for (number, name) in names.into_iter().enumerate() {
        match check(subject, case, expected, number) {
            Ok(fault) => {
                replayed.configurations += 1;
                if let Some(fault) = fault {
                    replayed.fault = Some((name, fault));
                    break;
                }
            }
            Err(error @ DifftestError::Unsupported { .. }) => unsupported = unsupported.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    match unsupported {
        Some(error) if replayed.configurations == 0 => Err(error),
        _ => Ok(replayed),
    }
}
