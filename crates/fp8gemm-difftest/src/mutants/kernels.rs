//! Wrong addresses: a scale of a neighbour, a stage too early, a tail that is lost.

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::ScaleLayout;
use fp8gemm_sim::{Matrix, Path};
use ndarray::Array2;

use super::{Mutant, Part};
use crate::{Case, DifftestError};

type Changed = Result<Case, DifftestError>;

/// Mutants that apply a wrong scale.
pub(super) fn scales() -> Vec<Mutant> {
    vec![
        // One scale for a tile of 192 columns, where it holds columns of two blocks.
        Mutant::of_case(Part::Scales, "scale of B by the tile's first column", |case| {
            moved(case, false, |row, block, _| (row / 192 * 192, block))
        }),
        Mutant::of_case(Part::Scales, "scale of B rounded up to the next 128 columns", |case| {
            moved(case, false, |row, block, (rows, _)| ((row.div_ceil(128) * 128).min(rows - 1), block))
        }),
        Mutant::of_case(Part::Scales, "scale of the row within half a tile", |case| {
            moved(case, true, |row, block, _| (row % 64, block))
        }),
        Mutant::of_case(Part::Scales, "scale of the neighbouring row", |case| {
            moved(case, true, |row, block, (rows, _)| ((row ^ 1).min(rows - 1), block))
        }),
        Mutant::of_case(Part::Scales, "scale of A one K block late", |case| {
            moved(case, true, |row, block, _| (row, block.saturating_sub(1)))
        }),
        Mutant::of_case(Part::Scales, "scale of B one K block early", |case| {
            moved(case, false, |row, block, (_, blocks)| (row, (block + 1).min(blocks - 1)))
        }),
        Mutant::of_case(Part::Scales, "last K block with the scale of the one before", |case| {
            let last = |block: usize, blocks: usize| if block + 1 == blocks { block.saturating_sub(1) } else { block };
            moved(case, true, |row, block, (_, blocks)| (row, last(block, blocks)))
        }),
        Mutant::of_case(Part::Scales, "scales of A left out", |case| {
            let ones = Array2::from_elem(case.a.scales().dim(), 1.0);
            let a = ScaledMatrix::new(case.a.ty(), case.a.layout(), case.a.codes().to_owned(), ones)?;
            Ok(case.with(a, case.b.clone(), case.c.clone()))
        }),
        Mutant::of_case(Part::Scales, "scales read as bf16", |case| {
            let cut = |x: &ScaledMatrix| {
                let scales = x.scales().mapv(|scale| f32::from_bits(scale.to_bits() & 0xFFFF_0000));
                ScaledMatrix::new(x.ty(), x.layout(), x.codes().to_owned(), scales)
            };
            Ok(case.with(cut(&case.a)?, cut(&case.b)?, case.c.clone()))
        }),
    ]
}

/// The case with the scale of each row and K block of one side taken from elsewhere: `from` gets row,
/// block, and the numbers of rows and blocks. Scales of 128x128 become 1x128, with the same bits.
fn moved(
    case: &Case,
    first: bool,
    from: impl Fn(usize, usize, (usize, usize)) -> (usize, usize),
) -> Result<Case, DifftestError> {
    let x = if first { &case.a } else { &case.b };
    let all: Vec<usize> = (0..x.rows()).collect();
    let x = if x.layout() == ScaleLayout::Block128x128 { x.view().gather_rows(&all)? } else { x.clone() };
    if x.layout() == ScaleLayout::Tensor {
        return Ok(case.clone());
    }
    let dim = x.scales().dim();
    let scales = Array2::from_shape_fn(dim, |(row, block)| x.scales()[from(row, block, dim)]);
    let x = ScaledMatrix::new(x.ty(), x.layout(), x.codes().to_owned(), scales)?;
    let (a, b) = if first { (x, case.b.clone()) } else { (case.a.clone(), x) };
    Ok(case.with(a, b, case.c.clone()))
}

