//! Tables of tuned problems: what they hold, how they are written, read, checked and joined.
//!
//! ```text
//! { "schema": 1, "sha256": "<of the tables as compact JSON>",
//!   "tables": [ { "machine": { "gpu", "sms", "driver", "driver_version", "kernels", "nvrtc" },
//!                 "problems": [ { "problem", "date", "tried", "model", "ranking": [
//!                     { "configuration", "interleave", "cold_us", "warm_us" }, ... ] }, ... ] }, ... ] }
//! ```
//!
//! `interleave` is left out where the kernel is as compiled, `driver_version` where it is not known, so that tables
//! from before there were these have the checksum that they had.

use fp8gemm_problem::Problem;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::Machine;
use crate::JitError;
use crate::sass::Interleave;

/// What this version writes and reads.
const SCHEMA: u32 = 1;

/// Bytes of any text in a table but a problem's.
const LONGEST_TEXT: usize = 200;
const PRINTABLE: &str = "a text has control characters or more than 200 bytes";

/// A configuration and its times: medians of the kernel's own time, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timed {
    /// Its name, as a [`KernelConfig`](crate::KernelConfig) prints.
    pub configuration: String,
    /// Name of the pattern in its promotion's `FFMA`, as an [`Interleave`] prints; `None` for as compiled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interleave: Option<String>,
    /// After a flush of the L2 cache.
    pub cold_us: f64,
    /// Where the launch before was the same.
    pub warm_us: f64,
}

impl Timed {
    /// The pattern that it was timed with.
    ///
    /// # Errors
    /// [`JitError::Interleave`] for a name that this version does not know.
    ///
    /// ```
    /// use fp8gemm_jit::{sass::Interleave, tuning::Timed};
    ///
    /// let mut timed = Timed { configuration: "any".into(), interleave: None, cold_us: 5.0, warm_us: 3.0 };
    /// assert_eq!(timed.pattern()?, Interleave::AsCompiled);
    /// timed.interleave = Some("one-in-four".into());
    /// assert_eq!(timed.pattern()?, Interleave::OneInFour);
    /// # Ok::<(), fp8gemm_jit::JitError>(())
    /// ```
    pub fn pattern(&self) -> Result<Interleave, JitError> {
        self.interleave.as_deref().map_or(Ok(Interleave::AsCompiled), str::parse)
    }
}

/// What is known of one problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The problem.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub problem: Problem,
    /// When it was measured, as RFC 3339 writes it.
    pub date: String,
    /// Configurations that were considered.
    pub tried: usize,
    /// The cost model's own choice.
    pub model: Timed,
    /// The fastest, the winner first, and the fastest that needs no workspace if none of those does without.
    pub ranking: Vec<Timed>,
}

/// The tuned problems of one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What it was measured on and with.
    pub machine: Machine,
    /// In any order, no problem twice.
    pub problems: Vec<Tuned>,
}

/// Tables of one or more machines, as one file holds them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuning {
    tables: Vec<Table>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    sha256: String,
    tables: Vec<Table>,
}

impl Tuning {
    /// One machine and its problems.
    pub fn of(machine: Machine, problems: Vec<Tuned>) -> Self {
        Self { tables: vec![Table { machine, problems }] }
    }

    /// The tables.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Whether nothing is tuned.
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|table| table.problems.is_empty())
    }

    /// Tuned problems, of all machines.
    pub fn len(&self) -> usize {
        self.tables.iter().map(|table| table.problems.len()).sum()
    }

    /// The tables of the machines that a rule takes.
    #[must_use]
    pub fn only(&self, takes: impl Fn(&Machine) -> bool) -> Self {
        Self { tables: self.tables.iter().filter(|table| takes(&table.machine)).cloned().collect() }
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`JitError::Tuning`] for everything else: another schema, a checksum that does not hold, a problem
    /// that does not parse or is not legal, a time that is none, a text that is long or has control characters.
    pub fn parse(json: &[u8]) -> Result<Self, JitError> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: u32,
        }
        // A reason may quote the file, and is printed on terminals.
        let shown = |character: char| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
        let wrong = |reason: String| JitError::Tuning { reason: reason.chars().map(shown).collect() };
        let versioned: Versioned = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
        if versioned.schema != SCHEMA {
            return Err(wrong(format!("it has schema {}, but this version reads {SCHEMA}", versioned.schema)));
        }
        let document: Document = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
        if checksum(&document.tables) != document.sha256 {
            return Err(wrong("its checksum does not hold".to_owned()));
        }
        document.tables.iter().try_for_each(check_table).map_err(wrong)?;
        Ok(Self { tables: document.tables })
    }

    /// The tables as a file holds them. Equal tables give equal bytes.
    pub fn to_json(&self) -> Vec<u8> {
        let document = Document { schema: SCHEMA, sha256: checksum(&self.tables), tables: self.tables.clone() };
        // Strings, whole numbers and finite times: this cannot fail.
        let mut json = serde_json::to_vec_pretty(&document).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Takes in what `other` knows. Of a problem that both know, `other`'s is taken if `replace`.
    pub fn merge(&mut self, other: &Self, replace: bool) {
        for table in &other.tables {
            let place = self.tables.iter().position(|own| own.machine == table.machine);
            let own = match place {
                Some(index) => &mut self.tables[index],
                None => {
                    self.tables.push(Table { machine: table.machine.clone(), problems: Vec::new() });
                    let last = self.tables.len() - 1;
                    &mut self.tables[last]
                }
            };
            for tuned in &table.problems {
                match own.problems.iter_mut().find(|known| known.problem == tuned.problem) {
                    Some(known) if replace => *known = tuned.clone(),
                    Some(_) => {}
                    None => own.problems.push(tuned.clone()),
                }
            }
        }
    }
}

/// What no tuning would have written.
fn check_table(table: &Table) -> Result<(), String> {
    let Machine { gpu, sms: _, driver, driver_version, kernels, nvrtc } = &table.machine;
    if ![gpu, driver, kernels, nvrtc].into_iter().chain(driver_version).all(|text| printable(text)) {
        return Err(format!("its machine: {PRINTABLE}"));
    }
    table.problems.iter().try_for_each(check)
}

/// They are printed on terminals.
fn printable(text: &str) -> bool {
    text.len() <= LONGEST_TEXT && !text.chars().any(char::is_control)
}

fn check(tuned: &Tuned) -> Result<(), String> {
    let problem = &tuned.problem;
    problem.check().map_err(|error| error.to_string())?;
    if tuned.ranking.is_empty() {
        return Err(format!("{problem} has no configuration"));
    }
    let timed = || tuned.ranking.iter().chain([&tuned.model]);
    for timed in timed() {
        for us in [timed.cold_us, timed.warm_us] {
            if !(us.is_finite() && us > 0.0) {
                return Err(format!("{problem}: {us} is no time"));
            }
        }
    }
    let names = timed().map(|timed| &timed.configuration).chain(timed().filter_map(|timed| timed.interleave.as_ref()));
    if !names.chain([&tuned.date]).all(|text| printable(text)) {
        return Err(format!("{problem}: {PRINTABLE}"));
    }
    Ok(())
}

fn checksum(tables: &[Table]) -> String {
    let json = serde_json::to_vec(tables).unwrap_or_default();
    Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn as_text<S: Serializer>(problem: &Problem, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(problem)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Problem, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}
