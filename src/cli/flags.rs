//! The flags of the commands on primitives, each defined once.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use clap::{Arg, ArgAction, value_parser};
use serde_json::{Value, json};

use crate::{
    api::{ClaimKind, Duration, DurationError, GateType, MAX_HOLDERS},
    plan::{NAME, is_subdomain, table::MAX_PERMITS},
};

/// The permits that one holder can take.
pub const PERMITS: RangeInclusive<i32> = 1..=MAX_PERMITS;
/// A priority.
pub const ANY: RangeInclusive<i32> = i32::MIN..=i32::MAX;
const PARTICIPANTS: RangeInclusive<i32> = 1..=MAX_HOLDERS as i32;

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// A flag without a value.
pub fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// A flag with a whole number from a range.
pub fn number<T>(name: &'static str, help: &'static str, range: RangeInclusive<T>) -> Arg
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    option(name, "NUMBER", help).allow_negative_numbers(true).value_parser(whole(range))
}

/// Reads a whole number from a range.
pub fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display + Clone,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("a whole number from {} to {} is wanted", range.start(), range.end()))
    }
}

/// A flag with a duration.
pub fn duration(name: &'static str, help: &'static str) -> Arg {
    option(name, "DURATION", help).value_parser(value_parser!(Duration))
}

/// A flag with how long something is held after its last renewal.
pub fn ttl(help: &'static str) -> Arg {
    option("ttl", "DURATION", help).value_parser(lasting)
}

/// Reads a duration that a hold can have.
///
/// # Errors
/// If it is none, or too short to be renewed in.
pub fn lasting(text: &str) -> Result<Duration, String> {
    let duration: Duration = text.parse().map_err(|error: DurationError| error.to_string())?;
    let lasts = duration >= Duration::from_secs(1);
    lasts.then_some(duration).ok_or_else(|| format!("a ttl is at least 1s; {text} is too short to renew a hold in"))
}

/// The name of a primitive.
///
/// # Errors
/// If it is none.
pub fn object_name(text: &str) -> Result<String, String> {
    if is_subdomain(text) {
        return Ok(text.to_owned());
    }
    let elsewhere = if text.contains('/') { "; one of another namespace is named by `-n NAMESPACE` and its name" } else { "" };
    Err(format!("no name of a primitive: {NAME}{elsewhere}"))
}

/// In whose name.
pub fn holder() -> Arg {
    option("holder", "HOLDER", "In whose name; the name of this machine or Pod otherwise").env("KONDUCTOR_HOLDER_ID")
}

/// How long to wait.
pub fn timeout() -> Arg {
    duration("timeout", "How long to wait, such as 30s; 0 tries once; for ever otherwise").env("KONDUCTOR_TIMEOUT")
}

/// How urgently.
pub fn priority() -> Arg {
    number("priority", "Larger goes first, then age", ANY)
}

/// A command and its arguments.
pub fn rest(help: &'static str) -> Arg {
    Arg::new("command").value_name("COMMAND").last(true).num_args(1..).value_parser(value_parser!(std::ffi::OsString)).help(help)
}

/// The fields of a kind's spec, as flags of `create`.
pub fn fields(kind: ClaimKind) -> Vec<Arg> {
    use ClaimKind::{Barrier, Gate, Lease, Mutex, Once, RWMutex, Semaphore, WaitGroup};
    let mut fields = match kind {
        Mutex | RWMutex | Lease | Semaphore => {
            vec![ttl("How long a Claim holds after its last renewal, and how long a holder's node may be unreachable; 5m otherwise")]
        }
        Once => vec![duration("ttl", "How long after its success it is deleted; never otherwise")],
        WaitGroup => vec![duration("ttl", "How long after it is done it is deleted; never otherwise")],
        Barrier | Gate => vec![duration("timeout", "How long it waits, from its creation, before it has failed; for ever otherwise")],
    };
    match kind {
        Semaphore => {
            fields.push(number("permits", "How many permits there are; 0 pauses it", 0..=MAX_PERMITS).default_value("1"));
        }
        Lease => fields.push(number("priority", "The priority of those that state none", ANY)),
        Barrier => fields.extend([
            number("expected", "How many participants there are", PARTICIPANTS).default_value("1"),
            number("quorum", "How many of them open it; all otherwise", PARTICIPANTS),
        ]),
        Gate => fields.push(
            option("condition", "CONDITION", "What must be met: KIND/[NAMESPACE/]NAME[=STATE][;value=NUMBER]; may be repeated")
                .action(ArgAction::Append)
                .value_parser(condition),
        ),
        Mutex | RWMutex | Once | WaitGroup => {}
    }
    fields.push(option("allow", "NAMESPACE", "Another namespace that may use it; `*` is all; may be repeated").action(ArgAction::Append));
    fields
}

/// A condition of a Gate: `job/data-validation=Complete`, `semaphore/shop/api;value=2`. The API server checks the words.
fn condition(text: &str) -> Result<Value, String> {
    let (item, value) = match text.split_once(';') {
        None => (text, None),
        Some((item, rest)) => {
            let number = rest.strip_prefix("value=").and_then(|number| number.parse::<u32>().ok());
            (item, Some(number.ok_or("after `;` there is value=NUMBER")?))
        }
    };
    let (target, state) = item.split_once('=').map_or((item, None), |(target, state)| (target, Some(state)));
    let parts: Vec<&str> = target.split('/').collect();
    let (kind, namespace, name) = match parts.as_slice() {
        [kind, name] => (kind, None, name),
        [kind, namespace, name] => (kind, Some(namespace), name),
        _ => return Err("write KIND/NAME, such as job/data-validation=Complete".to_owned()),
    };
    let kinds = GateType::ALL;
    let on = kinds
        .into_iter()
        .find(|on| on.word() == kind.to_lowercase())
        .ok_or_else(|| format!("`{kind}` is none of {}", kinds.map(GateType::word).join(", ")))?;
    let mut condition = json!({ "type": on, "name": name });
    for (field, value) in [
        ("namespace", namespace.map(|name| json!(name))),
        ("state", state.map(|state| json!(state))),
        ("value", value.map(|value| json!(value))),
    ] {
        if let (Some(value), Some(fields)) = (value, condition.as_object_mut()) {
            fields.insert(field.to_owned(), value);
        }
    }
    Ok(condition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_ranges() {
        let permits = whole(PERMITS);
        assert_eq!(permits("7"), Ok(7));
        for text in ["0", "-1", "1000001", "5000000000", "1.5", "many"] {
            assert_eq!(permits(text).unwrap_err(), "a whole number from 1 to 1000000 is wanted", "{text}");
        }
        assert_eq!(whole(ANY)("-5"), Ok(-5));
    }

    #[test]
    fn a_ttl_is_long_enough_to_be_renewed_in() {
        assert_eq!(lasting("1s"), Ok(Duration::from_secs(1)));
        for text in ["0", "1ms", "999ms"] {
            assert!(lasting(text).unwrap_err().contains("at least 1s"), "{text}");
        }
        assert!(lasting("soon").unwrap_err().contains("is not a duration"));
    }
}
