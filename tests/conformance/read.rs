//! Reading.

use std::time::Duration;

use seriatim::log::{Error, Visibility};
use seriatim::record::Offset;

use crate::fixture::{BYTES, Fixture, fetch, fetch_many, never, soon};

/// Batches of one, two and three records.
async fn some(f: &Fixture) -> seriatim::log::TopicPartition {
    let p = f.partition().await;
    for n in 0..6 {
        let values: Vec<_> = (0..=n % 3).map(|m| format!("{n}.{m}")).collect();
        f.append(&p, &values.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    p
}

pub(crate) async fn every_position_can_be_read_from(f: Fixture) {
    let p = some(&f).await;
    let all = f.read_all(&p).await;
    assert_eq!(all.len(), 12);
    let end = soon(f.log.bounds(&p)).await.expect("it exists").stable_end;
    for from in 0..=end.0 {
        let expected: Vec<_> = all.iter().filter(|(offset, _)| offset.0 >= from).cloned().collect();
        assert_eq!(f.read_from(&p, Offset(from)).await, expected, "from {from}");
    }
}

pub(crate) async fn a_waiting_reader_wakes(f: Fixture) {
    let p = some(&f).await;
    let end = soon(f.log.bounds(&p)).await.expect("it exists").stable_end;
    for visibility in [Visibility::Durable, Visibility::Written] {
        let mut reader = soon(f.log.read(&p, end, visibility, BYTES)).await.expect("it exists");
        while reader.position() < soon(f.log.bounds(&p)).await.expect("it exists").stable_end {
            fetch(&mut reader).await;
        }
        let waiting = fetch_many(&mut reader, 1);
        let (found, given) = tokio::join!(waiting, async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            f.append(&p, &["new"]).await
        });
        assert_eq!(found, [(given[0], "new".to_owned())]);
    }
}

pub(crate) async fn a_reader_waits_at_the_end_of_nothing(f: Fixture) {
    let p = f.partition().await;
    let bounds = soon(f.log.bounds(&p)).await.expect("it exists");
    assert_eq!(bounds.start, bounds.stable_end);
    let mut reader = f.reader(&p, bounds.start).await;
    never(reader.next()).await;
    let given = f.append(&p, &["first"]).await;
    assert_eq!(fetch_many(&mut reader, 1).await, [(given[0], "first".to_owned())]);
}

pub(crate) async fn beyond_the_end_there_are_no_records(f: Fixture) {
    let p = some(&f).await;
    let end = soon(f.log.bounds(&p)).await.expect("it exists").end;
    let opened = soon(f.log.read(&p, Offset(end.0 + 100), Visibility::Durable, BYTES)).await;
    if let Ok(mut reader) = opened {
        // An engine may wait for the position to come, or tell that it is not there.
        match tokio::time::timeout(Duration::from_secs(1), reader.next()).await {
            Err(_) | Ok(Err(Error::Damaged(_))) => {}
            Ok(other) => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn a_reader_may_be_interrupted(f: Fixture) {
    let p = f.partition().await;
    let mut reader = f.reader(&p, Offset::ZERO).await;
    let append = async {
        for n in 0..100 {
            f.append(&p, &[&format!("{n:03}")]).await;
        }
    };
    let read = async {
        let mut found = Vec::new();
        for interruption in 0.. {
            if found.len() == 100 {
                break;
            }
            // From not at all to long enough.
            let patience = Duration::from_micros(interruption % 50 * 200);
            if let Ok(fetched) = tokio::time::timeout(patience, reader.next()).await {
                let fetched = fetched.expect("nothing was removed");
                let values = fetched.batches.iter().flatten().map(|r| r.value.unwrap_or_default().to_vec());
                found.extend(values);
            }
            tokio::task::yield_now().await;
        }
        found
    };
    let (found, ()) = soon(async { tokio::join!(read, append) }).await;
    let expected: Vec<_> = (0..100).map(|n| format!("{n:03}").into_bytes()).collect();
    assert_eq!(found, expected);
}

pub(crate) async fn little_at_a_time(f: Fixture) {
    let p = some(&f).await;
    let all = f.read_all(&p).await;
    for max_bytes in [1, 30, 100] {
        let mut reader = soon(f.log.read(&p, Offset::ZERO, Visibility::Durable, max_bytes)).await.expect("it exists");
        let found = fetch_many(&mut reader, all.len()).await;
        assert_eq!(found, all);
    }
}

pub(crate) async fn positions_say_what_was_handed_out(f: Fixture) {
    let p = some(&f).await;
    let mut reader = soon(f.log.read(&p, Offset(1), Visibility::Durable, 20)).await.expect("it exists");
    assert_eq!(reader.position(), Offset(1));
    let end = soon(f.log.bounds(&p)).await.expect("it exists").stable_end;
    let mut position = reader.position();
    while position < end {
        let fetched = soon(reader.next()).await.expect("nothing was removed");
        assert!(fetched.next > position, "it moves on");
        let mut last = None;
        for batch in &fetched.batches {
            assert!(!batch.is_empty());
            for record in batch {
                assert!(record.offset >= position && record.offset < fetched.next);
                assert!(last < Some(record.offset));
                last = Some(record.offset);
            }
        }
        position = fetched.next;
        assert_eq!(reader.position(), position);
    }
}

pub(crate) async fn readers_are_independent(f: Fixture) {
    let p = some(&f).await;
    let all = f.read_all(&p).await;
    let mut readers = Vec::new();
    for _ in 0..5 {
        readers.push(f.reader(&p, Offset::ZERO).await);
    }
    fetch(&mut readers[0]).await;
    readers.remove(1);
    for reader in &mut readers[1..] {
        assert_eq!(fetch_many(reader, all.len()).await, all);
    }
}

pub(crate) async fn both_visibilities_come_to_the_same(f: Fixture) {
    let p = f.partition().await;
    let mut durable = soon(f.log.read(&p, Offset::ZERO, Visibility::Durable, BYTES)).await.expect("it exists");
    let mut written = soon(f.log.read(&p, Offset::ZERO, Visibility::Written, BYTES)).await.expect("it exists");
    let append = async {
        for n in 0..50 {
            f.append(&p, &[&n.to_string()]).await;
        }
    };
    let (durable, written, ()) = tokio::join!(fetch_many(&mut durable, 50), fetch_many(&mut written, 50), append);
    assert_eq!(durable, written);
}

pub(crate) async fn bounds_follow(f: Fixture) {
    let p = f.partition().await;
    let mut before = soon(f.log.bounds(&p)).await.expect("it exists");
    for n in 0..10 {
        let given = f.append(&p, &[&n.to_string(), "and"]).await;
        let bounds = soon(f.log.bounds(&p)).await.expect("it exists");
        assert!(bounds.start <= bounds.stable_end && bounds.stable_end <= bounds.end);
        assert_eq!(bounds.start, before.start);
        assert!(bounds.end > given[1] && given[0] >= before.end);
        before = bounds;
    }
    assert_eq!(f.read_all(&p).await.len(), 20);
}

pub(crate) async fn the_removed_is_lost(f: Fixture) {
    let p = some(&f).await;
    let all = f.read_all(&p).await;
    // One that was opened before the removal must notice too.
    let before = f.reader(&p, Offset::ZERO).await;
    f.remove_below(&p, all[6].0).await;
    let start = soon(f.log.bounds(&p)).await.expect("it exists").start;
    assert!(start > Offset::ZERO && start <= all[6].0, "{start}");
    let late = f.reader(&p, Offset(start.0 - 1)).await;
    for (mut reader, wanted) in [(late, Offset(start.0 - 1)), (before, Offset::ZERO)] {
        let lost = soon(reader.next()).await;
        let Err(Error::Lost { at, wanted: asked, start: from }) = &lost else { panic!("{lost:?}") };
        assert_eq!((at, *asked, *from), (&p, wanted, start));
        assert_eq!(reader.position(), wanted, "it is not moved");
    }
}

pub(crate) async fn what_is_left_can_be_read(f: Fixture) {
    let p = some(&f).await;
    let all = f.read_all(&p).await;
    f.remove_below(&p, all[7].0).await;
    let start = soon(f.log.bounds(&p)).await.expect("it exists").start;
    let expected: Vec<_> = all.into_iter().filter(|(offset, _)| *offset >= start).collect();
    assert!(expected.len() >= 5);
    assert_eq!(f.read_from(&p, start).await, expected);
    let given = f.append(&p, &["more"]).await;
    assert_eq!(f.read_from(&p, given[0]).await, [(given[0], "more".to_owned())]);
}

pub(crate) async fn a_reader_follows_for_long(f: Fixture) {
    let p = f.partition().await;
    let mut reader = f.reader(&p, Offset::ZERO).await;
    let append = async {
        let mut given = Vec::new();
        for n in 0..200 {
            let values = [format!("{n}.0"), format!("{n}.1")];
            given.extend(f.append(&p, &[&values[0], &values[1]]).await.into_iter().zip(values));
        }
        given
    };
    let (found, given) = tokio::join!(fetch_many(&mut reader, 400), append);
    assert_eq!(found, given);
}

pub(crate) async fn who_rests_goes_on_where_it_was(f: Fixture) {
    let p = f.partition().await;
    let mut reader = f.reader(&p, Offset::ZERO).await;
    reader.rest();
    for n in 0..5 {
        let value = n.to_string();
        let given = f.append(&p, &[&value]).await;
        assert_eq!(fetch_many(&mut reader, 1).await, [(given[0], value)]);
        reader.rest();
    }
}
