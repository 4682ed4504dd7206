//! The patterns on made-up code, whose `FFMA` are as ptxas writes them.

use proptest::prelude::*;

use super::super::word::WRITTEN;
use super::*;

const SCALE: &[u8] = include_bytes!("../../tests/data/scale.sm_90a.13.0.88.cubin");
const NOP: Word = Word(0x0000_0000_0000_7918);

/// `FFMA R<d>, R<a>, R<b>, R<d>`, stall 1.
fn ffma(d: u8, a: u8, b: u8, reuse: bool, yields: bool) -> Word {
    let [d, a, b] = [d, a, b].map(u128::from);
    let low = 0x7223 | d << 16 | a << 24 | b << 32;
    let control = 0x7e1 | u128::from(!yields) << 4 | u128::from(reuse) << 18;
    Word(low | d << 64 | control << 105)
}

/// As ptxas 12.8: every one but the last keeps its scale. `scale` changes in the middle.
fn kept(count: u8) -> Vec<Word> {
    (0..count).map(|i| ffma(100 + i, i, if i < count / 2 { 200 } else { 202 }, i + 1 != count, false)).collect()
}

/// As ptxas 13: every other one keeps it, the others yield.
fn alternating(count: u8) -> Vec<Word> {
    (0..count).map(|i| ffma(100 + i, i, 200, i % 2 == 1, i % 2 == 0)).collect()
}

fn rewritten(pattern: Interleave, code: &[Word]) -> Vec<Word> {
    let mut code = code.to_vec();
    runs(&code, "k").unwrap().into_iter().for_each(|run| pattern.rewrite(&mut code[run]));
    code
}

/// `y`: yields; `r`: reuse; `.`: neither.
fn shown(code: &[Word]) -> String {
    code.iter()
        .map(|word| {
            if word.yields() {
                'y'
            } else if word.reuses() {
                'r'
            } else {
                '.'
            }
        })
        .collect()
}

/// Breaks if the bits are elsewhere than in the words that nvdisasm showed for these very
/// instructions, of NVRTC 12.8.93 and 13.0.88.
#[test]
fn recorded_words() {
    // FFMA R113, R64, R203.reuse, R113
    assert_eq!(ffma(113, 64, 203, true, false), Word(0x080f_e200_0000_0071_0000_00cb_4071_7223));
    // FFMA R113, R64, R203, R113
    assert_eq!(ffma(113, 64, 203, false, true), Word(0x000f_c200_0000_0071_0000_00cb_4071_7223));
}

/// Breaks if a pattern sets other flags than its definition, written out by hand, says.
#[test]
fn patterns() {
    let (old, new) = (kept(16), alternating(16));
    assert_eq!(shown(&old), "rrrrrrrrrrrrrrr.");
    assert_eq!(shown(&new), "yryryryryryryryr");
    for (pattern, from_old, from_new) in [
        (Interleave::AsCompiled, "rrrrrrrrrrrrrrr.", "yryryryryryryryr"),
        (Interleave::None, "rrrrrrrrrrrrrrr.", ".r.r.r.r.r.r.r.r"),
        // Nine of 16. The scale changes at the ninth, which is the first with its own.
        (Interleave::DeepGemm2025, "yryryryryrrrrrr.", "yryryryryryryryr"),
        (Interleave::OneInFour, "rrryrrryrrryrrry", ".r.y.r.y.r.y.r.y"),
        // Not the eighth of the old code, whose next one has another scale: its mark is of no use.
        (Interleave::Reuse, "rrrrrrr.rrrrrrr.", "rrrrrrrrrrrrrrr."),
        (Interleave::ReuseDeepGemm2025, "yryryry.yrrrrrr.", "yryryryryrrrrrr."),
        (Interleave::ReuseOneInFour, "yrrryrr.rrrrrrr.", "yrrryrrrrrrrrrr."),
    ] {
        assert_eq!(shown(&rewritten(pattern, &old)), from_old, "{pattern}");
        assert_eq!(shown(&rewritten(pattern, &new)), from_new, "{pattern}");
    }
}

