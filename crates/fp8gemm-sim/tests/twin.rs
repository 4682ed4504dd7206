//! Whole GEMMs on random problems: every path, policy, scale layout, output and epilogue against a
//! naive reading of the specification, and the invariances that the documentation promises.

#![allow(clippy::unwrap_used)]

mod common;

use common::cases::{Regime, normal, wide};
use common::naive;
use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::{Epilogue, OperandType, OutputType, Policy, ScaleLayout};
use fp8gemm_sim::{Gemm, Matrix, Path, SimError};
use ndarray::{Array2, s};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How the elements of an operand are drawn.
#[derive(Clone, Copy, Debug)]
enum Data {
    /// Every row a concatenation of single-step cases of one regime.
    Steps(Regime),
    /// Wide exponents with a NaN or an infinity in few places: most tiles mix both kinds of lanes.
    RareSpecials,
}

/// Scales that can break an arithmetic shortcut: huge, tiny, negative, zero, infinite, NaN.
fn scales(layout: ScaleLayout, rows: usize, k: usize, odd: bool, rng: &mut StdRng) -> Array2<f32> {
    Array2::from_shape_simple_fn(layout.scale_shape(rows, k), || match (odd, rng.random_range(0..12)) {
        (true, 0) => 0.0,
        (true, 1) => -0.0,
        (true, 2) => f32::INFINITY,
        (true, 3) => f32::NAN,
        (true, 4) => 1e-42,
        (true, 5) => -3e38,
        (true, 6) => 1e-30,
        _ => normal(rng).exp(),
    })
}

fn operands(
    (m, n, k): (usize, usize, usize),
    types: [OperandType; 2],
    layouts: [ScaleLayout; 2],
    data: Data,
    odd_scales: bool,
    seed: u64,
) -> (ScaledMatrix, ScaledMatrix) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut codes = [Array2::zeros((m, k)), Array2::zeros((n, k))];
    match data {
        Data::Steps(regime) => {
            for row in 0..m.max(n) {
                for start in (0..k).step_by(32) {
                    let case = regime.case(types[0], types[1], &mut rng);
                    let end = k.min(start + 32);
                    for (matrix, values) in codes.iter_mut().zip([case.a, case.b]) {
                        if row < matrix.nrows() {
                            matrix.slice_mut(s![row, start..end]).assign(&ndarray::aview1(&values[..end - start]));
                        }
                    }
                }
            }
        }
        Data::RareSpecials => {
            for (matrix, ty) in codes.iter_mut().zip(types) {
                matrix.mapv_inplace(|_| if rng.random_range(0..700) == 0 { rng.random() } else { wide(ty, &mut rng) });
            }
        }
    }
    let [a, b] = codes;
    let scales_a = scales(layouts[0], m, k, odd_scales, &mut rng);
    let scales_b = scales(layouts[1], n, k, odd_scales, &mut rng);
    (
        ScaledMatrix::new(types[0], layouts[0], a, scales_a).unwrap(),
        ScaledMatrix::new(types[1], layouts[1], b, scales_b).unwrap(),
    )
}

fn any_type() -> impl Strategy<Value = OperandType> {
    prop::sample::select(&OperandType::ALL[..])
}

fn any_layout() -> impl Strategy<Value = ScaleLayout> {
    use ScaleLayout::{Block1x32, Block1x128, Block128x128, Row, Tensor};
    prop::sample::select(vec![Tensor, Row, Block1x128, Block128x128, Block1x32])
}

fn any_data() -> impl Strategy<Value = Data> {
    prop_oneof![
        3 => prop::sample::select(&Regime::ALL[..]).prop_map(Data::Steps),
        1 => Just(Data::RareSpecials),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        2 => Just(Policy::PROMOTE_128),
        1 => Just(Policy::Chain),
        1 => Just(Policy::Cutlass128),
        2 => (1..12u32).prop_map(|n| Policy::Promote { every: 32 * n }),
        2 => (1..7u32).prop_map(|parts| Policy::Split { parts }),
    ]
}

