//! The detectors: each knows one kind of difference and answers only if it sees nothing else.
//!
//! They are asked in order; the first answer counts. Exact statements come first, then structure,
//! then sizes.

use core::ops::Range;

use super::evidence::{Evidence, Pair};
use super::kind::{Bias, DifferenceKind, ScaleGroup};

type Detector = fn(&Evidence<'_>) -> Option<DifferenceKind>;

const DETECTORS: [Detector; 10] =
    [zero_signs, nan_payloads, one_bit, addend, zeros, scale, one_ulp, tiles, rows_or_columns, precision];

/// A region counts as wrong throughout from this share of differing elements on: a few results
/// come out right by chance.
const THROUGHOUT: f64 = 0.75;

/// Errors lean to a side from this share on, if there are at least [`ENOUGH`].
const LEANING: f64 = 0.95;
const ENOUGH: usize = 16;

/// The kind of a difference that exists.
pub(super) fn kind(evidence: &Evidence<'_>) -> DifferenceKind {
    DETECTORS.iter().find_map(|detector| detector(evidence)).unwrap_or(DifferenceKind::Unstructured)
}

fn zero_signs(evidence: &Evidence<'_>) -> Option<DifferenceKind> {
    evidence.differing().all(|pair| pair.expected == 0.0 && pair.actual == 0.0).then_some(DifferenceKind::ZeroSigns)
}

fn nan_payloads(evidence: &Evidence<'_>) -> Option<DifferenceKind> {
    evidence
        .differing()
        .all(|pair| pair.expected.is_nan() && pair.actual.is_nan())
        .then_some(DifferenceKind::NanPayloads)
}

fn one_bit(evidence: &Evidence<'_>) -> Option<DifferenceKind> {
    let first = evidence.first.filter(|_| evidence.differing == 1)?;
    let flipped = first.expected ^ first.actual;
    flipped.is_power_of_two().then_some(DifferenceKind::OneBit {
        row: first.row,
        column: first.column,
        bit: flipped.trailing_zeros(),
        ty: evidence.ty(),
    })
}

/// `actual - expected = factor * C`, up to the roundings of both results.
fn addend(evidence: &Evidence<'_>) -> Option<DifferenceKind> {
    let (c, beta) = evidence.addend.as_ref()?;
    let with_c = || {
        evidence.pairs().map(|pair| (pair, f64::from(c.get(pair.row, pair.column)))).filter(|(pair, c)| {
            // Where C is not finite, the results say nothing about its factor.
            c.is_finite() && pair.is_finite()
        })
    };
    let (errors, squares) = with_c().fold((0.0, 0.0), |(e, s), (pair, c)| (e + c * pair.error(), s + c * c));
    let factor = errors / squares;
    let explained = with_c().all(|(pair, c)| (pair.error() - factor * c).abs() <= rounding(evidence, &pair, 1.0));
    // A factor lost in the roundings explains nothing.
    let visible = with_c().any(|(pair, c)| (factor * c).abs() > 2.0 * rounding(evidence, &pair, 1.0));
    if evidence.nan_mismatches > 0 || !explained || !visible {
        return None;
    }
    let seen = f64::from(*beta) + factor;
    // Beta itself is known exactly, the factor only as well as the results are rounded.
    let seen = if seen.abs() < 0.01 * f64::from(*beta).abs() { 0.0 } else { seen };
    Some(DifferenceKind::Addend { beta: *beta, seen })
}

/// How far a pair may be apart by the roundings of its two sides alone, of which the expected one
/// is multiplied by `factor`.
fn rounding(evidence: &Evidence<'_>, pair: &Pair, factor: f64) -> f64 {
    evidence.ulp(pair.actual) + evidence.ulp(pair.expected) * factor.abs()
}

fn zeros(evidence: &Evidence<'_>) -> Option<DifferenceKind> {
    if !evidence.differing().all(|pair| pair.actual == 0.0 && pair.expected != 0.0) {
        return None;
    }
    let (rows, columns) = (bounds(&evidence.in_row), bounds(&evidence.in_column));
    let all = evidence
        .pairs()
        .filter(|pair| rows.contains(&pair.row) && columns.contains(&pair.column))
        .all(|pair| pair.actual == 0.0);
    Some(DifferenceKind::Zeros { rows, columns, all })
}

/// From the first to the last non-zero count.
fn bounds(counts: &[usize]) -> Range<usize> {
    let first = counts.iter().position(|count| *count > 0).unwrap_or(0);
    let last = counts.iter().rposition(|count| *count > 0).map_or(first, |last| last + 1);
    first..last
}

/// Roundings of partial sums in f32, relative to the size of the results.
const INNER: f64 = 1.0 / (1 << 20) as f64;

fn scale(evidence: &Evidence<'_>) -> Option<DifferenceKind> {
    ScaleGroup::ALL.into_iter().find_map(|per| constant_factors(evidence, per))
}

/// One group of outputs that might share a factor.
#[derive(Clone, Copy, Default)]
struct Group {
    elements: usize,
    differing: usize,
    /// Sums of `actual * expected` and `expected^2`.
    product: f64,
    square: f64,
}

impl Group {
    /// The least-squares factor; 1 where nothing differs.
    fn ratio(&self) -> f64 {
        if self.differing == 0 { 1.0 } else { self.product / self.square }
    }
}

fn constant_factors(evidence: &Evidence<'_>, per: ScaleGroup) -> Option<DifferenceKind> {
    let index = |pair: &Pair| match per {
        ScaleGroup::Matrix => 0,
        ScaleGroup::ColumnBlock => pair.column / 128,
        ScaleGroup::RowBlock => pair.row / 128,
        ScaleGroup::Row => pair.row,
        ScaleGroup::Column => pair.column,
    };
    let count = match per {
        ScaleGroup::Matrix => 1,
        ScaleGroup::ColumnBlock => evidence.columns.div_ceil(128),
        ScaleGroup::RowBlock => evidence.rows.div_ceil(128),
        ScaleGroup::Row => evidence.rows,
        ScaleGroup::Column => evidence.columns,
    };
    let mut groups = vec![Group::default(); count];
    for pair in evidence.pairs().filter(|pair| pair.expected != 0.0 || pair.differs) {
        if pair.differs && (!pair.is_finite() || pair.expected == 0.0) {
            return None;
        }
        if pair.is_finite() {
            let group = &mut groups[index(&pair)];
            group.elements += 1;
            group.differing += usize::from(pair.differs);
            group.product += pair.actual * pair.expected;
            group.square += pair.expected * pair.expected;
        }
    }
    // A factor within the roundings is none, and one or two elements always have a ratio.
    let smallest = 2f64.powi(1 - evidence.precision()).max(4.0 * INNER);
    let constant = groups.iter().filter(|group| group.differing > 0).all(|group| {
        group.elements >= 3
            && group.differing as f64 >= THROUGHOUT * group.elements as f64
            && (group.ratio() - 1.0).abs() > smallest
    });
    if !constant {
        return None;
    }
    let explained = evidence.pairs().filter(Pair::is_finite).all(|pair| {
        let group = &groups[index(&pair)];
        let ratio = group.ratio();
        let inner = (group.square / group.elements as f64).sqrt() * ratio.abs() * INNER;
        (pair.actual - ratio * pair.expected).abs() <= rounding(evidence, &pair, ratio) + inner
    });
    let first = groups.iter().position(|group| group.differing > 0).filter(|_| explained)?;
    let wrong = groups.iter().filter(|group| group.differing > 0).count();
    Some(DifferenceKind::Scale { per, groups: wrong, first, ratio: groups[first].ratio() })
}

fn one_ulp(evidence: &Evidence<'_>) -> Option<DifferenceKind> {
    if evidence.max_ulp? > 1 || evidence.nan_mismatches > 0 {
        return None;
    }
    let share = evidence.differing as f64 / (evidence.rows * evidence.columns) as f64;
    Some(DifferenceKind::OneUlp { bias: bias(evidence), share })
}

/// To which side the differing elements lean.
fn bias(evidence: &Evidence<'_>) -> Bias {
    let errors = evidence.differing().filter(Pair::is_finite).filter(|pair| pair.error() != 0.0);
    let (mut total, mut smaller, mut lower, mut negative) = (0usize, 0usize, 0usize, 0usize);
    for pair in errors {
        total += 1;
        smaller += usize::from(pair.actual.abs() < pair.expected.abs());
        lower += usize::from(pair.actual < pair.expected);
        negative += usize::from(pair.expected < 0.0);
    }
    let most = |count: usize| count as f64 >= LEANING * total as f64;
    // With one sign only, down and toward zero are the same thing: named by the magnitude.
    let both_signs = !most(negative) && !most(total - negative);
    match () {
        () if total < ENOUGH => Bias::None,
        () if most(smaller) => Bias::TowardZero,
        () if most(total - smaller) => Bias::AwayFromZero,
        () if both_signs && most(lower) => Bias::Down,
        () if both_signs && most(total - lower) => Bias::Up,
        () => Bias::None,
    }
}

fn tiles(evidence: &Evidence<'_>) -> Option<DifferenceKind> {
    [128, 64].into_iter().find_map(|size| tiles_of(evidence, size))
}

/// Tiles that are wrong throughout while every other one is right.
fn tiles_of(evidence: &Evidence<'_>, size: usize) -> Option<DifferenceKind> {
    let across = evidence.columns.div_ceil(size);
    let of = evidence.rows.div_ceil(size) * across;
    let mut differing = vec![0usize; of];
    for pair in evidence.differing() {
        differing[pair.row / size * across + pair.column / size] += 1;
    }
    let rows = |tile: usize| tile / across * size..evidence.rows.min((tile / across + 1) * size);
    let columns = |tile: usize| tile % across * size..evidence.columns.min((tile % across + 1) * size);
    let throughout =
        |tile: usize| differing[tile] as f64 >= THROUGHOUT * (rows(tile).len() * columns(tile).len()) as f64;
    let wrong: Vec<usize> = (0..of).filter(|tile| differing[*tile] > 0).collect();
    let first = *wrong.first()?;
    (wrong.len() < of && wrong.iter().all(|tile| throughout(*tile))).then(|| DifferenceKind::Tiles {
        size,
        wrong: wrong.len(),
        of,
        rows: rows(first),
        columns: columns(first),
    })
}

fn rows_or_columns(evidence: &Evidence<'_>) -> Option<DifferenceKind> {
    // Lines that are wrong throughout while every other one is right: how many, and the first.
    let lines = |counts: &[usize], length: usize| {
        let wrong = counts.iter().filter(|count| **count > 0).count();
        let throughout = counts.iter().all(|count| *count == 0 || *count as f64 >= THROUGHOUT * length as f64);
        (wrong < counts.len() && throughout && length > 1).then(|| (wrong, bounds(counts).start))
    };
    let rows = lines(&evidence.in_row, evidence.columns);
    let columns = || lines(&evidence.in_column, evidence.rows);
    rows.map(|(wrong, first)| DifferenceKind::Rows { wrong, first })
        .or_else(|| columns().map(|(wrong, first)| DifferenceKind::Columns { wrong, first }))
}

fn precision(evidence: &Evidence<'_>) -> Option<DifferenceKind> {
    if evidence.differing().any(|pair| !pair.is_finite()) {
        return None;
    }
    let (errors, squares) = evidence
        .pairs()
        .filter(Pair::is_finite)
        .fold((0.0, 0.0), |(e, s), pair| (e + pair.error().powi(2), s + pair.expected.powi(2)));
    let relative = (errors / squares).sqrt();
    let bias = bias(evidence);
    // Truncation costs up to a tenth (positive data, K = 16,384); unbiased errors of that size
    // have other causes.
    let largest = if bias == Bias::None { 2f64.powi(-7) } else { 2f64.powi(-3) };
    (relative <= largest).then_some(DifferenceKind::Precision { relative, bias })
}
