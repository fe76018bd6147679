//! `konductor agent install` and `konductor agent wrap` as the processes that they are, against a coordinator on loopback that says what a test wants: exit codes,
//! signals, pipes, environment, orphans, and what is said to konductor when.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test asserts by failing")]

use std::{
    convert::Infallible,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_rustls::TlsAcceptor;
use webhook_certs::{
    Policy,
    contents::{Contents, Data},
    rotation,
};

const NAME: &str = "konductor-coordinator.konductor-system.svc";

/// A coordinator, and the folder that a container would have.
struct Stage {
    folder: PathBuf,
    said: Arc<Said>,
    _runtime: Runtime,
}

/// What the coordinator answers, and what it was told.
struct Said {
    /// The last line of every acquire session; without one it never comes.
    answer: Option<Value>,
    /// What is held, from one request to the next.
    held: Mutex<Vec<Value>>,
    requests: Mutex<Vec<(String, Value)>>,
    /// A process that is looked at when the end is reported.
    watched: PathBuf,
    /// Whether it lived then.
    alive: Mutex<Vec<bool>>,
}

impl Said {
    fn answer(&self, path: &str, body: &Bytes) -> (Value, bool) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        self.requests.lock().unwrap().push((path.to_owned(), body));
        match path {
            "/v1/acquire" => {
                (self.answer.clone().unwrap_or(json!({ "event": "waiting", "message": "waiting for mutex/db" })), self.answer.is_none())
            }
            "/v1/held" => {
                let mut held = self.held.lock().unwrap();
                (json!({ "holds": if held.is_empty() { json!([]) } else { held.remove(0) } }), false)
            }
            _ => {
                if let Ok(pid) = fs::read_to_string(&self.watched) {
                    self.alive.lock().unwrap().push(Path::new("/proc").join(pid.trim()).exists());
                }
                (json!({}), false)
            }
        }
    }
}

fn granted() -> Option<Value> {
    Some(json!({ "event": "granted", "tokens": [{ "target": "mutex/db", "token": 7 }, { "target": "once/x", "token": 8 }] }))
}

impl Stage {
    fn new(answer: Option<Value>) -> Self {
        Self::holding(answer, Vec::new())
    }

