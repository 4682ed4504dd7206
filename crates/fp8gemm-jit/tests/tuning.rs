//! Tuning tables: what is chosen with them, and that nothing in a file can do harm. No GPU needed.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use fp8gemm_jit::sass::Interleave;
use fp8gemm_jit::tuning::{Device, Machine, Selection, Source, Table, Timed, Tuned, Tuning, Untuned, all_candidates};
use fp8gemm_jit::{Cache, Compiler, JitError, KernelConfig, Schedule, choose, streams};
use fp8gemm_problem::Problem;
use proptest::prelude::*;
use support::Events;

fn device() -> Device {
    Device { name: "NVIDIA H200".into(), sms: 132, driver: 13_000, driver_version: None }
}

fn here() -> Machine {
    Machine::new(&device(), Some((13, 0)))
}

fn dense(m: usize, n: usize, k: usize) -> Problem {
    format!("{m}x{n}x{k} a=e4m3:1x128 b=e4m3:128x128 d=bf16").parse().unwrap()
}

fn timed(config: &KernelConfig, us: f64) -> Timed {
    Timed { configuration: config.to_string(), interleave: None, cold_us: us, warm_us: us / 2.0 }
}

/// A problem whose ranking is these configurations.
fn tuned(problem: Problem, configs: &[KernelConfig]) -> Tuned {
    let ranking: Vec<_> = configs.iter().zip(1..).map(|(config, us)| timed(config, f64::from(us))).collect();
    let model = timed(&choose(&problem, 132).unwrap().config(), 9.5);
    Tuned { problem, date: "2026-11-29T13:00:00Z".into(), tried: 40, model, ranking }
}

/// A candidate that the cost model would not take: its last.
fn unlikely(problem: &Problem) -> KernelConfig {
    *all_candidates(problem, 132).unwrap().last().unwrap()
}

fn some_tables() -> Tuning {
    let problems = [dense(1, 576, 7168), dense(64, 2112, 7168), dense(4096, 7168, 2048)];
    Tuning::of(here(), problems.iter().map(|problem| tuned(*problem, &[unlikely(problem)])).collect())
}

fn source_m(selection: &Selection) -> Option<usize> {
    match &selection.source {
        Source::Tuned(tuned) => Some(tuned.problem.m),
        Source::Model(_) => None,
    }
}

/// Breaks if a tuned problem does not get its configuration, or loses the model's candidates behind it,
/// which are needed where the tuned one cannot be (no workspace, a compiler that spoils it).
#[test]
fn the_table_chooses_what_it_has() {
    let problem = dense(64, 2112, 7168);
    let selection = some_tables().choose(&here(), &problem).unwrap();
    assert_eq!(selection.config(), unlikely(&problem));
    assert_eq!(source_m(&selection), Some(64));
    let configs: Vec<_> = selection.choice.candidates.iter().map(|estimate| estimate.config).collect();
    for candidate in choose(&problem, 132).unwrap().candidates {
        assert_eq!(configs.iter().filter(|config| **config == candidate.config).count(), 1, "{}", candidate.config);
    }
}

/// Breaks if alpha or beta, which decide no kernel, keep a problem from its table, or if anything that does
/// decide it (types, scales, policy, N, K, a C that is read) is overlooked.
#[test]
fn only_what_decides_the_kernel_is_compared() {
    let base = "64x2112x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16";
    let with_c = format!("{base} c=bf16 beta=1");
    let tables = |text: &str| {
        let problem: Problem = text.parse().unwrap();
        Tuning::of(here(), vec![tuned(problem, &[unlikely(&problem)])])
    };
    let hit =
        |tuned: &str, text: &str| source_m(&tables(tuned).choose(&here(), &text.parse().unwrap()).unwrap()).is_some();
    assert!(hit(base, &format!("{base} alpha=0.5")));
    // A C that is not read is no C.
    assert!(hit(base, &format!("{base} c=bf16")));
    assert!(hit(&with_c, &format!("{base} c=bf16 beta=0.25 alpha=3")));
    for other in [
        with_c.as_str(),
        "64x2112x7168 a=e5m2:1x128 b=e4m3:128x128 d=bf16",
        "64x2112x7168 a=e4m3:1x128 b=e5m2:128x128 d=bf16",
        "64x2112x7168 a=e4m3:1x128 b=e4m3:1x128 d=bf16",
        "64x2112x7168 a=e4m3:1x128 b=e4m3:128x128 d=f32",
        "64x2104x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "64x2112x7040 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "129x2112x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    ] {
        assert!(!hit(base, other), "{other}");
    }
}

