//! Everything at once, against a model.

use std::collections::BTreeMap;

use futures::future::join_all;
use seriatim::log::{Append, Topic, TopicPartition, Visibility};
use seriatim::record::{Offset, Partition};

use crate::fixture::{Fixture, batch, fetch, soon, to};

const PARTITIONS: u32 = 3;
const APPENDERS: usize = 3;
const APPENDS: usize = 60;
const COMMITS: usize = 60;
const TOTAL: usize = APPENDERS * APPENDS + COMMITS;

/// Offsets as they were acknowledged, with what was appended.
type Acknowledged = BTreeMap<(TopicPartition, Offset), String>;

pub(crate) async fn writers_and_readers_at_once(f: Fixture) {
    let topic = f.topic("stress", PARTITIONS).await;
    let control = f.topic("control", 1).await.partition(Partition(0));
    let appenders = join_all((0..APPENDERS).map(|name| append(&f, &topic, name)));
    let readers = join_all((0..6u32).map(|n| read(&f, topic.partition(Partition(n % PARTITIONS)), n)));
    let (appended, committed, read) = tokio::join!(appenders, commit(&f, &topic, &control), readers);
    let mut model: Acknowledged = appended.into_iter().flatten().collect();
    model.extend(committed);
    assert_eq!(model.len(), TOTAL * PARTITIONS as usize, "no place was given twice");
    for (partition, found) in read {
        let expected: Vec<_> =
            model.iter().filter(|((p, _), _)| *p == partition).map(|((_, o), value)| (*o, value.clone())).collect();
        assert_eq!(found, expected, "{partition}");
        for name in (0..APPENDERS).map(|name| format!("append {name} ")).chain(["commit ".to_owned()]) {
            let own: Vec<_> = found.iter().map(|(_, value)| value).filter(|value| value.starts_with(&name)).collect();
            assert!(own.is_sorted(), "{own:?}");
        }
    }
}

/// One round is one append to each partition, acknowledged together.
async fn append(f: &Fixture, topic: &Topic, name: usize) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    for n in 0..APPENDS {
        let value = format!("append {name} {n:03}");
        let mut pending = Vec::new();
        for p in topic.partitions(PARTITIONS) {
            let appending = soon(f.log.append(&p, batch(&[&value]))).await.expect("there is room");
            pending.push(async move { (p, appending.await.expect("it is written")) });
        }
        for (p, offsets) in soon(join_all(pending)).await {
            acknowledged.insert((p, offsets.get(0).expect("one was appended")), value.clone());
        }
    }
    acknowledged
}

async fn commit(f: &Fixture, topic: &Topic, control: &TopicPartition) -> Acknowledged {
    let (mut member, mut writer) = f.writer("group", control).await;
    let mut acknowledged = Acknowledged::new();
    for n in 0..COMMITS {
        let value = format!("commit {n:03}");
        let mut appends: Vec<Append> = topic.partitions(PARTITIONS).map(|p| to(&p, &[&value])).collect();
        appends.push(to(control, &["cursor"]));
        let offsets = member.busy(writer.commit(appends)).await.expect("it is the only writer");
        for (p, offsets) in topic.partitions(PARTITIONS).zip(offsets) {
            acknowledged.insert((p, offsets.get(0).expect("one was appended")), value.clone());
        }
        if n % 10 == 9 {
            writer = member.claim(control).await;
        }
    }
    acknowledged
}

async fn read(f: &Fixture, partition: TopicPartition, n: u32) -> (TopicPartition, Vec<(Offset, String)>) {
    let visibility = if n < PARTITIONS { Visibility::Written } else { Visibility::Durable };
    let mut reader = soon(f.log.read(&partition, Offset::ZERO, visibility, 200)).await.expect("it exists");
    let mut found = Vec::new();
    while found.len() < TOTAL {
        found.extend(fetch(&mut reader).await);
    }
    (partition, found)
}
