//! Lambda and the HTTP API of the local AWS against the facts that were collected of AWS's, and how it starts and ends.
//!
//! Every test has a local AWS of its own. Its functions are the fixture, which does what the test says, when the test
//! says it.

mod answers;
mod faults;
mod harness;
mod http;
mod instances;
mod invoke_api;
mod lifetime;
mod start;
