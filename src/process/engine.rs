//! Which log a process stands on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Error;
use super::config::{Config, Properties, Size};
use super::lost::{Lost, lost};
use crate::log::embedded::{self, Embedded};
use crate::log::kafka::{Creation, Inspected, Kafka, Options};
use crate::log::{self, Log, Topic};
use crate::topics::{Description, Difference, Found, Keeping, Topics, Wanted, differences, other_partitions};

/// An open log.
#[derive(Debug, Clone)]
pub struct Engine(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Embedded(Embedded),
    Kafka { log: Kafka, keeping: Keeping },
}

/// What is said about one topic.
#[derive(Debug)]
pub struct Finding {
    /// The topic, as it has to be.
    pub wanted: Wanted,
    /// How many partitions it has, `None` where there is none of this name.
    pub partitions: Option<u32>,
    /// What is otherwise.
    pub differences: Vec<Difference>,
}

impl Finding {
    /// Whether the pipeline cannot run on it as it is, though it is there.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.differences.iter().any(|difference| difference.refused)
    }
}

impl Engine {
    /// Opens the log that the configuration names. Takes as long as reading the journal of a folder
    /// again, or as the first answer of a Kafka broker.
    ///
    /// # Errors
    ///
    /// Where the folder is in use, foreign, damaged or out of reach; where no broker answers, or a
    /// property of `log.kafka` is wrong.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        match (config.log.folder(), &config.log.kafka) {
            (None, Some(Properties(properties))) => {
                // Workers in other languages may join this one.
                let shared_groups = BTreeSet::from([format!("{}.work", config.name)]);
                let options = Options { properties: properties.clone(), shared_groups };
                let log = Kafka::connect(options).await.map_err(|error| match error {
                    log::Error::Damaged(reason) => Error::Properties(reason),
                    other => other.into(),
                })?;
                Ok(Self(Kind::Kafka { log, keeping: keeping(config) }))
            }
            (folder, _) => {
                let folder = folder.expect("without Kafka there is a folder, if only the default");
                let max_disk = config.log.max_disk.map(Size::get);
                let topics = config.topics();
                // Commands of batches are not among them: a cancel has to get through on a full disk.
                let intake = [topics.input, topics.batch_items].into();
                let reserve = config.log.reserve.get();
                let options = embedded::Options { max_disk, reserve, intake, ..embedded::Options::default() };
                // Opening reads and writes files for as long as it takes, which is no work for the runtime.
                let opened = tokio::task::spawn_blocking(move || Embedded::open(folder, options)).await;
                Ok(Self(Kind::Embedded(opened.expect("opening has no reason to panic, and nobody cancels it")?)))
            }
        }
    }

    /// As the stages see it.
    #[must_use]
    pub fn log(&self) -> Arc<dyn Log> {
        match &self.0 {
            Kind::Embedded(log) => Arc::new(log.clone()),
            Kind::Kafka { log, .. } => Arc::new(log.clone()),
        }
    }

    /// The one in a folder, for what only that can do.
    pub(super) fn embedded(&self) -> Option<&Embedded> {
        match &self.0 {
            Kind::Embedded(log) => Some(log),
            Kind::Kafka { .. } => None,
        }
    }

    /// Why no messages are taken in, if so: the disk is nearly full. Asks the file system.
    #[must_use]
    pub fn refuses_intake(&self) -> Option<String> {
        self.embedded().and_then(Embedded::refuses_intake)
    }

    /// Makes sure that the topics are as they have to be. In a folder they are created; in Kafka
    /// that is for `topics apply`, by whoever may.
    ///
    /// # Errors
    ///
    /// Naming the topic and what to do, where one is otherwise: `partitions` and
    /// `control_partitions` are fixed at creation.
    pub async fn ensure(&self, topics: &Topics) -> Result<(), Error> {
        match &self.0 {
            Kind::Embedded(log) => {
                refuse_others(self.findings(topics).await?)?;
                Ok(log.ensure(&topics.shapes()).await?)
            }
            Kind::Kafka { .. } => {
                let findings = self.findings(topics).await?;
                if let Some(missing) = findings.iter().find(|finding| finding.partitions.is_none()) {
                    let reason = "there is no such topic; `seriatim topics apply` creates what is missing";
                    let at = missing.wanted.topic.partition(crate::record::Partition(0));
                    return Err(log::Error::Rejected { at, reason: reason.to_owned() }.into());
                }
                refuse_others(findings)
            }
        }
    }

    /// Creates the topics that are missing; refuses where one is otherwise than it has to be.
    ///
    /// # Errors
    ///
    /// As [`Engine::ensure`]; nothing is created then.
    pub async fn create(&self, topics: &Topics) -> Result<(), Error> {
        let Kind::Kafka { log, .. } = &self.0 else { return self.ensure(topics).await };
        let findings = self.findings(topics).await?;
        if findings.iter().any(Finding::is_refused) {
            return refuse_others(findings);
        }
        let missing = findings.into_iter().filter(|finding| finding.partitions.is_none());
        let creation = |Finding { wanted: Wanted { topic, shape, settings, .. }, .. }| Creation {
            topic,
            partitions: shape.partitions,
            settings,
        };
        Ok(log.create(&missing.map(creation).collect::<Vec<_>>()).await?)
    }

    /// What is to be said about each topic.
    ///
    /// # Errors
    ///
    /// Where the log does not answer.
    pub async fn findings(&self, topics: &Topics) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::new();
        match &self.0 {
            Kind::Embedded(log) => {
                for ((topic, shape), (_, _, description)) in topics.shapes().into_iter().zip(topics.all()) {
                    let found = log.shape(&topic).await?;
                    let differs = found.as_ref().filter(|found| **found != shape);
                    let differences = differs.map(|found| in_folder(found, &shape)).into_iter().collect();
                    let partitions = found.as_ref().map(|found| found.partitions);
                    let settings = BTreeMap::new();
                    let wanted = Wanted { topic, shape, follows: description.partitions, settings };
                    findings.push(Finding { wanted, partitions, differences });
                }
            }
            Kind::Kafka { log, keeping } => {
                for wanted in topics.wanted(keeping) {
                    let found = log.inspect(&wanted.topic).await?;
                    let partitions = found.as_ref().map(|found| found.partitions);
                    let differences = found.map_or_else(Vec::new, |found| differences(&wanted, &as_found(found)));
                    findings.push(Finding { wanted, partitions, differences });
                }
            }
        }
        Ok(findings)
    }

    /// The topics that have another number of partitions now than they have to have: how many, and what to do. One
    /// question to the log; nothing of a folder, whose topics nobody else changes, nor of topics that are missing.
    ///
    /// # Errors
    ///
    /// Where the log does not answer.
    pub async fn other_partitions(&self, topics: &Topics) -> Result<BTreeMap<Topic, String>, Error> {
        let Kind::Kafka { log, .. } = &self.0 else { return Ok(BTreeMap::new()) };
        let wanted: Vec<_> = topics.shapes().into_iter().zip(topics.all()).collect();
        let names: Vec<Topic> = wanted.iter().map(|((topic, _), _)| topic.clone()).collect();
        let found = log.partitions(&names).await?;
        let other =
            |((topic, wanted), (_, _, description)): ((Topic, log::TopicShape), (String, &Topic, &Description))| {
                let found = found.get(&topic).copied().filter(|found| *found != wanted.partitions)?;
                Some((topic, other_partitions(description.partitions, wanted.partitions, found)))
            };
        Ok(wanted.into_iter().filter_map(other).collect())
    }

    /// The topics that were deleted under the pipeline, as far as its cursors tell, which are waited for
    /// [`crate::observe::PATIENCE`] at most, each. `findings` are those of now.
    pub async fn lost(&self, topics: &Topics, findings: &[Finding]) -> BTreeMap<Topic, Lost> {
        let missing = findings.iter().filter(|finding| finding.partitions.is_none());
        let missing: BTreeSet<&Topic> = missing.map(|finding| &finding.wanted.topic).collect();
        lost(&*self.log(), topics, |topic| missing.contains(topic)).await
    }
}

