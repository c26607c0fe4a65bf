//! The queue of one partition of a consumer, kept apart from the consumer's own.
//!
//! What librdkafka fetches of a partition goes to the partition's queue, and from there to the
//! consumer's unless somebody says otherwise before the partition is assigned. Left where it is, it
//! can be left alone while nobody has room for it: librdkafka fetches no more of the partition
//! once there is enough in its queue, and all that was fetched is still there afterwards.

use std::ffi::{CString, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka_sys as sys;

use super::{Client as _, Consumer, Event, Polled, QueueHandle, poll};
use crate::log::TopicPartition;

/// What was fetched of one partition. The bell and the client outlive the queue, which refers to them.
pub(in super::super) struct PartitionQueue {
    queue: QueueHandle,
    bell: Arc<Bell>,
    client: Arc<Polled<Consumer>>,
    topic: String,
    partition: i32,
}

/// Says that there is something in a queue that was empty.
struct Bell {
    rung: AtomicBool,
    /// The consumer's own queue, at which its thread waits.
    waits_at: *mut sys::rd_kafka_queue_t,
}

// SAFETY: the pointer is to a queue of librdkafka's, which may be used from any thread.
unsafe impl Send for Bell {}
// SAFETY: as above; its functions lock.
unsafe impl Sync for Bell {}

/// Called by a thread of librdkafka's that holds the lock of a partition's queue, so it must neither wait
/// nor touch that queue.
unsafe extern "C" fn ring(_: *mut sys::rd_kafka_t, bell: *mut c_void) {
    // SAFETY: `PartitionQueue` has its bell until the queue rings no more.
    let bell = unsafe { &*bell.cast::<Bell>() };
    // Who was told and has not looked yet need not be told again.
    if !bell.rung.swap(true, Ordering::AcqRel) {
        // SAFETY: the client, and with it its queue, outlives the bell.
        unsafe { sys::rd_kafka_queue_yield(bell.waits_at) }
    }
}

impl PartitionQueue {
    /// To be made before the partition is assigned; there is nothing in it then. `None` where a topic
    /// cannot have this name.
    pub(in super::super) fn new(client: &Arc<Polled<Consumer>>, of: &TopicPartition) -> Option<Self> {
        let topic = CString::new(of.topic.as_str()).ok()?;
        let partition = i32::try_from(of.partition.0).ok()?;
        // SAFETY: the client lives; the queue is counted and given back by `QueueHandle`.
        let queue = unsafe { sys::rd_kafka_queue_get_partition(client.client.native(), topic.as_ptr(), partition) };
        let queue = QueueHandle(NonNull::new(queue)?);
        let bell = Arc::new(Bell { rung: AtomicBool::new(false), waits_at: client.queue.0.as_ptr() });
        let opaque = Arc::as_ptr(&bell).cast_mut().cast();
        let topic = of.topic.as_str().to_owned();
        let apart = Self { queue, bell, client: Arc::clone(client), topic, partition };
        // SAFETY: the queue lives. From here on it goes nowhere by itself, also not at an assignment.
        unsafe { sys::rd_kafka_queue_forward(apart.queue.0.as_ptr(), ptr::null_mut()) }
        apart.discard();
        // SAFETY: the queue lives; it rings no more when `drop` returns, and until then has its bell.
        unsafe { sys::rd_kafka_queue_cb_event_enable(apart.queue.0.as_ptr(), Some(ring), opaque) }
        Some(apart)
    }

    /// The next event, without waiting. What was fetched for an assignment before this one does
    /// not come: librdkafka numbers them, and drops what has an older number.
    pub(in super::super) fn poll(&self) -> Option<Event<'_>> {
        poll(&self.queue, Duration::ZERO)
    }

    /// Throws away what is in it, errors of an earlier assignment among it, which are not numbered. To be
    /// called when the partition is assigned no more; also frees what its records keep.
    pub(in super::super) fn discard(&self) {
        while self.poll().is_some() {}
    }

    /// Whether something has come to the queue when it was empty, since this was asked last.
    pub(in super::super) fn rung(&self) -> bool {
        self.bell.rung.swap(false, Ordering::AcqRel)
    }

    /// The offset after the last record or marker that was taken from the queue, `None` where
    /// nothing was since the partition was assigned.
    pub(in super::super) fn position(&self) -> Option<u64> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.topic, self.partition);
        // SAFETY: client and list live; the list is only written to during the call.
        unsafe { sys::rd_kafka_position(self.client.client.native(), list.ptr()) };
        let offset = list.find_partition(&self.topic, self.partition)?.offset().to_raw()?;
        u64::try_from(offset).ok()
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue lives. It is locked for this as for ringing, so that nobody rings any more afterwards.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.queue.0.as_ptr(), None, ptr::null_mut()) }
    }
}
