#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvdb_manifest::fuzz::open(data));
