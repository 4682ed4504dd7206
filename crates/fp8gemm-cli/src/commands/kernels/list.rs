//! `fp8gemm kernels list`: what can be chosen, and what of it is compiled already.

use std::collections::BTreeSet;

use clap::Args;
use fp8gemm::jit::catalog::Entry;
use fp8gemm::jit::{BASE_OPTIONS, Cache, Key, Nvrtc, catalog};
use serde::Serialize;

use super::Resources;
use crate::commands::{SUCCESS, print};
use crate::error::CliError;
use crate::text::{grouped, table};

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those that are in the cache
    #[arg(long)]
    cached: bool,
    /// Only the small set that CI compiles: every tile and main loop of the usual problem, and
    /// every pair of values on the other axes
    #[arg(long)]
    cover: bool,
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    action: &'static str,
    /// Version of NVRTC here; absent where there is none. Then kernels of any version count as cached.
    nvrtc: Option<String>,
    kernels: Vec<Row>,
    cached: usize,
}

#[derive(Serialize)]
struct Row {
    name: String,
    /// Absent for the kernels that quantise and transpose.
    #[serde(flatten)]
    resources: Option<Resources>,
    cached: bool,
}

pub(super) fn run(args: &ListArgs, json: bool) -> Result<u8, CliError> {
    let cache = Cache::from_environment();
    let present = present(&cache)?;
    let nvrtc = Nvrtc::find(None).ok().map(|nvrtc| nvrtc.version());
    let versions = nvrtc.map_or_else(|| cache.nvrtc_versions(), |version| Ok(vec![version]))?;
    let entries = if args.cover { catalog::cover().into_iter().map(Entry::Gemm).collect() } else { catalog::entries() };
    let rows = entries.into_iter().map(|entry| {
        let cached = !present.is_empty() && is_cached(&entry, &present, &versions);
        let resources = match &entry {
            // Of the kernel, which launches of several configurations may share.
            Entry::Gemm(config) => Some(Resources { configuration: config.kernel_name(), ..Resources::from(config) }),
            _ => None,
        };
        Row { name: entry.to_string(), resources, cached }
    });
    let kernels: Vec<_> = rows.filter(|row| row.cached || !args.cached).collect();
    let cached = kernels.iter().filter(|row| row.cached).count();
    let nvrtc = nvrtc.map(|(major, minor)| format!("{major}.{minor}"));
    let report = Report { command: "kernels", action: "list", nvrtc, kernels, cached };
    print(json, &report, || report.text())?;
    Ok(SUCCESS)
}

/// Keys of the sound entries of a cache.
pub(super) fn present(cache: &Cache) -> Result<BTreeSet<Key>, CliError> {
    Ok(cache.list()?.into_iter().filter(|listed| listed.metadata.is_ok()).map(|listed| listed.key).collect())
}

/// Whether one of these versions of NVRTC has left the kernel there.
pub(super) fn is_cached(entry: &Entry, present: &BTreeSet<Key>, versions: &[(u32, u32)]) -> bool {
    let source = entry.source();
    versions.iter().any(|version| present.contains(&Key::new(&source, &BASE_OPTIONS, *version)))
}

impl Report {
    fn text(&self) -> String {
        let mut rows = vec![Resources::HEADINGS.into_iter().chain(["cached"]).map(str::to_owned).collect::<Vec<_>>()];
        for kernel in &self.kernels {
            let cells = match &kernel.resources {
                Some(resources) => resources.row(),
                None => {
                    let mut cells = vec![String::new(); Resources::HEADINGS.len()];
                    cells[0].clone_from(&kernel.name);
                    cells
                }
            };
            let cached = if kernel.cached { "yes" } else { "no" };
            rows.push(cells.into_iter().chain([cached.to_owned()]).collect());
        }
        let compiler = match &self.nvrtc {
            Some(version) => format!("by NVRTC {version}"),
            None => "by any NVRTC (there is none here)".to_owned(),
        };
        let (all, cached) = (grouped(self.kernels.len() as u64), grouped(self.cached as u64));
        format!("{}{all} kernels, {cached} of them cached {compiler}\n", table(0, &rows))
    }
}
