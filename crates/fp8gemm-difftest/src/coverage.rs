//! What a run has tried: counts by kind, gaps included.

use std::collections::BTreeMap;

use fp8gemm_problem::{OperandType, OutputType, Problem};

use crate::check::{Specials, tails};
use crate::{Case, Generator, Property};

/// Cases by what they cover. Names of kinds that the run asked for and that never came have a 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Coverage {
    /// Counts by family ("shape", "data", "scales", "types", ...) and name.
    pub counts: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// Outputs by corner class.
    pub specials: Specials,
}

impl Coverage {
    /// Nothing yet; what is to come has zeros.
    pub(crate) fn expecting(generator: &Generator) -> Self {
        let mut coverage = Self::default();
        let only = generator.only();
        for shape in generator.shapes() {
            coverage.expect("shape", shape);
        }
        for data in only.data() {
            coverage.expect("data", data);
        }
        for scales in only.scales() {
            coverage.expect("scales", scales);
        }
        for a in OperandType::ALL {
            for b in OperandType::ALL {
                coverage.expect("types", format!("{a} x {b}"));
            }
        }
        for d in OutputType::ALL {
            coverage.expect("d", d);
        }
        // A subject need not have more than one configuration.
        for property in Property::ALL.into_iter().filter(|property| *property != Property::Configurations) {
            coverage.expect("property", property);
        }
        coverage
    }

    fn expect(&mut self, family: &'static str, name: impl ToString) {
        self.counts.entry(family).or_default().entry(name.to_string()).or_default();
    }

    /// Counts one.
    pub(crate) fn count(&mut self, family: &'static str, name: impl ToString) {
        *self.counts.entry(family).or_default().entry(name.to_string()).or_default() += 1;
    }

    pub(crate) fn case(&mut self, case: &Case, found: Specials) {
        let Problem { a, b, c, d: output, policy, epilogue, .. } = case.problem;
        self.count("shape", case.origin.shape);
        self.count("data", case.origin.data);
        for scales in case.origin.scales {
            self.count("scales", scales);
        }
        self.count("types", format!("{} x {}", a.ty, b.ty));
        self.count("layouts", format!("{} x {}", a.scales, b.scales));
        self.count("policy", policy);
        self.count("d", output);
        let addend = match c {
            None => "none".to_owned(),
            Some(c) if epilogue.beta == 1.0 => format!("{c} added"),
            Some(c) if epilogue.reads_c() => format!("{c} weighted"),
            Some(c) => format!("{c} unread"),
        };
        self.count("c", addend);
        self.count("alpha", if epilogue.alpha == 1.0 { "1" } else { "other" });
        for tail in tails(&case.problem) {
            self.count("tails", tail);
        }
        self.specials.nan += found.nan;
        self.specials.infinite += found.infinite;
        self.specials.zero += found.zero;
        self.specials.negative_zero += found.negative_zero;
        self.specials.subnormal += found.subnormal;
    }

    /// Kinds that were to be covered and were not.
    pub fn gaps(&self) -> Vec<String> {
        let families = self.counts.iter();
        families
            .flat_map(|(family, counts)| {
                counts.iter().filter(|(_, count)| **count == 0).map(move |(name, _)| format!("{family} {name}"))
            })
            .collect()
    }
}
