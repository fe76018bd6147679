//! What the API server itself refuses: the validation rules of our CRDs, as far as they are about promises, and some of Kubernetes' own.

use serde_json::Value;

use crate::{
    api::deleting,
    claims::{is_over, phase},
    cluster::condition,
    request::What,
};

const NONE: &[Value] = &[];

fn list<'a>(object: &'a Value, part: &str, field: &str) -> &'a [Value] {
    object[part][field].as_array().map_or(NONE, Vec::as_slice)
}

/// Whether this may be written.
pub fn check(what: What, before: &Value, after: &Value) -> Result<(), String> {
    let same = |refused: bool, words: &str| if refused { Err(words.to_owned()) } else { Ok(()) };
    let new = |finalizer: &Value| !list(before, "metadata", "finalizers").contains(finalizer);
    same(
        deleting(before) && list(after, "metadata", "finalizers").iter().any(new),
        "metadata.finalizers: no new finalizers can be added if the object is being deleted",
    )?;
    match what {
        What::Pods => {
            let added = |gate: &Value| !list(before, "spec", "schedulingGates").contains(gate);
            same(list(after, "spec", "schedulingGates").iter().any(added), "spec.schedulingGates: only deletion is allowed")
        }
        What::Jobs => {
            for kind in ["SuccessCriteriaMet", "Complete", "FailureTarget", "Failed"] {
                same(condition(before, kind) && !condition(after, kind), "status.conditions: what has finished stays so")?;
            }
            let contradicts = condition(after, "Complete") && (condition(after, "Failed") || !condition(after, "SuccessCriteriaMet"));
            same(contradicts, "status.conditions: Complete needs SuccessCriteriaMet, and contradicts Failed")
        }
        What::Claims => {
            same(is_over(before) && phase(before) != phase(after), "a Claim that is over stays so; make a new one")?;
            let (was, is) = (&before["status"]["token"], &after["status"]["token"]);
            same(!was.is_null() && was != is, "the token of a Claim does not change")
        }
        _ if what.is_primitive() => primitive(what, before, after),
        _ => Ok(()),
    }
}

fn primitive(what: What, before: &Value, after: &Value) -> Result<(), String> {
    let same = |refused: bool, words: &str| if refused { Err(words.to_owned()) } else { Ok(()) };
    let (old, now) = (&before["status"], &after["status"]);
    let holders = list(after, "status", "holders");
    let before_token = old["lastToken"].as_i64();
    same(before_token.is_some_and(|token| now["lastToken"].as_i64().is_none_or(|next| next < token)), "status.lastToken never goes back")?;
    let latched = |object: &Value| object["phase"].as_str().filter(|phase| ["Open", "Failed"].contains(phase)).map(str::to_owned);
    let round = |status: &Value| status["round"].as_i64().unwrap_or(0);
    same(round(now) < round(old), "status.round never goes back")?;
    let same_round = round(now) == round(old);
    let opens = latched(now).as_deref() == Some("Open") && latched(old).as_deref() != Some("Open");
    match what {
        What::Mutexes | What::OurLeases => same(holders.len() > 1, "there is at most one holder"),
        What::RwMutexes => {
            same(holders.len() > 1 && !holders.iter().all(|holder| holder["mode"] == "Read"), "a writer of an RWMutex holds it alone")
        }
        What::Semaphores => {
            let sum: i64 = holders.iter().map(|holder| holder["permits"].as_i64().unwrap_or(1)).sum();
            let known = |token: i64| holders.iter().all(|holder| holder["token"].as_i64().is_some_and(|own| own <= token));
            same(
                sum > after["spec"]["permits"].as_i64().unwrap_or(0) && !before_token.is_some_and(known),
                "the holders' permits exceed spec.permits",
            )
        }
        What::Onces => {
            same(holders.len() > 1, "one executes at a time")?;
            same(now["executed"] == true && !holders.is_empty(), "nobody executes what is executed")?;
            same(same_round && old["executed"] == true && now["executed"] != true, "what is executed stays so in this round")
        }
        What::WaitGroups => {
            let done = |status: &Value| status["doneAt"].is_string();
            same(done(now) && !done(old) && now["counter"].as_i64().unwrap_or(0) != 0, "a WaitGroup is done when its counter is zero")?;
            same(same_round && done(old) && !done(now), "what is done stays so in this round")
        }
        What::Barriers => {
            let (were, are) = (list(before, "status", "arrivals"), list(after, "status", "arrivals"));
            let quorum = after["spec"]["quorum"].as_u64().or(after["spec"]["expected"].as_u64()).unwrap_or(1);
            let twice = (0..are.len()).any(|index| are[..index].iter().any(|other| other["uid"] == are[index]["uid"]));
            same(twice, "status.arrivals: duplicate uid")?;
            same(same_round && are.len() < were.len(), "who has arrived stays counted in this round")?;
            same(opens && (are.len() as u64) < quorum, "a Barrier opens when spec.quorum participants have arrived")?;
            same(same_round && latched(old).is_some() && latched(old) != latched(now), "what is open or has failed stays so in this round")
        }
        What::Gates => {
            let conditions = list(after, "status", "conditionStatuses");
            let met = !conditions.is_empty() && conditions.iter().all(|condition| condition["met"] == true);
            same(opens && !met && now["byHand"]["open"] != true, "a Gate opens when all its conditions are met, or by hand")?;
            same(same_round && latched(old).is_some() && latched(old) != latched(now), "what is open or has failed stays so in this round")
        }
        _ => Ok(()),
    }
}
