//! Replay of everything recorded on the H200: the model must give every bit.

#![allow(clippy::unwrap_used)]

mod common;

use fp8gemm_problem::{Epilogue, Policy};
use fp8gemm_sim::{Gemm, Path};

/// Breaks if the model of one `wgmma` instruction gives a single bit that the hardware did not:
/// four type mixes, both accumulators, eight distributions with NaN, infinities, signed zeros,
/// subnormals and cancellation.
#[test]
fn single_instructions() {
    let mut compared = 0;
    for tiles in common::tiles() {
        tiles.compare(tiles.core, |distribution, predicted, recorded| {
            compared += 1;
            assert_eq!(predicted, recorded, "{} {}", tiles.name, common::DISTRIBUTIONS[distribution]);
        });
    }
    assert_eq!(compared, 8 * 40 * 64 * 8);
}

/// Breaks if a whole kernel (scales, promotion, epilogue, cast) is not reproduced bit for bit, on
/// any path of this machine.
#[test]
fn whole_kernels() {
    for (name, policy, epilogue) in [
        ("deepgemm_1d2d_n0", Policy::PROMOTE_128, Epilogue::IDENTITY),
        ("deepgemm_1d2d_n1", Policy::PROMOTE_128, Epilogue::IDENTITY),
        ("deepgemm_1d1d_n0", Policy::PROMOTE_128, Epilogue::ACCUMULATE),
        ("deepgemm_1d1d_n1", Policy::PROMOTE_128, Epilogue::ACCUMULATE),
        ("cublaslt_precise_n0", Policy::PROMOTE_128, Epilogue::IDENTITY),
        ("cublaslt_precise_n1", Policy::PROMOTE_128, Epilogue::IDENTITY),
        ("cublaslt_fast_n0", Policy::Chain, Epilogue::IDENTITY),
        ("cublaslt_fast_n1", Policy::Chain, Epilogue::IDENTITY),
    ] {
        let kernel = common::kernel(name);
        for path in Path::available() {
            let mut gemm = Gemm::new(kernel.a.view(), kernel.b.view())
                .output(kernel.d.ty())
                .policy(policy)
                .epilogue(epilogue)
                .path(*path);
            if let Some(c) = &kernel.c {
                gemm = gemm.c(c.view());
            }
            let d = gemm.run().unwrap();
            assert!(d.view().bits_equal(&kernel.d.view()), "{name} on {path:?}");
        }
    }
}

/// Breaks if the recordings could not tell the policies apart: then the test above proves little.
#[test]
fn recordings_distinguish_policies() {
    let kernel = common::kernel("cublaslt_fast_n0");
    let run = |policy| Gemm::new(kernel.a.view(), kernel.b.view()).output(kernel.d.ty()).policy(policy).run().unwrap();
    for policy in Policy::COMMON.into_iter().filter(|policy| *policy != Policy::Chain) {
        assert!(!run(policy).view().bits_equal(&kernel.d.view()), "{policy} also gives the chain's bits");
    }
}
