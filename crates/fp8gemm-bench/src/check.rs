//! Whether a kernel computed what the twin computes, before it gets a time: some rows of D, all
//! columns, every bit.

use std::sync::Arc;

use cudarc::driver::CudaStream;
use fp8gemm_problem::{OutputType, Problem};
use fp8gemm_sim::{Gemm, Matrix};
use half::{bf16, f16};
use ndarray::Array2;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::BenchError;
use crate::inputs::{Operand, Pattern};
use crate::memory::Buffer;
use crate::subject::stride_of_d;

/// Multiply-adds that the twin is asked for: a second or so of a few cores.
const MACS: usize = 1 << 31;
/// Rows at most.
const ROWS: usize = 16;

/// Compares rows of `d`, which one launch on `initial_d` has written, and returns how many.
///
/// # Errors
/// [`BenchError::WrongBits`], [`BenchError::Sim`], [`BenchError::Cuda`].
pub(crate) fn compare(
    stream: &Arc<CudaStream>,
    problem: &Problem,
    configuration: &str,
    [a, b]: [&Operand; 2],
    pattern: &Pattern,
    d: &Buffer,
) -> Result<usize, BenchError> {
    let (size, stride) = (problem.d.size(), stride_of_d(problem));
    let rows = sample(problem);
    let mut stored = Vec::with_capacity(rows.len() * problem.n * size);
    for row in &rows {
        stored.extend(d.download(stream, row * stride * size, problem.n * size)?);
    }
    let found = decode(problem.d, &stored, (rows.len(), problem.n));

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
    let expected = gemm.run()?;
    let (found, expected) = (found.view(), expected.view());
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

fn decode(ty: OutputType, bytes: &[u8], shape: (usize, usize)) -> Matrix {
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
