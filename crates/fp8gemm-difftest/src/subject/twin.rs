//! One implementation of the twin as a subject: held against the specification.

use fp8gemm_problem::Problem;
use fp8gemm_sim::{Gemm, Matrix, Path};

use super::Subject;
use crate::memory::bytes;
use crate::{Buffers, DifftestError};

/// The twin on one of its paths (AVX-512, AVX2, portable).
#[derive(Clone, Copy, Debug)]
pub struct TwinPath(Path);

impl TwinPath {
    /// The twin on this path.
    pub fn new(path: Path) -> Self {
        Self(path)
    }

    /// Every path of this machine but the specification itself.
    pub fn all() -> Vec<Self> {
        Path::available().iter().copied().filter(|path| *path != Path::Generic).map(Self).collect()
    }
}

impl Subject for TwinPath {
    fn name(&self) -> String {
        match self.0 {
            Path::Avx512 => "avx512",
            Path::Avx2 => "avx2",
            Path::Portable => "portable",
            Path::Generic => "generic",
            _ => "other",
        }
        .to_owned()
    }

    fn run(&mut self, problem: &Problem, _: usize, buffers: &mut Buffers) -> Result<(), DifftestError> {
        let d = compute(problem, buffers, |gemm| gemm.path(self.0))?;
        buffers.d.write(&bytes(&d.view()));
        Ok(())
    }
}

/// The twin's D of what lies in memory, adjusted before it runs.
pub(crate) fn compute(
    problem: &Problem,
    buffers: &Buffers,
    adjust: impl FnOnce(Gemm<'_>) -> Gemm<'_>,
) -> Result<Matrix, DifftestError> {
    let [scales_a, scales_b] = buffers.scales()?;
    let (a, b) = (buffers.operand_a(problem, &scales_a)?, buffers.operand_b(problem, &scales_b)?);
    let c = buffers.c_matrix(problem)?;
    let mut gemm = Gemm::new(a, b).output(problem.d).policy(problem.policy).epilogue(problem.epilogue);
    if let Some(c) = &c {
        gemm = gemm.c(c.view());
    }
    Ok(adjust(gemm).run()?)
}
