//! Who is to have which partition: evenly per topic, moving as few as possible, and the same
//! answer for the same question.

use std::collections::BTreeMap;

use super::state::MemberId;

/// Shares out one topic's partitions, each given as whose it is now. `loads` counts what the
/// members were given of other topics, decides ties, and is brought up to date.
pub(super) fn share(
    now: &[Option<MemberId>],
    members: &[MemberId],
    loads: &mut BTreeMap<MemberId, usize>,
) -> Vec<Option<MemberId>> {
    if members.is_empty() {
        return vec![None; now.len()];
    }
    let mut target: Vec<_> = now.iter().map(|holder| holder.filter(|h| members.contains(h))).collect();
    let mut held: BTreeMap<MemberId, usize> = members.iter().map(|m| (*m, 0)).collect();
    for holder in target.iter().flatten() {
        *held.entry(*holder).or_default() += 1;
    }
    let rank = |held: &BTreeMap<MemberId, usize>, member: MemberId| {
        (held[&member], loads.get(&member).copied().unwrap_or_default(), member)
    };
    for slot in target.iter_mut().filter(|slot| slot.is_none()) {
        let least = members.iter().copied().min_by_key(|m| rank(&held, *m)).expect("there are members");
        *slot = Some(least);
        *held.entry(least).or_default() += 1;
    }
    loop {
        let least = members.iter().copied().min_by_key(|m| rank(&held, *m)).expect("there are members");
        let most = members.iter().copied().max_by_key(|m| rank(&held, *m)).expect("there are members");
        if held[&most] - held[&least] < 2 {
            break;
        }
        let moved = target.iter().rposition(|slot| *slot == Some(most)).expect("it holds at least two");
        target[moved] = Some(least);
        *held.entry(most).or_default() -= 1;
        *held.entry(least).or_default() += 1;
    }
    for (member, count) in held {
        *loads.entry(member).or_default() += count;
    }
    target
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_are_even_and_nothing_moves_without_need(
            now in proptest::collection::vec(proptest::option::of(0u64..6), 0..30),
            members in proptest::collection::btree_set(0u64..6, 0..6),
        ) {
            let now: Vec<_> = now.into_iter().map(|m| m.map(MemberId)).collect();
            let members: Vec<_> = members.into_iter().map(MemberId).collect();
            let target = share(&now, &members, &mut BTreeMap::new());
            prop_assert_eq!(target.len(), now.len());
            prop_assert!(target.iter().all(|t| t.is_some() != members.is_empty()));
            let held: Vec<_> = members.iter().map(|m| target.iter().filter(|t| **t == Some(*m)).count()).collect();
            if let (Some(least), Some(most)) = (held.iter().min(), held.iter().max()) {
                prop_assert!(most - least <= 1, "{held:?}");
            }
            // Whoever lost a partition is left with no less than an even share.
            let share_down = now.len() / members.len().max(1);
            for (before, after) in now.iter().zip(&target) {
                if let Some(index) = members.iter().position(|m| Some(*m) == *before).filter(|_| before != after) {
                    prop_assert!(held[index] >= share_down);
                }
            }
            prop_assert_eq!(share(&target, &members, &mut BTreeMap::new()), target);
        }
    }

    #[test]
    fn ties_go_to_whoever_has_least_of_other_topics() {
        let mut loads = BTreeMap::new();
        let members = [MemberId(1), MemberId(2)];
        assert_eq!(share(&[None], &members, &mut loads), [Some(MemberId(1))]);
        assert_eq!(share(&[None], &members, &mut loads), [Some(MemberId(2))]);
    }
}
