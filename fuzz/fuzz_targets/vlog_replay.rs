#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvdb_vlog::fuzz::replay(data));
