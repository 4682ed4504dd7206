//! Quantisation as a whole: shapes, strides, threads, names, errors, and what comes back.

use fp8gemm_formats::FormatError;
use fp8gemm_formats::quantize::{Applied, Quantizer, Recipe, quantize};
use fp8gemm_problem::{OperandType, ScaleLayout};
use ndarray::{Array2, ArrayView2, Axis, Slice, array};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const TYPES: [OperandType; 2] = OperandType::ALL;

/// Every recipe with each of its layouts and both target types.
fn quantizers() -> impl Iterator<Item = Quantizer> {
    Recipe::ALL.into_iter().flat_map(|recipe| {
        recipe.layouts().iter().flat_map(move |layout| {
            TYPES.into_iter().map(move |ty| Quantizer::new(recipe).with_layout(*layout).with_ty(ty))
        })
    })
}

/// Sums of 4 uniform numbers, with rows of different size.
fn random(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    Array2::from_shape_fn((rows, columns), |(row, _)| {
        (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>() * (1 << (row % 7)) as f32
    })
}

fn bits(scales: ArrayView2<'_, f32>) -> Vec<u32> {
    scales.iter().map(|scale| scale.to_bits()).collect()
}

/// Breaks if a printed quantizer no longer parses, or if text that means nothing is accepted.
#[test]
fn prints_and_parses() {
    let mut names = Vec::new();
    for quantizer in quantizers() {
        assert_eq!(quantizer.to_string().parse(), Ok(quantizer));
        assert_eq!(quantizer.recipe.to_string().parse(), Ok(quantizer.recipe));
        names.push(quantizer.recipe.name());
    }
    names.dedup();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), count), (Recipe::ALL.len(), Recipe::ALL.len()), "names are not unique");
    assert_eq!("te-block".parse(), Ok(Quantizer::new(Recipe::TeBlock)));
    assert_eq!("deepgemm:128x128".parse(), Ok(Quantizer::new(Recipe::DeepGemm).with_layout(ScaleLayout::Block128x128)));
    for bad in [
        "",
        ":",
        "DeepGEMM",
        "deepgemm:",
        "deepgemm:128",
        "deepgemm:1x128:",
        "deepgemm:1x128:f32",
        "deepgemm:1x128:e4m3:",
    ] {
        assert!(bad.parse::<Quantizer>().is_err(), "{bad:?} was accepted");
    }
    assert_eq!(
        "te-block:row".parse::<Quantizer>(),
        Err(FormatError::RecipeLayout { recipe: Recipe::TeBlock, layout: ScaleLayout::Row })
    );
    let message = "nope".parse::<Recipe>().unwrap_err().to_string();
    assert!(
        message.contains("\"nope\"") && message.contains("deepgemm, ") && message.contains("te-block"),
        "{message}"
    );
}

/// Breaks if a recipe is run with scales that its source does not have.
#[test]
fn layouts_of_the_source_only() {
    for recipe in Recipe::ALL {
        for layout in ScaleLayout::ALL {
            let result = quantize(array![[1.0f32]].view(), recipe, layout, OperandType::E4m3);
            match result {
                Ok(quantized) => assert!(recipe.layouts().contains(&layout) && quantized.layout() == layout),
                Err(error) => {
                    assert!(!recipe.layouts().contains(&layout));
                    assert_eq!(error, FormatError::RecipeLayout { recipe, layout });
                    assert!(error.to_string().contains(&layout.to_string()), "{error}");
                }
            }
        }
    }
}

/// Breaks if a matrix without rows or columns panics or gets scales of the wrong shape. Row and
/// tensor scales exist without elements and are those of a block of zeros.
#[test]
fn empty_matrices() {
    for quantizer in quantizers() {
        let zeros = quantizer.quantize(Array2::<f32>::zeros((1, 1)).view()).unwrap().scales()[[0, 0]];
        for (rows, columns) in [(0, 0), (0, 5), (5, 0), (0, 300), (300, 0)] {
            let quantized = quantizer.quantize(Array2::<f32>::zeros((rows, columns)).view()).unwrap();
            assert_eq!(quantized.codes().dim(), (rows, columns));
            assert_eq!(quantized.scales().dim(), quantizer.layout.scale_shape(rows, columns));
            assert!(quantized.scales().iter().all(|scale| *scale == zeros), "{quantizer} [{rows}, {columns}]");
            assert_eq!(quantized.dequantize().dim(), (rows, columns));
        }
    }
}

