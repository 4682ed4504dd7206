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
    let nvrtc = Nvrtc::find(None).ok().map(|nvrtc| nvrtc.version());
    let versions = nvrtc.map_or_else(|| cache.nvrtc_versions(), |version| Ok(vec![version]))?;
    let present = Present::of(&cache, versions)?;
    let entries = if args.cover { catalog::cover().into_iter().map(Entry::Gemm).collect() } else { catalog::entries() };
    let rows = entries.into_iter().map(|entry| {
        let cached = present.has(&entry);
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

/// What plans find in a cache without compiling.
pub(super) struct Present {
    /// Of sound entries.
    keys: BTreeSet<Key>,
    versions: Vec<(u32, u32)>,
    /// The sound ones among those that were imported, which are taken whatever compiled them.
    imported: BTreeSet<Key>,
    imported_versions: BTreeSet<(u32, u32)>,
}

impl Present {
    /// With an NVRTC of one of these versions.
    pub(super) fn of(cache: &Cache, versions: Vec<(u32, u32)>) -> Result<Self, CliError> {
        let sound = cache.list()?.into_iter().filter(|listed| listed.metadata.is_ok());
        let keys: BTreeSet<Key> = sound.map(|listed| listed.key).collect();
        let mut imported = cache.imported();
        imported.retain(|key, _| keys.contains(key));
        let imported_versions = imported.values().copied().collect();
        Ok(Self { keys, versions, imported: imported.into_keys().collect(), imported_versions })
    }

    /// Whether the kernel is there.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        if self.keys.is_empty() {
            return false;
        }
        let source = entry.source();
        let key = |version: &(u32, u32)| Key::new(&source, &BASE_OPTIONS, *version);
        self.versions.iter().any(|version| self.keys.contains(&key(version)))
            || self.imported_versions.iter().any(|version| self.imported.contains(&key(version)))
    }
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
