//! A folder made from a seed: the same arguments give the same files.
//!
//! Shared by the tests of the program and by `examples/gen_tree.rs`, which makes a large one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    /// Number of files.
    pub(crate) files: usize,
    /// Bytes of all files together, roughly: the sizes are drawn and then scaled.
    pub(crate) bytes: u64,
    /// What the sizes, names and contents follow from.
    pub(crate) seed: u64,
}

/// One file to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Bytes of the file.
    pub(crate) size: u64,
    /// What its contents follow from.
    pub(crate) seed: u64,
}

impl Recipe {
    /// Relative paths, with `/`, and what is to be there; in the order of the paths.
    ///
    /// One file in fifty is empty, most are below a few KiB, some are hundreds of times the
    /// average, as in any folder that people work in. Directories are up to four deep, and
    /// some names hold spaces, dots and letters beyond ASCII.
    pub(crate) fn plan(&self) -> BTreeMap<String, Plan> {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let weights: Vec<f64> = (0..self.files)
            .map(|_| match rng.u8(..50) {
                0 => 0.0,
                1..40 => 0.02 + rng.f64() * 0.5,
                40..49 => 1.0 + rng.f64() * 4.0,
                _ => 10.0 + rng.f64() * 60.0,
            })
            .collect();
        let scale = self.bytes as f64 / weights.iter().sum::<f64>().max(1.0);
        let mut plan = BTreeMap::new();
        for (number, weight) in weights.iter().enumerate() {
            let mut path = String::new();
            for _ in 0..rng.usize(..=4) {
                path.push_str(["src", "a b", "données", "x.y", "tests", "0"][rng.usize(..6)]);
                path.push_str(["", "-1", "-2", "-3"][rng.usize(..4)]);
                path.push('/');
            }
            // The number keeps the names apart; that it comes last mixes up their order.
            let stem = ["main", "Über", "note 1", ".hidden", "z~"][rng.usize(..5)];
            path.push_str(&format!("{stem}{number:05}"));
            let size = (weight * scale) as u64;
            plan.insert(path, Plan { size, seed: rng.u64(..) });
        }
        plan
    }

    /// Makes the files below `folder`.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub(crate) fn make(&self, folder: &Path) -> io::Result<BTreeMap<String, Plan>> {
        let plan = self.plan();
        for (path, file) in &plan {
            let path = below(folder, path);
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            fs::write(path, file.contents())?;
        }
        Ok(plan)
    }
}

impl Plan {
    /// What the file holds: half of it random, half of it text.
    pub(crate) fn contents(&self) -> Vec<u8> {
        let mut contents = vec![0; self.size as usize];
        let mut rng = fastrand::Rng::with_seed(self.seed);
        for piece in contents.chunks_mut(512) {
            if rng.bool() {
                rng.fill(piece);
            } else {
                let line = format!("line {} of a text that repeats itself\n", rng.u32(..));
                piece.iter_mut().zip(line.bytes().cycle()).for_each(|(to, from)| *to = from);
            }
        }
        contents
    }
}

/// The path below a folder that a key stands for.
pub(crate) fn below(folder: &Path, key: &str) -> PathBuf {
    key.split('/').fold(folder.to_owned(), |path, part| path.join(part))
}
