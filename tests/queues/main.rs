//! SQS of the local AWS against what AWS documents of its own, as the AWS SDK sees it, and the functions that are called
//! for what is in the queues.
//!
//! Every test has a local AWS of its own. Its functions are the fixture, which does what the test says, when the test
//! says it.

mod deliveries;
mod faults;
mod harness;
mod log;
mod messages;
mod refusals;
mod restarts;
mod template;
