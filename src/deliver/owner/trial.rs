//! Items that operators send to see whether a receiver answers.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::FutureExt as _;

use super::super::Push;
use super::super::verdict::{Verdict, judge};
use super::Owner;
use super::tasks::{self, Tested};
use crate::record::push::{self, REASON_KEPT, TestItem};
use crate::record::{BatchBuilder, Name, Offset};

impl Owner {
    /// Sends the tests that are asked for, one way or the other: the receiver may be paused, disabled or
    /// taken for down, which is what a test is to find out about.
    pub(super) fn send_tests(&mut self, index: usize) {
        while self.targets[index].has_connection() {
            let target = &mut self.targets[index];
            let Some((order, item)) = target.tests.pop_front() else { return };
            target.in_flight += 1;
            let (sender, timeout) = (target.sender.clone(), target.options.timeout);
            let push = self.test_push(index, order, &item);
            self.tasks.push(tasks::test(index, sender, timeout, push).boxed());
        }
    }

    fn test_push(&self, index: usize, order: Offset, item: &TestItem) -> Push {
        // Whoever wrote the order has checked it; what a stranger wrote is sent as it is.
        let body = BASE64_STANDARD.decode(&item.body).unwrap_or_else(|_| item.body.clone().into_bytes());
        let mut builder = BatchBuilder::default();
        builder.push(None, Some(&body), |headers| {
            if let Some(content_type) = &item.content_type {
                headers.put(Name::ContentType, content_type.as_bytes());
            }
        });
        Push {
            destination: self.targets[index].name.clone(),
            lane: self.control.partition,
            offset: order,
            epoch: self.epoch,
            done_below: None,
            provenance: None,
            timestamp: self.shared.log.now(),
            attempt: 1,
            replay: None,
            test: true,
            record: builder.finish(),
        }
    }

    /// What came of it is for who asked, who looks into the cursor.
    pub(super) fn tested(&mut self, tested: Tested) {
        let Tested { target, order, begun, outcome } = tested;
        let target = &mut self.targets[target];
        target.in_flight -= 1;
        let taken = judge(&outcome, self.shared.log.now()) == Verdict::Delivered;
        let mut said = match outcome {
            Ok(answer) => answer.said(),
            Err(failure) => failure.to_string(),
        };
        said.truncate(said.floor_char_boundary(REASON_KEPT));
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(destination = &*target.name, %order, taken, said, "tested");
        let outcome = push::Tested { order: order.0, taken, said, millis };
        self.state.tests.insert(target.name.to_string(), outcome);
        self.dirty = true;
    }
}
