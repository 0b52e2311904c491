//! The log from open to open.
use std::convert::Infallible;
use std::sync::Arc;

use kvdb_vfs::{Fs, MemFs};
use kvdb_vlog::{Directory, Durability, FrameBuilder, Options};

fn options() -> Options {
    Options {
        segment_size: 64 << 10,
        initial_segment_size: 16 << 10,
        tiny_segments: true,
        ..Options::default()
    }
}

#[test]
fn what_was_appended_is_read_and_replayed() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let dir = Directory::new(fs, "/log".as_ref(), 7).unwrap();
    let mut expected = Vec::new();
    for life in 0..5u32 {
        let mut seen = Vec::new();
        let (log, end) = dir
            .open(options(), |frame| {
                for r in frame.records() {
                    seen.push((r.key.to_vec(), r.value.to_vec(), r.pointer, r.version));
                }
                Ok::<_, Infallible>(())
            })
            .unwrap();
        assert!(end.clean || life == 3, "life {life}: {end:?}");
        assert_eq!(seen, expected, "life {life}");
        for i in 0..200u32 {
            let key = format!("{life}-{i}").into_bytes();
            let value = vec![life as u8; (i * 7) as usize];
            let mut builder = FrameBuilder::new();
            builder.push(&key, b"t", &value, None).unwrap();
            let durability = if i % 3 == 0 { Durability::Sync } else { Durability::Buffered };
            let done = log.append(builder.finish(), durability).unwrap();
            let pointer = done.pointers[0];
            expected.push((key, value, pointer, done.version));
            log.prepare().unwrap();
        }
        let view = log.view();
        for (key, value, pointer, version) in &expected {
            assert_eq!(&*view.read(*pointer, key, *version).unwrap(), &value[..]);
        }
        if life != 2 {
            log.close().unwrap();
        }
    }
}
