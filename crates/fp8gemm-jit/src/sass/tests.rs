//! Listings in the form of `nvdisasm -c` 13.5.37, shortened from a kernel of this project.

use super::*;
use crate::config::tests::LARGE;
use crate::config::{Accumulation, KernelConfig, Schedule, Share, Store};

/// A tile loop around a main loop, whose barrier wait has its slow path behind the end.
const KERNEL: &str = "\
\t.section\t.text.fp8gemm,\"ax\",@progbits
fp8gemm:
.text.fp8gemm:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_24:
        /*0010*/                   MEMBAR.ALL.CTA ;
.L_x_18:
        /*0020*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR8+0x30e00], R24 ;
        /*0030*/              @!P0 BRA `(.L_x_9) ;
.L_x_8:
        /*0040*/                   QGMMA.64x128x32.F32.E4M3.E4M3 R24, gdesc[UR16], RZ, !UPT ;
        /*0050*/                   QGMMA.64x128x32.F32.E4M3.E4M3 R24, gdesc[UR16], R24, gsb0 ;
        /*0060*/                   FFMA R88, R24, R0.reuse, R89 ;
        /*0070*/                   FFMA R90, R26, R0, R92 ;
        /*0080*/                   FFMA R94, R28, R2, R96 ;
        /*0090*/               @P1 BRA `(.L_x_18) ;
        /*00a0*/                   UTMASTG.2D [UR4], [UR6] ;
        /*00b0*/              @!P2 BRA `(.L_x_24) ;
        /*00c0*/                   EXIT ;
.L_x_9:
        /*00d0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR8+0x30e00], R24 ;
        /*00e0*/              @!P0 BRA `(.L_x_9) ;
        /*00f0*/                   BRA `(.L_x_8) ;
.L_x_99:
        /*0100*/                   BRA `(.L_x_99) ;
        /*0110*/                   NOP ;
";

/// Breaks if the slow path of a wait is taken for a loop, the outer loop for a main loop, a barrier
/// outside for one inside, or a register that is still in the collector for a read.
#[test]
fn a_kernel_is_counted() {
    let summary = Listing::parse(KERNEL).unwrap().summary();
    // From the wait to the branch, and the slow path, which is passed once more in the loop.
    let main = MainLoop { instructions: 11, qgmma: 2, ffma: 3, ffma_conflicts: 1, membar_all: 0, early_stores: 0 };
    let order = Order { early_releases: [(0, 0)].into(), ..Order::default() };
    let expected = Summary {
        instructions: 18,
        qgmma: 2,
        utmaldg: 0,
        utmastg: 1,
        local: 0,
        ffma: 3,
        ffma_conflicts: 1,
        order,
        main_loops: vec![main],
    };
    assert_eq!(summary, expected);
}

/// Breaks if `cuobjdump -sass`, which names places by address and prints encodings, reads otherwise.
#[test]
fn both_tools_read_the_same() {
    let mut text = KERNEL.to_owned();
    let places = [("_24)", "0x10"), ("_18)", "0x20"), ("_8)", "0x40"), ("_99)", "0x100"), ("_9)", "0xd0")];
    for (label, address) in places {
        text = text.replace(&format!("`(.L_x{label}"), address);
    }
    let lines = text.lines().filter(|line| !line.ends_with(':'));
    let lines = lines.map(|line| format!("{line}    /* 0x00000a00ff017b82 */\n        /* 0x000fe20000000800 */\n"));
    let by_address = Listing::parse(&lines.collect::<String>()).unwrap();
    let by_label = Listing::parse(KERNEL).unwrap();
    let targets = |listing: &Listing| {
        listing.instructions().iter().map(|one| (one.address, one.target, one.labelled)).collect::<Vec<_>>()
    };
    assert_eq!(targets(&by_address), targets(&by_label));
    assert_eq!(by_address.summary(), by_label.summary());
}

