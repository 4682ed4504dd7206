//! [`Survey`]: the profiles of many tensors as tables and figures.

use fp8gemm_problem::ScaleLayout;

use super::{BlockAmax, Codes, Cost, Profile, TIE_DB};
use crate::{Cell, Figure, Outcome, Scale, Settings, Study, StudyError, Table};

/// What the outcome is called; it is no entry of the registry, as it needs data.
const STUDY: Study = Study {
    name: "tensor",
    title: "Tensors of one's own in FP8",
    question: "What do recipes and granularities of FP8 quantisation do to these tensors?",
    takes: "the tensors",
    run: |settings| Ok(Outcome::new(&STUDY, settings)),
};

/// Tensors up to which bars are labelled with names; more are numbered along a line.
const NAMED: usize = 12;

/// Granularities from the coarsest to the finest.
const LAYOUTS: [ScaleLayout; 5] =
    [ScaleLayout::Tensor, ScaleLayout::Row, ScaleLayout::Block128x128, ScaleLayout::Block1x128, ScaleLayout::Block1x32];

/// Collects what was found of tensors, in the order in which they are added.
#[derive(Clone, Debug)]
pub struct Survey {
    tensors: Table,
    amax: Table,
    granularity: Table,
    quantisation: Table,
    codes: Table,
    skipped: Table,
    attribution: Option<Table>,
}

impl Survey {
    /// Of nothing yet.
    pub fn new() -> Self {
        let tensors = Table::new("tensors", "The tensors and their best quantiser")
            .count("number", "in the order of the files")
            .text("tensor", "its name")
            .text("type", "as stored")
            .text("shape", "rows x columns")
            .count("elements", "how many")
            .count("zeros", "elements that are zero")
            .bits("amax", "largest magnitude, as f32")
            .float("amax value", "", "largest magnitude")
            .float("smallest", "", "smallest magnitude that is not zero")
            .text("best", "within 0.1 dB of the highest SNR the quantiser with the fewest scales, then the first")
            .float("best SNR", "dB", "its SNR");
        let mut amax = Table::new("amax", "Largest magnitudes of blocks")
            .text("tensor", "its name")
            .text("blocks", "row, 128x128 or 1x128")
            .count("count", "how many")
            .count("zero", "blocks of zeros")
            .float("smallest", "", "smallest that is not zero");
        for percent in BlockAmax::PERCENT {
            amax = amax.float(&format!("{percent} %"), "", "quantile by nearest rank");
        }
        let amax = amax.float("range", "binades", "log2 of the largest over the smallest that is not zero");
        let granularity = Table::new("granularity", "The best quantiser of each granularity")
            .count("number", "of the tensor")
            .text("tensor", "its name")
            .text("scales", "which elements share a scale")
            .text("best", "of these scales, by the same rule")
            .float("SNR", "dB", "10 log10(sum x^2 / sum e^2)")
            .float("mean relative", "%", "mean |e/x|")
            .float("flushed", "%", "elements other than 0 whose code is 0");
        let quantisation = Table::new("quantisation", "Every quantiser on every tensor")
            .text("tensor", "its name")
            .text("quantiser", "recipe, scale layout and type")
            .count("scales", "how many")
            .count("flushed", "elements other than 0 whose code is 0")
            .count("subnormal", "elements whose code is subnormal")
            .count("saturated", "elements that round beyond the largest value and are clipped")
            .float("flushed share", "%", "of all elements")
            .float("subnormal share", "%", "of all elements")
            .float("saturated share", "%", "of all elements")
            .float("SNR", "dB", "10 log10(sum x^2 / sum e^2)")
            .float("mean relative", "%", "mean |e/x| over |x| >= 2^-126");
        let codes = Table::new("codes", "FP8 tensors as they are stored")
            .text("tensor", "its name")
            .text("scales", "their layout, `none` where there are none")
            .count("codes", "how many")
            .count("zero", "codes of zero")
            .count("subnormal", "codes of subnormal numbers")
            .count("saturated", "codes of the largest finite value")
            .float("zero share", "%", "of all codes")
            .float("subnormal share", "%", "of all codes")
            .float("saturated share", "%", "of all codes")
            .float("smallest scale", "", "what codes are multiplied by")
            .float("largest scale", "", "what codes are multiplied by")
            .text("powers of two", "whether all scales are");
        let skipped = Table::new("skipped", "Tensors left out")
            .text("tensor", "its name")
            .text("type", "as stored")
            .text("shape", "as stored")
            .text("reason", "why");
        Self { tensors, amax, granularity, quantisation, codes, skipped, attribution: None }
    }

