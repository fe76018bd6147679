//! The commands on primitives: one table of kinds and verbs, from which the command line and its help are made.

use std::time::Duration as StdDuration;

use clap::{Arg, ArgMatches, Command, FromArgMatches, Subcommand, error::ErrorKind};
use serde_json::{Value, json};

use super::flags::{PERMITS, fields, flag, holder, number, object_name, priority, rest, timeout, ttl};
use crate::{
    api::{ClaimKind, Duration, Mode, Operation},
    client::word,
};

/// What a verb does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Makes the primitive.
    Create,
    /// Deletes the primitive.
    Delete,
    /// Lists those of its kind.
    List,
    /// Shows one.
    Status,
    /// Holds, beyond the end of the command.
    Hold(Option<Mode>),
    /// Ends a hold of an earlier command.
    Release,
    /// Renews one.
    Renew,
    /// Does one thing, and is over.
    Step(Operation),
    /// Says whether a Once was executed.
    Check,
    /// Executes a Once.
    Execute,
}

/// One verb of a kind.
#[derive(Debug)]
pub struct Verb {
    /// How it is written.
    pub word: &'static str,
    /// What it does.
    pub does: Does,
    about: &'static str,
    example: &'static str,
}

/// A command on a kind of primitive, as it was written.
#[derive(Clone, Debug)]
pub struct KindCommand {
    /// The kind.
    pub kind: ClaimKind,
    /// The verb.
    pub verb: &'static Verb,
    /// Everything else.
    pub given: ArgMatches,
}

const fn verb(word: &'static str, does: Does, about: &'static str, example: &'static str) -> Verb {
    Verb { word, does, about, example }
}

/// The verbs that every kind has.
const OBJECT: &[Verb] = &[
    verb("create", Does::Create, "Makes one", ""),
    verb("delete", Does::Delete, "Deletes one; if it is held, it goes when the last holder has ended", "koncli KIND delete NAME"),
    verb("list", Does::List, "Lists those of the namespace", "koncli KIND list -A"),
    verb("status", Does::Status, "Shows one: who holds it, how many wait, since when", "koncli KIND status NAME -o json"),
];

const UNLOCK: Verb = verb("unlock", Does::Release, "Gives back what `lock` took", "koncli KIND unlock NAME --holder $HOSTNAME");
const RESET: Verb = verb("reset", Does::Step(Operation::Reset), "Starts a new round", "koncli KIND reset NAME");

