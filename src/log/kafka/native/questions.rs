//! Questions about topics and brokers, each of which blocks until it is answered. The wrapper has no question for ids
//! and rights, and takes a refusal to tell settings for there being none.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int};
use std::time::Duration;

use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka_sys as sys;

use super::{Client, text};

/// A topic's name, and what was asked about it, or why that is not told.
pub(in super::super) type Named<T> = (String, Result<T, Code>);

/// What has settings.
#[derive(Clone, Debug)]
pub(in super::super) enum Resource {
    Topic(CString),
    Broker(i32),
}

/// The settings of a topic or broker that have a value, defaults included. Blocks until a broker has answered, for
/// `patience` at most.
pub(in super::super) fn settings(
    client: &impl Client,
    of: &Resource,
    patience: Duration,
) -> Result<BTreeMap<String, String>, Code> {
    let (kind, name) = match of {
        Resource::Topic(name) => (sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC, name.clone()),
        Resource::Broker(number) => {
            let name = CString::new(number.to_string()).expect("digits have no zero byte");
            (sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_BROKER, name)
        }
    };
    let begin = |options: *mut _, queue: *mut _| {
        // SAFETY: the client lives; the name is copied, and so is the resource, which is given back here.
        unsafe {
            let mut resource = sys::rd_kafka_ConfigResource_new(kind, name.as_ptr());
            if resource.is_null() {
                return Err(Code::InvalidArgument);
            }
            sys::rd_kafka_DescribeConfigs(client.native(), &raw mut resource, 1, options, queue);
            sys::rd_kafka_ConfigResource_destroy(resource);
        }
        Ok(())
    };
    let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS;
    // SAFETY: it is the answer to a question about settings, and lives as long as the call.
    asked(client, op, patience, begin, |event| unsafe { read_settings(event) })
}

/// # Safety
///
/// Only for the answer to a question about settings.
unsafe fn read_settings(event: *mut sys::rd_kafka_event_t) -> Result<BTreeMap<String, String>, Code> {
    // SAFETY: the event lives; all that is looked at is part of it, as many entries as it says.
    unsafe {
        let answer = sys::rd_kafka_event_DescribeConfigs_result(event);
        let mut count = 0;
        let resources = if answer.is_null() {
            &[]
        } else {
            list(sys::rd_kafka_DescribeConfigs_result_resources(answer, &raw mut count), &count)
        };
        let resource = *resources.first().ok_or(Code::BadMessage)?;
        no_error(Code::from(sys::rd_kafka_ConfigResource_error(resource)))?;
        let mut count = 0;
        let entries = list(sys::rd_kafka_ConfigResource_configs(resource, &raw mut count), &count);
        let entry = |entry: &*const sys::rd_kafka_ConfigEntry_t| {
            let (name, value) = (sys::rd_kafka_ConfigEntry_name(*entry), sys::rd_kafka_ConfigEntry_value(*entry));
            (!value.is_null()).then(|| (text(name), text(value)))
        };
        Ok(entries.iter().filter_map(entry).collect())
    }
}

/// The ids of topics. Blocks until a broker has answered, for `patience` at most.
pub(in super::super) fn topic_ids(
    client: &impl Client,
    topics: &[CString],
    patience: Duration,
) -> Result<Vec<Named<u128>>, Code> {
    describe(client, topics, patience, false, |topic| {
        // SAFETY: the topic is one of an answer that lives, and its id part of it.
        let id = unsafe { sys::rd_kafka_TopicDescription_topic_id(topic).as_ref() }.ok_or(Code::BadMessage)?;
        // SAFETY: as above.
        let (high, low) =
            unsafe { (sys::rd_kafka_Uuid_most_significant_bits(id), sys::rd_kafka_Uuid_least_significant_bits(id)) };
        Ok(u128::from(high.cast_unsigned()) << 64 | u128::from(low.cast_unsigned()))
    })
}

/// How many partitions topics have. Blocks as [`topic_ids`] does.
pub(in super::super) fn partition_counts(
    client: &impl Client,
    topics: &[CString],
    patience: Duration,
) -> Result<Vec<Named<usize>>, Code> {
    describe(client, topics, patience, false, |topic| {
        let mut count = 0;
        // SAFETY: the topic is one of an answer that lives; of its partitions nothing but the number is looked at.
        unsafe { sys::rd_kafka_TopicDescription_partitions(topic, &raw mut count) };
        Ok(count)
    })
}

