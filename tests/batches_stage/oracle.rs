//! What has to hold when all batches have ended.

use seriatim::record::{Name, Source};

use crate::batches::header;
use crate::rig::Rig;

pub(crate) fn check(rig: &Rig) {
    for asked in &rig.plan.batches {
        rig.batches().check(&asked.id, asked.failing.len() as u64);
        if asked.start["ordered"] == true {
            check_order(rig, &asked.id);
        }
    }
    check_every_output_once(rig);
    let ids: Vec<&str> = rig.plan.batches.iter().map(|asked| asked.id.as_str()).collect();
    rig.batches().check_events(&ids, rig.plan.options.batch_events.as_ref());
}

/// Outputs of an ordered batch leave in the order in which its items went out.
fn check_order(rig: &Rig, id: &str) {
    let items: Vec<Source> = rig.batches().generated(id).into_iter().map(|(_, source)| source).collect();
    let mut before = None;
    for (_, stored) in rig.batches().all(&rig.topics.destinations["default"]) {
        let source = header(&stored, Name::Source).and_then(|text| Source::from_id(&text.replace(':', "-")));
        let source = source.expect("outputs say where they come from");
        if items.contains(&source) {
            assert!(before < Some(source), "{id}: {source} left after {before:?}");
            before = Some(source);
        }
    }
}

fn check_every_output_once(rig: &Rig) {
    let outputs = rig.batches().all(&rig.topics.destinations["default"]);
    let mut sources: Vec<&str> = outputs.iter().filter_map(|(_, stored)| header(stored, Name::Source)).collect();
    let all = sources.len();
    sources.sort_unstable();
    sources.dedup();
    assert_eq!(sources.len(), all, "no output is there twice");
}
