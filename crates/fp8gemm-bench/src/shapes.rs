//! What is timed: problems with the times that others recorded for them.

use std::collections::BTreeMap;
use std::io::Read;

use fp8gemm_problem::{Epilogue, OperandSpec, OperandType, OutputType, Policy, Problem, ScaleLayout};

use crate::BenchError;

/// A problem, and times recorded elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// What is computed.
    pub problem: Problem,
    /// Microseconds by name, e.g. `deepgemm` (column `deepgemm_us` of a list).
    pub recorded: BTreeMap<String, f64>,
}

/// The recorded time that the others are held against.
pub const DEEPGEMM: &str = "deepgemm";
/// The recorded time of cuBLASLt's per-tensor FP8: measured again, it tells how much the card differs.
pub const RULER: &str = "cublaslt_tensor";

/// A list that comes with the program: times measured on an H200 (DeepGEMM 2.6.1, cuBLASLt of
/// CUDA 13.0, driver 580), cold L2, CUPTI; see `docs/benchmarking.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// bf16 out, 1x128 by 128x128, M >= 512.
    Dense,
    /// The same with M <= 128.
    Decode,
    /// f32 out, accumulating, 1x128 on both sides.
    Wgrad,
}

impl List {
    /// Its shapes.
    ///
    /// # Errors
    /// None that a test would not have seen: the data is part of the program.
    pub fn shapes(self) -> Result<Vec<Shape>, BenchError> {
        let dense = include_str!("../data/dense.csv");
        let mut shapes = parse(if self == Self::Wgrad { include_str!("../data/wgrad.csv") } else { dense }.as_bytes())?;
        match self {
            Self::Dense => shapes.retain(|shape| shape.problem.m >= 512),
            Self::Decode => shapes.retain(|shape| shape.problem.m <= 128),
            Self::Wgrad => {}
        }
        Ok(shapes)
    }
}

impl Shape {
    /// `D = A B^T` with 1x128 by 128x128 scales and bf16 out, as DeepGEMM's 1D2D kernels.
    pub fn dense(m: usize, n: usize, k: usize) -> Self {
        Self::new(m, n, k, OutputType::Bf16, false)
    }

    /// f32 out, added to what is there, 1x128 scales on both sides, as DeepGEMM's 1D1D kernels.
    pub fn wgrad(m: usize, n: usize, k: usize) -> Self {
        Self::new(m, n, k, OutputType::F32, true)
    }

    fn new(m: usize, n: usize, k: usize, d: OutputType, accumulate: bool) -> Self {
        let spec = |scales| OperandSpec { ty: OperandType::E4m3, scales };
        let problem = Problem {
            m,
            n,
            k,
            a: spec(ScaleLayout::Block1x128),
            b: spec(if accumulate { ScaleLayout::Block1x128 } else { ScaleLayout::Block128x128 }),
            c: accumulate.then_some(d),
            d,
            policy: Policy::PROMOTE_128,
            epilogue: if accumulate { Epilogue::ACCUMULATE } else { Epilogue::default() },
        };
        Self { problem, recorded: BTreeMap::new() }
    }
}

/// Reads a list: CSV with a header. Columns `m`, `n`, `k`; optional `out` (`bf16`, `f16`, `f32` or
/// `fp32`; bf16 if absent), `accumulate` (0 or 1; with 1, B has 1x128 scales as A has, C is D and
/// beta is 1), and any number of `<name>_us` with recorded times (may be empty). Others are ignored.
/// `#` begins a comment, except in quotes ([`without_comments`]).
///
/// ```
/// use fp8gemm_bench::parse_shapes;
///
/// let shapes = parse_shapes("m,n,k,deepgemm_us\n512,576,7168,11.2\n".as_bytes())?;
/// assert_eq!(shapes[0].recorded["deepgemm"], 11.2);
/// # Ok::<(), fp8gemm_bench::BenchError>(())
/// ```
///
/// # Errors
/// [`BenchError::Shapes`] naming the line.
pub fn parse(reader: impl Read) -> Result<Vec<Shape>, BenchError> {
    Ok(parse_numbered(reader)?.into_iter().map(|(_, shape)| shape).collect())
}

