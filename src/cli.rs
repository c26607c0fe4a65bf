//! The command line: one file a verb, and what they share.
//!
//! Data goes to standard output, talk to standard error. Whoever reads the data by program asks
//! for `--json`.

mod batch;
mod bench;
mod check;
pub mod client;
mod demo;
mod dest;
mod exit;
mod jq_worker;
mod lanes;
mod port;
mod run;
mod send;
mod shared;
mod stream;
mod tail;
mod topics;
mod verify;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::{Exit, Failure};

use crate::process::config::Config;

/// Work on an ordered stream in parallel, and hand the results on in exactly the order in which
/// the messages arrived, whatever crashes.
#[derive(Debug, Parser)]
#[command(name = "seriatim", version, after_help = AFTER_HELP, arg_required_else_help = true)]
struct Cli {
    /// The configuration; `seriatim.toml` where it exists, else built-in defaults
    #[arg(long, global = true, env = "SERIATIM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict, 5 timed out, 6 partly failed, 64 bad config.
Configuration: docs/configuration.md; every key also as a variable, SERIATIM_SECTION__KEY.";

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Run),
    Demo(demo::Demo),
    Check(check::Check),
    Topics(topics::Topics),
    Lanes(lanes::Lanes),
    Why(why::Why),
    Send(send::Send),
    Tail(tail::Tail),
    Batch(batch::Batch),
    Dest(dest::Dest),
    Verify(verify::Verify),
    Bench(bench::Bench),
    JqWorker(jq_worker::JqWorker),
}

impl Cli {
    fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(self.config.as_deref())?)
    }

    fn run(self) -> anyhow::Result<Exit> {
        match &self.verb {
            Verb::Run(run) => run.run(&self.load()?),
            Verb::Demo(demo) => demo.run(),
            Verb::Check(check) => check.run(&self.load()?),
            Verb::Topics(topics) => topics.run(&self.load()?),
            Verb::Lanes(lanes) => lanes.run(&self.load()?),
            Verb::Why(why) => why.run(&self.load()?),
            Verb::Send(send) => send.run(&self.load()?),
            Verb::Tail(tail) => tail.run(&self.load()?),
            Verb::Batch(batch) => batch.run(&self.load()?),
            Verb::Dest(dest) => dest.run(&self.load()?),
            Verb::Verify(verify) => verify.run(&self.load()?),
            Verb::Bench(bench) => bench.run(&self.load()?),
            Verb::JqWorker(worker) => worker.run(),
        }
    }
}

/// Runs the program as its arguments and environment say.
#[must_use]
pub fn main() -> ExitCode {
    // Everything that speaks TLS here takes its primitives from ring. An error says that an
    // embedding program has chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().run() {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error).into(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example_before_anything_else() {
        let command = Cli::command();
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help" && !verb.is_hide_set()) {
            let help = verb.get_before_help().unwrap_or_default().to_string();
            assert!(help.contains(&format!("seriatim {}", verb.get_name())), "{} has no example", verb.get_name());
        }
    }
}
