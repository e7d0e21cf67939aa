//! What every function needs of the Lambda runtime: its events turned into ours, one access line for every call, and an
//! answer also after a panic. Only this crate and the functions know Lambda's event types.

pub mod http;
pub mod websocket;
