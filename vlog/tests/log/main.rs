//! What must hold of a log, by way of its public interface.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

mod common;

mod bad_input;
mod basics;
mod commits;
mod crash;
mod damage;
mod direct;
mod directory;
mod directory_faults;
mod faults;
mod golden;
mod golden_relocated;
mod housekeeping;
mod opening;
mod read_order;
mod relocated;
mod spares;
mod standalone;
mod tables_together;
