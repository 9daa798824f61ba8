//! The mesh daemon.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::unwrap_in_result))]

pub mod io;
