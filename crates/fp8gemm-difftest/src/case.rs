//! A problem with its data, and parts of it: what is generated, run, shrunk and written to files.

use core::fmt;

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::{OperandSpec, Policy, Problem, ScaleLayout};
use fp8gemm_sim::{Gemm, Matrix, Path};
use ndarray::{Axis, Slice};

use crate::{DataRegime, DifftestError, ScaleRegime, ShapeRegime};

/// Where a case came from: enough to make it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the case in the run.
    pub index: u64,
    /// Kind of its shape.
    pub shape: ShapeRegime,
    /// Kind of its codes.
    pub data: DataRegime,
    /// Kinds of the scales of A and of B.
    pub scales: [ScaleRegime; 2],
}

impl Origin {
    /// The regimes, as reports and files name them: shape, data, scales of A, scales of B.
    pub fn regimes(&self) -> String {
        let Self { shape, data, scales: [a, b], .. } = self;
        format!("{shape}, {data}, A {a}, B {b}")
    }
}

impl Origin {
    /// Reads back what [`regimes`](Self::regimes) printed.
    ///
    /// # Errors
    /// [`DifftestError::UnknownRegime`] for anything else.
    ///
    /// ```
    /// use fp8gemm_difftest::{Generator, Menu, Only, Origin};
    ///
    /// let origin = Generator::new(7, Menu::twin(), Only::default()).case(3)?.origin;
    /// assert_eq!(Origin::parse(7, 3, &origin.regimes())?, origin);
    /// # Ok::<(), fp8gemm_difftest::DifftestError>(())
    /// ```
    pub fn parse(seed: u64, index: u64, regimes: &str) -> Result<Self, DifftestError> {
        fn find<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: Option<&str>) -> Result<T, DifftestError> {
            let text = text.unwrap_or_default();
            let unknown = || DifftestError::UnknownRegime { name: text.to_owned() };
            all.iter().copied().find(|one| name(*one) == text).ok_or_else(unknown)
        }
        let mut parts = regimes.split(", ");
        let shape = find(ShapeRegime::ALL, ShapeRegime::name, parts.next())?;
        let data = find(DataRegime::ALL, DataRegime::name, parts.next())?;
        let mut scales = |side: &str| {
            find(ScaleRegime::ALL, ScaleRegime::name, parts.next().and_then(|part| part.strip_prefix(side)))
        };
        let scales = [scales("A ")?, scales("B ")?];
        match parts.next() {
            None => Ok(Self { seed, index, shape, data, scales }),
            Some(more) => Err(DifftestError::UnknownRegime { name: more.to_owned() }),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} case {}: {}", self.seed, self.index, self.regimes())
    }
}

/// A GEMM with all of its data.
#[derive(Clone, Debug)]
pub struct Case {
    /// Shape, types, policy, epilogue; agrees with the operands.
    pub problem: Problem,
    /// `[M, K]`.
    pub a: ScaledMatrix,
    /// `[N, K]`.
    pub b: ScaledMatrix,
    /// `[M, N]`, where the problem has a C; read only if beta is not 0.
    pub c: Option<Matrix>,
    /// Where it came from.
    pub origin: Origin,
}

impl Case {
    /// The same problem with other data: shapes, types and layouts are taken from the operands.
    #[must_use]
    pub fn with(&self, a: ScaledMatrix, b: ScaledMatrix, c: Option<Matrix>) -> Self {
        let spec = |x: &ScaledMatrix| OperandSpec { ty: x.ty(), scales: x.layout() };
        let (m, n, k) = (a.rows(), b.rows(), a.columns());
        let c_type = c.as_ref().map(Matrix::ty);
        let problem = Problem { m, n, k, a: spec(&a), b: spec(&b), c: c_type, ..self.problem };
        Self { problem, a, b, c, origin: self.origin }
    }

