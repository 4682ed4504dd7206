//! The error measures against their formulas, worked by hand or term by term.

use fp8gemm_sim::SimError;
use fp8gemm_sim::metrics::{Metrics, Ulp};
use half::{bf16, f16};
use ndarray::{Array2, array};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Breaks if a measure is not its documented formula. Powers of two, so that nothing rounds.
#[test]
fn formulas_by_hand() {
    let reference = array![[4.0, -2.0], [0.0, 2.0]];
    let got = Metrics::new(reference.view(), array![[4.0f32, -1.5], [0.0, 1.0]].view()).unwrap();
    let (signal, noise, approximation) = (24.0f64, 1.25, 16.0 + 2.25 + 1.0);
    assert_eq!((got.elements, got.non_finite, got.non_finite_differing), (4, 0, 0));
    assert_eq!(got.snr_db, 10.0 * (signal / noise).log10());
    assert_eq!(got.relative_frobenius, (noise / signal).sqrt());
    assert_eq!(got.calc_diff, noise / (signal + approximation));
    assert_eq!(got.max_relative, 0.5);
    assert_eq!(got.max_over_mean, 0.5);
    assert_eq!(got.bias, (0.5 - 1.0) / 8.0);
}

/// Breaks if the form that does not cancel is not DeepGEMM's `1 - 2 sum(xy) / sum(x^2 + y^2)`.
#[test]
fn calc_diff_is_deepgemms() {
    let mut rng = StdRng::seed_from_u64(1);
    let x = Array2::from_shape_simple_fn((50, 60), || rng.random_range(-1.0..1.0));
    let y = x.mapv(|x: f64| bf16::from_f64(x));
    let got = Metrics::new(x.view(), y.view()).unwrap();
    let y = y.mapv(f64::from);
    let deepgemm = 1.0 - 2.0 * (&x * &y).sum() / (&x * &x + &y * &y).sum();
    assert!((got.calc_diff - deepgemm).abs() < 1e-14, "{} {deepgemm}", got.calc_diff);
    assert!(got.calc_diff > 1e-7);
}

/// Breaks if zeros give NaN, or an error against nothing passes as small.
#[test]
fn zeros() {
    let zero = Array2::<f64>::zeros((2, 3));
    let same = Metrics::new(zero.view(), zero.view()).unwrap();
    assert_eq!((same.snr_db, same.relative_frobenius, same.calc_diff), (f64::INFINITY, 0.0, 0.0));
    assert_eq!((same.max_relative, same.max_over_mean, same.bias), (0.0, 0.0, 0.0));
    let mut wrong = zero.clone();
    wrong[(1, 1)] = 0.5;
    let wrong = Metrics::new(zero.view(), wrong.view()).unwrap();
    assert_eq!((wrong.snr_db, wrong.relative_frobenius, wrong.calc_diff), (f64::NEG_INFINITY, f64::INFINITY, 1.0));
    assert_eq!((wrong.max_relative, wrong.max_over_mean, wrong.bias), (f64::INFINITY, f64::INFINITY, f64::INFINITY));
    let empty = Array2::<f64>::zeros((0, 3));
    let empty = Metrics::new(empty.view(), empty.view()).unwrap();
    assert_eq!((empty.elements, empty.snr_db, empty.max_over_mean), (0, f64::INFINITY, 0.0));
}

/// Breaks if NaN or infinity poisons the sums, or goes uncounted.
#[test]
fn non_finite_pairs_are_counted_apart() {
    let (nan, infinity) = (f64::NAN, f64::INFINITY);
    let reference = array![[nan, infinity, infinity, 1.0, 1.0, nan, 2.0]];
    let approximation = array![[nan, infinity, -infinity, nan, infinity, 1.0, 2.0]];
    let got = Metrics::new(reference.view(), approximation.view()).unwrap();
    assert_eq!((got.elements, got.non_finite, got.non_finite_differing), (1, 6, 4));
    assert_eq!((got.snr_db, got.max_relative, got.bias), (infinity, 0.0, 0.0));
    assert!(got.to_string().ends_with("(4 of 6 non-finite pairs differ)"), "{got}");
}

/// Breaks if the sums depend on the number of threads or on the strides of the views.
#[test]
fn order_of_the_sums_is_fixed() {
    let mut rng = StdRng::seed_from_u64(2);
    let x =
        Array2::from_shape_simple_fn((301, 77), || rng.random_range(-1.0..1.0) * 10f64.powi(rng.random_range(-9..9)));
    let y = x.mapv(|x| x as f32);
    let whole = Metrics::new(x.view(), y.view()).unwrap();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| Metrics::new(x.view(), y.view()).unwrap()), whole);
    }
    let (x, y) = (x.t().as_standard_layout().into_owned(), y.t().as_standard_layout().into_owned());
    assert_eq!(Metrics::new(x.t(), y.t()).unwrap(), whole);
}

/// Breaks if shapes may differ.
#[test]
fn shapes_must_agree() {
    let got = Metrics::new(Array2::<f64>::zeros((2, 3)).view(), Array2::<f32>::zeros((3, 2)).view());
    assert!(matches!(got, Err(SimError::Shape { rows: 3, columns: 2, expected_rows: 2, expected_columns: 3, .. })));
}

/// Breaks if a ULP is not one step from a representable value to the next, over all of bf16 and
/// f16 and around zero, or if NaN has a distance to a number.
#[test]
fn ulp_counts_steps() {
    for magnitude in 0..0x7F80u16 {
        let (low, high) = (bf16::from_bits(magnitude), bf16::from_bits(magnitude + 1));
        assert_eq!(low.ulp_distance(high), Some(1));
        assert_eq!((-low).ulp_distance(-high), Some(1));
        assert_eq!(high.ulp_distance(-low), Some(2 * u64::from(magnitude) + 1));
    }
    for magnitude in 0..0x7C00u16 {
        let (low, high) = (f16::from_bits(magnitude), f16::from_bits(magnitude + 1));
        assert_eq!(high.ulp_distance(low), Some(1));
        assert_eq!(low.ulp_distance(-low), Some(2 * u64::from(magnitude)));
    }
    assert_eq!(1.0f32.ulp_distance(1.0 + f32::EPSILON), Some(1));
    assert_eq!(0.0f32.ulp_distance(-0.0), Some(0));
    assert_eq!(f32::MAX.ulp_distance(f32::INFINITY), Some(1));
    assert_eq!(f32::INFINITY.ulp_distance(f32::NEG_INFINITY), Some(2 * 0x7F80_0000));
    assert_eq!(f32::NAN.ulp_distance(f32::from_bits(0xFFC1_2345)), Some(0));
    assert_eq!(f32::NAN.ulp_distance(f32::INFINITY), None);
    assert_eq!(0.0f32.ulp_distance(f32::NAN), None);
}
