//! Bytes that nobody would send, for tests of what reads them: numbers from a seed, and small changes of what is valid.

/// A generator of numbers that are the same in every run (xorshift64*).
#[derive(Debug)]
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or(0)
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    /// Something like `valid`: bytes changed, cut off, doubled, put in.
    #[cfg(test)]
    pub(super) fn mutate(&mut self, valid: &[u8]) -> Vec<u8> {
        let mut bytes = valid.to_vec();
        for _ in 0..=self.below(4) {
            let place = self.below(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(place),
                1 => bytes.insert(place.min(bytes.len()), self.byte()),
                2 if !bytes.is_empty() => {
                    bytes.remove(place);
                }
                3 => bytes.extend_from_within(place.min(bytes.len())..),
                4 if !bytes.is_empty() => bytes[place] = [0, 1, 0x7F, 0x80, 0xFE, 0xFF][self.below(6)],
                _ if !bytes.is_empty() => bytes[place] = self.byte(),
                _ => {}
            }
        }
        bytes
    }
}
