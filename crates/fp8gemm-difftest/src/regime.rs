//! The kinds of shapes, data and scales that are generated, each with a name for `--only`.

use core::fmt;

use crate::DifftestError;

macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// Every one, in the order of reports.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name in reports and for [`Only`].
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

named! {
    /// Where M, N and K lie.
    ShapeRegime {
        /// Everything at most 40.
        Small => "shape-small",
        /// At least one of M, N and K is 1.
        Ones => "shape-ones",
        /// M and N next to multiples of a kernel's tile (8 to 256), one to either side.
        TileEdge => "shape-tile-edge",
        /// M or N next to two tiles, as a cluster of two covers them.
        ClusterEdge => "shape-cluster-edge",
        /// N and K next to multiples of 128, where a scale block ends.
        ScaleEdge => "shape-scale-edge",
        /// K next to multiples of 32, where a tensor-core step ends.
        StepEdge => "shape-step-edge",
        /// M, N and K odd or otherwise no multiple of anything.
        Tails => "shape-tails",
        /// Few rows and columns, K in the thousands.
        LongK => "shape-long-k",
        /// M and N as large as the menu allows, K short: on a GPU more tiles than it has SMs.
        ManyTiles => "shape-many-tiles",
        /// One or more of M, N and K is 0. Only from a menu that allows it ([`Menu::empty`](crate::Menu::empty)).
        Empty => "shape-empty",
    }
}

named! {
    /// What the codes of A and B are.
    DataRegime {
        /// Normally distributed.
        Normal => "normal",
        /// Magnitudes of normally distributed numbers: every truncation adds to a bias.
        Positive => "positive",
        /// Any finite code: the whole exponent range, 15 % subnormal, 10 % zero.
        Wide => "wide",
        /// 1 to 32 non-zero products in a step of 32, zeros of either operand against large codes.
        Sparse => "sparse",
        /// Products that cancel exactly within a step, beside some that do not.
        Cancellation => "cancellation",
        /// Subnormal codes on one side or on both.
        Subnormal => "subnormal",
        /// Steps whose largest product lies 11 to 16 binades from the accumulator: at the limit of
        /// what alignment keeps.
        AlignmentLimit => "alignment-limit",
        /// -0 among ordinary numbers, and rows of nothing else.
        NegativeZero => "negative-zero",
        /// Infinities in some rows (E5M2; E4M3 has none and gets its largest number).
        Infinity => "infinity",
        /// NaN in some rows.
        Nan => "nan",
        /// The largest finite codes.
        Saturated => "saturated",
        /// Some rows a hundred times larger than the others.
        OutlierRows => "outlier-rows",
        /// Log-normal with a few large channels along K, as activations of language models are.
        OutlierChannels => "outlier-channels",
        /// Any code, with few NaN.
        AnyBits => "any-bits",
    }
}

named! {
    /// What the scales of an operand are.
    ScaleRegime {
        /// 1e-4 to 1e-2, as quantisers give them.
        Ordinary => "scale-ordinary",
        /// Powers of two, as UE8M0 scales are.
        PowerOfTwo => "scale-power-of-two",
        /// Normal numbers below 1e-36.
        Tiny => "scale-tiny",
        /// 1e32 to 1e34: products may overflow.
        Huge => "scale-huge",
        /// Ordinary, some 0, -0 or negative.
        Zero => "scale-zero",
        /// f32 subnormals and the smallest normal numbers.
        Subnormal => "scale-subnormal",
        /// Ordinary, some NaN or infinite.
        NonFinite => "scale-nonfinite",
    }
}

/// Regimes to generate; of a kind of which none is named, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Only {
    /// Shapes.
    pub shapes: Vec<ShapeRegime>,
    /// Codes.
    pub data: Vec<DataRegime>,
    /// Scales.
    pub scales: Vec<ScaleRegime>,
}

impl Only {
    /// Reads names of regimes.
    ///
    /// # Errors
    /// [`DifftestError::UnknownRegime`], which lists all names.
    ///
    /// ```
    /// use fp8gemm_difftest::{DataRegime, Only};
    ///
    /// let only = Only::parse(["sparse", "shape-tails", "wide"])?;
    /// assert_eq!(only.data, [DataRegime::Sparse, DataRegime::Wide]);
    /// assert!(Only::parse(["sparce"]).is_err());
    /// # Ok::<(), fp8gemm_difftest::DifftestError>(())
    /// ```
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, DifftestError> {
        fn add<T: Copy + PartialEq>(to: &mut Vec<T>, found: Option<&T>) -> bool {
            if let Some(found) = found
                && !to.contains(found)
            {
                to.push(*found);
            }
            found.is_some()
        }
        let mut only = Self::default();
        for name in names {
            let known = add(&mut only.shapes, ShapeRegime::ALL.iter().find(|regime| regime.name() == name))
                || add(&mut only.data, DataRegime::ALL.iter().find(|regime| regime.name() == name))
                || add(&mut only.scales, ScaleRegime::ALL.iter().find(|regime| regime.name() == name));
            if !known {
                return Err(DifftestError::UnknownRegime { name: name.to_owned() });
            }
        }
        Ok(only)
    }

    /// Every name.
    pub fn names() -> Vec<&'static str> {
        let shapes = ShapeRegime::ALL.iter().map(|regime| regime.name());
        let data = DataRegime::ALL.iter().map(|regime| regime.name());
        let scales = ScaleRegime::ALL.iter().map(|regime| regime.name());
        shapes.chain(data).chain(scales).collect()
    }

    /// Those named; without a name all, empty ones only where the subjects compute them.
    pub(crate) fn shapes(&self, empty: bool) -> Vec<ShapeRegime> {
        if !self.shapes.is_empty() {
            return self.shapes.clone();
        }
        ShapeRegime::ALL.iter().copied().filter(|shape| empty || *shape != ShapeRegime::Empty).collect()
    }

    pub(crate) fn data(&self) -> Vec<DataRegime> {
        if self.data.is_empty() { DataRegime::ALL.to_vec() } else { self.data.clone() }
    }

    /// Ordinary scales as often as all others together: extreme ones hide what the codes do.
    pub(crate) fn scales(&self) -> Vec<ScaleRegime> {
        if !self.scales.is_empty() {
            return self.scales.clone();
        }
        let others = ScaleRegime::ALL.len() - 1;
        let mut all = vec![ScaleRegime::Ordinary; others];
        all.extend(ScaleRegime::ALL.iter().filter(|regime| **regime != ScaleRegime::Ordinary));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if two regimes share a name (one could not be asked for), or one cannot be asked for.
    #[test]
    fn names_are_unique_and_parse() {
        let mut names = Only::names();
        for name in &names {
            let only = Only::parse([*name]).unwrap();
            assert_eq!(only.shapes.len() + only.data.len() + only.scales.len(), 1);
        }
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        let error = Only::parse(["normal", "nromal"]).unwrap_err().to_string();
        assert!(error.contains("nromal") && error.contains("shape-long-k"), "{error}");
    }
}
