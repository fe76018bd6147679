//! What README.md and docs/ say, as far as it shows without a cluster: links lead somewhere, commands are understood, programs and targets exist. What needs a
//! cluster is in `tests/e2e/docs.rs`; Rust programs are compiled as tests of the documentation (`src/client`).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed unwrap is a failed test")]

mod pages;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use pages::{Code, TOP, pages};

/// Programs of the reader's own.
const STAND_INS: [&str; 3] = ["run-migrations", "generate-report", "./migrate.sh"];

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut broken = Vec::new();
    let mut seen = 0;
    for page in &pages {
        for link in page.links() {
            seen += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = Path::new(&page.path).parent().unwrap();
            let target = if path.is_empty() { page.path.clone() } else { normal(&folder.join(path)) };
            let there = Path::new(TOP).join(&target).exists();
            let anchored = || pages.iter().any(|page| page.path == target && page.anchors().iter().any(|known| known == anchor));
            if !there || !anchor.is_empty() && !anchored() {
                broken.push(format!("{}: {link}", page.path));
            }
        }
    }
    assert!(seen > 100, "only {seen} links were found");
    assert!(broken.is_empty(), "these links lead nowhere:\n  {}", broken.join("\n  "));
}

/// A path without `..`.
fn normal(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str().unwrap().split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

#[test]
fn every_page_is_linked_from_the_first_one() {
    let pages = pages();
    let linked: Vec<String> = pages.iter().find(|page| page.path == "docs/README.md").unwrap().links();
    for page in pages.iter().filter_map(|page| page.path.strip_prefix("docs/")).filter(|page| *page != "README.md") {
        assert!(linked.iter().any(|link| link == page), "docs/README.md has no link to {page}");
    }
}

#[test]
fn every_command_is_understood() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for page in pages() {
        for (place, command) in page.commands() {
            seen += 1;
            broken.extend(wrong(&command, false).map(|why| format!("{place}: {}: {why}", command.join(" "))));
        }
        for command in page.mentions(&["koncli", "make", "cargo"]) {
            seen += 1;
            broken.extend(wrong(&command, true).map(|why| format!("{}: {}: {why}", page.path, command.join(" "))));
        }
        for block in page.blocks {
            if let Code::Synopsis(command) = block.code {
                seen += 1;
                broken
                    .extend(koncli(&[&command[1..], &["--help".to_owned()]].concat(), false).map(|why| format!("{}: {why}", block.place)));
            }
        }
    }
    assert!(seen > 150, "only {seen} commands were found");
    assert!(broken.is_empty(), "these commands are not understood:\n  {}", broken.join("\n  "));
}

/// What is wrong with a command. `unfinished`: it may break off.
fn wrong(command: &[String], unfinished: bool) -> Option<String> {
    let (program, words) = command.split_first()?;
    match program.as_str() {
        "koncli" => koncli(words, unfinished),
        "make" => {
            let makefile = fs::read_to_string(Path::new(TOP).join("Makefile")).unwrap();
            let target = |word: &&String| !word.starts_with('-') && !word.contains('=');
            let known = |word: &&String| makefile.lines().any(|line| line.starts_with(&format!("{word}:")));
            words.iter().filter(target).find(|word| !known(word)).map(|word| format!("there is no target {word}"))
        }
        "cargo" => match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["run", "--bin", "koncli", "--", ..] => koncli(&words[4..], unfinished),
            ["run", "--example", name] => {
                (!Path::new(TOP).join("examples").join(name).join("main.rs").exists()).then(|| "there is no such example".to_owned())
            }
            ["test", "--test", name] => {
                (!Path::new(TOP).join("tests").join(format!("{name}.rs")).exists()).then(|| "there is no such test".to_owned())
            }
            _ => Some("this test knows no such command of cargo's".to_owned()),
        },
        // Tried on a cluster.
        "kubectl" | "helm" => None,
        program if STAND_INS.contains(&program) => None,
        program if program.contains('/') => (!Path::new(TOP).join(program).exists()).then(|| "there is no such file".to_owned()),
        program => {
            let found = Command::new("bash").args(["-c", "type -- \"$0\"", program]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            (!found.unwrap().success()).then(|| "there is no such program".to_owned())
        }
    }
}

/// Lets koncli itself read the words. It finds no cluster, so it goes no further than that: 64 is a mistake on the command line.
fn koncli(words: &[String], unfinished: bool) -> Option<String> {
    // Pages write KIND where any of the eight may stand, and NAME for one of them.
    let words = words.iter().map(|word| match word.as_str() {
        "KIND" => "barrier",
        "NAME" => "name",
        word => word,
    });
    let output = Command::new(env!("CARGO_BIN_EXE_koncli"))
        .args(words)
        .env_clear()
        .env("KUBECONFIG", "/dev/null")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let unknown = ["unexpected argument", "unrecognized subcommand", "invalid value"].iter().any(|words| said.contains(words));
    (output.status.code() == Some(64) && (unknown || !unfinished)).then_some(said)
}
