//! The local AWS: reads `template.yaml` as it is and runs it on this machine, for development and tests.
//!
//! - [`template`] reads the template and resolves its references; what lies outside this machine gets its
//!   value from the one table in [`local_values`];
//! - [`lambda`] runs the function binaries over the Lambda Runtime API;
//! - [`http_api`] is the HTTP API, [`websocket_api`] the WebSocket API and [`management`] its `@connections`;
//! - [`sqs`] is SQS, and calls functions for what is in its queues;
//! - [`stores`] starts Postgres and Redis, unless they are given;
//! - [`control`] switches [`faults`] at run time, tells what runs, and is Lambda's own Invoke API;
//! - [`console`] and [`access_log`] write what one sees: a line for every call;
//! - [`up`] puts it all together.
//!
//! It is not a server for production: it authenticates nobody but by the template's own authorizer.

pub mod access_log;
mod child;
pub mod console;
pub mod control;
pub mod faults;
pub mod http_api;
pub mod ids;
pub mod lambda;
pub mod local_values;
pub mod management;
pub mod progress;
mod server;
pub mod sqs;
pub mod stores;
pub mod template;
pub mod up;
pub mod watch;
pub mod websocket_api;
