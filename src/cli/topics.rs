//! `seriatim topics`: the pipeline's topics, as they have to be and as they are.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Exit;
use crate::log::Cleanup;
use crate::process::config::Config;
use crate::process::{Engine, Finding, Lost};
use crate::topics::{Acl, Difference};

/// Show the topics of the pipeline, or create those that are missing
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim topics plan
  seriatim topics plan --acls
  seriatim topics apply

The embedded log belongs to one process: end `seriatim run` first.
Exit code 4: the pipeline does not run on a topic as it is; of `plan` also: one was deleted or made
anew under the pipeline.")]
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
    Plan {
        /// Print instead what each role has to be allowed in Kafka, and no more
        #[arg(long)]
        acls: bool,
    },
    /// Create those that are missing; refuse where one is otherwise than it has to be
    Apply,
}

impl Topics {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        if let Action::Plan { acls: true } = self.action {
            let acls = config.topics().acls(config.name.as_str());
            print!("{}", if self.json { serde_json::to_string_pretty(&acls)? + "\n" } else { allowed(&acls) });
            return Ok(Exit::Ok);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let lines = runtime.block_on(async {
            match self.action {
                Action::Plan { .. } => compare(config).await,
                Action::Apply => apply(config).await,
            }
        })?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&lines)?);
        } else {
            print!("{}", text(&lines));
        }
        // Who has one made anew does so because it was deleted.
        let is_lost = |line: &Line| line.lost.is_some() && matches!(self.action, Action::Plan { .. });
        let differs = lines.iter().any(|line| line.state == State::Differs || is_lost(line));
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
    differences: Vec<Difference>,
    /// What became of the one that cursors count on.
    lost: Option<Lost>,
    description: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Present,
    /// It was missing until now.
    Created,
    Missing,
    /// The pipeline does not run on it as it is.
    Differs,
}

/// Creates what is missing, unless something is refused, and says how it is then.
async fn apply(config: &Config) -> anyhow::Result<Vec<Line>> {
    let before = {
        let engine = Engine::open(config).await?;
        let before = engine.findings(&config.topics()).await?;
        // What is refused is shown with all its reasons.
        if !before.iter().any(Finding::is_refused) {
            engine.create(&config.topics()).await?;
        }
        before
    };
    let mut lines = compare(config).await?;
    for (line, before) in lines.iter_mut().zip(before) {
        if line.state == State::Present && before.partitions.is_none() {
            line.state = State::Created;
        }
    }
    Ok(lines)
}

async fn compare(config: &Config) -> anyhow::Result<Vec<Line>> {
    let topics = config.topics();
    // Opening a folder that is not there would make it, and a plan changes nothing.
    let (findings, lost) = match config.log.folder() {
        Some(folder) if !folder.exists() => Default::default(),
        _ => {
            let engine = Engine::open(config).await?;
            let findings = engine.findings(&topics).await?;
            let lost = engine.lost(&topics, &findings).await;
            (findings, lost)
        }
    };
    let mut findings = findings.into_iter();
    let mut lines = Vec::new();
    for ((topic, wanted), (_, _, description)) in topics.shapes().into_iter().zip(topics.all()) {
        let finding = findings.next();
        let state = match &finding {
            Some(finding) if finding.is_refused() => State::Differs,
            Some(finding) if finding.partitions.is_some() => State::Present,
            _ => State::Missing,
        };
        let found = finding.as_ref().and_then(|finding| finding.partitions);
        lines.push(Line {
            lost: lost.get(&topic).copied(),
            topic: topic.to_string(),
            partitions: wanted.partitions,
            cleanup: wanted.cleanup,
            state,
            found: found.filter(|found| *found != wanted.partitions),
            differences: finding.map(|finding| finding.differences).unwrap_or_default(),
            description: &description.description,
        });
    }
    Ok(lines)
}

