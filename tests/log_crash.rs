//! The embedded log under kill -9 and under damage: what was acknowledged is there, commits are
//! all or nothing, and what cannot be read is told rather than guessed.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fastrand::Rng;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use seriatim::log::embedded::{Embedded, Options};
use seriatim::log::{Append, Cleanup, Error, Event, Fetched, Log as _, Topic, TopicPartition, TopicShape, Visibility};
use seriatim::record::{Batch, BatchBuilder, Offset, Partition, RecordRef};

/// Tells a child which folder it is to fill.
const FOLDER: &str = "SERIATIM_CRASH_FOLDER";
/// Tells it how its appends are to be called.
const RUN: &str = "SERIATIM_CRASH_RUN";

const ROUNDS: u32 = 30;

fn lane(number: u32) -> TopicPartition {
    Topic::from("lanes").partition(Partition(number))
}

fn cursor() -> TopicPartition {
    Topic::from("cursor").partition(Partition(0))
}

async fn open(folder: &Path, options: Options) -> Embedded {
    let log = Embedded::open(folder, options).expect("a crash leaves a folder that opens");
    let lanes = (Topic::from("lanes"), TopicShape { partitions: 2, cleanup: Cleanup::Delete });
    let cursor = (Topic::from("cursor"), TopicShape { partitions: 1, cleanup: Cleanup::Compact });
    log.ensure(&[lanes, cursor]).await.expect("the shapes are the same every time");
    log
}

/// A record whose value begins with a word and is long enough to fill memtables and journals.
fn batch(word: &str, rng: &mut Rng) -> Batch {
    let mut builder = BatchBuilder::default();
    let value = format!("{word}|{}", "x".repeat(rng.usize(0..20_000)));
    builder.push(Some(b"key"), Some(value.as_bytes()), |_| {});
    builder.finish()
}

/// Offset and first word of every record of a partition.
async fn words(log: &Embedded, of: &TopicPartition) -> Result<Vec<(u64, String)>, Error> {
    let bounds = log.bounds(of).await?;
    let mut reader = log.read(of, bounds.start, Visibility::Durable, 1 << 20).await?;
    let mut found = Vec::new();
    while reader.position() < bounds.stable_end {
        found.extend(read(&reader.next().await?));
    }
    Ok(found)
}

fn read(fetched: &Fetched) -> Vec<(u64, String)> {
    let word = |record: RecordRef<'_>| {
        let value = String::from_utf8_lossy(record.value.unwrap_or_default());
        let (word, filling) = value.split_once('|').expect("every value has a bar");
        assert!(filling.bytes().all(|b| b == b'x'), "the content is damaged");
        (record.offset.0, word.to_owned())
    };
    fetched.batches.iter().flatten().map(word).collect()
}

fn tell(line: &str) {
    // One write a line: what the parent sees of it is all of it or nothing.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).expect("the parent listens until it kills");
}

/// Not a test of its own: what the children run.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let run = std::env::var(RUN).expect("the parent sets both");
    let runtime = tokio::runtime::Runtime::new().expect("threads can be made");
    runtime.block_on(async {
        // So that many die while they note how far the log reaches.
        let floor_every = Duration::from_millis(3);
        let log = open(Path::new(&folder), Options { cache: 1 << 20, floor_every, ..Options::default() }).await;
        tokio::join!(append_for_ever(&log, &run), commit_for_ever(&log));
    });
}

async fn append_for_ever(log: &Embedded, run: &str) {
    let mut rng = Rng::new();
    let mut pending = FuturesUnordered::new();
    for n in 0.. {
        let word = format!("append-{run}-{n}");
        let appending = log.append(&lane(0), batch(&word, &mut rng)).await.expect("there is room");
        pending.push(async move { (word, appending.await.expect("it is written")) });
        if pending.len() >= 8
            && let Some((word, offsets)) = pending.next().await
        {
            tell(&format!("ack 0 {} {word}", offsets.get(0).expect("one was appended")));
        }
    }
}

async fn commit_for_ever(log: &Embedded) {
    let mut rng = Rng::new();
    let done = words(log, &cursor()).await.expect("it can be read");
    let first = done.last().map_or(0, |(_, word)| number(word) + 1);
    let mut member = log.join("group", &[Topic::from("cursor")], "child").await.expect("the topic exists");
    assert!(matches!(member.next().await, Ok(Event::Assigned(_))));
    let mut writer = member.claim(&cursor()).await.expect("it is assigned");
    for n in first.. {
        let word = format!("commit-{n}");
        let appends = [lane(0), lane(1), cursor()].map(|to| Append { to, batch: batch(&word, &mut rng) });
        let offsets = writer.commit(appends.to_vec()).await.expect("it is the only writer");
        for (lane, offsets) in offsets.iter().enumerate().take(2) {
            tell(&format!("ack {lane} {} {word}", offsets.get(0).expect("one was appended")));
        }
    }
}

