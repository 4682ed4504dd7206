//! Many problems on the command line: a file, or the projections of a model.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use fp8gemm::problem::Problem;
use fp8gemm_bench::{Model, Shape, parse_numbered_shapes, without_comments};

use super::bench;
use super::problem::expect_sizes;
use crate::error::CliError;

/// Tokens of decode steps, one for each bucket of the tuning table.
const TOKENS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// Which problems are meant, besides those that are named one by one.
#[derive(Debug, Args)]
#[command(next_help_heading = "Many problems")]
pub(crate) struct ShapeListArgs {
    /// A file of problems: CSV with columns m,n,k[,out,accumulate], or a line for each, `M N K`, `MxNxK` or a
    /// whole problem; # begins a comment
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,
    /// The projections of a model: deepseek-v3, llama-3-70b or qwen3-235b
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    model: Vec<Model>,
    /// Numbers of tokens (M) for --model [default: 1,2,4,8,16,32,64,128]
    #[arg(long, value_name = "M", value_delimiter = ',', requires = "model")]
    m: Vec<usize>,
}

impl ShapeListArgs {
    /// Whether a list is named.
    pub(crate) fn is_given(&self) -> bool {
        self.shapes.is_some() || !self.model.is_empty()
    }

    /// The problems of the lists, each once.
    ///
    /// # Errors
    /// [`CliError::Usage`] naming the file, the line and the rule; [`CliError::Problem`].
    pub(crate) fn problems(&self) -> Result<Vec<Problem>, CliError> {
        let mut listed = self.shapes.as_deref().map(read).transpose()?.unwrap_or_default();
        let tokens = if self.m.is_empty() { &TOKENS[..] } else { &self.m };
        listed.extend(self.model.iter().flat_map(|model| model.shapes(tokens)).map(Listed::from));
        // First, while it is known where each was read.
        listed.iter().try_for_each(Listed::check)?;
        distinct(listed.into_iter().map(|listed| listed.shape.problem))
    }
}

/// A shape, and where it was read.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) shape: Shape,
    /// The file and the line, where it is of a file.
    place: Option<String>,
}

impl From<Shape> for Listed {
    /// One that is of no file.
    fn from(shape: Shape) -> Self {
        Self { shape, place: None }
    }
}

impl Listed {
    /// Refuses a problem that cannot be computed, whatever the GPU.
    ///
    /// # Errors
    /// [`CliError::Usage`] naming the file and the line, if there are any, the problem and the rule.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        let place = self.place.as_ref().map_or_else(String::new, |place| format!("{place}: "));
        check(&self.shape.problem).map_err(|error| CliError::Usage(format!("{place}{error}")))
    }
}

/// As [`Listed::check`].
fn check(problem: &Problem) -> Result<(), CliError> {
    let of_problem = |rule: &dyn std::fmt::Display| CliError::Usage(format!("{problem}: {rule}"));
    problem.check().map_err(|error| of_problem(&error))?;
    expect_sizes(problem).map_err(|error| of_problem(&error))?;
    match problem.macs() {
        0 => Err(of_problem(&"M, N and K must be at least 1")),
        _ => Ok(()),
    }
}

