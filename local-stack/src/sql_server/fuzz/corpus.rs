//! The inputs that are kept: one folder for each parser.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::TARGETS;

/// Inputs of each parser, in the order of their files' names.
#[derive(Debug, Default)]
pub struct Corpus {
    inputs: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Corpus {
    /// Reads the folders below `folder`, and adds what the parsers bring themselves.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut inputs: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for target in TARGETS {
            inputs.insert(target.name.to_owned(), (target.seeds)());
        }
        let mut folders: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
        folders.sort_by_key(std::fs::DirEntry::file_name);
        for folder in folders {
            let mut files: Vec<_> = std::fs::read_dir(folder.path())?.collect::<Result<_, _>>()?;
            files.sort_by_key(std::fs::DirEntry::file_name);
            let own = inputs.entry(folder.file_name().to_string_lossy().into_owned()).or_default();
            for file in files {
                own.push(std::fs::read(file.path())?);
            }
        }
        Ok(Self { inputs })
    }

    /// The inputs of one parser.
    pub fn of(&self, name: &str) -> &[Vec<u8>] {
        self.inputs.get(name).map_or(&[], Vec::as_slice)
    }
}