/// Breaks if an M between tuned ones gets another's configuration than the documented one: the same M, the
/// least larger, the largest smaller, each in the bucket only.
#[test]
fn m_between_tuned_ones() {
    let problem = |m| dense(m, 7168, 2048);
    let table = |ms: &[usize]| {
        let entries = ms.iter().map(|m| tuned(problem(*m), &[unlikely(&problem(*m))])).collect();
        Tuning::of(here(), entries)
    };
    let tables = table(&[1, 20, 32, 128, 500, 4096]);
    for (m, from) in [
        (1, Some(1)),
        (2, None),
        (17, Some(20)),
        (20, Some(20)),
        (21, Some(32)),
        (32, Some(32)),
        (33, None),
        (65, Some(128)),
        (128, Some(128)),
        (129, None),
        (385, Some(500)),
        (512, Some(500)),
        (513, None),
        (3969, Some(4096)),
        (4097, None),
    ] {
        let selection = tables.choose(&here(), &problem(m)).unwrap();
        assert_eq!(source_m(&selection), from, "M = {m}");
    }
}

/// Breaks if stream-K goes to a problem of the bucket with nothing to cut, where its kernel must not be
/// launched.
#[test]
fn what_is_illegal_for_the_problem_is_passed_over() {
    let streamed = dense(4096, 4096, 7168);
    let all = all_candidates(&streamed, 132).unwrap();
    let stream_k = all.iter().find(|config| config.schedule == Schedule::StreamK).unwrap();
    assert!(streams(&streamed, stream_k, 132));
    let table = Tuning::of(here(), vec![tuned(streamed, &[*stream_k, unlikely(&streamed)])]);
    assert_eq!(table.choose(&here(), &streamed).unwrap().config(), *stream_k);
    for problem in [dense(3969, 4096, 7168), streamed] {
        for candidate in table.choose(&here(), &problem).unwrap().choice.candidates {
            let config = candidate.config;
            assert!(config.schedule != Schedule::StreamK || streams(&problem, &config, 132), "{problem} {config}");
        }
    }
}

/// Breaks if a table of another machine is used, is an error, or nobody is told.
#[test]
fn stale_tables_are_ignored_with_one_warning() {
    let problem = dense(64, 2112, 7168);
    let h100 = Device { name: "NVIDIA H100 80GB HBM3".into(), ..device() };
    let older = Machine { kernels: "0".repeat(64), ..here() };
    for (machine, word) in [
        (Machine::new(&h100, Some((13, 0))), "NVIDIA H100"),
        (Machine::new(&Device { driver: 12_080, ..device() }, Some((13, 0))), "12.8"),
        (older, "other kernels"),
    ] {
        let tables = Tuning::of(machine, vec![tuned(problem, &[unlikely(&problem)])]);
        let compiler = Compiler::new(Cache::in_memory(), None).with_tuning(Some(tables));
        let (events, selection) = Events::during(|| {
            compiler.choose(&problem, &device()).unwrap();
            compiler.choose(&problem, &device()).unwrap()
        });
        assert_eq!(selection.config(), choose(&problem, 132).unwrap().config());
        let Source::Model(Untuned::OtherMachine(difference)) = selection.source else { panic!("{selection:?}") };
        assert!(difference.contains(word), "{difference}");
        assert_eq!(events.warnings(), 1);
    }
}

