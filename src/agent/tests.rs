//! The agent against a real TLS server on loopback that follows a script.

use std::{
    collections::HashMap,
    convert::Infallible,
    fs,
    future::{Future, pending, ready},
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::ServerConfig;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::TcpListener,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use webhook_certs::{
    Policy,
    contents::{Contents, Data},
    rotation,
};

use super::{
    Outcome, acquire,
    coordinator::{Coordinator, SILENCE},
    hold,
    settings::{Mistakes, Settings},
    voice::Voice,
};
use crate::coordinator::protocol::LINES;

const NAME: &str = "konductor-coordinator.konductor-system.svc";

/// What the server does with a request.
#[derive(Clone)]
enum Reply {
    /// A status and a body.
    Status(u16, String),
    /// Lines, each after a pause; then the end of the response.
    Lines(Vec<(Duration, String)>),
    /// The same, and then silence with the connection open.
    Hang(Vec<(Duration, String)>),
    /// Lines without HTTP around them, and without the pauses, on a connection that is upgraded; then its end.
    Plain(Vec<(Duration, String)>),
    /// The connection breaks.
    Break,
}

fn waiting(message: &str) -> (Duration, String) {
    (Duration::ZERO, json!({"event": "waiting", "message": message}).to_string())
}

fn heartbeat(after: u64) -> (Duration, String) {
    (Duration::from_secs(after), json!({"event": "heartbeat"}).to_string())
}

fn granted(token: i64) -> (Duration, String) {
    (Duration::ZERO, json!({"event": "granted", "tokens": [{"target": "mutex/db", "token": token}]}).to_string())
}

fn refused(reason: &str, message: &str) -> (Duration, String) {
    (Duration::ZERO, json!({"event": "refused", "reason": reason, "message": message}).to_string())
}

fn problem(status: u16, words: &str) -> Reply {
    Reply::Status(status, json!({"error": words}).to_string())
}

fn held(held: bool) -> Reply {
    let answer = if held {
        json!({"held": true, "tokens": [{"target": "mutex/db", "token": 7}]})
    } else {
        json!({"held": false, "message": "mutex/db is held by job/other"})
    };
    Reply::Status(200, answer.to_string())
}

/// The server, and an agent's surroundings.
struct Stage {
    settings: Settings,
    memory: mpsc::UnboundedSender<DuplexStream>,
    paused: bool,
    log: Log,
    /// Path and bearer of each request.
    requests: Arc<Mutex<Vec<(String, String)>>>,
}

impl Stage {
    /// The n-th request (from 0) of whatever path is answered with the n-th reply; the last one goes on for ever.
    async fn new(script: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (settings, tls) = surroundings(listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let server = Server { tls, requests: Arc::clone(&requests), script: script.into() };
        let (memory, mut connections) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                // Endless: each stage has a runtime of its own, which ends it.
                tokio::select! {
                    accepted = listener.accept() => tokio::spawn(server.clone().serve(accepted.unwrap().0)),
                    Some(stream) = connections.recv() => tokio::spawn(server.clone().serve(stream)),
                };
            }
        });
        Self { settings, memory, paused: false, log: Log::default(), requests }
    }

    /// For a paused clock, which runs ahead of real sockets: the same TLS and HTTP, through memory.
    async fn paused(script: Vec<Reply>) -> Self {
        let mut stage = Self::new(script).await;
        stage.paused = true;
        stage
    }

    fn coordinator(&self) -> Coordinator {
        let coordinator = Coordinator::new(&self.settings).unwrap();
        if self.paused { coordinator.in_memory(self.memory.clone()) } else { coordinator }
    }

    fn voice(&self) -> Voice {
        Voice::new(self.log.clone())
    }

    async fn acquire(&self) -> Outcome {
        acquire::run(&self.coordinator(), &self.settings, &mut self.voice()).await
    }

    async fn hold(&self, terminated: impl Future<Output = ()>) -> Outcome {
        hold::run(&self.coordinator(), &self.settings, &mut self.voice(), terminated).await
    }

    fn paths(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(path, _)| path.clone()).collect()
    }
}

#[derive(Clone)]
struct Server {
    tls: TlsAcceptor,
    requests: Arc<Mutex<Vec<(String, String)>>>,
    script: Arc<[Reply]>,
}

