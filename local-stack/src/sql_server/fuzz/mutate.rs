//! Inputs nobody would send, made from those that somebody did.

use super::MAX_INPUT_BYTES;
use crate::sql_server::noise::Noise;

/// What numbers are at the edges of something.
const EDGES: [u64; 17] = [
    0,
    1,
    2,
    7,
    8,
    0x10,
    0x7F,
    0x80,
    0xFE,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFE,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFE,
    u64::MAX,
];

/// Makes one input.
#[derive(Debug)]
pub struct Mutator {
    noise: Noise,
}

impl Mutator {
    /// The same changes for the same numbers.
    pub fn new(seed: u64, index: u64) -> Self {
        // neighbours must not resemble each other
        let mixed = (seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(index.rotate_left(29));
        let mut noise = Noise::new(mixed);
        noise.next();
        Self { noise }
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.noise.below(end)
    }

    /// One of the corpus, changed in a few places; now and then mixed with another of it.
    pub fn mutate(&mut self, corpus: &[Vec<u8>], dictionary: &[&[u8]]) -> Vec<u8> {
        let mut bytes = match corpus.len() {
            0 => Vec::new(),
            count => corpus[self.below(count)].clone(),
        };
        // many inputs differ little, a few differ much
        let changes = match self.below(16) {
            0..=7 => 1,
            8..=12 => 2 + self.below(3),
            _ => 4 + self.below(16),
        };
        for _ in 0..changes {
            self.change(&mut bytes, corpus, dictionary);
        }
        bytes.truncate(MAX_INPUT_BYTES);
        bytes
    }

    /// Changes one place.
    pub fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>], dictionary: &[&[u8]]) {
        let length = bytes.len();
        let place = self.below(length + 1);
        let run = self.run(length - place);
        match self.below(16) {
            0 => bytes.truncate(place),
            1 => {
                bytes.drain(place..place + run);
            }
            2 => {
                let part = bytes[place..place + run].to_vec();
                insert(bytes, place, &part);
            }
            3 => self.repeat(bytes, place, run),
            4 => {
                let part: Vec<u8> = (0..run.min(64)).map(|_| self.noise.byte()).collect();
                insert(bytes, place, &part);
            }
            5 | 6 => self.word(bytes, place, dictionary),
            7 => self.splice(bytes, place, corpus),
            8 | 9 => self.number(bytes, place),
            10 => {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 1 << self.noise.below(8);
                }
            }
            11 | 12 => self.length_field(bytes),
            13 => {
                let part = bytes[place..place + run].to_vec();
                let to = self.below(length + 1);
                let end = length.min(to + part.len());
                bytes[to..end].copy_from_slice(&part[..end - to]);
            }
            14 => {
                let value = [0, 0xFF, b'(', b'\'', b'[', b'@', 0x7F][self.below(7)];
                bytes[place..place + run].fill(value);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = self.noise.byte();
                }
            }
        }
    }

    /// Short more often than long.
    fn run(&mut self, most: usize) -> usize {
        let limit = [2, 4, 8, 32, 256, MAX_INPUT_BYTES][self.below(6)];
        self.below(most.min(limit) + 1)
    }

    /// Nesting is repetition.
    fn repeat(&mut self, bytes: &mut Vec<u8>, place: usize, run: usize) {
        let part = bytes[place..place + run.min(64)].to_vec();
        let times = [2, 8, 40, 130, 1000, 5000][self.below(6)];
        let room = MAX_INPUT_BYTES.saturating_sub(bytes.len()) / part.len().max(1);
        let many = part.repeat(times.min(room));
        insert(bytes, place, &many);
    }

    fn word(&mut self, bytes: &mut Vec<u8>, place: usize, dictionary: &[&[u8]]) {
        if dictionary.is_empty() {
            return;
        }
        let word = dictionary[self.below(dictionary.len())];
        if self.below(2) == 0 {
            let end = bytes.len().min(place + word.len());
            bytes.splice(place..end, word.iter().copied());
        } else {
            insert(bytes, place, word);
        }
    }

    fn splice(&mut self, bytes: &mut Vec<u8>, place: usize, corpus: &[Vec<u8>]) {
        if corpus.is_empty() {
            return;
        }
        let other = &corpus[self.below(corpus.len())];
        let start = self.below(other.len() + 1);
        let run = self.run(other.len() - start);
        if self.below(2) == 0 {
            bytes.truncate(place);
            bytes.extend_from_slice(&other[start..]);
        } else {
            insert(bytes, place, &other[start..start + run]);
        }
    }

    /// A number of 1, 2, 4 or 8 bytes becomes one at an edge, or a little more or less.
    fn number(&mut self, bytes: &mut [u8], place: usize) {
        let width = [1, 2, 4, 8][self.below(4)];
        let is_big = self.below(2) == 0;
        let edge = EDGES[self.below(EDGES.len())];
        let (step, is_edge) = (self.below(33) as u64, self.below(2) == 0);
        let Some(field) = bytes.get_mut(place..).and_then(|rest| rest.get_mut(..width)) else { return };
        let mut value = [0; 8];
        value[..width].copy_from_slice(field);
        if is_big {
            value[..width].reverse();
        }
        let old = u64::from_le_bytes(value);
        let new = if is_edge { edge } else { old.wrapping_add(step).wrapping_sub(16) };
        let mut value = new.to_le_bytes();
        if is_big {
            value[..width].reverse();
        }
        field.copy_from_slice(&value[..width]);
    }

    /// Finds two bytes that may be the length of what follows, and makes them another length that may be.
    fn length_field(&mut self, bytes: &mut [u8]) {
        let start = self.below(bytes.len() + 1);
        let rest = bytes.len() - start;
        let Some(offset) = bytes[start..].windows(2).position(|pair| {
            let value = usize::from(u16::from_le_bytes([pair[0], pair[1]]));
            value > 0 && value <= rest
        }) else {
            return;
        };
        let place = start + offset;
        let after = bytes.len() - place - 2;
        let lengths = [after, after + 1, after.saturating_sub(1), after / 2, 0, 0xFFFF, 0xFFFE, 8000, 8001];
        let length = u16::try_from(lengths[self.below(lengths.len())]).unwrap_or(u16::MAX);
        bytes[place..place + 2].copy_from_slice(&length.to_le_bytes());
    }
}

fn insert(bytes: &mut Vec<u8>, place: usize, part: &[u8]) {
    if bytes.len() + part.len() <= MAX_INPUT_BYTES {
        bytes.splice(place..place, part.iter().copied());
    }
}