/// Breaks if a table stays in use after an update of the driver, if one from before the driver's version was written
/// is lost, or if that is preferred to what was measured with the driver at hand.
#[test]
fn the_drivers_own_version_counts_where_it_is_known() {
    let problem = dense(64, 2112, 7168);
    let all = all_candidates(&problem, 132).unwrap();
    let [unknown, known, other] = [None, Some("580.159.04"), Some("590.1")].map(|version: Option<&str>| {
        let device = Device { driver_version: version.map(str::to_owned), ..device() };
        Machine::new(&device, Some((13, 0)))
    });
    let old = Tuning::of(unknown.clone(), vec![tuned(problem, &[all[1]])]);
    let mut both = old.clone();
    both.merge(&Tuning::of(known.clone(), vec![tuned(problem, &[all[2]])]), false);
    let taken = |tables: &Tuning, here: &Machine| match tables.choose(here, &problem).unwrap() {
        Selection { source: Source::Tuned(_), choice } => Some(choice.config()),
        _ => None,
    };
    assert_eq!([&unknown, &known, &other].map(|here| taken(&old, here)), [Some(all[1]); 3]);
    assert_eq!((taken(&both, &known), taken(&both, &other)), (Some(all[2]), Some(all[1])));
    let new = both.only(|machine| machine.driver_version.is_some());
    assert_eq!((taken(&new, &unknown), taken(&new, &known), taken(&new, &other)), (Some(all[2]), Some(all[2]), None));
    // Its text is that of before where nothing is known.
    assert!(!String::from_utf8(old.to_json()).unwrap().contains("driver_version"));
    assert_eq!(Tuning::parse(&both.to_json()).unwrap(), both);
}

/// Breaks if names that are no candidate (of an older version, or made up) lead to a kernel, or their
/// presence spoils those that are.
#[test]
fn unknown_names_are_passed_over() {
    let problem = dense(64, 2112, 7168);
    let mut entry = tuned(problem, &[unlikely(&problem)]);
    entry.ranking.insert(0, Timed { configuration: "e4m3_e4m3_1d2d_bf16_640x1280_s99".into(), ..entry.model.clone() });
    let choose_with = |entry: &Tuned| Tuning::of(here(), vec![entry.clone()]).choose(&here(), &problem).unwrap();
    assert_eq!(choose_with(&entry).config(), unlikely(&problem));
    entry.ranking.truncate(1);
    let selection = choose_with(&entry);
    assert_eq!(selection.source, Source::Model(Untuned::Unusable));
    assert_eq!(selection.choice, choose(&problem, 132).unwrap());
}

/// What is tuned, with this pattern.
fn with_pattern(timed: &Timed, pattern: &str) -> Timed {
    Timed { interleave: Some(pattern.to_owned()), ..timed.clone() }
}

/// Breaks if a plan does not learn the pattern of the configuration that it takes, takes one for a
/// configuration that was not timed with it, or a configuration that is named twice is a candidate twice.
#[test]
fn the_pattern_goes_with_its_configuration() {
    let problem = dense(4096, 7168, 2048);
    let (best, model) = (unlikely(&problem), choose(&problem, 132).unwrap().config());
    let mut entry = tuned(problem, &[best, model]);
    let compiled = entry.ranking[0].clone();
    let with = |entry: &Tuned| Tuning::of(here(), vec![entry.clone()]).choose(&here(), &problem).unwrap();
    assert_eq!(with(&entry).interleave(&best), Interleave::AsCompiled);
    entry.ranking.insert(0, with_pattern(&compiled, "one-in-four"));
    let selection = with(&entry);
    assert_eq!((selection.config(), selection.interleave(&best)), (best, Interleave::OneInFour));
    assert_eq!(selection.timed(&best), Some(&entry.ranking[0]));
    assert_eq!(selection.choice.candidates.iter().filter(|estimate| estimate.config == best).count(), 1);
    for estimate in selection.choice.candidates.iter().filter(|estimate| estimate.config != best) {
        // The table has the model's choice too, as compiled.
        let named = estimate.config == model;
        let expected = if named { Interleave::AsCompiled } else { Interleave::usual(&estimate.config) };
        assert_eq!(selection.interleave(&estimate.config), expected, "{}", estimate.config);
    }
    let untuned = Selection::model(&problem, 132, Untuned::Off).unwrap();
    assert_eq!((untuned.timed(&best), untuned.interleave(&best)), (None, Interleave::usual(&best)));
    assert_eq!(untuned.interleave(&model), Interleave::ReuseOneInFour);
}

