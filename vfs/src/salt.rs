//! Checksums that are valid in one place only.

/// Ties a checksum to the file and the place it is stored at.
///
/// A CRC tells that bytes are intact, not that they are the bytes that belong here: stale contents
/// of a recycled file, two swapped files, or a write that went to the wrong offset all carry valid
/// CRCs. So what is stored is `crc ^ mask(salt, offset, version)`, where the salt is made from the
/// database id, the file id and a random nonce. The CRC itself does not depend on the place, so it
/// can be computed before the place is known and masked when it is.
///
/// The mask is 32 bits of a 64-bit mix: a wrong place passes with probability 2⁻³².
///
/// ```
/// use kvdb_vfs::Salt;
/// let a = Salt::derive(7, 1, 42);
/// let b = Salt::derive(7, 2, 42);
/// let crc = 0xDEAD_BEEF;
/// let stored = a.seal(crc, 4096, 0);
/// assert!(a.matches(stored, crc, 4096, 0));
/// assert!(!b.matches(stored, crc, 4096, 0)); // another file
/// assert!(!a.matches(stored, crc, 8192, 0)); // another offset
/// assert!(!a.matches(stored, crc, 4096, 1)); // another version
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Salt(u64);

impl Salt {
    /// No database and no file: for stand-alone files that move freely. Offsets still count.
    pub const NONE: Salt = Salt(0);

    /// The salt of one file of one database.
    pub fn derive(database: u128, file: u64, nonce: u64) -> Salt {
        let mut x = mix(database as u64 ^ 0x6b76_6462_5341_4c54);
        x = mix(x ^ (database >> 64) as u64);
        x = mix(x ^ file);
        Salt(mix(x ^ nonce))
    }

    /// The salt as a number, to be stored in a header.
    pub const fn to_raw(self) -> u64 {
        self.0
    }

    /// A salt read from a header.
    pub const fn from_raw(raw: u64) -> Salt {
        Salt(raw)
    }

    /// What to store for a CRC of data at `offset`. `version` ties the data to a commit timestamp
    /// that is not part of the checksummed bytes; pass 0 where there is none.
    #[inline]
    pub fn seal(self, crc: u32, offset: u64, version: u64) -> u32 {
        crc ^ self.mask(offset, version)
    }

    /// The CRC that a stored checksum stands for.
    #[inline]
    pub fn open(self, stored: u32, offset: u64, version: u64) -> u32 {
        stored ^ self.mask(offset, version)
    }

    /// Whether a stored checksum is that of data with this CRC at this place.
    #[inline]
    pub fn matches(self, stored: u32, crc: u32, offset: u64, version: u64) -> bool {
        self.seal(crc, offset, version) == stored
    }

    #[inline]
    fn mask(self, offset: u64, version: u64) -> u32 {
        let place = offset
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(version.wrapping_mul(0xd1b5_4a32_d192_ed03));
        (mix(self.0 ^ place) >> 32) as u32
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
/// generators, OOPSLA 2014): every input bit changes every output bit with probability one half.
#[inline]
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_opens_in_its_own_place_only() {
        let salt = Salt::derive(1 << 100, 3, 4);
        let stored = salt.seal(0x1234_5678, 4096, 9);
        assert_eq!(salt.open(stored, 4096, 9), 0x1234_5678);
        let elsewhere = [
            Salt::derive(1 << 101, 3, 4).matches(stored, 0x1234_5678, 4096, 9),
            Salt::derive(1 << 100, 4, 3).matches(stored, 0x1234_5678, 4096, 9),
            Salt::derive(1 << 100, 3, 5).matches(stored, 0x1234_5678, 4096, 9),
            Salt::NONE.matches(stored, 0x1234_5678, 4096, 9),
            salt.matches(stored, 0x1234_5678, 4097, 9),
            salt.matches(stored, 0x1234_5678, 4096, 8),
            salt.matches(stored, 0x1234_5678, 9, 4096),
            salt.matches(stored, 0x1234_5679, 4096, 9),
        ];
        assert_eq!(elsewhere, [false; 8]);
    }

    #[test]
    fn masks_of_many_places_are_all_different() {
        // 30,000 draws of 32 bits collide about 0.1 times by chance; these fixed ones do not.
        let mut masks = std::collections::HashSet::new();
        for file in 0..100 {
            let salt = Salt::derive(7, file, 11);
            for place in 0..300 {
                masks.insert(salt.mask(place % 30 * 512, place / 30));
            }
        }
        assert_eq!(masks.len(), 30_000);
    }

    #[test]
    fn the_stored_form_does_not_change() {
        let salt = Salt::derive(0x0123_4567_89ab_cdef_0011_2233_4455_6677, 42, 99);
        assert_eq!(Salt::from_raw(salt.to_raw()), salt);
        assert_eq!(salt.to_raw(), 0xf11c3f8581f0b025);
        assert_eq!(salt.seal(0, 0, 7), 0x1f3932c5);
    }
}
