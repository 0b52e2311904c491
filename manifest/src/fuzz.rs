//! What the fuzz target does with its input; a test below replays and mutates the golden file
//! without it.

use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::{Fs, MemFs, OpenMode};

use crate::format::{HEADER_LEN, Header, Kind, RECORD_HEADER_LEN, Record};
use crate::store::{StoreChange, StoreState};
use crate::{FILE_NAME, Manifest, Options, State};

const HEADER: Header = Header { database: 1, nonce: 2, base: HEADER_LEN };

/// A whole manifest: opened, verified, appended to and rewritten, as it is; and behind a header
/// that is right, cut into records whose checksums are right. That ends with an error or with a
/// state that leads to itself again.
pub fn open(data: &[u8]) {
    open_file(data);
    let mut file = HEADER.encode().to_vec();
    let mut rest = data.get(HEADER_LEN as usize..).unwrap_or(data);
    while let Some(header) = rest.get(..RECORD_HEADER_LEN as usize) {
        let claimed = header.first_chunk().map_or(0, |len| u32::from_le_bytes(*len)) as usize;
        rest = &rest[RECORD_HEADER_LEN as usize..];
        let (payload, behind) = rest.split_at(claimed.min(rest.len()));
        let kind = if payload.is_empty() { Kind::Mark } else { Kind::Change };
        file.extend_from_slice(&Record::encode(kind, payload, HEADER.salt(), file.len() as u64));
        file.extend_from_slice(payload);
        rest = behind;
    }
    open_file(&file);
}

fn open_file(bytes: &[u8]) {
    let fs = Arc::new(MemFs::new());
    let dir = Path::new("/");
    let Ok(file) = fs.open(&dir.join(FILE_NAME), OpenMode::CreateNew) else { return };
    if file.write_all_at(bytes, 0).is_err() {
        return;
    }
    let opened = Manifest::<StoreState>::open(fs.clone(), dir, Options::default());
    let Ok((manifest, _)) = opened else { return };
    assert!(manifest.verify().is_ok(), "what was opened is intact");
    assert!(manifest.append(&StoreChange::default()).is_ok());
    let state = manifest.read(State::snapshot);
    assert!(manifest.rewrite().is_ok());
    drop(manifest);
    let again = Manifest::<StoreState>::open(fs, dir, Options::default());
    assert!(again.is_ok_and(|(manifest, _)| manifest.read(State::snapshot) == state));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_of_a_manifest_never_panic_and_what_opens_opens_again() {
        let scale = std::env::var("KVDB_TEST_SCALE").ok().and_then(|s| s.parse().ok());
        let rounds = 3000 * scale.unwrap_or(1u64);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1/MANIFEST");
        let file = std::fs::read(golden).unwrap();
        open(&file);
        let mut state = 1u64;
        let mut dice = |n: usize| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as usize % n.max(1)
        };
        for _ in 0..rounds {
            let mut bytes = file.clone();
            for _ in 0..1 + dice(4) {
                let at = dice(bytes.len());
                match dice(5) {
                    0 => bytes[at] ^= 1 << dice(8),
                    1 => bytes[at] = [0, 1, 7, 8, 0x7F, 0x80, 0xFF][dice(7)],
                    2 => bytes.truncate(at + 1),
                    3 if bytes.len() > 1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, dice(256) as u8),
                }
            }
            open(&bytes);
        }
    }
}