impl Server {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let Ok(stream) = self.tls.accept(stream).await else { return };
        let service = service_fn(|request: Request<Incoming>| ready(answer(&self.requests, &self.script, request)));
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn answer(seen: &Mutex<Vec<(String, String)>>, script: &[Reply], mut request: Request<Incoming>) -> io::Result<Answer> {
    let mut seen = seen.lock().unwrap();
    let reply = script.get(seen.len()).or(script.last()).unwrap().clone();
    let bearer = request.headers()["authorization"].to_str().unwrap().to_owned();
    assert_eq!(request.headers()["host"], NAME);
    seen.push((request.uri().path().to_owned(), bearer));
    let lines = |lines: Vec<(Duration, String)>| {
        stream::iter(lines).then(async |(pause, line)| {
            sleep(pause).await;
            Ok(Frame::data(Bytes::from(line + "\n")))
        })
    };
    match reply {
        Reply::Status(status, text) => Ok(Response::builder().status(status).body(Full::from(text).boxed()).unwrap()),
        Reply::Plain(script) => {
            assert_eq!(request.headers()["upgrade"], LINES);
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let text: String = script.into_iter().map(|(_, line)| line + "\n").collect();
                let mut connection = TokioIo::new(upgrade.await.unwrap());
                let _ = connection.write_all(text.as_bytes()).await;
                connection.shutdown().await
            });
            let upgraded = Response::builder().status(101).header("connection", "upgrade").header("upgrade", LINES);
            Ok(upgraded.body(Full::default().boxed()).unwrap())
        }
        Reply::Lines(script) => Ok(Response::new(body(lines(script)))),
        Reply::Hang(script) => Ok(Response::new(body(lines(script).chain(stream::pending())))),
        Reply::Break => Err(io::Error::other("scripted")),
    }
}

fn body(lines: impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync + 'static) -> BoxBody<Bytes, Infallible> {
    BodyExt::boxed(StreamBody::new(Box::pin(lines)))
}

/// Settings as injection would make them, with a CA and a leaf from the crate that makes the real ones.
fn surroundings(address: SocketAddr) -> (Settings, TlsAcceptor) {
    let nothing = Data::new();
    let data = Contents::read(&nothing)
        .advance(&nothing, rotation::Step::CreateAll, "test", &[NAME.to_owned()], Timestamp::now(), &Policy::default())
        .unwrap();
    let contents = Contents::read(&data);
    let leaf = contents.leaf.as_ref().map(|leaf| Arc::clone(&leaf.certified)).unwrap();
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from((*leaf).clone()));
    let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let folder = folder();
    fs::write(folder.join("token"), "first\n").unwrap();
    let token_file = folder.join("token").to_str().unwrap().to_owned();
    let environment = HashMap::from([
        ("KONDUCTOR_SERVER_ADDRESS", address.to_string()),
        ("KONDUCTOR_SERVER_NAME", NAME.to_owned()),
        ("KONDUCTOR_CA", contents.bundle_pem()),
        ("KONDUCTOR_TOKEN_FILE", token_file),
        ("POD_NAMESPACE", "team".to_owned()),
        ("POD_NAME", "etl".to_owned()),
    ]);
    let mut settings = Settings::from_environment(|name| environment.get(name).cloned()).unwrap();
    settings.fencing_directory = folder;
    (settings, TlsAcceptor::from(Arc::new(server.with_no_client_auth().with_cert_resolver(resolver))))
}

fn folder() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("konductor-agent-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.settings.fencing_directory);
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The lines without their times.
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.split_once("Z ").expect("a time in UTC").1.to_owned()).collect()
    }

    fn count(&self, words: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(words)).count()
    }
}

#[tokio::test]
async fn a_pod_that_waits_says_for_what_and_then_what_it_holds() {
    let third = waiting("waiting for mutex/db: 3rd in line, held by job/a");
    let script = vec![third.clone(), heartbeat(0), third, waiting("waiting for mutex/db: next in line, held by job/b"), granted(17)];
    let said = [
        "team/etl: asking for what its annotations say",
        "waiting for mutex/db: 3rd in line, held by job/a",
        "waiting for mutex/db: next in line, held by job/b",
        "holds mutex/db, token 17, after 0 s",
    ];
    for reply in [Reply::Lines(script.clone()), Reply::Plain(script)] {
        let stage = Stage::new(vec![reply]).await;
        assert_eq!(stage.acquire().await, Outcome::Granted);
        assert_eq!(stage.log.lines(), said);
        assert_eq!(*stage.requests.lock().unwrap(), [("/v1/acquire".to_owned(), "Bearer first".to_owned())]);
    }
}

#[tokio::test]
async fn each_kind_of_refusal_has_its_exit_code() {
    for (reply, outcome, code) in [
        (Reply::Lines(vec![refused("timedOut", "waited 10m")]), Outcome::TimedOut, 3),
        (Reply::Lines(vec![refused("denied", "mutex/x/db does not allow this namespace")]), Outcome::Denied, 4),
        (Reply::Lines(vec![refused("fromTheFuture", "because")]), Outcome::Denied, 4),
        (problem(400, "no annotations of ours"), Outcome::Denied, 4),
        (problem(422, "unknown kind"), Outcome::Denied, 4),
    ] {
        let stage = Stage::new(vec![reply]).await;
        assert_eq!(stage.acquire().await, outcome);
        assert_eq!(outcome.code(), code);
        assert_eq!(stage.paths().len(), 1, "a refusal is not tried again");
        let last = stage.log.lines().pop().unwrap();
        assert!(last.starts_with("gave up: waited 10m") || last.starts_with("refused: "), "{last}");
    }
}

