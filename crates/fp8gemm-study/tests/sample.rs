//! Samples, pinned: bits that were drawn once must be drawn for ever, on every platform.

use fp8gemm_study::sample::{Distribution, random_words};
use fp8gemm_study::{Cell, StudyError};

fn bits(text: &str) -> (Vec<u32>, String) {
    let distribution: Distribution = text.parse().expect("a distribution");
    let x = distribution.sample(1, "a", (5, 67)).expect("a sample");
    (x.row(2).iter().take(3).map(|x| x.to_bits()).collect(), Cell::fingerprint(&x).to_string())
}

/// Breaks if any sample changes by a bit: every result and expected file would change with it.
#[test]
fn samples_have_pinned_bits() {
    let pinned: [(&str, [u32; 3], &str); 9] = [
        ("normal(0, 1)", [0x3E380CC6, 0x3F478993, 0x3F0BC206], "0x00006E264B1BBB78"),
        ("uniform(0, 1)", [0x3F39E8CC, 0x3E5B107B, 0x3F2BD85F], "0x000035ED9DCEEFB5"),
        ("log-normal(0, 1)", [0x3F993412, 0x400B8956, 0x3FDCF482], "0x000036799A82DD43"),
        ("laplace(1)", [0xBEA3CC52, 0x3ECC131F, 0x3D2C4879], "0x00006A4C5FDE48B3"),
        ("student-t(3)", [0x3E867C3A, 0x3EBB3247, 0x3FBF5B2A], "0x00006EB3EC363676"),
        ("outlier-elements(0.1, 100)", [0x3E380CC6, 0x3F478993, 0x3E63FA13], "0x000073BF53D57F3C"),
        ("outlier-channels(0.1, 100)", [0x3E380CC6, 0x3F478993, 0x3F0BC206], "0x00006E8AE491AF92"),
        ("softmax-rows(4)", [0x398C73E2, 0x3B414D6D, 0x3A97EB4E], "0x000030B35089316A"),
        ("drift(0.01, 100)", [0x3E380CC6, 0x3F478993, 0x3F0BC206], "0x00006F49B58FFBB9"),
    ];
    for (text, first, fingerprint) in pinned {
        let found = bits(text);
        assert_eq!((&found.0[..], found.1.as_str()), (&first[..], fingerprint), "{text}");
    }
}

/// Breaks if a sample depends on the threads that drew it.
#[test]
fn threads_do_not_matter() {
    let draw = || "outlier-channels(0.1, 30)".parse::<Distribution>().unwrap().sample(7, "b", (33, 65)).unwrap();
    let many = draw();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(draw), many);
    }
}

/// Breaks if seeds, roles or rows share their numbers, or if a row depends on how many there are.
#[test]
fn seeds_roles_and_rows_are_independent() {
    let normal = Distribution::NORMAL;
    let draw = |seed, role, rows| normal.sample(seed, role, (rows, 64)).unwrap();
    let x = draw(1, "a", 8);
    assert_ne!(x, draw(2, "a", 8));
    assert_ne!(x, draw(1, "b", 8));
    assert_ne!(x.row(0), x.row(1));
    assert_eq!(x.row(3), draw(1, "a", 4).row(3));
    assert!(matches!(normal.sample(1, &"r".repeat(25), (1, 1)), Err(StudyError::Argument { .. })));
}

/// Breaks if a distribution has another mean or spread than its formula says: each moment within five
/// standard errors (of the statistic, at 2^20 elements).
#[test]
fn moments_are_those_of_the_formulas() {
    let count = f64::from(1 << 20);
    // Text, mean, standard deviation, fourth central moment over the squared variance.
    for (text, mean, std, kurtosis) in [
        ("normal(3, 2)", 3.0, 2.0, 3.0),
        ("uniform(-1, 3)", 1.0, 4.0 / 12f64.sqrt(), 1.8),
        ("laplace(2)", 0.0, 8f64.sqrt(), 6.0),
        ("student-t(10)", 0.0, 1.25f64.sqrt(), 4.0),
        ("log-normal(0, 0.25)", 0.03125f64.exp(), 0.03125f64.exp() * (0.0625f64.exp() - 1.0).sqrt(), 4.1),
        ("outlier-elements(0.01, 10)", 0.0, 1.99f64.sqrt(), 3.0 * (0.99 + 100.0) / 1.99f64.powi(2)),
    ] {
        let x = text.parse::<Distribution>().unwrap().sample(5, "a", (1024, 1024)).unwrap().mapv(f64::from);
        let found_mean = x.sum() / count;
        let found_std = (x.mapv(|x| (x - found_mean).powi(2)).sum() / count).sqrt();
        let error = std / count.sqrt();
        assert!((found_mean - mean).abs() < 5.0 * error, "{text}: mean {found_mean}");
        let error = std * (kurtosis - 1.0f64).sqrt() / 2.0 / count.sqrt();
        assert!((found_std - std).abs() < 5.0 * error, "{text}: standard deviation {found_std}, not {std}");
    }
}

/// Breaks if rows of probabilities do not sum to 1, or a drift does not go where it should.
#[test]
fn rows_have_their_meaning() {
    let probabilities = "softmax-rows(3)".parse::<Distribution>().unwrap().sample(1, "p", (16, 512)).unwrap();
    assert!(probabilities.iter().all(|&x| x > 0.0));
    assert!(probabilities.rows().into_iter().all(|row| (row.sum() - 1.0).abs() < 1e-4));
    let drift = "drift(0.01, 100)".parse::<Distribution>().unwrap().sample(1, "x", (3, 4096)).unwrap();
    for (row, std) in drift.rows().into_iter().zip([0.01, 1.0, 100.0]) {
        let found = (row.mapv(|x| x * x).sum() / 4096.0).sqrt();
        assert!((found / std - 1.0).abs() < 0.06, "{found} is not {std}");
    }
}
/// Breaks if the words of stochastic rounding change by a bit, are shared by streams or roles, are not
/// uniform, or depend on how many are drawn.
#[test]
fn random_words_are_pinned_and_uniform() {
    let words = |role: &str, stream, count| random_words(1, role, stream, count).expect("words");
    assert_eq!(words("rounding", 0, 4), [2_477_230_209, 2_144_853_037, 1_378_331_251, 3_414_358_446]);
    let many = words("rounding", 0, 1 << 16);
    assert_eq!(many[..4], words("rounding", 0, 4));
    assert!(many[..64] != words("rounding", 1, 64) && many[..64] != words("other", 0, 64));
    // Each bit is set in half of the words, within five standard deviations.
    for bit in 0..32 {
        let set = many.iter().filter(|&&word| word >> bit & 1 == 1).count();
        assert!(set.abs_diff(1 << 15) < 5 * 128, "bit {bit} is set in {set} of 65536 words");
    }
    assert!(matches!(random_words(1, &"x".repeat(25), 0, 1), Err(StudyError::Argument { .. })));
}
