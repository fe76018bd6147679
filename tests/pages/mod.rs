//! The pages for people, README.md and docs/, taken apart: their headings, their links, and every piece of code that a reader might copy.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed unwrap is a failed test")]

use std::{fs, path::Path};

use serde_json::Value;

/// The top of the tree.
pub const TOP: &str = env!("CARGO_MANIFEST_DIR");

pub struct Page {
    /// From the top of the tree.
    pub path: String,
    /// The text without code, line by line, with what stands between backticks.
    pub prose: Vec<String>,
    pub blocks: Vec<Block>,
}

/// A piece of code that stands by itself.
pub struct Block {
    /// Where it is: `docs/mutex.md:5`.
    pub place: String,
    pub code: Code,
}

pub enum Code {
    /// Lines for a shell: in a block marked `sh`, or indented.
    Commands(String),
    /// Complete objects.
    Manifests(Vec<Value>),
    /// Annotations alone.
    Annotations(Value),
    /// Values of the chart.
    Values(Value),
    /// How a command is called (`koncli mutex lock [OPTIONS] <NAME>`): the words before that.
    Synopsis(Vec<String>),
    /// A picture, a program, a part of a Cargo.toml: nothing that a cluster or a shell could take. Programs are compiled as tests of the documentation.
    Other,
}

/// README.md, examples/README.md and all of docs/.
pub fn pages() -> Vec<Page> {
    let docs = fs::read_dir(Path::new(TOP).join("docs")).unwrap();
    let docs = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().into_string().unwrap())).filter(|path| path.ends_with(".md"));
    let mut paths: Vec<String> = ["README.md", "examples/README.md"].map(str::to_owned).into_iter().chain(docs).collect();
    paths.sort();
    paths.into_iter().map(page).collect()
}

fn page(path: String) -> Page {
    let text = fs::read_to_string(Path::new(TOP).join(&path)).unwrap();
    let mut page = Page { path, prose: Vec::new(), blocks: Vec::new() };
    let mut lines = text.lines().enumerate().peekable();
    let mut after_blank = true;
    while let Some((number, line)) = lines.next() {
        let place = format!("{}:{}", page.path, number + 1);
        if let Some(language) = line.strip_prefix("```") {
            let code: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            let code = classify(&place, language, &code.join("\n"));
            page.blocks.push(Block { place, code });
        } else if let Some(first) = line.strip_prefix("    ").filter(|_| after_blank) {
            let mut code = first.to_owned();
            while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with("    ")) {
                code = format!("{code}\n{}", &line[4..]);
            }
            page.blocks.push(Block { code: classify(&place, "sh", &code), place });
        } else {
            page.prose.push(line.to_owned());
        }
        after_blank = line.is_empty();
    }
    page
}

fn classify(place: &str, language: &str, code: &str) -> Code {
    match language {
        "sh" => match code.split_once(" [OPTIONS]") {
            Some((command, _)) => Code::Synopsis(command.split(' ').map(str::to_owned).collect()),
            None => Code::Commands(code.to_owned()),
        },
        "yaml" => yaml(place, code),
        "text" | "toml" | "rust,no_run" => Code::Other,
        other => panic!("{place}: code marked {other:?}; what is it? See `classify`"),
    }
}

fn yaml(place: &str, code: &str) -> Code {
    let read = |text: &str| serde_saphyr::from_str::<Value>(text).unwrap_or_else(|error| panic!("{place}: {error}"));
    let mut objects: Vec<Value> = code.split("\n---\n").map(read).collect();
    if objects.iter().all(|object| object["apiVersion"].is_string() && object["kind"].is_string()) {
        return Code::Manifests(objects);
    }
    let values = read(&fs::read_to_string(Path::new(TOP).join("charts/konductor/values.yaml")).unwrap());
    let fragment = objects.pop().filter(|_| objects.is_empty());
    let all = |test: &dyn Fn(&String) -> bool| fragment.as_ref().and_then(Value::as_object).is_some_and(|map| map.keys().all(test));
    if all(&|key| key.starts_with("konductor.io/")) {
        Code::Annotations(fragment.unwrap())
    } else if all(&|key| values.get(key).is_some()) {
        Code::Values(fragment.unwrap())
    } else {
        panic!("{place}: neither complete objects nor annotations of konductor's nor values of the chart:\n{code}")
    }
}

