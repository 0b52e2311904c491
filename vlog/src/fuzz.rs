//! What the fuzz targets do with their input; a test below replays and mutates the golden files
//! without them.

use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::{Fs, MemFs, OpenMode, Salt};
use zerocopy::FromBytes;

use crate::format::{
    FIRST_FRAME, FRAME_HEADER, FrameHeader, Kind, RECORD_HEADER, RecordHeader, SEGMENT_MAGIC,
    VERSION_TRAILER,
};
use crate::segment::header_page;
use crate::{
    Directory, Durability, Error, FrameBuilder, Options, Pointer, SegmentMeta, segment_path,
};

const DATABASE: u128 = 1;
const META: SegmentMeta =
    SegmentMeta { segment: 1, file: 1, nonce: 7, capacity: 64 << 10, method: 0 };

/// The frames of a segment: opened, replayed, read, verified and appended to, as they are and with
/// every checksum made right. Whatever they are, that ends with an error or with what was found.
pub fn replay(data: &[u8]) {
    // A whole file may be given as well.
    let file = data.starts_with(&SEGMENT_MAGIC).then(|| data.get(FIRST_FRAME as usize..));
    let mut bytes = file.flatten().unwrap_or(data).to_vec();
    bytes.truncate((META.capacity - FIRST_FRAME) as usize);
    open(&bytes);
    sign(&mut bytes);
    open(&bytes);
}

fn open(frames: &[u8]) {
    let fs = MemFs::new();
    let dir = Path::new("/log");
    let file = || -> crate::Result<()> {
        fs.create_dir_all(dir)?;
        let file = fs.open(&segment_path(dir, META.file), OpenMode::CreateNew)?;
        file.set_len(META.capacity.into())?;
        file.write_all_at(&header_page(DATABASE, &META), 0)?;
        Ok(file.write_all_at(frames, FIRST_FRAME.into())?)
    };
    if file().is_err() {
        return;
    }
    for salvage in [false, true] {
        let image = Arc::new(fs.process_image());
        let Ok(directory) = Directory::new(image, dir, DATABASE) else { return };
        let options = Options { salvage, prefill: false, ..Options::default() };
        let mut found = Vec::new();
        let opened = directory.open(options, |frame| {
            for record in frame.records() {
                found.push((record.pointer, record.key.to_vec(), record.version));
            }
            Ok::<_, Error>(())
        });
        let Ok((log, end)) = opened else { continue };
        assert!(end.end.offset <= META.capacity || end.end.segment != META.segment);
        let view = log.view();
        for (pointer, key, version) in &found {
            // What was replayed verified as a whole.
            assert!(view.read(*pointer, key, *version).is_ok());
            let beside = Pointer::new(pointer.segment(), pointer.offset() ^ 8, pointer.len());
            let _ = view.read(beside, key, *version);
        }
        for segment in view.segments() {
            let _ = view.verify(segment, None);
        }
        let mut frame = FrameBuilder::new();
        if frame.push(b"k", b"", b"v", None).is_ok() {
            let _ = log.append(frame.finish(), Durability::Sync);
        }
        let _ = log.close();
    }
}

/// Makes every checksum right that a frame or record of these bytes would have.
fn sign(bytes: &mut [u8]) {
    let salt = Salt::derive(DATABASE, META.file, META.nonce);
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..) {
        let offset = FIRST_FRAME + at as u32;
        let Ok((header, _)) = FrameHeader::read_from_prefix(rest) else { return };
        let len = header.len() as usize;
        let Some(frame) = rest.get_mut(..len).filter(|_| len >= FRAME_HEADER) else { return };
        let (head, body) = frame.split_at_mut(FRAME_HEADER);
        let crc = match header.kind() {
            Some(Kind::Transaction) => sign_records(body, &header, salt, offset),
            _ => crc32fast::hash(body),
        };
        let Ok((signed, _)) = FrameHeader::mut_from_prefix(head) else { return };
        signed.body_crc = crc.into();
        signed.seal(salt, offset, header.durable());
        at += len;
    }
}

fn sign_records(body: &mut [u8], header: &FrameHeader, salt: Salt, offset: u32) -> u32 {
    let mut crcs = crc32fast::Hasher::new();
    let mut at = 0;
    for _ in 0..header.records.get() {
        let Some(rest) = body.get_mut(at..) else { break };
        let Ok((record, _)) = RecordHeader::read_from_prefix(rest) else { break };
        let Some(len) = usize::try_from(record.len()).ok().filter(|len| *len <= rest.len()) else {
            break;
        };
        let trailer = if record.has_version() { VERSION_TRAILER } else { 0 };
        let version = match rest.get(len..len + trailer) {
            Some(own) if trailer > 0 => own.try_into().map_or(0, u64::from_le_bytes),
            _ => header.version.get(),
        };
        let raw = crc32fast::hash(&rest[4..len]);
        crcs.update(&raw.to_le_bytes());
        let place = u64::from(offset) + (FRAME_HEADER + at) as u64;
        rest[..4].copy_from_slice(&salt.seal(raw, place, version).to_le_bytes());
        at += len.max(RECORD_HEADER) + trailer;
    }
    crcs.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_of_a_log_never_panic_and_never_read_as_something_else() {
        let scale = std::env::var("KVDB_TEST_SCALE").ok().and_then(|s| s.parse().ok());
        let rounds = 600 * scale.unwrap_or(1u64);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1/000101.vlog");
        let frames = std::fs::read(golden).unwrap()[FIRST_FRAME as usize..].to_vec();
        let mut signed = frames.clone();
        sign(&mut signed);
        assert_ne!(signed, frames, "it was made for another file");
        replay(&frames);
        let mut state = 1u64;
        let mut dice = |n: usize| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as usize % n.max(1)
        };
        for _ in 0..rounds {
            // The front, where the structure is, more often than the long values.
            let mut bytes = frames[..64 + dice(frames.len() - 64)].to_vec();
            for _ in 0..1 + dice(4) {
                let front = if dice(2) == 0 { bytes.len().min(200) } else { bytes.len() };
                let at = dice(front);
                match dice(5) {
                    0 => bytes[at] ^= 1 << dice(8),
                    1 => bytes[at] = [0, 1, 7, 8, 0x7F, 0x80, 0xFF][dice(7)],
                    2 => bytes.truncate(at + 1),
                    3 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, dice(256) as u8),
                }
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
            replay(&bytes);
        }
    }
}