/// Refuses the first topic that is otherwise than it has to be.
fn refuse_others(findings: impl IntoIterator<Item = Finding>) -> Result<(), Error> {
    let Some(refused) = findings.into_iter().find(Finding::is_refused) else { return Ok(()) };
    let reasons: Vec<_> = refused.differences.into_iter().filter(|d| d.refused).map(|d| d.reason).collect();
    Err(Error::Topic { topic: refused.wanted.topic, reason: reasons.join("; ") })
}

fn keeping(config: &Config) -> Keeping {
    Keeping {
        retention: config.log.retention.get(),
        retention_bytes: config.log.retention_bytes.map(Size::get),
        max_body: config.ingress.max_body.get(),
    }
}

fn as_found(Inspected { partitions, replicas, settings }: Inspected) -> Found {
    Found { partitions, replicas, settings }
}

fn in_folder(found: &log::TopicShape, wanted: &log::TopicShape) -> Difference {
    let reason = if found.partitions == wanted.partitions {
        "it was made with another cleanup".to_owned()
    } else {
        let (found, wanted) = (found.partitions, wanted.partitions);
        format!(
            "it has {found} partitions, not {wanted}: the number is fixed at creation; put {found} back, or drain and \
             begin with a new folder"
        )
    };
    Difference { refused: true, reason }
}
