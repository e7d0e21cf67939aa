//! End to end: real functions, the local AWS, real Postgres and Redis; HTTP and frames in, answers out.

mod accounts;
mod archive;
mod bad_input;
mod cluster;
mod connections;
mod fanout;
mod first_path;
mod history;
mod log;
mod members;
mod messages;
mod order;
mod outages;
mod privacy;
#[cfg(target_os = "linux")]
mod processes;
mod pushes;
mod regressions;
mod rooms;
mod sessions;
mod start;
mod throttles;
