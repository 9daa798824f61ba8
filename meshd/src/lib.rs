//! The mesh daemon and its command line.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::unwrap_in_result))]

pub mod admin;
pub mod cli;
pub mod commands;
pub mod config;
pub mod driver;
pub mod identity;
pub mod state;
pub mod telemetry;
#[cfg(test)]
mod testdata;
