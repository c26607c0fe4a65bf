//! Ports for frames as senders see them: real sockets, over a log in memory or the real program.

mod authority;
mod fixture;
mod hl7;
mod limits;
mod lines;
mod restart;
mod tls;
