//! Breadth first through all states that can be reached: what the exhaustive walks have in common.

use std::{
    collections::{HashSet, VecDeque},
    fmt::Debug,
    hash::Hash,
};

/// What the walk found.
#[derive(Debug, Default)]
pub struct Walked {
    pub states: usize,
    pub problem: Option<String>,
}

/// Visits every state that can be reached from the first one, by `steps`, which says what can come next or what is wrong.
pub fn explore<S: Clone + Eq + Hash + Debug>(first: S, steps: impl Fn(&S) -> Result<Vec<S>, String>) -> Walked {
    let mut seen = HashSet::from([first.clone()]);
    let mut front = VecDeque::from([first]);
    while let Some(state) = front.pop_front() {
        match steps(&state) {
            Ok(next) => front.extend(next.into_iter().filter(|state| seen.insert(state.clone()))),
            Err(problem) => return Walked { states: seen.len(), problem: Some(format!("{problem}: {state:?}")) },
        }
    }
    Walked { states: seen.len(), problem: None }
}