/// As [`parse`], each shape with the number of its line, for whoever finds fault with one later.
///
/// # Errors
/// As [`parse`].
pub fn parse_numbered(mut reader: impl Read) -> Result<Vec<(u64, Shape)>, BenchError> {
    let fail = |line, reason| BenchError::Shapes { line, reason };
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|error| fail(1, error.to_string()))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let before = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
        fail(before as u64 + 1, "this is not UTF-8".to_owned())
    })?;
    // Not by the reader of CSV, which knows comments only where they begin a line, and counts a record's lines from the
    // comment before it.
    let (numbers, lines): (Vec<_>, Vec<_>) = without_comments(text)?.into_iter().unzip();
    // Of the text without comments and blank lines, to that of the file.
    let line = |position: Option<&csv::Position>| {
        let line = position.map_or(1, csv::Position::line);
        usize::try_from(line - 1).ok().and_then(|index| numbers.get(index)).copied().unwrap_or(line)
    };
    let bad = |error: csv::Error| fail(line(error.position()), error.to_string());
    let text = lines.join("\n");
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let headers: Vec<_> = reader.headers().map_err(bad)?.iter().map(str::to_ascii_lowercase).collect();
    for needed in ["m", "n", "k"] {
        if !headers.iter().any(|header| header == needed) {
            return Err(fail(numbers.first().copied().unwrap_or(1), format!("no column `{needed}`")));
        }
    }
    let numbered = |record: csv::StringRecord| {
        let line = line(record.position());
        Ok((line, shape(&headers, &record, line)?))
    };
    reader.records().map(|record| numbered(record.map_err(bad)?)).collect()
}

/// Where a text stands towards quotes, as CSV has them.
#[derive(Clone, Copy)]
enum Quotes {
    /// Nothing of the field yet but blanks: a quote would open.
    FieldBegins,
    /// A quote is an ordinary character.
    Outside,
    /// Opened in this line.
    Inside(u64),
    /// After a quote, opened in this line, that has closed, unless another one follows: two stand for one.
    Closed(u64),
}

/// The lines of a list that say something, with their numbers in the file, up to their comments. `#` begins a comment,
/// except in quotes, where it is part of a name, which may go over several lines.
///
/// ```
/// use fp8gemm_bench::without_comments;
///
/// let lines = without_comments("# sizes\nm,n,k,\"layer #\"\n\n1,576,7168,q # few\n")?;
/// assert_eq!(lines, [(2, "m,n,k,\"layer #\""), (4, "1,576,7168,q")]);
/// # Ok::<(), fp8gemm_bench::BenchError>(())
/// ```
///
/// # Errors
/// [`BenchError::Shapes`] for a quote that nothing closes, naming the line in which it opens: all behind it would be
/// one name.
pub fn without_comments(text: &str) -> Result<Vec<(u64, &str)>, BenchError> {
    let mut quotes = Quotes::FieldBegins;
    let mut kept = Vec::new();
    for (line, number) in text.trim_start_matches('\u{feff}').lines().zip(1..) {
        let inside = |quotes| matches!(quotes, Quotes::Inside(_));
        if !inside(quotes) {
            quotes = Quotes::FieldBegins;
        }
        let begins_inside = inside(quotes);
        let mut end = line.len();
        for (at, character) in line.char_indices() {
            quotes = match (quotes, character) {
                (Quotes::FieldBegins, '"') => Quotes::Inside(number),
                (Quotes::Inside(opened), '"') => Quotes::Closed(opened),
                (Quotes::Closed(opened), '"') | (Quotes::Inside(opened), _) => Quotes::Inside(opened),
                (_, '#') => {
                    end = at;
                    break;
                }
                (_, ',') => Quotes::FieldBegins,
                (Quotes::FieldBegins, blank) if blank.is_whitespace() => Quotes::FieldBegins,
                _ => Quotes::Outside,
            };
        }
        // Blanks and blank lines are left out, too, but not of a name.
        let content = if inside(quotes) { line } else { line[..end].trim_end() };
        if begins_inside || !content.is_empty() {
            kept.push((number, content));
        }
    }
    match quotes {
        Quotes::Inside(line) => Err(BenchError::Shapes { line, reason: "nothing closes the quote `\"`".to_owned() }),
        _ => Ok(kept),
    }
}

