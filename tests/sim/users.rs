//! What users do: they create, delete, suspend, change their minds, tidy up, and in the end give up what cannot come.

use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::{
    api::deleting,
    cast::{On, Wish},
    cluster::{condition, place, suspended, terminal, text},
    core::Core,
    jobs::pod_spec,
    people::held_back,
    request::{Place, What, Writer},
    truth::NAMESPACE,
};

/// How many Pods may be about at once.
const CROWD: usize = 9;
/// So long after anybody has come to an end, people give up those who wait for what does not come.
const PATIENT: Duration = Duration::from_secs(40);

impl Core {
    /// Users create: a Pod or a Job of one of few names, so that names come back.
    fn user_creates(&mut self) {
        if self.all(What::Pods).count() >= CROWD {
            return;
        }
        let number = self.chance.below(6);
        if self.chance.permille(550) {
            let name = format!("p{number}");
            let on = if self.chance.permille(300) { On::Wrapped } else { On::Pod };
            let Wish { annotations, words, gated, patient } = self.wish(on);
            if self.get(What::Pods, NAMESPACE, &name).is_none() {
                let restarts = self.chance.permille(500) && patient;
                let object = self.pod_object(annotations, gated, restarts);
                self.note((21, number), |_| format!("user  creates pod {name}: {words}"));
                self.make_pod(&name, object);
            }
        } else {
            let name = format!("j{number}");
            // A Job cannot be wrapped, but the Pods that it makes.
            let on = if self.chance.permille(200) { On::Template } else { On::Job };
            let Wish { annotations, words, patient, .. } = self.wish(on);
            if self.get(What::Jobs, NAMESPACE, &name).is_none() {
                let wide = if self.chance.permille(250) { 2 } else { 1 };
                let restarts = if patient && self.chance.permille(200) { "OnFailure" } else { "Never" };
                let mut spec = pod_spec(&annotations);
                spec["restartPolicy"] = restarts.into();
                let mut object = json!({
                    "metadata": {},
                    "spec": {"parallelism": wide, "completions": wide, "backoffLimit": self.chance.between(0, 3),
                        "template": {"spec": spec}},
                });
                let place = if on == On::Template { &mut object["spec"]["template"] } else { &mut object };
                place["metadata"]["annotations"] = annotations;
                if self.chance.permille(250) {
                    object["spec"]["ttlSecondsAfterFinished"] = 0.into();
                }
                let object = self.admitted(What::Jobs, object);
                self.note((22, number), |_| format!("user  creates job {name} ({wide} at a time): {words}"));
                let made = self.create(Writer::World, What::Jobs, NAMESPACE, &name, object);
                self.person_created(What::Jobs, &made, None);
            }
        }
    }

    fn user_deletes(&mut self) {
        let pods: Vec<String> = self.all(What::Pods).map(|pod| text(&pod["metadata"]["name"])).collect();
        let Some(name) = self.chance.pick(&pods).cloned() else { return };
        let force = self.chance.permille(200);
        self.note((23, u64::from(force)), |_| format!("user  deletes pod {name}{}", if force { " by force" } else { "" }));
        self.delete(Writer::World, &place(What::Pods, &name), if force { Some(0) } else { None });
    }

    fn user_deletes_job(&mut self) {
        let jobs: Vec<(String, String)> =
            self.all(What::Jobs).map(|job| (text(&job["metadata"]["name"]), text(&job["metadata"]["uid"]))).collect();
        let Some((name, uid)) = self.chance.pick(&jobs).cloned() else { return };
        let orphan = self.chance.permille(300);
        self.note((24, u64::from(orphan)), |_| format!("user  deletes job {name}{}", if orphan { ", its Pods stay" } else { "" }));
        if orphan {
            let pods: Vec<String> = self
                .all(What::Pods)
                .filter(|pod| pod["metadata"]["ownerReferences"][0]["uid"] == uid.as_str())
                .map(|pod| text(&pod["metadata"]["name"]))
                .collect();
            for pod in pods {
                self.change(&place(What::Pods, &pod), |pod| {
                    drop(pod["metadata"].as_object_mut().and_then(|meta| meta.remove("ownerReferences")))
                });
            }
        }
        self.delete(Writer::World, &place(What::Jobs, &name), None);
    }

    /// A Job is suspended, or goes on.
    fn user_suspends(&mut self) {
        let over = |job: &&Value| condition(job, "Complete") || condition(job, "Failed");
        let jobs: Vec<String> = self.all(What::Jobs).filter(|job| !over(job)).map(|job| text(&job["metadata"]["name"])).collect();
        if let Some(name) = self.chance.pick(&jobs).cloned() {
            self.set_suspended(&name, None);
        }
    }

    fn set_suspended(&mut self, name: &str, wanted: Option<bool>) {
        let at = place(What::Jobs, name);
        let Some(job) = self.objects.get(&at).cloned() else { return };
        let (uid, was) = (text(&job["metadata"]["uid"]), suspended(&job));
        let wanted = wanted.unwrap_or(!was);
        if was != wanted {
            let mut after = job.clone();
            after["spec"]["suspend"] = wanted.into();
            let mut after = self.readmitted(&job, after);
            if wanted {
                after["status"]["startTime"] = Value::Null;
            }
            self.truth.suspended.insert(uid, Instant::now());
            self.note((27, u64::from(wanted)), |_| format!("user  {} job {name}", if wanted { "suspends" } else { "resumes" }));
            self.change(&at, |job| *job = after);
        }
    }

