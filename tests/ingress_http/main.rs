//! The data port as its clients see it, over a log in memory.

mod fixture;
mod post;
mod read;
mod sockets;
mod upload;
mod wait;
