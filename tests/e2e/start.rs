//! Starting and stopping the local AWS: what a person at the terminal meets.
