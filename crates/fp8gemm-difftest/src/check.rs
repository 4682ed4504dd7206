//! One case on one subject: every bit of D, every byte around it, every byte of the inputs, twice.

use core::fmt;

use fp8gemm_problem::{OutputType, Problem};
use fp8gemm_sim::{Comparison, Matrix, compare, compare_with_c};

use crate::memory::bytes;
use crate::{Alignment, Buffers, Case, DifftestError, Subject};

/// What is wrong with a subject.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// D has other bits than the twin's.
    Bits {
        /// Where and how; expected is the twin, actual the subject.
        comparison: Comparison,
        /// The subject's D.
        d: Matrix,
    },
    /// The second of two runs gave other bits than the first, which had the twin's.
    Unstable {
        /// Expected is the first run, actual the second.
        comparison: Comparison,
        /// D of the second run.
        d: Matrix,
    },
    /// Memory beside D was written.
    Guard {
        /// Where, first.
        place: String,
        /// Bytes written.
        bytes: usize,
    },
    /// An input, or memory beside it, was written.
    Input {
        /// Which one.
        input: &'static str,
        /// Where, first.
        place: String,
        /// Bytes written.
        bytes: usize,
    },
    /// A property that holds between results does not.
    Property {
        /// Which one.
        property: crate::Property,
        /// Expected is what the property says, actual the subject.
        comparison: Comparison,
    },
    /// It gave no D.
    Failed {
        /// What it said.
        reason: String,
    },
}

impl Fault {
    /// Its kind in one word, for reports.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bits { .. } => "bits",
            Self::Unstable { .. } => "unstable",
            Self::Guard { .. } => "guard",
            Self::Input { .. } => "input",
            Self::Property { .. } => "property",
            Self::Failed { .. } => "failed",
        }
    }

    /// The wrong D, where there is one.
    pub fn d(&self) -> Option<&Matrix> {
        match self {
            Self::Bits { d, .. } | Self::Unstable { d, .. } => Some(d),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bits { comparison, .. } => write!(f, "{comparison}"),
            Self::Unstable { comparison, .. } => write!(f, "a second run gives another D: {comparison}"),
            Self::Guard { place, bytes } => {
                write!(f, "{bytes} bytes beside D were written, first {place}")
            }
            Self::Input { input, place, bytes } => {
                write!(f, "{bytes} bytes of {input} or beside it were written, first {place}")
            }
            Self::Property { property, comparison } => write!(f, "{property} does not hold: {comparison}"),
            Self::Failed { reason } => write!(f, "no result: {reason}"),
        }
    }
}

/// Runs a case twice in one way of the subject and looks at everything. `Ok(None)`: all is well.
///
/// D and all memory beside it are filled with `AB` bytes before the first run, with `54` before the second
/// (D with C, where C is in place): an element that is not written shows, and so does a byte beside D that is.
///
/// # Errors
/// [`DifftestError::Unsupported`] if the subject does not compute it, [`DifftestError::Sim`] if the case
/// is not legal.
pub fn check(
    subject: &mut dyn Subject,
    case: &Case,
    expected: &Matrix,
    configuration: usize,
) -> Result<Option<Fault>, DifftestError> {
    let p = &case.problem;
    let mut buffers = Buffers::new(case, subject.alignment(p));
    let before: Vec<Vec<u8>> = buffers.inputs().iter().map(|(_, buffer)| buffer.bytes().to_vec()).collect();
    let c_in_d = buffers.c_in_place.then(|| buffers.d.packed());
    let right = bytes(&expected.view());
    for (run, poison) in [0xAB, 0x54].into_iter().enumerate() {
        let (m, n) = buffers.d.dim();
        let fill = c_in_d.clone().unwrap_or_else(|| vec![poison; m * n * p.d.size()]);
        // The guards too: what is written there shows in one of the runs, whatever it is.
        buffers.d.bytes_mut().fill(poison);
        buffers.d.write(&fill);
        let laid_out = buffers.d.bytes().to_vec();
        if let Err(error) = subject.run(p, configuration, &mut buffers) {
            return match error {
                DifftestError::Unsupported { .. } | DifftestError::Configuration { .. } => Err(error),
                error => Ok(Some(Fault::Failed { reason: error.to_string() })),
            };
        }
        for ((input, buffer), before) in buffers.inputs().into_iter().zip(&before) {
            if let Some((at, bytes)) = changed(buffer.bytes(), before) {
                return Ok(Some(Fault::Input { input, place: buffer.place(at), bytes }));
            }
        }
        // With D itself as it was laid out, what differs is beside it.
        let written = buffers.d.packed();
        buffers.d.write(&fill);
        if let Some((at, bytes)) = changed(buffers.d.bytes(), &laid_out) {
            return Ok(Some(Fault::Guard { place: buffers.d.place(at), bytes }));
        }
        if written != right {
            buffers.d.write(&written);
            let d = buffers.d_matrix(p)?;
            let comparison = compared(case, expected, &d)?;
            let fault = if run == 0 { Fault::Bits { comparison, d } } else { Fault::Unstable { comparison, d } };
            return Ok(Some(fault));
        }
    }
    Ok(None)
}

