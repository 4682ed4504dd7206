//! Kernels that are wrong in one decision each, by which generators and runner are scored.
//!
//! Most are the twin on another problem: a scale index that is off is the twin with scales moved, a
//! tail that is dropped is the twin with codes of zero. So they are as fast as the twin, and wrong in
//! exactly one thing.

mod arithmetic;
mod kernels;

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::Problem;
use fp8gemm_sim::tensor_core::{self, TensorCore};
use fp8gemm_sim::{Matrix, Path};

use crate::memory::bytes;
use crate::{Buffers, Case, DataRegime, DifftestError, Generator, Origin, ScaleRegime, ShapeRegime, Subject};

/// What part of a kernel a mutant gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Part {
    /// The tensor-core step.
    Core,
    /// The order and rounding of promotions.
    Policy,
    /// Which scale is applied.
    Scales,
    /// Which data arrives: stages, steps, tails.
    Data,
    /// Alpha, beta, C and the cast.
    Epilogue,
}

impl Part {
    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Policy => "policy",
            Self::Scales => "scales",
            Self::Data => "data",
            Self::Epilogue => "epilogue",
        }
    }
}

type Compute = Box<dyn Fn(&Case) -> Result<Matrix, DifftestError> + Send + Sync>;

/// A wrong kernel.
pub struct Mutant {
    name: &'static str,
    part: Part,
    compute: Compute,
}

impl core::fmt::Debug for Mutant {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Mutant").field("name", &self.name).field("part", &self.part).finish_non_exhaustive()
    }
}

impl Mutant {
    fn new(
        part: Part,
        name: &'static str,
        compute: impl Fn(&Case) -> Result<Matrix, DifftestError> + Send + Sync + 'static,
    ) -> Self {
        Self { name, part, compute: Box::new(compute) }
    }

    /// The twin on another case.
    fn of_case(part: Part, name: &'static str, change: fn(&Case) -> Result<Case, DifftestError>) -> Self {
        Self::new(part, name, move |case| change(case)?.twin(Path::best()))
    }

    /// What it does, in a few words.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where it is wrong.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Its D.
    ///
    /// # Errors
    /// [`DifftestError::Sim`] for a case that is not legal.
    pub fn compute(&self, case: &Case) -> Result<Matrix, DifftestError> {
        (self.compute)(case)
    }

    /// Every mutant.
    pub fn all() -> Vec<Self> {
        let core = tensor_core::mutants::all(TensorCore::HOPPER_FP8_F32);
        let mut all: Vec<Self> = core
            .into_iter()
            .map(|(name, core)| Self::new(Part::Core, name, move |case| Ok(case.gemm().core(core).run()?)))
            .collect();
        all.extend(arithmetic::policies());
        all.extend(kernels::scales());
        all.extend(kernels::data());
        all.extend(arithmetic::epilogues());
        all
    }
}

impl Subject for Mutant {
    fn name(&self) -> String {
        format!("mutant: {}", self.name)
    }

    fn run(&mut self, problem: &Problem, _: usize, buffers: &mut Buffers) -> Result<(), DifftestError> {
        let [scales_a, scales_b] = buffers.scales()?;
        let a: ScaledMatrix = buffers.operand_a(problem, &scales_a)?.to_owned();
        let b = buffers.operand_b(problem, &scales_b)?.to_owned();
        let c = buffers.c_matrix(problem)?;
        let scales = [ScaleRegime::Ordinary; 2];
        let origin = Origin { seed: 0, index: 0, shape: ShapeRegime::Small, data: DataRegime::Normal, scales };
        let d = self.compute(&Case { problem: *problem, a, b, c, origin })?;
        buffers.d.write(&bytes(&d.view()));
        Ok(())
    }
}

/// What found a mutant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// Cases until then, this one included.
    pub cases: u64,
    /// The case's problem.
    pub problem: Problem,
    /// Its seed, number and regimes.
    pub origin: Origin,
    /// Elements of D that differ.
    pub differing: usize,
    /// Elements of D.
    pub elements: usize,
}

/// A mutant and what found it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Score {
    /// What it does.
    pub name: &'static str,
    /// Where it is wrong.
    pub part: Part,
    /// `None`: it survived.
    pub found: Option<Found>,
}

/// Runs the generator's cases until every mutant has been found, at most so many; `done` is called with
/// the number of mutants found.
///
/// # Errors
/// [`DifftestError::Generate`], [`DifftestError::Sim`].
pub fn score(
    generator: &Generator,
    mutants: &[Mutant],
    cases: u64,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Score>, DifftestError> {
    let mut scores: Vec<Score> =
        mutants.iter().map(|mutant| Score { name: mutant.name, part: mutant.part, found: None }).collect();
    for index in 0..cases {
        if scores.iter().all(|score| score.found.is_some()) {
            break;
        }
        let case = generator.case(index)?;
        let expected = case.twin(Path::best())?;
        for (mutant, score) in mutants.iter().zip(&mut scores).filter(|(_, score)| score.found.is_none()) {
            let d = mutant.compute(&case)?;
            if !d.view().bits_equal(&expected.view()) {
                let comparison = fp8gemm_sim::compare(&expected.view(), &d.view())?;
                score.found = Some(Found {
                    cases: index + 1,
                    problem: case.problem,
                    origin: case.origin,
                    differing: comparison.differing,
                    elements: comparison.elements,
                });
            }
        }
        done(scores.iter().filter(|score| score.found.is_some()).count());
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Menu, Only};

    /// Breaks if what mutants are built from is wrong by itself: a mutant would then be found for another
    /// reason than its name says, and its score would say nothing of that decision.
    #[test]
    fn mutants_without_their_mistake_are_the_twin() {
        let right: Vec<Mutant> = [arithmetic::unchanged(), kernels::unchanged()].into_iter().flatten().collect();
        for menu in [Menu::kernels(), Menu::twin()] {
            let generator = Generator::new(0, menu, Only::default());
            for index in 0..150 {
                let case = generator.case(index).unwrap();
                let d = case.twin(Path::best()).unwrap();
                for mutant in &right {
                    let same = mutant.compute(&case).unwrap().view().bits_equal(&d.view());
                    assert!(same, "{} of {case}", mutant.name());
                }
            }
        }
    }

    /// Breaks if a mutant panics where there is nothing to get wrong: M, N or K of 0.
    #[test]
    fn mutants_take_empty_problems() {
        let generator = Generator::new(0, Menu::twin(), Only::parse(["shape-empty"]).unwrap());
        for index in 0..40 {
            let case = generator.case(index).unwrap();
            for mutant in Mutant::all() {
                assert_eq!(mutant.compute(&case).unwrap().dim(), (case.problem.m, case.problem.n), "{}", mutant.name());
            }
        }
    }
}
