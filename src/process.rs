//! The process: configuration, roles and their wiring, drain, admin port, telemetry.

pub mod config;
