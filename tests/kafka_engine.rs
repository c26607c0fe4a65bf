//! What only a real cluster shows of the engine: strangers' transactions and headers, records that the
//! brokers refuse, brokers that die, TLS and passwords. Names begin with the row of docs/faults.md.

#[path = "support/kafka.rs"]
mod kafka_cluster;
#[path = "kafka_engine/reading.rs"]
mod reading;
#[path = "kafka_engine/words.rs"]
mod words;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use kafka_cluster::Cluster;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, TopicPartitionList};
use seriatim::log::kafka::{Kafka, Options};
use seriatim::log::{Cleanup, Error, Log, Reader, Topic, TopicShape, Visibility};
use seriatim::record::{Offset, Partition};
use words::{Place, batch, connect, log_on, to};

fn stranger(cluster: &Cluster, id: &str) -> BaseProducer {
    let mut config: rdkafka::ClientConfig = cluster.properties().into_iter().collect();
    let producer: BaseProducer = config.set("transactional.id", id).create().expect("the properties are right");
    producer.init_transactions(Duration::from_secs(20)).expect("the broker is there");
    producer
}

/// A client that may set the positions of a group without members.
fn group_of(cluster: &Cluster, group: &str) -> BaseConsumer {
    let mut config: ClientConfig = cluster.properties().into_iter().collect();
    config.set("group.id", group).create().expect("the properties are right")
}

