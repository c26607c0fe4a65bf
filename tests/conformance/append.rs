//! Appending.

use futures::future::join_all;
use seriatim::log::{Error, Visibility};
use seriatim::record::{BatchBuilder, Name, Offset, Partition};

use crate::fixture::{BYTES, Fixture, batch, fetch_many, soon};

pub(crate) async fn offsets_go_up(f: Fixture) {
    let p = f.partition().await;
    let mut given = Vec::new();
    for n in 0..5 {
        given.extend(f.append(&p, &[&format!("a{n}"), &format!("b{n}")]).await);
    }
    assert!(given.is_sorted_by(|a, b| a < b), "{given:?}");
    let found = f.read_all(&p).await;
    assert_eq!(found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), given);
    let expected: Vec<_> = (0..5).flat_map(|n| [format!("a{n}"), format!("b{n}")]).collect();
    assert_eq!(found.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), expected);
}

pub(crate) async fn pipelined_appends_keep_their_order(f: Fixture) {
    let p = f.partition().await;
    let mut pending = Vec::new();
    for n in 0..300 {
        let values = [format!("{n}.0"), format!("{n}.1")];
        let appending = soon(f.log.append(&p, batch(&[&values[0], &values[1]]))).await.expect("there is room");
        pending.push(async move { (values, appending.await.expect("it is written")) });
    }
    let mut expected = Vec::new();
    for (values, offsets) in soon(join_all(pending)).await {
        expected.extend(offsets.iter().zip(values));
    }
    assert_eq!(expected.len(), 600);
    assert_eq!(f.read_all(&p).await, expected);
}

pub(crate) async fn a_batch_keeps_its_order(f: Fixture) {
    let p = f.partition().await;
    let values: Vec<_> = (0..2000).map(|n| n.to_string()).collect();
    let given = f.append(&p, &values.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let expected: Vec<_> = given.into_iter().zip(values).collect();
    assert_eq!(f.read_all(&p).await, expected);
}

pub(crate) async fn the_acknowledged_is_there(f: Fixture) {
    let p = f.partition().await;
    for n in 0..20 {
        let offset = f.append(&p, &[&n.to_string()]).await[0];
        let bounds = soon(f.log.bounds(&p)).await.expect("it exists");
        assert!(bounds.end > offset);
        let mut reader = f.reader(&p, offset).await;
        assert_eq!(fetch_many(&mut reader, 1).await, [(offset, n.to_string())]);
    }
}

pub(crate) async fn an_empty_batch_takes_no_place(f: Fixture) {
    let p = f.partition().await;
    assert_eq!(f.append(&p, &[]).await, []);
    f.append(&p, &["a"]).await;
    assert_eq!(f.append(&p, &[]).await, []);
    assert_eq!(f.values(&p).await, ["a"]);
}

pub(crate) async fn absent_is_not_empty(f: Fixture) {
    let p = f.partition().await;
    let parts: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"\x00\xff")];
    let mut builder = BatchBuilder::default();
    for key in parts {
        for value in parts {
            builder.push(key, value, |_| {});
        }
    }
    f.append_batch(&p, builder.finish()).await;
    let mut reader = f.reader(&p, Offset::ZERO).await;
    let mut found = Vec::new();
    while found.len() < 9 {
        let fetched = soon(reader.next()).await.expect("it is there");
        let records = fetched.batches.iter().flatten();
        found.extend(records.map(|r| (r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec))));
    }
    let owned = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
    let expected: Vec<_> = parts.iter().flat_map(|k| parts.map(|v| (owned(*k), owned(v)))).collect();
    assert_eq!(found, expected);
}

pub(crate) async fn headers_survive(f: Fixture) {
    let p = f.partition().await;
    // Without zero bytes: librdkafka hands names out as C strings.
    let headers: [(&[u8], &[u8]); 6] = [
        (b"x-one", b"1"),
        (b"\xff\xfe\x01", b"a name that is no text"),
        (b"x-one", b"2"),
        (Name::Source.as_str().as_bytes(), b"0:1"),
        (b"x-empty", b""),
        (b"content-type", b"\xff"),
    ];
    let mut builder = BatchBuilder::default();
    builder.push(None, Some(b"none"), |_| {});
    builder.push(None, Some(b"some"), |h| headers.iter().for_each(|(name, value)| h.put_named(name, value)));
    f.append_batch(&p, builder.finish()).await;
    let mut reader = f.reader(&p, Offset::ZERO).await;
    let mut found: Vec<Vec<(Vec<u8>, Vec<u8>)>> = Vec::new();
    while found.len() < 2 {
        let fetched = soon(reader.next()).await.expect("it is there");
        let owned = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
        found.extend(fetched.batches.iter().flatten().map(|r| r.headers.iter().map(owned).collect()));
    }
    assert_eq!(found[0], []);
    assert_eq!(found[1], headers.map(|(name, value)| (name.to_vec(), value.to_vec())));
}

