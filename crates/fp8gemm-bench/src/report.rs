//! What a run of the bench says: plain data for tables, JSON and CSV.

use std::collections::BTreeMap;
use std::io::Write;

use fp8gemm_jit::sass::Interleave;
use fp8gemm_problem::{OutputType, Problem, ScaleLayout};
use serde::Serialize;

use crate::nvml::GpuState;
use crate::shapes::{DEEPGEMM, RULER};
use crate::stats::{Times, geometric_mean};

/// Our kernel's name in reports.
pub(crate) const OURS: &str = "ours";
/// cuBLASLt with one scale for each operand: the ruler of the recorded lists.
pub(crate) const TENSOR: &str = RULER;
/// cuBLASLt with the problem's block scales.
pub(crate) const BLOCK: &str = "cublaslt_block";
/// The kernel that reads weights and A and writes D.
pub(crate) const FLOOR: &str = "floor";
/// The same where loads have no L2 policy, if ours have one.
pub(crate) const FLOOR_PLAIN: &str = "floor_plain";
/// Rows of A up to which a GEMM is all weights, so that the floor is what it is held against.
const MOST_ROWS: usize = 64;

/// Our kernel's name in reports, with a pattern in its promotion.
pub(crate) const fn ours_with(pattern: Interleave) -> &'static str {
    match pattern {
        Interleave::AsCompiled => OURS,
        Interleave::None => "ours_yield-none",
        Interleave::DeepGemm2025 => "ours_yield-deepgemm-2025",
        Interleave::OneInFour => "ours_yield-one-in-four",
        Interleave::Reuse => "ours_yield-reuse",
        Interleave::ReuseDeepGemm2025 => "ours_yield-reuse-deepgemm-2025",
        Interleave::ReuseOneInFour => "ours_yield-reuse-one-in-four",
    }
}

/// Where and how it was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The GPU's name.
    pub gpu: String,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// CUDA version of the driver: `1000 * major + 10 * minor`.
    pub driver: i32,
    /// What took the times.
    pub timer: String,
    /// The rival's library, or why there is none.
    pub cublaslt: String,
    /// What read clocks and power, or why nothing did.
    pub monitor: String,
}

/// One rival on one problem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// `ours`, also with the suffix of a pattern ([`Interleave::suffix`]); `floor` (memory moved, nothing
    /// computed), `floor_plain`; `cublaslt_tensor`, `cublaslt_block`; with `_first`, the algorithm that the heuristic names
    /// first, where another one was faster.
    pub name: String,
    /// Configuration or algorithm.
    pub detail: String,
    /// What a launch costs the host.
    pub host: Option<Times>,
    /// After a flush of the L2 cache.
    pub cold: Option<Times>,
    /// Median over the rounds of its cold time over ours in the same round.
    pub ratio: Option<f64>,
    /// Where the launch before was the same.
    pub warm: Option<Times>,
    /// Back to back.
    pub sustained: Option<Sustained>,
    /// Launches in the CUDA graph, each with weights of its own.
    pub graph_launches: Option<usize>,
    /// In a CUDA graph of launches with different weights, for each kernel.
    pub graph: Option<Times>,
    /// The same with programmatic dependent launch.
    pub graph_dependent: Option<Times>,
    /// The same with weights loaded before the kernel before has ended, where a kernel does that.
    pub graph_constant_weights: Option<Times>,
}

/// Back to back for seconds: what the power limit leaves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sustained {
    /// Microseconds of a launch.
    pub us: f64,
    /// Launches.
    pub launches: usize,
    /// Seconds in all.
    pub seconds: f64,
    /// Sets of buffers that took turns.
    pub sets: usize,
    /// The card meanwhile.
    pub gpu: Option<GpuState>,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was computed.
    #[serde(serialize_with = "as_text")]
    pub problem: Problem,
    /// Rows of D that were compared with the twin, bit for bit; `None` if that was not asked for.
    pub checked_rows: Option<usize>,
    /// Ours first.
    pub entries: Vec<Entry>,
    /// Rivals that could not do it, and why.
    pub refused: BTreeMap<String, String>,
    /// Recorded microseconds.
    pub recorded: BTreeMap<String, f64>,
    /// The card during the cold runs.
    pub gpu: Option<GpuState>,
}

