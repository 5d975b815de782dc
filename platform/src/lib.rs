//! Everything of wink that differs by operating system; the only crate with `unsafe` code.
#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(unix)]
pub mod errno;
#[cfg(unix)]
pub mod unix;
