//! What people do with koncli, by the real binary: locks, limits, waits and counts in scripts, and a command that runs while something is held.

use std::{
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::Value;

use crate::scene::{ONE_AGE, Scene};

impl Scene {
    /// koncli in the scene's namespace, to be run. What stands behind `--` is a script.
    pub fn command(&self, line: &str) -> Command {
        let (line, script) = line.split_once(" -- ").map_or((line, None), |(line, script)| (line, Some(script)));
        let mut command = Command::new(env!("CARGO_BIN_EXE_koncli"));
        command.args(["-n", &self.namespace]).args(line.split_whitespace());
        if let Some(script) = script {
            command.args(["--", "sh", "-c", script]);
        }
        command.env_remove("KONDUCTOR_TIMEOUT").env_remove("KONDUCTOR_HOLDER_ID");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs koncli to its end: exit code, or minus the signal that ended it, standard output and standard error.
    fn koncli(&self, line: &str) -> (i32, String, String) {
        ended(self.command(line).output().unwrap())
    }

    /// Runs koncli, which must end with this code; gives what it prints, and then what it tells.
    pub fn koncli_ends(&self, code: i32, line: &str) -> String {
        let (ended, out, err) = self.koncli(line);
        assert_eq!(ended, code, "koncli {line}\n{out}{err}");
        format!("{out}{err}")
    }

    /// Runs koncli, which must end well, and reads what it prints as JSON.
    fn koncli_json(&self, line: &str) -> Value {
        let (code, out, err) = self.koncli(&format!("{line} -o json"));
        assert_eq!(code, 0, "koncli {line}\n{out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("koncli {line}: {error}: {out}"))
    }

    pub fn start_koncli(&self, line: &str) -> Child {
        self.command(line).spawn().unwrap()
    }

    /// How many Claims there are.
    pub fn claims(&self) -> usize {
        self.run(&["get", "claims", "-o", "name"]).lines().count()
    }

    /// Waits until somebody waits for this primitive.
    pub async fn until_waited_for(&self, kind: &str, name: &str) {
        let waiting = || self.koncli_json(&format!("{kind} status {name}"))["status"]["waiting"].as_i64();
        self.until(&format!("somebody waits for {kind}/{name}"), async || waiting().is_some_and(|count| count > 0)).await;
    }
}

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().or_else(|| output.status.signal().map(|signal| -signal)).unwrap();
    (code, text(output.stdout), text(output.stderr))
}

pub fn end_of(child: Child) -> (i32, String, String) {
    ended(child.wait_with_output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutex_is_locked_by_one_at_a_time_and_unlocked_by_name() {
    let scene = Scene::open("koncli_mutex").await;
    scene.koncli_ends(2, "mutex status db");
    scene.koncli_ends(2, "mutex unlock db --holder a");
    scene.koncli_ends(0, "mutex create db --ttl 10m");
    scene.koncli_ends(1, "mutex create db");
    let first = scene.koncli_json("mutex lock db --holder a --timeout 60s");
    assert_eq!((first["phase"].as_str(), first["already"].as_bool()), (Some("Granted"), Some(false)), "{first}");
    let again = scene.koncli_json("mutex lock db --holder a --timeout 0");
    assert_eq!((again["already"].as_bool(), &again["token"]), (Some(true), &first["token"]), "the same holder has the same grant: {again}");

    scene.koncli_ends(3, "mutex lock db --holder b --timeout 0");
    scene.koncli_ends(3, "mutex lock db --holder b --timeout 2s");
    scene.koncli_ends(2, "mutex unlock db --holder b");
    let waiting = scene.start_koncli("mutex lock db --holder b --timeout 120s -o json");
    scene.until_waited_for("mutex", "db").await;
    scene.koncli_ends(0, "mutex unlock db --holder a");
    let (code, out, err) = end_of(waiting);
    assert_eq!(code, 0, "{err}");
    assert!(serde_json::from_str::<Value>(&out).unwrap()["token"].as_i64() > first["token"].as_i64());
    scene.koncli_ends(0, "mutex unlock db --holder b");
    scene.until_mutex_free("db").await;
    assert_eq!(scene.claims(), 0, "nothing is left behind");
    scene.koncli_ends(0, "mutex delete db");
    scene.koncli_ends(2, "mutex delete db");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_and_missing_rights_have_their_exit_codes() {
    let scene = Scene::open("koncli_codes").await;
    scene.koncli_ends(64, "mutex lok db");
    scene.koncli_ends(64, "mutex lock db --timeout soon");
    let said = scene.koncli_ends(64, "mutex lock shop/db");
    assert!(said.contains("no name of a primitive") && said.contains("-n NAMESPACE"), "{said}");
    scene.koncli_ends(64, "run --mutex DB -- true");
    let said = scene.koncli_ends(64, "status mutx");
    assert!(said.contains("mutex") && said.contains("or all"), "{said}");
    let said = scene.koncli_ends(64, "mutex lock db --ttl 1ms");
    assert!(said.contains("at least 1s"), "{said}");
    scene.koncli_ends(0, "mutex lock --help");
    scene.koncli_ends(1, "gate create g --condition job/x=Opened");
    let nobody = Command::new(env!("CARGO_BIN_EXE_koncli")).args(["--kubeconfig", "/dev/null", "mutex", "lock", "db"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(5));
    // A user who may do nothing at all.
    let config = scene.run(&["config", "view", "--raw", "--minify", "-o", "json"]);
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["users"][0]["user"]["as"] = "nobody".into();
    let file = std::env::temp_dir().join(format!("{}.kubeconfig", scene.namespace));
    std::fs::File::create(&file).unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let said = scene.koncli_ends(4, &format!("--kubeconfig {} mutex lock db", file.display()));
    std::fs::remove_file(file).unwrap();
    assert!(said.contains("cannot create resource \"claims\""), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_and_writers() {
    let scene = Scene::open("koncli_rwmutex").await;
    scene.koncli_ends(0, "rwmutex create cache");
    scene.koncli_ends(0, "rwmutex rlock cache --holder r1");
    scene.koncli_ends(0, "rwmutex rlock cache --holder r2 --timeout 60s");
    scene.koncli_ends(3, "rwmutex lock cache --holder w --timeout 0");
    let said = scene.koncli_ends(1, "rwmutex lock cache --holder r1");
    assert!(said.contains("reads it already"), "{said}");
    for reader in ["r1", "r2"] {
        scene.koncli_ends(0, &format!("rwmutex unlock cache --holder {reader}"));
    }
    scene.koncli_ends(0, "rwmutex lock cache --holder w --timeout 60s");
    assert_eq!(scene.koncli_json("rwmutex status cache")["status"]["phase"], "WriteLocked");
    scene.koncli_ends(0, "rwmutex unlock cache --holder w");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_and_released_and_ends_without_renewal() {
    let scene = Scene::open("koncli_lease").await;
    scene.koncli_ends(0, "lease create leader --ttl 5s");
    scene.koncli_ends(0, "lease acquire leader --holder a --ttl 10m");
    assert_eq!(scene.koncli_json("lease renew leader --holder a")["renewals"], 1);
    scene.until("the renewal is seen", async || scene.koncli_json("lease status leader")["status"]["renewCount"] == 1).await;
    scene.koncli_ends(0, "lease release leader --holder a");
    scene.koncli_ends(2, "lease renew leader --holder a");
    // By the ttl of the Lease itself.
    scene.koncli_ends(0, "lease acquire leader --holder b --timeout 60s");
    scene.koncli_ends(0, "lease acquire leader --holder c --timeout 120s");
    let said = scene.koncli_ends(1, "lease release leader --holder b");
    assert!(said.contains("any more"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn permits_are_taken_together() {
    let scene = Scene::open("koncli_semaphore").await;
    scene.koncli_ends(0, "semaphore create api --permits 3");
    scene.koncli_ends(0, "semaphore acquire api --permits 2 --holder a --timeout 60s");
    scene.koncli_ends(3, "semaphore acquire api --permits 2 --holder b --timeout 0");
    scene.koncli_ends(0, "semaphore acquire api --holder b --timeout 60s");
    let list = scene.koncli_ends(0, "semaphore list");
    assert!(list.contains("IN USE") && list.lines().any(|line| line.starts_with("api") && line.contains("Full")), "{list}");
    scene.koncli_ends(0, "semaphore release api --holder a");
    scene.koncli_ends(0, "semaphore acquire api --permits 2 --holder c --timeout 60s");
    let said = scene.koncli_ends(3, "semaphore acquire api --permits 4 --holder d --timeout 1s");
    assert!(said.contains("3 of 3 permits are held, by"), "{said}");
    // As kubectl calls them; and all of them.
    for line in ["semaphores list", "sem list", "status sem", "status", "status all"] {
        assert!(scene.koncli_ends(0, line).contains("Full"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_counts_each_holder_once_and_again_after_a_reset() {
    let scene = Scene::open("koncli_barrier").await;
    scene.koncli_ends(0, "barrier create stage --expected 2");
    let waiting = scene.start_koncli("barrier wait stage");
    scene.until_waited_for("barrier", "stage").await;
    for _ in 0..2 {
        scene.koncli_ends(0, "barrier arrive stage --holder a");
    }
    assert_eq!(scene.koncli_json("barrier status stage")["status"]["arrived"], 1);
    let said = scene.koncli_ends(3, "barrier wait stage --timeout 0");
    assert!(said.contains("not now, and this one does not wait for barrier/stage"), "{said}");
    scene.koncli_ends(0, "barrier arrive stage b");
    assert_eq!(end_of(waiting).0, 0);
    scene.koncli_ends(0, "barrier arrive stage a");
    scene.koncli_ends(0, "reset barrier stage");
    scene.koncli_ends(3, "barrier wait stage --timeout 0");
    scene.koncli_ends(0, "barrier arrive stage a");
    assert_eq!(scene.koncli_json("barrier status stage")["status"]["arrived"], 1);
    assert_eq!(scene.claims(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_is_opened_and_closed_by_hand() {
    let scene = Scene::open("koncli_gate").await;
    scene.koncli_ends(0, "gate create ready --condition job/never=Complete");
    scene.koncli_ends(3, "gate wait ready --timeout 0");
    let waiting = scene.start_koncli("gate wait ready");
    scene.until_waited_for("gate", "ready").await;
    scene.koncli_ends(0, "gate open ready --holder ann");
    assert_eq!(end_of(waiting).0, 0);
    assert_eq!(scene.koncli_json("gate status ready")["status"]["byHand"]["by"], "ann");
    scene.koncli_ends(0, "gate close ready --holder ann");
    scene.koncli_ends(3, "gate wait ready --timeout 0");
    scene.koncli_ends(0, "gate reset ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_once_is_done_once_until_it_is_reset() {
    let scene = Scene::open("koncli_once").await;
    scene.koncli_ends(2, "once check migrate");
    scene.koncli_ends(0, "once create migrate");
    scene.koncli_ends(1, "once check migrate");
    scene.koncli_ends(7, "once do migrate --timeout 60s -- exit 7");
    scene.koncli_ends(1, "once check migrate");
    let said = scene.koncli_ends(0, "once do migrate --timeout 60s -- echo migrated");
    assert!(said.contains("migrated"), "{said}");
    scene.koncli_ends(0, "once check migrate");
    scene.koncli_ends(0, "once wait migrate --timeout 60s");
    let said = scene.koncli_ends(0, "once do migrate -- echo again");
    assert!(said.contains("executed already") && !said.contains("again"), "{said}");
    scene.koncli_ends(0, "once reset migrate");
    scene.koncli_ends(1, "once check migrate");
    scene.koncli_ends(0, "once do migrate --timeout 60s");
    scene.koncli_ends(0, "once check migrate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_group_is_done_when_as_many_are_as_were_added() {
    let scene = Scene::open("koncli_waitgroup").await;
    scene.koncli_ends(0, "waitgroup create workers");
    scene.koncli_ends(0, "waitgroup add workers --delta 2");
    let waiting = scene.start_koncli("waitgroup wait workers");
    scene.until_waited_for("waitgroup", "workers").await;
    scene.koncli_ends(0, "waitgroup done workers");
    scene.koncli_ends(3, "waitgroup wait workers --timeout 0");
    scene.koncli_ends(0, "waitgroup done workers");
    assert_eq!(end_of(waiting).0, 0);
    scene.koncli_ends(1, "waitgroup done workers");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_exclude_each_other_and_pass_their_exit_codes_on() {
    let scene = Scene::open("koncli_run").await;
    scene.create_mutex("db");
    let log = std::env::temp_dir().join(format!("{}.log", scene.namespace));
    let script = |code: u32| format!("run --mutex db --ttl 20s -- echo in >>{0}; sleep 22; echo out >>{0}; exit {code}", log.display());
    // Longer than its ttl: it is renewed while it runs.
    let (first, second) = (scene.start_koncli(&script(3)), scene.start_koncli(&script(4)));
    assert_eq!((end_of(first).0, end_of(second).0), (3, 4));
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(log).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), ["in", "out", "in", "out"], "never two at once");
    let token = scene.koncli_ends(0, "run --mutex db -- printenv KONDUCTOR_FENCING_TOKEN");
    assert!(token.trim().parse::<i64>().is_ok_and(|token| token == scene.koncli_json("mutex status db")["status"]["lastToken"]), "{token}");
    scene.koncli_ends(127, "run --mutex db -- exec no-such-command");
    scene.koncli_ends(64, "run -- true");
    scene.koncli_ends(0, "mutex lock db --holder a");
    scene.koncli_ends(3, "run --mutex db --timeout 0 -- true");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_hold_is_lost_is_ended() {
    let scene = Scene::open("koncli_lost").await;
    scene.create_mutex("db");
    let runs = std::env::temp_dir().join(format!("{}.runs", scene.namespace));
    let script = format!("trap '' TERM; touch {}; while :; do sleep 1; done", runs.display());
    let running = scene.start_koncli(&format!("run --mutex db --ttl 10s --holder a -- {script}"));
    scene.until("it runs", async || runs.exists()).await;
    std::fs::remove_file(runs).unwrap();
    scene.run(&["delete", "claims", "--all"]);
    let (code, _, err) = end_of(running);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("mutex/db is lost"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_why_somebody_waits_and_behind_whom() {
    let scene = Scene::open("koncli_why").await;
    scene.create_mutex("db");
    scene.koncli_ends(0, "mutex lock db --holder ann");
    scene.apply(&scene.app("pod").as_pod("konductor.io/mutex: db"));
    tokio::join!(tokio::time::sleep(ONE_AGE), scene.until_waiting("pod"));
    scene.apply(&scene.app("job").as_job("konductor.io/mutex: db;strategy=suspend"));
    let said = scene.koncli_ends(0, "why pod");
    assert!(said.contains("waiting for mutex/db: 1 of 2 in line, held by claim/mutex-db-ann"), "{said}");
    let said = scene.koncli_ends(0, "why job/job");
    assert!(said.contains("suspended by konductor") && said.contains("2 of 2 in line"), "{said}");
    scene.apply(&scene.app("left-out").as_job("konductor.io/mutex: db;on-conflict=skip"));
    scene.run(&["wait", "--for=condition=Complete", "job/left-out", "--timeout=120s"]);
    let said = scene.koncli_ends(0, "why job/left-out");
    assert!(said.contains("is Complete (KonductorSkipped"), "{said}");
    scene.apply(&scene.app("impatient").as_pod("konductor.io/mutex: db;timeout=0s"));
    scene.until("it gives up", async || scene.phase("impatient").await.as_deref() == Some("Failed")).await;
    let said = scene.koncli_ends(0, "why impatient");
    assert!(said.contains("gave up waiting"), "{said}");
    scene.koncli_ends(2, "why pod/nobody");
    scene.koncli_ends(0, "mutex unlock db --holder ann");
    scene.until_beating("pod").await;
    let said = scene.koncli_ends(0, "why pod/pod");
    assert!(said.contains("holds mutex/db with token") && !said.contains("being deleted"), "{said}");
    scene.run(&["delete", "mutex", "db", "--wait=false"]);
    let said = scene.koncli_ends(0, "why pod/pod");
    assert!(said.contains("holds mutex/db with token") && said.contains("mutex/db is being deleted"), "{said}");
    let said = scene.koncli_ends(0, "mutex list");
    assert!(said.contains("Locked, being deleted"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_became_of_the_job_that_a_gate_waits_for() {
    let scene = Scene::open("koncli_why_gate").await;
    scene.koncli_ends(0, "gate create ready --condition job/fails=Complete");
    scene.apply(&scene.app("waits").as_pod("konductor.io/gate: ready"));
    let why = || scene.koncli_ends(0, "why waits");
    scene.until("it waits for a Job that is not there", async || why().contains("not met: there is no job/fails")).await;
    scene.apply(&scene.app("fails").as_job(""));
    scene.end("fails", "1");
    scene.until("the Job has failed", async || why().contains("not met: job/fails has failed")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_person_on_call_ends_a_hold() {
    let scene = Scene::open("koncli_release").await;
    for name in ["db", "files"] {
        scene.create_mutex(name);
        scene.koncli_ends(0, &format!("mutex lock {name} --holder ann"));
    }
    scene.apply(&scene.app("pod").as_pod("konductor.io/mutex: db"));
    scene.until_waiting("pod").await;
    scene.koncli_ends(2, "release --force bob --yes");
    scene.koncli_ends(64, "release ann --yes");
    // There is no terminal to ask at.
    scene.koncli_ends(64, "release --force ann");
    let said = scene.koncli_ends(0, "release --force ann --yes");
    assert!(said.contains("mutex/db") && said.contains("mutex/files"), "{said}");
    scene.until_beating("pod").await;
    scene.until_told("db", "Released").await;
    let said = scene.koncli_ends(0, "release --force pod/pod --yes");
    assert!(said.contains("when its containers have ended"), "{said}");
    scene.until_mutex_free("db").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_whether_konductor_is_well() {
    let scene = Scene::open("koncli_check").await;
    // A replica may be slow to say that it is ready.
    scene.until("all is well", async || scene.koncli_json("check")["healthy"] == true).await;
    let said = scene.koncli_ends(5, "operator --operator-namespace elsewhere");
    assert!(said.contains("no Deployment konductor in namespace elsewhere") && said.contains("--operator-namespace"), "{said}");
}

/// The Role of the docs is enough, and the published manifest with koncli in an init container works as it stands, but for the image.
#[tokio::test(flavor = "multi_thread")]
async fn koncli_in_a_pod_needs_the_role_of_the_docs_and_no_more() {
    let scene = Scene::open("koncli_in_pod").await;
    let docs = include_str!("../../docs/sdk.md");
    let role = docs.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    scene.apply(role);
    scene.koncli_ends(0, "barrier create stage-1-complete --expected 1");
    let image = scene.run_in_system(&["get", "deployment", "konductor", "-o", "jsonpath={.spec.template.spec.containers[0].image}"]);
    let security = "{runAsNonRoot: true, runAsUser: 1000, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}";
    scene.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: processor}}\nspec:\n  restartPolicy: Never\n  serviceAccountName: konductor-user\n  \
         initContainers:\n  - {{name: wait-stage-1, image: '{image}', imagePullPolicy: IfNotPresent, command: [koncli, barrier, wait, stage-1-complete], securityContext: {security}}}\n  \
         containers:\n  - {{name: processor, image: '{image}', imagePullPolicy: IfNotPresent, command: [koncli, version], securityContext: {security}}}\n"
    ));
    scene.until_waited_for("barrier", "stage-1-complete").await;
    scene.koncli_ends(0, "barrier arrive stage-1-complete");
    scene.until_succeeded("processor").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn top_prints_once_where_there_is_no_terminal() {
    let scene = Scene::open("koncli_top").await;
    assert!(scene.koncli_ends(0, "top").contains("0 hold, 0 wait"), "nobody");
    scene.create_mutex("db");
    scene.koncli_ends(0, "mutex lock db --holder ann");
    scene.apply(&scene.app("pod").as_pod("konductor.io/mutex: db"));
    scene.until_waiting("pod").await;
    let text = scene.koncli_ends(0, "top");
    let line = |start: &str| text.lines().find(|line| line.trim_start().starts_with(start)).unwrap_or_else(|| panic!("no {start}: {text}"));
    assert!(line("mutex/db").contains("Locked") && line("claim/mutex-db-ann").contains("left"), "{text}");
    assert!(line("pod/pod").contains("waits, 1 of 1"), "{text}");
    let found = scene.koncli_json("top -A");
    let item = found["items"].as_array().unwrap().iter().find(|item| item["namespace"] == scene.namespace.as_str()).unwrap();
    assert_eq!((item["kind"].as_str(), item["phase"].as_str()), (Some("Mutex"), Some("Locked")), "{item}");
    let first = |of: &str| item[of][0]["name"].as_str();
    assert!(first("holders").is_some_and(|name| name.starts_with("mutex-db-ann")), "{item}");
    assert_eq!(first("waiting"), Some("pod"), "{item}");
}

/// As a person sees it, in a terminal that `script` makes.
#[tokio::test(flavor = "multi_thread")]
async fn top_on_a_terminal_is_drawn_anew_until_q() {
    let scene = Scene::open("koncli_top_live").await;
    scene.create_mutex("db");
    let line = format!("stty rows 24 cols 80; {} -n {} top; echo ended with $?; stty", env!("CARGO_BIN_EXE_koncli"), scene.namespace);
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--command", &line, "/dev/null"]).env("TERM", "xterm").env("SHELL", "/bin/sh");
    let mut terminal = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
    let seen = Arc::new(Mutex::new(String::new()));
    let reader = std::thread::spawn({
        let seen = seen.clone();
        move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        }
    });
    let page = || seen.lock().unwrap().rsplit("\x1b[H").next().unwrap().to_owned();
    scene.until("it is drawn", async || page().contains("0 hold, 0 wait")).await;
    scene.koncli_ends(0, "mutex lock db --holder ann");
    scene.until("the holder is seen", async || page().contains("claim/mutex-db-ann") && page().contains("1 hold, 0 wait")).await;
    scene.koncli_ends(0, "mutex unlock db --holder ann");
    scene.until("its end is seen", async || page().contains("0 hold, 0 wait")).await;
    keys.write_all(b"q").unwrap();
    scene.until("it ends", async || seen.lock().unwrap().contains("ended with 0")).await;
    drop(keys);
    terminal.wait().unwrap();
    reader.join().unwrap();
    let seen = seen.lock().unwrap();
    let (_, after) = seen.rsplit_once("\x1b[?1049l").expect("the screen of before is back");
    assert!(!after.contains("-icanon") && !after.contains("-echo "), "and the keyboard: {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_program_of_the_sdk() {
    let scene = Scene::open("sdk_example").await;
    let top = env!("CARGO_MANIFEST_DIR");
    scene.run(&["apply", "-f", &format!("{top}/examples/sdk/primitives.yaml")]);
    // The program takes the namespace of the context.
    let mut config: Value = serde_json::from_str(&scene.run(&["config", "view", "--raw", "--minify", "-o", "json"])).unwrap();
    config["contexts"][0]["context"]["namespace"] = scene.namespace.as_str().into();
    let file = std::env::temp_dir().join(format!("{}.kubeconfig", scene.namespace));
    std::fs::write(&file, config.to_string()).unwrap();
    let build = Command::new(env!("CARGO")).args(["build", "--quiet", "--locked", "--example", "sdk"]).current_dir(top).status().unwrap();
    assert!(build.success());
    let start = |shard: &str| {
        let mut command = Command::new(env!("CARGO"));
        command.args(["run", "--quiet", "--locked", "--example", "sdk", "--", shard]).current_dir(top).env("KUBECONFIG", &file);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (first, second) = (start("1"), start("2"));
    let ends = [end_of(first), end_of(second)];
    std::fs::remove_file(file).unwrap();
    assert!(ends.iter().all(|(code, ..)| *code == 0), "{ends:?}");
    let reports = ends.iter().filter(|(_, out, _)| out.lines().any(|line| line.starts_with("wrote the report")));
    assert_eq!(reports.count(), 1, "one of them wrote it: {ends:?}");
    scene.until("nothing is left behind", async || scene.claims() == 0).await;
}
