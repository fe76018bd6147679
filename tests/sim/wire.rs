//! The wire between a konductor process and the API server, as a tower service under `kube::Client`: requests that are late, lost, doubled or refused,
//! answers that are lost after the commit, watches that lag, stall, break off or were compacted away.

use std::{
    future::pending,
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::{Body, Bytes};
use futures::{FutureExt, future::BoxFuture, stream};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::{
    sync::{Notify, oneshot},
    time::{Duration, Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};

use crate::{
    core::{Core, Sim},
    request::{Answer, Asked, Place, What, Writer},
};

/// One process's connection.
#[derive(Clone)]
pub struct Wire {
    pub sim: Arc<Sim>,
    pub process: usize,
    /// The life of the process: what is dead sends nothing.
    pub life: CancellationToken,
}

impl Service<Request<kube::client::Body>> for Wire {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let wire = self.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let asked = Asked::of(parts.method, &parts.uri, &body).ok_or_else(|| format!("no such path: {}", parts.uri))?;
            if wire.life.is_cancelled() {
                return pending().await;
            }
            if asked.watches() { wire.watch(asked).await } else { wire.carry(asked).await }
        }
        .boxed()
    }
}

/// What will happen to a request.
struct Fate {
    there: Duration,
    back: Duration,
    /// It never arrives: an error comes, or nothing.
    lost: Option<Silence>,
    /// It arrives and is executed, but its answer does not come back.
    unanswered: Option<Silence>,
    /// It arrives a second time; the answer is that of the first or the second arrival.
    twice: Option<(Duration, bool)>,
    /// The API server refuses it without executing it.
    refused: Option<u16>,
    /// Somebody else writes the object just before.
    outside: bool,
    /// Its sender dies before it is sent, when it is executed, or with the answer in hand.
    dies: Option<Moment>,
}

#[derive(Clone, Copy, PartialEq)]
enum Moment {
    Before,
    Executed,
    Answered,
}

#[derive(Clone, Copy)]
enum Silence {
    Error,
    Nothing,
}

impl Core {
    fn silence(&mut self) -> Silence {
        if self.chance.permille(700) { Silence::Error } else { Silence::Nothing }
    }

    fn delay(&mut self) -> Duration {
        if !self.chaos {
            return self.chance.millis(1, 3);
        }
        if self.strikes(self.faults.slow) { self.chance.millis(50, 4000) } else { self.chance.millis(1, 20) }
    }

    /// A process asks for something. Whatever goes wrong, and however many are there: none has reason to ask that often, but what reacts to its own requests.
    fn counted(&mut self, process: usize) {
        const WITHIN: Duration = Duration::from_secs(10);
        const MOST: usize = 400;
        let now = Instant::now();
        let asked = &mut self.processes[process].asked;
        asked.push_back(now);
        while asked.front().is_some_and(|at| now - *at > WITHIN) {
            asked.pop_front();
        }
        let count = asked.len();
        self.stats.busiest = self.stats.busiest.max(count as u64);
        if count > MOST {
            asked.clear();
            self.violation("5 (restless)", format!("konductor-{process} asked the API server for {count} things within {WITHIN:?}"));
        }
    }

    fn fate(&mut self, process: usize, asked: &Asked) -> Fate {
        let status_write = asked.writes() && asked.what.is_primitive();
        let faults = self.faults.clone();
        let cut = self.processes[process].cut_until.filter(|until| *until > Instant::now());
        let mut there = self.delay();
        let mut lost = self.strikes(faults.lost_on_the_way).then(|| self.silence());
        if let Some(until) = cut {
            // Through a cut, some requests wait in a buffer for its end, most are lost.
            if self.chance.permille(300) {
                there += until - Instant::now();
            } else {
                lost = Some(self.silence());
            }
        }
        Fate {
            there,
            back: self.delay(),
            lost,
            unanswered: self.strikes(if asked.writes() { faults.lost_after } else { faults.lost_after / 4 }).then(|| self.silence()),
            twice: self.strikes(faults.twice).then(|| (self.chance.millis(0, 3000), self.chance.coin())),
            refused: if self.strikes(faults.refused) { self.chance.pick(&[429, 500, 503, 504]).copied() } else { None },
            outside: status_write && self.strikes(faults.outside),
            dies: if asked.writes() && self.strikes(faults.crash / 2) {
                self.chance.pick(&[Moment::Before, Moment::Executed, Moment::Answered]).copied()
            } else {
                None
            },
        }
    }

