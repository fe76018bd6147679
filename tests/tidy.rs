//! The rules of this project that a machine can check. Each failure says which file broke which rule.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{fs, path::Path, process::Command};

/// Files that git tracks, or would: path from the top, and text. Binary files are left out.
fn files(ending: &str) -> Vec<(String, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(top).output().unwrap();
    assert!(list.status.success(), "git ls-files: {}", String::from_utf8_lossy(&list.stderr));
    String::from_utf8(list.stdout)
        .unwrap()
        .lines()
        .filter(|path| path.ends_with(ending))
        .filter_map(|path| Some((path.to_owned(), fs::read_to_string(top.join(path)).ok()?)))
        .collect()
}

fn assert_none(broken: Vec<String>, rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// The text before the unit tests of a file.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn the_core_knows_no_client_no_runtime_and_no_clock() {
    let forbidden = ["Client", "tokio", "axum", "async ", "::now()", "Instant", "std::net", "std::fs", "std::env"];
    let pure = [
        "src/api/",
        "src/rules/",
        "src/plan/",
        "src/inject/",
        "src/controller/object.rs",
        "src/controller/status.rs",
        "src/controller/gate.rs",
        "src/controller/facts.rs",
        "src/controller/claims/facts.rs",
        "src/controller/claims/answer.rs",
    ];
    let mut broken = Vec::new();
    for (path, text) in files(".rs").iter().filter(|(path, _)| pure.iter().any(|start| path.starts_with(start))) {
        for (number, line) in code(text).lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for word in forbidden.iter().filter(|word| line.contains(**word)) {
                broken.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    assert_none(broken, "these files are pure: no client, no runtime, no clock");
}

#[test]
fn nothing_is_written_to_a_status_but_in_one_place() {
    let mut broken = Vec::new();
    // A planted bug patches one, and is not in what is shipped.
    for (path, text) in files(".rs").iter().filter(|(path, _)| path.starts_with("src/") && path != "src/planted.rs") {
        // Whoever has something to write asks the store.
        let writes = code(text).replace("store.replace_status(", "").contains("replace_status(") && path != "src/controller/store.rs";
        // The status of a Job that never started is no primitive's.
        if writes || code(text).contains("patch_status(") && path != "src/controller/starting.rs" {
            broken.push(path.clone());
        }
    }
    assert_none(broken, "only src/controller/store.rs writes the status of primitives, and never by patch");
}

#[test]
fn files_are_short_or_say_why_not() {
    let long = files(".rs").into_iter().filter(|(_, text)| text.lines().count() > 500 && !text.contains("Long because"));
    assert_none(
        long.map(|(path, text)| format!("{path}: {} lines", text.lines().count())).collect(),
        "a file over 500 lines says `Long because ...`",
    );
}

#[test]
fn files_begin_by_saying_what_is_inside() {
    let silent = files(".rs").into_iter().filter(|(_, text)| !text.starts_with("//!"));
    assert_none(silent.map(|(path, _)| path).collect(), "a Rust file begins with `//!`");

    let mut silent = Vec::new();
    let with_comments = [".yaml", ".tpl", ".awk", ".sh", ".toml", ".go", "Dockerfile", "Makefile"];
    for (path, text) in files("") {
        let mut lines = text.lines();
        let mut first = lines.next().unwrap_or_default();
        let script = first.starts_with("#!");
        if script {
            first = lines.next().unwrap_or_default();
        }
        let expected = script || with_comments.iter().any(|ending| path.ends_with(ending));
        // The cases of the golden tests are what a user might send.
        if expected && !path.starts_with("tests/golden/") && !["# ", "// ", "{{/*", "{{- /*"].iter().any(|mark| first.starts_with(mark)) {
            silent.push(path);
        }
    }
    assert_none(silent, "a script, a template or a configuration begins with a comment that says what is inside");
}

#[test]
fn versions_agree_wherever_they_are_written() {
    let files = files("");
    let written = |path: &str, before: &str| {
        let text = &files.iter().find(|(found, _)| found == path).unwrap().1;
        let line =
            text.lines().find_map(|line| line.strip_prefix(before)).unwrap_or_else(|| panic!("{path}: no line begins with {before:?}"));
        let end = |c: char| !c.is_ascii_digit() && c != '.';
        line.trim_start_matches('"').split(end).next().unwrap().to_owned()
    };
    let compiler = written("rust-toolchain.toml", "channel = ");
    assert_eq!(written("Dockerfile", "FROM rust:"), compiler);
    assert_eq!(written("Dockerfile", "ENV RUSTUP_TOOLCHAIN="), compiler);
    assert!(
        compiler.starts_with(&format!("{}.", written("Cargo.toml", "rust-version = "))),
        "Cargo.toml: rust-version is not that of {compiler}"
    );

    let version = written("Cargo.toml", "version = ");
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    for before in ["version: ", "appVersion: "] {
        assert_eq!(written("charts/konductor/Chart.yaml", before), version);
    }
    assert_eq!(written("Dockerfile", "#   docker build --tag konductor:"), version);
}

#[test]
fn no_file_is_a_drawer() {
    let drawer = |path: &String| ["utils", "util", "helpers", "common", "misc"].iter().any(|name| path.ends_with(&format!("/{name}.rs")));
    let broken = files(".rs").into_iter().map(|(path, _)| path).filter(|path| drawer(path));
    assert_none(broken.collect(), "a file is named after what is in it");
}

#[test]
fn nothing_names_a_machine_or_a_registry() {
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/."),
        concat!("proxy.gol", "ang.org"),
        concat!("static.cra", "tes.io"),
        concat!("deb.deb", "ian.org"),
    ];
    let mut broken = Vec::new();
    for (path, text) in files("") {
        if path == "Cargo.lock" || path.ends_with("go.sum") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                broken.push(format!("{path}:{}: {line}", number + 1));
            }
        }
    }
    assert_none(broken, "no path of a machine and no host of a registry stands in the tree");
}

#[test]
fn every_test_that_the_coverage_names_exists() {
    let sources = files(".rs");
    let coverage = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/coverage.md")).unwrap();
    let names = coverage.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.split_once("::"));
    let named: Vec<_> = names.filter(|(module, name)| *module != "MODULE" && *name != "NAME").collect();
    assert!(named.len() > 100, "{} names in docs/coverage.md", named.len());
    let missing = named.into_iter().filter(|(_, name)| {
        let function = format!("fn {}(", name.rsplit("::").next().unwrap_or(name));
        !sources.iter().any(|(_, text)| text.contains(&function))
    });
    assert_none(missing.map(|(module, name)| format!("{module}::{name}")).collect(), "docs/coverage.md names a test that is not there");
}
