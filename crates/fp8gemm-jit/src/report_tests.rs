//! The reader of ptxas logs, on logs recorded from NVRTC 13.0.88, 12.9.86 and 13.5.37.

use std::time::Duration;

use super::{Defect, LocalMemory, Remark, Report};
use crate::JitError;

const CLEAN: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k' for 'sm_90a'
ptxas info    : Function properties for k
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 2048 bytes smem
ptxas info    : Compile time = 1.947 ms
";

/// 13.0.88: registers for 1024 threads, twice on a multiprocessor, with `--warn-on-spills`.
const SPILLS: &str = "\
ptxas warning : Registers are spilled to local memory in function 'spill', 17488 bytes spill stores, 31892 bytes spill loads
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'spill' for 'sm_90a'
ptxas info    : Function properties for spill
ptxas         .     15560 bytes stack frame, 17488 bytes spill stores, 31892 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 15560 bytes cumulative stack size
ptxas info    : Compile time = 9768.270 ms
";

/// 13.0.88: an accumulator of `wgmma` read before the wait. 12.9.86 writes the same.
const SERIALISED: &str = "\
ptxas info    : (C7517) warpgroup.wait is injected in around line 68 by compiler to allow use of registers defined by GMMA in function 'wg'
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the wgmma pipeline in the function 'wg'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'wg' for 'sm_90a'
ptxas info    : Function properties for wg
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 34 registers, used 0 barriers
ptxas info    : Compile time = 20.340 ms
";

/// 13.5.37: the same source.
const SERIALISED_13_5: &str = "\
ptxas info    : (C7517) wgmma.wait_group is injected in around line 68 by compiler to allow use of registers defined by GMMA in function 'wg'
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the wgmma pipeline in the function 'wg' in line 101
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'wg' for 'sm_90a'
ptxas info    : Function properties for wg
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 34 registers, used 0 barriers
ptxas info    : Compile time = 9.102 ms
";

/// 13.0.88: three kernels, one with a stack frame through a function that is not inlined.
const CALLS: &str = "\
ptxas info    : Compiling entry function '_Z2tmILi3EEvPi' for 'sm_90a'
ptxas info    : Function properties for _Z2tmILi3EEvPi
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
ptxas info    : Compile time = 2.538 ms
ptxas info    : Compiling entry function 'calls' for 'sm_90a'
ptxas info    : Function properties for calls
ptxas         .     160 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 160 bytes cumulative stack size
ptxas info    : Compile time = 21.774 ms
ptxas info    : Function properties for _ZN31_INTERNAL_00000000_4_k_cu_calls1fEPii
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
";

fn rejected(log: &str) -> (String, Vec<Defect>) {
    match Report::parse(log).unwrap().check() {
        Err(JitError::Rejected { kernel, defects }) => (kernel, defects),
        other => panic!("expected a rejection, got {other:?}"),
    }
}

/// Breaks if a figure of a clean kernel is read wrongly, or if a clean kernel is rejected.
#[test]
fn clean_kernel() {
    let report = Report::parse(CLEAN).unwrap();
    let [kernel] = &report.kernels[..] else { panic!("one kernel") };
    assert_eq!((kernel.name.as_str(), kernel.architecture.as_str()), ("k", "sm_90a"));
    assert_eq!((kernel.registers, kernel.barriers, kernel.shared_bytes), (10, 1, 2048));
    assert_eq!(kernel.memory, LocalMemory::default());
    assert_eq!(kernel.compile_time, Some(Duration::from_secs_f64(1.947e-3)));
    assert!(report.functions.is_empty() && report.remarks.is_empty() && report.warnings.is_empty());
    report.check().unwrap();
}

