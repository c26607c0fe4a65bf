//! The calls into librdkafka that its Rust wrapper cannot make, each behind a safe function.
//!
//! The wrapper panics at header names that are no UTF-8, which anyone may send; it drops the topic,
//! partition and offset of a partition's errors and ends; and it does not tell a group's
//! generation. So events are taken from queues and records put into them here. This module is the
//! only one of the crate with `unsafe` in it.
#![allow(unsafe_code, reason = "librdkafka is a C library, and its wrapper lacks what is here")]

mod apart;
mod questions;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka_sys as sys;

pub(super) use self::apart::PartitionQueue;
pub(super) use self::questions::{Resource, may_write, partition_counts, settings, topic_ids};

use super::client::Context;
use crate::record::{HeaderWriter, RecordRef};

pub(super) type Consumer = BaseConsumer<Context>;
pub(super) type Producer = BaseProducer<Context>;

/// A client whose events are taken here and nowhere else.
pub(super) trait Client: Send + Sync {
    fn native(&self) -> *mut sys::rd_kafka_t;
    fn queue(&self) -> *mut sys::rd_kafka_queue_t;
}

impl Client for Consumer {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }

    fn queue(&self) -> *mut sys::rd_kafka_queue_t {
        // SAFETY: the client lives; the queue is counted and given back by `QueueHandle`.
        unsafe { sys::rd_kafka_queue_get_consumer(self.native()) }
    }
}

impl Client for Producer {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }

    fn queue(&self) -> *mut sys::rd_kafka_queue_t {
        // SAFETY: as for consumers.
        unsafe { sys::rd_kafka_queue_get_main(self.native()) }
    }
}

struct QueueHandle(NonNull<sys::rd_kafka_queue_t>);

impl Drop for QueueHandle {
    fn drop(&mut self) {
        // SAFETY: it came from `rd_kafka_queue_get_*`, which counted it for us, and the client lives.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for QueueHandle {}
// SAFETY: as above; all its functions lock.
unsafe impl Sync for QueueHandle {}

fn poll(queue: &QueueHandle, timeout: Duration) -> Option<Event<'_>> {
    let millis = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: the queue lives; the event is ours until `Event` destroys it.
    let event = unsafe { sys::rd_kafka_queue_poll(queue.0.as_ptr(), millis) };
    NonNull::new(event).map(|event| Event { event, of: PhantomData })
}

/// A client with its event queue. Fields are dropped in order: the queue before the client.
pub(super) struct Polled<C> {
    queue: QueueHandle,
    pub(super) client: C,
}

impl<C: Client> Polled<C> {
    /// `None` where the client has no queue, which is a consumer without a group.
    pub(super) fn new(client: C) -> Option<Self> {
        Some(Self { queue: QueueHandle(NonNull::new(client.queue())?), client })
    }

    /// Waits for the next event. Blocks for so long at most, to whole milliseconds.
    pub(super) fn poll(&self, timeout: Duration) -> Option<Event<'_>> {
        poll(&self.queue, timeout)
    }

    /// Ends the wait of whoever polls now, or else next.
    pub(super) fn wake(&self) {
        // SAFETY: the queue lives as long as `self`, and this may be called from any thread.
        unsafe { sys::rd_kafka_queue_yield(self.queue.0.as_ptr()) }
    }

    /// The error after which the client can do nothing more.
    pub(super) fn fatal(&self) -> Option<Code> {
        // SAFETY: the client lives; no text is asked for.
        let code = Code::from(unsafe { sys::rd_kafka_fatal_error(self.client.native(), ptr::null_mut(), 0) });
        (code != Code::NoError).then_some(code)
    }
}

impl Polled<Consumer> {
    /// The member's generation in its group, below 0 where it is none, and its id.
    pub(super) fn generation(&self) -> (i32, String) {
        // SAFETY: the client lives; the copy is ours and destroyed below, the id is copied before.
        unsafe {
            let metadata = sys::rd_kafka_consumer_group_metadata(self.client.native());
            if metadata.is_null() {
                return (-1, String::new());
            }
            let generation = sys::rd_kafka_consumer_group_metadata_generation_id(metadata);
            let member = sys::rd_kafka_consumer_group_metadata_member_id(metadata);
            let member = if member.is_null() { String::new() } else { text(member) };
            sys::rd_kafka_consumer_group_metadata_destroy(metadata);
            (generation, member)
        }
    }
}

