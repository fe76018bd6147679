//! What a tape does to a case: fields go, come, change their types and sizes; texts get words that konductor knows, in wrong places.

use serde_json::{Map, Value, json};

use crate::tape::Tape;

/// Words of konductor and of Kubernetes, and beginnings of such.
pub const WORDS: [&str; 68] = [
    "konductor.io/",
    "status.konductor.io/",
    "konductor.io/mutex",
    "konductor.io/acquire",
    "konductor.io/wait",
    "konductor.io/arrive",
    "konductor.io/done",
    "konductor.io/once",
    "konductor.io/gate",
    "konductor.io/barrier",
    "konductor.io/semaphore",
    "konductor.io/rwmutex",
    "konductor.io/lease",
    "konductor.io/waitgroup",
    "konductor.io/inject",
    "konductor.io/injected",
    "konductor.io/outcome",
    "konductor.io/held",
    "konductor.io/wait",
    "status.konductor.io/copied-from",
    "status.konductor.io/suspended",
    "status.konductor.io/token-0",
    "konducter.io/mutex",
    "mutex/a",
    "semaphore/b;permits=2",
    "rwmutex/other/c;mode=read",
    "lease/d;priority=-2147483648",
    "once/e",
    "waitgroup/f",
    "barrier/g;on=start",
    "gate/h;timeout=1ns",
    ";permits=2147483647",
    ";timeout=0s",
    ";timeout=9223372036s",
    ";timeout=99999999999999999999h",
    ";on-timeout=proceed",
    ";strategy=wrap",
    ";strategy=gate",
    ";strategy=suspend",
    ";container=app",
    ";on-conflict=skip",
    ";release=controller",
    ";max-hold=1h",
    ";start-timeout=10m",
    ";on-lost=ignore",
    ";fencing=true",
    ";create=true",
    ",",
    ";",
    "=",
    "/",
    "konductor-acquire",
    "konductor-hold",
    "konductor-install",
    "konductor-token",
    "istio-proxy",
    "linkerd-proxy",
    "Pod",
    "Job",
    "CronJob",
    "Deployment",
    "batch/v1",
    "Never",
    "Always",
    "2026-01-01T00:00:00Z",
    "-9999-12-31T23:59:59Z",
    "\u{0}\u{202e}\n",
    "\u{1f512}ß",
];

/// Values that are of the wrong type, or at an end of the right one.
fn odd(tape: &mut Tape<'_>) -> Value {
    match tape.below(16) {
        0 => Value::Null,
        1 => true.into(),
        2 => json!({}),
        3 => json!([]),
        4 => "".into(),
        5 => 0.into(),
        6 => (-1).into(),
        7 => i64::MAX.into(),
        8 => i64::MIN.into(),
        9 => u64::MAX.into(),
        10 => json!(1e308),
        11 => i64::from(tape.byte()).into(),
        12 => i64::from(i32::MAX).into(),
        13 => json!([null]),
        14 => json!({ "": null }),
        _ => Value::from(*tape.pick(&WORDS)),
    }
}

/// A case, mutated; now and then no JSON any more.
pub fn json(cases: &[Value], tape: &mut Tape<'_>) -> Vec<u8> {
    let mut value = tape.pick(cases).clone();
    for _ in 0..tape.below(8) {
        let at = somewhere(&mut value, tape);
        change(at, cases, tape);
    }
    let mut text = value.to_string().into_bytes();
    if tape.rarely(9) {
        bytes(&mut text, tape);
    }
    text
}

/// Any value inside of this one, deeper ones less often than their parents' parents.
fn somewhere<'a>(value: &'a mut Value, tape: &mut Tape<'_>) -> &'a mut Value {
    let inside = match value {
        Value::Array(list) => list.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    if inside == 0 || tape.rarely(6) {
        return value;
    }
    let which = tape.below(inside);
    match value {
        Value::Array(list) => somewhere(&mut list[which], tape),
        Value::Object(map) => somewhere(map.values_mut().nth(which).unwrap(), tape),
        _ => unreachable!(),
    }
}

fn change(value: &mut Value, cases: &[Value], tape: &mut Tape<'_>) {
    match (tape.below(10), &mut *value) {
        (0, _) => *value = odd(tape),
        (1, Value::Object(map)) => {
            let key = map.keys().nth(tape.below(map.len())).cloned();
            key.and_then(|key| map.remove(&key));
        }
        (2 | 3, Value::Object(map)) => _ = map.insert((*tape.pick(&WORDS)).to_owned(), odd(tape)),
        (1, Value::Array(list)) if !list.is_empty() => _ = list.remove(tape.below(list.len())),
        (2 | 3, Value::Array(list)) if !list.is_empty() => {
            let again = list[tape.below(list.len())].clone();
            // Doubled, or far too many.
            let times = if tape.rarely(7) { 1 + tape.number() % 2000 } else { 1 };
            if again.to_string().len() * times < 256 * 1024 {
                list.extend(std::iter::repeat_n(again, times));
            }
        }
        (4, Value::Object(map)) => many(map, tape),
        (5, _) => {
            let mut other = tape.pick(cases).clone();
            *value = somewhere(&mut other, tape).take();
        }
        (6, _) if tape.rarely(3) => {
            for _ in 0..=tape.byte() {
                *value = json!([value.take()]);
            }
        }
        (_, Value::String(text)) => splice(text, tape),
        _ => *value = odd(tape),
    }
}

/// Many fields of one kind.
fn many(map: &mut Map<String, Value>, tape: &mut Tape<'_>) {
    let (key, value) = (*tape.pick(&WORDS), odd(tape));
    let count = if tape.rarely(5) { tape.number() % 5000 } else { tape.below(20) };
    map.extend((0..count).map(|number| (format!("{key}{number}"), value.clone())));
}

/// Puts a word into a text, cuts the text, or makes it very long.
fn splice(text: &mut String, tape: &mut Tape<'_>) {
    let mut at = tape.below(text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    match tape.below(8) {
        0 => text.truncate(at),
        1 if !text.is_empty() && text.len() < 4096 && tape.rarely(2) => *text = text.repeat(1 + tape.number() % (256 * 1024 / text.len())),
        2 => text.clear(),
        3 | 4 => {
            text.clear();
            for _ in 0..1 + tape.below(4) {
                text.push_str(tape.pick::<&str>(&WORDS));
            }
        }
        _ => text.insert_str(at, tape.pick::<&str>(&WORDS)),
    }
}

/// Changes single bytes, cuts, or doubles a part.
pub fn bytes(text: &mut Vec<u8>, tape: &mut Tape<'_>) {
    for _ in 0..1 + tape.below(4) {
        if text.is_empty() {
            return;
        }
        let at = tape.below(text.len());
        match tape.below(5) {
            0 => text.truncate(at),
            1 => _ = text.remove(at),
            2 => text[at] = tape.byte(),
            3 => text.insert(at, tape.byte()),
            _ => {
                let part = text[at..text.len().min(at + 64)].to_vec();
                let times = if tape.rarely(5) { tape.number() % 2000 } else { 1 };
                text.splice(at..at, part.repeat(times));
            }
        }
    }
}
