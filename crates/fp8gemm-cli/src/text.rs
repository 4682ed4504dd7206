//! Numbers as people and JSON readers see them.

use core::fmt::Display;
use std::time::Duration;

use fp8gemm::problem::OutputType;
use fp8gemm::sim::Path;
use serde::{Serialize, Serializer};

/// A number in JSON: `NaN`, `inf` and `-inf`, which JSON does not have, are strings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Number(pub(crate) f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() { serializer.serialize_f64(self.0) } else { serializer.collect_str(&self.0) }
    }
}

/// An f32 in JSON, as short as it can be read back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Single(pub(crate) f32);

impl Serialize for Single {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() { serializer.serialize_f32(self.0) } else { serializer.collect_str(&self.0) }
    }
}

/// `1234567` as `1 234 567`.
pub(crate) fn grouped(number: impl Into<u128>) -> String {
    let digits = number.into().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `1 element`, `2 elements`.
pub(crate) fn count(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A share of a whole, precise enough to tell one in a billion from none.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0 %".to_owned();
    }
    let percent = 100.0 * part as f64 / whole as f64;
    match percent {
        0.01.. => format!("{percent:.2} %"),
        _ => format!("{percent:.1e} %"),
    }
}

/// `0.84 ms`, `12 ms`, `3.4 s`, `2 min 5 s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        ..0.01 => format!("{:.2} ms", seconds * 1e3),
        ..1.0 => format!("{:.0} ms", seconds * 1e3),
        ..100.0 => format!("{seconds:.1} s"),
        _ => format!("{} min {} s", duration.as_secs() / 60, duration.as_secs() % 60),
    }
}

/// Billions of multiply-adds per second.
pub(crate) fn gmacs(macs: u128, duration: Duration) -> f64 {
    // A clock that did not advance would make it infinite.
    macs as f64 / duration.as_secs_f64().max(1e-9) / 1e9
}

/// `12 ms, 3.4 GMAC/s`.
pub(crate) fn speed(macs: u128, time: Duration) -> String {
    format!("{}, {:.2} GMAC/s", duration(time), gmacs(macs, time))
}

/// The bits of an output, as wide as its type: `0x3F80`, `0x3F800000`.
pub(crate) fn bits(bits: u32, ty: OutputType) -> String {
    format!("0x{bits:0width$X}", width = 2 * ty.size())
}

/// A value beside its bits: short, but never the same for two different values of a type.
pub(crate) fn value(value: f32) -> String {
    if value == 0.0 || !value.is_finite() || (1e-3..1e6).contains(&value.abs()) {
        value.to_string()
    } else {
        format!("{value:e}")
    }
}

/// An implementation's name.
pub(crate) fn path_name(path: Path) -> &'static str {
    match path {
        Path::Avx512 => "avx512",
        Path::Avx2 => "avx2",
        Path::Portable => "portable",
        Path::Generic => "generic",
        _ => "other",
    }
}

/// `a, b and c`.
pub(crate) fn list<T: Display>(items: &[T]) -> String {
    match items {
        [] => "none".to_owned(),
        [one] => one.to_string(),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(ToString::to_string).collect();
            format!("{} and {last}", first.join(", "))
        }
    }
}

/// Lines of a table: columns as wide as their widest cell, two spaces apart, the last as it is.
pub(crate) fn table(indent: usize, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a non-finite number makes the JSON unreadable or loses what it was.
    #[test]
    fn non_finite_numbers_are_strings() {
        let json = |x| serde_json::to_string(&x).unwrap();
        assert_eq!(json(Number(f64::NAN)), "\"NaN\"");
        assert_eq!(json(Number(f64::NEG_INFINITY)), "\"-inf\"");
        assert_eq!(json(Number(0.1)), "0.1");
        assert_eq!(serde_json::to_string(&Single(0.1)).unwrap(), "0.1");
        assert_eq!(serde_json::to_string(&Single(f32::INFINITY)).unwrap(), "\"inf\"");
    }

    /// Breaks if figures become unreadable: no grouping, wrong unit, a share rounded to nothing.
    #[test]
    fn figures() {
        assert_eq!(grouped(16384u32), "16 384");
        assert_eq!(grouped(999u32), "999");
        assert_eq!(count(1, "element"), "1 element");
        assert_eq!(percent(1, 1_000_000_000), "1.0e-7 %");
        assert_eq!(percent(1, 3), "33.33 %");
        assert_eq!(duration(Duration::from_micros(840)), "0.84 ms");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 5 s");
        assert_eq!(bits(0x80, OutputType::Bf16), "0x0080");
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
        assert_eq!(table(1, &[vec!["a".into(), "bb".into()], vec!["aaa".into(), "b".into()]]), " a    bb\n aaa  b\n");
    }
}