/// Breaks if a spill or a stack frame passes.
#[test]
fn spills_are_rejected() {
    let report = Report::parse(SPILLS).unwrap();
    let memory = LocalMemory { stack: 15560, spill_stores: 17488, spill_loads: 31892 };
    assert_eq!(report.kernels[0].memory, memory);
    assert_eq!(report.warnings.len(), 1);
    let defects = [Defect::Spills { stores: 17488, loads: 31892 }, Defect::Stack { bytes: 15560 }];
    assert_eq!(rejected(SPILLS), ("spill".to_owned(), defects.to_vec()));
    let only_loads = CLEAN.replace("0 bytes spill loads", "8 bytes spill loads");
    assert_eq!(rejected(&only_loads).1, [Defect::Spills { stores: 0, loads: 8 }]);
}

/// Breaks if serialised `wgmma` passes, in the words of either version.
#[test]
fn serialised_wgmma_is_rejected() {
    for log in [SERIALISED, SERIALISED_13_5] {
        let (kernel, defects) = rejected(log);
        assert_eq!(kernel, "wg");
        let codes: Vec<_> = defects
            .iter()
            .map(|defect| if let Defect::Serialised(Remark { code, .. }) = defect { *code } else { 0 })
            .collect();
        assert_eq!(codes, [7517, 7511]);
    }
}

/// Breaks if a remark outside C75xx rejects a kernel, or one that names no kernel is lost.
#[test]
fn remarks_by_code_and_kernel() {
    let other = SERIALISED.replace("C7517", "C7600").replace("C7511", "C7499");
    let report = Report::parse(&other).unwrap();
    assert_eq!(report.remarks.iter().map(|remark| remark.code).collect::<Vec<_>>(), [7600, 7499]);
    report.check().unwrap();
    let unnamed = format!("ptxas info    : (C7505) something is serialized\n{CLEAN}");
    assert_eq!(rejected(&unnamed).0, "k");
}

/// Breaks if figures go to the wrong kernel, or if a function outside the kernels is lost.
#[test]
fn several_kernels() {
    let report = Report::parse(CALLS).unwrap();
    let names: Vec<_> = report.kernels.iter().map(|kernel| (kernel.name.as_str(), kernel.registers)).collect();
    assert_eq!(names, [("_Z2tmILi3EEvPi", 8), ("calls", 32)]);
    assert_eq!(report.functions.len(), 1);
    assert_eq!(rejected(CALLS), ("calls".to_owned(), vec![Defect::Stack { bytes: 160 }]));
    let in_function = CALLS.replace("160 bytes stack", "0 bytes stack");
    let at = in_function.rfind("0 bytes stack frame").unwrap();
    let in_function = format!("{}4 bytes stack frame{}", &in_function[..at], &in_function[at + 19..]);
    assert_eq!(rejected(&in_function).0, "_ZN31_INTERNAL_00000000_4_k_cu_calls1fEPii");
}

/// Breaks if a log without figures passes for one without defects.
#[test]
fn silence_is_an_error() {
    let without =
        |text: &str| CLEAN.lines().filter(|line| !line.contains(text)).map(|line| format!("{line}\n")).collect();
    let cases: [(String, &str); 5] = [
        (String::new(), "any kernel"),
        ("ptxas info    : 0 bytes gmem\n".to_owned(), "any kernel"),
        (without("Used"), "registers"),
        (without("stack frame"), "stack"),
        (without("Function properties"), "stack frame"),
    ];
    for (log, word) in cases {
        match Report::parse(&log) {
            Err(JitError::Report { missing, .. }) => assert!(missing.contains(word), "{missing}"),
            other => panic!("{other:?} for {log:?}"),
        }
    }
}

/// Breaks if the message of a rejection does not name kernel, figure and remark.
#[test]
fn messages() {
    let error = Report::parse(SERIALISED).unwrap().check().unwrap_err().to_string();
    assert!(error.starts_with("kernel wg is rejected: C7517 warpgroup.wait"), "{error}");
    let error = Report::parse(SPILLS).unwrap().check().unwrap_err().to_string();
    assert!(error.contains("17488 bytes of stores") && error.contains("stack frame of 15560"), "{error}");
}
