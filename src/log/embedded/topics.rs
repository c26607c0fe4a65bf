//! Which topics there are, and the marks of their partitions.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use fjall::Keyspace;

use super::floor::Ends;
use super::folder::{Lock, OpenError, Shape};
use super::marks::{Found, Marks};
use super::store::{Store, last, words};
use crate::log::{Error, Topic, TopicPartition, TopicShape};
use crate::record::{Offset, Partition};

const START: &[u8] = b"start\0";
const POSITION: &[u8] = b"position\0";

/// What Kafka allows for a name, so that a pipeline can move there.
const MAX_NAME: usize = 249;

/// Positions by group and partition.
pub(super) type Positions = Arc<Mutex<BTreeMap<(String, TopicPartition), Offset>>>;

/// All topics of the log.
pub(super) struct Topics {
    known: RwLock<Known>,
    /// Held while topics are made: the marker is read, changed and written as a whole.
    making: Mutex<()>,
    positions: Positions,
}

#[derive(Default)]
struct Known {
    shapes: BTreeMap<Topic, TopicShape>,
    partitions: BTreeMap<TopicPartition, Arc<Marks>>,
}

impl Topics {
    /// What the folder's marker lists, with the ends that the store knows.
    pub(super) fn load(lock: &Lock, store: &Store) -> Result<Self, OpenError> {
        let load = || -> Result<Self, String> {
            let starts: BTreeMap<Vec<u8>, Offset> = store.meta(START)?.into_iter().collect();
            let mut known = Known::default();
            for (name, shape) in lock.marker().map_err(|e| e.to_string())?.topics {
                if !store.has(&name) {
                    return Err(format!("the records of topic {name} are gone"));
                }
                let keyspace = store.topic(&name).map_err(|e| e.to_string())?;
                known.add(&Topic::from(name), &shape.into(), &keyspace, &starts)?;
            }
            let positions: Result<_, _> =
                store.meta(POSITION)?.into_iter().map(|(key, offset)| Ok((position_of(&key)?, offset))).collect();
            let positions = Arc::new(Mutex::new(positions.map_err(|()| "a stored position cannot be read")?));
            Ok(Self { known: RwLock::new(known), making: Mutex::new(()), positions })
        };
        // On some damage the store panics when it is read.
        let loaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(load));
        loaded.unwrap_or_else(|panic| Err(words(&*panic))).map_err(|reason| lock.damaged(reason))
    }

    pub(super) fn positions(&self) -> Positions {
        Arc::clone(&self.positions)
    }

    pub(super) fn position(&self, group: &str, of: &TopicPartition) -> Option<Offset> {
        let positions = self.positions.lock().expect("no holder of this lock panics");
        positions.get(&(group.to_owned(), of.clone())).copied()
    }

    /// How far all partitions are durable.
    pub(super) fn ends(&self) -> Ends {
        let mut ends: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        // In the order of topic and number, and numbers are dense.
        for (at, marks) in &self.read().partitions {
            ends.entry(at.topic.as_str().to_owned()).or_default().push(marks.durable().0);
        }
        Ends(ends)
    }

    /// Blocks for some syncs where there is something to make.
    pub(super) fn ensure(&self, topics: &[(Topic, TopicShape)], lock: &Lock, store: &Store) -> Result<(), Error> {
        let _making = self.making.lock().expect("no holder of this lock panics");
        let mut missing: BTreeMap<&Topic, &TopicShape> = BTreeMap::new();
        for (topic, shape) in topics {
            match self.shape(topic) {
                Some(found) if found.partitions != shape.partitions => {
                    let (found, wanted) = (found.partitions, shape.partitions);
                    return Err(Error::Damaged(other_partitions(topic, lock.folder(), found, wanted)));
                }
                Some(_) => {}
                None => {
                    check_name(topic)?;
                    missing.insert(topic, shape);
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let failed = |e: &dyn std::fmt::Display| Error::Damaged(format!("topics cannot be made: {e}"));
        let mut made = Vec::new();
        for (topic, shape) in missing {
            made.push((topic, shape, store.topic(topic.as_str()).map_err(|e| failed(&e))?));
        }
        let mut marker = lock.marker().map_err(|e| failed(&e))?.topics;
        for (topic, shape, _) in &made {
            let shape = Shape { partitions: shape.partitions, cleanup: shape.cleanup };
            marker.insert(topic.as_str().to_owned(), shape);
        }
        lock.set_topics(marker).map_err(|e| failed(&e))?;
        let mut known = self.known.write().expect("no holder of this lock panics");
        for (topic, shape, keyspace) in made {
            known.add(topic, shape, &keyspace, &BTreeMap::new()).map_err(|e| failed(&e))?;
        }
        Ok(())
    }

    /// Where each topic is stored.
    pub(super) fn keyspaces(&self) -> Vec<Keyspace> {
        let known = self.read();
        let firsts = known.partitions.values().filter(|marks| marks.at.partition == Partition(0));
        firsts.map(|marks| marks.keyspace.clone()).collect()
    }

    pub(super) fn shape(&self, topic: &Topic) -> Option<TopicShape> {
        self.read().shapes.get(topic).cloned()
    }

    pub(super) fn get(&self, of: &TopicPartition) -> Result<Arc<Marks>, Error> {
        self.read().partitions.get(of).map(Arc::clone).ok_or_else(|| unknown(of))
    }

    /// The partitions that a group is to share.
    pub(super) fn partitions(&self, group: &str, topics: &[Topic]) -> Result<Vec<TopicPartition>, Error> {
        let mut all = Vec::new();
        for topic in topics {
            if group.contains('\0') {
                let reason = "the name of a group must not hold a zero byte".to_owned();
                return Err(Error::Rejected { at: topic.partition(Partition(0)), reason });
            }
            let shape = self.shape(topic).ok_or_else(|| unknown(&topic.partition(Partition(0))))?;
            all.extend(topic.partitions(shape.partitions));
        }
        Ok(all)
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().expect("no holder of this lock panics")
    }
}

pub(super) fn other_partitions(topic: &Topic, folder: &Path, found: u32, wanted: u32) -> String {
    let folder = folder.display();
    format!(
        "topic {topic} in {folder} has {found} partitions, not {wanted}: the number is fixed when it is made; put \
         {found} back, or drain and begin with a new folder"
    )
}

impl Known {
    fn add(
        &mut self,
        topic: &Topic,
        shape: &TopicShape,
        keyspace: &Keyspace,
        starts: &BTreeMap<Vec<u8>, Offset>,
    ) -> Result<(), String> {
        for at in topic.partitions(shape.partitions) {
            let start = starts.get(&suffix(&at)).copied().unwrap_or_default();
            let found = last(keyspace, &at).map_err(|e| e.to_string())?.unwrap_or_default();
            if start > found.end {
                return Err(format!("{at} begins at {start} and ends at {}: records are missing", found.end));
            }
            let index = self.partitions.len();
            let found = Found { start, ..found };
            let marks =
                Marks::new(at.clone(), index, shape.cleanup, keyspace.clone(), found).map_err(|e| e.to_string())?;
            self.partitions.insert(at, Arc::new(marks));
        }
        self.shapes.insert(topic.clone(), shape.clone());
        Ok(())
    }
}

/// The key in `meta` of a partition's start.
pub(super) fn start_key(of: &TopicPartition) -> Vec<u8> {
    [START, &suffix(of)].concat()
}

/// The key in `meta` of a group's position in a partition.
pub(super) fn position_key(group: &str, of: &TopicPartition) -> Vec<u8> {
    [POSITION, group.as_bytes(), b"\0", &suffix(of)].concat()
}

fn suffix(of: &TopicPartition) -> Vec<u8> {
    [of.topic.as_str().as_bytes(), b"\0", &of.partition.0.to_be_bytes()].concat()
}

fn position_of(key: &[u8]) -> Result<(String, TopicPartition), ()> {
    let (names, partition) = key.split_last_chunk::<4>().ok_or(())?;
    let names = std::str::from_utf8(names).map_err(drop)?;
    let (group, topic) = names.strip_suffix('\0').and_then(|names| names.split_once('\0')).ok_or(())?;
    Ok((group.to_owned(), Topic::from(topic).partition(Partition(u32::from_be_bytes(*partition)))))
}

fn check_name(topic: &Topic) -> Result<(), Error> {
    let name = topic.as_str();
    let fits = (1..=MAX_NAME).contains(&name.len());
    if fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Ok(());
    }
    let reason = format!("a topic's name has 1 to {MAX_NAME} letters, digits, dots, dashes and underscores");
    Err(Error::Rejected { at: topic.partition(Partition(0)), reason })
}

fn unknown(at: &TopicPartition) -> Error {
    Error::Rejected { at: at.clone(), reason: "there is no such partition; create the topic first".to_owned() }
}

impl From<Shape> for TopicShape {
    fn from(Shape { partitions, cleanup }: Shape) -> Self {
        Self { partitions, cleanup }
    }
}
