//! What is timed: problems with the times that others recorded for them.

use std::collections::BTreeMap;
use std::io::Read;

use fp8gemm_problem::{Epilogue, OperandSpec, OperandType, OutputType, Policy, Problem, ScaleLayout};

use crate::BenchError;

/// A problem, and times recorded elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// What is computed.
    pub problem: Problem,
    /// Microseconds by name, e.g. `deepgemm` (column `deepgemm_us` of a list).
    pub recorded: BTreeMap<String, f64>,
}

/// The recorded time that the others are held against.
pub const DEEPGEMM: &str = "deepgemm";
/// The recorded time of cuBLASLt's per-tensor FP8: measured again, it tells how much the card differs.
pub const RULER: &str = "cublaslt_tensor";

/// A list that comes with the program: times measured on an H200 (DeepGEMM 2.6.1, cuBLASLt of
/// CUDA 13.0, driver 580), cold L2, CUPTI; see `docs/benchmarking.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// bf16 out, 1x128 by 128x128, M >= 512.
    Dense,
    /// The same with M <= 128.
    Decode,
    /// f32 out, accumulating, 1x128 on both sides.
    Wgrad,
}

impl List {
    /// Its shapes.
    ///
    /// # Errors
    /// None that a test would not have seen: the data is part of the program.
    pub fn shapes(self) -> Result<Vec<Shape>, BenchError> {
        let dense = include_str!("../data/dense.csv");
        let mut shapes = parse(if self == Self::Wgrad { include_str!("../data/wgrad.csv") } else { dense }.as_bytes())?;
        match self {
            Self::Dense => shapes.retain(|shape| shape.problem.m >= 512),
            Self::Decode => shapes.retain(|shape| shape.problem.m <= 128),
            Self::Wgrad => {}
        }
        Ok(shapes)
    }
}

impl Shape {
    /// `D = A B^T` with 1x128 by 128x128 scales and bf16 out, as DeepGEMM's 1D2D kernels.
    pub fn dense(m: usize, n: usize, k: usize) -> Self {
        Self::new(m, n, k, OutputType::Bf16, false)
    }

    /// f32 out, added to what is there, 1x128 scales on both sides, as DeepGEMM's 1D1D kernels.
    pub fn wgrad(m: usize, n: usize, k: usize) -> Self {
        Self::new(m, n, k, OutputType::F32, true)
    }

    fn new(m: usize, n: usize, k: usize, d: OutputType, accumulate: bool) -> Self {
        let spec = |scales| OperandSpec { ty: OperandType::E4m3, scales };
        let problem = Problem {
            m,
            n,
            k,
            a: spec(ScaleLayout::Block1x128),
            b: spec(if accumulate { ScaleLayout::Block1x128 } else { ScaleLayout::Block128x128 }),
            c: accumulate.then_some(d),
            d,
            policy: Policy::PROMOTE_128,
            epilogue: if accumulate { Epilogue::ACCUMULATE } else { Epilogue::default() },
        };
        Self { problem, recorded: BTreeMap::new() }
    }
}

/// Reads a list: CSV with a header. Columns `m`, `n`, `k`; optional `out` (`bf16`, `f16`, `f32` or
/// `fp32`; bf16 if absent), `accumulate` (0 or 1; with 1, B has 1x128 scales as A has, C is D and
/// beta is 1), and any number of `<name>_us` with recorded times (may be empty). Others are ignored.
///
/// ```
/// use fp8gemm_bench::parse_shapes;
///
/// let shapes = parse_shapes("m,n,k,deepgemm_us\n512,576,7168,11.2\n".as_bytes())?;
/// assert_eq!(shapes[0].recorded["deepgemm"], 11.2);
/// # Ok::<(), fp8gemm_bench::BenchError>(())
/// ```
///
/// # Errors
/// [`BenchError::Shapes`] naming the line.
pub fn parse(reader: impl Read) -> Result<Vec<Shape>, BenchError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(reader);
    let headers: Vec<_> = reader.headers().map_err(bad)?.iter().map(str::to_ascii_lowercase).collect();
    for needed in ["m", "n", "k"] {
        if !headers.iter().any(|header| header == needed) {
            return Err(BenchError::Shapes { line: 1, reason: format!("no column `{needed}`") });
        }
    }
    reader.records().map(|record| shape(&headers, &record.map_err(bad)?)).collect()
}