    /// A request arrives.
    fn arrive(&mut self, process: usize, sent: Instant, asked: &Asked, outside: bool) -> Answer {
        self.stats.operations += 1;
        if outside {
            self.poke(&(asked.what, asked.namespace.clone(), asked.name.clone()));
        }
        let answer = self.execute(Writer::Process { process, sent }, asked);
        if answer.code == 409 && asked.writes() && asked.what.is_primitive() {
            self.stats.conflicts += 1;
        }
        if asked.what != What::Leases && asked.what != What::Events {
            self.note((process as u64, u64::from(answer.code)), |_| described(process, asked, &answer));
        }
        answer
    }

    /// Somebody else's write, which means nothing.
    pub fn poke(&mut self, place: &Place) {
        let number = self.revision;
        self.change(place, |object| object["metadata"]["annotations"]["example.com/poked"] = number.to_string().into());
    }
}

fn described(process: usize, asked: &Asked, answer: &Answer) -> String {
    let Asked { method, what, name, sub, body, .. } = asked;
    let version = body["metadata"]["resourceVersion"].as_str().map(|version| format!(" at {version}")).unwrap_or_default();
    let mut text = format!("konductor-{process}  {method} {}/{name} {sub}{version} -> {}", what.plural(), answer.code);
    if what.is_primitive() && answer.code == 200 && !name.is_empty() {
        text.push_str(&crate::judge::summary(&answer.body));
    } else if answer.code >= 400 {
        text.push_str(&format!(" {}", answer.body["message"].as_str().unwrap_or_default()));
    }
    text
}

impl Wire {
    async fn carry(self, asked: Asked) -> Result<Response<Body>, BoxError> {
        let Self { sim, process, life } = self;
        let sent = Instant::now();
        let fate = {
            let mut core = sim.lock();
            core.counted(process);
            core.fate(process, &asked)
        };
        let dies = |moment: Moment| {
            let strikes = fate.dies == Some(moment) && !life.is_cancelled();
            if strikes {
                sim.lock().crash(process);
            }
            strikes
        };
        if dies(Moment::Before) {
            return pending().await;
        }
        if let Some(silence) = fate.lost {
            return silent(silence, fate.there).await;
        }
        let (answered, answer) = oneshot::channel();
        let writes = asked.writes();
        // It travels by itself: that its sender dies or stops waiting does not call it back.
        tokio::spawn({
            let sim = sim.clone();
            async move {
                sleep(fate.there).await;
                let first = match fate.refused {
                    Some(code) if code == 429 || !asked.writes() || sim.lock().chance.coin() => {
                        Answer::problem(code, "Unavailable", "simulated")
                    }
                    executed => {
                        let answer = sim.lock().arrive(process, sent, &asked, fate.outside);
                        executed.map_or(answer, |code| {
                            sim.lock().stats.ambiguous += 1;
                            Answer::problem(code, "Unavailable", "simulated, after it was executed")
                        })
                    }
                };
                let _ = match fate.twice {
                    Some((later, second)) if fate.refused.is_none() => {
                        if !second {
                            let _ = answered.send(first);
                            sleep(later).await;
                            sim.lock().arrive(process, sent, &asked, false);
                            return;
                        }
                        sleep(later).await;
                        let again = sim.lock().arrive(process, sent, &asked, false);
                        answered.send(again)
                    }
                    _ => answered.send(first),
                };
            }
        });
        let answer = answer.await.map_err(|_| "the simulation ended")?;
        if dies(Moment::Executed) {
            return pending().await;
        }
        if let Some(silence) = fate.unanswered {
            if writes && answer.code < 300 {
                sim.lock().stats.ambiguous += 1;
            }
            return silent(silence, fate.back).await;
        }
        sleep(fate.back).await;
        if dies(Moment::Answered) || life.is_cancelled() {
            return pending().await;
        }
        let date = sim.lock().date();
        let body = serde_json::to_vec(&answer.body)?;
        Ok(Response::builder()
            .status(answer.code)
            .header("date", date)
            .header("content-type", "application/json")
            .body(Body::from(body))?)
    }

    async fn watch(self, asked: Asked) -> Result<Response<Body>, BoxError> {
        let sent = sim_delay(&self.sim);
        sleep(sent).await;
        let from: u64 = asked.query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
        let (compacted, date, lost, timeout) = {
            let mut core = self.sim.lock();
            core.stats.operations += 1;
            let lost = core.processes[self.process].cut_until.is_some_and(|until| until > Instant::now());
            let timeout = asked.query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(290);
            (from < core.compacted, core.date(), lost, timeout)
        };
        if lost {
            return silent(Silence::Error, sent).await;
        }
        let body = if compacted {
            let gone = Answer::problem(410, "Expired", "too old resource version");
            Body::from(format!("{}\n", serde_json::json!({"type": "ERROR", "object": gone.body})))
        } else {
            let open = Arc::new(());
            let (pulse, breaks) = {
                let mut core = self.sim.lock();
                let pulse = core.pulse.clone();
                let process = &mut core.processes[self.process];
                if !asked.query.contains_key("fieldSelector") {
                    process.watches.insert(asked.what, (Arc::downgrade(&open), Instant::now()));
                }
                (pulse, process.watches_broken)
            };
            let ends = Instant::now() + Duration::from_secs(timeout);
            let watching = Watching { wire: self, asked, cursor: from, marked: from, breaks, ends, pulse, _open: open };
            Body::from_stream(stream::unfold(watching, |mut watching| async move {
                let line = watching.next().await?;
                Some((line, watching))
            }))
        };
        Ok(Response::builder().status(200).header("date", date).body(body)?)
    }
}

