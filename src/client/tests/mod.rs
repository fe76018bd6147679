//! The SDK against a small API server of Claims in memory, on paused time: what is withdrawn, what is renewed, and when a hold counts as lost.

#![cfg(feature = "server")]

mod server;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use self::server::Server;
use super::{Ask, Error, Options};
use crate::api::{ClaimKind, Operation};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_renewed_and_released() {
    let server = Server::new().grants(secs(31));
    let client = server.client();
    let guard = client.mutex("db").lock(Options::default()).await.unwrap();
    assert_eq!(guard.token(), 7);
    sleep(secs(300)).await;
    assert!(guard.remaining() > Duration::ZERO);
    let renewals = server.claims()[0]["spec"]["renewals"].as_i64().unwrap();
    assert!((25..=31).contains(&renewals), "every third of the ttl: {renewals}");
    guard.release().await.unwrap();
    assert!(server.claims().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_cannot_be_renewed_is_lost_before_anybody_else_can_hold() {
    let server = Server::new().grants(secs(600));
    let options = Options::default().ttl(secs(30));
    let guard = server.client().mutex("db").lock(options).await.unwrap();
    sleep(secs(95)).await;
    let last = server.claims()[0]["spec"]["renewals"].clone();
    // As late as konductor could have seen the last renewal, it is not over yet.
    let began = Instant::now();
    server.state().silent = true;
    let why = timeout(secs(31), guard.lost()).await.expect("it is lost within its ttl");
    assert!(began.elapsed() < secs(25), "{why}");
    assert!(why.contains("could not be renewed"), "{why}");
    assert_eq!(guard.remaining(), Duration::ZERO);
    assert_eq!(server.claims()[0]["spec"]["renewals"], last);
}

#[tokio::test(start_paused = true)]
async fn a_short_silence_is_outlasted() {
    let server = Server::new().grants(secs(600));
    let guard = server.client().mutex("db").lock(Options::default().ttl(secs(60))).await.unwrap();
    sleep(secs(19)).await;
    server.state().silent = true;
    sleep(secs(20)).await;
    server.state().silent = false;
    assert!(timeout(secs(600), guard.lost()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_was_granted_without_an_answer_is_not_believed_for_longer_than_it_lasts() {
    let server = Server::new().grants(secs(600));
    let client = server.client();
    server.state().mute = true;
    let waiting = tokio::spawn(async move { client.mutex("db").lock(Options::default().ttl(secs(30))).await });
    sleep(secs(5)).await;
    server.state().mute = false;
    let guard = waiting.await.unwrap().unwrap();
    assert!(!guard.resumed());
    assert_eq!(server.claims()[0]["spec"]["renewals"], 1, "granted when it was first asked for, or later: nobody knows");
}

#[tokio::test(start_paused = true)]
async fn what_is_granted_after_a_while_is_kept_through_a_short_silence() {
    let server = Server::new();
    let client = server.client();
    let waiting = tokio::spawn(async move { client.mutex("db").lock(Options::default().ttl(secs(30))).await });
    sleep(secs(10)).await;
    server.state().silent = true;
    server.say(&json!({ "phase": "Granted", "token": 7 }));
    sleep(secs(10)).await;
    assert!(!waiting.is_finished());
    server.state().silent = false;
    assert!(waiting.await.unwrap().unwrap().remaining() > secs(20));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_counts_is_not_overwritten() {
    let server = Server::new().grants(secs(600));
    let guard = server.client().mutex("db").lock(Options::default().ttl(secs(30))).await.unwrap();
    let name = server.claims()[0]["metadata"]["name"].as_str().unwrap().to_owned();
    server.change(&name, |claim| claim["spec"]["renewals"] = 41.into());
    sleep(secs(11)).await;
    assert_eq!(server.claims()[0]["spec"]["renewals"], 42);
    assert!(guard.remaining() > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_loses_the_claim_learns_of_it_at_once() {
    let server = Server::new().grants(secs(600));
    let client = server.client();
    for loss in ["deleted", "expired", "being deleted"] {
        let guard = client.mutex("db").lock(Options::default()).await.unwrap();
        let name = server.claims()[0]["metadata"]["name"].as_str().unwrap().to_owned();
        let began = Instant::now();
        let lost = guard.lost();
        match loss {
            "deleted" => drop(server.delete(&name)),
            "expired" => drop(server.change(&name, |claim| claim["status"] = json!({ "phase": "Expired", "message": "not renewed" }))),
            _ => drop(server.change(&name, |claim| claim["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into())),
        }
        lost.await;
        assert!(began.elapsed() < secs(1), "{loss}");
        assert!(matches!(guard.release().await, Err(Error::Lost(_))), "{loss}");
        assert!(server.claims().is_empty(), "{loss}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_is_withdrawn() {
    let server = Server::new();
    let client = server.client();
    assert!(timeout(secs(5), client.mutex("db").lock(Options::default())).await.is_err());
    client.settled().await;
    assert!(server.claims().is_empty(), "it waited");
    let server = server.grants(secs(60));
    drop(client.mutex("db").lock(Options::default()).await.unwrap());
    client.settled().await;
    assert!(server.claims().is_empty(), "it held");
}

/// Whoever gives up while the answer is on its way must not end before the withdrawal of what was answered: on two threads, the two meet now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_while_it_is_made_is_withdrawn() {
    let server = Server::new();
    for attempt in 0..2_000 {
        let (client, mut changes) = (server.client(), server.changes.subscribe());
        let mutex = client.mutex("db");
        tokio::select! {
            _ = mutex.lock(Options::default()) => panic!("nobody grants"),
            made = changes.recv() => assert_eq!(made.unwrap().1, "ADDED"),
        }
        client.settled().await;
        assert!(server.claims().is_empty(), "attempt {attempt}: {:?}", server.claims());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_begun_to_end_ends_even_if_nobody_waits_for_it() {
    let server = Server::new().grants(secs(600));
    let client = server.client();
    let ask = Ask::new(ClaimKind::Mutex, "db", Operation::Acquire);
    for silent in [false, true] {
        let (guard, claimed) = (client.hold(&ask).await.unwrap(), client.ask(&ask).await.unwrap());
        server.state().silent = silent;
        drop((guard.release(), claimed.end()));
        sleep(secs(5)).await;
        server.state().silent = false;
        client.settled().await;
        assert!(server.claims().is_empty(), "silent: {silent}");
    }
    drop((client.hold(&ask).await.unwrap().release(), client.ask(&ask).await.unwrap().end()));
    client.settled().await;
    assert!(server.claims().is_empty(), "at once");
}

#[tokio::test(start_paused = true)]
async fn a_reported_execution_is_on_record_even_if_nobody_waits_for_it() {
    let server = Server::new().grants(secs(600));
    let client = server.client();
    let execution = client.once("migrate").execute(Options::default()).await.unwrap().expect("nobody has");
    drop(execution.finish(true));
    let settling = tokio::spawn(async move { client.settled().await });
    sleep(secs(5)).await;
    assert_eq!(server.claims()[0]["spec"]["succeeded"], true, "said, and not gone");
    assert!(!settling.is_finished());
    server.say(&json!({ "phase": "Released" }));
    settling.await.unwrap();
    assert!(server.claims().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_execution_is_reported_after_an_outage_shorter_than_its_ttl() {
    for unanswered in [false, true] {
        let server = Server::new().grants(secs(600));
        let execution = server.client().once("migrate").execute(Options::default().ttl(secs(300))).await.unwrap().expect("nobody has");
        (server.state().silent, server.state().mute) = (!unanswered, unanswered);
        let finishing = tokio::spawn(execution.finish(true));
        sleep(secs(60)).await;
        (server.state().silent, server.state().mute) = (false, false);
        sleep(secs(20)).await;
        assert_eq!(server.claims()[0]["spec"]["succeeded"], true, "unanswered: {unanswered}");
        server.say(&json!({ "phase": "Released" }));
        finishing.await.unwrap().unwrap();
        assert!(server.claims().is_empty(), "unanswered: {unanswered}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_konductor_a_reported_execution_stays_for_when_it_is_back() {
    let server = Server::new().grants(secs(600));
    let execution = server.client().once("migrate").execute(Options::default()).await.unwrap().expect("nobody has");
    assert!(matches!(execution.finish(true).await, Err(Error::Unavailable(_))));
    assert_eq!(server.claims()[0]["spec"]["succeeded"], true);
    let client = server.client().holder("worker-0");
    let execution = client.once("seed").execute(Options::default()).await.unwrap().expect("nobody has");
    assert!(execution.finish(true).await.is_err());
    let again = client.once("seed").execute(Options::default()).await;
    assert!(matches!(again, Err(Error::Unavailable(_))), "it may be on record at any time");
}

#[tokio::test(start_paused = true)]
async fn the_same_holder_gets_its_hold_back_and_only_one_of_a_process_may_have_it() {
    let server = Server::new().grants(secs(600));
    let first = server.client().holder("worker-0");
    let guard = first.mutex("db").lock(Options::default()).await.unwrap();
    assert!(!guard.resumed());
    assert!(matches!(first.mutex("db").lock(Options::default()).await, Err(Error::Denied(_))));
    // Another process of that name: the first has died without a word.
    let again = server.client().holder("worker-0").mutex("db").lock(Options::default()).await.unwrap();
    assert!(again.resumed() && again.token() == guard.token());
    assert_eq!(server.claims().len(), 1);
    // It has taken over: what the first one had is released with it.
    drop(again);
    sleep(secs(1)).await;
    assert!(server.claims().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_waits_for_the_end_of_what_it_gave_up() {
    let server = Server::new().grants(secs(600));
    let client = server.client().holder("worker-0");
    for given_up in ["while it was made", "dropped", "released"] {
        if given_up == "while it was made" {
            server.state().silent = true;
            assert!(timeout(secs(1), client.mutex("db").lock(Options::default())).await.is_err());
        } else {
            let guard = client.mutex("db").lock(Options::default()).await.unwrap();
            server.state().silent = true;
            if given_up == "dropped" { drop(guard) } else { drop(guard.release()) }
        }
        let again = client.clone();
        let asking = tokio::spawn(async move { again.mutex("db").lock(Options::default()).await });
        sleep(secs(5)).await;
        server.state().silent = false;
        let guard = asking.await.unwrap().unwrap();
        assert!(!guard.resumed(), "{given_up}");
        client.settled().await;
        sleep(secs(60)).await;
        assert!(guard.remaining() > Duration::ZERO, "{given_up}");
        guard.release().await.unwrap();
        assert!(server.claims().is_empty(), "{given_up}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_made_without_an_answer_in_time_is_found() {
    let server = Server::new();
    let client = server.client().holder("a");
    server.state().mute = true;
    let waiting = tokio::spawn(async move { client.mutex("db").lock(Options::default()).await });
    sleep(secs(25)).await;
    server.state().mute = false;
    assert!(!waiting.is_finished(), "it waits by the Claim that was made");
    assert_eq!(server.claims().len(), 1);
    waiting.abort();
}

/// It has not asked for anything yet, so what there is is another process's.
#[tokio::test(start_paused = true)]
async fn who_gives_up_before_it_has_asked_withdraws_nothing() {
    let server = Server::new();
    let (first, second) = (server.client().holder("a"), server.client().holder("a"));
    let waiting = tokio::spawn(async move { first.mutex("db").lock(Options::default()).await.map(|_| ()) });
    sleep(secs(1)).await;
    assert!(timeout(Duration::ZERO, second.mutex("db").lock(Options::default())).await.is_err());
    second.settled().await;
    sleep(secs(1)).await;
    assert_eq!(server.claims().len(), 1);
    assert!(!waiting.is_finished());
}

#[tokio::test(start_paused = true)]
async fn what_was_made_without_an_answer_is_withdrawn_when_it_is_given_up() {
    let server = Server::new();
    for client in [server.client(), server.client().holder("a")] {
        server.state().mute = true;
        assert!(timeout(secs(1), client.mutex("db").lock(Options::default())).await.is_err());
        assert_eq!(server.claims().len(), 1);
        server.state().mute = false;
        client.settled().await;
        assert!(server.claims().is_empty());
    }
}

/// The name of a machine, say, in two terminals: both wait by one Claim.
#[tokio::test(start_paused = true)]
async fn who_gives_up_a_claim_that_another_waits_by_leaves_it_if_it_is_granted() {
    let granted = json!({ "phase": "Granted", "token": 7, "grantedAt": "2026-01-01T00:00:00Z", "expiresAt": "2026-01-01T00:10:00Z" });
    for is_granted in [false, true] {
        let server = Server::new();
        let (first, second) = (server.client().holder("a"), server.client().holder("a"));
        let waiting = tokio::spawn(async move { first.mutex("db").lock(Options::default()).await });
        sleep(secs(1)).await;
        let (mutex, told) = (second.mutex("db"), second.clone());
        assert!(timeout(secs(1), mutex.lock(Options::default())).await.is_err());
        if is_granted {
            // The withdrawal has not begun: nothing else has run since.
            server.say(&granted);
        }
        told.settled().await;
        assert_eq!(server.claims().len(), usize::from(is_granted));
        assert_eq!(waiting.await.unwrap().is_ok(), is_granted);
    }
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_asking_again_keeps_what_it_held_before() {
    let server = Server::new().grants(secs(600));
    let held = server.client().holder("worker-0").mutex("db").lock(Options::default()).await.unwrap();
    let again = server.client().holder("worker-0");
    server.state().silent = true;
    assert!(timeout(secs(5), again.mutex("db").lock(Options::default())).await.is_err());
    server.state().silent = false;
    again.settled().await;
    assert_eq!(server.claims().len(), 1);
    held.release().await.unwrap();
    assert!(server.claims().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_for_what_and_why_not() {
    let server = Server::new();
    let (client, heard) = (server.client(), Arc::new(Mutex::new(Vec::new())));
    let told = heard.clone();
    let options = Options::default().timeout(secs(60)).on_wait(move |message| told.lock().unwrap().push(message.to_owned()));
    let waiting = tokio::spawn(async move { client.mutex("db").lock(options).await.map(|_| ()) });
    sleep(secs(1)).await;
    server.say(&json!({ "phase": "Pending", "message": "next in line for mutex/db" }));
    sleep(secs(1)).await;
    let granted =
        json!({ "type": "Granted", "status": "False", "reason": "TimedOut", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    server.say(&json!({ "phase": "Denied", "message": "timed out waiting for mutex/db", "conditions": [granted] }));
    assert_eq!(waiting.await.unwrap(), Err(Error::Timeout("timed out waiting for mutex/db".to_owned())));
    assert_eq!(*heard.lock().unwrap(), ["next in line for mutex/db"]);
    assert!(server.claims().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_konductor_a_timeout_ends_all_the_same() {
    let server = Server::new();
    let outcome = server.client().gate("ready").wait(Options::default().timeout(secs(10))).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    assert!(server.claims().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_execution_is_on_record_before_its_claim_goes() {
    let server = Server::new().grants(secs(600));
    let execution = server.client().once("migrate").execute(Options::default()).await.unwrap().expect("nobody has");
    let finishing = tokio::spawn(execution.finish(true));
    sleep(secs(5)).await;
    assert_eq!(server.claims()[0]["spec"]["succeeded"], true, "said, and not gone");
    server.say(&json!({ "phase": "Released" }));
    finishing.await.unwrap().unwrap();
    assert!(server.claims().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_what_it_made_leaves_it_if_another_holds_by_it() {
    let server = Server::new();
    let (first, second) = (server.client().holder("a"), server.client().holder("a"));
    let mutex = first.mutex("db");
    let mut asked = Box::pin(mutex.lock(Options::default()));
    assert!(timeout(secs(1), &mut asked).await.is_err());
    let waiting = tokio::spawn(async move { second.mutex("db").lock(Options::default()).await });
    sleep(secs(1)).await;
    server.say(&json!({ "phase": "Granted", "token": 7, "grantedAt": "2026-01-01T00:00:00Z", "expiresAt": "2026-01-01T00:10:00Z" }));
    let guard = waiting.await.unwrap().unwrap();
    // It has not looked since.
    drop(asked);
    first.settled().await;
    sleep(secs(100)).await;
    assert!(guard.remaining() > Duration::ZERO);
}