fn bad(error: csv::Error) -> BenchError {
    let line = error.position().map_or(1, csv::Position::line);
    BenchError::Shapes { line, reason: error.to_string() }
}

fn shape(headers: &[String], record: &csv::StringRecord) -> Result<Shape, BenchError> {
    let line = record.position().map_or(1, csv::Position::line);
    let fail = |reason: String| BenchError::Shapes { line, reason };
    let field = |name: &str| {
        headers.iter().position(|header| header == name).and_then(|index| record.get(index)).unwrap_or_default()
    };
    let size = |name: &str| {
        let text = field(name);
        match text.parse() {
            Ok(size) if size > 0 => Ok(size),
            _ => Err(fail(format!("{name} is `{text}`, but must be a whole number from 1"))),
        }
    };
    let (m, n, k) = (size("m")?, size("n")?, size("k")?);
    let out = match field("out").to_ascii_lowercase().as_str() {
        "" | "bf16" => OutputType::Bf16,
        "f16" | "fp16" => OutputType::F16,
        "f32" | "fp32" => OutputType::F32,
        other => return Err(fail(format!("out is `{other}`, but must be bf16, f16 or f32"))),
    };
    let accumulate = match field("accumulate") {
        "" | "0" => false,
        "1" => true,
        other => return Err(fail(format!("accumulate is `{other}`, but must be 0 or 1"))),
    };
    let mut shape = Shape::new(m, n, k, out, accumulate);
    for (header, text) in headers.iter().zip(record) {
        let Some(name) = header.strip_suffix("_us").filter(|_| !text.is_empty()) else { continue };
        match text.parse::<f64>() {
            Ok(time) if time > 0.0 && time.is_finite() => shape.recorded.insert(name.to_owned(), time),
            _ => return Err(fail(format!("{header} is `{text}`, but must be a time in microseconds"))),
        };
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a list that comes with the program loses a row or a time.
    #[test]
    fn lists_are_whole() {
        let dense = List::Dense.shapes().unwrap();
        assert_eq!(dense.len(), 16);
        assert!(dense.iter().all(|s| s.recorded.len() == 3));
        assert_eq!(dense[4].problem.to_string(), "512x7168x16384 a=e4m3:1x128 b=e4m3:128x128 d=bf16 policy=promote128");
        assert_eq!((dense[4].recorded[DEEPGEMM], dense[4].recorded[RULER]), (117.8, 83.4));
        let decode = List::Decode.shapes().unwrap();
        assert_eq!(decode.len(), 28);
        // cuBLASLt has no block scaling for M = 1.
        assert_eq!(decode[0].recorded.len(), 2);
        let wgrad = List::Wgrad.shapes().unwrap();
        let text = "7168x4096x16384 a=e4m3:1x128 b=e4m3:1x128 d=f32 policy=promote128 c=f32 beta=1.0";
        assert_eq!((wgrad.len(), wgrad[4].problem.to_string().as_str()), (7, text));
        assert!(wgrad.iter().all(|s| s.recorded.contains_key(DEEPGEMM) && s.recorded.contains_key(RULER)));
    }

    /// Breaks if a wrong list is taken for another one, or the message loses the line.
    #[test]
    fn wrong_lists_are_named() {
        for (text, expected) in [
            ("m,n\n1,2\n", "line 1: no column `k`"),
            ("m,n,k\n1,2,3\n1,0,3\n", "line 3: n is `0`"),
            ("m,n,k\n1,2,x\n", "line 2: k is `x`"),
            ("m,n,k,out\n1,2,3,f64\n", "line 2: out is `f64`"),
            ("m,n,k,accumulate\n1,2,3,yes\n", "line 2: accumulate is `yes`"),
            ("m,n,k,x_us\n1,2,3,-1\n", "line 2: x_us is `-1`"),
            ("m,n,k\n1,2\n", "line 2:"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
