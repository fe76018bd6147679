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
    let pure = ["src/api/", "src/rules/", "src/plan/", "src/inject/", "src/controller/object.rs", "src/controller/facts.rs"];
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
    let writers = files(".rs").into_iter().filter(|(path, text)| {
        path.starts_with("src/")
            && (code(text).contains("replace_status") || code(text).contains("patch_status"))
            && path != "src/controller/store.rs"
            // A planted bug does it, and is not in what is shipped.
            && path != "src/planted.rs"
    });
    let broken =
        writers.filter(|(path, text)| path != "src/controller/turn.rs" || code(text).contains("patch_status")).map(|(path, _)| path);
    assert_none(broken.collect(), "only src/controller/store.rs writes the status of primitives, and never by patch");
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
