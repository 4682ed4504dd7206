//! From a failing case to a small one: fewer rows, columns and blocks of K, then a plainer epilogue,
//! scales and codes. Proptest's own shrinking would draw other data for another shape; this keeps the
//! data and takes parts of it.

use std::time::{Duration, Instant};

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::{Epilogue, OperandType, OutputType, Problem};
use fp8gemm_sim::Matrix;
use ndarray::Array2;

use crate::Case;

/// How long one failure may be shrunk.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Cases tried at most.
    pub tries: usize,
    /// Time at most.
    pub time: Duration,
}

impl Default for Effort {
    fn default() -> Self {
        Self { tries: 4000, time: Duration::from_secs(20) }
    }
}

/// The smallest case found that still `fails`, and how many were tried. What is given must fail.
///
/// ```
/// use fp8gemm_difftest::{Effort, Generator, Menu, Only, shrink};
///
/// let case = Generator::new(0, Menu::kernels(), Only::parse(["negative-zero"])?).case(3)?;
/// // Whatever has a code of 0x80 in A.
/// let fails = |case: &fp8gemm_difftest::Case| case.a.codes().iter().any(|code| *code & 0x80 != 0);
/// assert!(fails(&case));
/// let (small, _) = shrink(&case, Effort::default(), fails);
/// assert_eq!((small.problem.m, small.problem.n, small.problem.k), (1, 1, 1));
/// # Ok::<(), fp8gemm_difftest::DifftestError>(())
/// ```
pub fn shrink(case: &Case, effort: Effort, fails: impl FnMut(&Case) -> bool) -> (Case, usize) {
    let mut search = Search { best: case.clone(), fails, tries: 0, effort, start: Instant::now() };
    // Once more from the front where something became smaller: fewer rows may allow fewer columns.
    for _ in 0..4 {
        let before = search.weight();
        // The epilogue first: what bf16 and a C hide, more terms would have to show.
        search.epilogue();
        search.rows();
        search.columns();
        search.k();
        search.scales();
        search.codes();
        if search.weight() == before {
            break;
        }
    }
    (search.best, search.tries)
}

struct Search<F> {
    best: Case,
    fails: F,
    tries: usize,
    effort: Effort,
    start: Instant,
}

impl<F: FnMut(&Case) -> bool> Search<F> {
    /// What is made smaller: sizes, then codes that are not zero.
    fn weight(&self) -> (usize, usize) {
        let p = &self.best.problem;
        let codes = self.best.a.codes().iter().chain(self.best.b.codes().iter()).filter(|code| **code != 0).count();
        (p.m + p.n + p.k, codes)
    }

    fn spent(&self) -> bool {
        self.tries >= self.effort.tries || self.start.elapsed() > self.effort.time
    }

    /// Takes the candidate if it is legal and fails.
    fn take(&mut self, candidate: Option<Case>) -> bool {
        let Some(candidate) = candidate.filter(|candidate| candidate.problem.check().is_ok()) else { return false };
        if self.spent() {
            return false;
        }
        self.tries += 1;
        let fails = (self.fails)(&candidate);
        if fails {
            self.best = candidate;
        }
        fails
    }

