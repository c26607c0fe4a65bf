//! The data port as its clients see it, over a log in memory.

#[path = "../ingress_tcp/authority.rs"]
mod authority;
mod batches;
mod encoded;
mod fixture;
mod openapi;
mod post;
mod read;
mod sockets;
mod tls;
mod upload;
mod wait;