fn text(lines: &[Line]) -> String {
    let width = lines.iter().map(|line| line.topic.len()).max().unwrap_or_default();
    let there = lines.iter().filter(|line| line.state != State::Missing);
    let shared = shared(there.map(|line| line.differences.as_slice()));
    let mut text = String::new();
    for Line { topic, partitions, cleanup, state, differences, lost, description, .. } in lines {
        let (state, cleanup) = (format!("{state:?}").to_lowercase(), format!("{cleanup:?}").to_lowercase());
        writeln!(text, "{topic:width$}  {partitions:>3}  {cleanup:7}  {state:7}  {description}")
            .expect("a String takes everything");
        if let Some(lost) = lost {
            writeln!(text, "{:width$}  lost: {}", "", lost.reason()).expect("a String takes everything");
        }
        for difference in differences.iter().filter(|difference| !shared.contains(difference)) {
            tell(&mut text, width, "", difference);
        }
    }
    for difference in shared {
        tell(&mut text, width, "all", difference);
    }
    let missing = lines.iter().filter(|line| line.state == State::Missing).count();
    if missing > 0 {
        writeln!(text, "{missing} missing: `seriatim topics apply` creates what is missing")
            .expect("a String takes everything");
    }
    text
}

/// What all topics that are there have in common, which is told once; nothing where there is one only.
pub(super) fn shared<'a>(of_each: impl Iterator<Item = &'a [Difference]>) -> Vec<&'a Difference> {
    let of_each: Vec<_> = of_each.collect();
    let Some((first, others)) = of_each.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Vec::new();
    };
    let everywhere = |difference: &&Difference| others.iter().all(|differences| differences.contains(difference));
    first.iter().filter(everywhere).collect()
}

fn tell(text: &mut String, width: usize, of: &str, Difference { refused, reason }: &Difference) {
    let how = if *refused { "refused" } else { "unwise" };
    writeln!(text, "{of:width$}  {how}: {reason}").expect("a String takes everything");
}

fn allowed(acls: &[Acl]) -> String {
    let mut text = String::new();
    for Acl { role, resource, name, operations } in acls {
        let operations = operations.join(", ");
        writeln!(text, "{role:12}  {resource:16}  {name:32}  {operations}").expect("a String takes everything");
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

        let created = apply(&two).await.expect("nothing is in the way");
        assert!(created.iter().all(|line| line.state == State::Created), "{created:?}");
        assert!(states(&two).await.iter().all(|state| *state == State::Present));
        let again = apply(&two).await.expect("nothing is in the way");
        assert!(again.iter().all(|line| line.state == State::Present), "{again:?}");

        let lines = compare(&config(&folder, 3)).await.expect("nothing is in the way");
        let input = lines.iter().find(|line| line.topic == "seriatim.input").expect("it is one of them");
        assert_eq!((input.state, input.found), (State::Differs, Some(2)));
        assert!(text(&lines).contains("refused: it has 2 partitions, not 3"), "{}", text(&lines));
    }

    #[tokio::test]
    async fn what_all_topics_have_in_common_is_told_once() {
        let parent = tempfile::tempdir().expect("a folder");
        let mut lines = compare(&config(&parent.path().join("log"), 2)).await.expect("nothing is in the way");
        let missing = format!("{} missing: `seriatim topics apply` creates what is missing\n", lines.len());
        assert!(text(&lines).ends_with(&missing), "{}", text(&lines));
        let unwise = |reason: &str| Difference { refused: false, reason: reason.to_owned() };
        for line in &mut lines {
            line.state = State::Present;
            line.differences.push(unwise("of all"));
        }
        lines[1].differences.push(unwise("of one"));
        let text = text(&lines);
        assert_eq!(text.matches("unwise: of all").count(), 1, "{text}");
        assert!(text.trim_end().ends_with("unwise: of all"), "{text}");
        assert_eq!(text.lines().nth(2).map(str::trim), Some("unwise: of one"), "{text}");
    }
}
