//! Makes forged tables look whole, so that what lies behind the checksums is reached.

use kvdb_vfs::Salt;

pub const FOOTER: usize = 192;
/// Where in the footer: salt, and the handles of filter, index and properties.
const SALT: usize = 24;
const DATA_LEN: usize = 32;
pub const HANDLES: [usize; 3] = [40, 64, 88];
const CHECKSUM: usize = 176;

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap_or_default()))
}

/// Makes every checksum right, as far as the structure can still be followed.
pub fn sign(bytes: &mut [u8]) {
    let footer = bytes.len() - FOOTER;
    let salt = Salt::from_raw(u64_at(bytes, footer + SALT));
    let range = |bytes: &[u8], handle: usize| {
        let (offset, len) = (u64_at(bytes, footer + handle), u64_at(bytes, footer + handle + 8));
        let end = offset.checked_add(len)?;
        (end <= bytes.len() as u64).then_some(offset as usize..end as usize)
    };
    // Blocks, by the offsets of the index.
    if let Some(index) = range(bytes, HANDLES[1])
        && index.len() >= 16
    {
        let blocks =
            u32::from_le_bytes(bytes[index.start..index.start + 4].try_into().unwrap_or_default());
        let offsets = index.start + 16 + (blocks as usize).saturating_sub(1) * 8;
        let data_len = u64_at(bytes, footer + DATA_LEN);
        for i in 0..(blocks as usize).min(1000) {
            let (a, b) = (u64_at(bytes, offsets + i * 8), u64_at(bytes, offsets + i * 8 + 8));
            if a.saturating_add(4) <= b && b <= data_len.min(bytes.len() as u64) {
                let crc = crc32fast::hash(&bytes[a as usize + 4..b as usize]);
                let sealed = salt.seal(crc, a, 0).to_le_bytes();
                bytes[a as usize..a as usize + 4].copy_from_slice(&sealed);
            }
        }
    }
    for handle in HANDLES {
        if let Some(section) = range(bytes, handle) {
            let crc = crc32fast::hash(&bytes[section.clone()]);
            let sealed = salt.seal(crc, section.start as u64, 0).to_le_bytes();
            bytes[footer + handle + 16..footer + handle + 20].copy_from_slice(&sealed);
        }
    }
    sign_footer(bytes);
}

/// Makes the checksum of the footer right.
pub fn sign_footer(bytes: &mut [u8]) {
    let footer = bytes.len() - FOOTER;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[footer..footer + CHECKSUM]);
    crc.update(&bytes[footer + CHECKSUM + 4..]);
    let sealed = Salt::NONE.seal(crc.finalize(), footer as u64, 0).to_le_bytes();
    bytes[footer + CHECKSUM..footer + CHECKSUM + 4].copy_from_slice(&sealed);
}
