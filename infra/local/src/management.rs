//! Written by the gateway side.
