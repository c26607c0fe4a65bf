//! Commits that hang, at the engine: what its writer then does, and the next one. Where each record is
//! can be told here, which a pipeline hides.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use seriatim::log::kafka::Kafka;
use seriatim::log::{Append, Error, Log as _, Membership, Offsets, TopicPartition, Writer, Written};
use seriatim::record::Offset;

use crate::checker::RECOVERY;
use crate::kafka::Cluster;
use crate::proxy::Proxy;
use crate::words::{self, Place, log_on, to};

/// A broker that comes to itself through a proxy, for all cases: they have topics of their own.
fn broker() -> &'static (Cluster, Proxy) {
    static SHARED: OnceLock<(Cluster, Proxy)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it listens").port().to_string();
        // Until the proxy serves it, whoever comes waits in the listener's queue.
        let cluster = Cluster::start(&["--between", &port]);
        let proxy = Proxy::start(listener, cluster.inside_proxy());
        (cluster, proxy)
    })
}

/// The owner of a cursor, which writes elsewhere, too.
struct Owner {
    log: Kafka,
    cursor: Place,
    group: &'static str,
    member: Box<dyn Membership>,
    writer: Box<dyn Writer>,
}

impl Owner {
    async fn start(group: &'static str) -> Self {
        let (log, cursor) = log_on(&broker().0, group).await;
        let (member, writer) = cursor.writer(&log, group).await;
        Self { log, cursor, group, member, writer }
    }

    async fn place(&self, name: &str) -> Place {
        self.cursor.sibling(&self.log, name).await
    }

    /// Claims, and settles what is committed alone and with others.
    async fn claim(&mut self, alone: &[&Place], with_others: &[&Place]) {
        let of = |places: &[&Place]| places.iter().map(|place| place.0.clone()).collect();
        let written = Written { alone: of(alone), with_others: of(with_others) };
        let deadline = tokio::time::Instant::now() + RECOVERY;
        loop {
            self.writer = words::claim(&mut *self.member, &self.cursor.0).await.expect("it is assigned");
            match heard(&mut *self.member, self.writer.settle(&written)).await {
                Ok(()) => return,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{}: {error}", self.group),
            }
        }
    }

    async fn commit(&mut self, appends: Vec<Append>) -> Result<Vec<Offsets>, Error> {
        heard(&mut *self.member, self.writer.commit(appends)).await
    }

    /// A commit that hangs in these places.
    async fn commit_without_markers(&mut self, appends: Vec<Append>, places: &[&Place]) {
        // No marker of what was before, which may be late, is one of those that are forgotten.
        let end = heard(&mut *self.member, self.log.bounds(&self.cursor.0)).await.expect("it exists").end;
        heard(&mut *self.member, self.cursor.stable(&self.log, end.0)).await;
        let topics: Vec<_> = places.iter().map(|place| place.0.topic.as_str()).collect();
        let proxy = &broker().1;
        topics.iter().for_each(|topic| proxy.forget_markers(topic));
        self.commit(appends).await.expect("it is acknowledged");
        topics.iter().for_each(|topic| proxy.remember_markers(topic));
        for place in places {
            let bounds = heard(&mut *self.member, self.log.bounds(&place.0)).await.expect("it exists");
            assert!(bounds.stable_end < bounds.end, "{}: {bounds:?}", place.0);
        }
    }

    async fn values(&mut self, place: &Place) -> Vec<String> {
        heard(&mut *self.member, place.values(&self.log)).await
    }
}

/// A member that is not listened to for a session is none any more.
async fn heard<T>(member: &mut dyn Membership, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            event = member.next() => drop(event.expect("it is a member")),
        }
    }
}

