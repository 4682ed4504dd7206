//! Correctly rounded sums by another way than the crate's: expansions of f64.
//!
//! Shewchuk's growing expansion (Discrete & Computational Geometry 18, 1997) keeps a sum exactly
//! as non-overlapping f64; the final rounding follows the one that Python's `math.fsum` documents.

/// `x * y` as the exact sum of two f64.
pub(crate) fn two_product(x: f64, y: f64) -> [f64; 2] {
    let product = x * y;
    [product, x.mul_add(y, -product)]
}

/// The f64 nearest (ties to even) to the sum of finite terms; +0 if it is zero.
pub(crate) fn exact_sum(terms: Vec<f64>) -> f64 {
    // Non-overlapping, smallest first.
    let mut expansion: Vec<f64> = Vec::new();
    for mut x in terms {
        let mut kept = 0;
        for i in 0..expansion.len() {
            let (high, low) = two_sum(x, expansion[i]);
            if low != 0.0 {
                expansion[kept] = low;
                kept += 1;
            }
            x = high;
        }
        expansion.truncate(kept);
        if x != 0.0 {
            expansion.push(x);
        }
    }
    let Some(mut total) = expansion.pop() else { return 0.0 };
    let mut rest = 0.0;
    while let Some(next) = expansion.pop() {
        let before = total;
        total = before + next;
        rest = next - (total - before);
        if rest != 0.0 {
            break;
        }
    }
    // A tie that rounded to even although parts further down point the same way.
    if let Some(next) = expansion.last()
        && ((rest < 0.0 && *next < 0.0) || (rest > 0.0 && *next > 0.0))
    {
        let twice = rest * 2.0;
        let up = total + twice;
        if up - total == twice {
            total = up;
        }
    }
    total
}

fn two_sum(x: f64, y: f64) -> (f64, f64) {
    let sum = x + y;
    let part = sum - x;
    (sum, (x - (sum - part)) + (y - part))
}
