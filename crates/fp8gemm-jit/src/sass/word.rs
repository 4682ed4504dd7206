//! The bits of a Hopper instruction that [`Interleave`](super::Interleave) reads, and the two fields
//! that it writes. NVIDIA publishes none of this; `tests/interleave.rs` holds all but the scoreboards, which
//! are neither read nor written, against nvdisasm (docs/jit.md).
//!
//! | bits | of an `FFMA` with three registers |
//! |---|---|
//! | 0..12 | 0x223: operation 0x023 in bits 0..9, operand form 1 (registers) in bits 9..12 |
//! | 12..16 | guard; 7 is "always" |
//! | 16..24 | destination |
//! | 24..32, 32..40, 64..72 | sources A, B, C of `d = a * b + c` |
//! | 62, 63, 72..81 | signs, magnitudes, saturation, rounding, flush to zero: 0 is the plain operation |
//! | 105..109 | stall: cycles until the warp may issue its next instruction |
//! | 109 | 0: yield, the scheduler prefers another warp next; 1: it prefers this one |
//! | 110..113, 113..116 | scoreboards for its result and for its sources; 7 is none |
//! | 116..122 | scoreboards that it waits for |
//! | 122, 123, 124 | reuse: source A, B, C stays in the operand collector for the next instruction |
//!
//! An instruction that yields keeps nothing, whatever its reuse flags say, and "does not yield" exists
//! for stalls of 1 to 11 cycles only.

const YIELD_OFF: u128 = 1 << 109;
const REUSE_B: u128 = 1 << 123;

/// RZ, which is 0 and no register.
const ZERO: u32 = 255;

/// The longest stall that can be combined with "does not yield".
pub(super) const LONGEST_STALL_WITHOUT_YIELD: u32 = 11;

/// All that is written.
#[cfg(test)]
pub(super) const WRITTEN: u128 = YIELD_OFF | REUSE_B;

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u128);

impl Word {
    /// `bits` bits from bit `first`, at most 32.
    fn field(self, first: u32, bits: u32) -> u32 {
        ((self.0 >> first) & ((1 << bits) - 1)) as u32
    }

    /// Whether it is an `FFMA` of any form.
    pub(super) fn is_ffma(self) -> bool {
        self.field(0, 9) == 0x023
    }

    /// For an `FFMA`: the rule that it breaks, where it is not one of a promotion as ptxas writes it. Any registers may
    /// be its operands: where several blocks are in flight, some sums move from one register to another.
    pub(super) fn unknown(self) -> Option<&'static str> {
        let modifiers = self.0 >> 40 & 0xff_ffff | self.0 >> 72 & 0x1_ffff_ffff;
        let reuse = self.field(122, 6);
        let rules = [
            (self.field(0, 12) == 0x223, "all operands are registers"),
            (self.field(12, 4) == 7, "no predicate guards it"),
            (modifiers == 0, "it has no modifier"),
            (reuse == 0 || reuse == 2, "no source but B is marked for reuse"),
            (reuse == 0 || !self.yields(), "one that yields marks nothing for reuse"),
            (
                self.yields() || (1..=LONGEST_STALL_WITHOUT_YIELD).contains(&self.stall()),
                "one that does not yield stalls for 1 to 11 cycles",
            ),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map(|(_, rule)| rule)
    }

    /// The register of source B, of a promotion the scale.
    pub(super) fn source_b(self) -> u32 {
        self.field(32, 8)
    }

    fn destination(self) -> u32 {
        self.field(16, 8)
    }

    /// Cycles until the warp may issue again.
    pub(super) fn stall(self) -> u32 {
        self.field(105, 4)
    }

    pub(super) fn yields(self) -> bool {
        self.0 & YIELD_OFF == 0
    }

    pub(super) fn reuses(self) -> bool {
        self.0 & REUSE_B != 0
    }

    /// The same, yielding, which ends the reuse.
    #[must_use]
    pub(super) fn yielding(self) -> Self {
        Self(self.0 & !(YIELD_OFF | REUSE_B))
    }

    /// The same, not yielding, where the encoding has that. Reuse stays as it is.
    #[must_use]
    pub(super) fn staying(self) -> Self {
        if (1..=LONGEST_STALL_WITHOUT_YIELD).contains(&self.stall()) { Self(self.0 | YIELD_OFF) } else { self }
    }

    /// The same, not yielding, where the encoding has that, and marking source B for reuse if `next`, the very
    /// next instruction, reads it there too. Not where it yields all the same, or writes that register itself: the
    /// next one would read what it was before.
    #[must_use]
    pub(super) fn keeping_for(self, next: Option<Self>) -> Self {
        let word = Self(self.0 & !REUSE_B).staying();
        let register = word.source_b();
        let same = next.is_some_and(|next| next.source_b() == register);
        let kept = same && !word.yields() && register != word.destination() && register != ZERO;
        if kept { Self(word.0 | REUSE_B) } else { word }
    }
}
