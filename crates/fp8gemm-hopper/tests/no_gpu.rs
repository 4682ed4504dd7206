//! What happens where there is no driver. On a machine with one, the same calls must still not
//! panic.

use fp8gemm_hopper::{Gpu, HopperError, probe};

/// Breaks if a missing driver becomes a panic, or an error without a reason.
#[test]
fn absence_is_an_error_value() {
    for error in [probe().err(), Gpu::open(0).err(), Gpu::open(usize::MAX).err()].into_iter().flatten() {
        let text = error.to_string();
        assert!(!text.is_empty());
        if let HopperError::NoDriver { reason } = &error {
            assert!(text.contains(reason.as_str()) && reason.contains("cuda"), "{text}");
        }
    }
    assert!(Gpu::open(usize::MAX).is_err());
}

/// Breaks if plans and launches cannot be shared between threads any more.
#[test]
fn handles_are_send_and_sync() {
    fn is<T: Send + Sync>() {}
    is::<Gpu>();
    is::<fp8gemm_hopper::Plan>();
    is::<fp8gemm_hopper::Prepared>();
    is::<HopperError>();
}
