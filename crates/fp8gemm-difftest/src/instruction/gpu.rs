//! Runs the instructions on a GPU and holds them against the model.

use fp8gemm_hopper::{Gpu, HopperError, Probe};
use fp8gemm_jit::{Compiler, ProbeKernel};

use super::{Question, Tiles, predict, scalar};
use crate::DifftestError;

/// What a kernel gave on random tiles.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Examined {
    /// The kernel.
    pub kernel: ProbeKernel,
    /// Whether it took C (scale-d 1).
    pub accumulate: bool,
    /// Its inputs.
    pub tiles: Tiles,
    /// Its outputs, `[tiles, rows, columns]` bits.
    pub d: Vec<u32>,
    /// Outputs that are not the model's.
    pub differing: usize,
    /// The first of them: its place, its bits and the model's.
    pub first: Option<(usize, u32, u32)>,
}

/// What the f32 instructions gave, word by word as in [`scalar::WORDS`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Scalars {
    /// Elements.
    pub elements: usize,
    /// Elements whose word is not what IEEE arithmetic with canonical NaN gives.
    pub differing: [usize; 8],
    /// Elements whose word is not the sum of an addition that flushes subnormals.
    pub not_flushed: [usize; 8],
    /// Of each word the first that differs from IEEE: x, y, z, found, expected.
    pub first: [Option<[u32; 5]>; 8],
}

/// Runs `count` random tiles, with C or without.
///
/// # Errors
/// [`DifftestError::Probe`].
pub fn examine(
    gpu: &Gpu,
    compiler: &Compiler,
    kernel: ProbeKernel,
    count: usize,
    seed: u64,
    accumulate: bool,
) -> Result<Examined, DifftestError> {
    let failed = failed(kernel);
    let tiles = Tiles::generate(kernel, count, seed)?;
    let probe = Probe::new(gpu, compiler, kernel).map_err(&failed)?;
    let d = probe.tiles(tiles.count, &tiles.a, &tiles.b, &tiles.c, accumulate).map_err(&failed)?;
    let expected = predict(kernel, &tiles, accumulate);
    let differs = |i: &usize| d[*i] != expected[*i];
    let differing = (0..d.len()).filter(differs).count();
    let first = (0..d.len()).find(differs).map(|i| (i, d[i], expected[i]));
    Ok(Examined { kernel, accumulate, tiles, d, differing, first })
}

/// The hardware's answer to a question.
///
/// # Errors
/// [`DifftestError::Probe`].
pub fn ask(gpu: &Gpu, compiler: &Compiler, question: &Question) -> Result<u32, DifftestError> {
    let (kernel, (a, b)) = (question.kernel(), question.codes());
    let failed = failed(kernel);
    let mut tiles = Tiles::generate(kernel, 1, 0)?;
    tiles.a[..a.len()].copy_from_slice(&a);
    tiles.b[..b.len()].copy_from_slice(&b);
    tiles.c[0] = question.c;
    let probe = Probe::new(gpu, compiler, kernel).map_err(&failed)?;
    let d = probe.tiles(1, &tiles.a, &tiles.b, &tiles.c, true).map_err(&failed)?;
    // A tile has outputs.
    Ok(d[0])
}

/// Runs the f32 instructions on the special values and `random` triples.
///
/// # Errors
/// [`DifftestError::Probe`].
pub fn examine_scalars(gpu: &Gpu, compiler: &Compiler, random: usize, seed: u64) -> Result<Scalars, DifftestError> {
    let failed = failed(ProbeKernel::Scalar);
    let [x, y, z] = scalar::inputs(random, seed);
    let probe = Probe::new(gpu, compiler, ProbeKernel::Scalar).map_err(&failed)?;
    let found = probe.scalars(&x, &y, &z).map_err(&failed)?;
    let mut result = Scalars { elements: found.len(), ..Scalars::default() };
    for (i, found) in found.iter().enumerate() {
        let expected = scalar::predict(x[i], y[i], z[i]);
        let flushed = scalar::flushed_sum(x[i], z[i]);
        for word in 0..8 {
            result.not_flushed[word] += usize::from(found[word] != flushed);
            if found[word] != expected[word] {
                result.differing[word] += 1;
                let triple = [x[i].to_bits(), y[i].to_bits(), z[i].to_bits(), found[word], expected[word]];
                result.first[word].get_or_insert(triple);
            }
        }
    }
    Ok(result)
}

fn failed(kernel: ProbeKernel) -> impl Fn(HopperError) -> DifftestError {
    move |error| DifftestError::Probe { kernel, reason: error.to_string() }
}
