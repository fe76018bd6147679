//! `konductor agent wrap -- COMMAND...`: runs in the user's container, as its first process. It waits until the Pod holds all that its annotations say, runs the
//! command, and gives everything back the moment it has ended. And `konductor agent install`, which puts this binary there.
//!
//! Standard input and output are the command's alone. Its environment is the container's, and the fencing tokens where they are asked for.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tokio::time::timeout;

use super::{
    Outcome, acquire,
    child::{Child, End, Signals},
    coordinator::{Coordinator, Failure},
    hold::RELEASE_BUDGET,
    settings::{Mistakes, Settings, to_file},
    voice::Voice,
};
use crate::{
    api::names::{WRAP_DIRECTORY, WRAPPER},
    coordinator::protocol::{Ended, Token},
    rules::wrapped,
};

/// A command to wrap.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Wrap {
    /// What the install step has written.
    #[arg(long, default_value = SETTINGS, hide = true)]
    settings: PathBuf,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Where to install.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Install {
    /// The folder; the wrapped container has it at the same place.
    #[arg(long, default_value = WRAP_DIRECTORY, hide = true)]
    to: PathBuf,
}

const SETTINGS: &str = "/konductor.io/settings.json";

/// Copies this binary, and what it needs to know, to where another container finds them. Anybody may run and read them there.
pub fn install(install: &Install, voice: &mut Voice) -> Outcome {
    let named = |path: &str| install.to.join(Path::new(path).file_name().unwrap_or_default());
    let written = env::current_exe().and_then(|binary| {
        place(&named(WRAPPER), 0o755, |to| fs::copy(&binary, to).map(drop))?;
        place(&named(SETTINGS), 0o644, |to| fs::write(to, to_file(|name| env::var(name).ok())))
    });
    match written {
        Ok(()) => Outcome::Granted,
        Err(error) => {
            voice.say(&format!("could not write to {}: {error}", install.to.display()));
            Outcome::CannotStart
        }
    }
}

/// A whole file or none: the step may be run again while the container runs.
fn place(path: &Path, mode: u32, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    write(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
    fs::rename(&new, path)
}

/// Runs to the command's end; gives the exit code.
pub async fn run(wrap: Wrap) -> u8 {
    let mut voice = Voice::beside_others();
    let mut signals = match Signals::take() {
        Ok(signals) => signals,
        Err(error) => {
            voice.say(&format!("taking over the signals failed: {error}"));
            return Outcome::CannotStart.code();
        }
    };
    let prepared: Result<_, Mistakes> =
        Settings::from_file(&wrap.settings).and_then(|settings| Ok((Coordinator::new(&settings)?, settings)));
    let (coordinator, settings) = match prepared {
        Ok(prepared) => prepared,
        Err(mistakes) => {
            voice.say(&mistakes.to_string());
            return Outcome::BadConfiguration.code();
        }
    };
    let acquired = tokio::select! {
        biased;
        code = signals.fatal() => Err(code),
        acquired = acquire::anew(&coordinator, &settings, &mut voice) => acquired.map_err(Outcome::code),
    };
    let holds = match acquired {
        Ok(holds) => holds,
        Err(code) => {
            // Of several holds it may have got some. (Who leaves the command out has given them back.)
            if code != Outcome::Skipped.code() {
                let _ = timeout(RELEASE_BUDGET, give_back(&coordinator)).await;
            }
            return code;
        }
    };
    let started = fencing(&settings, &holds)
        .map_err(|error| (Outcome::CannotStart.code(), format!("writing the fencing tokens failed: {error}")))
        .and_then(|variables| Child::start(&wrap.command, variables));
    let End { code, alone } = match started {
        Ok(child) => child.end(&mut signals).await,
        Err((code, words)) => {
            voice.say(&words);
            End { code, alone: true }
        }
    };
    if code == 0 {
        last_words(&settings, &holds, &mut voice);
    }
    if alone {
        report(&coordinator, Ended { holds, succeeded: Some(code == 0) }, &mut voice).await;
    }
    code
}

/// The command never ran under what the Pod holds now, and never will.
async fn give_back(coordinator: &Coordinator) -> Result<(), Failure> {
    let holds = coordinator.held().await?;
    coordinator.ended(&Ended { holds, succeeded: Some(false) }).await
}

async fn report(coordinator: &Coordinator, ended: Ended, voice: &mut Voice) {
    match timeout(RELEASE_BUDGET, coordinator.ended(&ended)).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => voice.say(&format!("the command has ended; konductor will see it by itself ({failure})")),
        Err(_) => voice.say("the command has ended; konductor will see it by itself (no answer in time)"),
    }
}

/// Which holds this run had, where the kubelet reads it: beside the exit code it says whose success this was. What the command wrote there stays.
fn last_words(settings: &Settings, holds: &[Token], voice: &mut Voice) {
    let Some(path) = &settings.termination_log else { return };
    let holds = holds.iter().map(|Token { target, token }| (target.as_str(), *token));
    let written = fs::OpenOptions::new().append(true).open(path).and_then(|mut file| {
        let line = if file.metadata()?.len() == 0 { String::new() } else { "\n".to_owned() } + &wrapped::last_words(holds);
        file.write_all(line.as_bytes())
    });
    if let Err(error) = written {
        voice.say(&format!("could not write to {}: {error}", path.display()));
    }
}

/// Writes the tokens into their files; gives the variables that name them.
fn fencing(settings: &Settings, holds: &[Token]) -> io::Result<Vec<(String, String)>> {
    let Settings { fencing_env, fencing_directory, .. } = settings;
    let token = |index: usize| holds.get(index).map(|held| held.token.to_string());
    let last = fencing_env.iter().map(|(_, index)| *index).max();
    for (index, token) in last.into_iter().flat_map(|last| 0..=last).filter_map(|index| Some((index, token(index)?))) {
        place(&fencing_directory.join(index.to_string()), 0o444, |to| fs::write(to, &token))?;
    }
    fencing_env
        .iter()
        .map(|(name, index)| {
            let token = token(*index).ok_or_else(|| io::Error::other(format!("token {index} was not granted")))?;
            Ok((name.clone(), token))
        })
        .collect()
}