fn send(producer: &BaseProducer, to: &str, value: &str) {
    let headers = OwnedHeaders::new().insert(Header { key: "x", value: Some(value) });
    producer.send(BaseRecord::<(), str>::to(to).partition(0).payload(value).headers(headers)).expect("there is room");
    producer.flush(Duration::from_secs(20)).expect("the broker is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f28_open_transactions_of_strangers_end_what_is_stable_and_aborted_ones_leave_holes() {
    let (log, place) = log_on(Cluster::shared(), "strangers").await;
    place.append(&log, &["before"]).await;
    let producer = stranger(Cluster::shared(), "a-stranger");
    producer.begin_transaction().expect("it is initialised");
    send(&producer, place.0.topic.as_str(), "aborted");
    place.append(&log, &["behind"]).await;
    let bounds = log.bounds(&place.0).await.expect("it exists");
    assert_eq!((bounds.stable_end, bounds.end), (Offset(1), Offset(3)), "the open transaction ends it");
    assert_eq!(place.values(&log).await, ["before"]);
    producer.abort_transaction(Duration::from_secs(20)).expect("it is open");
    place.stable(&log, 4).await;
    assert_eq!(place.values(&log).await, ["before", "behind"]);
    producer.begin_transaction().expect("the last one is over");
    send(&producer, place.0.topic.as_str(), "aborted at the end");
    producer.abort_transaction(Duration::from_secs(20)).expect("it is open");
    place.stable(&log, 6).await;
    // Nothing but holes to the end: the position comes there all the same.
    assert_eq!(place.values(&log).await, ["before", "behind"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f32_a_refused_record_is_named_and_the_writer_goes_on_without_it() {
    let (log, place) = log_on(Cluster::shared(), "refusing").await;
    let small = place.sibling(&log, "small").await;
    let admin: AdminClient<DefaultClientContext> = {
        let config: rdkafka::ClientConfig = Cluster::shared().properties().into_iter().collect();
        config.create().expect("the properties are right")
    };
    let limit = AlterConfig::new(ResourceSpecifier::Topic(small.0.topic.as_str())).set("max.message.bytes", "1000");
    admin.alter_configs([&limit], &AdminOptions::new()).await.expect("the broker is there");
    let (_member, mut writer) = place.sole_writer(&log, "refusing").await;
    let large = "x".repeat(5000);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut kept = Vec::new();
    loop {
        // The limit takes its time to come to the broker's leader.
        let appends = vec![to(&place.0, &["lost"]), to(&small.0, &[&large]), to(&place.0, &["lost, too"])];
        match writer.commit(appends).await {
            Err(Error::Rejected { at, reason }) => {
                assert_eq!(at, small.0);
                assert!(reason.contains("max.message.bytes"), "{reason}");
                break;
            }
            Ok(_) => kept.extend(["lost", "lost, too"]),
            other => panic!("{other:?}"),
        }
        assert!(tokio::time::Instant::now() < deadline, "the limit does not hold");
    }
    kept.push("kept");
    writer.commit(vec![to(&place.0, &["kept"])]).await.expect("the rest may be committed");
    assert_eq!(place.values(&log).await, kept);
    let refused = log.append(&small.0, batch(&[&large])).await.expect("there is room").await;
    assert!(matches!(&refused, Err(Error::Rejected { at, .. }) if *at == small.0), "{refused:?}");
}

/// Threads of this process whose name begins so.
fn threads(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let name = |task: &std::path::Path| std::fs::read_to_string(task.join("comm")).unwrap_or_default();
    tasks.flatten().filter(|task| name(&task.path()).starts_with(prefix)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_of_one_partition_share_a_few_clients() {
    let (log, place) = log_on(Cluster::shared(), "shared-by-many").await;
    place.append(&log, &["first"]).await;
    let mut most = 0;
    let look_ups = futures::future::join_all((0..200).map(|_| place.values(&log)));
    tokio::pin!(look_ups);
    let found = loop {
        match tokio::time::timeout(Duration::from_millis(10), &mut look_ups).await {
            Ok(found) => break found,
            Err(_) => most = most.max(threads("kafka-fetch")),
        }
    };
    assert!(found.iter().all(|values| values == &["first"]), "{found:?}");
    // Those of the tests that run beside it are among them.
    assert!((1..=80).contains(&most), "{most} clients for 200 look-ups");
    // Those that follow beyond the places that there are take turns, and nobody is left out.
    let end = log.bounds(&place.0).await.expect("it exists").stable_end;
    let follow = async || {
        let mut reader = log.read(&place.0, end, Visibility::Durable, 1 << 20).await.expect("it exists");
        let fetched = reader.next().await.expect("nothing was removed");
        fetched.batches.iter().flatten().count()
    };
    let follow = futures::future::join_all((0..40).map(|_| follow()));
    tokio::pin!(follow);
    assert!(tokio::time::timeout(Duration::from_secs(2), &mut follow).await.is_err(), "there is nothing yet");
    place.append(&log, &["second"]).await;
    let followed = tokio::time::timeout(Duration::from_secs(60), follow).await.expect("each has its turn");
    assert_eq!(followed, vec![1; 40]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_a_topic_made_anew_has_another_identity() {
    let (log, place) = log_on(Cluster::shared(), "made-anew").await;
    let topic = &place.0.topic;
    let ours = [topic.clone(), Topic::from("no-such-topic")];
    let identity = async || log.identities(&ours).await.expect("the broker is there").remove(topic.as_str());
    let first = identity().await.expect("brokers have had ids since 2.8");
    assert_eq!(identity().await, Some(first));
    log.delete(std::slice::from_ref(topic)).await.expect("it is there");
    place.is_gone(&log).await;
    let place = Place::new(&log, "made-anew").await;
    let identity = log.identities(std::slice::from_ref(&place.0.topic)).await.expect("the broker is there");
    assert_ne!(identity[place.0.topic.as_str()], first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_what_was_committed_before_a_topic_was_made_anew_is_not_waited_for() {
    let (log, place) = log_on(Cluster::shared(), "committed-before").await;
    let (_member, mut writer) = place.sole_writer(&log, "committed-before").await;
    let topics = std::slice::from_ref(&place.0.topic);
    let first = log.identities(topics).await.expect("the broker is there");
    writer.commit(vec![to(&place.0, &["lost"])]).await.expect("it is the only one");
    log.delete(topics).await.expect("it is there");
    place.is_gone(&log).await;
    Place::new(&log, "committed-before").await;
    assert_ne!(log.identities(topics).await.expect("the broker is there"), first);
    let answered_at_once = async {
        let asked = || tokio::time::timeout(Duration::from_secs(1), log.bounds(&place.0));
        while !matches!(asked().await, Ok(Ok(bounds)) if bounds.end == Offset::ZERO) {}
    };
    tokio::time::timeout(Duration::from_secs(60), answered_at_once).await.expect("nothing is to be waited for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_positions_are_about_the_topic_that_they_were_stored_for() {
    let cluster = Cluster::shared();
    let (log, place) = log_on(cluster, "positions").await;
    let mut member = place.member(&log, "positions").await;
    let at = |offset| [(place.0.clone(), Offset(offset))];
    assert_eq!(member.committed(&place.0).await.expect("the broker is there"), None);
    member.commit(&at(3)).await.expect("it is its own");
    assert_eq!(member.committed(&place.0).await.expect("the broker is there"), Some(Offset(3)));
    log.delete(std::slice::from_ref(&place.0.topic)).await.expect("it is there");
    place.is_gone(&log).await;
    Place::new(&log, "positions").await;
    // It has lost the one and is assigned the other, and stores nothing of the one for the other.
    place.lost(&mut *member).await;
    let refused = member.commit(&at(4)).await;
    assert!(matches!(refused, Err(Error::Fenced(_))), "{refused:?}");
    assert_eq!(member.committed(&place.0).await.expect("the broker is there"), None);
    member.commit(&at(1)).await.expect("it is its own again");
    assert_eq!(member.committed(&place.0).await.expect("the broker is there"), Some(Offset(1)));
    member.leave().await;
    // As others store them: with nothing beside it, with something of their own, with another topic.
    let stranger = group_of(cluster, "positions");
    for (beside, expected) in
        [("", Some(Offset(2))), ("checked by hand", Some(Offset(2))), ("seriatim-topic=AAAAAAAAAAAAAAAAAAAAAQ", None)]
    {
        let mut positions = TopicPartitionList::new();
        let mut position = positions.add_partition(place.0.topic.as_str(), 0);
        position.set_offset(rdkafka::Offset::Offset(2)).expect("it is an offset");
        position.set_metadata(beside);
        // Refused until the group has heard that its last member has left.
        let stored = async {
            while stranger.commit(&positions, CommitMode::Sync).is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), stored).await.expect("the group has no members");
        let joined = log.join("positions", std::slice::from_ref(&place.0.topic), "asking").await;
        let asking = joined.expect("the topic exists");
        assert_eq!(asking.committed(&place.0).await.expect("the broker is there"), expected, "{beside:?}");
        asking.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_busy_partition_keep_nobody_waiting() {
    let (log, place) = log_on(Cluster::shared(), "crowded").await;
    place.append(&log, &["first"]).await;
    let open = || async { log.read(&place.0, Offset::ZERO, Visibility::Durable, 1 << 20).await.expect("it exists") };
    let (mut resting, mut busy) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        resting.push(open().await);
        busy.push(open().await);
    }
    let written = async {
        loop {
            place.append(&log, &["more"]).await;
        }
    };
    let read = async {
        // These are not asked again, the others all the time.
        for reader in &mut resting {
            reader.next().await.expect("it is there");
            reader.rest();
        }
        futures::future::join_all(busy.iter_mut().map(read_on)).await;
    };
    tokio::select! {
        biased;
        read = tokio::time::timeout(Duration::from_secs(60), read) => read.expect("everybody's turn comes"),
        () = written => {}
    }
}

/// Until it has gone on for longer than a look-up takes.
async fn read_on(reader: &mut Box<dyn Reader>) {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        reader.next().await.expect("there is always more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f21_a_zombie_with_an_open_transaction_holds_up_nobody_after_a_claim() {
    let (log, place) = log_on(Cluster::shared(), "zombies").await;
    // As the owner before would be, had it been frozen between its records and their commit.
    let zombie = stranger(Cluster::shared(), "zombies.group.0");
    zombie.begin_transaction().expect("it is initialised");
    send(&zombie, place.0.topic.as_str(), "never committed");
    assert_eq!(log.bounds(&place.0).await.expect("it exists").stable_end, Offset(0));
    let (_member, mut writer) = place.sole_writer(&log, "zombies.group").await;
    place.stable(&log, 2).await;
    writer.commit(vec![to(&place.0, &["mine"])]).await.expect("it is the last to claim");
    let woken = zombie.commit_transaction(Duration::from_secs(20));
    assert!(woken.is_err(), "a fenced zombie commits nothing");
    assert_eq!(place.values(&log).await, ["mine"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f41_a_broker_that_dies_loses_nothing_that_was_acknowledged() {
    let cluster = Cluster::start(&[]);
    let (log, place) = log_on(&cluster, "dying").await;
    let (mut member, writer) = place.writer(&log, "dying").await;
    let mut writer = Some(writer);
    let mut acknowledged = Vec::new();
    for n in 0..60 {
        if n == 20 {
            // Where the only broker dies between acknowledging a commit and writing its marker, Kafka 4.3.0
            // may complete the transaction without one when it starts: docs/faults.md.
            let end = log.bounds(&place.0).await.expect("it exists").end;
            place.stable(&log, end.0).await;
            cluster.command("kill", 1);
        } else if n == 30 {
            cluster.command("start", 1);
        }
        let (appended, committed) = (format!("append {n:02}"), format!("commit {n:02}"));
        // While nobody answers, whoever waits is told in time.
        let patience = if (20..30).contains(&n) { Duration::from_millis(100) } else { Duration::from_secs(60) };
        let append = tokio::time::timeout(patience, async { log.append(&place.0, batch(&[&appended])).await?.await });
        if matches!(append.await, Ok(Ok(_))) {
            acknowledged.push(appended);
        }
        let commit = tokio::time::timeout(patience, async {
            loop {
                match writer.take() {
                    Some(mut held) => match held.commit(vec![to(&place.0, &[&committed])]).await {
                        Ok(_) => break Some(held),
                        // Whether it was written or not, only the log could tell.
                        Err(_) => break None,
                    },
                    None => writer = words::claim(&mut *member, &place.0).await,
                }
            }
        });
        writer = commit.await.ok().flatten().inspect(|_| acknowledged.push(committed));
    }
    assert!(acknowledged.len() >= 80, "all before and most after are acknowledged: {}", acknowledged.len());
    let values = place.values(&log).await;
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    values.iter().for_each(|value| *times.entry(value).or_default() += 1);
    for value in &acknowledged {
        assert_eq!(times.get(value.as_str()), Some(&1), "{value}: {values:?}");
    }
    for kind in ["append", "commit"] {
        let own: Vec<_> = values.iter().filter(|value| value.starts_with(kind)).collect();
        assert!(own.is_sorted(), "{own:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_passwords_work_and_wrong_ones_are_told() {
    let cluster = Cluster::start(&["--secure"]);
    for mechanism in ["SCRAM-SHA-256", "PLAIN"] {
        let mut properties = cluster.properties();
        properties.insert("sasl.mechanism".to_owned(), mechanism.to_owned());
        let log = connect(properties).await.expect("the password is right");
        let place = Place::new(&log, &format!("secure-{mechanism}")).await;
        place.append(&log, &["appended"]).await;
        let (_member, mut writer) = place.sole_writer(&log, mechanism).await;
        writer.commit(vec![to(&place.0, &["committed"])]).await.expect("it is the only one");
        assert_eq!(place.values(&log).await, ["appended", "committed"]);
    }
    for (property, wrong) in [("sasl.password", "guessed"), ("security.protocol", "PLAINTEXT")] {
        let mut properties = cluster.properties();
        properties.insert(property.to_owned(), wrong.to_owned());
        let refused = connect(properties).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{property}: {refused:?}");
    }
}

#[tokio::test]
async fn properties_that_decide_what_is_promised_are_not_to_be_set() {
    let with = |name: &str, value: &str| {
        let servers = ("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned());
        let properties = [servers, (name.to_owned(), value.to_owned())].into();
        Kafka::new(Options { properties, ..Options::default() }).map(drop)
    };
    with("compression.type", "zstd").expect("any other may be set");
    for (name, value, expected) in [
        ("isolation.level", "read_uncommitted", "is set by Seriatim"),
        ("enable.auto.commit", "true", "is set by Seriatim"),
        ("transactional.id", "mine", "is set by Seriatim"),
        ("group.instance.id", "me", "is set by Seriatim"),
        ("bootstap.servers", "k:9092", "librdkafka has no such property"),
        ("linger.ms", "soon", "linger.ms"),
    ] {
        let Err(Error::Damaged(reason)) = with(name, value) else { panic!("{name} is taken") };
        assert!(reason.contains(expected) && reason.contains(name), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: make faults"]
async fn how_long_a_transaction_takes_by_the_partitions_it_touches() {
    let (log, place) = log_on(Cluster::shared(), "measured").await;
    let topic = Topic::from("measured.wide");
    let shape = TopicShape { partitions: 800, cleanup: Cleanup::Delete };
    log.ensure(&[(topic.clone(), shape)]).await.expect("it can be made");
    let (mut member, mut writer) = place.writer(&log, "measured").await;
    let appends = |numbers: Range<u32>| numbers.map(|number| to(&topic.partition(Partition(number)), &["x"])).collect();
    for touched in [1, 10, 100, 800] {
        let mut took = Vec::new();
        let mut failed = 0;
        while took.len() < 30 {
            let begun = tokio::time::Instant::now();
            match writer.commit(appends(0..touched)).await {
                Ok(_) => took.push(begun.elapsed()),
                // Now and then a broker takes seconds to finish a wide transaction, and the next one waits.
                Err(_) if failed < 10 => {
                    failed += 1;
                    writer = words::claim(&mut *member, &place.0).await.expect("it is the only one");
                }
                Err(error) => panic!("{error}"),
            }
        }
        took.sort();
        println!("{touched} partitions: {:?} at p50, {:?} at most, {failed} given up", took[15], took[29]);
    }
}
