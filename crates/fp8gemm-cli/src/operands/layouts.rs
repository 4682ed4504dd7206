//! Which scale layout is meant where a shape or a recipe leaves it open.

use fp8gemm::formats::quantize::Recipe;
use fp8gemm::problem::ScaleLayout;

use super::Layouts;

/// The layout that is quantised to where none is named: 128x128 for weights.
pub(crate) fn usual_layout(recipe: Recipe, weight: bool) -> ScaleLayout {
    let layouts = recipe.layouts();
    let square = ScaleLayout::Block128x128;
    // Every recipe has at least one.
    if weight && layouts.contains(&square) { square } else { layouts[0] }
}

/// Where a shape can mean several layouts, the one that goes with the other operand's: block
/// scales with block scales. A preference, not a fact: at K <= 128, policies that promote within
/// the block or scale inside the accumulation give other bits for block scales than for scales of
/// whole rows; see [`distinct`].
pub(super) fn choose(readings: &[ScaleLayout], other: &[ScaleLayout]) -> Option<ScaleLayout> {
    let blocks = |layout: &&ScaleLayout| layout.k_block().is_some();
    let other_has_blocks = !other.is_empty() && other.iter().all(|layout| blocks(&layout));
    readings.iter().find(|layout| other_has_blocks && blocks(layout)).or(readings.first()).copied()
}

/// The readings of two ambiguous shapes that compute different things, the preferred first.
///
/// Layouts of one shape assign the same scale to every element (K has one block then, or the
/// operand one row); what is left of them is whether any operand has block scales, because the
/// scales are then applied at each promotion and not once at the end. So there are two at most.
pub(super) fn distinct(preferred: Layouts, a: &[ScaleLayout], b: &[ScaleLayout]) -> Vec<Layouts> {
    let blocks = |layout: &ScaleLayout| layout.k_block().is_some();
    let find = |readings: &[ScaleLayout], chosen: ScaleLayout, wanted: bool| {
        // What is quantised in this run has no readings, and the layout that was chosen.
        let readings = if readings.is_empty() { &[chosen][..] } else { readings };
        readings.iter().copied().find(|layout| blocks(layout) == wanted)
    };
    let (chosen_a, chosen_b) = preferred;
    let other = if blocks(&chosen_a) || blocks(&chosen_b) {
        find(a, chosen_a, false).zip(find(b, chosen_b, false))
    } else {
        let (block_a, block_b) = (find(a, chosen_a, true), find(b, chosen_b, true));
        let any = block_a.or(block_b).is_some();
        any.then(|| (block_a.unwrap_or(chosen_a), block_b.unwrap_or(chosen_b)))
    };
    [Some(preferred), other].into_iter().flatten().collect()
}
