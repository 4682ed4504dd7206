//! The studies, each a function and an entry of the registry [`ALL`].
//!
//! A study is one file here, with its `STUDY` constant and its function, and a line in each of the
//! three lists below.

mod accumulation;
mod accumulators;
mod attention;
mod cores;
mod formats;
mod fraction_bits;
mod fttn;
mod k_sweep;
mod mean_shift;
mod order;
mod positive;
mod probe;
mod promotion;
mod sweep;

pub use accumulation::accumulation;
pub use accumulators::accumulators;
pub use attention::attention;
pub use formats::formats;
pub use fraction_bits::fraction_bits;
pub use fttn::fttn;
pub use k_sweep::k_sweep;
pub use mean_shift::mean_shift;
pub use order::order;
pub use positive::positive;
pub use promotion::promotion;

use crate::{Study, StudyError};

/// Every study, in the order of reports.
pub const ALL: &[Study] = &[
    accumulation::STUDY, //
    promotion::STUDY,
    k_sweep::STUDY,
    positive::STUDY,
    mean_shift::STUDY,
    accumulators::STUDY,
    fraction_bits::STUDY,
    attention::STUDY,
    order::STUDY,
    fttn::STUDY,
    formats::STUDY,
];

/// The study of that name.
///
/// # Errors
/// [`StudyError::Unknown`], which lists the names that exist.
pub fn find(name: &str) -> Result<&'static Study, StudyError> {
    ALL.iter().find(|study| study.name == name).ok_or_else(|| StudyError::Unknown {
        name: name.to_owned(),
        known: ALL.iter().map(|study| study.name).collect::<Vec<_>>().join(", "),
    })
}