pub(crate) async fn big_records_survive(f: Fixture) {
    let p = f.partition().await;
    let big: Vec<_> = (0..3).map(|n| char::from(b'a' + n).to_string().repeat(900 << 10)).collect();
    for value in &big {
        f.append(&p, &["small"]).await;
        f.append(&p, &[value]).await;
    }
    let expected: Vec<_> = big.into_iter().flat_map(|big| ["small".to_owned(), big]).collect();
    assert!(f.values(&p).await == expected, "the values differ");
}

pub(crate) async fn what_does_not_exist_is_rejected(f: Fixture) {
    let p = f.partition().await;
    let beyond = p.topic.partition(Partition(7));
    let rejected = match soon(f.log.append(&beyond, batch(&["a"]))).await {
        Ok(appending) => soon(appending).await.map(drop),
        Err(e) => Err(e),
    };
    assert!(matches!(&rejected, Err(Error::Rejected { at, .. }) if *at == beyond), "{rejected:?}");
}

pub(crate) async fn times_do_not_go_back(f: Fixture) {
    let p = f.partition().await;
    let before = f.log.now();
    for n in 0..10 {
        f.append(&p, &[&n.to_string()]).await;
    }
    let after = f.log.now();
    let mut reader = f.reader(&p, Offset::ZERO).await;
    let mut times = Vec::new();
    while times.len() < 10 {
        let fetched = soon(reader.next()).await.expect("it is there");
        times.extend(fetched.batches.iter().flatten().map(|record| record.timestamp));
    }
    assert!(times.is_sorted(), "{times:?}");
    // Another machine's clock may stamp them.
    let slack = 60_000;
    assert!(times[0].0 >= before.0 - slack && times[9].0 <= after.0 + slack, "{before:?} {times:?} {after:?}");
}

pub(crate) async fn partitions_are_apart(f: Fixture) {
    let topic = f.topic("many", 24).await;
    for round in 0..3 {
        for p in topic.partitions(24) {
            f.append(&p, &[&format!("{} {round}", p.partition)]).await;
        }
    }
    for p in topic.partitions(24) {
        let expected: Vec<_> = (0..3).map(|round| format!("{} {round}", p.partition)).collect();
        assert_eq!(f.values(&p).await, expected);
    }
}

pub(crate) async fn an_acknowledgement_may_be_dropped(f: Fixture) {
    let p = f.partition().await;
    f.append(&p, &["before"]).await;
    drop(soon(f.log.append(&p, batch(&["dropped"]))).await.expect("there is room"));
    f.append(&p, &["after"]).await;
    let mut values = f.values(&p).await;
    if values.len() == 3 {
        assert_eq!(values.remove(1), "dropped");
    }
    assert_eq!(values, ["before", "after"]);
}

pub(crate) async fn each_appender_keeps_its_order(f: Fixture) {
    let p = f.partition().await;
    let appender = |name: usize| {
        let (f, p) = (&f, &p);
        async move {
            for n in 0..40 {
                f.append(p, &[&format!("{name} {n:02}")]).await;
            }
        }
    };
    join_all((0..4).map(appender)).await;
    let found = f.values(&p).await;
    assert_eq!(found.len(), 160);
    for name in 0..4 {
        let own: Vec<_> = found.iter().filter(|value| value.starts_with(&format!("{name} "))).collect();
        assert_eq!(own.len(), 40);
        assert!(own.is_sorted(), "{own:?}");
    }
}

pub(crate) async fn what_was_read_can_be_appended(f: Fixture) {
    let topic = f.topic("two", 2).await;
    let [from, to] = [0, 1].map(|p| topic.partition(Partition(p)));
    f.append(&to, &["first"]).await;
    for n in 0..5 {
        f.append(&from, &[&format!("{n}.0"), &format!("{n}.1")]).await;
    }
    let mut reader = soon(f.log.read(&from, Offset(1), Visibility::Written, BYTES)).await.expect("it exists");
    let mut expected = vec!["first".to_owned()];
    while expected.len() < 10 {
        let fetched = soon(reader.next()).await.expect("it is there");
        for batch in fetched.batches {
            let values = batch.iter().map(|r| String::from_utf8_lossy(r.value.unwrap_or_default()).into_owned());
            expected.extend(values);
            let count = batch.len();
            assert_eq!(f.append_batch(&to, batch).await.len(), count);
        }
    }
    assert_eq!(f.values(&to).await, expected);
}
