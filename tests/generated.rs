//! Files that are generated from the code are committed, so that people can read and apply them; here each is compared with what the code
//! makes now. `UPDATE=1 cargo test --test generated` writes them anew.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{fs, path::Path};

use konductor::{api, cli, plan};

#[test]
fn the_crds_are_those_of_the_types() {
    for crd in api::crds() {
        let text = format!(
            "# Generated from src/api by `UPDATE=1 cargo test --test generated`; do not edit.\n{}",
            serde_saphyr::to_string(&serde_json::to_value(&crd).unwrap()).unwrap()
        );
        // The chart has copies of its own: Helm reads no file outside it.
        for folder in ["manifests/crds", "charts/konductor/files/crds"] {
            compare(&format!("{folder}/{}.yaml", crd.spec.names.plural), &text);
        }
    }
}

#[test]
fn the_reference_of_koncli_is_that_of_its_command_line() {
    compare("docs/koncli.md", &cli::reference());
}

#[test]
fn the_tables_of_the_annotations_are_those_of_the_parser() {
    let path = "docs/annotations.md";
    let mut page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    for (name, table) in plan::tables() {
        let begin = format!("<!-- begin {name}: generated from src/plan/table.rs by `make manifests` -->\n");
        let end = format!("<!-- end {name} -->\n");
        let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{path}: there is no line {begin}"));
        let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{path}: there is no line {end}"));
        page = format!("{before}{begin}\n{table}\n{end}{after}");
    }
    compare(path, &page);
}

fn compare(path: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == text, "{path} differs from the code; run `UPDATE=1 cargo test --test generated` and commit the result");
}