/// Whether this client may write to topics. Blocks as [`topic_ids`] does.
pub(in super::super) fn may_write(
    client: &impl Client,
    topics: &[CString],
    patience: Duration,
) -> Result<Vec<Named<bool>>, Code> {
    describe(client, topics, patience, true, |topic| {
        let mut count = 0;
        // SAFETY: the topic is one of an answer that lives, and what may be done with it part of that, as
        // many as it says.
        let allowed =
            unsafe { list(sys::rd_kafka_TopicDescription_authorized_operations(topic, &raw mut count), &count) };
        Ok(allowed.contains(&sys::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE))
    })
}

/// What brokers say of topics; with what this client may do, where that is asked for. `read` gets each
/// topic as part of an answer that lives as long as the call.
fn describe<T>(
    client: &impl Client,
    topics: &[CString],
    patience: Duration,
    rights: bool,
    read: impl Fn(*const sys::rd_kafka_TopicDescription_t) -> Result<T, Code>,
) -> Result<Vec<Named<T>>, Code> {
    let mut names: Vec<_> = topics.iter().map(|name| name.as_ptr()).collect();
    let begin = |options: *mut _, queue: *mut _| {
        // SAFETY: the client lives, and so do the names, which are copied; what is made here is given back here.
        // Setting an option of this kind of question cannot fail.
        unsafe {
            let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            sys::rd_kafka_AdminOptions_set_include_authorized_operations(options, c_int::from(rights));
            sys::rd_kafka_DescribeTopics(client.native(), topics, options, queue);
            sys::rd_kafka_TopicCollection_destroy(topics);
        }
        Ok(())
    };
    let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: it is the answer to a question about topics, and lives as long as the call.
    asked(client, op, patience, begin, |event| unsafe { described(event, read) })
}

/// # Safety
///
/// Only for the answer to a question about topics.
unsafe fn described<T>(
    event: *mut sys::rd_kafka_event_t,
    read: impl Fn(*const sys::rd_kafka_TopicDescription_t) -> Result<T, Code>,
) -> Result<Vec<Named<T>>, Code> {
    // SAFETY: the event lives; all that is looked at is part of it, as many topics as it says.
    unsafe {
        let answer = sys::rd_kafka_event_DescribeTopics_result(event);
        if answer.is_null() {
            return Err(Code::BadMessage);
        }
        let mut count = 0;
        let topics = list(sys::rd_kafka_DescribeTopics_result_topics(answer, &raw mut count), &count);
        let named = |topic: *const _| CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic)).to_string_lossy();
        let told = |topic: *const _| {
            let error = sys::rd_kafka_TopicDescription_error(topic);
            no_error(if error.is_null() { Code::NoError } else { Code::from(sys::rd_kafka_error_code(error)) })?;
            read(topic)
        };
        Ok(topics.iter().map(|topic| (named(*topic).into_owned(), told(*topic))).collect())
    }
}

/// Asks, and waits for the answer, which lives as long as `read` looks at it. `begin` sends the question.
fn asked<T>(
    client: &impl Client,
    op: sys::rd_kafka_admin_op_t,
    patience: Duration,
    begin: impl FnOnce(*mut sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t) -> Result<(), Code>,
    read: impl FnOnce(*mut sys::rd_kafka_event_t) -> Result<T, Code>,
) -> Result<T, Code> {
    let millis = c_int::try_from(patience.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: the client lives; what is made here is given back here, the event after what was borrowed from it.
    unsafe {
        let options = sys::rd_kafka_AdminOptions_new(client.native(), op);
        let queue = sys::rd_kafka_queue_new(client.native());
        let answer = begin(options, queue).and_then(|()| {
            let event = sys::rd_kafka_queue_poll(queue, millis);
            if event.is_null() {
                return Err(Code::OperationTimedOut);
            }
            let answer = no_error(Code::from(sys::rd_kafka_event_error(event))).and_then(|()| read(event));
            sys::rd_kafka_event_destroy(event);
            answer
        });
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_queue_destroy(queue);
        answer
    }
}

/// # Safety
///
/// There have to be so many, for `'a`, unless it is null.
const unsafe fn list<'a, T>(of: *const T, count: &usize) -> &'a [T] {
    // SAFETY: as the caller says.
    if of.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(of, *count) } }
}

fn no_error(code: Code) -> Result<(), Code> {
    if code == Code::NoError { Ok(()) } else { Err(code) }
}