fn number(word: &str) -> u64 {
    word.rsplit('-').next().and_then(|n| n.parse().ok()).expect("every word ends in a number")
}

fn spawn(folder: &Path, run: u32) -> Child {
    let binary = std::env::current_exe().expect("this is a program");
    let mut command = Command::new(binary);
    command.args(["--exact", "child", "--nocapture"]).env(FOLDER, folder).env(RUN, run.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it can run")
}

/// Lets a child write for a while, kills it, and returns what it had acknowledged.
fn crash(folder: &Path, run: u32, rng: &mut Rng) -> Vec<(usize, u64, String)> {
    let mut child = spawn(folder, run);
    let out = child.stdout.take().expect("it is piped");
    let (lines, told) = std::sync::mpsc::sync_channel(1 << 20);
    let reading = std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            lines.send(line).expect("the other end waits");
        }
    });
    // Every fifth dies at any moment of its start, recovery included.
    let started = if run.is_multiple_of(5) { Vec::new() } else { first_words(&told) };
    let (_never, end) = std::sync::mpsc::sync_channel::<()>(1);
    let _: Result<_, _> = end.recv_timeout(Duration::from_millis(rng.u64(0..150)));
    child.kill().expect("it runs for ever");
    let status = child.wait().expect("it was started here");
    assert!(status.code().is_none(), "it ended by itself: {status}");
    reading.join().expect("it does not panic");
    started.into_iter().chain(told.try_iter()).filter_map(|line| acknowledged(&line)).collect()
}

fn first_words(told: &std::sync::mpsc::Receiver<String>) -> Vec<String> {
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.starts_with("ack ")) {
        lines.push(told.recv_timeout(Duration::from_secs(60)).expect("it comes to write something"));
    }
    lines
}

fn acknowledged(line: &str) -> Option<(usize, u64, String)> {
    let mut parts = line.strip_prefix("ack ")?.split(' ');
    let (lane, offset, word) = (parts.next()?, parts.next()?, parts.next()?);
    Some((lane.parse().ok()?, offset.parse().ok()?, word.to_owned()))
}

#[tokio::test]
async fn killed_at_any_moment_it_keeps_what_it_acknowledged() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut model = [BTreeMap::new(), BTreeMap::new()];
    for run in 0..ROUNDS {
        for (lane, offset, word) in crash(folder.path(), run, &mut rng) {
            if let Some(former) = model[lane].insert(offset, word.clone()) {
                assert_eq!(former, word, "an offset was given twice");
            }
        }
        let log = open(folder.path(), Options::default()).await;
        check(&log, &mut model).await;
    }
    assert!(model[0].len() > 1000, "the children hardly wrote anything: {}", model[0].len());
}

/// What is there is what was acknowledged, and perhaps more; from now on all of it has to stay.
async fn check(log: &Embedded, model: &mut [BTreeMap<u64, String>; 2]) {
    let mut commits = Vec::new();
    for (number_of_lane, model) in (0..).zip(model) {
        let found = words(log, &lane(number_of_lane)).await.expect("it can be read");
        assert!(found.iter().map(|(offset, _)| *offset).eq(0..found.len() as u64), "offsets are dense");
        for (offset, word) in &*model {
            let there = usize::try_from(*offset).ok().and_then(|index| found.get(index)).map(|(_, word)| word);
            assert_eq!(there, Some(word), "{offset} was acknowledged");
        }
        let mut appends: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (_, word) in &found {
            let (who, n) = word.rsplit_once('-').expect("every word ends in a number");
            appends.entry(who).or_default().push(n.parse().expect("every word ends in a number"));
        }
        for (who, numbers) in &appends {
            assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{who}: {numbers:?}");
        }
        commits.push(appends.remove("commit").unwrap_or_default().len());
        *model = found.into_iter().collect();
    }
    let cursor = words(log, &cursor()).await.expect("it can be read");
    let done = cursor.last().map_or(0, |(_, word)| usize::try_from(number(word)).expect("it is small") + 1);
    assert_eq!(commits, [done, done], "commits are all or nothing");
}

