//! Random numbers with the same bits everywhere: ChaCha8 and the functions of the `libm` crate.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// One stream of numbers. Its key is the seed (8 bytes, little-endian) followed by the role's bytes,
/// padded with zeros to 32; rows of a matrix are streams of the same key.
pub(super) struct Source {
    rng: ChaCha8Rng,
    /// The second half of the last Box-Muller pair.
    spare: Option<f64>,
}

impl Source {
    /// `role` has at most [`ROLE_BYTES`](super::ROLE_BYTES) bytes; more would be cut.
    pub(super) fn new(seed: u64, role: &str, stream: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        for (slot, byte) in key[8..].iter_mut().zip(role.bytes()) {
            *slot = byte;
        }
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(stream);
        Self { rng, spare: None }
    }

    /// The next 32 bits.
    pub(super) fn word(&mut self) -> u32 {
        self.rng.next_u32()
    }

    /// `(k + 1/2) 2^-52` with k the upper 52 bits of the next 64: exact, never 0 or 1.
    pub(super) fn unit(&mut self) -> f64 {
        let k = self.rng.next_u64() >> 12;
        (k as f64 + 0.5) * f64::EPSILON
    }

    /// N(0, 1) by Box and Muller: `r cos(2 pi v)`, then `r sin(2 pi v)`, with `r = sqrt(-2 ln u)`.
    pub(super) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (u, v) = (self.unit(), self.unit());
        let radius = (-2.0 * libm::log(u)).sqrt();
        let (sin, cos) = libm::sincos(core::f64::consts::TAU * v);
        self.spare = Some(radius * sin);
        radius * cos
    }
}
