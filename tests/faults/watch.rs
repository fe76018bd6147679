//! The observer's eyes: `etcdctl watch` on everything of konductor's, and a file that keeps what it saw.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use crate::{
    history::{Line, Revision, Run, now},
    judge::{Judge, Violation},
};

const PREFIX: &str = "/registry/konductor.io/";

/// The observer: it sees everything in one namespace, judges at once what can be, and keeps all of it.
pub struct Observer {
    pub judge: Mutex<Judge>,
    file: Mutex<BufWriter<File>>,
    namespace: String,
    seen: Mutex<i64>,
}

/// The watch; it ends with this.
pub struct Watching {
    task: JoinHandle<()>,
}

impl Observer {
    /// Opens its eyes before the namespace is made, so that nothing of it can be missed.
    pub async fn open(namespace: &str, file: &Path) -> (Arc<Self>, Watching) {
        let observer = Arc::new(Self {
            judge: Mutex::default(),
            file: Mutex::new(BufWriter::new(File::create(file).expect("a file for the history"))),
            namespace: namespace.to_owned(),
            seen: Mutex::new(revision().await),
        });
        let watch = observer.clone();
        (observer, Watching { task: tokio::spawn(async move { watch.watch().await }) })
    }

    /// The revision up to which it has seen.
    pub fn revision(&self) -> i64 {
        *self.seen.lock().unwrap()
    }

    /// A run, by the words of who ran.
    pub fn ran(&self, run: Run) {
        self.keep(&Line::Run(run));
    }

    /// Something that is wrong by itself, which the load or a fault has met.
    pub fn broken(&self, rule: &'static str, words: String) {
        eprintln!("VIOLATION {rule}: {words}");
        self.judge.lock().unwrap().violations.push(Violation { at: now(), rule, words });
    }

    /// Waits until everything that is in etcd now has been seen.
    pub async fn until_seen(&self) {
        let wanted = last_change().await;
        for _ in 0..300 {
            if *self.seen.lock().unwrap() >= wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let seen = *self.seen.lock().unwrap();
        if seen < wanted {
            self.broken("missed", format!("the watch is at revision {seen}, and etcd at {wanted}"));
        }
        self.file.lock().unwrap().flush().expect("the history is kept");
    }

    fn keep(&self, line: &Line) {
        let text = serde_json::to_string(line).expect("a line");
        writeln!(self.file.lock().unwrap(), "{text}").expect("the history is kept");
        let mut judge = self.judge.lock().unwrap();
        let before = judge.violations.len();
        judge.line(line);
        for Violation { rule, words, .. } in &judge.violations[before..] {
            eprintln!("VIOLATION {rule}: {words}");
        }
    }

    async fn watch(&self) {
        loop {
            let from = *self.seen.lock().unwrap() + 1;
            let mut child: Child = Command::new("etcdctl")
                .args(["watch", "--prefix", PREFIX, "--progress-notify", "--write-out", "json", "--rev", &from.to_string()])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("etcdctl runs");
            let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line) {
                    Ok(answer) => self.answer(&answer),
                    Err(_) => break,
                }
            }
            // It goes on by itself when etcd is back; where it does not, another one does from where this one was.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn answer(&self, answer: &Value) {
        if answer["Canceled"] == true {
            self.broken("missed", format!("the watch was cancelled: {answer}"));
        }
        let mut last = answer["Header"]["revision"].as_i64().unwrap_or(0);
        for event in answer["Events"].as_array().into_iter().flatten() {
            let kv = &event["kv"];
            let key = String::from_utf8(decoded(&kv["key"])).expect("keys are text");
            let revision = kv["mod_revision"].as_i64().unwrap_or(0);
            last = last.max(revision);
            let Some((plural, name)) = key.strip_prefix(PREFIX).and_then(|key| {
                let mut words = key.split('/');
                let (plural, namespace, name) = (words.next()?, words.next()?, words.next()?);
                (namespace == self.namespace).then_some((plural, name))
            }) else {
                continue;
            };
            let deleted = event["type"] == 1;
            let value = (!deleted).then(|| {
                let mut value: Value = serde_json::from_slice(&decoded(&kv["value"])).expect("custom resources are stored as JSON");
                value["metadata"].as_object_mut().expect("an object has metadata").remove("managedFields");
                value
            });
            let version = kv["version"].as_i64().unwrap_or(0);
            self.keep(&Line::Revision(Revision { at: now(), revision, key: format!("{plural}/{name}"), version, value }));
        }
        let mut seen = self.seen.lock().unwrap();
        *seen = (*seen).max(last);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The revision that etcd is at.
async fn revision() -> i64 {
    ask(&["/none"], |answer| answer["header"]["revision"].as_i64()).await
}

/// The revision of the last write to anything of konductor's.
async fn last_change() -> i64 {
    let last = ["--prefix", PREFIX, "--keys-only", "--sort-by", "MODIFY", "--order", "DESCEND", "--limit", "1"];
    ask(&last, |answer| answer["kvs"][0]["mod_revision"].as_i64()).await
}

async fn ask(arguments: &[&str], answered: impl Fn(&Value) -> Option<i64>) -> i64 {
    loop {
        let output = Command::new("etcdctl").args(["get", "--write-out", "json"]).args(arguments).output().await.expect("etcdctl runs");
        if let Some(number) = answered(&serde_json::from_slice(&output.stdout).unwrap_or_default()) {
            return number;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// The bytes of a field in base64.
fn decoded(field: &Value) -> Vec<u8> {
    // A ByteString is base64 in JSON.
    serde_json::from_value::<k8s_openapi::ByteString>(field.clone()).map(|bytes| bytes.0).unwrap_or_default()
}