/// Breaks if DeepGEMM's rule looks at the wrong neighbour: a scale that comes again after another one is
/// not new, and one kept by the instruction before counts only if it is the same.
#[test]
fn deepgemm_remembers_scales() {
    let code: Vec<_> = [200, 202, 200, 200, 202, 202, 204, 200, 200, 200, 200, 200, 200, 200, 200, 200]
        .iter()
        .zip(0..)
        .map(|(b, i)| ffma(100 + i, i, *b, true, false))
        .collect();
    assert_eq!(shown(&rewritten(Interleave::DeepGemm2025, &code)), "yyryryyryrrrrrrr");
}

/// Breaks if a scale is kept for an instruction that reads another one, or none there; if one is that the
/// instruction itself overwrites, so that the next would get the old value; or if RZ, a yield that cannot be
/// taken away, or the last of a run is marked.
#[test]
fn scales_are_kept_for_the_next_reader_only() {
    let scales = [200, 200, 202, 200, 200, 200, 200, 255, 255, 204, 204, 204];
    for reuse in [false, true] {
        let mut code: Vec<_> = (0..).zip(scales).map(|(i, b)| ffma(100 + i, i, b, reuse, !reuse)).collect();
        // d = b, and next to it; then a stall of 12, which goes with a yield only.
        code[4] = ffma(200, 4, 200, reuse, !reuse);
        code[9] = Word(ffma(109, 9, 204, false, true).0 & !(0xf << 105) | 12 << 105);
        // The scale again, but not next to the run's last, or not in a run.
        code.extend([NOP, ffma(120, 20, 204, false, false)]);
        let changed = rewritten(Interleave::Reuse, &code);
        assert_eq!(shown(&changed[..12]), "r..r.r...yr.");
        assert_eq!(changed[12..], code[12..]);
    }
}

/// Breaks if what DeepGEMM's rule makes of the code of ptxas 12.8 is not had from that of ptxas 13, or if the
/// first step is not what 12.8 writes.
#[test]
fn either_compilers_code_becomes_the_same() {
    // A scale of its own for each half, as a warpgroup has for its two rows; the mark ends with the scale.
    let mut old = kept(32);
    old[15] = ffma(115, 15, 200, false, false);
    let new: Vec<_> =
        old.iter().enumerate().map(|(i, word)| if i % 2 == 0 { word.yielding() } else { *word }).collect();
    assert_eq!(rewritten(Interleave::Reuse, &old), old);
    assert_eq!(rewritten(Interleave::Reuse, &new), old);
    let expected = rewritten(Interleave::DeepGemm2025, &old);
    assert_ne!(expected, new);
    for code in [&old, &new] {
        assert_eq!(rewritten(Interleave::ReuseDeepGemm2025, code), expected);
    }
}

/// Breaks if short runs are changed, or if a run goes on beyond another instruction.
#[test]
fn runs_are_consecutive_and_long() {
    let code = [kept(7), vec![NOP], kept(8), vec![NOP, NOP], kept(9)].concat();
    assert_eq!(runs(&code, "k").unwrap(), [8..16, 18..27]);
    let changed = rewritten(Interleave::OneInFour, &code);
    assert_eq!(changed[..8], code[..8]);
    assert_eq!(shown(&changed[8..16]), "rrryrrry");
    assert_eq!(shown(&changed[18..]), "rrryrrry.");
}

/// Breaks if an instruction that no promotion has is taken for one, where a flag might mean something
/// else. Outside runs anything may be.
#[test]
fn unknown_instructions_are_refused() {
    let word = kept(8)[3].0;
    for (bits, rule) in [
        (word ^ 0xe00, "registers"),
        (word ^ 0x1000, "predicate"),
        (word ^ 1 << 63, "modifier"),
        (word ^ 1 << 80, "modifier"),
        (word ^ 1 << 91, "modifier"),
        (word | 1 << 122, "source but B"),
        (word | 1 << 125, "source but B"),
        (word | 1 << 127, "source but B"),
        (word ^ 1 << 109, "yields"),
        (word | 0xf << 105, "1 to 11"),
        (word & !(0xf << 105), "1 to 11"),
    ] {
        let mut code = kept(8);
        code[3] = Word(bits);
        match runs(&code, "k") {
            Err(JitError::UnknownFfma { kernel, address: 0x30, word, rule: broken }) => {
                assert_eq!((kernel.as_str(), word), ("k", bits));
                assert!(broken.contains(rule), "{broken}");
            }
            other => panic!("{bits:#x}: {other:?}"),
        }
        code.remove(0);
        assert_eq!(runs(&code, "k").unwrap(), []);
    }
}

