//! The work stage and its processors, as a pipeline uses them.

mod exec;
mod failures;
mod http;
mod jq;
mod stage;
mod support;
