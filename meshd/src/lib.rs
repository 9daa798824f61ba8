//! The mesh daemon.