fn sim_delay(sim: &Sim) -> Duration {
    sim.lock().delay()
}

async fn silent(silence: Silence, after: Duration) -> Result<Response<Body>, BoxError> {
    sleep(after).await;
    match silence {
        Silence::Error => Err(io::Error::new(io::ErrorKind::ConnectionReset, "simulated").into()),
        Silence::Nothing => pending().await,
    }
}

/// An open watch.
struct Watching {
    wire: Wire,
    asked: Asked,
    cursor: u64,
    marked: u64,
    /// How often this process's watches had been broken when this one began.
    breaks: u64,
    ends: Instant,
    pulse: Arc<Notify>,
    /// Gone as soon as nobody reads this watch any more.
    _open: Arc<()>,
}

enum Next {
    Line { at: Instant, revision: u64, line: Bytes },
    Nothing,
    End { broken: bool },
}

impl Watching {
    /// The next line; `None` is the end of the stream.
    async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        loop {
            if self.wire.life.is_cancelled() {
                return pending().await;
            }
            let pulse = self.pulse.clone();
            let mut changed = pin!(pulse.notified());
            changed.as_mut().enable();
            let next = self.look();
            match next {
                Next::Line { at, revision, line } => {
                    sleep_until(at).await;
                    // A stall may have begun meanwhile.
                    let stalled = self.stalled();
                    if let Some(until) = stalled {
                        // It may be repaired before its time.
                        sleep_until(until.min(Instant::now() + Duration::from_secs(1))).await;
                        continue;
                    }
                    self.cursor = revision;
                    self.marked = revision;
                    return Some(Ok(line));
                }
                Next::End { broken: false } => return None,
                Next::End { broken: true } => return Some(Err(io::Error::new(io::ErrorKind::ConnectionReset, "simulated"))),
                Next::Nothing => {}
            }
            if Instant::now() >= self.ends {
                return None;
            }
            let idle = self.ends.min(Instant::now() + Duration::from_secs(60));
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(idle) => {
                    let core = self.wire.sim.lock();
                    if core.revision > self.marked && core.revision > self.cursor && self.stalled_in(&core).is_none() {
                        self.marked = core.revision;
                        self.cursor = core.revision;
                        return Some(Ok(core.bookmark(self.asked.what)));
                    }
                }
            }
        }
    }

    fn stalled(&self) -> Option<Instant> {
        self.stalled_in(&self.wire.sim.lock())
    }

    fn stalled_in(&self, core: &Core) -> Option<Instant> {
        let process = &core.processes[self.wire.process];
        let stall = process.stalled.get(&self.asked.what).copied();
        [process.cut_until, stall].into_iter().flatten().filter(|until| *until > Instant::now()).max()
    }

    fn look(&self) -> Next {
        let core = &mut *self.wire.sim.lock();
        let faults = core.faults.clone();
        if core.processes[self.wire.process].watches_broken > self.breaks {
            return Next::End { broken: core.chance.coin() };
        }
        let from = core.history.partition_point(|change| change.revision <= self.cursor);
        let found = core.history[from..].iter().find(|change| self.asked.selects(change.what, &change.object));
        let Some((revision, at, line)) = found.map(|change| (change.revision, change.at, change.line.clone())) else {
            return Next::Nothing;
        };
        if core.strikes(faults.watch_end) {
            return Next::End { broken: core.chance.coin() };
        }
        let lag = if core.strikes(faults.watch_slow) { core.chance.millis(100, 8000) } else { core.chance.millis(1, 15) };
        Next::Line { at: at + lag, revision, line }
    }
}

impl Core {
    /// The `Date` of an answer: whole seconds, and under chaos of an API server whose clock may be somewhat behind, never ahead.
    fn date(&mut self) -> String {
        let behind = if self.strikes(self.faults.clock * 4) { self.chance.between(0, 3000) } else { 0 };
        let time = self.server_time() - jiff::SignedDuration::from_millis(i64::try_from(behind).unwrap_or(0));
        time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }
}