/// Breaks if an operand is misread, or a reuse flag relieves what it does not: another place,
/// another instruction, or code that may be jumped to.
#[test]
fn bank_conflicts() {
    let conflicts = |lines: &[&str]| {
        let text: String = lines.iter().enumerate().map(|(i, line)| format!("/*{:04x}*/ {line} ;\n", 16 * i)).collect();
        let listing = Listing::parse(&text).unwrap();
        let [.., before, last] = listing.instructions() else { panic!("two lines") };
        last.conflicts(Some(before))
    };
    assert!(conflicts(&["NOP", "FFMA R1, R3, R5, R7"]));
    assert!(conflicts(&["NOP", "@P0 FFMA R1, -R4, |R8|.reuse, R10.reuse"]));
    for two in ["R2, R5, R7", "R3, R5, R5", "R3, UR5, R7", "R3, c[0x0][0x28], R7", "R3, 1, R7", "R3, RZ, R7"] {
        assert!(!conflicts(&["NOP", &format!("FFMA R1, {two}")]), "{two}");
    }
    assert!(!conflicts(&["FFMA R9, R2, R5.reuse, R7", "FFMA R1, R3, R5, R7"]));
    assert!(conflicts(&["FFMA R9, R5.reuse, R2, R7", "FFMA R1, R3, R5, R7"]));
    assert!(conflicts(&["FMUL R9, R2, R5.reuse", "FFMA R1, R3, R5, R7"]));
    assert!(conflicts(&["BRA 0x20", "FFMA R9, R2, R5.reuse, R7", "FFMA R1, R3, R5, R7"]));
}

