//! How loads treat the L2 cache: a 64-bit policy that TMA instructions take as an operand.

/// No preference. Not a word that `createpolicy` makes: `createpolicy.fractional.L2::evict_normal` gives
/// `0x16F0_0000_0000_0000` on an H200. The two have not been timed beside each other.
pub const EVICT_NORMAL: u64 = 0x1000_0000_0000_0000;
/// As `createpolicy.fractional.L2::evict_first` encodes it.
const EVICT_FIRST: u64 = 0x12F0_0000_0000_0000;

/// About half of an H200's L2. The weights of a model displace each other before they are read again, so that nothing
/// is lost by letting them go first. Where one matrix alone is used again and again it is: up to 4 us at 38 MB.
const STREAMED: u128 = 24 << 20;

/// The L2 policy for so many bytes that a kernel reads once: evict first from 24 MiB on, else normal. On an
/// H200 whose L2 is full of dirty lines this makes reading 38 MB 1.5 us faster (docs/performance.md).
///
/// ```
/// assert_ne!(fp8gemm_hopper::l2_policy(1 << 20), fp8gemm_hopper::l2_policy(100 << 20));
/// ```
pub const fn l2_policy(bytes: u128) -> u64 {
    if bytes > STREAMED { EVICT_FIRST } else { EVICT_NORMAL }
}