/// Each problem once, in order, and legal.
///
/// # Errors
/// [`CliError::Usage`] naming the problem and the rule.
pub(crate) fn distinct(all: impl IntoIterator<Item = Problem>) -> Result<Vec<Problem>, CliError> {
    let mut problems: Vec<Problem> = Vec::new();
    for problem in all {
        check(&problem)?;
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    Ok(problems)
}

/// The shapes of a file, in order: CSV, or a line for each. Whoever uses them [checks](Listed::check) them.
///
/// # Errors
/// [`CliError::Usage`] naming the file, the line and the rule; also where there is none.
pub(crate) fn read(path: &Path) -> Result<Vec<Listed>, CliError> {
    let usage = |error: &dyn std::fmt::Display| CliError::Usage(format!("{}: {error}", path.display()));
    let listed = |line, shape| Listed { shape, place: Some(format!("{}: line {line}", path.display())) };
    let text = fs::read_to_string(path).map_err(|error| usage(&error))?;
    let lines = without_comments(&text).map_err(|error| usage(&error))?;
    let mut shapes = Vec::new();
    if lines.first().is_some_and(|(_, first)| first.contains(',')) {
        let read = parse_numbered_shapes(text.as_bytes()).map_err(|error| usage(&error))?;
        shapes.extend(read.into_iter().map(|(line, shape)| listed(line, shape)));
    } else {
        for (number, line) in lines {
            let words: Vec<String> = match line.contains('=') {
                true => vec![line.trim().to_owned()],
                false => line.split_whitespace().map(str::to_owned).collect(),
            };
            let read = bench::problems(&words).map_err(|error| usage(&format!("line {number}: {error}")))?;
            shapes.extend(read.into_iter().map(|shape| listed(number, shape)));
        }
    }
    if shapes.is_empty() {
        return Err(usage(&"there is no problem in it"));
    }
    Ok(shapes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        fs::write(&path, text).unwrap();
        let args = ShapeListArgs { shapes: Some(path), model: Vec::new(), m: Vec::new() };
        let problems = args.problems().map_err(|error| error.to_string())?;
        Ok(problems.iter().map(ToString::to_string).collect())
    }

    /// Breaks if a way of writing a list means other problems, or one is tuned twice.
    #[test]
    fn lists_have_one_meaning() {
        let usual = |sizes: &str| format!("{sizes} a=e4m3:1x128 b=e4m3:128x128 d=bf16 policy=promote128");
        let expected = Ok(vec![usual("1x576x7168"), usual("64x2112x7168")]);
        assert_eq!(problems("1 576 7168\n\n# decode\n64x2112x7168  # fused\n1 576 7168\n"), expected);
        assert_eq!(problems("m,n,k,deepgemm_us\n1,576,7168,10.0\n64,2112,7168,\n"), expected);
        assert_eq!(problems("# mine\nm,n,k\n1,576,7168 # few\n# decode\n64,2112,7168\n"), expected);
        // Where a comment begins, and so what is CSV, is decided in one place.
        let text = "\"layer#\",m,n,k\n\"q\n# and kv\",1,576,7168\no,64,2112,7168 # \"fused\n";
        assert_eq!(problems(text), expected);
        assert_eq!(problems("\u{feff}1 576 7168 # \"q\n64x2112x7168\n"), expected);
        let whole = "512x4096x7168 a=e4m3:row b=e4m3:row d=bf16 policy=chain";
        assert_eq!(problems(whole), Ok(vec![whole.to_owned()]));
    }

    /// Breaks if a wrong list is taken for another one, or the message loses the line.
    #[test]
    fn wrong_lists_are_named() {
        for (text, words) in [
            ("1 576\n", &["list", "line 1", "threes"][..]),
            ("1 576 7168\nx\n", &["line 2", "`x`"]),
            ("1 576 7168\n1 0 7168", &["line 2", "at least 1"]),
            ("# nothing\n", &["no problem"]),
            ("m,n,k\n1,2\n", &["line 2"]),
            ("# mine\nm,n,k\n", &["list: there is no problem in it"]),
            ("# mine\nm,n,k\n1,0,3\n", &["line 3", "n is `0`"]),
            ("m,n,k,name\n1,576,7168,x\n1,2,3,\"y\n4,5,6,z\n", &["list", "line 3", "nothing closes the quote"]),
            ("# mine\n1 576 2147483648", &["list: line 2: 1x576x2147483648 a=", "K is 2147483648", "TMA"]),
            ("m,n,k\n1,2,3\n1,576,2147483648\n", &["list: line 3: 1x576x2147483648 a=", "K is 2147483648"]),
            ("1x2x3 a=e4m3:row b=e4m3:1x128 d=bf16 policy=chain", &["list", "line 1", "chain"]),
        ] {
            let error = problems(text).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{text:?}: {error}");
        }
    }

    /// Breaks if a model's problems are not each projection with each number of tokens.
    #[test]
    fn models_are_lists() {
        let args = |m: &[usize]| ShapeListArgs { shapes: None, model: vec![Model::Qwen3With235B], m: m.to_vec() };
        let problems = args(&[16, 16, 1]).problems().unwrap();
        assert_eq!(problems.len(), 2 * Model::Qwen3With235B.projections().len());
        assert_eq!((problems[0].m, problems[1].m, problems[0].n, problems[0].k), (16, 1, 9216, 4096));
        assert_eq!(args(&[]).problems().unwrap().len(), TOKENS.len() * Model::Qwen3With235B.projections().len());
        assert!(args(&[0]).problems().is_err());
    }
}
