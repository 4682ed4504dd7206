//! Delayed scaling: the state machine, worked by hand and against a plain reading of the kernel.

use fp8gemm_formats::FormatError;
use fp8gemm_formats::quantize::{AmaxAlgorithm, DelayedScaling};
use fp8gemm_problem::OperandType;
use ndarray::array;
use proptest::prelude::*;

/// Records one magnitude and ends the step.
fn step(scaling: &mut DelayedScaling, amax: f32) -> f32 {
    scaling.record(amax);
    scaling.update();
    scaling.factor()
}

/// Breaks if the window is not rolled as TransformerEngine rolls it: slot 0 collects, the oldest
/// entry counts once more and falls out.
#[test]
fn the_window_rolls() {
    let mut scaling = DelayedScaling::new(OperandType::E4m3, 3, 0, AmaxAlgorithm::Max).unwrap();
    assert_eq!((scaling.factor(), scaling.scale(), scaling.history()), (1.0, 1.0, &[0.0; 3][..]));
    assert_eq!(step(&mut scaling, 7.0), 64.0);
    assert_eq!(scaling.history(), [0.0, 0.0, 7.0]);
    assert_eq!(step(&mut scaling, 3.5), 64.0);
    assert_eq!(scaling.history(), [0.0, 7.0, 3.5]);
    // 7 is in slot 1 now: it counts here for the last time.
    assert_eq!(step(&mut scaling, 1.75), 64.0);
    assert_eq!(scaling.history(), [0.0, 3.5, 1.75]);
    assert_eq!(step(&mut scaling, 1.75), 128.0);
    assert_eq!(step(&mut scaling, 0.5), 256.0);
    assert_eq!(scaling.scale(), 2f32.powi(-8));
}

/// Breaks if a step that saw nothing moves the window or the scale: the kernel rolls only where
/// the last magnitude is not 0.
#[test]
fn a_step_without_data_changes_nothing() {
    for algorithm in [AmaxAlgorithm::Max, AmaxAlgorithm::MostRecent] {
        let mut scaling = DelayedScaling::new(OperandType::E4m3, 2, 0, algorithm).unwrap();
        step(&mut scaling, 7.0);
        let before = scaling.clone();
        scaling.update();
        assert_eq!(scaling, before);
    }
}

/// Breaks if infinity or NaN makes a scale: the old one is kept, as long as the window shows the
/// infinity; NaN is passed over by the maximum.
#[test]
fn infinity_and_nan_keep_the_scale() {
    let mut scaling = DelayedScaling::new(OperandType::E4m3, 2, 0, AmaxAlgorithm::Max).unwrap();
    assert_eq!(step(&mut scaling, 7.0), 64.0);
    assert_eq!(step(&mut scaling, f32::INFINITY), 64.0);
    assert_eq!(step(&mut scaling, 3.5), 64.0);
    assert_eq!(step(&mut scaling, 3.5), 128.0);
    assert_eq!(step(&mut scaling, f32::NAN), 128.0);
    assert_eq!(step(&mut scaling, 1.75), 256.0);
    let mut scaling = DelayedScaling::new(OperandType::E4m3, 2, 0, AmaxAlgorithm::MostRecent).unwrap();
    assert_eq!(step(&mut scaling, 7.0), 64.0);
    assert_eq!(step(&mut scaling, f32::NAN), 64.0);
    assert_eq!(step(&mut scaling, f32::INFINITY), 64.0);
    assert_eq!(step(&mut scaling, 3.5), 128.0);
}

/// Breaks if margin, target type, a window of one step or a scale beyond f32 go wrong.
#[test]
fn margin_type_and_limits() {
    let mut scaling = DelayedScaling::new(OperandType::E5m2, 1, 2, AmaxAlgorithm::Max).unwrap();
    assert_eq!(step(&mut scaling, 1.0), 57344.0 / 4.0);
    assert_eq!(scaling.history(), [0.0]);
    assert_eq!(step(&mut scaling, 4.0), 57344.0 / 16.0);
    assert_eq!(step(&mut scaling, 1e-44), f32::MAX);
    assert_eq!(scaling.scale(), 1.0 / f32::MAX);
    let mut scaling = DelayedScaling::new(OperandType::E4m3, 4, -1, AmaxAlgorithm::MostRecent).unwrap();
    assert_eq!(step(&mut scaling, 7.0), 128.0);
    assert_eq!(step(&mut scaling, 3.0), 896.0 / 3.0);
    assert_eq!(
        DelayedScaling::new(OperandType::E4m3, 0, 0, AmaxAlgorithm::Max).unwrap_err(),
        FormatError::EmptyHistory
    );
}

