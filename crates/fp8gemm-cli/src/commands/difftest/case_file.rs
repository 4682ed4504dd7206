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

/// Writes the shrunk case of a finding, with the D that is wrong (or, where D is right or missing, the
/// one that would be right).
pub(super) fn keep(folder: &Path, finding: &Finding) -> Result<PathBuf, CliError> {
    let slug: String =
        finding.subject.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let name = format!("difftest-{slug}-{}-{}.safetensors", finding.origin.seed, finding.origin.index);
    let path = folder.join(name);
    let mut metadata = metadata(&finding.case);
    let mut insert = |key: &str, text: String| metadata.insert(key.to_owned(), text);
    insert("kernel", format!("{}, {}", finding.subject, finding.configuration));
    insert("fault", finding.shrunk.to_string());
    insert("found_on", finding.problem.to_string());
    let right;
    let d = match finding.shrunk.d() {
        Some(d) => d,
        None => {
            right = finding.case.gemm().run()?;
            &right
        }
    };
    save(&path, &finding.case, Some(d), &metadata)?;
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
    insert("regimes", format!("{}, {}, A {}, B {}", origin.shape, origin.data, origin.scales[0], origin.scales[1]));
    if case.has_nonfinite_scales() {
        insert("allow_nonfinite_scales", "true".to_owned());
    }
    metadata
}

/// Writes a case.
pub(super) fn save(
    path: &Path,
    case: &Case,
    d: Option<&Matrix>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), CliError> {
    let output = Output::new(path).in_file(path)?;
    let mut tensors = Vec::new();
    tensors.extend(operand_tensors("a", case.a.view()));
    tensors.extend(operand_tensors("b", case.b.view()));
    tensors.extend(case.c.as_ref().map(|c| matrix_tensor("c", c)));
    tensors.extend(d.map(|d| matrix_tensor("d", d)));
    write(&output, metadata, tensors).in_file(path)
}
