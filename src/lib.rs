//! Seriatim: work on an ordered stream in parallel, and hand the results on in exactly the order
//! in which the messages arrived, whatever crashes.

pub mod audit;
pub mod cli;
pub mod deliver;
pub mod framing;
pub mod ingress;
pub mod log;
pub mod metrics;
pub mod observe;
pub mod order;
pub mod process;
pub mod record;
pub mod resequence;
pub mod takeover;
pub mod topics;
pub mod work;