/// How D differs, knowing C.
fn compared(case: &Case, expected: &Matrix, d: &Matrix) -> Result<Comparison, DifftestError> {
    Ok(match &case.c {
        Some(c) if case.problem.epilogue.reads_c() => {
            compare_with_c(&expected.view(), &d.view(), &c.view(), case.problem.epilogue.beta)?
        }
        _ => compare(&expected.view(), &d.view())?,
    })
}

/// The first byte that changed, and how many did.
fn changed(now: &[u8], before: &[u8]) -> Option<(usize, usize)> {
    if now == before {
        return None;
    }
    let places: Vec<usize> = (0..now.len()).filter(|&at| now[at] != before[at]).collect();
    places.first().map(|first| (*first, places.len()))
}

/// D alone, in plain memory: for properties and for shrinking, where memory was looked at before.
///
/// # Errors
/// Those of [`Subject::run`].
pub fn compute(subject: &mut dyn Subject, case: &Case, configuration: usize) -> Result<Matrix, DifftestError> {
    let p = &case.problem;
    let alignment = Alignment { c_in_place: false, ..subject.alignment(p) };
    let mut buffers = Buffers::new(case, alignment);
    subject.run(p, configuration, &mut buffers)?;
    buffers.d_matrix(p)
}

/// Elements by what tells little or is special, of a D.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Specials {
    /// NaN.
    pub nan: u64,
    /// Infinities.
    pub infinite: u64,
    /// +0.
    pub zero: u64,
    /// -0.
    pub negative_zero: u64,
    /// Subnormal numbers of the output's own type.
    pub subnormal: u64,
}

impl Specials {
    /// Counts them.
    pub fn of(d: &Matrix) -> Self {
        let smallest = match d.ty() {
            OutputType::F16 => 6.103_515_6e-5,
            _ => f32::MIN_POSITIVE,
        };
        let mut counts = Self::default();
        for x in d.to_f32() {
            let counter = match x {
                x if x.is_nan() => &mut counts.nan,
                x if x.is_infinite() => &mut counts.infinite,
                x if x == 0.0 && x.is_sign_negative() => &mut counts.negative_zero,
                0.0 => &mut counts.zero,
                x if x.abs() < smallest => &mut counts.subnormal,
                _ => continue,
            };
            *counter += 1;
        }
        counts
    }
}

/// Where a shape ends within tiles, scale blocks and steps, for the coverage.
pub(crate) fn tails(p: &Problem) -> Vec<&'static str> {
    let all = [
        ("M % 64", !p.m.is_multiple_of(64)),
        ("M % 128", !p.m.is_multiple_of(128)),
        ("N % 8", !p.n.is_multiple_of(8)),
        ("N % 128", !p.n.is_multiple_of(128)),
        ("K % 16", !p.k.is_multiple_of(16)),
        ("K % 32", !p.k.is_multiple_of(32)),
        ("K % 128", !p.k.is_multiple_of(128)),
        ("M, N or K is 0", p.m == 0 || p.n == 0 || p.k == 0),
        ("none", p.macs() > 0 && p.m.is_multiple_of(128) && p.n.is_multiple_of(128) && p.k.is_multiple_of(128)),
    ];
    all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}
