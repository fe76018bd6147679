//! The reference of all commands, as Markdown: made from the same definitions that parse the command line.

use clap::{Arg, Command, CommandFactory};

use super::Cli;

/// The whole reference; `docs/koncli.md` is this.
pub fn reference() -> String {
    let mut root = Cli::command().term_width(0);
    root.build();
    let mut text = String::from("# koncli\n\n");
    text.push_str(&format!("{}.\n\n", sentence(root.get_about().map(ToString::to_string))));
    text.push_str("Generated from the definitions of the command line by `UPDATE=1 cargo test --test generated`; do not edit.\n\n");
    text.push_str(INTRODUCTION);
    text.push_str("## For every command\n\n");
    text.push_str(&options(root.get_arguments().filter(|argument| argument.is_global_set())));
    let names: Vec<&str> = root.get_subcommands().map(Command::get_name).filter(|name| *name != "help").collect();
    text.push_str(&format!(
        "\nCommands: {}.\n",
        names.iter().map(|name| format!("[{name}](#koncli-{name})")).collect::<Vec<_>>().join(", ")
    ));
    for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
        section(&mut text, command, "koncli", 2);
    }
    text
}

const INTRODUCTION: &str = "\
## Exit codes

| | |
|---|---|
| 0 | well |
| 1 | an error that none of the others describes: refused, a hold that was lost, a mistake in a manifest; `once check`: not executed |
| 2 | there is no such object, or no such hold |
| 3 | the timeout was over first; with `--timeout 0`: it is not free |
| 4 | the user or service account lacks a right; the message says which |
| 5 | the API server or konductor does not answer |
| 64 | a mistake on the command line |
| 129, 130, 143 | SIGHUP (unless `nohup` has it ignored), Ctrl-C, SIGTERM; what waited is withdrawn |

`run` and `once do` exit with the code of the command that they run.

## How it works

A command that locks, waits or counts makes a Claim (`kubectl get clm`) in its namespace and waits for konductor to grant it, by a watch; it
polls nothing. Results go to the standard output, everything else to the standard error. With `-o json` the result is one document, whose
fields stay; `status` and `list` print the objects themselves.

`lock` and `acquire` hold beyond the end of the command: until `unlock` or `release` by the same holder, or until the ttl is over (the
`ttl` of the primitive, 5m otherwise). Asking again as the same holder gives the same hold, for another ttl, and says so. So two who use
one name hold together: where nobody says `--holder`, it is the name of the machine or Pod. `koncli run` renews while its
command runs, and every run is a holder of its own: use it wherever you can. [examples/by-koncli](../examples/README.md#by-koncli) has
scripts and init containers that use them, and how koncli comes into an image.

In a Pod, koncli needs a Role on Claims, and no more: see [sdk.md](sdk.md#rights). Commands that show or change primitives themselves
(`create`, `delete`, `list`, `status`, `why`, `top`, `check`, `once check`) need rights on those.

";

fn section(text: &mut String, command: &Command, parent: &str, level: usize) {
    let path = format!("{parent} {}", command.get_name());
    text.push_str(&format!("\n{} {path}\n\n{}.\n", "#".repeat(level), sentence(command.get_about().map(ToString::to_string))));
    let aliases: Vec<String> = command.get_visible_aliases().map(|alias| format!("`{parent} {alias}`")).collect();
    if !aliases.is_empty() {
        text.push_str(&format!("\nAlso {}.\n", aliases.join(", ")));
    }
    let inner: Vec<&Command> = command.get_subcommands().filter(|inner| inner.get_name() != "help").collect();
    if inner.is_empty() {
        text.push_str(&format!("\n    {}\n", usage(command, &path)));
        let own = options(command.get_arguments().filter(|argument| !argument.is_global_set()));
        if !own.is_empty() {
            text.push_str(&format!("\n{own}"));
        }
        if let Some(after) = command.get_after_help().map(ToString::to_string) {
            let (words, example) = after.split_once("Example:\n").unwrap_or((after.as_str(), ""));
            if !words.trim().is_empty() {
                text.push_str(&format!("\n{}\n", words.trim()));
            }
            let example: String = example.lines().map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line))).collect();
            text.push_str(&format!("\n```sh\n{example}```\n"));
        }
    }
    for command in inner {
        section(text, command, &path, level + 1);
    }
}

fn usage(command: &Command, path: &str) -> String {
    let usage = command.clone().render_usage().to_string();
    let rest = usage.trim().strip_prefix("Usage:").unwrap_or(&usage).trim();
    // Built as a part of the whole, it has the whole path already.
    let rest = rest.strip_prefix(path).unwrap_or_else(|| rest.strip_prefix(command.get_name()).unwrap_or(rest));
    format!("{path}{rest}").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A table of flags and arguments.
fn options<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let rows: String = arguments.filter(|argument| !matches!(argument.get_id().as_str(), "help" | "version")).map(row).collect();
    if rows.is_empty() { rows } else { format!("| | |\n|---|---|\n{rows}") }
}

fn row(argument: &Arg) -> String {
    let value = argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
    let takes = argument.get_action().takes_values();
    let name = match (argument.get_short(), argument.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => value.clone(),
    };
    let name = if takes && !argument.is_positional() { format!("{name} {value}") } else { name };
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let mut notes = Vec::new();
    let choices: Vec<String> = argument.get_possible_values().iter().map(|choice| choice.get_name().to_owned()).collect();
    if takes && !choices.is_empty() {
        notes.push(choices.join(", "));
    }
    let default: Vec<String> = argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if takes && !default.is_empty() {
        notes.push(format!("default `{}`", default.join(" ")));
    }
    if let Some(variable) = argument.get_env() {
        notes.push(format!("env `{}`", variable.to_string_lossy()));
    }
    let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
    format!("| `{name}` | {}{notes} |\n", help.trim_end_matches('.').replace('|', "\\|"))
}

fn sentence(text: Option<String>) -> String {
    text.unwrap_or_default().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves<'a>(command: &'a Command, path: &str, found: &mut Vec<(String, &'a Command)>) {
        let inner: Vec<&Command> = command.get_subcommands().filter(|inner| inner.get_name() != "help").collect();
        if inner.is_empty() {
            found.push((path.to_owned(), command));
        }
        for command in inner {
            leaves(command, &format!("{path} {}", command.get_name()), found);
        }
    }

    #[test]
    fn every_command_has_an_example_that_is_understood() {
        let root = Cli::command();
        root.clone().debug_assert();
        let mut found = Vec::new();
        leaves(&root, "koncli", &mut found);
        assert!(found.len() > 50);
        for (path, command) in found {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = after.split_once("Example:\n").unwrap_or_else(|| panic!("{path} has no example")).1;
            let lines: Vec<&str> = example.lines().filter_map(|line| line.find("koncli ").and_then(|at| line.get(at..))).collect();
            assert!(lines.iter().any(|line| line.starts_with(&path)), "{path}: {lines:?}");
            for line in lines {
                let line = line.split(['|', ';', ')', '>']).next().unwrap_or_default();
                let words = line.split_whitespace().map(|word| word.trim_matches('"'));
                root.clone().try_get_matches_from(words).unwrap_or_else(|error| panic!("{path}: {line}: {error}"));
            }
        }
    }
}