/// Breaks if an `FFMA` that adds to another register than it writes is refused: where several blocks are in flight ptxas
/// writes some, e.g. the first here in 64x16_s5_f4. What is kept is source B, of which neither is part.
#[test]
fn sums_may_move_to_another_register() {
    let to = |d: u8, c: u8, word: Word| {
        Word(word.0 & !(0xff << 16 | 0xff << 64) | u128::from(d) << 16 | u128::from(c) << 64)
    };
    let mut code = kept(8);
    // FFMA R4, R87, R4, R22 writes its own scale: not kept for the next.
    code[2] = to(4, 22, ffma(4, 87, 4, false, false));
    code[3] = to(22, 4, ffma(22, 63, 4, false, false));
    code[5] = to(50, 51, code[5]);
    assert_eq!(runs(&code, "k").unwrap(), std::slice::from_ref(&(0..8)));
    assert_eq!(shown(&rewritten(Interleave::Reuse, &code)), "r...rrr.");
}

/// A recorded CUBIN with other code.
fn cubin_with(code: &[Word]) -> Vec<u8> {
    let mut bytes = SCALE.to_vec();
    let at = code_range(SCALE, "scale").unwrap();
    for (to, word) in bytes[at].chunks_exact_mut(WORD).zip(code) {
        to.copy_from_slice(&word.0.to_le_bytes());
    }
    bytes
}

/// Breaks if anything but the runs changes in the file, if a second pass changes more, or if counts are
/// not of what is there.
#[test]
fn a_cubin_changes_in_its_runs_only() {
    let code = [kept(3), vec![NOP], kept(10)].concat();
    let before = cubin_with(&code);
    let at = code_range(&before, "scale").unwrap();
    let counted = FfmaRuns::of(&before, "scale").unwrap();
    assert_eq!(counted, FfmaRuns { runs: 1, ffma: 10, yielding: 0, reusing: 9, outside: 3 });
    for pattern in Interleave::ALL {
        let after = pattern.apply(&before, "scale").unwrap();
        assert_eq!(after == before, matches!(pattern, Interleave::AsCompiled | Interleave::None), "{pattern}");
        let differs = |range: Range<usize>| after[range.clone()] != before[range];
        assert!(!differs(0..at.start + 4 * WORD) && !differs(at.start + 14 * WORD..before.len()), "{pattern}");
        assert_eq!(pattern.apply(&after, "scale").unwrap(), after, "{pattern}");
    }
    let quarter = Interleave::OneInFour.apply(&before, "scale").unwrap();
    let expected = FfmaRuns { runs: 1, ffma: 10, yielding: 2, reusing: 7, outside: 3 };
    assert_eq!(FfmaRuns::of(&quarter, "scale").unwrap(), expected);
}

/// Breaks if a kernel without a promotion, a missing kernel or another GPU's is changed or named wrongly;
/// or if such a kernel cannot be had as compiled.
#[test]
fn refusals_are_typed() {
    let sm_90 = include_bytes!("../../tests/data/scale.sm_90.13.0.88.cubin").as_slice();
    let sm_100a = include_bytes!("../../tests/data/scale.sm_100a.13.0.88.cubin").as_slice();
    let short = cubin_with(&kept(7));
    for pattern in Interleave::ALL.into_iter().skip(1) {
        let refused = |bytes: &[u8], kernel| pattern.apply(bytes, kernel).unwrap_err();
        assert!(matches!(refused(SCALE, "scale"), JitError::NoFfmaRun { longest: 0, .. }));
        assert!(matches!(refused(&short, "scale"), JitError::NoFfmaRun { longest: 7, least: 8, .. }));
        assert!(matches!(refused(SCALE, "other"), JitError::NotACubin { .. }));
        assert!(matches!(refused(&SCALE[..SCALE.len() / 2], "scale"), JitError::NotACubin { .. }));
        assert!(matches!(refused(sm_90, "scale"), JitError::WrongArchitecture { .. }));
        assert!(matches!(refused(sm_100a, "scale"), JitError::WrongArchitecture { .. }));
    }
    assert_eq!(Interleave::AsCompiled.apply(SCALE, "scale").unwrap(), SCALE);
    assert_eq!(FfmaRuns::of(&short, "scale").unwrap(), FfmaRuns { outside: 7, ..FfmaRuns::default() });
}

