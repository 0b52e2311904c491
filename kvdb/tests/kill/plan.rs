//! What every commit does, as a function of its coordinates.

use std::sync::Arc;

/// Threads that write.
pub(crate) const WRITERS: u8 = 4;
/// Keys of each writer.
const KEYS: u32 = 64;
/// Under this key is the number of all commits that counted.
pub(crate) const COUNT: &[u8] = b"count";
/// Under this key is the name of the last commit that left its mark.
pub(crate) const MARK: &[u8] = b"mark";

/// Which commit: the writer's `number`th, tried in the `life`th process of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Coordinates {
    pub(crate) seed: u64,
    pub(crate) life: u32,
    pub(crate) writer: u8,
    pub(crate) number: u32,
}

/// How the commit is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One write, by the shortest way.
    Single,
    /// Writes that belong together.
    Transaction,
    /// A transaction that also reads the count of all writers and adds one.
    Counting,
    /// A transaction that also overwrites, blindly, the mark that all writers share.
    Marking,
}

/// A key and its new value.
pub(crate) type Write = (Vec<u8>, Option<Arc<[u8]>>);

/// One commit.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    /// Whether it asks for the other durability than the store's.
    pub(crate) contrary: bool,
    /// Keys, each once, and their values; `None` deletes.
    pub(crate) writes: Vec<Write>,
}

/// What begins the keys of a writer.
pub(crate) fn prefix(writer: u8) -> Vec<u8> {
    format!("writer {writer}/").into_bytes()
}

impl Coordinates {
    /// What a marking commit leaves under [`MARK`].
    pub(crate) fn mark(&self) -> String {
        format!("{} {} {}", self.life, self.writer, self.number)
    }

    /// What this commit does.
    pub(crate) fn plan(&self) -> Plan {
        let mix = u64::from(self.life) << 40 | u64::from(self.number) << 8 | u64::from(self.writer);
        let mut rng = fastrand::Rng::with_seed(self.seed ^ mix.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let shape = match rng.u8(..16) {
            0..7 => Shape::Single,
            7..12 => Shape::Transaction,
            12..14 => Shape::Counting,
            _ => Shape::Marking,
        };
        let count = if shape == Shape::Single { 1 } else { rng.usize(2..=6) };
        let mut writes = Vec::with_capacity(count);
        for key in rng.choose_multiple(0..KEYS, count) {
            let name = [prefix(self.writer), format!("{key:03}").into_bytes()].concat();
            // What other keys depend on must show in this writer's own.
            let must_show = writes.is_empty() && matches!(shape, Shape::Counting | Shape::Marking);
            let value = (must_show || rng.u8(..5) > 0).then(|| self.value(key, &mut rng));
            writes.push((name, value));
        }
        Plan { shape, contrary: rng.u8(..8) == 0, writes }
    }

    /// A value that names the commit it is from, and whose every byte depends on it.
    fn value(&self, key: u32, rng: &mut fastrand::Rng) -> Arc<[u8]> {
        let len = match rng.u8(..32) {
            0 => 0,
            1..18 => rng.usize(..300),
            18..24 => rng.usize(1020..1030),
            24..31 => rng.usize(2_000..24_000),
            _ => rng.usize(60_000..150_000),
        };
        let mut value =
            format!("{} {} {} {key} ", self.life, self.writer, self.number).into_bytes();
        value.resize(len.max(value.len()), 0);
        let named = value.iter().rposition(|&byte| byte == b' ').map_or(0, |at| at + 1);
        rng.fill(&mut value[named..]);
        value.truncate(len);
        value.into()
    }
}
