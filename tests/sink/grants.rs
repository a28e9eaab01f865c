//! Least privilege: what `grants` prints is enough, none of it can be left out, and who has it can do nothing else.

mod loader;
mod others;
mod stand;
mod tries;
