//! Yield and reuse flags of the promotion, in kernels as NVRTC makes them, held against what nvdisasm
//! says before and after. Needs NVRTC and nvdisasm, but no GPU:
//!
//! `cargo test --release -p fp8gemm-jit --test interleave -- --ignored --nocapture`
//!
//! Prints the table of docs/performance.md.

#![allow(clippy::unwrap_used)]

use fp8gemm_jit::sass::{Disassembler, FfmaRuns, Interleave, Listing};
use fp8gemm_jit::{
    BASE_OPTIONS, Cache, Compiler, Cubin, JitError, KERNEL, KernelConfig, Nvrtc, Schedule, Share, Store, Unit, choose,
};

#[path = "support/words.rs"]
mod words;
use words::{code_range, disassembled};

/// `FFMA R113, R64, R203.reuse, R113`, stall 1, not yielding: from the 256x128 kernel by NVRTC 12.8.93.
const FFMA: u128 = 0x080f_e200_0000_0071_0000_00cb_4071_7223;
/// `FFMA R113, R64, R203, R113`, yielding: from the same by NVRTC 13.0.88.
const YIELDING: u128 = 0x000f_c200_0000_0071_0000_00cb_4071_7223;

/// Scales that `reuse` marks in the code of NVRTC 12.8.93, of each of the [`configurations`].
const KEPT_BY_12_8: [u32; 4] = [345, 323, 263, 0];

fn tools() -> (Nvrtc, Disassembler) {
    let nvrtc = Nvrtc::find(None).unwrap_or_else(|error| panic!("{error}"));
    let tool = Disassembler::find(Some(nvrtc.path())).unwrap_or_else(|error| panic!("{error}"));
    (nvrtc, tool)
}

/// Breaks if a field of an `FFMA` lies elsewhere than the pass reads or writes it: each bit is changed alone,
/// and nvdisasm must show that change and no other.
#[test]
#[ignore = "needs NVRTC and nvdisasm"]
fn fields_are_where_nvdisasm_sees_them() {
    let (_, tool) = tools();
    let plain = |d: u32, a: u32, b: u32, c: u32| format!("FFMA R{d}, R{a}, R{b}.reuse, R{c}");
    let (d, a, b, c) = (113, 64, 203, 113);
    let mut expected = vec![(FFMA, plain(d, a, b, c)), (YIELDING, "FFMA R113, R64, R203, R113".to_owned())];
    for bit in 0..8 {
        let other = 1 << bit;
        expected.push((FFMA ^ 1 << (16 + bit), plain(d ^ other, a, b, c)));
        expected.push((FFMA ^ 1 << (24 + bit), plain(d, a ^ other, b, c)));
        expected.push((FFMA ^ 1 << (32 + bit), plain(d, a, b ^ other, c)));
        expected.push((FFMA ^ 1 << (64 + bit), plain(d, a, b, c ^ other)));
    }
    for (bit, text) in [
        (15, "@!PT FFMA R113, R64, R203.reuse, R113"),
        (62, "FFMA R113, R64, |R203|.reuse, R113"),
        (63, "FFMA R113, R64, -R203.reuse, R113"),
        (72, "FFMA R113, -R64, R203.reuse, R113"),
        (77, "FFMA.SAT R113, R64, R203.reuse, R113"),
        (80, "FFMA.FTZ R113, R64, R203.reuse, R113"),
        // A yield, or reuse that is not marked: the same to nvdisasm.
        (109, "FFMA R113, R64, R203, R113"),
        (123, "FFMA R113, R64, R203, R113"),
        (122, "FFMA R113, R64.reuse, R203.reuse, R113"),
        (124, "FFMA R113, R64, R203.reuse, R113.reuse"),
    ] {
        expected.push((FFMA ^ 1 << bit, text.to_owned()));
    }
    let words: Vec<_> = expected.iter().map(|(word, _)| *word).collect();
    let found = disassembled(&tool, &words).expect("nvdisasm reads all of them");
    for ((word, expected), found) in expected.iter().zip(found) {
        assert_eq!(&found, expected, "{word:#034x}");
    }
}