/// What each kind has beside them, and an example of its `create`.
fn entry(kind: ClaimKind) -> (&'static str, &'static [Verb], &'static str) {
    match kind {
        ClaimKind::Mutex => (
            "One holder at a time",
            const {
                &[
                    verb(
                        "lock",
                        Does::Hold(None),
                        "Waits for its turn and holds, until `unlock` or for the ttl",
                        "if koncli mutex lock db-migration --holder $HOSTNAME --timeout 30s; then\n    run-migrations\n    koncli mutex unlock db-migration --holder $HOSTNAME\n  fi",
                    ),
                    UNLOCK,
                ]
            },
            "koncli mutex create db-migration --ttl 10m",
        ),
        ClaimKind::RWMutex => (
            "Many readers, or one writer",
            const {
                &[
                    verb(
                        "lock",
                        Does::Hold(Some(Mode::Write)),
                        "Waits for its turn and writes, until `unlock` or for the ttl",
                        "koncli rwmutex lock cache --holder writer",
                    ),
                    verb(
                        "rlock",
                        Does::Hold(Some(Mode::Read)),
                        "Waits for its turn and reads, until `unlock` or for the ttl",
                        "koncli rwmutex rlock cache --holder reader-1",
                    ),
                    UNLOCK,
                ]
            },
            "koncli rwmutex create cache",
        ),
        ClaimKind::Lease => (
            "One holder at a time, the highest priority first",
            const {
                &[
                    verb(
                        "acquire",
                        Does::Hold(None),
                        "Waits for its turn and holds, until `release` or for the ttl",
                        "if koncli lease acquire daily-report --holder $HOSTNAME --timeout 0; then\n    generate-report\n    koncli lease release daily-report --holder $HOSTNAME\n  else\n    echo \"the previous one still runs\"\n  fi",
                    ),
                    verb("renew", Does::Renew, "Holds for another ttl", "koncli lease renew leader --holder $HOSTNAME"),
                    verb("release", Does::Release, "Gives back what `acquire` took", "koncli lease release leader --holder $HOSTNAME"),
                ]
            },
            "koncli lease create daily-report --ttl 1h",
        ),
        ClaimKind::Semaphore => (
            "So many permits at a time",
            const {
                &[
                    verb(
                        "acquire",
                        Does::Hold(None),
                        "Waits for permits and holds them, until `release` or for the ttl",
                        "koncli semaphore acquire api-limit --permits 2 --holder worker-1",
                    ),
                    verb("renew", Does::Renew, "Holds for another ttl", "koncli semaphore renew api-limit --holder worker-1"),
                    verb(
                        "release",
                        Does::Release,
                        "Gives back what `acquire` took",
                        "koncli semaphore release api-limit --holder worker-1",
                    ),
                ]
            },
            "koncli semaphore create api-limit --permits 10",
        ),
        ClaimKind::Once => (
            "Executed by one of all who would",
            const {
                &[
                    verb(
                        "check",
                        Does::Check,
                        "Exits with 0 if somebody has executed it, else with 1",
                        "koncli once check migrate || echo \"still to be done\"",
                    ),
                    verb(
                        "do",
                        Does::Execute,
                        "Runs a command if nobody has: one at a time, until one has exited with 0",
                        "koncli once do migrate -- ./migrate.sh",
                    ),
                    verb(
                        "wait",
                        Does::Step(Operation::Wait),
                        "Waits until somebody has executed it",
                        "koncli once wait migrate --timeout 10m",
                    ),
                    RESET,
                ]
            },
            "koncli once create migrate",
        ),
        ClaimKind::WaitGroup => (
            "Done when all of its members are",
            const {
                &[
                    verb("add", Does::Step(Operation::Add), "Counts it up", "koncli waitgroup add workers --delta 3"),
                    verb("done", Does::Step(Operation::Done), "Counts it down by one", "koncli waitgroup done workers"),
                    verb("wait", Does::Step(Operation::Wait), "Waits until all are done", "koncli waitgroup wait workers --timeout 1h"),
                    RESET,
                ]
            },
            "koncli waitgroup create workers",
        ),
        ClaimKind::Barrier => (
            "Opens when enough have arrived",
            const {
                &[
                    verb(
                        "wait",
                        Does::Step(Operation::Wait),
                        "Waits until it is open",
                        "koncli barrier wait stage-1-complete --timeout 30m",
                    ),
                    verb(
                        "arrive",
                        Does::Step(Operation::Arrive),
                        "Arrives, each holder once",
                        "koncli barrier arrive stage-1-complete --holder worker-1",
                    ),
                    RESET,
                ]
            },
            "koncli barrier create stage-1-complete --expected 3 --timeout 1h",
        ),
        ClaimKind::Gate => (
            "Opens when its conditions are met, or by hand",
            const {
                &[
                    verb("wait", Does::Step(Operation::Wait), "Waits until it is open", "koncli gate wait validation-gate --timeout 2h"),
                    verb(
                        "open",
                        Does::Step(Operation::Open),
                        "Opens it by hand, whatever its conditions say",
                        "koncli gate open validation-gate --holder ann",
                    ),
                    verb(
                        "close",
                        Does::Step(Operation::Close),
                        "Closes it by hand, whatever its conditions say",
                        "koncli gate close validation-gate --holder ann",
                    ),
                    RESET,
                ]
            },
            "koncli gate create validation-gate --condition job/data-validation=Complete",
        ),
    }
}

/// What else a kind is called, as kubectl calls it: its plural, and the short form.
const fn aliases(kind: ClaimKind) -> [&'static str; 2] {
    match kind {
        ClaimKind::Mutex => ["mutexes", "mtx"],
        ClaimKind::RWMutex => ["rwmutexes", "rwm"],
        ClaimKind::Lease => ["leases", "kls"],
        ClaimKind::Semaphore => ["semaphores", "sem"],
        ClaimKind::Once => ["onces", "onc"],
        ClaimKind::WaitGroup => ["waitgroups", "wg"],
        ClaimKind::Barrier => ["barriers", "bar"],
        ClaimKind::Gate => ["gates", "gt"],
    }
}

/// The kind that people call this.
pub fn named(text: &str) -> Option<ClaimKind> {
    let text = text.to_lowercase();
    ClaimKind::ALL.into_iter().find(|kind| word(*kind) == text || aliases(*kind).contains(&text.as_str()))
}

/// All verbs of a kind.
pub fn verbs(kind: ClaimKind) -> impl Iterator<Item = &'static Verb> {
    OBJECT.iter().chain(entry(kind).1)
}