impl Row {
    /// A rival by name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Mean cold microseconds of a rival.
    fn cold(&self, name: &str) -> Option<f64> {
        Some(self.entry(name)?.cold?.mean)
    }

    /// Operations: two for each multiply-add.
    pub fn flop(&self) -> f64 {
        2.0 * self.problem.macs() as f64
    }

    /// Bytes that must move: A, B and their scales and C once, D once.
    pub fn bytes(&self) -> f64 {
        let p = &self.problem;
        let operand = |rows: usize, layout: ScaleLayout| {
            let (scale_rows, scale_columns) = layout.scale_shape(rows, p.k);
            rows * p.k + 4 * scale_rows * scale_columns
        };
        let outputs = p.m * p.n * (p.d.size() + p.c.filter(|_| p.epilogue.reads_c()).map_or(0, OutputType::size));
        (operand(p.m, p.a.scales) + operand(p.n, p.b.scales) + outputs) as f64
    }

    /// Our cold time over that of a kernel that only moves memory: it reads the weights and A once and
    /// writes as much as D has. Median over the rounds; 1 is as fast as memory.
    pub fn over_floor(&self) -> Option<f64> {
        self.entry(FLOOR)?.ratio.map(f64::recip)
    }

    /// The same over a kernel whose loads have no L2 policy: where ours are evict-first, a slower one.
    pub fn over_plain_floor(&self) -> Option<f64> {
        self.entry(FLOOR_PLAIN).or_else(|| self.entry(FLOOR))?.ratio.map(f64::recip)
    }

    /// How much slower this card is now than the one of the recorded times: cuBLASLt per-tensor now
    /// over cuBLASLt per-tensor then, with the algorithm that its heuristic names first, as then.
    pub fn drift(&self) -> Option<f64> {
        let now = self.cold("cublaslt_tensor_first").or_else(|| self.cold(RULER))?;
        Some(now / self.recorded.get(RULER)?)
    }

    /// Ratios of cold times over ours, by name; above 1 we are faster. Measured in this process:
    /// `cublaslt_tensor`, `cublaslt_block`, medians over the rounds. Against recorded times, which are
    /// means, so that ours is the mean too: `<name>_recorded`, and `deepgemm_scaled`, which is the
    /// recorded time times [`drift`](Self::drift) over ours.
    pub fn ratios(&self) -> BTreeMap<String, f64> {
        let mut ratios = BTreeMap::new();
        let Some(ours) = self.cold(OURS) else { return ratios };
        let rivals = self.entries.iter().filter(|entry| !is_floor(&entry.name));
        ratios.extend(rivals.filter_map(|entry| Some((entry.name.clone(), entry.ratio?))));
        ratios.extend(self.recorded.iter().map(|(name, time)| (format!("{name}_recorded"), time / ours)));
        if let (Some(time), Some(drift)) = (self.recorded.get(DEEPGEMM), self.drift()) {
            ratios.insert(format!("{DEEPGEMM}_scaled"), time * drift / ours);
        }
        ratios
    }
}

/// Geometric means of all rows' [`ratios`](Row::ratios), with the number of rows that have each.
pub fn geometric_means(rows: &[Row]) -> BTreeMap<String, (f64, usize)> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, ratio) in rows.iter().flat_map(Row::ratios) {
        all.entry(name).or_default().push(ratio);
    }
    let mean = |(name, values): (String, Vec<f64>)| {
        let count = values.len();
        geometric_mean(values).map(|mean| (name, (mean, count)))
    };
    all.into_iter().filter_map(mean).collect()
}

/// Whether an entry moves memory only.
pub(crate) fn is_floor(name: &str) -> bool {
    [FLOOR, FLOOR_PLAIN].contains(&name)
}

/// The geometric mean of [`over_floor`](Row::over_floor), or of [`over_plain_floor`](Row::over_plain_floor), over
/// the rows with M of 64 or less, and their number.
pub fn floor_mean(rows: &[Row], over: impl Fn(&Row) -> Option<f64>) -> Option<(f64, usize)> {
    let decode = rows.iter().filter(|row| row.problem.m <= MOST_ROWS);
    let values: Vec<f64> = decode.filter_map(over).collect();
    Some((geometric_mean(values.iter().copied())?, values.len()))
}