impl Polled<Producer> {
    /// Puts a record into the queue, copied; never blocks. `opaque` comes back with the report.
    pub(super) fn produce(
        &self,
        topic: &CStr,
        partition: i32,
        record: &RecordRef<'_>,
        opaque: usize,
    ) -> Result<(), Code> {
        let mut parts = [
            part(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_TOPIC, Value { cstr: topic.as_ptr() }),
            part(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION, Value { i32_: partition }),
            part(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS, Value { i: sys::RD_KAFKA_MSG_F_COPY }),
            part(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY, bytes(record.key)),
            part(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE, bytes(record.value)),
            part(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE, Value { ptr: ptr::without_provenance_mut(opaque) }),
            part(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS, Value { headers: ptr::null_mut() }),
        ];
        let headers = headers(record);
        let used = if headers.is_null() { parts.len() - 1 } else { parts.len() };
        parts[parts.len() - 1].u.headers = headers;
        // SAFETY: the client lives; all parts point to what outlives the call, which copies it
        // (COPY), except for the headers, which it takes over where it succeeds.
        unsafe {
            let error = sys::rd_kafka_produceva(self.client.native(), parts.as_ptr(), used);
            if error.is_null() {
                return Ok(());
            }
            let code = Code::from(sys::rd_kafka_error_code(error));
            sys::rd_kafka_error_destroy(error);
            if !headers.is_null() {
                sys::rd_kafka_headers_destroy(headers);
            }
            Err(code)
        }
    }
}

/// Tells a client of brokers to begin with. Those that it knows already stay as they are.
pub(super) fn add_brokers(client: &impl Client, servers: &CStr) {
    // SAFETY: the client lives, and the text is copied.
    unsafe { sys::rd_kafka_brokers_add(client.native(), servers.as_ptr()) };
}

/// What is stored beside the position of the first partition of a list: anybody's bytes, at which the wrapper panics
/// where they are no UTF-8.
pub(super) fn stored_beside(list: &TopicPartitionList) -> &[u8] {
    // SAFETY: the list lives as long as what is returned, which is part of it; it has as many elements as it says,
    // and of metadata as many bytes as it says.
    unsafe {
        let list = &*list.ptr();
        if list.cnt < 1 || (*list.elems).metadata.is_null() {
            return &[];
        }
        std::slice::from_raw_parts((*list.elems).metadata.cast(), (*list.elems).metadata_size)
    }
}

type Value = sys::rd_kafka_vu_s__bindgen_ty_1;

const fn part(vtype: sys::rd_kafka_vtype_t, u: Value) -> sys::rd_kafka_vu_t {
    sys::rd_kafka_vu_t { vtype, u }
}

fn bytes(bytes: Option<&[u8]>) -> Value {
    let (ptr, size) = bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()));
    Value { mem: sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr: ptr.cast_mut().cast(), size } }
}

/// The record's headers as librdkafka has them, null where there are none.
fn headers(record: &RecordRef<'_>) -> *mut sys::rd_kafka_headers_t {
    let mut headers: *mut sys::rd_kafka_headers_t = ptr::null_mut();
    for (name, value) in record.headers.iter() {
        // SAFETY: name and value are copied; their lengths are below `isize::MAX` as those of slices.
        unsafe {
            if headers.is_null() {
                headers = sys::rd_kafka_headers_new(8);
            }
            let (name_size, value_size) = (name.len().cast_signed(), value.len().cast_signed());
            sys::rd_kafka_header_add(headers, name.as_ptr().cast(), name_size, value.as_ptr().cast(), value_size);
        }
    }
    headers
}

/// One event, destroyed when it is dropped.
pub(super) struct Event<'a> {
    event: NonNull<sys::rd_kafka_event_t>,
    of: PhantomData<&'a ()>,
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: it is ours, and whatever was borrowed from it is gone by now.
        unsafe { sys::rd_kafka_event_destroy(self.event.as_ptr()) }
    }
}

/// What an event tells.
pub(super) enum Kind<'a> {
    Record(Fetched<'a>),
    Reports(Reports<'a>),
    /// With the offset concerned, where it is about a partition.
    Failed {
        code: Code,
        fatal: bool,
        reason: String,
        offset: Option<i64>,
    },
    Rebalance {
        assigned: bool,
        partitions: Vec<(String, i32)>,
    },
    Log {
        level: i32,
        text: String,
    },
    Other,
}

impl Event<'_> {
    /// Takes the event apart; to be called once.
    pub(super) fn kind(&self) -> Kind<'_> {
        let event = self.event.as_ptr();
        // SAFETY: the event lives as long as `self`, and so does all that is borrowed from it;
        // each function is called for the type of event that it is for.
        unsafe {
            match sys::rd_kafka_event_type(event) {
                sys::RD_KAFKA_EVENT_FETCH => match sys::rd_kafka_event_message_next(event).as_ref() {
                    Some(message) => fetched(message),
                    None => Kind::Other,
                },
                sys::RD_KAFKA_EVENT_DR => Kind::Reports(Reports(self)),
                sys::RD_KAFKA_EVENT_ERROR => self.failed(),
                sys::RD_KAFKA_EVENT_REBALANCE => {
                    let assign = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
                    let assigned = sys::rd_kafka_event_error(event) == assign;
                    let list = sys::rd_kafka_event_topic_partition_list(event);
                    Kind::Rebalance { assigned, partitions: partitions(list) }
                }
                sys::RD_KAFKA_EVENT_LOG => {
                    let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
                    if sys::rd_kafka_event_log(event, &raw mut facility, &raw mut line, &raw mut level) != 0 {
                        return Kind::Other;
                    }
                    Kind::Log { level, text: format!("{} {}", text(facility), text(line)) }
                }
                _ => Kind::Other,
            }
        }
    }

    /// # Safety
    ///
    /// Only for error events.
    unsafe fn failed(&self) -> Kind<'_> {
        let event = self.event.as_ptr();
        // SAFETY: the event lives; the partition is a copy that is ours.
        unsafe {
            let code = Code::from(sys::rd_kafka_event_error(event));
            let fatal = sys::rd_kafka_event_error_is_fatal(event) != 0;
            let reason = text(sys::rd_kafka_event_error_string(event));
            let partition = sys::rd_kafka_event_topic_partition(event);
            let offset = partition.as_ref().map(|p| p.offset);
            if !partition.is_null() {
                sys::rd_kafka_topic_partition_destroy(partition);
            }
            Kind::Failed { code, fatal, reason, offset }
        }
    }
}