/// Breaks if the cast takes the new scale, or forgets a magnitude, or if two tensors of one step do
/// not combine.
#[test]
fn quantising_uses_the_old_scale_and_records() {
    let mut scaling = DelayedScaling::new(OperandType::E4m3, 4, 0, AmaxAlgorithm::Max).unwrap();
    step(&mut scaling, 7.0);
    let first = scaling.quantize(array![[1.0f32, -0.0], [14.0, f32::NEG_INFINITY]].view()).unwrap();
    assert_eq!(first.codes(), array![[0x68, 0x80], [0x7E, 0xFE]]);
    assert_eq!(first.scales(), array![[1.0 / 64.0]]);
    assert_eq!(scaling.history()[0], f32::INFINITY);
    let mut scaling = DelayedScaling::new(OperandType::E4m3, 4, 0, AmaxAlgorithm::Max).unwrap();
    scaling.quantize(array![[f32::NAN, 3.5]].view()).unwrap();
    let second = scaling.quantize(array![[-0.25f32, f32::NAN]].view()).unwrap();
    assert_eq!(second.codes(), array![[0xA8, 0x7F]]);
    assert_eq!(scaling.history()[0], 3.5);
    scaling.quantize(ndarray::Array2::<f32>::zeros((0, 3)).view()).unwrap();
    scaling.update();
    assert_eq!(scaling.factor(), 128.0);
}

/// Breaks if a printed algorithm no longer parses.
#[test]
fn algorithms_print_and_parse() {
    for algorithm in [AmaxAlgorithm::Max, AmaxAlgorithm::MostRecent] {
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
    }
    assert!("mean".parse::<AmaxAlgorithm>().is_err());
}

/// One update as the kernel's index arithmetic states it: new[i] = old[i + 1], new[last] = old[0],
/// new[0] = 0, the maximum over everything that was moved.
fn kernel(history: &mut [f32], factor: &mut f32, most_recent: bool, scaled_max: f32) {
    let length = history.len();
    let last = history[0];
    let mut amax = 0.0;
    if last != 0.0 {
        let old = history.to_vec();
        for i in 0..length {
            let a = if i < length - 1 { old[i + 1] } else { last };
            amax = f32::max(amax, a);
            history[i] = if i > 0 { a } else { 0.0 };
        }
    }
    if most_recent {
        amax = last;
    }
    if amax.is_finite() && amax > 0.0 {
        *factor = scaled_max / amax;
    }
    if factor.is_infinite() {
        *factor = f32::MAX;
    }
}

proptest! {
    /// Breaks if any sequence of magnitudes leads to another state than the kernel's.
    #[test]
    fn equals_the_kernel(
        length in 1usize..6,
        most_recent in any::<bool>(),
        margin in -2i32..3,
        steps in proptest::collection::vec(
            prop_oneof![
                4 => (0u32..0x7F80_0000).prop_map(f32::from_bits),
                1 => prop_oneof![Just(0.0), Just(f32::INFINITY), Just(f32::NAN), Just(1e-44)],
            ],
            0..30,
        ),
    ) {
        let algorithm = if most_recent { AmaxAlgorithm::MostRecent } else { AmaxAlgorithm::Max };
        let mut scaling = DelayedScaling::new(OperandType::E4m3, length, margin, algorithm).unwrap();
        let (mut history, mut factor) = (vec![0.0f32; length], 1.0f32);
        for amax in steps {
            scaling.record(amax);
            history[0] = amax;
            scaling.update();
            kernel(&mut history, &mut factor, most_recent, 448.0 * 2f32.powf(-margin as f32));
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(scaling.history()), bits(&history));
            prop_assert_eq!(scaling.factor().to_bits(), factor.to_bits());
        }
        let again = DelayedScaling::from_state(OperandType::E4m3, margin, algorithm, history, factor).unwrap();
        prop_assert_eq!(format!("{again:?}"), format!("{scaling:?}"));
    }
}
