//! The table of `fp8gemm bench`, printed row by row: a run takes minutes.

use std::collections::BTreeMap;
use std::io::{self, Write};

use fp8gemm_bench::{Flush, GpuState, Machine, Options, Row, Sustained, Times};

use crate::error::CliError;

/// What the rows were measured with, and the columns of the cold regime.
pub(crate) fn head(machine: &Machine, options: &Options) -> Result<(), CliError> {
    let driver = (machine.driver / 1000, machine.driver % 1000 / 10);
    let mut text = format!("{}, {} SMs, driver for CUDA {}.{}\n", machine.gpu, machine.sms, driver.0, driver.1);
    text += &format!("timer: {}\nrival: {}\nclocks: {}\n", machine.timer, machine.cublaslt, machine.monitor);
    if options.cold {
        text += &format!(
            "cold: {} runs, {:.1} GB {} before each; us: mean; host: us that a launch keeps the host busy; floor: weights and A read, D written, and our time over that; \
             x: the other's time over ours, median of rounds; recorded DeepGEMM, as recorded and scaled by cuBLASLt per-tensor now over then\n\n",
            options.repeat,
            options.flush_bytes as f64 / 1e9,
            match options.flush {
                Flush::Memset => "set",
                Flush::Read => "read",
            }
        );
        text += &format!(
            "{:<17} {:>8} {:>8} {:>6} {:>5} {:>5} | {:>7} {:>6} | {:>8} {:>5} | {:>8} {:>5} | {:>8} {:>5} {:>6} | {:>4} {:>3}  configuration\n",
            "shape",
            "us",
            "median",
            "TFLOPS",
            "GB/s",
            "host",
            "floor",
            "ours/",
            "tensor",
            "x",
            "block",
            "x",
            "DeepGEMM",
            "x",
            "scaled",
            "MHz",
            "W"
        );
    }
    put(&text)
}

/// One problem.
pub(crate) fn row(row: &Row) -> Result<(), CliError> {
    let ratios = row.ratios();
    let cold = |name: &str| row.entry(name).and_then(|entry| entry.cold).map(|times| times.mean);
    let p = &row.problem;
    let host = row.entry("ours").and_then(|ours| ours.host).map(|times| times.median);
    let shape = format!("{}x{}x{}", p.m, p.n, p.k);
    let mut text = String::new();
    let detail = row.entry("ours").map_or("", |ours| &ours.detail);
    if let Some(times) = row.entry("ours").and_then(|ours| ours.cold) {
        let (rate, bandwidth) = (row.flop() / times.mean * 1e-6, row.bytes() / times.mean * 1e-3);
        text += &format!("{shape:<17} {:>8.2} {:>8.2} {rate:>6.0} {bandwidth:>5.0}", times.mean, times.median);
        text += &format!(" {}", number(host, 5, 1));
        text += &format!(" | {} {}", number(cold("floor"), 7, 2), number(row.over_floor(), 6, 3));
        for name in ["cublaslt_tensor", "cublaslt_block"] {
            text += &format!(" | {} {}", number(cold(name), 8, 2), number(ratios.get(name).copied(), 5, 2));
        }
        text += &format!(
            " | {} {} {}",
            number(row.recorded.get("deepgemm").copied(), 8, 1),
            number(ratios.get("deepgemm_recorded").copied(), 5, 2),
            number(ratios.get("deepgemm_scaled").copied(), 6, 3)
        );
        let clock = row.gpu.as_ref().map(|gpu| gpu.sm_mhz);
        let watts = row.gpu.as_ref().map(|gpu| gpu.watts);
        text += &format!(" | {} {}  {detail}\n", number(clock, 4, 0), number(watts, 3, 0));
    } else {
        text += &format!("{shape}  {detail}\n");
    }
    for entry in &row.entries {
        let name = &entry.name;
        if let Some(times) = entry.cold.filter(|_| name.starts_with("ours_") || name == "floor_plain") {
            let ratio = number(entry.ratio, 0, 3);
            text += &format!("    {name}: {:.2} us, median {:.2}, x {ratio}\n", times.mean, times.median);
        }
        if let Some(sustained) = &entry.sustained {
            text += &format!("    {}\n", sustained_line(name, row.flop(), sustained));
        }
        let of = entry.graph_launches.map_or_else(String::new, |launches| format!(" of {launches}"));
        let graph = format!("graph{of}");
        for (times, how) in [
            (entry.warm, "warm"),
            (entry.graph, &graph),
            (entry.graph_dependent, &format!("{graph}, dependent launch")),
            (entry.graph_constant_weights, &format!("{graph}, dependent launch, constant weights")),
        ] {
            text += &times.map_or_else(String::new, |times| format!("    {name} {how}: {}\n", times_line(&times)));
        }
    }
    if row.checked_rows.is_none() {
        text += "    not compared with the twin\n";
    }
    for (name, reason) in &row.refused {
        text += &format!("    {name}: {reason}\n");
    }
    put(&text)
}

/// Geometric means.
pub(crate) fn foot(
    means: &BTreeMap<String, (f64, usize)>,
    over_floor: Option<(f64, usize)>,
    over_plain_floor: Option<(f64, usize)>,
) -> Result<(), CliError> {
    let mut text = String::new();
    if let Some((mean, rows)) = over_floor {
        text += &format!("\ngeometric mean of our time over the floor, M <= 64: {mean:.3} ({rows} rows)");
        let plain = over_plain_floor.map_or(mean, |(mean, _)| mean);
        text += &format!(", over one whose loads have no L2 policy: {plain:.3}\n");
    }
    if !means.is_empty() {
        text += "\ngeometric means of the other's time over ours\n";
    }
    for (name, (mean, count)) in means {
        text += &format!("  {mean:.3}  {name} ({count} rows)\n");
    }
    put(&text)
}

fn sustained_line(name: &str, flop: f64, sustained: &Sustained) -> String {
    let Sustained { us, launches, seconds, sets, gpu } = sustained;
    let state = gpu.as_ref().map_or_else(String::new, state);
    let rate = flop / us * 1e-6;
    format!("{name} sustained: {rate:.0} TFLOPS, {us:.2} us, {launches} launches in {seconds:.2} s, {sets} sets{state}")
}

fn state(gpu: &GpuState) -> String {
    let reasons = if gpu.throttled_by.is_empty() { "nothing".to_owned() } else { gpu.throttled_by.join(", ") };
    format!(", {:.0} MHz, {:.0} W, {} C, limited by {reasons}", gpu.sm_mhz, gpu.watts, gpu.celsius)
}

fn times_line(times: &Times) -> String {
    format!("{:.2} us median, {:.2} to {:.2} (p10, p90)", times.median, times.p10, times.p90)
}

fn number(value: Option<f64>, width: usize, digits: usize) -> String {
    value.map_or_else(|| format!("{:>width$}", "-"), |value| format!("{value:>width$.digits$}"))
}

fn put(text: &str) -> Result<(), CliError> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Stdout(error)),
        _ => Ok(()),
    }
}