/// Breaks if a pattern of a later version is an error, is taken for another, spoils the entries behind it, is
/// ignored without a word, or is lost when the file is written again.
#[test]
fn entries_with_an_unknown_pattern_are_ignored_with_a_warning() {
    let problem = dense(4096, 7168, 2048);
    let (best, other) = (unlikely(&problem), choose(&problem, 132).unwrap().config());
    let mut entry = tuned(problem, &[best, other]);
    entry.ranking[0] = with_pattern(&entry.ranking[0], "every-third");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuning.json");
    let tables = Tuning::of(here(), vec![entry.clone()]);
    tables.store(&path, true).unwrap();
    let (events, loaded) = Events::during(|| Tuning::load(&path));
    assert_eq!((events.warnings(), &loaded), (1, &tables));
    let selection = loaded.choose(&here(), &problem).unwrap();
    assert_eq!((selection.config(), selection.interleave(&other)), (other, Interleave::AsCompiled));
    assert_eq!((selection.timed(&best), selection.interleave(&best)), (None, Interleave::usual(&best)));
    // The same configuration as compiled, behind it.
    entry.ranking.insert(1, timed(&best, 2.0));
    let selection = Tuning::of(here(), vec![entry.clone()]).choose(&here(), &problem).unwrap();
    assert_eq!((selection.config(), selection.interleave(&best)), (best, Interleave::AsCompiled));
    entry.ranking.truncate(1);
    let selection = Tuning::of(here(), vec![entry]).choose(&here(), &problem).unwrap();
    assert_eq!(selection.source, Source::Model(Untuned::Unusable));

    some_tables().store(&path, false).unwrap();
    let kept = Tuning::read(&path).unwrap().unwrap();
    let patterns = kept.tables()[0].problems.iter().filter_map(|tuned| tuned.ranking[0].interleave.as_deref());
    assert_eq!((kept.len(), patterns.collect::<Vec<_>>()), (3, vec!["every-third"]));
    let (events, _) = Events::during(|| Tuning::load(&folder.path().join("absent.json")));
    assert_eq!(events.warnings(), 0);
}

/// Breaks if a table from before there were patterns is refused (its checksum is of text without them), or what
/// is as compiled is written otherwise than then.
#[test]
fn tables_without_patterns_are_as_they_were() {
    let old = include_str!("data/tuning-1.json");
    let tables = Tuning::parse(old.as_bytes()).unwrap();
    let timed: Vec<_> = tables.tables()[0].problems.iter().flat_map(|tuned| &tuned.ranking).collect();
    assert_eq!(timed.len(), 2);
    for timed in timed {
        assert_eq!((timed.interleave.as_deref(), timed.pattern().unwrap()), (None, Interleave::AsCompiled));
    }
    assert_eq!(String::from_utf8(tables.to_json()).unwrap(), old);
}

/// Breaks if the compiler does not find the table beside its cache, uses it where it is switched off, warns where there
/// is none, or says that there is none where a damaged one is ignored.
#[test]
fn the_compiler_finds_the_table_beside_its_cache() {
    let folder = tempfile::tempdir().unwrap();
    let problem = dense(64, 2112, 7168);
    let compiler = || Compiler::new(Cache::at(folder.path()), Some("/no/such/nvrtc".into()));
    let (events, selection) = Events::during(|| compiler().choose(&problem, &device()).unwrap());
    assert_eq!((selection.source, events.warnings()), (Source::Model(Untuned::NoTable), 0));
    some_tables().store(&Cache::at(folder.path()).tuning_path().unwrap(), true).unwrap();
    assert_eq!(compiler().choose(&problem, &device()).unwrap().config(), unlikely(&problem));
    let off = compiler().with_tuning(None).choose(&problem, &device()).unwrap();
    assert_eq!(off.source, Source::Model(Untuned::Off));
    let path = Cache::at(folder.path()).tuning_path().unwrap();
    fs::write(&path, "{").unwrap();
    let (events, selection) = Events::during(|| compiler().choose(&problem, &device()).unwrap());
    let Source::Model(Untuned::Ignored(why)) = selection.source else { panic!("{selection:?}") };
    assert!(why.contains(path.to_str().unwrap()) && why.contains("is ignored: not a tuning table"), "{why}");
    assert_eq!(events.warnings(), 1);
    // The table is no kernel.
    assert_eq!(Cache::at(folder.path()).list().unwrap(), []);
}