impl Page {
    /// The commands of all blocks, each with its place.
    pub fn commands(&self) -> Vec<(&str, Vec<String>)> {
        let of = |block: &Block| match &block.code {
            Code::Commands(text) => commands(text),
            _ => Vec::new(),
        };
        self.blocks.iter().flat_map(|block| of(block).into_iter().map(|command| (block.place.as_str(), command))).collect()
    }

    /// Commands of these programs in running text, between backticks. They may break off where the text does not care (`koncli run`).
    pub fn mentions(&self, programs: &[&str]) -> Vec<Vec<String>> {
        let text = self.prose.join(" ");
        let spans = text.split('`').skip(1).step_by(2).filter(|span| !span.contains("..."));
        spans.flat_map(commands).filter(|command| command.len() > 1 && programs.contains(&command[0].as_str())).collect()
    }

    /// The names under which its headings can be linked to.
    pub fn anchors(&self) -> Vec<String> {
        let headings = self.prose.iter().filter(|line| line.starts_with('#'));
        let slug = |line: &String| {
            let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
            line.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
        };
        headings.map(slug).collect()
    }

    /// Where its links lead, but for those to other sites.
    pub fn links(&self) -> Vec<String> {
        let text = self.prose.join("\n");
        let text: String = text.split('`').step_by(2).collect();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned());
        targets.filter(|target| !target.contains("://")).collect()
    }
}

/// The commands of a piece of shell, each as its words: those of `$(...)` too, without what ties them together. A variable is an `x`.
pub fn commands(text: &str) -> Vec<Vec<String>> {
    let (mut done, mut open) = (Vec::new(), vec![Vec::new()]);
    let mut word: Option<String> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let within = open.last_mut().unwrap();
        match c {
            '\'' => word.get_or_insert_default().extend(chars.by_ref().take_while(|c| *c != '\'')),
            '"' => word.get_or_insert_default().push_str(&quoted(&mut chars)),
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(c) => word.get_or_insert_default().push(c),
            },
            '$' if chars.peek() == Some(&'(') => {
                chars.next();
                within.extend(Some(word.take().unwrap_or_default() + "x"));
                open.push(Vec::new());
            }
            '$' => {
                while chars.next_if(|c| c.is_alphanumeric() || "_{}".contains(*c)).is_some() {}
                word.get_or_insert_default().push('x');
            }
            '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            '<' if chars.peek() == Some(&'(') => {} // the parenthesis begins a command
            ' ' => within.extend(word.take()),
            '\n' | ';' | '|' | '&' | '(' | ')' => {
                within.extend(word.take());
                done.push(std::mem::take(within));
                if c == ')' && open.len() > 1 {
                    open.pop();
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    open.last_mut().unwrap().extend(word);
    done.extend(open);
    done.into_iter().map(only_words).filter(|command| !command.is_empty()).collect()
}

/// What stands between double quotes.
fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => text.extend(chars.next()),
            '$' => {
                while chars.next_if(|c| c.is_alphanumeric() || "_{}".contains(*c)).is_some() {}
                text.push('x');
            }
            c => text.push(c),
        }
    }
    text
}

/// A command without the words of the shell and the variables before it.
fn only_words(command: Vec<String>) -> Vec<String> {
    let tie = |word: &String| ["if", "then", "else", "fi", "while", "do", "done", "!"].contains(&word.as_str());
    let variable = |word: &String| word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_alphanumeric() || c == '_'));
    command.into_iter().skip_while(|word| tie(word) || variable(word)).collect()
}