fn shape(headers: &[String], record: &csv::StringRecord, line: u64) -> Result<Shape, BenchError> {
    let fail = |reason: String| BenchError::Shapes { line, reason };
    let field = |name: &str| {
        headers.iter().position(|header| header == name).and_then(|index| record.get(index)).unwrap_or_default()
    };
    let size = |name: &str| {
        let text = field(name);
        match text.parse() {
            Ok(size) if size > 0 => Ok(size),
            _ => Err(fail(format!("{name} is `{text}`, but must be a whole number from 1"))),
        }
    };
    let (m, n, k) = (size("m")?, size("n")?, size("k")?);
    let out = match field("out").to_ascii_lowercase().as_str() {
        "" | "bf16" => OutputType::Bf16,
        "f16" | "fp16" => OutputType::F16,
        "f32" | "fp32" => OutputType::F32,
        other => return Err(fail(format!("out is `{other}`, but must be bf16, f16 or f32"))),
    };
    let accumulate = match field("accumulate") {
        "" | "0" => false,
        "1" => true,
        other => return Err(fail(format!("accumulate is `{other}`, but must be 0 or 1"))),
    };
    let mut shape = Shape::new(m, n, k, out, accumulate);
    for (header, text) in headers.iter().zip(record) {
        let Some(name) = header.strip_suffix("_us").filter(|_| !text.is_empty()) else { continue };
        match text.parse::<f64>() {
            Ok(time) if time > 0.0 && time.is_finite() => shape.recorded.insert(name.to_owned(), time),
            _ => return Err(fail(format!("{header} is `{text}`, but must be a time in microseconds"))),
        };
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a list that comes with the program loses a row or a time.
    #[test]
    fn lists_are_whole() {
        let dense = List::Dense.shapes().unwrap();
        assert_eq!(dense.len(), 16);
        assert!(dense.iter().all(|s| s.recorded.len() == 3));
        assert_eq!(dense[4].problem.to_string(), "512x7168x16384 a=e4m3:1x128 b=e4m3:128x128 d=bf16 policy=promote128");
        assert_eq!((dense[4].recorded[DEEPGEMM], dense[4].recorded[RULER]), (117.8, 83.4));
        let decode = List::Decode.shapes().unwrap();
        assert_eq!(decode.len(), 28);
        // cuBLASLt has no block scaling for M = 1.
        assert_eq!(decode[0].recorded.len(), 2);
        let wgrad = List::Wgrad.shapes().unwrap();
        let text = "7168x4096x16384 a=e4m3:1x128 b=e4m3:1x128 d=f32 policy=promote128 c=f32 beta=1.0";
        assert_eq!((wgrad.len(), wgrad[4].problem.to_string().as_str()), (7, text));
        assert!(wgrad.iter().all(|s| s.recorded.contains_key(DEEPGEMM) && s.recorded.contains_key(RULER)));
    }

    /// Breaks if a wrong list is taken for another one, or the message loses the line.
    #[test]
    fn wrong_lists_are_named() {
        for (text, expected) in [
            ("m,n\n1,2\n", "line 1: no column `k`"),
            ("m,n,k\n1,2,3\n1,0,3\n", "line 3: n is `0`"),
            ("m,n,k\n1,2,x\n", "line 2: k is `x`"),
            ("m,n,k,out\n1,2,3,f64\n", "line 2: out is `f64`"),
            ("m,n,k,accumulate\n1,2,3,yes\n", "line 2: accumulate is `yes`"),
            ("m,n,k,x_us\n1,2,3,-1\n", "line 2: x_us is `-1`"),
            ("m,n,k\n1,2\n", "line 2:"),
            ("# m,n\nm,n # and K\n1,2\n", "line 2: no column `k`"),
            ("# sizes\n\nm,n,k\n1,2,3\n  # more\n\n1,0,3 # none\n", "line 7: n is `0`"),
            ("m,n,k\n# more\n1,2\n", "line 3:"),
            ("m,n,k,name\n1,2,3,\"two\n\n# lines\"\n# none\n1,0,3,x\n", "line 6: n is `0`"),
            ("m,n,k,name\n1,2,3,one\n1,2,3,\"two\n4,5,6,x\n", "line 3: nothing closes the quote"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// Breaks if a comment is read as a header or a row, a row is lost behind one, or a quoted name is cut.
    #[test]
    fn comments_are_left_out() {
        let plain = parse("m,n,k,name,x_us\n1,2,3,one,4.5\n5,6,7,\"no. #2\",\n".as_bytes()).unwrap();
        let text =
            "# mine\n\nm,n,k,name,x_us # times\r\n1,2,3,one,4.5# first\r\n  # middle\n5,6,7,\"no. #2\",  # second\n#";
        assert_eq!(parse(text.as_bytes()).unwrap(), plain);
        assert_eq!(plain.len(), 2);
        // A quote opens a field, and is an ordinary character elsewhere; two in quotes are one.
        for name in [
            "\"two\n# lines\"",
            "\"two\r\n\n, # lines\" # and why",
            "\"say \"\"#1\"\"\" # and why",
            "5\" pipe # 3\" before",
            "\"\"",
        ] {
            let text = format!("m,n,k,name\n1,576,7168,{name}\n64,2112,7168,x\n");
            let sizes: Vec<_> = parse(text.as_bytes()).unwrap().iter().map(|s| s.problem.m).collect();
            assert_eq!(sizes, [1, 64], "{text}");
        }
        let error = parse(&b"m,n,k\n1,2,3\n1,\xff,3\n"[..]).unwrap_err().to_string();
        assert!(error.contains("line 3: this is not UTF-8"), "{error}");
    }
}
