//! Files of single `wgmma` instructions: each tile's D is one instruction's result. Where the metadata's
//! `instruction` names `mma.sync`, it is that one, which Hopper emulates for FP8.
//!
//! A variant is named `<type of A>_<type of B>_<accumulator>` and has the tensors `.a` [t, M, 32],
//! `.b` [t, N, 32], `.c` and `.d` [t, M, N], and optionally `.distribution` [t]: the index of the
//! kind of data, into the names of the metadata's `distributions`.

use std::collections::BTreeMap;
use std::time::Instant;

use fp8gemm::problem::{OperandType, OutputType};
use fp8gemm::sim::Difference;
use fp8gemm::sim::tensor_core::emulated::{mma_sync_fp8_f16, mma_sync_fp8_f32};
use fp8gemm::sim::tensor_core::{InputFormat, Operand, TensorCore};
use half::f16;
use rayon::prelude::*;
use serde::Serialize;

use super::difference::ElementReport;
use super::report::metadata_rows;
use crate::commands::{DIFFERENT, SUCCESS, bad, good, print};
use crate::error::{CliError, InFile};
use crate::files::{FileError, StoredType, TensorFault, TensorFile, TensorView};
use crate::text::{Number, count, grouped, speed, table};

/// K of one FP8 `wgmma` instruction.
const K: usize = 32;

#[derive(Serialize)]
struct Report {
    command: &'static str,
    file: String,
    metadata: BTreeMap<String, String>,
    /// Whether every bit of every variant is equal.
    equal: bool,
    elements: usize,
    differing: usize,
    variants: Vec<VariantReport>,
    macs: u128,
    seconds: Number,
    gmac_per_s: Number,
    #[serde(skip)]
    head: Vec<Vec<String>>,
    #[serde(skip)]
    speed: String,
}

#[derive(Serialize)]
struct VariantReport {
    name: String,
    tiles: usize,
    elements: usize,
    differing: usize,
    distributions: Vec<DistributionReport>,
    first_difference: Option<TileDifference>,
}

#[derive(Serialize)]
struct DistributionReport {
    index: u8,
    name: Option<String>,
    elements: usize,
    differing: usize,
}

#[derive(Serialize)]
struct TileDifference {
    tile: usize,
    #[serde(flatten)]
    element: ElementReport,
}

/// Whether the file holds single instructions and no D of a whole kernel.
pub(super) fn is_tile_file(file: &TensorFile) -> bool {
    file.get("d").is_none() && !variants(file).is_empty()
}

/// The variants of which the file has a D.
fn variants(file: &TensorFile) -> Vec<Variant> {
    let mut variants = Vec::new();
    for a in OperandType::ALL {
        for b in OperandType::ALL {
            for accumulator in [OutputType::F32, OutputType::F16] {
                let variant = Variant { a, b, accumulator };
                if super::named(file) && file.get(&variant.tensor("d")).is_some() {
                    variants.push(variant);
                }
            }
        }
    }
    variants
}

/// Types of one variant.
#[derive(Clone, Copy)]
struct Variant {
    a: OperandType,
    b: OperandType,
    accumulator: OutputType,
}

impl Variant {
    fn name(&self) -> String {
        format!("{}_{}_{}", self.a, self.b, self.accumulator)
    }

    fn tensor(&self, part: &str) -> String {
        format!("{}.{part}", self.name())
    }

    fn core(&self) -> TensorCore {
        match self.accumulator {
            OutputType::F16 => TensorCore::HOPPER_FP8_F16,
            _ => TensorCore::HOPPER_FP8_F32,
        }
    }
}

/// One variant's data, copied out of the file.
pub(in crate::commands) struct RecordedTiles {
    pub(in crate::commands) name: String,
    pub(in crate::commands) a_type: OperandType,
    pub(in crate::commands) b_type: OperandType,
    pub(in crate::commands) accumulator: OutputType,
    pub(in crate::commands) m: usize,
    pub(in crate::commands) n: usize,
    pub(in crate::commands) a: Vec<u8>,
    pub(in crate::commands) b: Vec<u8>,
    pub(in crate::commands) c: Vec<u32>,
    pub(in crate::commands) d: Vec<u32>,
}