/// Waits until a partition ends here, open transactions included.
async fn ends_at(log: &Kafka, of: &TopicPartition, end: u64) {
    let reached = async {
        while log.bounds(of).await.expect("it exists").end < Offset(end) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(RECOVERY, reached).await.expect("something is written");
}

/// Has a topic refuse records of more than a thousand bytes.
async fn limit(owner: &mut Owner, place: &Place) {
    let config: ClientConfig = broker().0.properties().into_iter().collect();
    let admin: AdminClient<DefaultClientContext> = config.create().expect("the properties are right");
    let limit = AlterConfig::new(ResourceSpecifier::Topic(place.0.topic.as_str())).set("max.message.bytes", "1000");
    admin.alter_configs([&limit], &AdminOptions::new()).await.expect("the broker is there");
    // It takes its time to come to the partition's leader.
    let limited = async { while owner.commit(vec![to(&place.0, &[&"x".repeat(5_000)])]).await.is_ok() {} };
    tokio::time::timeout(RECOVERY, limited).await.expect("the limit holds");
}

/// A transactional producer that is none of the program's.
fn stranger(id: &str) -> BaseProducer {
    let mut config: ClientConfig = broker().0.properties().into_iter().collect();
    config.set("transactional.id", id).set("transaction.timeout.ms", "300000");
    let producer: BaseProducer = config.create().expect("the properties are right");
    producer.init_transactions(RECOVERY).expect("the broker is there");
    producer.begin_transaction().expect("it is initialised");
    producer
}

fn send(producer: &BaseProducer, place: &Place, value: &str) {
    let record: BaseRecord<'_, str, str> = BaseRecord::to(place.0.topic.as_str()).partition(0).payload(value);
    producer.send(record).map_err(|(error, _)| error).expect("there is room");
    producer.flush(RECOVERY).expect("the broker is there");
}

/// The abort of the refused one would end the one that hangs as aborted. It does end so by the next
/// claim; then nobody goes on as if it were there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f41_a_refused_transaction_after_a_commit_that_hangs_is_not_survived() {
    let mut owner = Owner::start("refused-behind").await;
    let cursor = Place(owner.cursor.0.clone());
    let (both, first, small) = (owner.place("both").await, owner.place("first").await, owner.place("small").await);
    let all = [&cursor, &both, &first, &small];
    limit(&mut owner, &small).await;
    let large = "x".repeat(5_000);
    let refused = |number| vec![to(&cursor.0, &[number]), to(&both.0, &[number]), to(&small.0, &[&large])];
    // After one that has ended it is refused, and that is all.
    let former = vec![to(&cursor.0, &["0"]), to(&both.0, &["0"]), to(&first.0, &["0"])];
    owner.commit(former).await.expect("it is the last to claim");
    let answer = owner.commit(refused("1")).await;
    assert!(matches!(&answer, Err(Error::Rejected { at, .. }) if *at == small.0), "{answer:?}");

    let hanging = vec![to(&cursor.0, &["2"]), to(&both.0, &["2"]), to(&first.0, &["2"])];
    owner.commit_without_markers(hanging, &[&cursor, &both, &first]).await;
    let answer = owner.commit(refused("3")).await;
    assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}");
    owner.claim(&all, &[]).await;
    assert_eq!(owner.values(&cursor).await, ["0"]);
    assert_eq!(owner.values(&both).await, ["0"], "as the cursor says");
    assert_eq!(owner.values(&first).await, ["0", "2"], "ahead of the cursor, which is recognised");
    owner.commit(vec![to(&cursor.0, &["4"]), to(&both.0, &["4"])]).await.expect("it is the last to claim");
    assert_eq!(owner.values(&cursor).await, ["0", "4"]);
    assert_eq!(owner.values(&both).await, ["0", "4"]);
}