/// Fills a folder so that there are tables and a journal.
async fn filled(folder: &Path) -> Vec<(u64, String)> {
    let log = open(folder, Options::default()).await;
    let mut rng = Rng::with_seed(1);
    for n in 0..1500 {
        let word = format!("append-0-{n}");
        let appending = log.append(&lane(0), batch(&word, &mut rng)).await.expect("there is room");
        if n % 50 == 0 {
            appending.await.expect("it is written");
        }
    }
    let appending = log.append(&lane(0), batch("last-0", &mut rng)).await.expect("there is room");
    appending.await.expect("it is written");
    words(&log, &lane(0)).await.expect("it can be read")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("it can be listed").path()) {
        if entry.is_dir() {
            found.extend(files(&entry));
        } else {
            found.push(entry);
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("it is within"));
        std::fs::create_dir_all(target.parent().expect("it is in a folder")).expect("it can be made");
        let bytes = std::fs::read(file).expect("it is there");
        // The zeroes that a journal allocates ahead need not take room twice.
        let copy = std::fs::File::create(&target).expect("there is room");
        (&copy).write_all(&bytes[..used(&bytes)]).expect("there is room");
        copy.set_len(bytes.len() as u64).expect("there is room");
    }
}

fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1)
}

/// Cuts a file or turns some of its bits.
fn harm(file: &Path, rng: &mut Rng) -> String {
    let mut bytes = std::fs::read(file).expect("it is there");
    let used = used(&bytes);
    let what = if used == 0 || rng.bool() {
        bytes.truncate(rng.usize(0..=used));
        format!("cut at {}", bytes.len())
    } else {
        let at = rng.usize(0..used);
        bytes[at] ^= 1 << rng.u8(0..8);
        format!("a bit turned at {at}")
    };
    std::fs::write(file, bytes).expect("there is room");
    what
}

#[tokio::test]
async fn damage_is_told() {
    let original = tempfile::tempdir().expect("a temporary folder");
    let expected = filled(original.path()).await;
    assert_eq!(expected.len(), 1501);
    let (mut refused, mut whole) = (0, 0);
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(original.path(), folder.path());
        let all = files(&folder.path().join("store"));
        let file = &all[rng.usize(..all.len())];
        let what = format!("seed {seed}: {}: {}", file.display(), harm(file, &mut rng));
        let options = Options { on_fatal: |reason| eprintln!("{reason}"), ..Options::default() };
        let log = match Embedded::open(folder.path(), options) {
            Ok(log) => log,
            Err(e) => {
                assert!(e.to_string().contains(&folder.path().display().to_string()), "{what}: {e}");
                refused += 1;
                continue;
            }
        };
        match words(&log, &lane(0)).await {
            Ok(found) => {
                assert_eq!(found, expected, "{what}");
                whole += 1;
            }
            Err(Error::Damaged(_)) => refused += 1,
            Err(e) => panic!("{what}: {e}"),
        }
    }
    eprintln!("{refused} told, {whole} did no harm");
    assert!(refused > 0, "no harm was noticed");
}

/// A bit of a table turned: what lies before it is handed out, then reading says where it ends, and
/// it goes on behind.
#[tokio::test]
async fn what_surrounds_damage_can_be_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let expected = filled(folder.path()).await;
    let tables: Vec<_> =
        files(folder.path()).into_iter().filter(|file| file.to_string_lossy().contains("/tables/")).collect();
    let largest =
        tables.iter().max_by_key(|file| file.metadata().expect("it is there").len()).expect("there are tables");
    let mut bytes = std::fs::read(largest).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(largest, bytes).expect("there is room");
    let log = open(folder.path(), Options::default()).await;
    let mut found = Vec::new();
    let mut from = 0;
    let mut damage = 0;
    while found.last() != expected.last() {
        let mut reader = log.read(&lane(0), Offset(from), Visibility::Durable, 1 << 20).await.expect("it exists");
        loop {
            match reader.next().await {
                Ok(fetched) => found.extend(read(&fetched)),
                Err(Error::Damaged(reason)) => {
                    let at = reader.position();
                    assert!(reason.contains(&format!("offset {at} on")) && reason.contains("lanes[0]"), "{reason}");
                    (from, damage) = (at.0 + 1, damage + 1);
                    break;
                }
                Err(error) => panic!("{error}"),
            }
            if found.last() == expected.last() {
                break;
            }
        }
    }
    assert!((1..300).contains(&damage), "it is one batch that cannot be read: {damage}");
    assert_eq!(found.len() + damage, expected.len());
    assert!(found.iter().all(|record| expected.contains(record)));
}
