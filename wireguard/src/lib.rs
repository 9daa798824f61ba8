//! WireGuard sessions between keys, without I/O.