/// Breaks if strides matter: a transposed, reversed, stepped or broadcast view must give the bits
/// of its contiguous copy.
#[test]
fn any_strides() {
    let x = random(131, 140, 1);
    let mut reversed = x.view();
    reversed.invert_axis(Axis(0));
    reversed.invert_axis(Axis(1));
    let stepped = x.slice_axis(Axis(1), Slice::new(1, None, 3));
    let row = x.row(5);
    let broadcast = row.broadcast((130, 140)).unwrap();
    for quantizer in quantizers() {
        for view in [x.view(), x.t(), reversed, stepped, broadcast] {
            let copy = view.as_standard_layout().into_owned();
            assert_eq!(quantizer.quantize(view).unwrap(), quantizer.quantize(copy.view()).unwrap(), "{quantizer}");
        }
    }
}

/// Breaks if the number of threads changes a bit.
#[test]
fn any_number_of_threads() {
    let mut x = random(300, 417, 2);
    x[[7, 200]] = f32::NAN;
    x[[299, 416]] = 1e30;
    for quantizer in quantizers() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let quantized = pool.install(|| quantizer.quantize(x.view())).unwrap();
            (quantized.codes().to_owned(), bits(quantized.scales()))
        };
        let one = run(1);
        assert_eq!(one, run(2), "{quantizer}");
        assert_eq!(one, run(3), "{quantizer}");
    }
}

/// Breaks if a block knows its neighbours: each block of a matrix of real weight sizes, partial ones
/// included, must have the codes and the scale that it has alone.
#[test]
fn blocks_are_independent() {
    for (rows, columns) in [(576, 130), (127, 129), (129, 127), (1, 2112), (2112, 1)] {
        let x = random(rows, columns, 3);
        for quantizer in quantizers().filter(|quantizer| quantizer.ty == OperandType::E4m3) {
            let quantized = quantizer.quantize(x.view()).unwrap();
            let (block_rows, block_columns) = quantizer.layout.block(rows, columns);
            assert_eq!(quantized.scales().dim(), (rows.div_ceil(block_rows), columns.div_ceil(block_columns)));
            // The last block, which is partial where there is one, and one in the middle.
            for part in [1, 2] {
                let row = (rows - 1) / part / block_rows;
                let column = (columns - 1) / part / block_columns;
                let cut = |axis, from: usize, size: usize, end: usize| {
                    (Axis(axis), Slice::from(from * size..end.min((from + 1) * size)))
                };
                let (axis0, rows_of) = cut(0, row, block_rows, rows);
                let (axis1, columns_of) = cut(1, column, block_columns, columns);
                let alone = x.slice_axis(axis0, rows_of);
                let alone = quantizer.quantize(alone.slice_axis(axis1, columns_of)).unwrap();
                assert_eq!(alone.scales()[[0, 0]], quantized.scales()[[row, column]], "{quantizer} {rows}x{columns}");
                let codes = quantized.codes();
                let codes = codes.slice_axis(axis0, rows_of);
                assert_eq!(alone.codes(), codes.slice_axis(axis1, columns_of), "{quantizer} {rows}x{columns}");
            }
        }
    }
}