/// Breaks if kernels of another NVRTC than the one here do not bring their table along, their table comes before one
/// of the NVRTC here, or the reason is not about that one.
#[test]
fn of_several_versions_the_first_that_knows_most_counts() {
    let problem = dense(64, 2112, 7168);
    let all = all_candidates(&problem, 132).unwrap();
    let of = |version, index: usize| Tuning::of(here().with_nvrtc(Some(version)), vec![tuned(problem, &[all[index]])]);
    let mut tables = of((13, 0), 1);
    tables.merge(&of((12, 8), 2), false);
    let taken = |versions: &[Option<(u32, u32)>]| {
        let selection = tables.choose_among(&here(), versions, &problem).unwrap();
        match selection.source {
            Source::Tuned(_) => Ok(selection.config()),
            Source::Model(why) => Err(why),
        }
    };
    let [new, old, newest] = [(13, 0), (12, 8), (13, 5)].map(Some);
    assert_eq!([&[new, old][..], &[newest, new, old], &[None]].map(taken), [1; 3].map(|index| Ok(all[index])));
    assert_eq!([&[old, new][..], &[newest, old]].map(taken), [Ok(all[2]), Ok(all[2])]);
    let Err(Untuned::OtherMachine(why)) = taken(&[newest, Some((12, 9))]) else { panic!("it fits nobody") };
    assert!(why.contains("13.5") && !why.contains("12.9"), "{why}");
}

/// Breaks if joining loses or doubles a problem, prefers the wrong side, or mixes machines.
#[test]
fn merging_keeps_everything_once() {
    let (one, two) = (dense(1, 576, 7168), dense(8, 576, 7168));
    let entry = |problem: Problem, tried| Tuned { tried, ..tuned(problem, &[unlikely(&problem)]) };
    let other = Machine::new(&Device { sms: 114, ..device() }, None);
    let mut all = Tuning::of(here(), vec![entry(one, 1)]);
    all.merge(&Tuning::of(here(), vec![entry(one, 2), entry(two, 2)]), false);
    all.merge(&Tuning::of(other.clone(), vec![entry(one, 3)]), false);
    let tried = |table: &Table| table.problems.iter().map(|tuned| tuned.tried).collect::<Vec<_>>();
    assert_eq!(all.tables().iter().map(tried).collect::<Vec<_>>(), [vec![1, 2], vec![3]]);
    assert_eq!((all.tables()[1].machine.clone(), all.len()), (other, 3));
    all.merge(&Tuning::of(here(), vec![entry(one, 4)]), true);
    assert_eq!(tried(&all.tables()[0]), [4, 2]);
}

/// Breaks if processes that tune at the same time overwrite what others have stored.
#[test]
fn writers_do_not_lose_each_others_problems() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/tuning.json");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                for m in 0..8 {
                    let problem = dense(1 + writer * 8 + m, 576, 7168);
                    let tables = Tuning::of(here(), vec![tuned(problem, &[unlikely(&problem)])]);
                    tables.store(path, true).unwrap();
                }
            });
        }
    });
    assert_eq!(Tuning::read(&path).unwrap().unwrap().len(), 32);
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "the table and the locks: {names:?}");
}

/// Breaks if a damaged table stops tuning, is lost without a trace, or is taken for good.
#[test]
fn a_damaged_file_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuning.json");
    fs::write(&path, "{ \"schema\": 1, ").unwrap();
    let (events, loaded) = Events::during(|| Tuning::load(&path));
    assert_eq!((loaded, events.warnings()), (Tuning::default(), 1));
    some_tables().store(&path, true).unwrap();
    assert_eq!(Tuning::read(&path).unwrap().unwrap(), some_tables());
    assert_eq!(fs::read_to_string(folder.path().join("tuning.json.damaged")).unwrap(), "{ \"schema\": 1, ");
    // A folder that cannot be is an error, not a panic.
    assert!(matches!(some_tables().store(Path::new("/dev/null/tuning.json"), true), Err(JitError::File { .. })));
}

