//! The local gateway against the facts that were collected of AWS's: one test for each row.
//!
//! Every test has a local AWS of its own. Its functions are the fixture, which does what the test says, when
//! the test says it: what a function sees is looked at while it runs, and nothing is waited for but what must
//! come. What nobody could verify of AWS is not tested.

mod authorizer;
mod connections;
mod disconnect;
mod events;
mod faults;
mod handshake;
mod harness;
mod limits;
mod log;
mod replies;
mod routing;