/// The command of one kind.
fn command(kind: ClaimKind) -> Command {
    let (about, _, _) = entry(kind);
    let verbs = verbs(kind).map(|verb| verb_command(kind, verb));
    Command::new(word(kind))
        .aliases(aliases(kind))
        .about(format!("{about}: {}", self::verbs(kind).map(|verb| verb.word).collect::<Vec<_>>().join(", ")))
        .after_help(format!("Example:\n  {}", entry(kind).1.first().map_or("", |verb| verb.example)))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(verbs)
}

fn verb_command(kind: ClaimKind, verb: &'static Verb) -> Command {
    let example = match verb.does {
        Does::Create => entry(kind).2.to_owned(),
        _ => verb.example.replace("KIND", word(kind)).replace(" NAME", &format!(" {}", sample(kind))),
    };
    let mut command = Command::new(verb.word).about(verb.about).after_help(format!("Example:\n  {example}"));
    let mut seen = |arguments: Vec<Arg>| command = std::mem::take(&mut command).args(arguments);
    if verb.does != Does::List {
        seen(vec![Arg::new("name").value_name("NAME").required(true).value_parser(object_name).help("Name of the primitive")]);
    }
    match verb.does {
        Does::Create => seen(fields(kind)),
        Does::List => seen(vec![flag("all-namespaces", "Those of all namespaces").short('A')]),
        Does::Delete | Does::Status | Does::Check => {}
        Does::Hold(_) => {
            seen(vec![
                holder(),
                timeout(),
                ttl("How long it is held after its last renewal; the primitive's ttl otherwise, or 5m"),
                priority(),
            ]);
            if kind == ClaimKind::Semaphore {
                seen(vec![number("permits", "How many permits", PERMITS).default_value("1")]);
            }
        }
        Does::Release | Does::Renew => seen(vec![holder()]),
        Does::Execute => seen(vec![
            holder(),
            timeout(),
            ttl("How long after koncli has vanished the turn passes to the next; 5m otherwise"),
            rest("The command; without one, it counts as executed at once").required(false),
        ]),
        Does::Step(Operation::Wait) => seen(vec![timeout()]),
        Does::Step(Operation::Arrive) => {
            let who = Arg::new("who").value_name("HOLDER").help("Who arrives; the same as --holder").conflicts_with("holder");
            seen(vec![who, holder(), timeout()])
        }
        Does::Step(Operation::Add) => {
            seen(vec![number("delta", "How much is added", 1i64..=1_000_000).default_value("1"), holder(), timeout()]);
        }
        Does::Step(_) => seen(vec![holder(), timeout()]),
    }
    command
}

fn sample(kind: ClaimKind) -> &'static str {
    match kind {
        ClaimKind::Mutex => "db-migration",
        ClaimKind::RWMutex => "cache",
        ClaimKind::Lease => "daily-report",
        ClaimKind::Semaphore => "api-limit",
        ClaimKind::Once => "migrate",
        ClaimKind::WaitGroup => "workers",
        ClaimKind::Barrier => "stage-1-complete",
        ClaimKind::Gate => "validation-gate",
    }
}

impl KindCommand {
    /// The name of the primitive.
    pub fn name(&self) -> &str {
        self.text("name").unwrap_or_default()
    }

    /// A text that was given, if the verb takes it.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.one::<String>(name).map(String::as_str)
    }

    /// A value that was given, if the verb takes it.
    pub fn one<T: Clone + Send + Sync + 'static>(&self, name: &str) -> Option<&T> {
        self.given.try_get_one::<T>(name).ok().flatten()
    }

    /// A duration that was given.
    pub fn duration(&self, name: &str) -> Option<StdDuration> {
        self.one::<Duration>(name).map(|duration| duration.as_std())
    }

    /// Whether a flag was given.
    pub fn flag(&self, name: &str) -> bool {
        self.one::<bool>(name).copied().unwrap_or_default()
    }

    /// What stood behind `--`.
    pub fn rest(&self) -> Vec<std::ffi::OsString> {
        self.given.try_get_many::<std::ffi::OsString>("command").ok().flatten().into_iter().flatten().cloned().collect()
    }

    /// The spec that the flags of `create` make.
    pub fn spec(&self) -> Value {
        let text = |name: &str| self.one::<Duration>(name).map(|duration| json!(duration));
        let number = |name: &str| self.one::<i32>(name).map(|number| json!(number));
        let many = |values: Vec<Value>| (!values.is_empty()).then_some(Value::Array(values));
        let conditions = self.given.try_get_many::<Value>("condition").ok().flatten().into_iter().flatten().cloned().collect();
        let allowed = self.given.try_get_many::<String>("allow").ok().flatten().into_iter().flatten().map(|name| json!(name)).collect();
        let fields = [
            ("ttl", text("ttl")),
            ("timeout", text("timeout")),
            ("permits", number("permits")),
            ("priority", number("priority")),
            ("expected", number("expected")),
            ("quorum", number("quorum")),
            ("conditions", many(conditions)),
            ("allowedNamespaces", many(allowed)),
        ];
        fields.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))).collect::<serde_json::Map<_, _>>().into()
    }
}

