//! Admission: the product's own webhook, in memory, on everything that users and the Job controller create.

use konductor::{
    inject::{Request, Settings, inject},
    plan::Release,
};
use serde_json::Value;

use crate::{core::Core, request::What, truth::NAMESPACE};

impl Core {
    /// A Pod or Job as it goes into the cluster.
    pub fn admitted(&mut self, what: What, mut object: Value) -> Value {
        let default_release = if self.chance.coin() { Release::Hook } else { Release::Controller };
        let (api_version, kind) = what.types();
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        self.let_in(default_release, object, None)
    }

    /// A Job as it is after it was changed.
    pub fn readmitted(&mut self, before: &Value, after: Value) -> Value {
        self.let_in(Release::Hook, after, Some(before))
    }

    fn let_in(&mut self, default_release: Release, object: Value, old: Option<&Value>) -> Value {
        let settings = Settings { default_release, ..Settings::anywhere() };
        match inject(&settings, &Request { namespace: NAMESPACE, object: &object, old }) {
            Ok(outcome) => outcome.object,
            Err(refusal) => {
                self.violation("admission", format!("{refusal}"));
                object
            }
        }
    }
}
