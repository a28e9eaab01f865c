//! The protocol's parsers as functions of bytes, for the fuzzer (`examples/fuzz`) and its quick version among the
//! tests (`tests/fuzz.rs`). No part of what the crate offers.
//!
//! A feature would keep this out of the demo's program, and nothing of the local stack is in the image anyway.

mod corpus;
mod mutate;
mod sessions;
mod targets;

pub use corpus::Corpus;
pub use mutate::Mutator;
pub use sessions::{mutate_session, play};
pub use targets::{TARGETS, Target};

/// No input of a parser is longer: what only a long input shows is shown by a repetition within these bounds.
pub const MAX_INPUT_BYTES: usize = 64 * 1024;

/// The `index`th input of a run: the same for the same seed and corpus.
pub fn input(seed: u64, index: u64, target: &Target, corpus: &Corpus) -> Vec<u8> {
    Mutator::new(seed, index).mutate(corpus.of(target.name), target.dictionary)
}
