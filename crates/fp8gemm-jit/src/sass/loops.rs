//! Natural loops of a kernel.
//!
//! A branch from `s` back to `h` closes a loop where every way to `s` leads through `h` (`h`
//! dominates `s`); the loop is `h` and all from which `s` can be reached without `h`. ptxas moves
//! rare code (a barrier that is not ready yet) behind the kernel's end, from where it jumps back:
//! by address that looks like a loop, but it is none.
//!
//! The same successors say which instruction can come after which.

use super::Instruction;

/// The bodies, as indices in order, of the loops that hold a wanted instruction and no smaller such
/// loop.
pub(super) fn innermost(code: &[Instruction], wanted: impl Fn(&Instruction) -> bool) -> Vec<Vec<usize>> {
    let next = successors(code);
    let mut previous = vec![Vec::new(); code.len()];
    for (from, targets) in next.iter().enumerate() {
        targets.iter().for_each(|target| previous[*target].push(from));
    }
    let reachable = reach(&next, 0, None);
    // By head: two branches back to one place are one loop.
    let mut loops: Vec<(usize, Vec<bool>)> = Vec::new();
    for (from, one) in code.iter().enumerate() {
        let Some(head) = one.target.filter(|head| *head <= from && reachable[from]) else { continue };
        if head != from && reach(&next, 0, Some(head))[from] {
            continue;
        }
        let mut body = reach(&previous, from, Some(head));
        body[head] = true;
        match loops.iter_mut().find(|(other, _)| *other == head) {
            Some((_, known)) => known.iter_mut().zip(body).for_each(|(known, new)| *known |= new),
            None => loops.push((head, body)),
        }
    }
    let bodies = loops.into_iter().map(|(_, body)| (0..code.len()).filter(|index| body[*index]).collect());
    let bodies: Vec<Vec<usize>> =
        bodies.filter(|body: &Vec<usize>| body.iter().any(|index| wanted(&code[*index]))).collect();
    let within = |small: &[usize], large: &[usize]| {
        small.len() < large.len() && small.iter().all(|index| large.binary_search(index).is_ok())
    };
    bodies.iter().filter(|body| !bodies.iter().any(|other| within(other, body))).cloned().collect()
}

/// How many instructions of one kind can be next after one of another kind, with none of a third kind between.
pub(super) fn follow(
    code: &[Instruction],
    first: impl Fn(&Instruction) -> bool,
    wanted: impl Fn(&Instruction) -> bool,
    between: impl Fn(&Instruction) -> bool,
) -> u32 {
    let next = successors(code);
    let mut reached = vec![false; code.len()];
    let mut open: Vec<usize> = (0..code.len()).filter(|index| first(&code[*index])).collect();
    while let Some(index) = open.pop() {
        for &other in &next[index] {
            if !reached[other] && !between(&code[other]) {
                reached[other] = true;
                open.push(other);
            }
        }
    }
    code.iter().zip(reached).filter(|(one, reached)| *reached && wanted(one)).count() as u32
}

fn successors(code: &[Instruction]) -> Vec<Vec<usize>> {
    let of = |(index, one): (usize, &Instruction)| {
        let after = Some(index + 1).filter(|after| one.falls_through() && *after < code.len());
        one.target.into_iter().chain(after).collect()
    };
    code.iter().enumerate().map(of).collect()
}

/// What can be reached from `start`, itself included, without entering `closed`.
fn reach(edges: &[Vec<usize>], start: usize, closed: Option<usize>) -> Vec<bool> {
    let mut reached = vec![false; edges.len()];
    if closed == Some(start) {
        return reached;
    }
    reached[start] = true;
    let mut open = vec![start];
    while let Some(index) = open.pop() {
        for &other in &edges[index] {
            if !reached[other] && closed != Some(other) {
                reached[other] = true;
                open.push(other);
            }
        }
    }
    reached
}
