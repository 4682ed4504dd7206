//! A case as a safetensors file: operands, scales, C, perhaps D, and metadata that `verify` and
//! `difftest check` read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fp8gemm::formats::{ScaledMatrix, ScaledView};
use fp8gemm::problem::Problem;
use fp8gemm::sim::Matrix;
use fp8gemm_difftest::{Case, DifftestError, Finding, Origin};

use crate::args::OperandArgs;
use crate::commands::gemm::{matrix_tensor, operand_tensors};
use crate::error::{CliError, InFile};
use crate::files::{FileError, Output, write};
use crate::operands::{Files, Sources, expect_shape, load};

/// Marks files that `difftest` wrote.
pub(super) const MARK: &str = "fp8gemm_difftest";

/// Makes the folder, and learns now if it cannot be written.
pub(super) fn ready(folder: &Path) -> Result<(), CliError> {
    fs::create_dir_all(folder).map_err(FileError::Write).in_file(folder)?;
    Output::new(&folder.join("difftest.safetensors")).map(drop).in_file(folder)
}

/// The tensor with the twin's D in the file of a finding, by which the file is a regression test later.
const EXPECTED: &str = "expected";

/// Writes the case of a finding, shrunk or not yet: as `d` the D that is wrong (or, where D is right or missing, the
/// one that would be right), as `expected` the twin's.
pub(super) fn keep(folder: &Path, finding: &Finding) -> Result<PathBuf, CliError> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let slug: String = finding.subject.chars().map(plain).take(100).collect();
    let name = format!("difftest-{slug}-{}-{}.safetensors", finding.origin.seed, finding.origin.index);
    let path = folder.join(name);
    let mut metadata = metadata(&finding.case);
    let mut insert = |key: &str, text: String| metadata.insert(key.to_owned(), text);
    let Finding { subject, configuration, .. } = finding;
    // A subject with one configuration has none to name.
    let one = subject == configuration;
    insert("kernel", if one { subject.clone() } else { format!("{subject}, {configuration}") });
    insert("fault", finding.shrunk.to_string());
    insert("found_on", finding.problem.to_string());
    let right = finding.case.gemm().run()?;
    let d = finding.shrunk.d().unwrap_or(&right);
    save(&path, &finding.case, &[("d", d), (EXPECTED, &right)], &metadata)?;
    Ok(path)
}

/// What a reader needs besides the tensors.
pub(super) fn metadata(case: &Case) -> BTreeMap<String, String> {
    let (p, origin) = (&case.problem, &case.origin);
    let mut metadata = BTreeMap::new();
    let mut insert = |key: &str, text: String| metadata.insert(key.to_owned(), text);
    insert(MARK, "1".to_owned());
    insert("problem", p.to_string());
    insert("policy", p.policy.to_string());
    insert("output_type", p.d.to_string());
    insert("alpha", p.epilogue.alpha.to_string());
    insert("beta", p.epilogue.beta.to_string());
    insert("scale_layout.a", p.a.scales.to_string());
    insert("scale_layout.b", p.b.scales.to_string());
    insert("seed", origin.seed.to_string());
    insert("index", origin.index.to_string());
    insert("regimes", origin.regimes());
    if case.has_nonfinite_scales() {
        insert("allow_nonfinite_scales", "true".to_owned());
    }
    metadata
}

/// Writes a case, with results by name.
pub(super) fn save(
    path: &Path,
    case: &Case,
    results: &[(&str, &Matrix)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), CliError> {
    let output = Output::new(path).in_file(path)?;
    let mut tensors = Vec::new();
    tensors.extend(operand_tensors("a", case.a.view()));
    tensors.extend(operand_tensors("b", case.b.view()));
    tensors.extend(case.c.as_ref().map(|c| matrix_tensor("c", c)));
    tensors.extend(results.iter().map(|(name, d)| matrix_tensor(name, d)));
    write(&output, metadata, tensors).in_file(path)
}

/// Reads a case that was written here, and the twin's D of that time where the file has it.
pub(super) fn read(path: &Path) -> Result<(Case, Option<Matrix>), CliError> {
    let files = Files::open([&path.to_owned()])?;
    let usage = |what: String| CliError::Usage(format!("{}: {what}", path.display()));
    let file = files.get(path).filter(|file| file.metadata().contains_key(MARK)).ok_or_else(|| {
        usage("is no case of difftest (`difftest check` and `verify` take files of others)".to_owned())
    })?;
    for name in ["a", "b"] {
        file.require(name).in_file(path)?;
    }
    let said = |key: &str| {
        let missing = || usage(format!("metadata `{key}` is missing"));
        file.metadata().get(key).map(String::as_str).ok_or_else(missing)
    };
    let number = |key: &str| said(key)?.parse().map_err(|_| usage(format!("metadata `{key}` is no number")));
    let problem: Problem = said("problem")?.parse().map_err(|error| usage(format!("metadata `problem`: {error}")))?;
    let origin = Origin::parse(number("seed")?, number("index")?, said("regimes")?)
        .map_err(|error| usage(format!("metadata `regimes`: {error}")))?;
    let (scale_a, scale_b, c) = (None, None, None);
    let sources = Sources { a: file, b: file, scale_a, scale_b, c, beside: [file, file], may_be_empty: false };
    let epilogue = (Some(problem.epilogue.alpha), Some(problem.epilogue.beta));
    let inputs = load(&sources, &OperandArgs::plain(), epilogue, None)?;
    let owned = |x: ScaledView<'_>| ScaledMatrix::new(x.ty(), x.layout(), x.codes().to_owned(), x.scales().to_owned());
    let a = owned(inputs.a.view_as(problem.a.scales)?).map_err(DifftestError::from)?;
    let b = owned(inputs.b.view_as(problem.b.scales)?).map_err(DifftestError::from)?;
    let matrix = |name: &str| -> Result<Option<Matrix>, CliError> {
        let Some(stored) = file.get(name) else { return Ok(None) };
        expect_shape(&stored, (problem.m, problem.n), "C and D are [M, N]").in_file(path)?;
        stored.matrix().in_file(path).map(Some)
    };
    // One that beta leaves unread is part of the case too: it must not matter.
    let c = if problem.c.is_some() { matrix("c")? } else { None };
    let case = Case { problem, a, b, c, origin };
    let found = case.with(case.a.clone(), case.b.clone(), case.c.clone()).problem;
    if found != problem {
        return Err(usage(format!("holds {found}, but was written as {problem}")));
    }
    let expected = matrix(EXPECTED)?;
    if let Some(ty) = expected.as_ref().map(Matrix::ty).filter(|ty| *ty != problem.d) {
        return Err(usage(format!("`{EXPECTED}` is {ty}, the problem wants {}", problem.d)));
    }
    Ok((case, expected))
}