/// Mutants to which wrong data arrives, or that lose some.
pub(super) fn data() -> Vec<Mutant> {
    vec![
        Mutant::of_case(Part::Data, "one k32 step of a block left out", |case| {
            codes(case, |x, row, k| if k % 128 / 32 == 1 { 0 } else { x[(row, k)] })
        }),
        Mutant::of_case(Part::Data, "a k32 step read twice", |case| {
            codes(case, |x, row, k| if k % 128 / 32 == 1 { x[(row, k - 32)] } else { x[(row, k)] })
        }),
        Mutant::of_case(Part::Data, "tail of K dropped", |case| {
            let whole = case.problem.k / 32 * 32;
            codes_from(case, whole, |x, row, k, whole| if k >= whole { 0 } else { x[(row, k)] })
        }),
        Mutant::of_case(Part::Data, "last element of K dropped", |case| {
            codes_from(
                case,
                case.problem.k.saturating_sub(1),
                |x, row, k, last| if k == last { 0 } else { x[(row, k)] },
            )
        }),
        // A ring of four stages whose barrier is not waited for: the block of one round before.
        Mutant::of_case(Part::Data, "stale stage", |case| {
            one_side(case, |x, row, k| if k >= 512 { x[(row, k - 512)] } else { x[(row, k)] })
        }),
        Mutant::of_case(Part::Data, "stages of A swapped", |case| {
            one_side(case, |x, row, k| {
                let other = k ^ 128;
                if other < x.ncols() && (k | 255) < x.ncols() { x[(row, other)] } else { x[(row, k)] }
            })
        }),
        Mutant::of_case(Part::Data, "row of A off by one in the last tile", |case| {
            one_side(case, |x, row, k| {
                let tile = (x.nrows() - 1) / 64 * 64;
                if row >= tile && row > 0 { x[(row - 1, k)] } else { x[(row, k)] }
            })
        }),
        after("last column not stored", |d, (_, column), (_, n)| if column + 1 == n { 0.0 } else { d }),
        after("rows of a partial tile not stored", |d, (row, _), (m, _)| if row >= m / 64 * 64 { 0.0 } else { d }),
        // The second CTA of a cluster got no half of B from the first.
        after(
            "multicast partner dropped",
            |d, (row, column), _| {
                if row / 128 % 2 == 1 && column % 128 >= 64 { 0.0 } else { d }
            },
        ),
        Mutant::new(Part::Data, "columns of the second tile from the first", |case| {
            let n = case.problem.n;
            let columns: Vec<usize> = (0..n).map(|n| if n >= 128 { n - 128 } else { n }).collect();
            let other = case.columns(&columns)?;
            Case { c: case.c.clone(), ..other }.twin(Path::best())
        }),
    ]
}

/// Other codes on both sides.
fn codes(case: &Case, code: fn(&Array2<u8>, usize, usize) -> u8) -> Changed {
    codes_from(case, 0, |x, row, k, _| code(x, row, k))
}

fn codes_from(case: &Case, at: usize, code: impl Fn(&Array2<u8>, usize, usize, usize) -> u8) -> Changed {
    let side = |x: &ScaledMatrix| {
        let old = x.codes().to_owned();
        let codes = Array2::from_shape_fn(old.dim(), |(row, k)| code(&old, row, k, at));
        ScaledMatrix::new(x.ty(), x.layout(), codes, x.scales().to_owned())
    };
    Ok(case.with(side(&case.a)?, side(&case.b)?, case.c.clone()))
}

/// Other codes of A.
fn one_side(case: &Case, code: fn(&Array2<u8>, usize, usize) -> u8) -> Changed {
    let changed = codes(case, code)?;
    Ok(case.with(changed.a, case.b.clone(), case.c.clone()))
}

/// Nothing is changed: what the helpers above make of a case is the twin's, so that a mutant is wrong only
/// in what it changes.
#[cfg(test)]
pub(super) fn unchanged() -> Vec<Mutant> {
    vec![
        Mutant::of_case(Part::Scales, "moved A", |case| moved(case, true, |row, block, _| (row, block))),
        Mutant::of_case(Part::Scales, "moved B", |case| moved(case, false, |row, block, _| (row, block))),
        Mutant::of_case(Part::Data, "codes", |case| codes(case, |x, row, k| x[(row, k)])),
        Mutant::of_case(Part::Data, "codes of A", |case| one_side(case, |x, row, k| x[(row, k)])),
        after("after", |d, _, _| d),
    ]
}

/// D with some elements changed after all: `change` gets the value, its place and D's shape.
fn after(name: &'static str, change: fn(f32, (usize, usize), (usize, usize)) -> f32) -> Mutant {
    Mutant::new(Part::Data, name, move |case| {
        let d = case.twin(Path::best())?;
        let (ty, dim, mut values) = (d.ty(), d.dim(), d.to_f32());
        values.indexed_iter_mut().for_each(|(place, value)| *value = change(*value, place, dim));
        // Exact: every value came from that type.
        Ok(Matrix::from_f32(values, ty))
    })
}