/// The single instructions of a file; with `distributions` not empty, only tiles of those.
///
/// # Errors
/// [`CliError::File`] for a file without any, or with tensors that do not fit together.
pub(in crate::commands) fn recorded_tiles(
    file: &TensorFile,
    distributions: &[u8],
) -> Result<Vec<RecordedTiles>, CliError> {
    let variants = variants(file);
    if variants.is_empty() {
        // Says what there is instead.
        file.require("e4m3_e4m3_f32.d").in_file(file.path())?;
    }
    let mut recorded = Vec::new();
    for variant in variants {
        let tiles = Tiles::new(file, variant).in_file(file.path())?;
        let wanted = |tile: &usize| {
            let kind = tiles.distribution.and_then(|kinds| kinds.get(*tile));
            distributions.is_empty() || kind.is_some_and(|kind| distributions.contains(kind))
        };
        let kept: Vec<usize> = (0..tiles.tiles).filter(wanted).collect();
        fn part<T: Copy>(kept: &[usize], from: &[T], each: usize) -> Vec<T> {
            kept.iter().flat_map(|tile| &from[tile * each..(tile + 1) * each]).copied().collect()
        }
        let Tiles { m, n, .. } = tiles;
        recorded.push(RecordedTiles {
            name: variant.name(),
            a_type: variant.a,
            b_type: variant.b,
            accumulator: variant.accumulator,
            m,
            n,
            a: part(&kept, tiles.a, m * K),
            b: part(&kept, tiles.b, n * K),
            c: part(&kept, &tiles.c, m * n),
            d: part(&kept, &tiles.d, m * n),
        });
    }
    Ok(recorded)
}

/// Recomputes every tile.
pub(super) fn run(file: &TensorFile, json: bool) -> Result<u8, CliError> {
    let start = Instant::now();
    let mut reports = Vec::new();
    let mut macs = 0;
    for variant in variants(file) {
        let tiles = Tiles::new(file, variant).in_file(file.path())?;
        macs += (tiles.d.len() * K) as u128;
        reports.push(tiles.report(file)?);
    }
    let time = start.elapsed();
    let elements = reports.iter().map(|report| report.elements).sum();
    let differing: usize = reports.iter().map(|report| report.differing).sum();
    let report = Report {
        command: "verify",
        file: file.path().display().to_string(),
        metadata: file.metadata().clone(),
        equal: differing == 0,
        elements,
        differing,
        variants: reports,
        macs,
        seconds: Number(time.as_secs_f64()),
        gmac_per_s: Number(crate::text::gmacs(macs, time)),
        head: metadata_rows(file),
        speed: speed(macs, time),
    };
    print(json, &report, || report.text())?;
    Ok(if report.equal { SUCCESS } else { DIFFERENT })
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!("{}\n{}", self.file, table(2, &self.head));
        text += "\nresults that differ, by variant <A>_<B>_<accumulator> and kind of data:\n";
        let first = self.variants.iter().max_by_key(|variant| variant.distributions.len());
        let kinds = first.map_or(&[][..], |variant| &variant.distributions[..]);
        let mut rows = vec![vec!["variant".to_owned()]];
        rows[0].extend(kinds.iter().map(|kind| format!("[{}]", kind.index)));
        rows[0].push("all".to_owned());
        for variant in &self.variants {
            let mut row = vec![variant.name.clone()];
            row.extend(kinds.iter().map(|kind| {
                let same = variant.distributions.iter().find(|other| other.index == kind.index);
                same.map_or_else(|| "-".to_owned(), |same| same.differing.to_string())
            }));
            row.push(format!("{} of {}", variant.differing, variant.elements));
            rows.push(row);
        }
        text += &table(2, &rows);
        let kinds = kinds.iter().map(|kind| {
            let name = kind.name.clone().unwrap_or_default();
            vec![format!("[{}]", kind.index), name, format!("{} a variant", count(kind.elements as u64, "result"))]
        });
        text += &table(2, &kinds.collect::<Vec<_>>());
        text += "\n";
        let elements = count(self.elements as u64, "result");
        if self.equal {
            text += &format!("{}: the model gives all {elements}, bit for bit ({})\n", good("EQUAL"), self.speed);
            return text;
        }
        let differ = if self.differing == 1 { "differs" } else { "differ" };
        let differing = grouped(self.differing as u64);
        text += &format!("{}: {differing} of {elements} {differ} ({})\n", bad("DIFFERENT"), self.speed);
        for variant in &self.variants {
            if let Some(TileDifference { tile, element }) = &variant.first_difference {
                text += &format!("  first in {}: tile {tile} {}\n", variant.name, element.text());
            }
        }
        text
    }
}