    /// Adds a tensor; `ty` is its type as stored.
    ///
    /// # Errors
    /// None with ordinary profiles.
    pub fn tensor(&mut self, name: &str, ty: &str, profile: &Profile) -> Result<(), StudyError> {
        let number = self.len() + 1;
        let elements = profile.elements();
        let best = profile.best();
        self.tensors.push([
            Cell::from(number),
            Cell::from(name),
            Cell::from(ty),
            Cell::from(format!("{} x {}", profile.rows, profile.columns)),
            Cell::from(elements),
            Cell::from(profile.zeros),
            Cell::from(profile.amax),
            Cell::from(f64::from(profile.amax)),
            Cell::from(f64::from(profile.smallest)),
            best.map_or(Cell::Missing, |cost| Cell::from(cost.quantizer.to_string())),
            best.map_or(Cell::Missing, |cost| Cell::from(cost.snr_db)),
        ])?;
        for (layout, blocks) in &profile.blocks {
            let counts = [blocks.blocks, blocks.zero].map(Cell::from);
            let quantiles = blocks.quantiles.map(|amax| Cell::from(f64::from(amax)));
            let row = [Cell::from(name), Cell::from(layout.to_string())].into_iter().chain(counts);
            let row = row.chain([Cell::from(f64::from(blocks.smallest))]).chain(quantiles);
            self.amax.push(row.chain([Cell::from(blocks.binades())]))?;
        }
        for layout in LAYOUTS {
            let Some(cost) = profile.best_with(layout) else { continue };
            self.granularity.push([
                Cell::from(number),
                Cell::from(name),
                Cell::from(layout.to_string()),
                Cell::from(cost.quantizer.to_string()),
                Cell::from(cost.snr_db),
                Cell::from(cost.mean_relative * 100.0),
                percent(cost.flushed, elements),
            ])?;
        }
        for cost in &profile.costs {
            let Cost { quantizer, scales, flushed, subnormal, saturated, snr_db, mean_relative } = *cost;
            let counts = [scales, flushed, subnormal, saturated].map(Cell::from);
            let shares = [flushed, subnormal, saturated].map(|count| percent(count, elements));
            let row = [Cell::from(name), Cell::from(quantizer.to_string())].into_iter().chain(counts).chain(shares);
            self.quantisation.push(row.chain([snr_db, mean_relative * 100.0].map(Cell::from)))?;
        }
        Ok(())
    }

    /// Adds what an FP8 tensor holds as it is stored; `scales` is the layout of its scales.
    ///
    /// # Errors
    /// None.
    pub fn codes(&mut self, name: &str, scales: Option<ScaleLayout>, codes: &Codes) -> Result<(), StudyError> {
        let counts = [codes.elements, codes.zero, codes.subnormal, codes.saturated].map(Cell::from);
        let shares = [codes.zero, codes.subnormal, codes.saturated].map(|count| percent(count, codes.elements));
        let ends = [codes.smallest_scale, codes.largest_scale].map(|scale| Cell::from(f64::from(scale)));
        let layout = scales.map_or_else(|| "none".to_owned(), |layout| layout.to_string());
        let powers = match scales {
            None => Cell::Missing,
            Some(_) if codes.powers_of_two == codes.scales => Cell::from("all"),
            Some(_) => Cell::from(format!("{} of {}", codes.powers_of_two, codes.scales)),
        };
        let row = [Cell::from(name), Cell::from(layout)].into_iter().chain(counts).chain(shares);
        self.codes.push(row.chain(ends).chain([powers]))
    }

    /// Adds a tensor that is left out.
    ///
    /// # Errors
    /// None.
    pub fn skip(&mut self, name: &str, ty: &str, shape: &[usize], reason: &str) -> Result<(), StudyError> {
        self.skipped.push([Cell::from(name), Cell::from(ty), Cell::from(format!("{shape:?}")), Cell::from(reason)])
    }

    /// Adds the table of [`attribute`](super::attribute).
    pub fn attribution(&mut self, table: Table) {
        self.attribution = Some(table);
    }