    fn holding(answer: Option<Value>, held: Vec<Value>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let folder =
            std::env::temp_dir().join(format!("konductor-wrapper-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("token"), "secret\n").unwrap();
        fs::write(folder.join("termination-log"), "").unwrap();
        let said = Arc::new(Said {
            answer,
            held: Mutex::new(held),
            requests: Mutex::default(),
            watched: folder.join("watched"),
            alive: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (address, ca) = runtime.block_on(serve(said.clone()));
        let installed = Command::new(env!("CARGO_BIN_EXE_konductor"))
            .args(["agent", "install", "--to"])
            .arg(&folder)
            .env("KONDUCTOR_SERVER_ADDRESS", address.to_string())
            .env("KONDUCTOR_SERVER_NAME", NAME)
            .env("KONDUCTOR_CA", ca)
            .env("KONDUCTOR_TOKEN_FILE", folder.join("token"))
            .env("KONDUCTOR_TERMINATION_LOG", folder.join("termination-log"))
            .env("KONDUCTOR_FENCING_ENV", "KONDUCTOR_FENCING_TOKEN_MUTEX_DB=0 KONDUCTOR_FENCING_TOKEN_ONCE_X=1")
            .env("KONDUCTOR_FENCING_DIRECTORY", &folder)
            .status()
            .unwrap();
        assert!(installed.success());
        Self { folder, said, _runtime: runtime }
    }

    /// The wrapper, as the kubelet would start it in a container with this environment.
    fn wrap(&self, command: &[&str]) -> Command {
        let mut wrapper = Command::new(self.folder.join("konductor"));
        wrapper.args(["agent", "wrap", "--settings"]).arg(self.folder.join("settings.json")).arg("--").args(command);
        wrapper.env_clear().env("PATH", std::env::var("PATH").unwrap()).stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
        wrapper
    }

    fn sh(&self, script: &str) -> Command {
        let mut wrapper = self.wrap(&["sh", "-c", script]);
        wrapper.env("FOLDER", &self.folder);
        wrapper
    }

    fn code_of(&self, script: &str) -> i32 {
        code(self.sh(script).output().unwrap().status)
    }

    fn paths(&self) -> Vec<String> {
        self.said.requests.lock().unwrap().iter().map(|(path, _)| path.clone()).collect()
    }

    /// What was said when it ended.
    fn last_report(&self) -> Value {
        let requests = self.said.requests.lock().unwrap();
        requests.iter().rev().find(|(path, _)| path == "/v1/ended").map(|(_, body)| body.clone()).unwrap_or_default()
    }

    fn last_words(&self) -> String {
        fs::read_to_string(self.folder.join("termination-log")).unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A process ends by its own exit code, never by a signal: that is what a kubelet reports of a container's first process.
fn code(status: ExitStatus) -> i32 {
    status.code().expect("an exit code")
}

/// Serves on loopback; gives the address and the CA to trust.
async fn serve(said: Arc<Said>) -> (SocketAddr, String) {
    let nothing = Data::new();
    let data = Contents::read(&nothing)
        .advance(&nothing, rotation::Step::CreateAll, "test", &[NAME.to_owned()], Timestamp::now(), &Policy::default())
        .unwrap();
    let contents = Contents::read(&data);
    let leaf = contents.leaf.as_ref().map(|leaf| Arc::clone(&leaf.certified)).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from((*leaf).clone())));
    let tls = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, said) = (tls.clone(), said.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(move |request: Request<Incoming>| {
                    let said = said.clone();
                    async move {
                        let path = request.uri().path().to_owned();
                        let (value, goes_on) = said.answer(&path, &request.into_body().collect().await.unwrap().to_bytes());
                        let line = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{value}\n"))))]);
                        let rest = if goes_on { stream::pending().left_stream() } else { stream::empty().right_stream() };
                        Ok::<_, Infallible>(Response::new(StreamBody::new(line.chain(rest))))
                    }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, contents.bundle_pem())
}

/// A wrapper that runs; its command writes lines.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn send(&self, signal: &str) {
        assert!(Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status().unwrap().success());
    }

    fn end(mut self) -> i32 {
        code(self.child.wait().unwrap())
    }
}

/// Waits until something is so. A test that waits in vain is ended by whoever runs it.
fn until(so: impl Fn() -> bool) {
    while !so() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn it_exits_as_the_command_does() {
    let stage = Stage::new(granted());
    for (script, expected) in
        [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("kill -SEGV $$", 139)]
    {
        assert_eq!(stage.code_of(script), expected, "{script}");
        assert_eq!(stage.last_report()["succeeded"], expected == 0, "{script}");
    }
}

#[test]
fn what_cannot_be_started_ends_like_in_a_shell_and_gives_its_holds_back() {
    let stage = Stage::new(granted());
    let plain = stage.folder.join("plain");
    fs::write(&plain, "no program").unwrap();
    for (command, expected) in [("/no/such/program", 127), ("no-such-program", 127), (plain.to_str().unwrap(), 126)] {
        let output = stage.wrap(&[command]).output().unwrap();
        assert_eq!(code(output.status), expected, "{command}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("could not be started"), "{command}");
        assert_eq!(stage.last_report(), json!({ "holds": granted().unwrap()["tokens"], "succeeded": false }), "{command}");
    }
}

#[test]
fn signals_reach_the_command() {
    let stage = Stage::new(granted());
    let signals = ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "WINCH", "CONT", "PWR", "TSTP"];
    let script = format!(
        "for signal in {}; do trap \"echo $signal\" $signal; done; trap 'echo TERM; exit 7' TERM; echo ready; while :; do sleep 0.02; done",
        signals.join(" ")
    );
    let mut running = Running::start(stage.sh(&script));
    assert_eq!(running.line(), "ready");
    for signal in signals.into_iter().chain(["TERM"]) {
        running.send(signal);
        assert_eq!(running.line(), signal);
    }
    assert_eq!(running.end(), 7);
}

#[test]
fn pipes_and_environment_are_the_commands_own() {
    let stage = Stage::new(granted());
    let mut child = stage.sh("cat; echo aside >&2").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"in\0and out").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"in\0and out");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.lines().any(|line| line == "aside"), "{errors}");
    assert!(errors.lines().filter(|line| *line != "aside").all(|line| line.contains(" konductor: ")), "{errors}");

    let own = |mut command: Command| {
        let text = String::from_utf8(command.env("A", "b c").output().unwrap().stdout).unwrap();
        let mut lines: Vec<String> = text.lines().filter(|line| !line.starts_with("KONDUCTOR_FENCING_TOKEN")).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let mut direct = Command::new("env");
    direct.env_clear().env("PATH", std::env::var("PATH").unwrap());
    assert_eq!(own(stage.wrap(&["env"])), own(direct));
}

#[test]
fn fencing_tokens_are_in_variables_and_files() {
    let stage = Stage::new(granted());
    let script = "echo $KONDUCTOR_FENCING_TOKEN_MUTEX_DB $KONDUCTOR_FENCING_TOKEN_ONCE_X; cat $FOLDER/0; echo; cat $FOLDER/1";
    for _ in 0..2 {
        assert_eq!(stage.sh(script).output().unwrap().stdout, b"7 8\n7\n8", "a second run writes them anew");
    }
}

#[test]
fn orphans_are_buried_while_the_command_runs() {
    let stage = Stage::new(granted());
    // The trap comes first: TERM is sent as soon as the orphan is gone. The inner shell ends before what it started, which is then nobody's.
    let mut running = Running::start(stage.sh("trap 'exit 0' TERM; sh -c 'sh -c \"echo \\$\\$\" & '; while :; do sleep 0.02; done"));
    let orphan = running.line();
    until(|| !Path::new("/proc").join(&orphan).exists());
    running.send("TERM");
    assert_eq!(running.end(), 0);
}

#[test]
fn what_it_leaves_behind_has_ended_when_its_end_is_reported() {
    let stage = Stage::new(granted());
    let script = "sh -c 'trap \"\" TERM HUP; echo $$ > $FOLDER/new; mv $FOLDER/new $FOLDER/watched; exec sleep 1000' >/dev/null 2>&1 &
        while [ ! -e $FOLDER/watched ]; do sleep 0.02; done; exit 5";
    assert_eq!(stage.code_of(script), 5);
    assert_eq!(*stage.said.alive.lock().unwrap(), [false]);
}

#[test]
fn a_success_leaves_its_tokens_beside_the_exit_code() {
    let stage = Stage::new(granted());
    assert_eq!(stage.code_of("exit 4"), 4);
    assert_eq!(stage.last_words(), "", "the kubelet may show the log instead");
    assert_eq!(stage.code_of("echo -n done > $FOLDER/termination-log"), 0);
    assert_eq!(stage.last_words(), "done\nkonductor: ended mutex/db=7 once/x=8");
    assert_eq!(stage.last_report(), json!({ "holds": granted().unwrap()["tokens"], "succeeded": true }));
}

#[test]
fn what_an_earlier_run_held_is_given_back_first() {
    let left = json!([{ "target": "mutex/db", "token": 5 }]);
    let stage = Stage::holding(granted(), vec![left.clone(), left.clone()]);
    assert_eq!(stage.code_of("exit 0"), 0);
    assert_eq!(stage.paths(), ["/v1/held", "/v1/ended", "/v1/held", "/v1/ended", "/v1/held", "/v1/acquire", "/v1/ended"]);
    assert_eq!(stage.said.requests.lock().unwrap()[1].1, json!({ "holds": left, "succeeded": null }));
}

#[test]
fn who_is_skipped_exits_well_without_having_run() {
    let answer = json!({ "event": "skipped", "message": "once/x has been executed" });
    let held = json!([{ "target": "mutex/db", "token": 7 }]);
    let stage = Stage::holding(Some(answer), vec![json!([]), held.clone(), held.clone()]);
    let output = stage.sh("echo ran").output().unwrap();
    assert_eq!((code(output.status), output.stdout), (0, Vec::new()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("skipped: once/x has been executed"));
    assert_eq!(stage.last_report(), json!({ "holds": held, "succeeded": false }), "it keeps nothing from others");
    assert_eq!(stage.paths()[1..], ["/v1/acquire", "/v1/held", "/v1/ended", "/v1/held", "/v1/ended", "/v1/held"], "until that is done");
    assert_eq!(stage.last_words(), "");
}

#[test]
fn who_is_refused_does_not_run() {
    for (reason, expected) in [("timedOut", 3), ("denied", 4)] {
        let stage = Stage::new(Some(json!({ "event": "refused", "reason": reason, "message": "no" })));
        let output = stage.sh("echo ran").output().unwrap();
        assert_eq!((code(output.status), output.stdout), (expected, Vec::new()));
        assert_eq!(stage.last_report(), json!({ "holds": [], "succeeded": false }));
    }
}

#[test]
fn a_signal_ends_the_waiting() {
    let stage = Stage::new(None);
    let mut running = Running::start(stage.sh("echo ran"));
    let mut errors = BufReader::new(running.child.stderr.take().unwrap()).lines();
    assert!(errors.any(|line| line.unwrap().ends_with("waiting for mutex/db")));
    // A window that is resized ends nothing.
    running.send("WINCH");
    running.send("TERM");
    let mut ran = String::new();
    running.lines.read_to_string(&mut ran).unwrap();
    assert_eq!((ran.as_str(), running.end()), ("", 143));
    assert_eq!(stage.paths(), ["/v1/held", "/v1/acquire", "/v1/held", "/v1/ended"]);
}

#[test]
fn without_its_settings_it_runs_nothing() {
    let stage = Stage::new(granted());
    fs::remove_file(stage.folder.join("settings.json")).unwrap();
    assert_eq!(stage.code_of("exit 0"), 78);
    assert!(stage.paths().is_empty());
}