/// Writes rows as CSV: the problem, its sizes, for each rival the cold times and the sustained and
/// graph ones, recorded times and ratios. What a row has not is empty.
///
/// # Errors
/// Those of the writer.
pub fn write_csv(rows: &[Row], writer: impl Write) -> Result<(), csv::Error> {
    let lines: Vec<Vec<(String, String)>> = rows.iter().map(fields).collect();
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in lines.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut writer = csv::Writer::from_writer(writer);
    writer.write_record(&names)?;
    for line in &lines {
        let value = |name: &&String| line.iter().find(|(own, _)| own == *name).map_or("", |(_, value)| value.as_str());
        writer.write_record(names.iter().map(value))?;
    }
    writer.flush()?;
    Ok(())
}

fn fields(row: &Row) -> Vec<(String, String)> {
    let p = &row.problem;
    let mut fields = vec![("problem".to_owned(), p.to_string())];
    let mut put = |name: String, value: f64| fields.push((name, value.to_string()));
    for (name, size) in [("m", p.m), ("n", p.n), ("k", p.k)] {
        put(name.to_owned(), size as f64);
    }
    for entry in &row.entries {
        let name = &entry.name;
        if let Some(times) = &entry.host {
            put(format!("{name}_host_us"), times.median);
        }
        if let Some(times) = &entry.cold {
            put(format!("{name}_us"), times.mean);
            put(format!("{name}_median_us"), times.median);
            put(format!("{name}_p10_us"), times.p10);
            put(format!("{name}_p90_us"), times.p90);
        }
        if let Some(sustained) = &entry.sustained {
            put(format!("{name}_sustained_us"), sustained.us);
            put(format!("{name}_sustained_tflops"), row.flop() / sustained.us * 1e-6);
        }
        for (times, how) in [
            (&entry.warm, "warm"),
            (&entry.graph, "graph"),
            (&entry.graph_dependent, "graph_dependent"),
            (&entry.graph_constant_weights, "graph_constant_weights"),
        ] {
            if let Some(times) = times {
                put(format!("{name}_{how}_us"), times.median);
            }
        }
    }
    for (name, ratio) in [("floor", row.over_floor()), ("floor_plain", row.over_plain_floor())] {
        if let Some(ratio) = ratio {
            put(format!("ours_over_{name}"), ratio);
        }
    }
    for (name, time) in &row.recorded {
        put(format!("recorded_{name}_us"), *time);
    }
    for (name, ratio) in row.ratios() {
        put(format!("ratio_{name}"), ratio);
    }
    if let Some(gpu) = &row.gpu {
        put("sm_mhz".to_owned(), gpu.sm_mhz);
        put("watts".to_owned(), gpu.watts);
    }
    fields.extend(row.entries.first().map(|ours| ("configuration".to_owned(), ours.detail.clone())));
    fields
}

