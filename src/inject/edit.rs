//! Changes an object and notes down how, as a JSON Patch that a person can read. Nothing is noted down where nothing changes.

use json_patch::{
    AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation,
    jsonptr::{Pointer, PointerBuf},
};
use serde_json::{Map, Value};

use super::{
    Outcome,
    shape::{Path, field, list},
};

/// An object that is being changed.
pub(super) struct Edit {
    object: Value,
    operations: Vec<PatchOperation>,
}

/// Where in a list konductor's entries belong.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// In front of the entry that has this index among the others'.
    Before(usize),
    /// Anywhere; at the end if they are not there yet.
    Anywhere,
}

impl Edit {
    pub(super) fn new(object: &Value) -> Self {
        Self { object: object.clone(), operations: Vec::new() }
    }

    pub(super) const fn object(&self) -> &Value {
        &self.object
    }

    pub(super) fn finish(self, warnings: Vec<String>) -> Outcome {
        let Self { object, operations } = self;
        Outcome { patch: Patch(operations), object, warnings }
    }

    /// Makes a field what it should be, and the objects around it where they are missing.
    pub(super) fn set(&mut self, path: &Path<'_>, value: Value) {
        let mut known = 0;
        let mut here = &self.object;
        while let Some(next) = path.get(known).and_then(|name| field(here, name)).filter(|next| !next.is_null()) {
            here = next;
            known += 1;
        }
        if known == path.len() {
            if *here != value {
                self.apply(PatchOperation::Replace(ReplaceOperation { path: pointer(path), value }));
            }
            return;
        }
        let (there, missing) = path.split_at((known + 1).min(path.len()));
        let value = missing.iter().rev().fold(value, |inner, field| Value::Object(Map::from_iter([((*field).to_owned(), inner)])));
        self.apply(PatchOperation::Add(AddOperation { path: pointer(there), value }));
    }

    /// Takes a field away, if it is there.
    pub(super) fn remove(&mut self, path: &Path<'_>) {
        if path.iter().try_fold(&self.object, |value, name| field(value, name)).is_some() {
            self.apply(PatchOperation::Remove(RemoveOperation { path: pointer(path) }));
        }
    }

    /// Makes konductor's entries of a list exactly `ours`, in this order, and leaves the others and their order alone.
    pub(super) fn place(&mut self, path: &Path<'_>, is_ours: impl Fn(&Value) -> bool, ours: Vec<Value>, place: Place) {
        let current = list(&self.object, path);
        let standing: Vec<usize> = current.iter().enumerate().filter(|(_, entry)| is_ours(entry)).map(|(index, _)| index).collect();
        let target = match place {
            Place::Before(index) => index,
            Place::Anywhere => standing.first().copied().unwrap_or(current.len()),
        };
        let same = standing.iter().filter_map(|index| current.get(*index)).eq(ours.iter());
        let together = matches!(place, Place::Anywhere) || standing.iter().copied().eq(target..target + ours.len());
        if same && together {
            return;
        }
        if current.is_empty() {
            self.set(path, Value::Array(ours));
            return;
        }
        let entry = |index: usize| {
            let mut pointer = pointer(path);
            pointer.push_back(index);
            pointer
        };
        for index in standing.into_iter().rev() {
            self.apply(PatchOperation::Remove(RemoveOperation { path: entry(index) }));
        }
        for (offset, value) in ours.into_iter().enumerate() {
            self.apply(PatchOperation::Add(AddOperation { path: entry(target + offset), value }));
        }
    }

    fn apply(&mut self, operation: PatchOperation) {
        // The operation was made from the object as it is now, so it fits; if it did not, leaving both untouched keeps them in step.
        if json_patch::patch(&mut self.object, std::slice::from_ref(&operation)).is_ok() {
            self.operations.push(operation);
        }
    }
}

fn pointer(path: &Path<'_>) -> PointerBuf {
    let mut pointer = Pointer::root().to_buf();
    path.iter().for_each(|field| pointer.push_back(*field));
    pointer
}
