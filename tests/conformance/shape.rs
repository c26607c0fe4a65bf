//! Topics and their shapes.

use seriatim::log::{Cleanup, Error, TopicShape};
use seriatim::record::Partition;

use crate::fixture::{Fixture, keyed, soon};

pub(crate) async fn topics_have_the_shape_they_were_given(f: Fixture) {
    for (name, partitions, cleanup) in
        [("delete", 3, Cleanup::Delete), ("compact", 2, Cleanup::Compact), ("keep", 1, Cleanup::Keep)]
    {
        let topic = f.topic_of(name, partitions, cleanup).await;
        let shape = soon(f.log.shape(&topic)).await.expect("the log is there");
        assert_eq!(shape, Some(TopicShape { partitions, cleanup }));
    }
    assert_eq!(soon(f.log.shape(&f.name("none"))).await.expect("the log is there"), None);
}

pub(crate) async fn ensuring_again_changes_nothing(f: Fixture) {
    let p = f.partition().await;
    let given = f.append(&p, &["a"]).await;
    let shape = TopicShape { partitions: 1, cleanup: Cleanup::Delete };
    for _ in 0..3 {
        soon(f.log.ensure(&[(p.topic.clone(), shape.clone())])).await.expect("it is as it was");
    }
    assert_eq!(f.read_all(&p).await, [(given[0], "a".to_owned())]);
}

pub(crate) async fn another_number_of_partitions_is_refused(f: Fixture) {
    let topic = f.topic("three", 3).await;
    for partitions in [2, 4] {
        let shape = TopicShape { partitions, cleanup: Cleanup::Delete };
        let refused = soon(f.log.ensure(&[(topic.clone(), shape)])).await;
        let Err(Error::Damaged(reason)) = &refused else { panic!("{refused:?}") };
        assert!(reason.contains(topic.as_str()), "{reason}");
        assert!(reason.contains('3') && reason.contains(&partitions.to_string()), "{reason}");
    }
    let shape = soon(f.log.shape(&topic)).await.expect("the log is there").expect("it exists");
    assert_eq!(shape.partitions, 3);
}

pub(crate) async fn many_topics_at_once(f: Fixture) {
    let wanted: Vec<_> =
        (1..=12).map(|n| (f.name(&n.to_string()), TopicShape { partitions: n, cleanup: Cleanup::Delete })).collect();
    soon(f.log.ensure(&wanted)).await.expect("they can be made");
    for (topic, shape) in wanted {
        let last = topic.partition(Partition(shape.partitions - 1));
        f.append(&last, &[topic.as_str()]).await;
        assert_eq!(f.values(&last).await, [topic.as_str()]);
    }
}

pub(crate) async fn the_last_record_of_a_key_stays(f: Fixture) {
    let p = f.topic_of("compact", 1, Cleanup::Compact).await.partition(Partition(0));
    f.append_batch(&p, keyed("early", &["once"])).await;
    let mut last = Vec::new();
    for n in 0..300 {
        let key = if n % 2 == 0 { "even" } else { "odd" };
        last = f.append_batch(&p, keyed(key, &[&n.to_string()])).await;
    }
    let found = f.read_all(&p).await;
    assert!(found.is_sorted(), "{found:?}");
    assert_eq!(found.first().map(|(_, value)| value.as_str()), Some("once"));
    assert!(found.iter().any(|(_, value)| value == "298"), "{found:?}");
    assert_eq!(found.last(), Some(&(last[0], "299".to_owned())));
}
