//! A case as a safetensors file: operands, scales, C, perhaps D, and metadata that `verify` and
//! `difftest check` read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fp8gemm::sim::Matrix;
use fp8gemm_difftest::{Case, Finding};

use crate::commands::gemm::{matrix_tensor, operand_tensors};
use crate::error::{CliError, InFile};
use crate::files::{FileError, Output, write};

/// Marks files that `difftest` wrote.
pub(super) const MARK: &str = "fp8gemm_difftest";

/// Makes the folder, and learns now if it cannot be written.
pub(super) fn ready(folder: &Path) -> Result<(), CliError> {
    fs::create_dir_all(folder).map_err(FileError::Write).in_file(folder)?;
    Output::new(&folder.join("difftest.safetensors")).map(drop).in_file(folder)
}

/// The tensor with the twin's D in the file of a finding, by which the file is a regression test later.
const EXPECTED: &str = "expected";

/// Writes the shrunk case of a finding: as `d` the D that is wrong (or, where D is right or missing, the
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
