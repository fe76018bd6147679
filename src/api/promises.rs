//! Rules that the API server itself holds us to, whatever konductor's own code does: each kind names those that are its promise.
//! `oldSelf` is the object before the write; a new object has none, and no status either.

use std::fmt::Debug;

use kube::core::{Message, Rule};

/// At most one holder.
pub(super) fn one_holder(message: &'static str) -> Rule {
    Rule::new("!has(self.status) || !has(self.status.holders) || self.status.holders.size() <= 1").message(message)
}

/// The token counter never goes back, nor does the status vanish with it.
pub(super) fn tokens_grow() -> Rule {
    Rule::new(concat!(
        "!has(oldSelf.status) || !has(oldSelf.status.lastToken) || ",
        "(has(self.status) && has(self.status.lastToken) && self.status.lastToken >= oldSelf.status.lastToken)",
    ))
    .message("status.lastToken never goes back")
}

/// A hold without a `ttl` to speak of would be taken away at the first missed beat.
pub(super) fn ttl_lasts() -> Rule {
    Rule::new("!has(self.ttl) || duration(self.ttl) >= duration('1s')").message("ttl is at least 1s")
}

/// The round never goes back, nor does the status vanish with it.
pub(super) fn rounds_grow() -> Rule {
    Rule::new(concat!(
        "!has(oldSelf.status) || !has(oldSelf.status.round) || ",
        "(has(self.status) && has(self.status.round) && self.status.round >= oldSelf.status.round)",
    ))
    .message("status.round never goes back")
}

/// What holds of a status as long as the round is the same. `rule` sees the statuses as `self.status` and `oldSelf.status`.
pub(super) fn within_a_round(rule: &str, message: &'static str) -> Rule {
    let new_round = "self.status.?round.orValue(0) > oldSelf.status.?round.orValue(0)";
    Rule::new(format!("!has(oldSelf.status) || !has(self.status) || {new_round} || ({rule})")).message(message)
}

/// What is open or has failed stays so within a round.
pub(super) fn latched() -> Rule {
    within_a_round(
        "!(oldSelf.status.?phase.orValue('') in ['Open', 'Failed']) || self.status.?phase.orValue('') == oldSelf.status.phase",
        "what is open or has failed stays so in this round; konductor starts a new one with a larger status.round",
    )
}

/// `field`, if it is set, is one of those words that go with `kind`. The message lists them.
pub(super) fn one_of_its_kind<K: Debug, W: Debug>(kind: &str, field: &str, table: impl Iterator<Item = (K, impl AsRef<[W]>)>) -> Rule {
    let (mut lists, mut texts) = (Vec::new(), Vec::new());
    for (kind, words) in table {
        let words: Vec<String> = words.as_ref().iter().map(|word| format!("{word:?}")).collect();
        lists.push(format!("'{kind:?}': ['{}']", words.join("', '")));
        texts.push(format!("'{kind:?}': '{}'", words.join(", ")));
    }
    let said =
        format!("'{field} ' + self.{field} + ' does not go with ' + self.{kind} + '; it has ' + {{{}}}[self.{kind}]", texts.join(", "));
    Rule::new(format!("!has(self.{field}) || self.{field} in {{{}}}[self.{kind}]", lists.join(", "))).message(Message::Expression(said))
}

/// None of these fields changes, comes or goes.
pub(super) fn unchanged(fields: &[&str]) -> Rule {
    let same =
        |field: &&str| format!("has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})");
    Rule::new(fields.iter().map(same).collect::<Vec<_>>().join(" && "))
}