    /// How many tensors were added.
    pub fn len(&self) -> usize {
        self.tensors.rows().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The outcome: tables of what was added, figures and what they show. Tables without rows are left
    /// out.
    ///
    /// # Errors
    /// None.
    pub fn outcome(self) -> Result<Outcome, StudyError> {
        let mut outcome = Outcome::new(&STUDY, &Settings::full());
        outcome.own_command = Some("fp8gemm study tensor".to_owned());
        outcome.parameter("tensors", self.len());
        outcome.parameter("best", format!("fewest scales within {TIE_DB} dB of the highest SNR, then the first named"));
        self.findings(&mut outcome)?;
        let many = self.len() > NAMED;
        let figure = |name: &str, title: &str, table: &str| {
            if many && table == "granularity" {
                Figure::lines(name, title, table).x("number", Scale::Linear)
            } else {
                Figure::bars(name, title, table).x("tensor", Scale::Linear)
            }
        };
        let finite = |table: &Table, column: &str| -> Result<bool, StudyError> {
            let index = table.index(column)?;
            Ok(table.rows().iter().any(|row| row[index].number().is_some_and(f64::is_finite)))
        };
        if finite(&self.granularity, "SNR")? {
            let snr = figure("snr", "SNR of the best quantiser by granularity", "granularity");
            outcome.figures.push(snr.y(["SNR"], Scale::Linear).by("scales"));
        }
        if !many && finite(&self.amax, "range")? {
            let range = figure("range", "Range of the largest magnitudes of blocks", "amax");
            outcome.figures.push(range.y(["range"], Scale::Linear).by("blocks"));
        }
        if let Some(table) = &self.attribution
            && finite(table, "SNR")?
        {
            let parts = Figure::bars("attribution", "SNR of the product", "attribution").x("A", Scale::Linear);
            outcome.figures.push(parts.y(["SNR"], Scale::Linear).by("policy"));
        }
        let tables = [self.tensors, self.granularity, self.quantisation, self.amax, self.codes, self.skipped];
        outcome.tables = tables.into_iter().chain(self.attribution).filter(|table| !table.rows().is_empty()).collect();
        Ok(outcome)
    }

    /// Medians over the tensors, and who is best how often.
    fn findings(&self, outcome: &mut Outcome) -> Result<(), StudyError> {
        let (scales, snr) = (self.granularity.index("scales")?, self.granularity.index("SNR")?);
        let mut parts = Vec::new();
        for layout in LAYOUTS.map(|layout| layout.to_string()) {
            let rows = self.granularity.rows().iter().filter(|row| row[scales].to_string() == layout);
            let mut figures: Vec<f64> = rows.filter_map(|row| row[snr].number()).filter(|snr| !snr.is_nan()).collect();
            figures.sort_by(f64::total_cmp);
            if let Some(median) = figures.get(figures.len() / 2) {
                parts.push(format!("{layout} {median:.1} dB"));
            }
        }
        if !parts.is_empty() {
            let tensors = if self.len() == 1 { "the tensor".to_owned() } else { format!("{} tensors", self.len()) };
            let what = if self.len() == 1 { "SNR" } else { "Median SNR" };
            outcome.finding(format!(
                "{what} of {tensors} with the best quantiser of each granularity: {}.",
                parts.join(", ")
            ));
        }
        let best = self.tensors.index("best")?;
        let mut winners: Vec<(String, usize)> = Vec::new();
        for name in self.tensors.rows().iter().map(|row| row[best].to_string()).filter(|name| !name.is_empty()) {
            match winners.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => winners.push((name, 1)),
            }
        }
        winners.sort_by_key(|&(_, count)| core::cmp::Reverse(count));
        if self.len() > 1 && !winners.is_empty() {
            let shown: Vec<String> =
                winners.iter().take(4).map(|(name, count)| format!("{name} for {count}")).collect();
            outcome.finding(format!("Best of all by the rule: {}.", shown.join(", ")));
        }
        Ok(())
    }
}

impl Default for Survey {
    fn default() -> Self {
        Self::new()
    }
}

/// A share; nothing of nothing.
fn percent(part: u64, whole: u64) -> Cell {
    if whole == 0 { Cell::Missing } else { Cell::from(part as f64 / whole as f64 * 100.0) }
}
