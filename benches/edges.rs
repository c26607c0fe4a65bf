//! What comes in and what goes out, under loads that hurt, measured on the real program in a process of its own.
//!
//! ```sh
//! cargo bench --bench edges -- destinations    # 100 of them, of which 10 are dead and 10 slow
//! cargo bench --bench edges -- pushes          # a second, of one group and of many
//! cargo bench --bench edges -- intake          # durable messages a second over HTTP, and their delay
//! cargo bench --bench edges -- connections     # 10,000 idle ones over TCP and 1,000 busy ones
//! cargo bench --bench edges -- flood           # more than there is room for, for a minute
//! cargo bench --bench edges -- abuse           # slow, half-open, oversized, malformed and bombs
//! ```
//!
//! The log is embedded in a temporary folder, so that `TMPDIR` picks the disk. docs/benchmarks.md says how to read
//! what is printed.

#[path = "edges/abuse.rs"]
mod abuse;
#[path = "edges/client.rs"]
mod client;
#[path = "edges/connections.rs"]
mod connections;
#[path = "edges/destinations.rs"]
mod destinations;
#[path = "edges/flood.rs"]
mod flood;
#[path = "edges/program.rs"]
mod program;
#[path = "edges/pushes.rs"]
mod pushes;
#[path = "edges/receiver.rs"]
mod receiver;
#[path = "edges/spread.rs"]
mod spread;

#[tokio::main]
async fn main() {
    // An error says that there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Cargo adds `--bench`.
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name: &str| names.iter().any(|wanted| wanted == name);
    if wanted("destinations") {
        destinations::measure().await;
    }
    if wanted("pushes") {
        pushes::measure().await;
    }
    if wanted("intake") {
        flood::intake().await;
    }
    if wanted("connections") {
        connections::measure().await;
    }
    if wanted("flood") {
        flood::measure().await;
    }
    if wanted("abuse") {
        abuse::measure().await;
    }
    if names.is_empty() {
        println!("say what: destinations, pushes, intake, connections, flood, abuse");
    }
}