/// The cursor's marker was written, and that of a partition in which a stranger has a transaction open
/// was not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f41_a_commit_that_hangs_where_strangers_write_is_ended_by_a_claim() {
    let mut owner = Owner::start("claim-beside").await;
    let cursor = Place(owner.cursor.0.clone());
    let input = owner.place("input").await;
    let stranger = stranger("beside-a-claim");
    send(&stranger, &input, "strange");
    owner.commit_without_markers(vec![to(&cursor.0, &["1"]), to(&input.0, &["ours"])], &[&input]).await;
    assert_eq!(owner.values(&cursor).await, ["1"], "it has its marker");
    owner.claim(&[&cursor], &[&input]).await;
    owner.commit(vec![to(&cursor.0, &["2"])]).await.expect("it is the last to claim");
    let bounds = heard(&mut *owner.member, owner.log.bounds(&input.0)).await.expect("it exists");
    assert_eq!(bounds.stable_end, Offset(0), "the stranger's is still open");
    send(&stranger, &input, "strange, too");
    stranger.commit_transaction(RECOVERY).expect("nobody has touched it");
    heard(&mut *owner.member, input.stable(&owner.log, bounds.end.0 + 2)).await;
    assert_eq!(owner.values(&input).await, ["strange", "ours", "strange, too"]);
}

/// As above, with a writer that lives on: it does not have its partition claimed again for that, and does
/// it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f41_a_commit_that_hangs_where_strangers_write_is_ended_by_its_writer() {
    let mut owner = Owner::start("alive-beside").await;
    let cursor = Place(owner.cursor.0.clone());
    let input = owner.place("input").await;
    owner.claim(&[&cursor], &[&input]).await;
    let stranger = stranger("beside-a-writer");
    send(&stranger, &input, "strange");
    owner.commit_without_markers(vec![to(&cursor.0, &["1"]), to(&input.0, &["ours"])], &[&input]).await;
    // The end, and a marker that ends both.
    heard(&mut *owner.member, ends_at(&owner.log, &input.0, 4)).await;
    owner.commit(vec![to(&cursor.0, &["2"])]).await.expect("it is the same writer");
    heard(&mut *owner.member, tokio::time::sleep(Duration::from_secs(12))).await;
    owner.commit(vec![to(&cursor.0, &["3"])]).await.expect("it is the same writer");
    let bounds = heard(&mut *owner.member, owner.log.bounds(&input.0)).await.expect("it exists");
    assert_eq!((bounds.stable_end, bounds.end), (Offset(0), Offset(4)), "one end, and the stranger's is open");
    send(&stranger, &input, "strange, too");
    stranger.commit_transaction(RECOVERY).expect("nobody has touched it");
    heard(&mut *owner.member, input.stable(&owner.log, 6)).await;
    assert_eq!(owner.values(&input).await, ["strange", "ours", "strange, too"]);
}

/// A commit that is aborted in part loses its cursor first: see `log::kafka::settle`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f41_the_partition_of_the_first_append_is_announced_first() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it listens").port().to_string();
    let cluster = Cluster::start(&["--proxy", &port]);
    // It has a runtime of its own, which must not end in this one.
    let proxy = std::mem::ManuallyDrop::new(Proxy::start(listener, cluster.behind_proxy()));
    let mut properties = cluster.properties();
    properties.insert("bootstrap.servers".to_owned(), format!("127.0.0.1:{port}"));
    let log = words::connect(properties).await.expect("the broker is there");
    let (cursor, output) = (Place::new(&log, "z-cursor").await, Place::new(&log, "a-output").await);
    let (_member, mut writer) = cursor.sole_writer(&log, "announcing").await;
    // While these are put into its queue, the library announces what it has.
    let many = vec!["x"; 100_000];
    let appends = vec![to(&cursor.0, &["1"]), to(&output.0, &many)];
    writer.commit(appends).await.expect("it is the last to claim");
    let announced = proxy.announced();
    let names = |frame: &Vec<u8>, name: &[u8]| frame.windows(name.len()).any(|there| there == name);
    assert!(names(&announced[0], b"z-cursor"), "{announced:?}");
    assert!(announced.iter().any(|frame| names(frame, b"a-output")), "{announced:?}");
}
