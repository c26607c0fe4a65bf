//! `seriatim topics`: the pipeline's topics, as they have to be and as they are.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Exit;
use crate::log::{Cleanup, TopicShape};
use crate::process::Engine;
use crate::process::config::Config;

/// Show the topics of the pipeline, or create those that are missing
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim topics plan
  seriatim topics plan --json
  seriatim topics apply

The embedded log belongs to one process: end `seriatim run` first.")]
pub(super) struct Topics {
    #[command(subcommand)]
    action: Action,
    /// Print as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Action {
    /// Compare the topics with what they have to be; change nothing
    Plan,
    /// Create those that are missing; refuse where one is otherwise than it has to be
    Apply,
}

impl Topics {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let lines = runtime.block_on(async {
            if let Action::Apply = self.action {
                Engine::open(config).await?.ensure(&config.topics()).await?;
            }
            compare(config).await
        })?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&lines)?);
        } else {
            print!("{}", text(&lines));
        }
        let differs = lines.iter().any(|line| line.state == State::Differs);
        Ok(if differs { Exit::Conflict } else { Exit::Ok })
    }
}

/// A topic, as it has to be and as it is.
#[derive(Debug, Serialize)]
struct Line {
    topic: String,
    partitions: u32,
    cleanup: Cleanup,
    state: State,
    /// How many partitions it has instead, where that is what differs.
    found: Option<u32>,
    description: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Present,
    Missing,
    /// It cannot be made right: its partitions are fixed.
    Differs,
}

async fn compare(config: &Config) -> anyhow::Result<Vec<Line>> {
    // Opening a folder that is not there would make it, and a plan changes nothing.
    let engine = match config.log.folder() {
        Some(folder) if !folder.exists() => None,
        _ => Some(Engine::open(config).await?),
    };
    let topics = config.topics();
    let mut lines = Vec::new();
    for ((topic, wanted), (_, _, description)) in topics.shapes().into_iter().zip(topics.all()) {
        let found = match &engine {
            Some(engine) => engine.log().shape(&topic).await?,
            None => None,
        };
        lines.push(Line {
            topic: topic.to_string(),
            partitions: wanted.partitions,
            cleanup: wanted.cleanup,
            state: state(found.as_ref(), &wanted),
            found: found.map(|shape| shape.partitions).filter(|found| *found != wanted.partitions),
            description: &description.description,
        });
    }
    Ok(lines)
}

fn state(found: Option<&TopicShape>, wanted: &TopicShape) -> State {
    match found {
        None => State::Missing,
        Some(found) if found == wanted => State::Present,
        Some(_) => State::Differs,
    }
}

fn text(lines: &[Line]) -> String {
    let width = lines.iter().map(|line| line.topic.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Line { topic, partitions, cleanup, state, found, description } in lines {
        let state = match (state, found) {
            (State::Present, _) => "present".to_owned(),
            (State::Missing, _) => "missing".to_owned(),
            (State::Differs, Some(found)) => format!("differs: has {found} partitions"),
            (State::Differs, None) => "differs: another cleanup".to_owned(),
        };
        let cleanup = format!("{cleanup:?}").to_lowercase();
        writeln!(text, "{topic:width$}  {partitions:>3}  {cleanup:7}  {state:9}  {description}")
            .expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn states(config: &Config) -> Vec<State> {
        compare(config).await.expect("nothing is in the way").iter().map(|line| line.state).collect()
    }

    fn config(folder: &std::path::Path, partitions: u32) -> Config {
        let text = format!("log = {{ embedded = '{}', partitions = {partitions} }}", folder.display());
        Config::parse(&text, []).expect("it is right")
    }

    #[tokio::test]
    async fn a_plan_changes_nothing_and_sees_what_apply_has_done() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("log");
        let two = config(&folder, 2);
        assert!(states(&two).await.iter().all(|state| *state == State::Missing));
        assert!(!folder.exists());

        Engine::open(&two).await.expect("it opens").ensure(&two.topics()).await.expect("there are none yet");
        assert!(states(&two).await.iter().all(|state| *state == State::Present));

        let lines = compare(&config(&folder, 3)).await.expect("nothing is in the way");
        let input = lines.iter().find(|line| line.topic == "seriatim.input").expect("it is one of them");
        assert_eq!((input.state, input.found), (State::Differs, Some(2)));
        assert!(text(&lines).contains("differs: has 2 partitions"));
    }
}
