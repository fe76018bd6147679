//! `koncli`: the command line for people and scripts.
//!
//! [`kinds`] is the table of the commands on primitives; `claims` and `objects` run them. The others have a file each. What a command prints goes through
//! [`output`], and so does how it ends.

mod check;
mod claims;
mod explain;
mod flags;
mod inject;
mod kinds;
mod manifests;
mod objects;
mod output;
mod picture;
mod reference;
mod release;
mod run;
mod screen;
mod session;
mod signals;
mod top;
mod why;

use std::{ffi::OsString, io, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

use self::{
    kinds::{Does, KindCommand},
    objects::Definition,
    output::{Code, Failure, Format},
    session::Session,
};
use crate::{
    api::{ClaimKind, Operation},
    client::{Ask, word},
};

pub use reference::reference;

const EXIT_CODES: &str = "Exit codes: 0 well, 1 error, 2 not found, 3 timeout, 4 permission denied, 5 unavailable, 64 a mistake on the command line, \
                          129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.";

/// Coordination for Kubernetes Jobs, CronJobs and Pods: barriers, gates, locks and limits.
#[derive(Parser)]
#[command(name = "koncli", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args)]
struct Globals {
    /// The namespace; otherwise that of the Pod, of the kubeconfig's context, or `default`.
    #[arg(short, long, global = true, env = "KONDUCTOR_NAMESPACE")]
    namespace: Option<String>,
    /// The kubeconfig; otherwise KUBECONFIG, ~/.kube/config, or the Pod's service account.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    /// What is logged to the standard error: error, warn, info, debug or trace.
    #[arg(long = "log-level", global = true, env = "KONDUCTOR_LOG", default_value = "warn", value_name = "LEVEL")]
    log_level: String,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Kind(KindCommand),
    /// Shows a primitive, or all of them.
    #[command(after_help = "Example:\n  koncli status all -A\n  koncli status barrier stage-1-complete -o json")]
    Status(StatusArgs),
    /// Starts a new round of a Barrier, a Gate, a Once or a WaitGroup.
    #[command(
        after_help = "What was recorded in the round before does not count any more. Those who wait go on waiting.\n\nExample:\n  koncli reset barrier stage-1-complete"
    )]
    Reset {
        /// barrier, gate, once or waitgroup.
        #[arg(value_parser = with_rounds)]
        kind: ClaimKind,
        /// Name of the primitive.
        #[arg(value_parser = flags::object_name)]
        name: String,
    },
    /// Ends what somebody holds, for the person on call: deletes the holder, after asking.
    Release(release::ReleaseArgs),
    /// Holds something while a command runs, and ends the command if it is lost.
    Run(run::RunArgs),
    /// Says what a Pod or a Job waits for, and behind whom.
    Why(why::WhyArgs),
    /// Shows who holds and who waits, live: it is drawn anew whenever something changes, until `q`.
    Top(top::TopArgs),
    /// Says what the annotations of manifests mean: what they wait for, hold and do, in which order. Needs no cluster.
    Explain(explain::ExplainArgs),
    /// Prints manifests as konductor admits them, or says what is wrong with them. Needs no cluster.
    Inject(inject::InjectArgs),
    /// Says whether konductor is installed and well, and if not, what to do.
    #[command(visible_alias = "operator")]
    Check(check::CheckArgs),
    /// Prints the completions for a shell.
    #[command(after_help = "Example:\n  source <(koncli completions bash)")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Prints the version.
    #[command(after_help = "Example:\n  koncli version")]
    Version,
}

#[derive(Args)]
struct StatusArgs {
    /// `all`, a kind, or one of a kind as `KIND/NAME`.
    #[arg(value_name = "KIND", value_parser = kind_or_all, default_value = "all")]
    what: Shown,
    /// Name of the primitive; all of the kind otherwise.
    #[arg(value_parser = flags::object_name)]
    name: Option<String>,
    /// Those of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "name")]
    all_namespaces: bool,
}

#[derive(Clone)]
enum Shown {
    All,
    Of(ClaimKind),
    One(ClaimKind, String),
}

fn kind_or_all(text: &str) -> Result<Shown, String> {
    if text.eq_ignore_ascii_case("all") {
        return Ok(Shown::All);
    }
    let words = |words| format!("{words}, or all");
    match text.split_once('/') {
        Some((of, name)) => Ok(Shown::One(kind(of, &ClaimKind::ALL).map_err(words)?, flags::object_name(name)?)),
        None => kind(text, &ClaimKind::ALL).map(Shown::Of).map_err(words),
    }
}

fn with_rounds(text: &str) -> Result<ClaimKind, String> {
    let kinds: Vec<ClaimKind> = ClaimKind::ALL.into_iter().filter(|kind| kind.operations().contains(&Operation::Reset)).collect();
    kind(text, &kinds)
}