impl FromArgMatches for KindCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let found = || {
            let (kind, inner) = matches.subcommand()?;
            let kind = ClaimKind::ALL.into_iter().find(|known| word(*known) == kind)?;
            let (verb, given) = inner.subcommand()?;
            let verb = verbs(kind).find(|known| known.word == verb)?;
            Some(Self { kind, verb, given: given.clone() })
        };
        found().ok_or_else(|| clap::Error::new(ErrorKind::InvalidSubcommand))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for KindCommand {
    fn augment_subcommands(command: Command) -> Command {
        command.subcommands(ClaimKind::ALL.map(self::command))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        ClaimKind::ALL.into_iter().any(|kind| word(kind) == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<KindCommand, clap::Error> {
        let words = line.split_whitespace();
        KindCommand::from_arg_matches(&KindCommand::augment_subcommands(Command::new("koncli")).try_get_matches_from(words)?)
    }

    #[test]
    fn every_operation_of_every_kind_has_a_verb() {
        for kind in ClaimKind::ALL {
            for operation in kind.operations() {
                let does = |verb: &&Verb| match verb.does {
                    Does::Step(step) => step == *operation,
                    Does::Hold(_) | Does::Execute => *operation == Operation::Acquire,
                    _ => false,
                };
                assert!(verbs(kind).any(|verb| does(&verb)), "{kind:?} {operation:?}");
            }
            for verb in verbs(kind) {
                if let Does::Step(step) = verb.does {
                    assert!(kind.operations().contains(&step), "{kind:?} {}", verb.word);
                }
            }
        }
    }

    #[test]
    fn kinds_are_called_as_kubectl_calls_them() {
        for crd in crate::api::crds() {
            let names = crd.spec.names;
            let all = [names.kind.clone(), names.plural].into_iter().chain(names.short_names.into_iter().flatten());
            for name in all.filter(|_| names.kind != "Claim") {
                assert_eq!(named(&name).map(|kind| format!("{kind:?}")), Some(names.kind.clone()), "{name}");
                assert!(parse(&format!("koncli {} list", name.to_lowercase())).is_ok(), "{name}");
            }
        }
    }

    #[test]
    fn flags_become_a_spec() {
        let spec = |line: &str| parse(line).unwrap().spec();
        assert_eq!(spec("koncli mutex create db --ttl 10m"), json!({"ttl": "10m"}));
        assert_eq!(spec("koncli semaphore create s"), json!({"permits": 1}));
        assert_eq!(
            spec("koncli barrier create b --expected 3 --quorum 2 --timeout 90s --allow x"),
            json!({"expected": 3, "quorum": 2, "timeout": "1m30s", "allowedNamespaces": ["x"]})
        );
        assert_eq!(
            spec("koncli gate create g --condition job/a=Complete --condition semaphore/shop/s;value=2"),
            json!({"conditions": [{"type": "Job", "name": "a", "state": "Complete"}, {"type": "Semaphore", "namespace": "shop", "name": "s", "value": 2}]})
        );
    }

    #[test]
    fn the_published_lines_are_understood() {
        for line in [
            "koncli barrier wait stage-1-complete --timeout 30m",
            "koncli gate wait validation-gate",
            "koncli lease acquire daily-report --holder h --timeout 0",
            "koncli lease release daily-report --holder h",
            "koncli mutex lock db-migration --holder h --timeout 30s",
            "koncli mutex unlock db-migration --holder h",
            "koncli barrier arrive b worker-1",
            "koncli waitgroup add w --delta 2",
            "koncli once check o",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert_eq!(parse("koncli lease acquire l --timeout 0").unwrap().duration("timeout"), Some(StdDuration::ZERO));
        assert!(parse("koncli mutex lock db --timeout soon").is_err());
        assert!(parse("koncli mutex lock").is_err());
        assert!(parse("koncli semaphore acquire s --permits 0").is_err());
        assert!(parse("koncli lease create l --priority -5").is_ok());
    }
}