/// # Safety
///
/// The message has to be one of librdkafka's, and valid for `'a`.
unsafe fn fetched(message: &sys::rd_kafka_message_t) -> Kind<'_> {
    let code = Code::from(message.err);
    if code == Code::NoError {
        return Kind::Record(Fetched { message });
    }
    Kind::Failed { code, fatal: false, reason: code.to_string(), offset: Some(message.offset) }
}

/// # Safety
///
/// The list has to be valid, or null.
unsafe fn partitions(list: *const sys::rd_kafka_topic_partition_list_t) -> Vec<(String, i32)> {
    // SAFETY: `elems` holds `cnt` elements, whose topics are strings.
    unsafe {
        let Some(list) = list.as_ref() else { return Vec::new() };
        let count = usize::try_from(list.cnt).unwrap_or(0);
        (0..count).map(|n| &*list.elems.add(n)).map(|p| (text(p.topic), p.partition)).collect()
    }
}

/// # Safety
///
/// It has to be a valid string.
unsafe fn text(of: *const c_char) -> String {
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(of) }.to_string_lossy().into_owned()
}

/// A record that was fetched, borrowed from its event.
#[derive(Clone, Copy)]
pub(super) struct Fetched<'a> {
    message: &'a sys::rd_kafka_message_t,
}

impl<'a> Fetched<'a> {
    pub(super) fn offset(&self) -> u64 {
        // Records that were stored have one; nothing below 0 is handed out.
        u64::try_from(self.message.offset).unwrap_or_default()
    }

    /// Milliseconds since 1970; 0 where the record has none.
    pub(super) fn timestamp(&self) -> i64 {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives.
        unsafe { sys::rd_kafka_message_timestamp(self.message, &raw mut kind) }.max(0)
    }

    pub(super) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: the message's key lives as long as it does.
        unsafe { slice(self.message.key, self.message.key_len) }
    }

    pub(super) fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: the message's payload lives as long as it does.
        unsafe { slice(self.message.payload, self.message.len) }
    }

    /// Bytes of key and value.
    pub(super) fn size(&self) -> usize {
        self.message.key_len + self.message.len
    }

    /// Copies the headers. Names need not be UTF-8; librdkafka cuts them at their first zero byte.
    pub(super) fn headers(&self, to: &mut HeaderWriter<'_>) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message lives, and its headers with it; names are strings, values have their length.
        unsafe {
            let found = sys::rd_kafka_message_headers(self.message, &raw mut headers);
            if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return;
            }
            for index in 0..sys::rd_kafka_header_cnt(headers) {
                let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
                sys::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size);
                to.put_named(CStr::from_ptr(name).to_bytes(), slice(value, size).unwrap_or_default());
            }
        }
    }
}

/// # Safety
///
/// `ptr` has to be null or valid for `'a` over this length.
unsafe fn slice<'a>(ptr: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: as the caller says.
    (!ptr.is_null()).then(|| unsafe { std::slice::from_raw_parts(ptr.cast(), length) })
}

/// What became of records that were produced.
#[derive(Clone, Copy)]
pub(super) struct Reports<'a>(&'a Event<'a>);

impl Reports<'_> {
    /// The `opaque` of each record with its offset, or why it was not written for certain.
    pub(super) fn each(&self, mut see: impl FnMut(usize, Result<u64, Code>)) {
        // SAFETY: it is an event of reports and lives; each message lives until the event goes.
        while let Some(message) = unsafe { sys::rd_kafka_event_message_next(self.0.event.as_ptr()).as_ref() } {
            let code = Code::from(message.err);
            let outcome = if code == Code::NoError {
                u64::try_from(message.offset).map_err(|_| Code::Unknown)
            } else {
                Err(code)
            };
            see(message._private.addr(), outcome);
        }
    }
}
