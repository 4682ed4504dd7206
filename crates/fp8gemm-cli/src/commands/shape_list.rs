//! Many problems on the command line: a file, or the projections of a model.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use fp8gemm::problem::Problem;
use fp8gemm_bench::{Model, Shape, parse_shapes};

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
        let mut shapes = Vec::new();
        if let Some(path) = &self.shapes {
            shapes.extend(read(path)?);
        }
        let tokens = if self.m.is_empty() { &TOKENS[..] } else { &self.m };
        shapes.extend(self.model.iter().flat_map(|model| model.shapes(tokens)));
        distinct(shapes.into_iter().map(|shape| shape.problem))
    }
}

/// Each problem once, in order, and legal.
pub(crate) fn distinct(all: impl IntoIterator<Item = Problem>) -> Result<Vec<Problem>, CliError> {
    let mut problems: Vec<Problem> = Vec::new();
    for problem in all {
        problem.check()?;
        expect_sizes(&problem)?;
        if problem.macs() == 0 {
            return Err(CliError::Usage(format!("{problem}: M, N and K must be at least 1")));
        }
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    Ok(problems)
}

/// The shapes of a file, in order: CSV, or a line for each.
///
/// # Errors
/// [`CliError::Usage`] naming the file, the line and the rule; also where there is none.
pub(crate) fn read(path: &Path) -> Result<Vec<Shape>, CliError> {
    let usage = |error: &dyn std::fmt::Display| CliError::Usage(format!("{}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| usage(&error))?;
    let content = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    let lines = || text.lines().map(content).enumerate().filter(|(_, line)| !line.is_empty());
    let csv = lines().next().is_some_and(|(_, first)| first.contains(','));
    let mut shapes = if csv { parse_shapes(text.as_bytes()).map_err(|error| usage(&error))? } else { Vec::new() };
    for (index, line) in lines().filter(|_| !csv) {
        let words: Vec<String> = match line.contains('=') {
            true => vec![line],
            false => line.split_whitespace().map(str::to_owned).collect(),
        };
        let read = bench::problems(&words).map_err(|error| usage(&format!("line {}: {error}", index + 1)))?;
        shapes.extend(read);
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
            ("1 576 2147483648", &["K is 2147483648", "TMA"]),
            ("1x2x3 a=e4m3:row b=e4m3:1x128 d=bf16 policy=chain", &["chain"]),
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