#[tokio::test]
async fn a_lost_server_is_one_line_however_often_it_is_tried() {
    let stage = Stage::new(vec![
        Reply::Plain(vec![waiting("waiting for mutex/db")]),
        problem(503, "this replica does not lead"),
        Reply::Break,
        problem(500, "oops"),
        Reply::Lines(vec![waiting("waiting for mutex/db"), granted(1)]),
    ])
    .await;
    assert_eq!(stage.acquire().await, Outcome::Granted);
    assert_eq!(stage.log.count("trying again"), 1);
    assert_eq!(stage.log.count("connected again"), 1);
    assert_eq!(stage.log.count("waiting for mutex/db"), 1);
    assert_eq!(stage.paths().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_silent_session_is_given_up_after_three_heartbeats() {
    let stage = Stage::paused(vec![Reply::Hang(vec![heartbeat(5), heartbeat(14)]), Reply::Lines(vec![granted(1)])]).await;
    let start = Instant::now();
    assert_eq!(stage.acquire().await, Outcome::Granted);
    let expected = Duration::from_secs(19) + SILENCE;
    assert!((expected..expected + Duration::from_secs(1)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(stage.log.count("nothing was heard for 15 s"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_heartbeats_lasts() {
    let mut script: Vec<_> = (0..1000).map(|_| heartbeat(5)).collect();
    script.push(granted(1));
    let stage = Stage::paused(vec![Reply::Lines(script)]).await;
    assert_eq!(stage.acquire().await, Outcome::Granted);
    assert_eq!(stage.paths().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_is_waited_for_however_long() {
    let mut script = vec![problem(503, "starting"); 200];
    script.push(Reply::Lines(vec![granted(1)]));
    let stage = Stage::paused(script).await;
    let start = Instant::now();
    assert_eq!(stage.acquire().await, Outcome::Granted);
    assert!(start.elapsed() > Duration::from_secs(300), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_never_recognized_ends_with_the_servers_words() {
    for status in [401, 403] {
        let stage = Stage::paused(vec![problem(status, "the token is of another audience")]).await;
        assert_eq!(stage.acquire().await, Outcome::Denied);
        assert!(stage.log.lines().last().unwrap().ends_with("the token is of another audience"));
        assert_eq!(stage.paths().len(), 8);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_recognized_a_little_later_does_no_harm() {
    let script = vec![problem(401, "not yet"), problem(401, "not yet"), Reply::Lines(vec![granted(1)])];
    assert_eq!(Stage::paused(script).await.acquire().await, Outcome::Granted);
}

#[tokio::test(start_paused = true)]
async fn the_token_is_read_anew_for_every_attempt() {
    let stage = Stage::paused(vec![Reply::Hang(vec![waiting("for its turn")])]).await;
    assert!(timeout(Duration::from_secs(1), stage.acquire()).await.is_err());
    fs::write(stage.settings.fencing_directory.join("token"), "second").unwrap();
    assert!(timeout(Duration::from_secs(1), stage.acquire()).await.is_err());
    let bearers: Vec<_> = stage.requests.lock().unwrap().iter().map(|(_, bearer)| bearer.clone()).collect();
    assert_eq!(bearers, ["Bearer first", "Bearer second"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_of_another_ca_is_not_spoken_to() {
    let stage = Stage::paused(vec![Reply::Lines(vec![granted(1)])]).await;
    let mut stranger = Stage::paused(vec![Reply::Lines(vec![granted(1)])]).await;
    stranger.memory = stage.memory.clone();
    assert!(timeout(Duration::from_secs(60), stranger.acquire()).await.is_err());
    assert_eq!(stranger.log.count("does not trust"), 1);
    assert!(stage.paths().is_empty());
}

#[tokio::test]
async fn words_of_a_newer_server_do_no_harm() {
    let script = vec![(Duration::ZERO, json!({"event": "weather", "sun": true}).to_string()), (Duration::ZERO, String::new()), granted(1)];
    let stage = Stage::new(vec![Reply::Lines(script)]).await;
    assert_eq!(stage.acquire().await, Outcome::Granted);
}

#[tokio::test(start_paused = true)]
async fn with_fencing_the_step_ends_when_the_files_show_the_granted_tokens() {
    let mut stage = Stage::paused(vec![Reply::Lines(vec![granted(17)])]).await;
    stage.settings.fencing_holds = 1;
    let file = stage.settings.fencing_directory.join("0");
    fs::write(&file, "16").unwrap();
    assert!(timeout(Duration::from_secs(60), stage.acquire()).await.is_err(), "16 is the token of an earlier hold");
    let asked = stage.paths().len();
    assert!((5..=7).contains(&asked), "every ten seconds anew, since the kubelet may have missed that they are there: {asked}");
    fs::write(&file, "17\n").unwrap();
    assert_eq!(stage.acquire().await, Outcome::Granted);
    assert_eq!(stage.paths().len(), asked + 1, "and no more when they are there");
}

#[tokio::test(start_paused = true)]
async fn tokens_that_do_not_come_are_asked_for_again() {
    let mut stage = Stage::paused(vec![Reply::Lines(vec![granted(17)]), Reply::Lines(vec![granted(18)])]).await;
    stage.settings.fencing_holds = 1;
    fs::write(stage.settings.fencing_directory.join("0"), "18").unwrap();
    assert_eq!(stage.acquire().await, Outcome::Granted);
    assert_eq!(stage.paths().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_sidecar_asks_once_and_then_rests_until_it_reports_the_end() {
    let stage = Stage::paused(vec![held(true), Reply::Status(200, "{}".to_owned())]).await;
    assert_eq!(stage.hold(sleep(Duration::from_secs(86_400))).await, Outcome::Granted);
    assert_eq!(stage.paths(), ["/v1/verify", "/v1/release"]);
    assert_eq!(stage.log.lines(), ["team/etl holds mutex/db (token 7)", "reported that the app has ended"]);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_without_its_hold_says_so_and_keeps_running() {
    let stage = Stage::paused(vec![held(false)]).await;
    assert!(timeout(Duration::from_secs(600), stage.hold(pending())).await.is_err());
    assert_eq!(stage.log.count("WITHOUT its hold and will be deleted: mutex/db is held by job/other"), 1);
    assert!((10..=21).contains(&stage.paths().len()), "{}", stage.paths().len());
}

#[tokio::test(start_paused = true)]
async fn the_sidecar_verifies_as_soon_as_the_server_is_back() {
    let stage = Stage::paused(vec![problem(503, "starting"), Reply::Break, held(true)]).await;
    assert!(timeout(Duration::from_secs(2), stage.hold(pending())).await.is_err());
    assert_eq!(stage.paths(), ["/v1/verify"; 3]);
    assert_eq!(stage.log.count("cannot be verified yet"), 1);
    assert_eq!(stage.log.count("team/etl holds"), 1);
}

#[tokio::test]
async fn the_end_is_reported_even_before_the_hold_was_verified() {
    let stage = Stage::new(vec![Reply::Status(200, "{}".to_owned())]).await;
    assert_eq!(stage.hold(ready(())).await, Outcome::Granted);
    assert_eq!(stage.paths(), ["/v1/release"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_delays_the_end_by_less_than_a_second() {
    for reply in [Reply::Hang(Vec::new()), problem(503, "starting"), Reply::Break] {
        let stage = Stage::paused(vec![reply]).await;
        let start = Instant::now();
        assert_eq!(stage.hold(ready(())).await, Outcome::Granted);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(stage.log.count("konductor will see it by itself"), 1);
    }
}

#[test]
fn every_mistake_in_the_environment_is_named_at_once() {
    let nothing = Settings::from_environment(|_| None).unwrap_err();
    assert_eq!(
        nothing.to_string(),
        "bad configuration: KONDUCTOR_SERVER_ADDRESS is not set; KONDUCTOR_SERVER_NAME is not set; KONDUCTOR_CA is not set; KONDUCTOR_TOKEN_FILE is not set"
    );
    let nonsense = |name: &str| match name {
        "KONDUCTOR_TOKEN_FILE" => Some("/token".to_owned()),
        "KONDUCTOR_FENCING_HOLDS" => Some("many".to_owned()),
        _ => Some("no such thing!".to_owned()),
    };
    let Mistakes(mistakes) = Settings::from_environment(nonsense).unwrap_err();
    assert_eq!(
        mistakes,
        [
            "KONDUCTOR_SERVER_ADDRESS is not an IP address and a port",
            "KONDUCTOR_SERVER_NAME is not a DNS name",
            "KONDUCTOR_CA is not one or more CA certificates as PEM",
            "KONDUCTOR_FENCING_HOLDS is not a number",
            "KONDUCTOR_FENCING_ENV is not a list of NAME=NUMBER",
        ]
    );
    assert_eq!(Outcome::BadConfiguration.code(), 78);
}

#[test]
fn words_from_elsewhere_cannot_look_like_lines_of_ours() {
    let log = Log::default();
    Voice::new(log.clone()).say("waiting\n2026-11-03T12:00:00Z holds mutex/db");
    assert_eq!(log.lines().len(), 1);
}
