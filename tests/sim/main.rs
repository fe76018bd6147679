//! The simulator: the real controller, coordinator and rules on a simulated cluster in which everything fails, one seed for everything that varies,
//! and every promise checked at every committed revision. `make sim` runs the whole suite; `make sim SEED=17` replays one run.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod admission;
mod agent;
mod api;
mod cast;
mod chance;
mod claimed;
mod claims;
mod cluster;
mod core;
mod debts;
mod explore;
mod jobs;
mod judge;
mod latches;
mod limits;
mod line;
mod people;
mod pod;
mod process;
mod reports;
mod request;
mod rest;
mod run;
mod suite;
mod told;
mod trouble;
mod truth;
mod users;
mod walk;
mod walk_gate;
mod walk_meet;
mod wire;
mod wrapped;

use std::process::ExitCode;

use konductor::planted;
use run::Plan;

const HELP: &str = "sim [--seeds N] [--operations N]          the whole suite
sim --seed S [--operations N] [--bug B]   one run again, with what led to its violation (--all: with everything)
sim --bugs                                 only the planted bugs";

fn main() -> ExitCode {
    match asked() {
        Ok(asked) => suite::answer(&asked),
        Err(words) => {
            eprintln!("{words}\n{HELP}");
            ExitCode::from(2)
        }
    }
}

/// What the command line asks for.
struct Asked {
    seeds: u64,
    operations: u64,
    replay: Option<u64>,
    bug: Option<&'static str>,
    bugs_only: bool,
    all: bool,
}

fn asked() -> Result<Asked, String> {
    let mut asked = Asked { seeds: 2000, operations: 500, replay: None, bug: None, bugs_only: false, all: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("not a number: {text}"));
        match argument.as_str() {
            "--seeds" => asked.seeds = number(value()?)?,
            "--operations" => asked.operations = number(value()?)?,
            "--seed" => asked.replay = Some(number(value()?)?),
            "--bug" => {
                let name = value()?;
                let known = planted::ALL.into_iter().find(|known| **known == name);
                asked.bug = Some(known.ok_or(format!("there is no planted bug {name}; there are {:?}", planted::ALL))?);
            }
            "--bugs" => asked.bugs_only = true,
            "--all" => asked.all = true,
            _ => return Err(format!("what is {argument}?")),
        }
    }
    Ok(asked)
}

impl Asked {
    fn plan(&self, seed: u64) -> Plan {
        Plan { seed, operations: self.operations, traced: false, bug: self.bug }
    }
}
