//! The hard cases, one by one.
