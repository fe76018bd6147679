//! The workload that tests watch: an app that beats. It writes the time into a file every few hundredths of a second, until its seconds are over, or
//! until the test tells it to end and how ([`Scene::end`](crate::scene::Scene::end)).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// An app, to be made as a Pod or a Job. As it is, it runs until it is told to end, and ends one second after SIGTERM.
#[derive(Clone)]
pub struct App {
    pub name: String,
    folder: PathBuf,
    seconds: u32,
    grace: u32,
    restart: &'static str,
    limit: Option<(&'static str, &'static str)>,
    job: Value,
    pod: Value,
    beside: Vec<App>,
    before: Vec<App>,
    replicas: u32,
}

/// A line of its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Beat {
    /// When, in seconds of the machine's monotonic clock.
    pub at: f64,
    /// When this start of the container was.
    pub began: f64,
    /// The fencing token that the app was told; 0 if none.
    pub token: i64,
    /// In which Pod.
    pub pod: String,
}

/// One start of the app's container, from its first beat to its last.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub pod: String,
    pub token: i64,
    pub from: f64,
    pub to: f64,
}

impl App {
    pub fn new(name: &str, folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            seconds: 900,
            grace: 1,
            restart: "Never",
            limit: None,
            job: json!({ "backoffLimit": 0 }),
            pod: json!({ "terminationGracePeriodSeconds": 60 }),
            beside: Vec::new(),
            before: Vec::new(),
            replicas: 1,
        }
    }

    /// The same under another name.
    pub fn named(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// Ends by itself after this long.
    pub fn seconds(self, seconds: u32) -> Self {
        Self { seconds, ..self }
    }

    /// Beats on for this long after SIGTERM, so that a grace period (60 s) is really used.
    pub fn grace(self, grace: u32) -> Self {
        Self { grace, ..self }
    }

    pub fn restart(self, restart: &'static str) -> Self {
        Self { restart, ..self }
    }

    /// With this limit. It exceeds that of memory when it is told to end with `oom`.
    pub fn limit(self, resource: &'static str, amount: &'static str) -> Self {
        Self { limit: Some((resource, amount)), ..self }
    }

    /// Sets a field of the Pod's spec.
    pub fn pod_field(mut self, field: &str, value: Value) -> Self {
        self.pod[field] = value;
        self
    }

    /// Sets a field of the Job's spec.
    pub fn job_field(mut self, field: &str, value: Value) -> Self {
        self.job[field] = value;
        self
    }

    pub fn on_node(self, node: &str) -> Self {
        self.pod_field("nodeSelector", json!({ "kubernetes.io/hostname": node }))
    }

    /// Another app in a second container of the same Pod.
    pub fn beside(mut self, other: Self) -> Self {
        self.beside.push(other);
        self
    }

    /// Another app in an init container of the same Pod.
    pub fn after(mut self, other: Self) -> Self {
        self.before.push(other);
        self
    }

    /// As a Deployment: so many Pods.
    pub fn replicas(self, replicas: u32) -> Self {
        Self { replicas, ..self }
    }

    /// A Pod with these annotations.
    pub fn as_pod(&self, annotations: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}, annotations: {{{annotations}}}}}\nspec: {}\n---\n",
            self.name,
            self.pod_spec()
        )
    }

    /// A Job with these annotations.
    pub fn as_job(&self, annotations: &str) -> String {
        let mut spec = self.job.clone();
        spec["template"] = json!({ "spec": self.pod_spec() });
        format!("apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {}, annotations: {{{annotations}}}}}\nspec: {spec}\n---\n", self.name)
    }

    /// A Deployment with these annotations on its pod template.
    pub fn as_deployment(&self, annotations: &str) -> String {
        let (name, spec) = (&self.name, Self { restart: "Always", ..self.clone() }.pod_spec());
        let labels = format!("{{app: {name}}}");
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {}\n  selector: {{matchLabels: {labels}}}\n  \
             template:\n    metadata: {{labels: {labels}, annotations: {{{annotations}}}}}\n    spec: {spec}\n---\n",
            self.replicas
        )
    }

    fn pod_spec(&self) -> Value {
        let mut spec = self.pod.clone();
        spec["restartPolicy"] = self.restart.into();
        let mut containers = vec![self.container("app")];
        containers.extend(self.beside.iter().map(|other| other.container(&other.name)));
        spec["containers"] = containers.into();
        if !self.before.is_empty() {
            spec["initContainers"] = self.before.iter().map(|other| other.container(&other.name)).collect();
        }
        spec["volumes"] = json!([{ "name": "beats", "hostPath": { "path": self.folder } }]);
        spec
    }

    fn container(&self, name: &str) -> Value {
        let Self { name: file, seconds, grace, .. } = self;
        // `FILE.end` tells it to end: with the exit code in it, or by memory (`oom`), and then it is taken away, by one of several Pods at most, so that
        // the next run goes on until it is told itself; or, where it is empty, with 0, in every run.
        let script = format!(
            "file=/beats/{file}; read began idle < /proc/uptime; left=$(( {seconds} * 20 )); code=0
            beat() {{ read now idle < /proc/uptime; echo \"$now $began ${{KONDUCTOR_FENCING_TOKEN:-0}} $HOSTNAME\" >> $file; }}
            trap 'left=$(( {grace} * 20 ))' TERM
            while [ $left -gt 0 ]; do
              beat; usleep 50000; left=$(( left - 1 ))
              if [ -s $file.end ]; then
                mv $file.end $file.$HOSTNAME.end 2>/dev/null && read code < $file.$HOSTNAME.end && break
              elif [ -e $file.end ]; then
                break
              fi
            done
            if [ $code = oom ]; then text=xxxxxxxx; while [ ${{#text}} -lt 500000000 ]; do beat; text=$text$text; done; code=99; fi
            exit $code"
        );
        let mut container = json!({
            "name": name,
            "image": "konductor.local/busybox:1",
            "command": ["sh", "-c", script],
            "volumeMounts": [{ "name": "beats", "mountPath": "/beats" }],
        });
        if let Some((resource, amount)) = self.limit {
            container["resources"] = json!({ "limits": { resource: amount } });
        }
        container
    }
}

/// Reads the file that an app wrote.
pub fn parse(text: &str) -> Vec<Beat> {
    let beat = |line: &str| {
        let mut words = line.split(' ');
        let [at, began, token, pod] = [words.next()?, words.next()?, words.next()?, words.next()?];
        Some(Beat { at: at.parse().ok()?, began: began.parse().ok()?, token: token.parse().ok()?, pod: pod.to_owned() })
    };
    text.lines().filter_map(beat).collect()
}

/// The runs of an app, first started first.
pub fn runs(beats: &[Beat]) -> Vec<Run> {
    let mut runs: Vec<(f64, Run)> = Vec::new();
    for Beat { at, began, token, pod } in beats {
        match runs.iter_mut().find(|(start, run)| start == began && run.pod == *pod) {
            Some((_, run)) => run.to = *at,
            None => runs.push((*began, Run { pod: pod.clone(), token: *token, from: *at, to: *at })),
        }
    }
    runs.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    runs.into_iter().map(|(_, run)| run).collect()
}