fn kind(text: &str, kinds: &[ClaimKind]) -> Result<ClaimKind, String> {
    let found = kinds::named(text).filter(|kind| kinds.contains(kind));
    found.ok_or_else(|| format!("it is one of {}", kinds.iter().map(|kind| word(*kind)).collect::<Vec<_>>().join(", ")))
}

/// Runs `koncli`.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // An error means that a provider is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Cli { globals, command } = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // 2, which others use for this, is "not found" here.
            return if error.use_stderr() { Code::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let mut filter = EnvFilter::new(&globals.log_level);
    if ["error", "warn"].contains(&globals.log_level.as_str()) {
        // Of a request that failed koncli speaks itself, once; the client does at each try.
        filter = filter.add_directive("kube_client=off".parse().unwrap_or_default());
    }
    // A log that cannot be written is left out: to say so would end whatever wanted to log, and with it what it holds.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).log_internal_errors(false);
    log.without_time().init();
    match dispatch(globals, command) {
        Ok(code) => ExitCode::from(code),
        Err(Failure { code, message }) => {
            if !message.is_empty() {
                output::tell(message);
            }
            code.into()
        }
    }
}

/// What needs no cluster is done here.
fn dispatch(globals: Globals, command: Command) -> Result<u8, Failure> {
    let namespace = || globals.namespace.as_deref().unwrap_or("default");
    match command {
        Command::Inject(args) => {
            Ok(inject::inject(&args, namespace(), globals.output, &mut io::stdout().lock(), &mut io::stderr().lock())?)
        }
        Command::Explain(args) => explain::explain(&args, namespace(), globals.output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "koncli", &mut script);
            Format::Text.print(&String::from_utf8_lossy(&script), &())?;
            Ok(0)
        }
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            globals.output.print(&format!("koncli {version}"), &serde_json::json!({ "version": version }))?;
            Ok(0)
        }
        command => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(anyhow::Error::from)?;
            runtime.block_on(in_cluster(&globals, command))
        }
    }
}

async fn in_cluster(globals: &Globals, command: Command) -> Result<u8, Failure> {
    let session = Session::open(globals).await?;
    let outcome = Box::pin(of_session(&session, command)).await;
    session.settled().await;
    outcome
}

async fn of_session(session: &Session, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Kind(command) => return of_kind(session, &command).await,
        Command::Status(StatusArgs { what, name, all_namespaces }) => match (what, name) {
            (Shown::One(..), None) if all_namespaces => {
                return Err(Failure::new(Code::Usage, "one primitive is in one namespace: name that with -n"));
            }
            (Shown::Of(kind), Some(name)) | (Shown::One(kind, name), None) => objects::status(session, kind, &name).await?,
            (Shown::Of(kind), None) => {
                objects::list(session, &Definition::of(kind).into_iter().collect::<Vec<_>>(), all_namespaces).await?
            }
            (Shown::All, None) => objects::list(session, &Definition::all(), all_namespaces).await?,
            (Shown::All | Shown::One(..), Some(_)) => return Err(Failure::new(Code::Usage, "one name is enough, and `all` takes none")),
        },
        Command::Reset { kind, name } => {
            let ask = Ask {
                holder: Some(session::this_machine()),
                options: claims::options(None, None, None),
                ..Ask::new(kind, name, Operation::Reset)
            };
            claims::step(session, &ask).await?;
        }
        Command::Release(args) => release::release(session, &args).await?,
        Command::Run(args) => return run::run(session, &args).await,
        Command::Why(args) => why::why(session, &args).await?,
        Command::Top(args) => top::top(session, &args).await?,
        Command::Check(args) => return check::check(session, &args).await,
        // They were done before there was a session.
        Command::Explain(_) | Command::Inject(_) | Command::Completions { .. } | Command::Version => {}
    }
    Ok(0)
}

async fn of_kind(session: &Session, command: &KindCommand) -> Result<u8, Failure> {
    let (kind, name) = (command.kind, command.name());
    match command.verb.does {
        Does::Create => objects::create(session, kind, name, command.spec()).await?,
        Does::Delete => objects::delete(session, kind, name).await?,
        Does::List => objects::list(session, &Definition::of(kind).into_iter().collect::<Vec<_>>(), command.flag("all-namespaces")).await?,
        Does::Status => objects::status(session, kind, name).await?,
        Does::Check => objects::check_once(session, name).await?,
        Does::Execute => return run::once(session, command).await,
        Does::Hold(_) | Does::Release | Does::Renew | Does::Step(_) => claims::run(session, command).await?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_primitive_may_be_named_as_it_is_written_elsewhere() {
        let shown = |text: &str| kind_or_all(text).map(|shown| matches!(shown, Shown::One(ClaimKind::Mutex, name) if name == "db"));
        assert_eq!(shown("mutex/db"), Ok(true));
        assert_eq!(shown("mutex"), Ok(false));
        for wrong in ["mutex/", "mutex/shop/db", "mutx/db"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }
}
