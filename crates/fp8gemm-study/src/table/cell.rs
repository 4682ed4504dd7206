//! One cell of a table.

use core::fmt;

use super::ColumnKind;

/// The content of a cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Text.
    Text(String),
    /// A whole number.
    Count(u64),
    /// A bit pattern, printed in hexadecimal with leading zeros.
    Bits {
        /// The pattern.
        pattern: u64,
        /// Hexadecimal digits.
        digits: u8,
    },
    /// A derived figure. NaN and infinities are allowed.
    Float(f64),
    /// Nothing: the figure has no meaning in this row.
    Missing,
}

impl Cell {
    /// A bit pattern of so many hexadecimal digits.
    pub fn bits(pattern: u64, digits: u8) -> Self {
        Self::Bits { pattern, digits }
    }

    /// `sum (i + 1) bits(x_i) mod 2^64` over the elements in row-major order: any one bit that changes
    /// changes it, so that a whole output is compared by one cell.
    pub fn fingerprint<'a>(values: impl IntoIterator<Item = &'a f32>) -> Self {
        let weighted = (1u64..).zip(values).map(|(place, value)| place.wrapping_mul(u64::from(value.to_bits())));
        Self::bits(weighted.fold(0, u64::wrapping_add), 16)
    }

    /// The kind of column it belongs to; none for a missing cell, which belongs to any.
    pub fn kind(&self) -> Option<ColumnKind> {
        match self {
            Self::Text(_) => Some(ColumnKind::Text),
            Self::Count(_) => Some(ColumnKind::Count),
            Self::Bits { .. } => Some(ColumnKind::Bits),
            Self::Float(_) => Some(ColumnKind::Float),
            Self::Missing => None,
        }
    }

    /// The value of a count or figure.
    pub fn number(&self) -> Option<f64> {
        match *self {
            Self::Count(count) => Some(count as f64),
            Self::Float(figure) => Some(figure),
            _ => None,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Count(count) => write!(f, "{count}"),
            Self::Bits { pattern, digits } => write!(f, "0x{pattern:0width$X}", width = usize::from(*digits)),
            Self::Float(figure) if plain(*figure) => write!(f, "{figure}"),
            Self::Float(figure) => write!(f, "{figure:e}"),
            Self::Missing => Ok(()),
        }
    }
}

/// Whether a number is read more easily without an exponent.
pub(crate) fn plain(figure: f64) -> bool {
    figure == 0.0 || !figure.is_finite() || (1e-3..1e6).contains(&figure.abs())
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<usize> for Cell {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl From<f64> for Cell {
    fn from(figure: f64) -> Self {
        Self::Float(figure)
    }
}

/// An f32 as its bits.
impl From<f32> for Cell {
    fn from(value: f32) -> Self {
        Self::bits(u64::from(value.to_bits()), 8)
    }
}