/// Breaks if "does not yield" is written where there is no such encoding, or a stall that has it is refused:
/// nvdisasm knows it for 1 to 11 cycles, and reuse by an instruction that yields never counts.
#[test]
#[ignore = "needs NVRTC and nvdisasm"]
fn stalls_that_can_do_without_a_yield() {
    let (_, tool) = tools();
    let with = |word: u128, stall: u128| word & !(0xf << 105) | stall << 105;
    let words = |word, stalls: &[u128]| stalls.iter().map(|stall| with(word, *stall)).collect::<Vec<_>>();
    let (all, some): (Vec<_>, Vec<_>) = ((0..16).collect(), (1..=11).collect());
    let yielding = disassembled(&tool, &words(YIELDING, &all)).expect("any stall goes with a yield");
    let reusing = disassembled(&tool, &words(FFMA ^ 1 << 109, &some)).expect("and with a reuse flag");
    assert!(yielding.iter().chain(&reusing).all(|text| text == "FFMA R113, R64, R203, R113"), "{reusing:?}");
    let staying = disassembled(&tool, &words(FFMA, &some)).expect("1 to 11 go without a yield");
    assert!(staying.iter().all(|text| text == "FFMA R113, R64, R203.reuse, R113"), "{staying:?}");
    for stall in all.iter().filter(|stall| !some.contains(stall)) {
        assert_eq!(disassembled(&tool, &words(FFMA, &[*stall])), None, "stall {stall}");
    }
}

/// The three tiles of docs/performance.md and one with a scale for each column.
fn configurations() -> Vec<(String, KernelConfig)> {
    let config = |problem: &str, block_m, block_n, stages| {
        let chosen = choose(&problem.parse().unwrap(), 132).unwrap().config();
        let (share, schedule, store) = (Share::Nothing, Schedule::Cooperative, Store::Tma);
        let config = KernelConfig { block_m, block_n, stages, share, schedule, store, ..chosen };
        config.check().unwrap();
        (format!("{block_m}x{block_n} {}", config.scales), config)
    };
    let dense = "4096x7168x2048 a=e4m3:1x128 b=e4m3:128x128 d=bf16";
    let wgrad = "4096x4096x2048 a=e4m3:1x128 b=e4m3:1x128 d=f32";
    vec![config(dense, 256, 128, 3), config(dense, 128, 192, 4), config(dense, 128, 128, 5), config(wgrad, 128, 128, 4)]
}