/// Breaks if quantising and back loses more than the format does: half a unit in the last place
/// relative to the element, or of the smallest subnormal times the scale. (Half a unit of E4M3 is
/// 2^-4 of the smallest number of a binade; the rest of the bound is f32 rounding.) Recipes that
/// may clip are bounded by the unclipped part of the block.
#[test]
fn round_trip_is_within_the_format() {
    let x = random(140, 300, 4);
    for quantizer in quantizers() {
        let quantized = quantizer.quantize(x.view()).unwrap();
        let back = quantized.dequantize();
        let (max, half_unit, smallest) = match quantizer.ty {
            OperandType::E4m3 => (448.0, 2f32.powi(-4), 2f32.powi(-9)),
            OperandType::E5m2 => (57344.0, 2f32.powi(-3), 2f32.powi(-16)),
        };
        let clips = matches!(quantizer.recipe, Recipe::TorchaoMxFloor | Recipe::TorchaoMxEven);
        // Through f16 an element may be rounded twice.
        let slack = if quantizer.recipe == Recipe::MistralrsWeight { 1.01 } else { 1.00001 };
        for ((row, column), x) in x.indexed_iter() {
            let scale = quantized.view().scale_at(row, column);
            if clips && x.abs() > max * scale {
                assert_eq!(back[[row, column]].abs(), max * scale);
                continue;
            }
            let bound = (x.abs() * half_unit).max(scale * smallest / 2.0) * slack;
            let error = (back[[row, column]] - x).abs();
            assert!(error <= bound, "{quantizer}: {x} at ({row}, {column}) came back with error {error} > {bound}");
        }
    }
}

/// Breaks if the error for infinite input names any other element than the first, or if finite
/// input, however large, is refused.
#[test]
fn infinite_input_is_named() {
    let mut x = random(200, 140, 5);
    let recipe = Recipe::SglangGroupUe8m0;
    let run = |x: &Array2<f32>| quantize(x.view(), recipe, ScaleLayout::Block1x128, OperandType::E4m3);
    x[[150, 3]] = f32::MAX;
    assert!(run(&x).is_ok());
    for (row, column, value) in [(199, 139, f32::INFINITY), (150, 137, f32::NEG_INFINITY), (150, 20, f32::INFINITY)] {
        x[[row, column]] = value;
        let error = run(&x).unwrap_err();
        assert_eq!(error, FormatError::Infinite { recipe, row, column, value });
        assert!(error.to_string().contains(&format!("({row}, {column})")), "{error}");
    }
}

/// Breaks if a matrix that cannot be held aborts or panics instead of saying so.
#[test]
fn impossible_sizes_are_an_error() {
    let one = array![[1.0f32]];
    let (rows, columns) = (1 << 40, 1 << 20);
    let huge = one.broadcast((rows, columns)).unwrap();
    for quantizer in [Quantizer::new(Recipe::DeepGemm), Quantizer::new(Recipe::TeCurrent)] {
        assert_eq!(quantizer.quantize(huge).unwrap_err(), FormatError::TooLarge { rows, columns });
    }
    // No element, but more row scales than fit.
    let rows = isize::MAX as usize;
    let empty = ArrayView2::<f32>::from_shape((rows, 0), &[]).unwrap();
    let quantizer = Quantizer::new(Recipe::VllmToken);
    assert_eq!(quantizer.quantize(empty).unwrap_err(), FormatError::TooLarge { rows, columns: 0 });
}

/// Breaks if `block_scale`, which other engines build on, is not what the matrix gets.
#[test]
fn block_scale_is_the_matrix_scale() {
    for quantizer in quantizers() {
        for amax in [0.0f32, 1e-30, 0.37, 448.0, 1e30] {
            let quantized = quantizer.quantize(array![[amax / 3.0, -amax]].view()).unwrap();
            let columns_share = quantizer.layout.block(1, 2).1 > 1;
            let scale = quantizer.recipe.block_scale::<f32>(quantizer.ty, amax);
            assert_eq!(scale.stored.to_bits(), quantized.scales()[[0, usize::from(!columns_share)]].to_bits());
            let scaled = match scale.applied {
                Applied::MultiplyBy(factor) => -amax * factor,
                Applied::DivideBy(divisor) => -amax / divisor,
            };
            if !scaled.is_nan() {
                let code = fp8gemm_formats::Fp8Format::from(quantizer.ty).encode(
                    scaled,
                    fp8gemm_formats::Rounding::NearestEven,
                    fp8gemm_formats::Overflow::Saturate,
                );
                assert_eq!(quantized.codes()[[0, 1]], code, "{quantizer} {amax}");
            }
        }
    }
    // A NaN counts where the source's reduction lets it through.
    assert!(Recipe::DeepGemm.block_scale::<f32>(OperandType::E4m3, f32::NAN).stored.is_nan());
    assert_eq!(Recipe::TeCurrent.block_scale::<f32>(OperandType::E4m3, f32::NAN).stored, 1.0);
}