    /// The twin's task.
    pub fn gemm(&self) -> Gemm<'_> {
        let gemm = Gemm::new(self.a.view(), self.b.view())
            .output(self.problem.d)
            .policy(self.problem.policy)
            .epilogue(self.problem.epilogue);
        match &self.c {
            Some(c) => gemm.c(c.view()),
            None => gemm,
        }
    }

    /// What the twin gives.
    ///
    /// # Errors
    /// [`DifftestError::Sim`] for a case that is not legal.
    pub fn twin(&self, path: Path) -> Result<Matrix, DifftestError> {
        Ok(self.gemm().path(path).run()?)
    }

    /// Only these rows of A and C, in this order.
    ///
    /// # Errors
    /// [`DifftestError::Format`] for a row that is not there.
    pub fn rows(&self, rows: &[usize]) -> Result<Self, DifftestError> {
        let c = self.c.as_ref().map(|c| c.view().gather_rows(rows));
        Ok(self.with(take_rows(&self.a, rows)?, self.b.clone(), c))
    }

    /// Only these rows of B and columns of C, in this order.
    ///
    /// # Errors
    /// [`DifftestError::Format`] for a row that is not there.
    pub fn columns(&self, columns: &[usize]) -> Result<Self, DifftestError> {
        let b = take_rows(&self.b, columns)?;
        let c = self.c.as_ref().map(|c| match c {
            Matrix::Bf16(x) => Matrix::Bf16(x.select(Axis(1), columns)),
            Matrix::F16(x) => Matrix::F16(x.select(Axis(1), columns)),
            Matrix::F32(x) => Matrix::F32(x.select(Axis(1), columns)),
        });
        Ok(self.with(self.a.clone(), b, c))
    }

    /// Elements of K that stay together when K is cut: the longer scale block, 128 where there is none.
    pub fn k_block(&self) -> usize {
        let blocks = [self.a.layout(), self.b.layout()].into_iter().filter_map(ScaleLayout::k_block);
        blocks.max().unwrap_or(128)
    }

    /// Only these blocks of K (see [`k_block`](Self::k_block)), in this order.
    ///
    /// # Errors
    /// [`DifftestError::Format`] where a shorter last block does not come last, or for a block that
    /// is not there.
    pub fn k_blocks(&self, blocks: &[usize]) -> Result<Self, DifftestError> {
        let size = self.k_block();
        let take = |x: &ScaledMatrix| -> Result<ScaledMatrix, DifftestError> {
            let k = x.columns();
            let columns: Vec<usize> = blocks.iter().flat_map(|block| block * size..k.min((block + 1) * size)).collect();
            let codes = x.codes().select(Axis(1), &columns);
            let scales = match x.layout().k_block() {
                None => x.scales().to_owned(),
                Some(own) => {
                    // Scale columns within each block: the other side may have longer ones.
                    let (each, last) = (size / own, x.scales().ncols());
                    let wanted: Vec<usize> =
                        blocks.iter().flat_map(|block| block * each..last.min((block + 1) * each)).collect();
                    x.scales().select(Axis(1), &wanted)
                }
            };
            Ok(ScaledMatrix::new(x.ty(), x.layout(), codes, scales)?)
        };
        Ok(self.with(take(&self.a)?, take(&self.b)?, self.c.clone()))
    }

    /// Only these elements of K, in this order; `None` where that would take them out of their scale
    /// block: it needs K within one block, or scales that do not change along K.
    pub fn k_elements(&self, elements: &[usize]) -> Option<Self> {
        let take = |x: &ScaledMatrix| -> Option<ScaledMatrix> {
            if x.layout().k_block().is_some_and(|block| x.columns() > block) {
                return None;
            }
            let codes = x.codes().select(Axis(1), elements);
            ScaledMatrix::new(x.ty(), x.layout(), codes, x.scales().to_owned()).ok()
        };
        Some(self.with(take(&self.a)?, take(&self.b)?, self.c.clone()))
    }

    /// Only the first `k` of K.
    ///
    /// # Errors
    /// [`DifftestError::Format`], never for `k` up to K.
    pub fn truncate_k(&self, k: usize) -> Result<Self, DifftestError> {
        let take = |x: &ScaledMatrix| -> Result<ScaledMatrix, DifftestError> {
            let k = k.min(x.columns());
            let codes = x.codes().slice_axis(Axis(1), Slice::from(..k)).to_owned();
            let (_, columns) = x.layout().scale_shape(x.rows(), k);
            let scales = x.scales().slice_axis(Axis(1), Slice::from(..columns)).to_owned();
            Ok(ScaledMatrix::new(x.ty(), x.layout(), codes, scales)?)
        };
        Ok(self.with(take(&self.a)?, take(&self.b)?, self.c.clone()))
    }

    /// The same with another policy.
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self { problem: Problem { policy, ..self.problem }, ..self.clone() }
    }

    /// Whether a scale is NaN or infinite.
    pub fn has_nonfinite_scales(&self) -> bool {
        self.a.view().first_nonfinite_scale().or(self.b.view().first_nonfinite_scale()).is_some()
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.problem, self.origin)
    }
}

/// The rows of an operand. 128x128 scales stay what they are where the rows allow it: rows of one
/// block, or a run that starts at a block's first row. Otherwise they become 1x128.
fn take_rows(x: &ScaledMatrix, rows: &[usize]) -> Result<ScaledMatrix, DifftestError> {
    let first = rows.first().copied().unwrap_or(0);
    let one_block = rows.len() <= 128 && rows.iter().all(|row| row / 128 == first / 128);
    let aligned_run = first.is_multiple_of(128) && rows.iter().enumerate().all(|(i, row)| *row == first + i);
    let inside = rows.iter().all(|row| *row < x.rows());
    if x.layout() != ScaleLayout::Block128x128 || !inside || rows.is_empty() || !(one_block || aligned_run) {
        return Ok(x.view().gather_rows(rows)?);
    }
    let codes = x.codes().select(Axis(0), rows);
    let blocks = first / 128..first / 128 + rows.len().div_ceil(128);
    let scales = x.scales().slice_axis(Axis(0), Slice::from(blocks)).to_owned();
    Ok(ScaledMatrix::new(x.ty(), x.layout(), codes, scales)?)
}
