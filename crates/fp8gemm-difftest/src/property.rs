//! Properties between results, which hold whatever the right bits are.

use core::fmt;

use fp8gemm_formats::{Fp8Format, ScaledMatrix};
use fp8gemm_problem::{Epilogue, OutputType, Problem};
use fp8gemm_sim::{Matrix, Path, compare};
use half::{bf16, f16};
use ndarray::Array2;

use crate::check::{Fault, compute};
use crate::{Case, DifftestError, Subject};

/// What must hold between the results of two cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Property {
    /// Rows of A (and C) in another order give D's rows in that order.
    RowPermutation,
    /// A few rows alone give the same bits as among all others.
    BatchInvariance,
    /// K cut at a multiple of 128, the second part accumulating into the first's f32 D, gives what the
    /// twin gives in two calls.
    CutK,
    /// -A and -C give -D, up to the sign of zero.
    Negation,
    /// Scales of A times 2 give 2 D, where nothing over- or underflows.
    PowerOfTwo,
    /// All configurations give the same bits.
    Configurations,
}

impl Property {
    /// Every property.
    pub const ALL: [Self; 6] = [
        Self::RowPermutation,
        Self::BatchInvariance,
        Self::CutK,
        Self::Negation,
        Self::PowerOfTwo,
        Self::Configurations,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RowPermutation => "row-permutation",
            Self::BatchInvariance => "batch-invariance",
            Self::CutK => "cut-k",
            Self::Negation => "negation",
            Self::PowerOfTwo => "power-of-two",
            Self::Configurations => "configurations",
        }
    }

    /// Whether it says anything of this case.
    pub fn applies(self, case: &Case) -> bool {
        let p = &case.problem;
        match self {
            Self::RowPermutation | Self::BatchInvariance => p.m > 1,
            Self::CutK => p.k > 128,
            Self::Negation => true,
            Self::PowerOfTwo => moderate(&case.a) && moderate(&case.b),
            Self::Configurations => true,
        }
    }

    /// The property that the case of this number is held to.
    pub(crate) const fn of_turn(index: u64) -> Self {
        Self::ALL[(index % Self::ALL.len() as u64) as usize]
    }

    /// What the subject computes beside the case itself, in order. A C that is a result of the first is 0.
    fn others(self, case: &Case) -> Result<Vec<Case>, DifftestError> {
        let m = case.problem.m;
        Ok(match self {
            Self::RowPermutation => vec![case.rows(&(0..m).rev().collect::<Vec<_>>())?],
            Self::BatchInvariance => vec![case.rows(&some_rows(m))?],
            Self::CutK => {
                let [first, second] = parts(case)?;
                let zeros = Matrix::F32(Array2::zeros((m, case.problem.n)));
                vec![first, adding(&second, zeros)]
            }
            Self::Negation => {
                let c = case.c.as_ref().map(negated);
                vec![case.with(negated_codes(&case.a)?, case.b.clone(), c)]
            }
            Self::PowerOfTwo => {
                let plain = plain_f32(case);
                let doubled = case.a.scales().mapv(|scale| 2.0 * scale);
                let a = ScaledMatrix::new(case.a.ty(), case.a.layout(), case.a.codes().to_owned(), doubled)?;
                let b = plain.b.clone();
                let other = plain.with(a, b, None);
                vec![plain, other]
            }
            Self::Configurations => Vec::new(),
        })
    }

    /// The problems that a subject is asked for, and in which way (modulo the ways that it has for them):
    /// what can be prepared before [`check`](Self::check).
    pub(crate) fn runs(
        self,
        case: &Case,
        configuration: usize,
        configurations: usize,
    ) -> Result<Vec<(Problem, usize)>, DifftestError> {
        if self == Self::Configurations {
            return Ok(other_ways(configuration, configurations).map(|other| (case.problem, other)).collect());
        }
        Ok(self.others(case)?.iter().map(|other| (other.problem, configuration)).collect())
    }

    /// Holds the subject to it, given its own D of the case. `Ok(None)`: it holds.
    ///
    /// # Errors
    /// Those of [`Subject::run`].
    pub fn check(
        self,
        subject: &mut dyn Subject,
        case: &Case,
        d: &Matrix,
        configuration: usize,
    ) -> Result<Option<Fault>, DifftestError> {
        let mut results = |case: &Case| -> Result<Matrix, DifftestError> {
            // Another problem has configurations of its own.
            let count = subject.configurations(&case.problem)?.len().max(1);
            compute(subject, case, configuration % count)
        };
        let others = self.others(case)?;
        let (expected, actual) = match (self, others.as_slice()) {
            (Self::RowPermutation, [reversed]) => {
                let rows: Vec<usize> = (0..case.problem.m).rev().collect();
                (d.view().gather_rows(&rows), results(reversed)?)
            }
            (Self::BatchInvariance, [some]) => (d.view().gather_rows(&some_rows(case.problem.m)), results(some)?),
            (Self::CutK, [first, second]) => {
                let twin = adding(second, first.twin(Path::best())?).twin(Path::best())?;
                let sum = results(first)?;
                (twin, results(&adding(second, sum))?)
            }
            (Self::Negation, [other]) => (unsigned_zeros(d), unsigned_zeros(&negated(&results(other)?))),
            (Self::PowerOfTwo, [plain, doubled]) => {
                let expected = results(plain)?.to_f32().mapv(|x| 2.0 * x);
                (Matrix::from_f32(expected, OutputType::F32), results(doubled)?)
            }
            _ => {
                let count = subject.configurations(&case.problem)?.len();
                for other in other_ways(configuration, count) {
                    let there = compute(subject, case, other)?;
                    if let Some(fault) = self.fault(d, &there)? {
                        return Ok(Some(fault));
                    }
                }
                return Ok(None);
            }
        };
        self.fault(&expected, &actual)
    }

    fn fault(self, expected: &Matrix, actual: &Matrix) -> Result<Option<Fault>, DifftestError> {
        if expected.view().bits_equal(&actual.view()) {
            return Ok(None);
        }
        let comparison = compare(&expected.view(), &actual.view())?;
        Ok(Some(Fault::Property { property: self, comparison }))
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The rows that are computed alone.
fn some_rows(m: usize) -> Vec<usize> {
    (0..m).step_by(m.div_ceil(3).max(2)).collect()
}

/// The other ways of computing that one is compared with: not all, each may have to be compiled.
fn other_ways(configuration: usize, configurations: usize) -> impl Iterator<Item = usize> {
    const MOST: usize = 4;
    (0..configurations).filter(move |other| *other != configuration).take(MOST)
}

/// The product alone, in f32.
fn plain_f32(case: &Case) -> Case {
    let problem = Problem { c: None, d: OutputType::F32, epilogue: Epilogue::IDENTITY, ..case.problem };
    Case { problem, c: None, ..case.clone() }
}

/// The case in two parts of K, each in f32; the cut is the multiple of 128 in the middle.
fn parts(case: &Case) -> Result<[Case; 2], DifftestError> {
    let (k, block) = (case.problem.k, case.k_block());
    let middle = (k / 2).next_multiple_of(128);
    let cut = if middle < k { middle } else { (k - 1) / 128 * 128 } / block;
    let part = |blocks: core::ops::Range<usize>| -> Result<Case, DifftestError> {
        Ok(plain_f32(&case.k_blocks(&blocks.collect::<Vec<_>>())?))
    };
    Ok([part(0..cut)?, part(cut..k.div_ceil(block))?])
}

/// The same product added to `c`.
fn adding(case: &Case, c: Matrix) -> Case {
    let with = case.with(case.a.clone(), case.b.clone(), Some(c));
    Case { problem: Problem { epilogue: Epilogue::ACCUMULATE, ..with.problem }, ..with }
}

/// Whether no product of such scales with FP8 numbers, nor a sum of them, can leave f32's normal
/// numbers: the smallest unit of a sum of E5M2 products is 2^-41, and 60 binades below it are free.
fn moderate(x: &ScaledMatrix) -> bool {
    let (least, most) = (2f32.powi(-30), 2f32.powi(30));
    x.scales().iter().all(|scale| (least..most).contains(&scale.abs()))
}

fn negated_codes(x: &ScaledMatrix) -> Result<ScaledMatrix, DifftestError> {
    let format = Fp8Format::from(x.ty());
    // A NaN has no sign to speak of.
    let codes = x.codes().mapv(|code| if format.is_nan(code) { code } else { code ^ 0x80 });
    Ok(ScaledMatrix::new(x.ty(), x.layout(), codes, x.scales().to_owned())?)
}

/// Every number with the other sign; NaN as they are.
fn negated(x: &Matrix) -> Matrix {
    match x {
        Matrix::Bf16(x) => Matrix::Bf16(x.mapv(|x| if x.is_nan() { x } else { bf16::from_bits(x.to_bits() ^ 0x8000) })),
        Matrix::F16(x) => Matrix::F16(x.mapv(|x| if x.is_nan() { x } else { f16::from_bits(x.to_bits() ^ 0x8000) })),
        Matrix::F32(x) => Matrix::F32(x.mapv(|x| if x.is_nan() { x } else { -x })),
    }
}

/// -0 as +0.
fn unsigned_zeros(x: &Matrix) -> Matrix {
    match x {
        Matrix::Bf16(x) => Matrix::Bf16(x.mapv(|x| if x == bf16::ZERO { bf16::ZERO } else { x })),
        Matrix::F16(x) => Matrix::F16(x.mapv(|x| if x == f16::ZERO { f16::ZERO } else { x })),
        Matrix::F32(x) => Matrix::F32(x.mapv(|x| if x == 0.0 { 0.0 } else { x })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Generator, Menu, Only, TwinPath};

    /// Breaks if a property does not hold of the twin (it then says nothing of a kernel), or applies to
    /// next to nothing.
    #[test]
    fn properties_hold_of_the_twin() {
        let generator = Generator::new(5, Menu::twin(), Only::default());
        let mut applied = [0; Property::ALL.len()];
        for index in 0..150 {
            let case = generator.case(index).unwrap();
            let mut twin = TwinPath::new(Path::best());
            let d = case.twin(Path::best()).unwrap();
            for (property, applied) in Property::ALL.into_iter().zip(&mut applied) {
                if property.applies(&case) {
                    let fault = property.check(&mut twin, &case, &d, 0).unwrap();
                    assert!(fault.is_none(), "{case}: {}", fault.unwrap());
                    *applied += 1;
                }
            }
        }
        assert!(applied.iter().all(|count| *count > 20), "{applied:?}");
    }
}
