//! The deliver stage on the log in memory, under virtual time, before a scripted receiver.

#[path = "deliver_stage/anew.rs"]
mod anew;
#[path = "deliver_stage/crash.rs"]
mod crash;
#[path = "deliver_stage/many.rs"]
mod many;
#[path = "deliver_stage/operator.rs"]
mod operator;
#[path = "deliver_stage/order.rs"]
mod order;
#[path = "deliver_stage/policy.rs"]
mod policy;
#[path = "deliver_stage/rig.rs"]
mod rig;
