//! What the end-to-end tests stand on.
//!
//! - [`local_aws`] starts the real binary `local`, [`websocket`] shows everything of a WebSocket, and [`fixture`] is a
//!   Lambda function in a test's hands;
//! - [`test_app`] is a whole Banter of its own for one test, with the checks that must hold after any test, on a
//!   [`redis_server`] of its own;
//! - [`audit`] proves that nothing acknowledged is lost;
//! - [`mod@bench`] is what `./dev bench` measures;
//! - [`api`], [`chat`] and [`user`] are its clients, [`view`] is a room as a client keeps it, [`ledger`] what they noted.

pub mod api;
pub mod audit;
pub mod bench;
pub mod chat;
pub mod fixture;
pub mod ledger;
pub mod local_aws;
pub mod redis_server;
pub mod test_app;
pub mod user;
pub mod view;
pub mod websocket;