/// The data of one variant.
struct Tiles<'f> {
    variant: Variant,
    tiles: usize,
    m: usize,
    n: usize,
    a: &'f [u8],
    b: &'f [u8],
    c: Vec<u32>,
    d: Vec<u32>,
    distribution: Option<&'f [u8]>,
    /// The instruction is `mma.sync`.
    mma_sync: bool,
}

impl<'f> Tiles<'f> {
    fn new(file: &'f TensorFile, variant: Variant) -> Result<Self, FileError> {
        let tensor = |part: &str| file.require(&variant.tensor(part));
        let d = tensor("d")?;
        let [tiles, m, n] = *d.shape() else {
            let rule = "one instruction's results are [tiles, M, N]".to_owned();
            return Err(TensorFault::Shape { shape: d.shape().to_vec(), expected: vec![0, 64, 8], rule }.at(&d));
        };
        if tiles * m * n == 0 {
            return Err(TensorFault::Empty { shape: d.shape().to_vec() }.at(&d));
        }
        let expect = |tensor: &TensorView<'_>, expected: [usize; 3]| {
            if tensor.shape() == expected {
                return Ok(());
            }
            let rule = format!("D is [{tiles}, {m}, {n}] and K of the instruction is {K}");
            Err(TensorFault::Shape { shape: tensor.shape().to_vec(), expected: expected.to_vec(), rule }.at(tensor))
        };
        let codes = |part: &str, ty: OperandType, rows: usize| {
            let view = tensor(part)?;
            if *view.ty() != StoredType::Fp8(ty) && *view.ty() != StoredType::U8 {
                let expected = if ty == OperandType::E4m3 { "F8_E4M3" } else { "F8_E5M2" };
                return Err(TensorFault::Type { got: view.ty().to_string(), expected }.at(&view));
            }
            expect(&view, [tiles, rows, K])?;
            Ok(view.bytes())
        };
        let words = |part: &str| {
            let view = tensor(part)?;
            expect(&view, [tiles, m, n])?;
            match (view.ty(), variant.accumulator) {
                (StoredType::F32, OutputType::F32) => Ok(widened(view.bytes(), u32::from_le_bytes)),
                (StoredType::F16, OutputType::F16) => {
                    Ok(widened(view.bytes(), |bits| u32::from(u16::from_le_bytes(bits))))
                }
                (ty, _) => {
                    let expected = if variant.accumulator == OutputType::F32 { "F32" } else { "F16" };
                    Err(TensorFault::Type { got: ty.to_string(), expected }.at(&view))
                }
            }
        };
        let distribution = match file.get(&variant.tensor("distribution")) {
            Some(view) if *view.ty() == StoredType::U8 && view.shape() == [tiles] => Some(view.bytes()),
            Some(view) => {
                let rule = "one U8 for each tile".to_owned();
                let fault = TensorFault::Shape { shape: view.shape().to_vec(), expected: vec![tiles], rule };
                return Err(fault.at(&view));
            }
            None => None,
        };
        Ok(Self {
            variant,
            tiles,
            m,
            n,
            a: codes("a", variant.a, m)?,
            b: codes("b", variant.b, n)?,
            c: words("c")?,
            d: words("d")?,
            distribution,
            mma_sync: file.metadata().get("instruction").is_some_and(|name| name.contains("mma.sync")),
        })
    }

    /// Places and bits where the model differs, by tile.
    fn differences(&self) -> Result<Vec<Vec<Difference>>, CliError> {
        let table =
            |ty: OperandType| -> Vec<Operand> { (0..256).map(|code| InputFormat::from(ty).operand(code)).collect() };
        let (table_a, table_b) = (table(self.variant.a), table(self.variant.b));
        let decode = |table: &[Operand], codes: &[u8]| -> Vec<Operand> {
            codes.iter().map(|&code| table[usize::from(code)]).collect()
        };
        let core = self.variant.core();
        // As long as K each.
        let emulated = |a: &[u8], b: &[u8], c: u32| -> Option<u32> {
            let (a, b) = ((self.variant.a, a.try_into().ok()?), (self.variant.b, b.try_into().ok()?));
            Some(match self.variant.accumulator {
                OutputType::F16 => mma_sync_fp8_f16(a, b, f16::from_bits(c as u16)).to_bits().into(),
                _ => mma_sync_fp8_f32(a, b, f32::from_bits(c)).to_bits(),
            })
        };
        (0..self.tiles)
            .into_par_iter()
            .map(|tile| {
                let (codes_a, codes_b) =
                    (&self.a[tile * self.m * K..][..self.m * K], &self.b[tile * self.n * K..][..self.n * K]);
                let (a, b) = (decode(&table_a, codes_a), decode(&table_b, codes_b));
                let mut differences = Vec::new();
                for (row, a) in a.chunks_exact(K).enumerate() {
                    for (column, b) in b.chunks_exact(K).enumerate() {
                        let place = (tile * self.m + row) * self.n + column;
                        let emulated = if self.mma_sync {
                            emulated(&codes_a[row * K..][..K], &codes_b[column * K..][..K], self.c[place])
                        } else {
                            None
                        };
                        let expected = emulated.map_or_else(|| core.dot(a, b, self.c[place]), Ok)?;
                        let actual = self.d[place];
                        if expected != actual {
                            differences.push(Difference { row, column, expected, actual });
                        }
                    }
                }
                Ok(differences)
            })
            .collect()
    }

    fn report(&self, file: &TensorFile) -> Result<VariantReport, CliError> {
        let differences = self.differences()?;
        let names: Vec<&str> =
            file.metadata().get("distributions").map(|names| names.split(',').collect()).unwrap_or_default();
        let mut distributions: BTreeMap<u8, DistributionReport> = BTreeMap::new();
        for (tile, differences) in differences.iter().enumerate() {
            let index = self.distribution.map_or(0, |distribution| distribution[tile]);
            let name = names.get(usize::from(index)).map(|name| name.trim().escape_debug().to_string());
            let report =
                distributions.entry(index).or_insert(DistributionReport { index, name, elements: 0, differing: 0 });
            report.elements += self.m * self.n;
            report.differing += differences.len();
        }
        let first = differences.iter().enumerate().find_map(|(tile, differences)| {
            let element = ElementReport::new(*differences.first()?, self.variant.accumulator);
            Some(TileDifference { tile, element })
        });
        Ok(VariantReport {
            name: self.variant.name(),
            tiles: self.tiles,
            elements: self.d.len(),
            differing: differences.iter().map(Vec::len).sum(),
            distributions: distributions.into_values().collect(),
            first_difference: first,
        })
    }
}

fn widened<const N: usize>(bytes: &[u8], word: impl Fn([u8; N]) -> u32) -> Vec<u32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| word(*chunk)).collect()
}