/// Address and text of each instruction.
fn listed(text: &str) -> Vec<(usize, String)> {
    let line = |line: &str| {
        let (address, rest) = line.trim().strip_prefix("/*")?.split_once("*/")?;
        Some((usize::from_str_radix(address, 16).ok()?, rest.trim().to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Addresses of `FFMA` in runs of at least 8, from the text alone.
fn in_runs(code: &[(usize, String)]) -> Vec<usize> {
    let is_ffma = |one: &(usize, String)| one.1.starts_with("FFMA ");
    code.chunk_by(|one, next| is_ffma(one) == is_ffma(next))
        .filter(|run| is_ffma(&run[0]) && run.len() >= 8)
        .flat_map(|run| run.iter().map(|(address, _)| *address))
        .collect()
}

/// The operands of an instruction's text.
fn operands(text: &str) -> Vec<&str> {
    text.split_once(' ')
        .map_or("", |(_, operands)| operands)
        .split([',', ';'])
        .map(str::trim)
        .filter(|operand| !operand.is_empty())
        .collect()
}

/// Of these instructions, those that mark source B for reuse, by the text alone.
fn marked(code: &[(usize, String)], runs: &[usize]) -> Vec<usize> {
    let chosen = code.iter().filter(|(address, text)| runs.contains(address) && operands(text)[2].ends_with(".reuse"));
    chosen.map(|(address, _)| *address).collect()
}

/// Of these instructions, those whose next one has the same source B, and which do not write it; by the text alone.
fn kept_scales(code: &[(usize, String)], runs: &[usize]) -> Vec<usize> {
    let text = code.iter().map(|(_, text)| text.replace(".reuse", "")).collect::<Vec<_>>();
    let in_run = |index: usize| runs.contains(&code[index].0);
    let kept = |index: &usize| {
        let (this, next) = (operands(&text[*index]), operands(&text[*index + 1]));
        in_run(*index) && in_run(*index + 1) && this[2] == next[2] && this[2] != this[0]
    };
    (0..code.len() - 1).filter(kept).map(|index| code[index].0).collect()
}

/// Breaks if a pattern changes a kernel in more than the flags of its `FFMA` runs: bytes elsewhere, bits
/// other than yield and reuse of B, the text beyond `.reuse`, a flag that is set where none was by one that
/// does not begin with `reuse`; if those set it for another reader than the next instruction, change the code
/// of ptxas 12.8 but at the ends of runs, or make of another's something else than of that; if a second pass
/// changes more; if nvdisasm or the gate refuses the result, or registers conflict; or if a compiler's own code
/// is not what docs/jit.md says of it.
#[test]
#[ignore = "needs NVRTC and nvdisasm"]
fn kernels_differ_in_flags_alone() {
    let (nvrtc, tool) = tools();
    let compiler = Compiler::new(Cache::in_memory(), None);
    println!("{nvrtc}\ntile        pattern              in runs  yielding  reusing  outside");
    for ((name, config), by_12_8) in configurations().into_iter().zip(KEPT_BY_12_8) {
        let (kernel, source) = (config.kernel_name(), config.source());
        let unit = Unit { source: &source, kernel: KERNEL, configuration: &kernel, options: &BASE_OPTIONS };
        let before = compiler.cubin(&unit).unwrap();
        let text = tool.disassemble(&before).unwrap();
        let code = listed(&text);
        let runs = in_runs(&code);
        let patterns: Vec<_> = Interleave::ALL
            .into_iter()
            .map(|pattern| (pattern, compiler.make_interleaved(&unit, pattern).unwrap().cubin))
            .collect();
        assert!(patterns[0].1 == before, "as compiled is another kernel");
        // What `tune` times.
        let kernels = |pattern: &Interleave| patterns.iter().find(|(known, _)| known == pattern).unwrap().1.clone();
        let mut others: Vec<_> = compiler.patterns(&unit).unwrap().iter().map(kernels).collect();
        others.push(before.clone());
        assert!(
            others.len() > 1 && patterns.iter().all(|(_, cubin)| others.contains(cubin)),
            "{name}: one is left out"
        );
        others.sort();
        assert!(others.windows(2).all(|two| two[0] != two[1]), "{name}: a kernel has two patterns");
        let start = code_range(&before).start;
        for (pattern, after) in &patterns {
            let counts = FfmaRuns::of(after, KERNEL).unwrap();
            println!(
                "{name:<11} {:<19} {:>8} {:>9} {:>8} {:>8}",
                pattern.name(),
                counts.ffma,
                counts.yielding,
                counts.reusing,
                counts.outside
            );
            assert_eq!(counts.ffma as usize, runs.len(), "{name} {pattern}");
            assert!(pattern.apply(after, KERNEL).unwrap()[..] == after[..], "{name} {pattern} is not idempotent");

            let mut expected = before.to_vec();
            for address in &runs {
                let at = start + address..start + address + 16;
                let word = |bytes: &[u8]| u128::from_le_bytes(bytes[at.clone()].try_into().unwrap());
                let (old, new) = (word(&before), word(after));
                assert_eq!((old ^ new) & !(1 << 109 | 1 << 123), 0, "{name} {pattern} at {address:#x}");
                let marks =
                    matches!(pattern, Interleave::Reuse | Interleave::ReuseDeepGemm2025 | Interleave::ReuseOneInFour);
                assert!(marks || !old & new & 1 << 123 == 0, "{name} {pattern} marks a register at {address:#x}");
                expected[at.clone()].copy_from_slice(&after[at]);
            }
            assert!(expected[..] == after[..], "{name} {pattern} changes bytes outside runs");

            let changed = tool.disassemble(after).unwrap();
            assert_eq!(changed.replace(".reuse", ""), text.replace(".reuse", ""), "{name} {pattern}");
            let other = code.iter().zip(listed(&changed)).filter(|(old, new)| **old != *new);
            assert!(other.map(|(old, _)| old.0).all(|address| runs.contains(&address)), "{name} {pattern}");
            assert_eq!(Listing::parse(&changed).unwrap().summary().faults(&config), [], "{name} {pattern}");
        }
        let compiled = FfmaRuns::of(&before, KERNEL).unwrap();
        let per_cent = 100 * compiled.yielding / compiled.ffma;
        match nvrtc.version() {
            (12, ..=8) => assert_eq!(per_cent, 0, "{name}: {compiled:?}"),
            (13, _) => assert!((40..=60).contains(&per_cent), "{name}: {compiled:?}"),
            _ => {}
        }
        let [deepgemm, reuse, both] =
            [Interleave::DeepGemm2025, Interleave::Reuse, Interleave::ReuseDeepGemm2025].map(|one| kernels(&one));
        let kept = FfmaRuns::of(&reuse, KERNEL).unwrap();
        assert_eq!(marked(&listed(&tool.disassemble(&reuse).unwrap()), &runs), kept_scales(&code, &runs), "{name}");
        assert!(kept.yielding == 0 && kept.reusing.abs_diff(by_12_8) <= 4, "{name}: {kept:?}, by 12.8 {by_12_8}");
        if nvrtc.version() == (12, 8) {
            // It keeps a scale also for an FFMA behind another instruction, which is in another run.
            for (one, other) in [(&reuse, &before), (&both, &deepgemm)] {
                let mut expected = other.to_vec();
                let last = runs.iter().filter(|address| !runs.contains(&(*address + 16)));
                last.for_each(|address| expected[start + address + 15] &= !(1 << (123 % 8)));
                assert!(expected[..] == one[..], "{name}: 12.8 writes something else");
            }
        }
        let staying = FfmaRuns::of(&patterns[1].1, KERNEL).unwrap();
        assert_eq!((staying.yielding, staying.reusing), (0, compiled.reusing), "{name}");
    }
}

/// Breaks if a changed kernel is not cached beside the compiled one, has the same name, is made again, or
/// cannot be had without NVRTC from a cache that has the compiled one; or if the compiled one changes.
#[test]
#[ignore = "needs NVRTC"]
fn changed_kernels_are_cached_apart() {
    let folder = tempfile::tempdir().unwrap();
    let compiler = Compiler::new(Cache::at(folder.path()), None);
    let (_, config) = configurations().pop().unwrap();
    let (name, source) = (config.kernel_name(), config.source());
    let unit = Unit { source: &source, kernel: KERNEL, configuration: &name, options: &BASE_OPTIONS };
    let compiled = compiler.cubin(&unit).unwrap();
    let changed = compiler.make_interleaved(&unit, Interleave::None).unwrap();
    let quarter = compiler.make_interleaved(&unit, Interleave::OneInFour).unwrap();
    assert!(changed.compiled.is_none() && quarter.compiled.is_none(), "compiled again");
    assert!(quarter.cubin != compiled && changed.cubin != quarter.cubin);
    assert_eq!(compiler.cubin(&unit).unwrap(), compiled);
    // Looked for, not kept.
    assert!(compiler.patterns(&unit).unwrap().contains(&Interleave::OneInFour));
    let listed = compiler.cache().list().unwrap();
    let mut names: Vec<_> = listed.into_iter().map(|one| one.metadata.unwrap().configuration).collect();
    names.sort();
    assert_eq!(names, [name.clone(), format!("{name}_yield-none"), format!("{name}_yield-one-in-four")]);

    let there = Compiler::new(Cache::at(folder.path()), Some(folder.path().join("no-nvrtc")));
    assert!(matches!(there.nvrtc(), Err(JitError::NvrtcNotFound { .. })));
    assert_eq!(there.make_interleaved(&unit, Interleave::OneInFour).unwrap().cubin, quarter.cubin);
    assert_eq!(Cubin::parse(&quarter.cubin).unwrap(), Cubin::parse(&compiled).unwrap());
}

/// Breaks if a kernel that takes no pattern is an error where patterns are looked for, or is said to take one.
#[test]
#[ignore = "needs NVRTC"]
fn kernels_without_runs_have_no_patterns() {
    let compiler = Compiler::new(Cache::in_memory(), None);
    let problem = "4096x7168x2048 a=e4m3:tensor b=e4m3:tensor d=bf16".parse().unwrap();
    let config = choose(&problem, 132).unwrap().config();
    let (name, source) = (config.kernel_name(), config.source());
    let unit = Unit { source: &source, kernel: KERNEL, configuration: &name, options: &BASE_OPTIONS };
    assert_eq!(compiler.patterns(&unit).unwrap(), []);
    let error = compiler.make_interleaved(&unit, Interleave::None).unwrap_err();
    assert!(error.refuses_interleave() && matches!(error, JitError::NoFfmaRun { .. }), "{error}");
}