fn as_text<S: serde::Serializer>(problem: &Problem, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::Shape;

    fn row(ours: f64, tensor: f64, first: Option<f64>) -> Row {
        let entry = |name: &str, time: f64| Entry {
            ratio: (name != OURS).then_some(time / ours),
            name: name.to_owned(),
            detail: String::new(),
            host: None,
            cold: Times::of(&[time]),
            warm: None,
            sustained: None,
            graph_launches: None,
            graph: None,
            graph_dependent: None,
            graph_constant_weights: None,
        };
        let mut entries = vec![entry("ours", ours), entry(RULER, tensor)];
        entries.extend(first.map(|time| entry("cublaslt_tensor_first", time)));
        Row {
            problem: Shape::dense(512, 256, 1024).problem,
            checked_rows: Some(16),
            entries,
            refused: BTreeMap::new(),
            recorded: [(DEEPGEMM.to_owned(), 30.0), (RULER.to_owned(), 20.0)].into(),
            gpu: None,
        }
    }

    /// Breaks if a ratio is upside down, or drift is not taken from the same algorithm as then.
    #[test]
    fn ratios_are_theirs_over_ours() {
        let ratios = row(10.0, 22.0, None).ratios();
        let expected = [
            ("cublaslt_tensor", 2.2),
            ("cublaslt_tensor_recorded", 2.0),
            ("deepgemm_recorded", 3.0),
            ("deepgemm_scaled", 3.3),
        ];
        assert_eq!(ratios.len(), expected.len());
        for (name, value) in expected {
            assert!((ratios[name] - value).abs() < 1e-12, "{name}: {}", ratios[name]);
        }
        assert_eq!(row(10.0, 22.0, Some(25.0)).drift(), Some(1.25));
        let means = geometric_means(&[row(10.0, 20.0, None), row(40.0, 20.0, None)]);
        assert_eq!(means["cublaslt_tensor"], (1.0, 2));
    }

    /// Breaks if a pattern has another name here than in kernels' names.
    #[test]
    fn patterns_keep_their_names() {
        for pattern in Interleave::ALL {
            assert_eq!(ours_with(pattern), format!("{OURS}{}", pattern.suffix()));
        }
    }

    /// Breaks if the floor counts as a rival, is upside down, or its mean takes in rows with many tokens.
    #[test]
    fn the_floor_is_no_rival() {
        let with_floor = |m: usize, ours: f64, floor: f64| {
            let mut row = row(ours, 20.0, None);
            row.problem = Shape::dense(m, 256, 1024).problem;
            let name = FLOOR.to_owned();
            row.entries.push(Entry {
                name,
                ratio: Some(floor / ours),
                cold: Times::of(&[floor]),
                ..row.entries[0].clone()
            });
            row
        };
        let rows = [with_floor(1, 8.0, 4.0), with_floor(64, 4.5, 4.0), with_floor(65, 400.0, 4.0), row(1.0, 1.0, None)];
        assert_eq!(rows[0].over_floor(), Some(2.0));
        assert!(!rows[0].ratios().contains_key(FLOOR));
        assert_eq!(floor_mean(&rows, Row::over_floor), Some((1.5, 2)));
        assert_eq!(floor_mean(&rows[2..], Row::over_floor), None);
        // Where both kernels would be the same, there is one entry.
        assert_eq!(rows[0].over_plain_floor(), Some(2.0));
        let mut evict_first = rows[0].clone();
        let plain = Entry { name: FLOOR_PLAIN.to_owned(), ratio: Some(0.8), ..evict_first.entries[1].clone() };
        evict_first.entries.push(plain);
        assert_eq!((evict_first.over_floor(), evict_first.over_plain_floor()), (Some(2.0), Some(1.25)));
        assert!(!evict_first.ratios().contains_key(FLOOR_PLAIN));
        let mut text = Vec::new();
        write_csv(&rows[..1], &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(",floor_us,") && text.contains(",ours_over_floor,ours_over_floor_plain,"), "{text}");
    }

    /// Breaks if columns of rows with different rivals get mixed up.
    #[test]
    fn csv_has_a_column_for_each_name() {
        let mut text = Vec::new();
        write_csv(&[row(10.0, 22.0, None), row(5.0, 20.0, Some(25.0))], &mut text).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_slice());
        let headers = reader.headers().unwrap().clone();
        let records: Vec<_> = reader.records().map(Result::unwrap).collect();
        let at = |row: usize, name: &str| records[row].get(headers.iter().position(|h| h == name).unwrap()).unwrap();
        assert_eq!((at(0, "ours_us"), at(1, "ours_us")), ("10", "5"));
        assert_eq!((at(0, "cublaslt_tensor_first_us"), at(1, "cublaslt_tensor_first_us")), ("", "25"));
        assert_eq!((at(0, "m"), at(1, "ratio_deepgemm_recorded")), ("512", "6"));
    }

    /// Breaks if bytes or operations are counted twice or not at all.
    #[test]
    fn work_is_counted() {
        let dense = row(1.0, 1.0, None);
        assert_eq!(dense.flop(), 2.0 * 512.0 * 256.0 * 1024.0);
        let scales = 4 * (512 * 8 + 2 * 8);
        assert_eq!(dense.bytes(), f64::from(512 * 1024 + 256 * 1024 + scales + 512 * 256 * 2));
        let wgrad = Row { problem: Shape::wgrad(512, 256, 1024).problem, ..dense };
        let scales = 4 * (512 * 8 + 256 * 8);
        assert_eq!(wgrad.bytes(), f64::from(512 * 1024 + 256 * 1024 + scales + 512 * 256 * 8));
    }
}
