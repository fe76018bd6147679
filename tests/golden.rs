//! One table for admission: every folder of `tests/golden` holds an object (`input.yaml`; `old.yaml` where it is an update) and what becomes of
//! it: the patch and the result, warnings, or the error. `UPDATE=1 cargo test --test golden` writes them anew; read the difference then.
//! Each result goes in again, and must come out as it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "a test asserts by failing")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use konductor::inject::{Outcome, Refusal, Request, Settings, inject, validate};
use serde_json::Value;

fn settings() -> Settings {
    Settings {
        image: "konductor.example/konductor:1".to_owned(),
        server_address: "10.96.0.7:443".to_owned(),
        ca_pem: "-----BEGIN CERTIFICATE-----\ngolden\n-----END CERTIFICATE-----\n".to_owned(),
        ..Settings::anywhere()
    }
}

#[test]
fn every_case_comes_out_as_it_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    cases.sort();
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    let wrong: Vec<String> =
        cases.iter().filter_map(|case| run(case).err().map(|why| format!("{}: {why}", case.file_name().unwrap().display()))).collect();
    assert!(wrong.is_empty(), "UPDATE=1 writes the files anew\n{}", wrong.join("\n"));
}

/// What the API server does: mutating admission, then validating admission.
fn admit(object: &Value, old: Option<&Value>) -> Result<Outcome, Refusal> {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default");
    let mut outcome = inject(&settings(), &Request { namespace, object, old })?;
    if object["kind"] != "Pod" {
        outcome.warnings.extend(validate(&Request { namespace, object: &outcome.object, old })?);
    }
    Ok(outcome)
}

fn run(case: &Path) -> Result<(), String> {
    let read = |name: &str| fs::read_to_string(case.join(name)).ok().map(|text| serde_saphyr::from_str::<Value>(&text).expect(name));
    let (input, old) = (read("input.yaml").ok_or("has no input.yaml")?, read("old.yaml"));
    let mut files: [(&str, Option<String>); 4] = [("patch.json", None), ("result.yaml", None), ("warnings.txt", None), ("error.txt", None)];
    match admit(&input, old.as_ref()) {
        Err(refusal) => files[3].1 = Some(format!("{}\n{refusal}\n", refusal.code)),
        Ok(outcome) => {
            let mut patched = input.clone();
            json_patch::patch(&mut patched, &outcome.patch).map_err(|error| format!("the patch does not apply: {error}"))?;
            if patched != outcome.object {
                return Err("the patch does not lead to the result".to_owned());
            }
            let again = admit(&outcome.object, old.as_ref()).map_err(|refusal| format!("a second pass is refused: {refusal}"))?;
            if !again.patch.0.is_empty() {
                return Err(format!("a second pass changes {}", serde_json::to_string_pretty(&again.patch).unwrap()));
            }
            files[0].1 = Some(lines(&outcome));
            if !outcome.patch.0.is_empty() {
                files[1].1 = Some(serde_saphyr::to_string(&outcome.object).unwrap());
            }
            if !outcome.warnings.is_empty() {
                files[2].1 = Some(format!("{}\n", outcome.warnings.join("\n")));
            }
        }
    }
    for (name, expected) in files {
        let path = case.join(name);
        if std::env::var_os("UPDATE").is_some() {
            match &expected {
                Some(text) => fs::write(&path, text).unwrap(),
                None => _ = fs::remove_file(&path),
            }
        }
        if fs::read_to_string(&path).ok() != expected {
            return Err(format!("{name} differs; now it is\n{}", expected.unwrap_or_default()));
        }
    }
    Ok(())
}

/// The patch, one operation a line, so that a difference shows which operation changed.
fn lines(outcome: &Outcome) -> String {
    let operations: Vec<String> =
        outcome.patch.0.iter().map(|operation| format!("  {}", serde_json::to_string(operation).unwrap())).collect();
    if operations.is_empty() { "[]\n".to_owned() } else { format!("[\n{}\n]\n", operations.join(",\n")) }
}