    /// Finished Pods and Jobs are tidied away, so that their names come back.
    fn tidy(&mut self) {
        let jobs: Vec<String> = self
            .all(What::Jobs)
            .filter(|job| condition(job, "Complete") || condition(job, "Failed"))
            .map(|job| text(&job["metadata"]["name"]))
            .collect();
        for name in jobs {
            if self.chance.permille(100) {
                self.delete(Writer::World, &place(What::Jobs, &name), None);
            }
        }
        let pods: Vec<String> = self
            .all(What::Pods)
            .filter(|pod| terminal(pod) && pod["metadata"]["ownerReferences"][0]["uid"].is_null())
            .map(|pod| text(&pod["metadata"]["name"]))
            .collect();
        for name in pods {
            if self.chance.permille(100) {
                self.delete(Writer::World, &place(What::Pods, &name), None);
            }
        }
    }

    fn user_meddles(&mut self) {
        let Some((what, name)) = self.chance.pick(&self.cast).copied() else { return };
        let at = place(what, name);
        match self.chance.below(10) {
            0..4 => self.poke(&at),
            4..7 if what == What::Semaphores => {
                let permits = self.chance.between(0, 4);
                self.set_permits(name, permits);
            }
            _ => {
                self.note((26, 0), |_| format!("user  deletes {name}"));
                self.delete(Writer::World, &at, None);
            }
        }
    }

    fn set_permits(&mut self, name: &str, permits: u64) {
        self.change(&place(What::Semaphores, name), |object| {
            if object["spec"]["permits"] != permits {
                object["spec"]["permits"] = permits.into();
                object["metadata"]["generation"] = (object["metadata"]["generation"].as_i64().unwrap_or(1) + 1).into();
            }
        });
        self.note((25, permits), |_| format!("user  sets {name} to {permits} permits"));
    }

    /// Enough permits for everybody, so that everybody can come to an end.
    pub fn widen(&mut self) {
        self.truth.at_last = true;
        let jobs: Vec<String> = self.all(What::Jobs).filter(|job| !held_back(job)).map(|job| text(&job["metadata"]["name"])).collect();
        for job in jobs {
            self.set_suspended(&job, Some(false));
        }
        for (_, name) in self.cast.clone().into_iter().filter(|(what, _)| *what == What::Semaphores) {
            self.set_permits(name, 4);
        }
    }

    /// When nobody has come to an end for a while, people give up those who wait for what does not come.
    fn give_up(&mut self) {
        let left = self.left();
        match &self.truth.hopeless {
            Some((since, before)) if *before == left && since.elapsed() < PATIENT => return,
            Some((_, before)) if *before == left => self.truth.hopeless = None,
            _ => {
                self.truth.hopeless = Some((Instant::now(), left));
                return;
            }
        }
        let waiting = self.waiting();
        let meant = |object: &&Value| waiting.iter().any(|uid| object["metadata"]["uid"] == uid.as_str()) && !deleting(object);
        let name = |object: &Value| text(&object["metadata"]["name"]);
        let jobs: Vec<Place> = self.all(What::Jobs).filter(meant).map(|job| place(What::Jobs, &name(job))).collect();
        let pods: Vec<Place> = self.all(What::Pods).filter(meant).map(|pod| place(What::Pods, &name(pod))).collect();
        let claims: Vec<Place> = self.all(What::Claims).filter(meant).map(|claim| place(What::Claims, &name(claim))).collect();
        for at in jobs.into_iter().chain(pods).chain(claims) {
            self.note((29, 0), |_| format!("user  gives up {}", at.2));
            self.delete(Writer::World, &at, None);
        }
    }

    /// Primitives that are gone are made again, sooner or later.
    fn remake(&mut self) {
        for (what, name) in self.cast.clone() {
            if self.get(what, NAMESPACE, name).is_none() && (!self.chaos || self.chance.permille(80)) {
                self.make_primitive((what, name));
            }
        }
    }

    /// What users do in one moment. `busy`: they are still at work.
    pub fn users(&mut self, busy: bool) {
        self.remake();
        self.tidy_claims();
        if busy {
            if self.chance.permille(120) {
                self.user_creates();
            }
            self.tidy();
            if self.strikes(self.faults.claims) {
                self.user_claims();
            }
            if self.strikes(self.faults.claims / 20) {
                self.user_deletes_claim();
            }
            if self.strikes(self.faults.users / 2) {
                self.user_deletes();
            }
            if self.strikes(self.faults.users / 4) {
                self.user_deletes_job();
            }
            if self.strikes(self.faults.users / 4) {
                self.user_meddles();
            }
            if self.strikes(self.faults.users / 4) {
                self.user_suspends();
            }
        } else if self.truth.at_last {
            self.give_up();
        }
    }
}
