//! Replays the shrunk cases of `regressions/`: what was wrong once must stay right.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Regression, files, read};
use fp8gemm_difftest::{TwinPath, check};
use fp8gemm_sim::Path as Engine;

/// Breaks if a path of the twin gives other bits than the twin gave when the finding was kept, or writes
/// anything beside D; or if a file no longer shows the difference for which it was kept.
#[test]
fn what_was_found_stays_right() {
    let files = files();
    assert!(files.len() >= 4, "{files:?}");
    for path in files {
        let name = path.display();
        let Regression { case, d, expected } = read(&path);
        case.problem.check().unwrap();
        for engine in Engine::available() {
            let fault = check(&mut TwinPath::new(*engine), &case, &expected, 0).unwrap();
            assert!(fault.is_none(), "{name}, {engine:?}: {}", fault.unwrap());
        }
        assert!(!d.view().bits_equal(&expected.view()), "{name}: the wrong D is the right one");
    }
}
