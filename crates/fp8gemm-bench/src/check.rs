//! Whether a kernel computed what the twin computes, before it gets a time: some rows of D, all
//! columns, every bit.

use fp8gemm_problem::{OutputType, Problem};
use fp8gemm_sim::{Gemm, Matrix};
use half::{bf16, f16};
use ndarray::Array2;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::BenchError;
use crate::inputs::{Operand, Pattern};
use crate::subject::stride_of_d;

/// Multiply-adds that the twin is asked for: a second or so of a few cores.
const MACS: usize = 1 << 31;
/// Rows at most.
const ROWS: usize = 16;

/// Compares rows of D, which one launch on `initial_d` has written, and returns how many. `fetch` gives
/// the N elements of a row as they lie in memory.
///
/// # Errors
/// [`BenchError::WrongBits`], [`BenchError::Sim`], those of `fetch`.
pub(crate) fn compare(
    problem: &Problem,
    configuration: &str,
    operands: [&Operand; 2],
    pattern: &Pattern,
    fetch: impl Fn(usize) -> Result<Vec<u8>, BenchError>,
) -> Result<usize, BenchError> {
    Expected::new(problem, operands, pattern)?.compare(configuration, fetch)
}

/// The twin's rows of a problem, for any number of kernels that compute it.
pub(crate) struct Expected {
    problem: Problem,
    rows: Vec<usize>,
    d: Matrix,
}

impl Expected {
    /// Computes a sample of rows.
    pub(crate) fn new(problem: &Problem, [a, b]: [&Operand; 2], pattern: &Pattern) -> Result<Self, BenchError> {
        let (stride, rows) = (stride_of_d(problem), sample(problem));
        let gathered = a.scaled.view().gather_rows(&rows)?;
        let c = problem.epilogue.reads_c().then(|| {
            let values = Array2::from_shape_fn((rows.len(), problem.n), |(i, j)| pattern.at(rows[i] * stride + j));
            Matrix::from_f32(values, problem.d)
        });
        let gemm = Gemm::new(gathered.view(), b.scaled.view()).output(problem.d).policy(problem.policy);
        let mut gemm = gemm.epilogue(problem.epilogue);
        if let Some(c) = &c {
            gemm = gemm.c(c.view());
        }
        let d = gemm.run()?;
        Ok(Self { problem: *problem, rows, d })
    }

    /// As [`compare`].
    pub(crate) fn compare(
        &self,
        configuration: &str,
        fetch: impl Fn(usize) -> Result<Vec<u8>, BenchError>,
    ) -> Result<usize, BenchError> {
        let Self { problem, rows, d } = self;
        let mut stored = Vec::with_capacity(rows.len() * problem.n * problem.d.size());
        for row in rows {
            stored.extend(fetch(*row)?);
        }
        let found = decode(problem.d, &stored, (rows.len(), problem.n));
        let (found, expected) = (found.view(), d.view());
        if found.bits_equal(&expected) {
            return Ok(rows.len());
        }
        let places = (0..rows.len()).flat_map(|i| (0..problem.n).map(move |j| (i, j)));
        let mut wrong = places.filter(|&(i, j)| found.bits(i, j) != expected.bits(i, j));
        let (i, j) = wrong.next().unwrap_or((0, 0));
        Err(BenchError::WrongBits {
            problem: *problem,
            configuration: configuration.to_owned(),
            different: 1 + wrong.count(),
            compared: rows.len() * problem.n,
            row: rows[i],
            column: j,
            found: found.bits(i, j),
            expected: expected.bits(i, j),
        })
    }
}

/// First, last and random rows, in order.
fn sample(problem: &Problem) -> Vec<usize> {
    let most = (MACS / (problem.n * problem.k).max(1)).clamp(2, ROWS);
    if problem.m <= most {
        return (0..problem.m).collect();
    }
    let mut rng = StdRng::seed_from_u64(problem.macs() as u64);
    let mut rows = vec![0, problem.m - 1];
    rows.extend((2..most).map(|_| rng.random_range(0..problem.m)));
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// Elements as they lie in memory.
pub(crate) fn encode(ty: OutputType, values: &[f32]) -> Vec<u8> {
    match ty {
        OutputType::Bf16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_ne_bytes()).collect(),
        OutputType::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_ne_bytes()).collect(),
        OutputType::F32 => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
    }
}

