//! The CRDs: as generated, as files, as rules, and as a real API server takes them.

mod cel;
mod cluster;
mod files;
mod reasons;