    /// Drops parts of a list, the larger ones first, as long as what is left fails.
    fn drop_parts(&mut self, count: usize, with: impl Fn(&Case, &[usize]) -> Option<Case>) {
        // The parts are of what it was before: each candidate is taken from there.
        let whole = self.best.clone();
        let mut kept: Vec<usize> = (0..count).collect();
        let mut size = count / 2;
        while size > 0 && !self.spent() {
            let mut at = 0;
            while at < kept.len() && kept.len() > 1 {
                // The end first.
                let to = kept.len() - at;
                let from = to.saturating_sub(size);
                let rest: Vec<usize> = kept[..from].iter().chain(&kept[to..]).copied().collect();
                if !rest.is_empty() && self.take(with(&whole, &rest)) {
                    kept = rest;
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    fn rows(&mut self) {
        self.drop_parts(self.best.problem.m, |case, rows| case.rows(rows).ok());
    }

    fn columns(&mut self) {
        self.drop_parts(self.best.problem.n, |case, columns| case.columns(columns).ok());
    }

    fn k(&mut self) {
        let blocks = self.best.problem.k.div_ceil(self.best.k_block());
        self.drop_parts(blocks, |case, blocks| case.k_blocks(blocks).ok());
        // Then the tail: halves what is cut off.
        let mut cut = self.best.problem.k / 2;
        while cut > 0 {
            let k = self.best.problem.k;
            if cut >= k || !self.take(self.best.truncate_k(k - cut).ok()) {
                cut /= 2;
            }
        }
        self.drop_parts(self.best.problem.k, Case::k_elements);
    }

    fn epilogue(&mut self) {
        let p = self.best.problem;
        if p.c.is_some() {
            let problem = Problem { c: None, epilogue: Epilogue { beta: 0.0, ..p.epilogue }, ..p };
            self.take(Some(Case { problem, c: None, ..self.best.clone() }));
        }
        if p.d != OutputType::F32 {
            let problem = Problem { d: OutputType::F32, ..self.best.problem };
            self.take(Some(Case { problem, ..self.best.clone() }));
        }
        for (alpha, beta) in [(1.0, p.epilogue.beta), (self.best.problem.epilogue.alpha, 1.0), (1.0, 1.0)] {
            let beta = if self.best.problem.epilogue.reads_c() { beta } else { self.best.problem.epilogue.beta };
            let epilogue = Epilogue { alpha, beta };
            if epilogue != self.best.problem.epilogue {
                let problem = Problem { epilogue, ..self.best.problem };
                self.take(Some(Case { problem, ..self.best.clone() }));
            }
        }
        if let Some((dim, ty)) = self.best.c.as_ref().map(|c| (c.dim(), c.ty())) {
            for value in [0.0, 1.0] {
                let c = Matrix::from_f32(Array2::from_elem(dim, value), ty);
                if self.take(Some(Case { c: Some(c), ..self.best.clone() })) {
                    break;
                }
            }
        }
    }

    /// All scales of a side 1, else powers of two.
    fn scales(&mut self) {
        for first in [true, false] {
            let with = |case: &Case, scale: fn(f32) -> f32| -> Option<Case> {
                let x = if first { &case.a } else { &case.b };
                let changed =
                    ScaledMatrix::new(x.ty(), x.layout(), x.codes().to_owned(), x.scales().mapv(scale)).ok()?;
                let (a, b) = if first { (changed, case.b.clone()) } else { (case.a.clone(), changed) };
                Some(case.with(a, b, case.c.clone()))
            };
            let changes: [fn(f32) -> f32; 2] = [
                |_| 1.0,
                |scale| {
                    if scale.is_normal() { f32::from_bits(scale.to_bits() & 0xFF80_0000) } else { scale }
                },
            ];
            for change in changes {
                if self.take(with(&self.best, change)) {
                    break;
                }
            }
        }
    }

    /// Codes of K positions to zero on both sides, half of K first; then what is left to 1, one by one.
    fn codes(&mut self) {
        let k = self.best.problem.k;
        let mut size = k.div_ceil(2);
        while size > 0 && !self.spent() {
            for from in (0..k).step_by(size) {
                let to = k.min(from + size);
                let p = &self.best.problem;
                let places = |rows: usize| (0..rows).flat_map(move |row| (from..to).map(move |column| (row, column)));
                let (a, b): (Vec<_>, Vec<_>) = (places(p.m).collect(), places(p.n).collect());
                let zeroed = set(&self.best, &a, &b, |_| 0);
                if zeroed.a.codes() != self.best.a.codes() || zeroed.b.codes() != self.best.b.codes() {
                    self.take(Some(zeroed));
                }
            }
            size /= 2;
        }
        const MOST: usize = 600;
        let p = self.best.problem;
        for (first, ty, rows) in [(true, p.a.ty, p.m), (false, p.b.ty, p.n)] {
            let one = if ty == OperandType::E4m3 { 0x38 } else { 0x3C };
            let places: Vec<_> = (0..rows).flat_map(|row| (0..k).map(move |column| (row, column))).take(MOST).collect();
            for place in places {
                let codes = if first { self.best.a.codes() } else { self.best.b.codes() };
                let code = codes[place];
                for plain in [0, one] {
                    if code == plain || (code == 0 && plain == one) {
                        break;
                    }
                    let (a, b) = if first { (vec![place], vec![]) } else { (vec![], vec![place]) };
                    if self.take(Some(set(&self.best, &a, &b, |_| plain))) {
                        break;
                    }
                }
            }
        }
    }
}

/// The case with codes at these places of A and of B changed.
fn set(case: &Case, a: &[(usize, usize)], b: &[(usize, usize)], to: impl Fn(u8) -> u8) -> Case {
    let side = |x: &ScaledMatrix, places: &[(usize, usize)]| {
        let mut codes = x.codes().to_owned();
        for place in places {
            codes[*place] = to(codes[*place]);
        }
        // The shapes are those it had.
        ScaledMatrix::new(x.ty(), x.layout(), codes, x.scales().to_owned()).unwrap_or_else(|_| x.clone())
    };
    case.with(side(&case.a, a), side(&case.b, b), case.c.clone())
}