fn any_factor() -> impl Strategy<Value = f32> {
    prop_oneof![2 => Just(0.0), 2 => Just(1.0), 1 => Just(-0.75), 1 => any::<u32>().prop_map(f32::from_bits)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Breaks if any path gives one bit that the specification does not: tails of every lane, step
    /// and block width, all data regimes, specials, odd scales, all policies and epilogues.
    #[test]
    fn every_path_is_the_specification(
        sizes in (1..20usize, 1..40usize, 1..420usize),
        types in [any_type(), any_type()],
        layouts in [any_layout(), any_layout()],
        policy in any_policy(),
        data in any_data(),
        odd_scales in any::<bool>(),
        alpha in any_factor(),
        beta in any_factor(),
        c_type in prop::sample::select(&OutputType::ALL[..]),
        output in prop::sample::select(&OutputType::ALL[..]),
        seed in any::<u64>(),
    ) {
        prop_assume!(policy.check(layouts[0], layouts[1]).is_ok());
        let (m, n, _) = sizes;
        let (a, b) = operands(sizes, types, layouts, data, odd_scales, seed);
        let mut rng = StdRng::seed_from_u64(!seed);
        let c = Matrix::from_f32(Array2::from_shape_simple_fn((m, n), || f32::from_bits(rng.random())), c_type);
        let epilogue = Epilogue { alpha, beta };
        let gemm = Gemm::new(a.view(), b.view()).c(c.view()).output(output).policy(policy).epilogue(epilogue);
        let want = gemm.clone().path(Path::Generic).run().unwrap();
        for path in Path::available() {
            let got = gemm.clone().path(*path).run().unwrap();
            prop_assert!(got.view().bits_equal(&want.view()), "{path:?} differs from the generic path");
        }
        for row in 0..m {
            for column in 0..n {
                let c = Some(c.view().get(row, column));
                let naive = naive::output(&a.view(), &b.view(), c, (row, column), policy, epilogue, output);
                prop_assert_eq!(want.view().bits(row, column), naive, "row {} column {}", row, column);
            }
        }
    }

    /// Breaks if an output depends on anything but its own rows: batch invariance, the guarantee
    /// by which a token's result does not change with the rest of the batch.
    #[test]
    fn outputs_depend_on_their_own_rows_only(
        sizes in (2..40usize, 2..40usize, 1..300usize),
        types in [any_type(), any_type()],
        policy in any_policy(),
        data in any_data(),
        seed in any::<u64>(),
    ) {
        let layouts = [ScaleLayout::Block1x128, ScaleLayout::Block128x128];
        prop_assume!(policy.check(layouts[0], layouts[1]).is_ok());
        let (a, b) = operands(sizes, types, layouts, data, false, seed);
        let whole = Gemm::new(a.view(), b.view()).policy(policy).run().unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let chosen: Vec<usize> = (0..rng.random_range(1..5)).map(|_| rng.random_range(0..sizes.0)).collect();
        let some = a.view().gather_rows(&chosen).unwrap();
        let part = Gemm::new(some.view(), b.view()).policy(policy).run().unwrap();
        prop_assert!(part.view().bits_equal(&whole.view().gather_rows(&chosen).view()));
    }
}

/// Breaks if work is divided so that bits depend on the number of threads, or if a tile is missed
/// or computed twice where the problem spans several tiles.
#[test]
fn threads_and_tiles_change_nothing() {
    let sizes = (530, 390, 200);
    let layouts = [ScaleLayout::Block1x128, ScaleLayout::Block128x128];
    let (a, b) = operands(sizes, [OperandType::E4m3, OperandType::E5m2], layouts, Data::RareSpecials, false, 7);
    let gemm = Gemm::new(a.view(), b.view()).output(OutputType::F32);
    let run = |threads| {
        let macs = std::sync::atomic::AtomicU64::new(0);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let count = |done| {
            macs.fetch_add(done, std::sync::atomic::Ordering::Relaxed);
        };
        let d = pool.install(|| gemm.run_with(&count)).unwrap();
        assert_eq!(macs.into_inner(), 530 * 390 * 200, "progress does not add up");
        d
    };
    let one = run(1);
    assert!(one.view().bits_equal(&run(3).view()));
    for (row, column) in [(0, 0), (255, 127), (256, 128), (529, 389), (300, 256)] {
        let naive = naive::output(
            &a.view(),
            &b.view(),
            None,
            (row, column),
            Policy::PROMOTE_128,
            Epilogue::IDENTITY,
            OutputType::F32,
        );
        assert_eq!(one.view().bits(row, column), naive, "row {row} column {column}");
    }
}

/// Breaks if views with other strides than a plain row-major matrix are read wrongly.
#[test]
fn strided_views_are_read_in_place() {
    let sizes = (20, 33, 140);
    let layouts = [ScaleLayout::Row, ScaleLayout::Tensor];
    let (a, b) = operands(sizes, [OperandType::E4m3; 2], layouts, Data::RareSpecials, false, 3);
    let want = Gemm::new(a.view(), b.view()).run().unwrap();
    let column_major = a.codes().t().as_standard_layout().into_owned();
    let strided = fp8gemm_formats::ScaledView::new(a.ty(), a.layout(), column_major.t(), a.scales()).unwrap();
    assert!(Gemm::new(strided, b.view()).run().unwrap().view().bits_equal(&want.view()));
}

/// Breaks if empty problems panic or give anything but what BLAS gives.
#[test]
fn empty_problems() {
    let empty = |m: usize, n: usize, k: usize| {
        let matrix = |rows| ScaledMatrix::unscaled(OperandType::E4m3, Array2::zeros((rows, k)));
        let (a, b) = (matrix(m), matrix(n));
        let c = Matrix::F32(Array2::from_elem((m, n), 3.0));
        let epilogue = Epilogue { alpha: 1.0, beta: 2.0 };
        Gemm::new(a.view(), b.view()).c(c.view()).epilogue(epilogue).output(OutputType::F32).run().unwrap()
    };
    assert_eq!(empty(0, 3, 8).dim(), (0, 3));
    assert_eq!(empty(3, 0, 8).dim(), (3, 0));
    assert_eq!(empty(2, 2, 0), Matrix::F32(Array2::from_elem((2, 2), 6.0)));
}

/// Breaks if an ill-formed problem is computed instead of refused, or C is read where beta is 0.
#[test]
fn errors_come_first() {
    let (a, b) = operands((4, 5, 64), [OperandType::E4m3; 2], [ScaleLayout::Row; 2], Data::RareSpecials, false, 1);
    let (_, other) = operands((4, 5, 32), [OperandType::E4m3; 2], [ScaleLayout::Row; 2], Data::RareSpecials, false, 1);
    let gemm = Gemm::new(a.view(), b.view());
    assert_eq!(Gemm::new(a.view(), other.view()).run(), Err(SimError::KMismatch { m: 4, k_a: 64, n: 5, k_b: 32 }));
    let c = Matrix::F32(Array2::from_elem((5, 4), f32::NAN));
    assert!(matches!(gemm.clone().c(c.view()).run(), Err(SimError::Shape { what: "C", .. })));
    assert!(matches!(gemm.clone().epilogue(Epilogue::ACCUMULATE).run(), Err(SimError::Problem(_))));
    assert!(matches!(gemm.clone().policy(Policy::Promote { every: 48 }).run(), Err(SimError::Problem(_))));
    let f16 = fp8gemm_sim::tensor_core::TensorCore::HOPPER_FP8_F16;
    assert!(matches!(gemm.clone().core(f16).run(), Err(SimError::Core { .. })));
    let nan = Matrix::F32(Array2::from_elem((4, 5), f32::NAN));
    assert_eq!(gemm.clone().c(nan.view()).run(), gemm.run());
}

/// Breaks if the zero padding of K is skipped where it is a promotion of its own: an infinite scale
/// turns it into NaN, and it makes -0 positive.
#[test]
fn padding_is_promoted() {
    let gemm = |code_b: u8, scale: f32, policy| {
        let operand = |code, scale| {
            let (mut codes, layout) = (Array2::zeros((1, 32)), ScaleLayout::Block1x128);
            codes[(0, 0)] = code;
            ScaledMatrix::new(OperandType::E4m3, layout, codes, Array2::from_elem((1, 1), scale)).unwrap()
        };
        let (a, b) = (operand(0x01, scale), operand(code_b, 1.0));
        Gemm::new(a.view(), b.view()).output(OutputType::F32).policy(policy).run().unwrap().view().bits(0, 0)
    };
    let promote32 = Policy::Promote { every: 32 };
    assert_eq!(gemm(0x01, f32::INFINITY, promote32), 0x7FFF_FFFF);
    assert_eq!(gemm(0x01, f32::INFINITY, Policy::PROMOTE_128), 0x7F80_0000);
    let smallest = f32::from_bits(1);
    assert_eq!(gemm(0x81, smallest, promote32), 0x0000_0000);
    assert_eq!(gemm(0x81, smallest, Policy::PROMOTE_128), 0x8000_0000);
}