pub(crate) fn decode(ty: OutputType, bytes: &[u8], shape: (usize, usize)) -> Matrix {
    let half = |(i, j)| {
        let at = (i * shape.1 + j) * 2;
        u16::from_ne_bytes([bytes[at], bytes[at + 1]])
    };
    match ty {
        OutputType::Bf16 => Matrix::Bf16(Array2::from_shape_fn(shape, |at| bf16::from_bits(half(at)))),
        OutputType::F16 => Matrix::F16(Array2::from_shape_fn(shape, |at| f16::from_bits(half(at)))),
        OutputType::F32 => Matrix::F32(Array2::from_shape_fn(shape, |(i, j)| {
            let at = (i * shape.1 + j) * 4;
            f32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if downloaded elements land elsewhere or lose bits.
    #[test]
    fn elements_are_read_as_written() {
        let values = [1.0f32, -2.5, 0.0, 3.0, 1e-3, -448.0];
        for ty in OutputType::ALL {
            let expected = Matrix::from_f32(Array2::from_shape_vec((2, 3), values.to_vec()).unwrap(), ty);
            assert!(decode(ty, &encode(ty, &values), (2, 3)).view().bits_equal(&expected.view()));
        }
    }

    /// Breaks if a wrong bit goes unnoticed, or is reported elsewhere than it is: every row of D is the
    /// twin's but for one element.
    #[test]
    fn one_wrong_bit_is_found() {
        use fp8gemm_problem::ScaleLayout::{Block1x128, Block128x128};
        for (d, c) in [("bf16", ""), ("f32", " c=f32 beta=1"), ("f16", " c=f16 beta=0.5")] {
            let text = format!("9x20x256 a=e4m3:1x128 b=e4m3:128x128 d={d}{c}");
            let problem: Problem = text.parse().unwrap();
            assert_eq!((problem.a.scales, problem.b.scales), (Block1x128, Block128x128));
            let a = Operand::random(problem.a, problem.m, problem.k, 1).unwrap();
            let b = Operand::random(problem.b, problem.n, problem.k, 2).unwrap();
            let pattern = Pattern::random(3);
            let stride = stride_of_d(&problem);
            let c = Array2::from_shape_fn((9, 20), |(i, j)| pattern.at(i * stride + j));
            let c = Matrix::from_f32(c, problem.d);
            let mut gemm = Gemm::new(a.scaled.view(), b.scaled.view()).output(problem.d).epilogue(problem.epilogue);
            if problem.epilogue.reads_c() {
                gemm = gemm.c(c.view());
            }
            let twin = gemm.run().unwrap();
            let size = problem.d.size();
            let row = |i: usize| -> Vec<u8> {
                (0..20).flat_map(|j| twin.view().bits(i, j).to_le_bytes()[..size].to_vec()).collect()
            };
            let check = |fetch: &dyn Fn(usize) -> Vec<u8>| compare(&problem, "k", [&a, &b], &pattern, |i| Ok(fetch(i)));
            assert_eq!(check(&row).unwrap(), 9);
            let flipped = |i: usize| {
                let mut bytes = row(i);
                bytes[13 * size] ^= u8::from(i == 8);
                bytes
            };
            let error = check(&flipped).unwrap_err();
            let at_its_place =
                matches!(error, BenchError::WrongBits { row: 8, column: 13, different: 1, compared: 180, .. });
            assert!(at_its_place, "{error}");
        }
    }

    /// Breaks if the first or the last row is never looked at, or a row beyond the matrix is.
    #[test]
    fn samples_reach_both_ends() {
        for text in ["4096x7168x16384", "3x5x128", "1x576x7168", "17x1000000x16384"] {
            let problem: Problem = format!("{text} a=e4m3:row b=e4m3:row d=f32").parse().unwrap();
            let rows = sample(&problem);
            assert_eq!((rows.first(), rows.last()), (Some(&0), Some(&(problem.m - 1))), "{text}");
            assert!(rows.len() <= ROWS && rows.is_sorted());
        }
    }
}
