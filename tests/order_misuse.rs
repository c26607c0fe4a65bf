//! Broken invariants in production: an error to halt a lane with, and nothing changed by it.

use seriatim::order::{Group, Identities, Invariant, Lane, Resume, Violated, Watermark, Window, set_strict};
use seriatim::record::Offset;

fn broken<T>(result: Result<T, Violated>) -> Invariant {
    result.map(|_| ()).expect_err("it is misuse").invariant
}

/// One test, because strictness is the process's.
#[test]
fn misuse_is_an_error_and_changes_nothing() {
    set_strict(false);
    let mut lane = Lane::new(Window { records: 10 }, Resume { frontier: Offset(5), ..Resume::default() });
    assert_eq!(broken(lane.admit(Offset(4), &[Group(0)], ())), Invariant::OffsetsIncrease);
    assert_eq!(broken(lane.admit(Offset(u64::MAX), &[Group(0)], ())), Invariant::OffsetsIncrease);
    assert_eq!(broken(lane.admit(Offset(5), &[], ())), Invariant::PartsInRange);
    assert_eq!(broken(lane.admit(Offset(5), &[Group(0); 65], ())), Invariant::PartsInRange);
    lane.admit(Offset(5), &[Group(0); 64], ()).expect("64 parts are allowed");
    lane.resolve(Offset(5)).expect("open");
    let first = lane.next_ready().expect("the head is ready");
    lane.park(first).expect("it is taken");
    assert_eq!(broken(lane.release(first)), Invariant::LeavesOnce);
    assert_eq!(lane.unpark(Offset(5)), 1);
    assert_eq!(broken(lane.park(first)), Invariant::LeavesOnce);
    while let Some(part) = lane.next_ready() {
        lane.release(part).expect("it is taken");
    }
    assert_eq!(broken(lane.release(first)), Invariant::LeavesOnce);
    assert_eq!(lane.frontier(), Offset(6));
    lane.self_check().expect("nothing is broken");

    let mut watermark = Watermark::new(Offset(3));
    assert_eq!(broken(watermark.push(Offset(2))), Invariant::PositionsIncrease);
    let ticket = watermark.push(Offset(3)).expect("in order");
    watermark.done(ticket).expect("once");
    assert_eq!(broken(watermark.done(ticket)), Invariant::TicketsKnown);
    assert_eq!(watermark.low(), Offset(4));

    let mut identities = Identities::new(10);
    identities.judge(Offset(7), 1, 1).expect("in order");
    assert_eq!(broken(identities.judge(Offset(7), 1, 1)), Invariant::IdentitiesIncrease);
    identities.recorded(Offset(7), Offset(9)).expect("in order");
    assert_eq!(broken(identities.recorded(Offset(7), Offset(8))), Invariant::IdentitiesIncrease);
    assert_eq!(identities.ledger_from(), Some(Offset(9)));
}