/// Breaks if a name of a pattern does not come back, or another text passes for one.
#[test]
fn names() {
    for pattern in Interleave::ALL {
        assert_eq!(pattern.to_string().parse::<Interleave>().unwrap(), pattern);
    }
    let error = "None".parse::<Interleave>().unwrap_err().to_string();
    assert!(error.contains("\"None\"") && Interleave::ALL.iter().all(|one| error.contains(one.name())), "{error}");
    let suffixes = Interleave::ALL.map(Interleave::suffix);
    let known = ["none", "deepgemm-2025", "one-in-four", "reuse", "reuse-deepgemm-2025", "reuse-one-in-four"];
    assert_eq!(suffixes[0], "");
    assert_eq!(suffixes[1..], known.map(|name| format!("_yield-{name}")));
}

proptest! {
    /// Breaks if on any code a pattern writes another bit than yield and reuse of B, marks a register for
    /// reuse that was not (those that may: one that the next does not read or this one writes), leaves a flag that a yield makes void, touches anything outside runs, or is
    /// not idempotent.
    #[test]
    fn only_flags_change(
        code in prop::collection::vec(
            (any::<bool>(), 0u8..4, any::<bool>(), any::<bool>(), 0u128..16), 0..80
        )
    ) {
        let code: Vec<_> = code.iter().enumerate().map(|(i, (long, b, reuse, yields, stall))| {
            let word = ffma(i as u8, i as u8 + 80, *b, *reuse && !yields, *yields);
            // Any stall where it yields, else 1.
            let stall = if *yields { *stall } else { 1 };
            if *long || i % 13 > 0 { Word(word.0 & !(0xf << 105) | stall << 105) } else { NOP }
        }).collect();
        let all = runs(&code, "k").unwrap();
        for pattern in Interleave::ALL {
            let after = rewritten(pattern, &code);
            for (index, (old, new)) in code.iter().zip(&after).enumerate() {
                let in_run = all.iter().any(|run| run.contains(&index));
                prop_assert_eq!((old.0 ^ new.0) & !WRITTEN, 0);
                prop_assert!(in_run || old == new);
                let next = all.iter().find(|run| run.contains(&index) && index + 1 < run.end).map(|_| code[index + 1]);
                let read = next.is_some_and(|next| next.source_b() == old.source_b());
                let kept = read && u128::from(old.source_b()) != old.0 >> 16 & 0xff;
                match pattern {
                    Interleave::Reuse | Interleave::ReuseDeepGemm2025 | Interleave::ReuseOneInFour if in_run => {
                        prop_assert!(kept || !new.reuses());
                    }
                    _ => prop_assert!(old.reuses() || !new.reuses()),
                }
                prop_assert!(!in_run || new.unknown().is_none());
            }
            prop_assert_eq!(rewritten(pattern, &after), after);
        }
    }

    /// Breaks if a damaged file makes the pass panic or write beyond the code.
    #[test]
    fn damage_never_panics(at in 0usize..SCALE.len(), value: u8, cut in 0usize..SCALE.len()) {
        let mut bytes = cubin_with(&kept(12));
        bytes[at] = value;
        for bytes in [&bytes[..], &bytes[..cut]] {
            let _ = FfmaRuns::of(bytes, "scale");
            for pattern in Interleave::ALL {
                prop_assert!(pattern.apply(bytes, "scale").map_or(true, |after| after.len() == bytes.len()));
            }
        }
    }
}