/// Breaks if nonsense that happens to be JSON passes, or the message does not say what is wrong.
#[test]
fn wrong_tables_are_named() {
    let good = String::from_utf8(some_tables().to_json()).unwrap();
    for (text, word) in [
        (String::new(), "EOF"),
        ("[]".into(), "invalid"),
        (good.replace("\"schema\": 1", "\"schema\": 2"), "schema 2"),
        (good.replace("2112", "2120"), "checksum"),
        (good.replace("\"sms\": 132", "\"sms\": 131"), "checksum"),
        (good.replace("\"tried\"", "\"tired\""), "tired"),
        (good.replace("d=bf16", "d=bf17"), "bf17"),
    ] {
        let error = Tuning::parse(text.as_bytes()).unwrap_err();
        assert!(matches!(error, JitError::Tuning { .. }) && error.to_string().contains(word), "{error}");
    }
    // With a checksum that holds.
    let problem = dense(64, 2112, 7168);
    let entry = tuned(problem, &[unlikely(&problem)]);
    let zero = Timed { cold_us: 0.0, ..entry.model.clone() };
    let bell = Timed { configuration: "\u{7}".into(), ..entry.model.clone() };
    let with_chain: Problem = "1x2x3 a=e4m3:row b=e4m3:row d=bf16 policy=chain".parse().unwrap();
    let illegal = Problem { policy: with_chain.policy, ..problem };
    for (entry, word) in [
        (Tuned { ranking: Vec::new(), ..entry.clone() }, "no configuration"),
        (Tuned { model: zero, ..entry.clone() }, "no time"),
        (Tuned { ranking: vec![bell], ..entry.clone() }, "control characters"),
        (Tuned { ranking: vec![with_pattern(&entry.model, "\u{1b}[2J")], ..entry.clone() }, "control characters"),
        (Tuned { problem: illegal, ..entry.clone() }, "chain"),
    ] {
        let error = Tuning::parse(&Tuning::of(here(), vec![entry]).to_json()).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    // Its machine is printed too, and also without problems.
    let clear = || "\u{1b}[2J".to_owned();
    for machine in [
        Machine { gpu: clear(), ..here() },
        Machine { driver: clear(), ..here() },
        Machine { driver_version: Some(clear()), ..here() },
        Machine { kernels: clear(), ..here() },
        Machine { nvrtc: "13.0\n".into(), ..here() },
        Machine { gpu: "H".repeat(201), ..here() },
    ] {
        for problems in [Vec::new(), vec![entry.clone()]] {
            let error = Tuning::parse(&Tuning::of(machine.clone(), problems).to_json()).unwrap_err().to_string();
            assert!(error.contains("its machine") && error.contains("more than 200 bytes"), "{error}");
        }
    }
    // What is quoted of the file is no escape either.
    let quoted = good.replace("\"tried\"", "\"\\u001b[2J\"");
    let error = Tuning::parse(quoted.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("[2J") && !error.contains(char::is_control), "{error:?}");
}

proptest! {
    /// Breaks if a cut or flipped table panics, or is read as a table that nobody wrote.
    #[test]
    fn damaged_bytes_are_never_another_table(cut in any::<prop::sample::Index>(), bit in any::<prop::sample::Index>()) {
        let tables = some_tables();
        let json = tables.to_json();
        let cut = cut.index(json.len());
        // Without the line feed at its end it is whole.
        prop_assert!(Tuning::parse(&json[..cut]).is_err() || cut == json.len() - 1);
        let mut flipped = json.clone();
        let bit = bit.index(json.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(read) = Tuning::parse(&flipped) {
            prop_assert_eq!(read, tables);
        }
    }

    /// Breaks if arbitrary bytes, or a table with several wrong bytes, do more than be refused.
    #[test]
    fn arbitrary_bytes_are_refused(noise in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..20), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Tuning::parse(&bytes).is_err());
        let tables = some_tables();
        let mut json = tables.to_json();
        for (place, byte) in noise {
            let place = place.index(json.len());
            json[place] = byte;
        }
        if let Ok(read) = Tuning::parse(&json) {
            prop_assert_eq!(read, tables);
        }
    }

    /// Breaks if what is written is not what is read, for any times and texts.
    #[test]
    fn tables_survive_a_file(
        us in prop::collection::vec(1e-9f64..1e9, 1..9),
        m in 1usize..10_000,
        gpu in "[ -~]{0,40}",
        interleave in prop::option::of("[ -~]{0,20}"),
    ) {
        let problem = dense(m, 576, 7168);
        let ranking = us.iter().map(|us| Timed { configuration: format!("c{us}"), interleave: interleave.clone(), cold_us: *us, warm_us: us / 3.0 });
        let ranking: Vec<_> = ranking.collect();
        let entry = Tuned { model: ranking[0].clone(), ranking, ..tuned(problem, &[unlikely(&problem)]) };
        let tables = Tuning::of(Machine { gpu, ..here() }, vec![entry]);
        prop_assert_eq!(Tuning::parse(&tables.to_json()).unwrap(), tables);
    }
}