/// Breaks if a listing that is empty, cut, or of two kernels is judged as if it were one.
#[test]
fn wrong_listings_are_errors() {
    let twice = format!("{KERNEL}{KERNEL}");
    let cut = KERNEL.split("        /*00d0*/").next().unwrap();
    for (text, word) in [("", "no instruction"), (twice.as_str(), "twice"), (cut, "(.L_x_9)")] {
        let error = Listing::parse(text).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

/// Breaks if one of the faults passes, or a kernel that is as it should be fails.
#[test]
fn faults_are_named() {
    // 256x128, three stages: two waves, four instructions each.
    let main = MainLoop { instructions: 900, qgmma: 24, ffma: 384, ffma_conflicts: 0, membar_all: 0, early_stores: 0 };
    let order = Order {
        async_fences: 2,
        grid_waits: 1,
        grid_releases: 1,
        store_groups: 1,
        store_waits: 1,
        tensor_waits: 6,
        meetings: 1,
        ..Order::default()
    };
    let main_loops = vec![main.clone()];
    let good = Summary {
        instructions: 2000,
        qgmma: 24,
        utmaldg: 3,
        utmastg: 1,
        local: 0,
        ffma: 400,
        ffma_conflicts: 0,
        order,
        main_loops,
    };
    assert_eq!(good.faults(&LARGE), []);
    let with = |change: &dyn Fn(&mut Summary)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad.faults(&LARGE).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(with(&|bad| bad.qgmma += 24), "48 QGMMA, expected 24");
    assert_eq!(with(&|bad| bad.main_loops.clear()), "0 main loops, expected 1");
    assert_eq!(with(&|bad| bad.utmaldg = 8), "8 UTMALDG, expected 3");
    assert_eq!(with(&|bad| bad.utmastg = 8), "8 UTMASTG, expected 1 to 2");
    assert_eq!(with(&|bad| bad.order.async_fences = 1), "1 FENCE.VIEW.ASYNC, expected 2");
    assert_eq!(with(&|bad| bad.order.grid_waits = 0), "0 ACQBULK, expected 1 or more");
    assert_eq!(with(&|bad| bad.order.grid_releases = 0), "0 PREEXIT, expected 1 or more");
    assert_eq!(with(&|bad| bad.order.store_groups = 0), "0 UTMACMDFLUSH, expected 1 or more");
    assert_eq!(with(&|bad| bad.order.store_waits = 0), "0 DEPBAR, expected 1 or more");
    assert_eq!(with(&|bad| bad.order.tensor_waits = 5), "5 WARPGROUP.DEPBAR, expected 6");
    assert_eq!(with(&|bad| bad.order.meetings = 0), "0 BAR.SYNC, expected 1 or more");
    assert_eq!(with(&|bad| bad.local = 2), "2 LDL or STL, expected 0");
    assert_eq!(with(&|bad| bad.main_loops[0].qgmma = 8), "8 QGMMA in a main loop, expected 24");
    assert_eq!(with(&|bad| bad.main_loops[0].membar_all = 3), "3 MEMBAR.ALL in a main loop, expected 0");
    let conflicts = "5 FFMA with three sources in one register bank, expected 0";
    assert_eq!(with(&|bad| bad.ffma_conflicts = 5), conflicts);
    let conflicts = "5 FFMA in a main loop with three sources in one register bank, expected 0";
    assert_eq!(with(&|bad| bad.main_loops[0].ffma_conflicts = 5), conflicts);
}

/// Breaks if a conflict is overlooked because ptxas has put the promotion elsewhere than into a main loop, as it does
/// with blocks in flight; or if kernels that promote what comes in fours are held to what they cannot do.
#[test]
fn conflicts_count_wherever_they_are() {
    let text = KERNEL.replace("FFMA R88, R24, R0.reuse, R89", "NOP").replace("FFMA R94, R28, R2, R96", "NOP");
    let text = text.replace("LDC R1, c[0x0][0x28]", "FFMA R88, R24, R0, R88");
    let summary = Listing::parse(&text).unwrap().summary();
    assert_eq!((summary.main_loops[0].ffma_conflicts, summary.ffma, summary.ffma_conflicts), (1, 2, 2));
    let swapped = KernelConfig { schedule: Schedule::Swapped, store: Store::Direct, block_m: 8, ..LARGE };
    let most = |block_n, in_flight| expected(&KernelConfig { block_n, in_flight, ..swapped }).ffma_conflicts;
    assert_eq!((most(64, 4), most(32, 2), most(16, 1), most(8, 2)), (0, 4, 2, 8));
}

/// Breaks if one of the instructions that order something is counted as another, or a cluster and stream-K,
/// which need more of them, are held against what others need.
#[test]
fn what_orders_is_counted() {
    let lines = [
        "SYNCS.EXCH.64 URZ, [UR4], UR6",
        "FENCE.VIEW.ASYNC.S",
        "UCGABAR_ARV",
        "UCGABAR_WAIT",
        "ACQBULK",
        "LDG.E.STRONG.GPU R2, desc[UR8][R4.64]",
        "LDG.E.CONSTANT R2, desc[UR8][R4.64]",
        "WARPGROUP.DEPBAR.LE gsb0, 0x0",
        "MEMBAR.ALL.GPU",
        "MEMBAR.ALL.CTA",
        "STG.E.STRONG.GPU desc[UR8][R4.64], R2",
        "UTMASTG.2D [UR4], [UR6]",
        "UTMACMDFLUSH",
        "DEPBAR.LE SB0, 0x0",
        "BAR.SYNC.DEFER_BLOCKING 0x0",
        "BAR.SYNC.DEFER_BLOCKING 0x1, 0x80",
        "BAR.ARV 0x2, 0x100",
        "PREEXIT",
        "EXIT",
    ];
    let text: String = lines.iter().enumerate().map(|(i, line)| format!("/*{:04x}*/ {line} ;\n", 16 * i)).collect();
    let order = Listing::parse(&text).unwrap().summary().order;
    let expected = Order {
        async_fences: 1,
        grid_waits: 1,
        grid_releases: 1,
        store_groups: 1,
        store_waits: 1,
        cluster_waits: 1,
        tensor_waits: 1,
        gpu_fences: 1,
        flag_loads: 1,
        meetings: 1,
        early_releases: [(0, 0)].into(),
    };
    assert_eq!(order, expected);
    let least = |config: &KernelConfig, name: &str| {
        order.held_against(config).iter().find(|(what, ..)| *what == name).map(|(_, _, (least, _))| *least)
    };
    let stream = KernelConfig { schedule: Schedule::StreamK, ..LARGE };
    let both = KernelConfig { share: Share::A, ..stream };
    for (name, counts) in
        [("UCGABAR_WAIT", [0, 0, 2]), ("MEMBAR.ALL.GPU", [0, 2, 4]), ("LDG.STRONG.GPU", [0, 1, 1]), ("DEPBAR", [1; 3])]
    {
        assert_eq!([&LARGE, &stream, &both].map(|config| least(config, name)), counts.map(Some), "{name}");
    }
    let lines = KernelConfig { schedule: Schedule::Swapped, store: Store::Direct, block_m: 8, block_n: 64, ..LARGE };
    let split = KernelConfig { accumulation: Accumulation::Split { parts: 2 }, ..lines };
    let diagonal = KernelConfig { block_n: 32, ..split };
    for (name, counts) in
        [("UCGABAR_WAIT", [0, 3, 4]), ("ACQBULK", [3; 3]), ("DEPBAR", [1; 3]), ("BAR.SYNC", [4, 4, 5])]
    {
        assert_eq!([&lines, &split, &diagonal].map(|config| least(config, name)), counts.map(Some), "{name}");
    }
}

/// Breaks if a stage that is given back while the tensor cores read it passes, or one that is given back after
/// them does not: in a loop, where the last `wgmma` is not waited for, and where the next stage's may be under way.
#[test]
fn stages_are_given_back_after_the_tensor_cores() {
    let order = |lines: &[&str]| {
        let text: String = lines.iter().enumerate().map(|(i, line)| format!("/*{:04x}*/ {line} ;\n", 16 * i)).collect();
        Listing::parse(&text).unwrap().summary().order
    };
    let early = |lines: &[&str]| order(lines).early_releases[&0];
    let (multiply, arrive) =
        ("QGMMA.64x8x32.F32.E4M3.E4M3 R24, gdesc[UR8], R24", "@!P6 SYNCS.ARRIVE.TRANS64.A1T0 RZ, [UR13], RZ");
    let (all, but_one) = ("WARPGROUP.DEPBAR.LE gsb0, 0x0", "WARPGROUP.DEPBAR.LE gsb0, 0x1");
    assert_eq!(early(&[multiply, all, arrive, "@!P1 BRA 0x0", "EXIT"]), 0);
    assert_eq!(early(&[multiply, arrive, all, "@!P1 BRA 0x0", "EXIT"]), 1);
    assert_eq!(early(&[multiply, but_one, arrive, all, "@!P1 BRA 0x0", "EXIT"]), 1);
    assert_eq!(early(&[arrive, multiply, "@!P1 BRA 0x0", all, "EXIT"]), 1);
    assert_eq!(early(&[multiply, "EXIT", arrive, "EXIT"]), 0);
    // Tiles of 64x8 and 64x16 have four groups of the next stage under way when they give one back.
    let ahead = KernelConfig { block_m: 64, block_n: 8, in_flight: 4, ..LARGE };
    let fault = |config: &KernelConfig, wait: &str| {
        let order = order(&[multiply, wait, arrive, all, "@!P1 BRA 0x0", "EXIT"]);
        let all = order.held_against(config);
        all.iter().find(|(what, ..)| what.starts_with("SYNCS.ARRIVE")).map(|(_, found, _)| *found)
    };
    let (four, five) = ("WARPGROUP.DEPBAR.LE gsb0, 0x4", "WARPGROUP.DEPBAR.LE gsb0, 0x5");
    assert_eq!([four, five, all].map(|wait| fault(&ahead, wait)), [Some(0), Some(1), Some(0)]);
    assert_eq!([four, five, all].map(|wait| fault(&LARGE, wait)), [Some(1), Some(1), Some(0)]);
}

/// Breaks if results are stored in a main loop before those that were there have been taken, and nobody sees it.
#[test]
fn stores_of_a_main_loop_come_after_its_wait() {
    let early = |lines: &[&str]| {
        let text: String = lines.iter().enumerate().map(|(i, line)| format!("/*{:04x}*/ {line} ;\n", 16 * i)).collect();
        Listing::parse(&text).unwrap().summary().main_loops[0].early_stores
    };
    let (multiply, wait) =
        ("QGMMA.64x8x32.F32.E4M3.E4M3 R24, gdesc[UR8], R24", "@P5 BAR.SYNC.DEFER_BLOCKING R7, 0x100");
    let (store, end) = ("STS [R14], R11", ["BAR.ARV R10, 0x100", "@!P1 BRA 0x0", "EXIT"]);
    assert_eq!(early(&[&[multiply, wait, store, store][..], &end].concat()), 0);
    assert_eq!(early(&[&[multiply, store, store, wait][..], &end].concat()), 2);
}
