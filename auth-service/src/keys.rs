//! Key material: the store key and what is derived from it, and the keys that sign tokens.

pub mod seal;
pub mod signing;
pub mod tokens;
